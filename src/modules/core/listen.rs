//! `listen`

use crate::conf::values::{number, size};
use crate::conf::{Builder, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::router::{Listen, ListenAddr, ListenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Reads a `listen`.
pub fn listen(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let text = d.arg(0);
    let addr = address(text)
        .map_err(|what| ConfError::new(format!("{what} in \"{text}\" of the \"listen\" directive")))?;
    let mut listen = Listen::new(addr, &d.at);
    let mut options = None;
    for arg in &d.args[1..] {
        match arg.as_str() {
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
            "reuseport" => given(&mut options).reuseport = true,
            "deferred" => given(&mut options).deferred = true,
            "bind" | "ipv6only=on" | "so_keepalive=off" => {
                given(&mut options);
            }
            "ipv6only=off" => given(&mut options).dual_stack = true,
            "so_keepalive=on" => given(&mut options).keepalive = Some((None, None, None)),
            "quic" | "http3" => {
                return Err(ConfError::new(format!(
                    "the \"{arg}\" parameter of \"listen\" is not supported yet"
                )));
            }
            other => {
                let bad = || ConfError::new(format!("invalid parameter \"{other}\""));
                let (name, value) = other.split_once('=').ok_or_else(bad)?;
                match name {
                    "backlog" => {
                        let n = number(value).filter(|n| *n > 0 && *n <= i32::MAX as u64);
                        given(&mut options).backlog =
                            Some(n.ok_or_else(|| ConfError::new(format!("invalid backlog \"{value}\"")))?
                                as u32);
                    }
                    "rcvbuf" => given(&mut options).rcvbuf = Some(size(value).ok_or_else(bad)? as usize),
                    "sndbuf" => given(&mut options).sndbuf = Some(size(value).ok_or_else(bad)? as usize),
                    "fastopen" => given(&mut options).fastopen = Some(number(value).ok_or_else(bad)? as u32),
                    // One table of routes and filters serves all listening sockets here.
                    "setfib" | "accept_filter" => return Err(bad().hint("this is a parameter of FreeBSD")),
                    "so_keepalive" => given(&mut options).keepalive = Some(keepalive(value).ok_or_else(bad)?),
                    _ => return Err(bad()),
                }
            }
        }
    }
    if options.as_ref().is_some_and(|o: &ListenOptions| o.dual_stack)
        && !matches!(listen.addr, ListenAddr::Inet(SocketAddr::V6(_)))
    {
        return Err(ConfError::new(format!("ipv6only is not supported on addr \"{text}\"")));
    }
    listen.options = options;
    b.srv().core.listens.push(listen);
    Ok(())
}

/// The socket's options, which are there as soon as one is given.
fn given(options: &mut Option<ListenOptions>) -> &mut ListenOptions {
    options.get_or_insert_default()
}

/// `idle:interval:count`, each of which may be left out.
fn keepalive(value: &str) -> Option<(Option<u32>, Option<u32>, Option<u32>)> {
    let mut parts = value.split(':');
    let mut seconds = || -> Option<Option<u32>> {
        match parts.next() {
            None | Some("") => Some(None),
            Some(text) => Some(Some(crate::conf::values::time(text)?.as_secs() as u32)),
        }
    };
    let (idle, interval) = (seconds()?, seconds()?);
    let count = match parts.next() {
        None | Some("") => None,
        Some(text) => Some(number(text)? as u32),
    };
    (parts.next().is_none() && value != "::").then_some((idle, interval, count))
}

/// The address of a `listen`: a port, an address with or without one, a name, a unix socket.
pub fn address(text: &str) -> Result<ListenAddr, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("no path in the unix domain socket".into());
        }
        return Ok(ListenAddr::Unix(path.into()));
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(ListenAddr::Inet(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port(text)?)));
    }
    let (host, port_text) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("invalid host")?;
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':').ok_or("invalid host")?),
        };
        let ip: Ipv6Addr = host.parse().map_err(|_| "invalid IPv6 address")?;
        (IpAddr::V6(ip), port)
    } else {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let ip = match host {
            "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            "" => return Err("no host".into()),
            name => match name.parse::<IpAddr>() {
                Ok(ip) => ip,
                Err(_) => (name, 0)
                    .to_socket_addrs()
                    .ok()
                    .and_then(|mut found| found.next())
                    .ok_or("host not found")?
                    .ip(),
            },
        };
        (ip, port)
    };
    let port = port_text.map_or(Ok(80), port)?;
    Ok(ListenAddr::Inet(SocketAddr::new(host, port)))
}

fn port(text: &str) -> Result<u16, String> {
    match number(text) {
        Some(n @ 1..=65535) => Ok(n as u16),
        _ => Err("invalid port".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_all_forms() {
        for (text, want) in [
            ("80", "0.0.0.0:80"),
            ("*:8080", "0.0.0.0:8080"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("127.0.0.1:81", "127.0.0.1:81"),
            ("[::]:82", "[::]:82"),
            ("[::1]", "[::1]:80"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), want);
        }
        for bad in ["", "0", "65536", "[::1", "unix:", ":80", "127.0.0.1:x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
