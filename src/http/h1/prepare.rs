//! A head becomes a request: which server, which target, how its body is framed.

use crate::edge::connection::bound;
use crate::http::body::{Chunks, Framing};
use crate::http::head::{Head, Method, Version};
use crate::http::request::{Downstream, Request};
use crate::http::uri;
use crate::modules::ssl;
use bytes::Bytes;

/// Reads the request line and the fields that frame the message; the error is the status for what
/// is wrong with them.
pub(super) fn prepare(rq: &mut Request) -> Result<(), u16> {
    let version = rq.head.version;
    choose_server(rq)?;
    let (framing, length) = framing(&rq.head)?;
    // Neither is for an edge.
    if matches!(rq.method, Method::Connect | Method::Trace) {
        return Err(405);
    }
    rq.body_length = length;
    rq.has_body = !framing.is_done();
    let expects = rq.head.get("expect").is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    let has_body = rq.has_body;
    if let Downstream::H1(h1) = &mut rq.downstream {
        h1.framing = framing;
        h1.expect_continue = expects && has_body && version == Version::Http11;
    }
    rq.keepalive = match version {
        Version::Http11 => !connection_has(&rq.head, b"close"),
        Version::Http10 => connection_has(&rq.head, b"keep-alive"),
        _ => false,
    };
    ssl::verify::check_client(rq)
}

fn connection_has(head: &Head, word: &[u8]) -> bool {
    head.all("connection").any(|v| v.split(|b| *b == b',').any(|w| w.trim_ascii().eq_ignore_ascii_case(word)))
}

