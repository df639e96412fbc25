//! `listen`

use crate::conf::values::{number, size, time};
use crate::conf::{Builder, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::listens::{Listen, ListenAddr, ListenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Reads a `listen`. A name that has several addresses, and a range of ports, are several.
pub fn listen(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let text = d.arg(0);
    let addrs = addresses(text)
        .map_err(|what| ConfError::new(format!("{what} in \"{text}\" of the \"listen\" directive")))?;
    let mut listen = Listen::new(addrs[0].clone(), &d.at);
    for arg in &d.args[1..] {
        parameter(b, &mut listen, arg)?;
    }
    let listens = addrs.into_iter().map(|addr| Listen { addr, ..listen.clone() });
    b.srv().core.listens.extend(listens);
    Ok(())
}

fn parameter(b: &mut Builder, listen: &mut Listen, arg: &str) -> ConfResult<()> {
    match arg {
        "default_server" | "default" => listen.default = true,
        "ssl" => listen.ssl = true,
        "proxy_protocol" => listen.proxy_protocol = true,
        "http2" => {
            listen.http2 = true;
            b.note(
                NoteLevel::Warn,
                "the \"listen ... http2\" directive is deprecated, use the \"http2\" directive instead",
            );
        }
        "spdy" => b.note(
            NoteLevel::Warn,
            "invalid parameter \"spdy\": ngx_http_spdy_module was superseded by ngx_http_v2_module",
        ),
        "quic" | "http3" => {
            return Err(ConfError::new(format!(
                "the \"{arg}\" parameter of \"listen\" is not supported: HTTP/3 is not spoken"
            ))
            .hint("without the parameter HTTP/1 and HTTP/2 are"));
        }
        other => return option(b, listen.options.get_or_insert_default(), other),
    }
    Ok(())
}

/// An option of the socket.
fn option(b: &mut Builder, options: &mut ListenOptions, arg: &str) -> ConfResult<()> {
    let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
    let bad = || ConfError::new(format!("invalid parameter \"{arg}\""));
    let invalid = || ConfError::new(format!("invalid {name} \"{arg}\""));
    let buffer = || size(value).and_then(|n| usize::try_from(n).ok()).ok_or_else(invalid);
    let count = || number(value).and_then(|n| i32::try_from(n).ok()).map(|n| n as u32);
    match (name, arg.contains('=')) {
        // Each worker has its own socket, which is bound by itself, in any case.
        ("bind" | "reuseport", false) => {}
        ("deferred", false) => options.deferred = true,
        ("multipath", false) => options.multipath = true,
        ("protocol", true) if value == "mptcp" => options.multipath = true,
        // Without a meaning for other addresses, where nginx takes it all the same.
        ("ipv6only", true) => {
            options.dual_stack = match value {
                "on" => false,
                "off" => true,
                _ => return Err(bad()),
            };
        }
        ("backlog", true) => options.backlog = Some(count().filter(|n| *n > 0).ok_or_else(invalid)?),
        ("rcvbuf", true) => options.rcvbuf = Some(buffer()?),
        ("sndbuf", true) => options.sndbuf = Some(buffer()?),
        ("fastopen", true) => options.fastopen = Some(count().ok_or_else(invalid)?),
        ("so_keepalive", true) => {
            let invalid = || ConfError::new(format!("invalid so_keepalive value: \"{value}\""));
            options.keepalive = Some(match value {
                "on" => Some((0, 0, 0)),
                "off" => None,
                times => Some(keepalive(times).ok_or_else(invalid)?),
            });
        }
        ("accept_filter", true) => b.note(
            NoteLevel::Warn,
            format!("accept filters \"{arg}\" are not supported on this platform, ignored"),
        ),
        ("setfib", true) => return Err(bad().hint("this is a parameter of FreeBSD")),
        _ => return Err(bad()),
    }
    Ok(())
}

/// `idle:interval:count`, each of which may be left out but not all; whole seconds.
fn keepalive(value: &str) -> Option<(u32, u32, u32)> {
    let mut parts = value.splitn(3, ':').map(|part| (!part.is_empty()).then_some(part));
    let seconds = |part: Option<Option<&str>>| match part.flatten() {
        None => Some(0),
        Some(text) if text.ends_with("ms") => None,
        Some(text) => u32::try_from(time(text)?.as_secs()).ok(),
    };
    let (idle, interval) = (seconds(parts.next())?, seconds(parts.next())?);
    let count = match parts.next().flatten() {
        None => 0,
        Some(text) => u32::try_from(number(text)?).ok()?,
    };
    Some((idle, interval, count)).filter(|all| *all != (0, 0, 0))
}

/// The addresses of a `listen`: a port, an address with or without one, a name, a unix socket. There
/// is at least one.
fn addresses(text: &str) -> Result<Vec<ListenAddr>, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        // With the byte that ends it, a path has 108 bytes in the kernel.
        return match path.len() {
            0 => Err("no path in the unix domain socket".into()),
            1..108 => Ok(vec![ListenAddr::Unix(path.into())]),
            _ => Err("too long path in the unix domain socket".into()),
        };
    }
    let (hosts, ports) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("invalid host")?;
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':').ok_or("invalid host")?),
        };
        let ip: Ipv6Addr = host.parse().map_err(|_| "invalid IPv6 address")?;
        (vec![IpAddr::V6(ip)], port)
    } else {
        if text.contains('/') {
            return Err("invalid host".into());
        }
        match text.split_once(':') {
            Some((host, port)) => {
                range(port)?;
                (named(host)?, Some(port))
            }
            None if is_port(text) => (vec![Ipv4Addr::UNSPECIFIED.into()], Some(text)),
            None => (named(text)?, None),
        }
    };
    let ports = ports.map_or(Ok((80, 80)), range)?;
    let of = |host: &IpAddr| {
        let host = *host;
        (ports.0..=ports.1).map(move |port| ListenAddr::Inet(SocketAddr::new(host, port)))
    };
    Ok(hosts.iter().flat_map(of).collect())
}

