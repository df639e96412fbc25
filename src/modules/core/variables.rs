//! The core module's variables.

use crate::edge::turn;
use crate::http::date;
use crate::http::request::{Address, Request};
use crate::http::uri;
use crate::http::vars::Variable;
use bytes::Bytes;
use smallvec::SmallVec;
use std::net::SocketAddr;

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::prefix("http_", |rq, name, out| {
        joined(rq.head.all(&FieldName::of(name)), if name == "cookie" { b"; " } else { b", " }, out)
    })
    .pure(),
    Variable::prefix("arg_", |rq, name, out| put_opt(out, uri::arg(&rq.args, name.as_bytes()))).pure(),
    Variable::prefix("cookie_", |rq, name, out| {
        put_opt(out, cookie(rq, name.as_bytes()).map(|(value, _)| value))
    })
    .pure(),
    Variable::prefix("sent_http_", sent_http).pure(),
    Variable {
        name: "args",
        prefix: false,
        cached: false,
        gives_way: false,
        pure: true,
        get: args,
        set: Some(|rq, v| (rq.args, rq.has_args, rq.pristine) = (v, true, false)),
    },
    Variable::new("query_string", args).pure(),
    Variable::new("is_args", |rq, _, out| put(out, if rq.shown_args().is_empty() { b"" } else { b"?" }))
        .pure(),
    Variable::new("uri", path).pure(),
    Variable::new("document_uri", path).pure(),
    Variable::new("request_uri", |rq, _, out| put_some(out, &rq.shown_unparsed())).pure(),
    Variable::new("request", |rq, _, out| put(out, rq.head.line())).pure(),
    Variable::new("request_method", |rq, _, out| {
        // Of a line that is none no part counts.
        let is_line = !rq.head.target().is_empty();
        put_some(out, if is_line { rq.main_method_name() } else { b"" })
    })
    .pure(),
    Variable::new("request_length", |rq, _, out| number(out, rq.length)),
    Variable::new("request_id", |rq, _, out| hex(out, &rq.id())),
    Variable::new("request_time", |rq, _, out| seconds(out, turn::since(rq.started))),
    Variable::new("request_completion", |rq, _, out| {
        put(out, if rq.sent.bytes > 0 && !rq.sent.aborted { b"OK" } else { b"" })
    }),
    Variable::new("request_body", |rq, _, out| {
        put_opt(out, rq.body.as_deref().filter(|body| !body.is_empty()))
    }),
    Variable::new("request_body_file", |rq, _, out| match &rq.spooled {
        Some(crate::upstream::spool::Spooled::File(file, _)) => {
            use std::os::unix::ffi::OsStrExt;
            put(out, file.path().as_os_str().as_bytes())
        }
        _ => false,
    }),
    Variable::new("request_filename", |rq, _, out| crate::modules::static_files::file_name(rq, out)).pure(),
    Variable::new("document_root", |rq, _, out| crate::modules::static_files::document_root(rq, out)).pure(),
    Variable::new("realpath_root", |rq, _, out| {
        use std::os::unix::ffi::OsStrExt;
        let mut root = Vec::new();
        crate::modules::static_files::document_root(rq, &mut root);
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(&root));
        std::fs::canonicalize(path).is_ok_and(|p| put(out, p.as_os_str().as_bytes()))
    }),
    Variable::new("scheme", |rq, _, out| put(out, rq.scheme().as_bytes())).pure(),
    Variable::new("https", |rq, _, out| put(out, if rq.conn.tls.is_some() { b"on" } else { b"" })).pure(),
    Variable::new("http2", |rq, _, out| {
        put(out, if rq.version() == crate::http::Version::Http2 { b"h2" } else { b"" })
    })
    .pure(),
    Variable::new("host", |rq, _, out| {
        if rq.host.is_empty() { put(out, rq.srv().core.name.as_bytes()) } else { put(out, &rq.host) }
    })
    .pure(),
    Variable::new("hostname", |_, _, out| match nix::unistd::gethostname() {
        Ok(name) => put(out, name.to_string_lossy().as_bytes()),
        Err(_) => false,
    })
    .pure(),
    Variable::new("server_name", |rq, _, out| put(out, rq.srv().core.name.as_bytes())).pure(),
    Variable::new("server_addr", |rq, _, out| address(&rq.conn.local, out)),
    Variable::new("server_port", |rq, _, out| port(&rq.conn.local, out)),
    Variable::new("server_protocol", |rq, _, out| put_opt(out, Some(rq.head.protocol()))).pure(),
    Variable::new("remote_addr", |rq, _, out| address(rq.peer(), out)),
    Variable::new("remote_port", |rq, _, out| port(rq.peer(), out)),
    Variable::new("remote_user", remote_user),
    Variable::new("binary_remote_addr", |rq, _, out| match rq.peer().ip() {
        Some(std::net::IpAddr::V4(ip)) => put(out, &ip.octets()),
        Some(std::net::IpAddr::V6(ip)) => put(out, &ip.octets()),
        None => put(out, b"unix:"),
    }),
    Variable::new("proxy_protocol_addr", |rq, _, out| {
        rq.conn.proxied.as_ref().is_some_and(|h| put(out, h.source.as_bytes()))
    }),
    Variable::new("proxy_protocol_port", |rq, _, out| {
        rq.conn.proxied.as_ref().is_some_and(|h| port_number(out, h.source_port))
    }),
    Variable::new("proxy_protocol_server_addr", |rq, _, out| {
        rq.conn.proxied.as_ref().is_some_and(|h| put(out, h.destination.as_bytes()))
    }),
    Variable::new("proxy_protocol_server_port", |rq, _, out| {
        rq.conn.proxied.as_ref().is_some_and(|h| port_number(out, h.destination_port))
    }),
    Variable::prefix("proxy_protocol_tlv_", |rq, name, out| {
        let Some(header) = &rq.conn.proxied else { return false };
        header.tlv(name, out).unwrap_or_else(|e| {
            crate::observe::request_error(rq, format_args!("{e}"));
            false
        })
    }),
    Variable::new("tcpinfo_rtt", |rq, _, out| tcp(rq, |info| info.rtt, out)),
    Variable::new("tcpinfo_rttvar", |rq, _, out| tcp(rq, |info| info.rttvar, out)),
    Variable::new("tcpinfo_snd_cwnd", |rq, _, out| tcp(rq, |info| info.snd_cwnd, out)),
    Variable::new("tcpinfo_rcv_space", |rq, _, out| tcp(rq, |info| info.rcv_space, out)),
    Variable::new("request_port", |rq, _, out| put_opt(out, request_port(rq).as_deref())),
    Variable::new("is_request_port", |rq, _, out| {
        put(out, if request_port(rq).is_some() { b":" } else { b"" })
    }),
    Variable::new("connection", |rq, _, out| number(out, rq.conn.serial)),
    Variable::new("connection_requests", |rq, _, out| {
        number(out, rq.conn.requests.load(std::sync::atomic::Ordering::Relaxed))
    }),
    Variable::new("connection_time", |rq, _, out| seconds(out, rq.conn.accepted.elapsed())),
    Variable::new("content_length", content_length).pure(),
    Variable::new("content_type", |rq, _, out| put_opt(out, rq.head.get("content-type"))).pure(),
    Variable::new("status", |rq, _, out| put(out, format!("{:03}", rq.status()).as_bytes())),
    Variable::new("bytes_sent", |rq, _, out| number(out, rq.sent.bytes)),
    Variable::new("body_bytes_sent", |rq, _, out| number(out, rq.sent.body_bytes)),
    Variable::new("nginx_version", |_, _, out| put(out, env!("CARGO_PKG_VERSION").as_bytes())).pure(),
    Variable::new("pid", |_, _, out| number(out, u64::from(std::process::id()))).pure(),
    Variable::new("msec", |_, _, out| {
        let now = date::since_epoch();
        put(out, format!("{}.{:03}", now.as_secs(), now.subsec_millis()).as_bytes())
    }),
    Variable::new("pipe", |rq, _, out| put(out, if rq.pipelined { b"p" } else { b"." })),
    Variable {
        name: "limit_rate",
        prefix: false,
        cached: false,
        gives_way: false,
        pure: false,
        get: |rq, _, out| number(out, rq.limit_rate.unwrap_or(0)),
        set: Some(|rq, v| rq.limit_rate = std::str::from_utf8(&v).ok().and_then(crate::conf::values::size)),
    },
];