/// How the request's body is framed, and its length where that is said; what could be understood in
/// two ways is refused.
fn framing(head: &Head) -> Result<(Framing, Option<u64>), u16> {
    // Nearly always there is neither.
    if head.get("content-length").is_none() && head.get("transfer-encoding").is_none() {
        return Ok((Framing::None, None));
    }
    let mut lengths = head.all("content-length");
    let length = match (lengths.next(), lengths.next()) {
        (_, Some(_)) => return Err(400),
        (Some(text), None) => {
            let fine = !text.is_empty() && text.len() < 19 && text.iter().all(u8::is_ascii_digit);
            let n = fine.then(|| text.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0')));
            Some(n.ok_or(400u16)?)
        }
        (None, None) => None,
    };
    let mut codings = head.all("transfer-encoding");
    match (codings.next(), codings.next()) {
        (None, _) => {
            let framing = match length {
                None | Some(0) => Framing::None,
                Some(n) => Framing::Length(n),
            };
            Ok((framing, length))
        }
        (Some(_), Some(_)) => Err(400),
        (Some(_), None) if head.version < Version::Http11 => Err(400),
        (Some(coding), None) if !coding.eq_ignore_ascii_case(b"chunked") => Err(501),
        (Some(_), None) if length.is_some() => Err(400),
        (Some(_), None) => Ok((Framing::Chunked(Chunks::default()), None)),
    }
}

/// Takes the target apart and finds the server by the target's host or by `Host`; the error is 400.
pub fn choose_server(rq: &mut Request) -> Result<(), u16> {
    let named = target(rq).inspect_err(|_| rq.head.forget_fields())?;
    let (field, second) = {
        let mut hosts = rq.head.all("host").map(valid_host);
        (hosts.next(), hosts.next())
    };
    if let Some(Err(status)) = field {
        rq.head.forget_fields_behind("host");
        // The empty line was not looked at.
        rq.length = rq.length.min(rq.head.end_of_fields() as u64);
        return Err(status);
    }
    if second.is_some() || field.is_none() && rq.head.version == Version::Http11 {
        return Err(400);
    }
    if rq.head.repeats_single_field() {
        return Err(400);
    }
    rq.host = named.or(field.and_then(Result::ok)).unwrap_or_default();
    let server = bound(&rq.local, &rq.conn).names.find(&rq.host, Some(rq));
    if rq.conn.tls.is_some() && *rq.http().servers[server].conf.ssl.verify_client != ssl::Verify::Off {
        // What is refused is answered by the server that the connection is with.
        if let Some(named) = ssl::verify::named_server(rq) {
            (rq.server, rq.level) = (named, rq.http().servers[named].level);
        }
        ssl::verify::check_name(rq, &rq.host)?;
    }
    rq.server = server;
    rq.level = rq.http().servers[server].level;
    Ok(())
}

/// Takes the target apart; its host, if it names one. nginx does so before it reads the fields, so that what is
/// wrong here is answered by the default server, whose `merge_slashes` holds for all servers of the address.
fn target(rq: &mut Request) -> Result<Option<Bytes>, u16> {
    let named = rq.conn.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    let server = match named {
        Some(name) => bound(&rq.local, &rq.conn).names.find(name.as_bytes(), None),
        None => rq.server,
    };
    let merge = *rq.http().servers[server].conf.core.merge_slashes;
    let Some(target) = uri::parse(rq.head.target(), merge) else {
        // It is known that there is one.
        rq.has_uri = true;
        return Err(400);
    };
    let host = target.host.as_deref().map(valid_host).transpose()?;
    (rq.uri, rq.args, rq.unparsed) = (target.path, target.args, target.unparsed);
    Ok(host)
}

/// A host in lower case, without port and trailing dot (ngx_http_validate_host).
pub fn valid_host(text: &[u8]) -> Result<Bytes, u16> {
    if let Some(length) = plain_host(text) {
        return Ok(Bytes::copy_from_slice(&text[..length]));
    }
    let bracketed = text.first() == Some(&b'[');
    let end = if bracketed {
        memchr::memchr(b']', text).ok_or(400u16)? + 1
    } else {
        text.iter().position(|b| *b == b':').unwrap_or(text.len())
    };
    let mut before = 0;
    for byte in text {
        if *byte <= 0x20 || matches!(byte, 0x7f | b'/') || *byte == b'.' && before == b'.' {
            return Err(400);
        }
        before = *byte;
    }
    let rest = &text[end..];
    if !rest.is_empty() && rest[0] != b':' {
        return Err(400);
    }
    let host = text[..end].strip_suffix(b".").unwrap_or(&text[..end]);
    if host.is_empty() {
        return Err(400);
    }
    Ok(host.to_ascii_lowercase().into())
}

/// How long the host is in a text that has it as it is taken: in lower case, perhaps with a port in digits behind it.
fn plain_host(text: &[u8]) -> Option<usize> {
    let mut before = b'.';
    let other = text.iter().position(|byte| {
        let plain = PLAIN[usize::from(*byte)] && (*byte != b'.' || before != b'.');
        before = *byte;
        !plain
    });
    let length = other.unwrap_or(text.len());
    let port = match &text[length..] {
        [b':', port @ ..] => port,
        rest => rest,
    };
    (length > 0 && text[length - 1] != b'.' && port.iter().all(u8::is_ascii_digit)).then_some(length)
}

/// Letters in lower case, digits, hyphens and dots.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let at = byte as u8;
        table[byte] = at.is_ascii_lowercase() || at.is_ascii_digit() || matches!(at, b'-' | b'.');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_as_nginx_takes_them() {
        for (text, want) in [
            ("Example.ORG:80", Ok("example.org")),
            ("example.org.", Ok("example.org")),
            ("[::1]:8080", Ok("[::1]")),
            ("", Err(400)),
            ("a/b", Err(400)),
            ("a..b", Err(400)),
            ("[::1", Err(400)),
            (":80", Err(400)),
            ("a.b-1.org:8080", Ok("a.b-1.org")),
            ("a.org:", Ok("a.org")),
            ("a.org:x/", Err(400)),
            ("a.org:x", Ok("a.org")),
            ("a.org.:80", Ok("a.org")),
            (".a", Ok(".a")),
        ] {
            let got = valid_host(text.as_bytes()).map(|b| String::from_utf8(b.to_vec()).unwrap());
            assert_eq!(got, want.map(str::to_string), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let head = |fields: &[(&str, &str)], version| {
            let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
            Head::from_parts(b"POST", b"/", version, fields)
        };
        let of =
            |fields: &[(&str, &str)]| framing(&head(fields, Version::Http11)).map(|(framing, _)| framing);
        assert!(matches!(of(&[("Content-Length", "5")]), Ok(Framing::Length(5))));
        assert!(matches!(of(&[("Transfer-Encoding", "chunked")]), Ok(Framing::Chunked(_))));
        assert_eq!(of(&[("Transfer-Encoding", "gzip")]).unwrap_err(), 501);
        for bad in [
            &[("Content-Length", "5"), ("Content-Length", "5")][..],
            &[("Content-Length", "+5")],
            &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        ] {
            assert_eq!(of(bad).unwrap_err(), 400, "{bad:?}");
        }
        assert_eq!(framing(&head(&[("Transfer-Encoding", "chunked")], Version::Http10)).unwrap_err(), 400);
    }
}
