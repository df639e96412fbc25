//! The head of an HTTP/2 request, as the rest of the server knows heads.

use crate::http::h1;
use crate::http::head::{Head, HeadError, HeadLimits, Version};
use crate::http::request::Request;
use http::request::Parts;

/// Makes a head of a request. The error is the status that it is answered with; the head is there for
/// the log all the same.
///
/// As in nginx, the bounds are those of the head as a whole and of each name and value; nginx ends the connection
/// where they do not hold.
pub fn read(parts: &Parts, limits: &HeadLimits) -> (Head, Option<u16>) {
    let target = parts.uri.path_and_query().map_or("", |p| p.as_str());
    let method = parts.method.as_str().as_bytes();
    let mut head = Head::from_parts(method, target.as_bytes(), Version::Http2, std::iter::empty());
    if target.len() > limits.line {
        return (head, Some(HeadError::LongLine.status()));
    }
    let error = fields(&mut head, parts, limits).err();
    let named = |b: &u8| matches!(b, b'A'..=b'Z' | b'_' | b'-');
    let error = match error {
        // What HTTP/1 takes for a method; upstreams are asked with it.
        None if !method.iter().all(named) => Some(HeadError::BadLine),
        None if matches!(parts.method, http::Method::CONNECT | http::Method::TRACE) => {
            Some(HeadError::Method)
        }
        None if !target.starts_with('/') => Some(HeadError::BadLine),
        None if !has_scheme(parts) => Some(HeadError::BadLine),
        other => other,
    };
    (head, error.map(HeadError::status))
}

/// Whether `:scheme` is one. The crate keeps it only beside an `:authority`, and takes what begins with a digit.
pub fn has_scheme(parts: &Parts) -> bool {
    let scheme = parts.uri.scheme_str().unwrap_or_default();
    parts.uri.authority().is_none() || scheme.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn fields(head: &mut Head, parts: &Parts, limits: &HeadLimits) -> Result<(), HeadError> {
    host(head, parts)?;
    let mut total = head.size();
    let mut cookies = Vec::new();
    for (count, (name, value)) in parts.headers.iter().enumerate() {
        let (name, value) = (name.as_str(), value.as_bytes());
        total += name.len() + value.len();
        if total > limits.total || name.len().max(value.len()) > limits.line || count >= limits.fields {
            return Err(HeadError::LongFields);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || (b == b'_' && limits.underscores);
        if name == "host" || limits.ignore_invalid && !name.bytes().all(plain) {
            continue;
        }
        // Crumbs of one cookie field, which HTTP/2 allows for the sake of compression.
        if name == "cookie" {
            if !cookies.is_empty() {
                cookies.extend_from_slice(b"; ");
            }
            cookies.extend_from_slice(value);
            continue;
        }
        head.add(name.as_bytes(), value);
    }
    if !cookies.is_empty() {
        head.add(b"cookie", &cookies);
    }
    Ok(())
}

/// `:authority`, or `host`; two that differ are refused, and so is none.
fn host(head: &mut Head, parts: &Parts) -> Result<(), HeadError> {
    let mut fields = parts.headers.get_all(http::header::HOST).iter().map(|v| v.as_bytes());
    let (field, second) = (fields.next(), fields.next());
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let host = match (authority, field) {
        _ if second.is_some() => return Err(HeadError::BadField),
        (Some(a), Some(f)) if !a.eq_ignore_ascii_case(f) => return Err(HeadError::BadField),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(HeadError::BadField),
    };
    head.add(b"host", host);
    Ok(())
}

/// Chooses the server and takes the target apart; the error is the status for what is wrong.
pub fn prepare(rq: &mut Request) -> Result<(), u16> {
    h1::choose_server(rq)?;
    if rq.head.all("content-length").nth(1).is_some() {
        return Err(400);
    }
    // The crate has seen to it that it is a number and that the body keeps to it.
    rq.body_length = rq.head.get("content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    crate::modules::ssl::verify::check_client(rq)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { line: 100, total: 400, underscores: false, ignore_invalid: true, fields: 10 };

    fn head(request: http::request::Builder) -> (Head, Option<u16>) {
        read(&request.body(()).unwrap().into_parts().0, &LIMITS)
    }

    fn request(uri: &str) -> http::request::Builder {
        http::Request::builder().version(http::Version::HTTP_2).uri(uri)
    }

    #[test]
    fn a_head_reads_as_that_of_http_1() {
        let asked = request("https://Example.org:8443/a?b=c")
            .header("cookie", "a=1")
            .header("x-y", "z")
            .header("bad_name", "z")
            .header("cookie", "b=2");
        let (head, error) = head(asked);
        assert_eq!(error, None);
        assert_eq!(head.line(), b"GET /a?b=c HTTP/2.0");
        let fields: Vec<_> =
            head.iter().map(|(n, v)| format!("{}: {}", n.escape_ascii(), v.escape_ascii())).collect();
        assert_eq!(fields, ["host: Example.org:8443", "x-y: z", "cookie: a=1; b=2"]);
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(head(request("https://a/").header("host", "b")).1, Some(400));
        assert_eq!(head(request("https://a/").header("host", "a")).1, None);
        assert_eq!(head(request("/").header("host", "a").header("host", "a")).1, Some(400));
        assert_eq!(head(request("/")).1, Some(400));
        assert_eq!(head(request("*").method("OPTIONS").header("host", "a")).1, Some(400));
        assert_eq!(head(request("https://a/").method("TRACE")).1, Some(405));
        assert_eq!(head(request("https://a/").method("VERSION-CONTROL")).1, None);
        assert_eq!(head(request("https://a/").method("get")).1, Some(400));
        assert_eq!(head(request("https://a/").method("G'T")).1, Some(400));
        assert_eq!(head(request(&format!("https://a/{}", "x".repeat(100)))).1, Some(414));
        assert_eq!(head(request("https://a/").header("x", "y".repeat(400))).1, Some(494));
        assert_eq!(head(request("https://a/").header("x", "y".repeat(100))).1, None);
        assert_eq!(head(request("https://a/").header("x", "y".repeat(101))).1, Some(494));
        assert_eq!(head(request("1x://a/")).1, Some(400));
        let many = (0..11).fold(request("https://a/"), |r, i| r.header(format!("x{i}"), "y"));
        assert_eq!(head(many).1, Some(494));
        let large = (0..5).fold(request("https://a/"), |r, i| r.header(format!("x{i}"), "y".repeat(90)));
        assert_eq!(head(large).1, Some(494));
    }
}