/// Appends a value that is there.
pub fn put(out: &mut Vec<u8>, value: &[u8]) -> bool {
    out.extend_from_slice(value);
    true
}

/// Appends a value that is none when it is empty: the query of a request without one, the URI of a
/// request that could not be read.
fn args(rq: &Request, _: &str, out: &mut Vec<u8>) -> bool {
    put_some(out, &rq.shown_args()) || rq.has_args
}

fn path(rq: &Request, _: &str, out: &mut Vec<u8>) -> bool {
    put_some(out, &rq.uri) || rq.has_uri
}

fn put_some(out: &mut Vec<u8>, value: &[u8]) -> bool {
    !value.is_empty() && put(out, value)
}

fn put_opt(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.is_some_and(|v| put(out, v))
}

/// Appends a number.
pub fn number(out: &mut Vec<u8>, n: u64) -> bool {
    use std::io::Write;
    let _ = write!(out, "{n}");
    true
}

/// Appends a time in seconds with milliseconds.
pub fn seconds(out: &mut Vec<u8>, time: std::time::Duration) -> bool {
    use std::io::Write;
    let _ = write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis());
    true
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|b| [DIGITS[(b >> 4) as usize], DIGITS[(b & 15) as usize]]));
    true
}

/// Appends values with a separator; false when there are none.
pub fn joined<'a>(values: impl Iterator<Item = &'a [u8]>, separator: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    for value in values {
        if found {
            out.extend_from_slice(separator);
        }
        found = true;
        out.extend_from_slice(value);
    }
    found
}

