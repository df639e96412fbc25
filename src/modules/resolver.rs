//! `resolver`: names that are looked up while running.

use crate::conf::values::{number, time, time_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Context, Directive};
use crate::settings;
use crate::upstream::resolve::Resolver;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// The resolver, if there is one.
        inherit resolver: Option<Arc<Resolver>> = None,
        /// How long a look-up may take.
        inherit timeout: Duration = Duration::from_secs(30),
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("resolver", resolver, "the name servers for names that are looked up while running"),
    Command::works(
        "resolver_timeout",
        |b, d| {
            let v = time_arg(d, 0)?;
            if b.context == Context::UPSTREAM {
                return super::upstream::resolver_timeout(b, v);
            }
            b.loc().resolver.timeout.set(v)
        },
        "how long a look-up may take",
    ),
];

fn resolver(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (mut servers, mut valid, mut families) = (Vec::new(), None, (true, true));
    for arg in &d.args {
        let bad = || ConfError::new(format!("invalid parameter: {arg}"));
        if let Some(t) = arg.strip_prefix("valid=") {
            valid = Some(time(t).ok_or_else(bad)?);
        } else if let Some(on) = arg.strip_prefix("ipv4=") {
            families.0 = flag(on).ok_or_else(bad)?;
        } else if let Some(on) = arg.strip_prefix("ipv6=") {
            families.1 = flag(on).ok_or_else(bad)?;
        } else {
            servers.extend(server(arg)?);
        }
    }
    if servers.is_empty() {
        return Err(ConfError::new("no name servers defined"));
    }
    if !families.0 && !families.1 {
        return Err(ConfError::new("\"ipv4\" and \"ipv6\" cannot both be \"off\""));
    }
    let resolver = Resolver::new(servers, valid, families);
    if b.context == Context::UPSTREAM {
        return super::upstream::resolver(b, resolver);
    }
    b.loc().resolver.resolver.set(Some(Arc::new(resolver)))
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// The addresses of a name server; 53 is the port if none is named.
fn server(text: &str) -> ConfResult<Vec<SocketAddr>> {
    let missing = || ConfError::new(format!("host not found in resolver \"{text}\""));
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, 53)]);
    }
    if let Ok(addr) = text.parse::<SocketAddr>()
        && addr.port() > 0
    {
        return Ok(vec![addr]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let port = number(port).and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
            (host, port.ok_or_else(|| ConfError::new(format!("invalid port in resolver \"{text}\"")))?)
        }
        None => (text, 53),
    };
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|_| missing())?.collect();
    if found.is_empty() { Err(missing()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    fn error(http: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("events {{}} http {{ {http} }}");
        crate::conf::build::load_text(dir.path(), &text).err().map(|e| e.message).unwrap_or_default()
    }

    #[test]
    fn mistakes_in_nginxs_words() {
        for (http, want) in [
            ("resolver 127.0.0.1:0;", "invalid port in resolver \"127.0.0.1:0\""),
            ("resolver valid=1s;", "no name servers defined"),
            ("resolver 127.0.0.1 valid=x;", "invalid parameter: valid=x"),
            ("resolver 127.0.0.1 ipv4=off ipv6=off;", "\"ipv4\" and \"ipv6\" cannot both be \"off\""),
            ("resolver 127.0.0.1 ipv4=off;", ""),
        ] {
            assert_eq!(error(http), want);
        }
    }

    #[test]
    fn an_upstreams_own_is_not_its_neighbours() {
        let own =
            "upstream u { zone u 64k; server a.test resolve; resolver 127.0.0.1; resolver_timeout 1s; }";
        assert_eq!(error(own), "");
        let other = "upstream v { zone v 64k; server a.test resolve; }";
        assert_eq!(
            error(&format!("{own} {other}")),
            "no resolver defined to resolve names at run time in upstream \"v\""
        );
        assert_eq!(error(&format!("{own} {other} resolver 127.0.0.2;")), "");
        assert_eq!(
            error("upstream u { server 127.0.0.1; resolver 127.0.0.1; resolver 127.0.0.1; }"),
            "\"resolver\" directive is duplicate"
        );
    }
}