/// The addresses of a host, each once.
fn named(host: &str) -> Result<Vec<IpAddr>, String> {
    match host {
        "*" => return Ok(vec![Ipv4Addr::UNSPECIFIED.into()]),
        "" => return Err("no host".into()),
        _ => {}
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(vec![ip.into()]);
    }
    let mut found = Vec::new();
    for addr in (host, 0).to_socket_addrs().map_err(|_| "host not found")? {
        if !found.contains(&addr.ip()) {
            found.push(addr.ip());
        }
    }
    if found.is_empty() { Err("host not found".into()) } else { Ok(found) }
}

/// Whether it is a port, or a range of them, and not a host.
fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'-')
}

/// A port or a range of ports, first and last.
fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match number(text) {
        Some(n @ 1..=65535) => Ok(n as u16),
        _ => Err("invalid port".to_string()),
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => match (port(first)?, port(last)?) {
            (first, last) if first > last => Err("invalid port range".into()),
            range => Ok(range),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<String, String> {
        let found = addresses(text)?;
        Ok(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn addresses_in_all_forms() {
        for (text, want) in [
            ("80", "0.0.0.0:80"),
            ("80-82", "0.0.0.0:80 0.0.0.0:81 0.0.0.0:82"),
            ("*:8080", "0.0.0.0:8080"),
            ("*", "0.0.0.0:80"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("127.0.0.1:81", "127.0.0.1:81"),
            ("127.0.0.1:81-82", "127.0.0.1:81 127.0.0.1:82"),
            ("127.1:81", "127.0.0.1:81"),
            ("[::]:82", "[::]:82"),
            ("[::1]", "[::1]:80"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
        ] {
            assert_eq!(words(text).as_deref(), Ok(want));
        }
        for (bad, why) in [
            ("", "no host"),
            (":80", "no host"),
            ("0", "invalid port"),
            ("65536", "invalid port"),
            ("127.0.0.1:x", "invalid port"),
            ("127.0.0.1:82-81", "invalid port range"),
            ("::1:80", "invalid port"),
            ("127.0.0.1:80/x", "invalid host"),
            ("[::1", "invalid host"),
            ("no.such.host.invalid:80", "host not found"),
            ("unix:", "no path in the unix domain socket"),
        ] {
            assert_eq!(words(bad), Err(why.to_string()), "{bad}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert_eq!(words(&long), Err("too long path in the unix domain socket".to_string()));
        assert!(words(&long[..long.len() - 1]).is_ok());
    }

    #[test]
    fn protocols_that_differ_are_told_as_nginx_tells_them() {
        let told = |listens: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            let server = |l: &&str| format!("server {{ listen 127.0.0.1:7 {l}; }}");
            let servers: String = listens.iter().map(server).collect();
            let text = format!("events {{}} http {{ {servers} }}");
            let config = crate::conf::build::load_text(dir.path(), &text).unwrap_or_else(|e| panic!("{e}"));
            config.notes.iter().filter(|n| n.message == "protocol options redefined for 127.0.0.1:7").count()
        };
        assert_eq!(told(&["proxy_protocol", "proxy_protocol"]), 0);
        assert_eq!(told(&["", "proxy_protocol"]), 0);
        assert_eq!(told(&["proxy_protocol", ""]), 0);
        assert_eq!(told(&["proxy_protocol", "", "proxy_protocol"]), 1);
        assert_eq!(told(&["http2", "proxy_protocol"]), 1);
        assert_eq!(told(&["backlog=5", "proxy_protocol"]), 1);
    }

    #[test]
    fn the_times_of_keepalive() {
        assert_eq!(keepalive("30m::10"), Some((1800, 0, 10)));
        assert_eq!(keepalive("1s:"), Some((1, 0, 0)));
        assert_eq!(keepalive(":7"), Some((0, 7, 0)));
        for bad in ["", ":", "::", "0", "::0", "1:2:3:4", "x", ":1ms", "::x"] {
            assert_eq!(keepalive(bad), None, "{bad}");
        }
    }
}
