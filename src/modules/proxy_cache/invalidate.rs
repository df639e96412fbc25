//! What a request that changes something does to what is kept (RFC 9111, 4.4), where
//! `proxy_cache_rfc9111` is on: once it was answered without an error, the answer to GET for the same URI
//! is no longer served, nor those for the URIs that `Location` and `Content-Location` name, if they are of
//! the same origin.
//!
//! The key is the one that GET for that URI would have: for the request's own with everything that rewrites
//! made of it; for the others that of the location which the URI leads to, with its own key, and before any
//! rewrite. Where `proxy_pass` has variables and there is no `proxy_cache_key`, those others have none.

use super::{Active, key, place};
use crate::cache::key::Key;
use crate::cache::policy::Rfc9111;
use crate::cache::zone::Zone;
use crate::http::head::Method;
use crate::http::phases::Flow;
use crate::http::request::{Address, Request};
use crate::http::router::{self, Located};
use crate::http::uri;
use bytes::Bytes;
use std::sync::Arc;

/// What a request has changed that was answered with `status`, and whose answer goes on as `flow`.
pub fn changed(rq: &Request, status: u16, flow: &Flow) -> Vec<(Arc<Zone>, Key)> {
    // What is safe changes nothing; what POST is kept for is a question and not a change.
    if matches!(rq.method, Method::Get | Method::Head | Method::Options | Method::Trace)
        || !(200..400).contains(&status)
        || active(rq).is_none()
        || super::wants(rq)
    {
        return Vec::new();
    }
    let mut own = as_get(rq);
    own.proxy_target = rq.proxy_target.clone();
    let mut others = Vec::new();
    if let Flow::Respond(response) = flow {
        let named = ["location", "content-location"].into_iter().filter_map(|name| response.fields.get(name));
        others.extend(named.filter_map(|value| leads_to(rq, &same_origin(rq, value)?)));
    }
    // A zone that is not there was logged.
    let kept = |get: &Request| place(get).ok().map(|(active, zone)| (zone, key(&active, get)));
    std::iter::once(own).chain(others).filter_map(|get| kept(&get)).collect()
}

fn active(rq: &Request) -> Option<&Arc<Active>> {
    rq.loc().proxy_cache.active.as_ref().filter(|active| active.policy.rfc9111 != Rfc9111::Off)
}

fn as_get(rq: &Request) -> Request {
    let mut get = rq.copy();
    get.method = Method::Get;
    get.main_method = Some(Method::Get);
    get
}

/// The request for another URI of this server, where it is one whose answers are kept.
fn leads_to(rq: &Request, target: &[u8]) -> Option<Request> {
    let server = &rq.http().servers[rq.server];
    let target = uri::parse(target, *server.conf.core.merge_slashes)?;
    let mut get = as_get(rq);
    (get.uri, get.args, get.unparsed) = (target.path, target.args, target.unparsed);
    (get.internal, get.pristine, get.valid_location) = (false, true, true);
    let Located::Level(level) = router::locate(&get, server.level) else { return None };
    get.level = level;
    active(&get)?;
    get.proxy_target = get.loc().proxy.pass.as_ref().and_then(|pass| pass.fixed_target(&get)).map(Arc::new);
    let keyed = get.loc().proxy_cache.key.is_some() || get.proxy_target.is_some();
    keyed.then_some(get)
}

/// The path and query that a reference comes to, where its origin is the request's.
fn same_origin(rq: &Request, reference: &[u8]) -> Option<Bytes> {
    let reference = reference.split(|b| *b == b'#').next().unwrap_or_default();
    let scheme = rq.scheme().as_bytes();
    let (authority, rest) = match split_scheme(reference) {
        Some((other, rest)) if other.eq_ignore_ascii_case(scheme) => split_authority(rest)?,
        Some(_) => return None,
        None if reference.starts_with(b"//") => split_authority(reference)?,
        None => {
            let end = rq.unparsed.iter().position(|b| *b == b'?').unwrap_or(rq.unparsed.len());
            return Some(merge(&rq.unparsed[..end], reference));
        }
    };
    let default = if scheme == b"https" { 443 } else { 80 };
    let own = rq.head.get("host").unwrap_or_default();
    let ours = match (port(own), &rq.conn.local) {
        (Some(port), _) => port?,
        (None, _) if !own.is_empty() => default,
        (None, Address::Inet(address)) => address.port(),
        (None, Address::Unix(_)) => default,
    };
    let theirs = port(authority).unwrap_or(Some(default))?;
    let host = crate::http::h1::valid_host(authority).ok()?;
    (host == rq.host && theirs == ours).then(|| merge(b"/", rest))
}

/// Scheme and the rest; `None` when there is no scheme.
fn split_scheme(reference: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = reference.iter().position(|b| matches!(b, b':' | b'/' | b'?'))?;
    (reference[colon] == b':').then(|| (&reference[..colon], &reference[colon + 1..]))
}

/// Of `//host:port/path` the authority and what follows it.
fn split_authority(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"//")?;
    Some(text.split_at(text.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(text.len())))
}

/// The port of an authority: none, or one that may not be read.
fn port(authority: &[u8]) -> Option<Option<u16>> {
    let host = authority.iter().rposition(|b| *b == b']').map_or(0, |end| end + 1);
    let colon = host + authority[host..].iter().position(|b| *b == b':')?;
    let digits = std::str::from_utf8(&authority[colon + 1..]).ok();
    Some(digits.and_then(|digits| digits.parse().ok()))
}

/// The path that a relative reference comes to, from the path `base` (RFC 3986, 5.2.3); its dots are
/// resolved by who takes it apart.
fn merge(base: &[u8], reference: &[u8]) -> Bytes {
    let kept = match reference.first() {
        Some(b'/') => 0,
        None | Some(b'?') => base.len(),
        Some(_) => base.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1),
    };
    [&base[..kept], reference].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::Running;

    #[test]
    fn references_of_the_same_origin() {
        let running = Running::start("server { listen LISTEN; }");
        let mut rq = running.request("/a/b?c=d");
        rq.unparsed = Bytes::from_static(b"/a/b?c=d");
        rq.head.add(b"Host", b"here.test:8080");
        rq.host = Bytes::from_static(b"here.test");
        for (reference, wanted) in [
            ("/x?y", Some("/x?y")),
            ("/x#y", Some("/x")),
            ("x", Some("/a/x")),
            ("../x", Some("/a/../x")),
            ("?y", Some("/a/b?y")),
            ("", Some("/a/b")),
            ("http://here.test:8080/x", Some("/x")),
            ("http://here.test:8080", Some("/")),
            ("http://here.test:8080?y", Some("/?y")),
            ("//here.test:8080/x", Some("/x")),
            ("HTTP://HERE.test:8080/x", Some("/x")),
            ("https://here.test:8080/x", None),
            ("http://here.test/x", None),
            ("http://here.test:80800/x", None),
            ("http://user@here.test:8080/x", None),
            ("http://elsewhere.test/x", None),
            ("http:/x", None),
            ("ftp://x", None),
            ("mailto:x", None),
        ] {
            let got = same_origin(&rq, reference.as_bytes());
            assert_eq!(got.as_deref(), wanted.map(str::as_bytes), "{reference}");
        }
    }
}