/// The name of the field that a variable stands for, which has dashes for underscores. Those in use take no allocation:
/// `$http_user_agent` is in every line of the log.
struct FieldName(SmallVec<[u8; 48]>);

impl FieldName {
    fn of(variable: &str) -> FieldName {
        FieldName(variable.bytes().map(|b| if b == b'_' { b'-' } else { b }).collect())
    }
}

impl std::ops::Deref for FieldName {
    type Target = str;

    fn deref(&self) -> &str {
        // A text with one ASCII character for another is a text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn tcp(rq: &Request, which: fn(&crate::edge::tcp::Info) -> u32, out: &mut Vec<u8>) -> bool {
    let descriptor = rq.conn.descriptor.load(std::sync::atomic::Ordering::Relaxed);
    crate::edge::tcp::info(descriptor).is_some_and(|info| number(out, which(&info).into()))
}

/// The port that the client named beside the host.
fn request_port(rq: &Request) -> Option<Bytes> {
    let host = match rq.head.target().first() {
        Some(b'/') | None => Bytes::copy_from_slice(rq.head.get("host")?),
        Some(_) => uri::parse(rq.head.target(), true)?.host?,
    };
    let name = host.iter().rposition(|b| *b == b']').map_or(0, |end| end + 1);
    let colon = name + memchr::memchr(b':', &host[name..])?;
    let port = host.slice(colon + 1..);
    (!port.is_empty() && port.iter().all(u8::is_ascii_digit)).then_some(port)
}

/// Appends an address without its port.
pub fn address(address: &Address, out: &mut Vec<u8>) -> bool {
    use std::io::Write;
    match address {
        Address::Inet(SocketAddr::V4(a)) => {
            // In every line of the log: formatting takes ten times as long.
            let mut between = false;
            for octet in a.ip().octets() {
                if std::mem::replace(&mut between, true) {
                    out.push(b'.');
                }
                if octet > 99 {
                    out.push(b'0' + octet / 100);
                }
                if octet > 9 {
                    out.push(b'0' + octet / 10 % 10);
                }
                out.push(b'0' + octet % 10);
            }
        }
        Address::Inet(SocketAddr::V6(a)) => {
            let _ = write!(out, "{}", a.ip());
        }
        Address::Unix(path) => {
            let _ = write!(out, "unix:{path}");
        }
    }
    true
}

/// Appends an address's port; nothing when it has none.
pub fn port(address: &Address, out: &mut Vec<u8>) -> bool {
    match address {
        Address::Inet(a) => port_number(out, a.port()),
        Address::Unix(_) => true,
    }
}

/// Appends a port; nothing for 0, which is none.
fn port_number(out: &mut Vec<u8>, port: u16) -> bool {
    port == 0 || number(out, port.into())
}

/// The value of a cookie of the request, and the line that it stands in.
pub fn cookie<'a>(rq: &'a Request, name: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    rq.head.all("cookie").find_map(|line| Some((cookie_of(line, name)?, line)))
}

