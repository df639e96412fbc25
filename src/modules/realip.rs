//! nginx's realip module: the client's address as trusted proxies tell it.
//!
//! It is looked for when a request has been read, by the server's configuration, and before access by
//! the location's, unless one was found. It belongs to the request: others of the connection have theirs.

use super::core::variables;
use crate::conf::cidr::{self, Cidr};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel, values};
use crate::http::forwarded;
use crate::http::phases::{Call, Flow, Handler, Phase};
use crate::http::request::{Address, Request};
use crate::http::vars::Variable;
use crate::settings;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// Who is believed. A level that has any has none of the outer level's.
        inherit from: Vec<Cidr> = Vec::new(),
        /// Where the address is.
        inherit source: Source = Source::Field("x-real-ip".into()),
        /// Whether an address that a proxy forwards may be a proxy too.
        inherit recursive: bool = false,
    }
}

/// Where the address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `X-Forwarded-For`: every field, the last address first.
    ForwardedFor,
    /// The PROXY protocol's header.
    ProxyProtocol,
    /// The first field of this name, in lower case.
    Field(Box<str>),
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("set_real_ip_from", from, "who is believed about the client's address"),
    Command::works("real_ip_header", header, "where the client's address is"),
    Command::works(
        "real_ip_recursive",
        |b, d| {
            let on = values::flag(d)?;
            b.loc().realip.recursive.set(on)
        },
        "whether proxies may be behind proxies",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("realip_remote_addr", |rq, _, out| variables::address(&rq.conn.peer, out)),
    Variable::new("realip_remote_port", |rq, _, out| variables::port(&rq.conn.peer, out)),
];

/// Runs by the configuration of the server.
pub const POST_READ: Handler = handler(Phase::PostRead);
/// Runs by the configuration of the location.
pub const PREACCESS: Handler = handler(Phase::Preaccess);

const fn handler(phase: Phase) -> Handler {
    fn wants(loc: &super::LocConf) -> bool {
        !loc.realip.from.is_empty()
    }
    Handler { phase, wants, call: Call::Now(replace), pure: false, gate: None }
}

fn replace(rq: &mut Request) -> Flow {
    if rq.client.is_none() {
        rq.client = find(rq);
    }
    Flow::Continue
}

fn find(rq: &Request) -> Option<Address> {
    let conf = &rq.loc().realip;
    let peer = &rq.conn.peer;
    match &*conf.source {
        Source::ForwardedFor => {
            let fields: smallvec::SmallVec<[&[u8]; 4]> = rq.head.all("x-forwarded-for").collect();
            forwarded::behind(peer, &conf.from, *conf.recursive, fields.iter().copied())
        }
        Source::ProxyProtocol => {
            let header = rq.conn.proxied.as_ref()?;
            let list = std::iter::once(header.source.as_bytes());
            let found = forwarded::behind(peer, &conf.from, *conf.recursive, list)?;
            let port = header.source_port;
            found.ip().map(|ip| Address::Inet(SocketAddr::new(ip, port)))
        }
        Source::Field(name) => {
            let field = rq.head.get(name)?;
            forwarded::behind(peer, &conf.from, *conf.recursive, std::iter::once(field))
        }
    }
}

fn from(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let text = d.arg(0);
    let networks = if text == "unix:" {
        vec![Cidr::Unix]
    } else if let Some(parsed) = cidr::parse(text) {
        if parsed.low_bits {
            b.note(NoteLevel::Warn, format!("low address bits of {text} are meaningless"));
        }
        vec![parsed.cidr]
    } else {
        addresses(text)?.into_iter().map(Cidr::of).collect()
    };
    b.loc().realip.from.edit().extend(networks);
    Ok(())
}

/// The addresses of a name, looked up once.
fn addresses(name: &str) -> ConfResult<Vec<IpAddr>> {
    let missing = || ConfError::new(format!("host not found in set_real_ip_from \"{name}\""));
    let found: Vec<IpAddr> = (name, 0).to_socket_addrs().map_err(|_| missing())?.map(|a| a.ip()).collect();
    if found.is_empty() { Err(missing()) } else { Ok(found) }
}

fn header(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let source = match d.arg(0) {
        "X-Forwarded-For" => Source::ForwardedFor,
        "proxy_protocol" => Source::ProxyProtocol,
        name => Source::Field(name.to_ascii_lowercase().into()),
    };
    b.loc().realip.source.set(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directives: &str) -> ConfResult<crate::conf::Config> {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("events {{}} http {{ server {{ {directives} }} }}");
        crate::conf::build::load_text(dir.path(), &text)
    }

    fn conf(directives: &str) -> Conf {
        config(directives).unwrap().http.unwrap().levels.last().unwrap().conf.realip.clone()
    }

    #[test]
    fn networks_names_and_unix_sockets() {
        let conf = conf("set_real_ip_from 10.0.0.0/8; set_real_ip_from unix:; set_real_ip_from localhost;");
        assert_eq!(conf.from[..2], [cidr::parse("10.0.0.0/8").unwrap().cidr, Cidr::Unix]);
        assert!(conf.from[2..].iter().any(|net| net.contains([127, 0, 0, 1].into())));
    }

    #[test]
    fn a_level_with_networks_has_none_of_the_outer_levels() {
        let inner =
            conf("set_real_ip_from ::1; location / { set_real_ip_from 10.0.0.1; real_ip_recursive on; }");
        assert_eq!(*inner.from, [cidr::parse("10.0.0.1").unwrap().cidr]);
        assert_eq!(*inner.source, Source::Field("x-real-ip".into()));
        let inner = conf("set_real_ip_from ::1; real_ip_header X-Forwarded-For; location / { }");
        assert_eq!((inner.from.len(), (*inner.source).clone()), (1, Source::ForwardedFor));
    }

    #[test]
    fn the_error_log_names_who_is_behind() {
        let running = crate::observe::testing::Running::start(
            "server { listen LISTEN; error_log errors; set_real_ip_from 127.0.0.1; deny 1.2.3.4; }",
        );
        assert!(running.get("/", "X-Real-IP: 1.2.3.4\r\n").starts_with("HTTP/1.1 403"));
        let line = &running.lines("errors", 1)[0];
        assert!(line.contains("access forbidden by rule, client: 1.2.3.4, server: "), "{line}");
    }

    #[test]
    fn mistakes_in_nginxs_words() {
        let error = |directives: &str| config(directives).err().unwrap().message;
        assert_eq!(
            error("set_real_ip_from no.such.host.invalid;"),
            "host not found in set_real_ip_from \"no.such.host.invalid\""
        );
        assert_eq!(
            error("real_ip_header X-A; real_ip_header X-B;"),
            "\"real_ip_header\" directive is duplicate"
        );
        let notes = config("set_real_ip_from 10.0.0.1/8;").unwrap().notes;
        assert_eq!(notes[0].message, "low address bits of 10.0.0.1/8 are meaningless");
    }
}