/// The value of a cookie in a line of them. As with nginx a name begins after a semicolon or a comma, a
/// value ends at a semicolon only, and blanks around the equals sign are passed over
/// (ngx_http_parse_multi_header_lines).
fn cookie_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let skip_blanks = |text: &'a [u8]| &text[text.iter().take_while(|b| **b == b' ').count()..];
    let mut rest = line;
    while !rest.is_empty() {
        if let Some((start, after)) = rest.split_at_checked(name.len())
            && start.eq_ignore_ascii_case(name)
        {
            rest = skip_blanks(after);
            if let Some(value) = rest.strip_prefix(b"=") {
                let value = skip_blanks(value);
                return Some(&value[..memchr::memchr(b';', value).unwrap_or(value.len())]);
            }
        }
        let Some(end) = memchr::memchr2(b';', b',', rest) else { break };
        rest = skip_blanks(&rest[end + 1..]);
    }
    None
}

fn sent_http(rq: &Request, name: &str, out: &mut Vec<u8>) -> bool {
    let sent = &rq.sent;
    match name {
        "content_type" => put_opt(out, sent.content_type.as_deref()),
        "content_length" => {
            let length = sent.length.filter(|_| !matches!(sent.status, 204 | 304));
            length.is_some_and(|n| number(out, n))
        }
        "last_modified" => sent.last_modified.as_ref().is_some_and(|at| at.show(|text| put(out, text))),
        "etag" => put_opt(out, sent.etag.as_deref()),
        "accept_ranges" if sent.accept_ranges => put(out, b"bytes"),
        "connection" if sent.status == 101 => put(out, b"upgrade"),
        // Once a response has been sent nginx no longer knows that the connection was to be kept.
        "connection" => put(out, if rq.keepalive && sent.bytes == 0 { b"keep-alive" } else { b"close" }),
        "keep_alive" if rq.keepalive && sent.bytes == 0 => rq
            .loc()
            .core
            .keepalive_header
            .is_some_and(|seconds| put(out, format!("timeout={seconds}").as_bytes())),
        "transfer_encoding" => {
            let chunked = sent.length.is_none() && rq.version() == crate::http::Version::Http11;
            chunked && put(out, b"chunked")
        }
        _ => joined(sent.fields.all(&FieldName::of(name)).map(Bytes::as_ref), b", ", out),
    }
}

/// The length that the request says its body has; of one that says none, what has been read in all.
fn content_length(rq: &Request, _: &str, out: &mut Vec<u8>) -> bool {
    use crate::http::request::Downstream;
    match rq.head.get("content-length") {
        Some(text) => put(out, text),
        // HTTP/2 need not say it, so it is known once the body has been read.
        None if rq.version() == crate::http::Version::Http2 && rq.body_read == 0 => false,
        None if !rq.has_body || matches!(&rq.downstream, Downstream::H1(h1) if !h1.framing.is_done()) => {
            false
        }
        None => number(out, rq.body_read),
    }
}

/// The user of Basic authentication, whether or not the password was right.
fn remote_user(rq: &Request, _: &str, out: &mut Vec<u8>) -> bool {
    crate::modules::auth_basic::credentials(rq).is_some_and(|c| put(out, c.user()))
}

#[cfg(test)]
mod tests {
    use crate::observe::testing::Running;

    #[test]
    fn the_port_that_the_client_names() {
        let running =
            Running::start("server { listen LISTEN; return 200 \"[$request_port$is_request_port$host]\"; }");
        let ask = |target: &str, host: &str| {
            let answer =
                running.send(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            answer.rsplit("\r\n").next().unwrap_or_default().to_string()
        };
        assert_eq!(ask("/", "a.test:8080"), "[8080:a.test]");
        assert_eq!(ask("/", "a.test"), "[a.test]");
        assert_eq!(ask("/", "[::1]:81"), "[81:[::1]]");
        assert_eq!(ask("/", "[::1]"), "[[::1]]");
        assert_eq!(ask("http://b.test:82/", "a.test:1"), "[82:b.test]");
    }
}
