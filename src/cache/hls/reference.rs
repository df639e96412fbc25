//! What a reference in a playlist leads to (RFC 3986, 5.2), as far as a cache tells resources apart: by host
//! and decoded path.

use crate::http::uri;
use bytes::Bytes;

/// Where a reference leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host, lower case, without port; `None` is the playlist's own.
    pub host: Option<String>,
    /// The path, decoded and with dots and slashes resolved, as that of a request.
    pub path: Bytes,
}

/// Where `reference` leads that stands in the playlist at `base`, a path as sent by a client, perhaps with
/// its query. `None`: to nothing that is had by HTTP, or it is broken.
pub fn resolve(base: &[u8], reference: &str) -> Option<Place> {
    let reference = reference.split('#').next().unwrap_or_default();
    let rest = match scheme(reference) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            // Without an authority it would be a path of an older grammar.
            rest.starts_with("//").then_some(rest)?
        }
        Some(_) => return None,
        None => reference,
    };
    if let Some(rest) = rest.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let path = path(&rest.as_bytes()[end..])?;
        return Some(Place { host: Some(host(&rest[..end])?), path });
    }
    let base = &base[..base.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(base.len())];
    let target = match rest.as_bytes() {
        [] | [b'?', ..] => return Some(Place { host: None, path: path(base)? }),
        [b'/', ..] => path(rest.as_bytes())?,
        relative => {
            let directory = base.iter().rposition(|b| *b == b'/').map_or(&b"/"[..], |at| &base[..=at]);
            path(&[directory, relative].concat())?
        }
    };
    Some(Place { host: None, path: target })
}

/// The scheme of a reference that has one, and what follows the colon.
fn scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let mut bytes = scheme.bytes();
    let valid = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    valid.then_some((scheme, rest))
}

/// The host of an authority.
fn host(authority: &str) -> Option<String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => host,
    };
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// The decoded path of a target. More `..` than there are directories lead to the root (5.2.4).
fn path(target: &[u8]) -> Option<Bytes> {
    let end = target.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(target.len());
    let target = if end == 0 { &b"/"[..] } else { &target[..end] };
    if let Some((path, _)) = uri::split(target, true) {
        return Some(path);
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = target.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b".." => {
                kept.pop();
                if last {
                    kept.push(b"");
                }
            }
            b"." if last => kept.push(b""),
            b"." => {}
            _ => kept.push(segment),
        }
    }
    let flat = [b"/", &kept.join(&b'/')[..]].concat();
    Some(uri::split(&flat, true)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(base: &str, reference: &str) -> Option<(Option<String>, String)> {
        let place = resolve(base.as_bytes(), reference)?;
        Some((place.host, String::from_utf8(place.path.to_vec()).unwrap()))
    }

    /// RFC 3986, 5.4: the examples that are http, by their paths; the base is `http://a/b/c/d;p?q`.
    #[test]
    fn the_examples_of_the_rfc() {
        for (reference, path) in [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            ("/g", "/g"),
            ("?y", "/b/c/d;p"),
            ("g?y", "/b/c/g"),
            ("#s", "/b/c/d;p"),
            ("g#s", "/b/c/g"),
            ("g?y#s", "/b/c/g"),
            (";x", "/b/c/;x"),
            ("g;x", "/b/c/g;x"),
            ("", "/b/c/d;p"),
            (".", "/b/c/"),
            ("./", "/b/c/"),
            ("..", "/b/"),
            ("../", "/b/"),
            ("../g", "/b/g"),
            ("../..", "/"),
            ("../../", "/"),
            ("../../g", "/g"),
            ("../../../g", "/g"),
            ("../../../../g", "/g"),
            ("/./g", "/g"),
            ("/../g", "/g"),
            ("g.", "/b/c/g."),
            (".g", "/b/c/.g"),
            ("./../g", "/b/g"),
            ("./g/.", "/b/c/g/"),
            ("g/../h", "/b/c/h"),
            ("g;x=1/../y", "/b/c/y"),
            ("g?y/../x", "/b/c/g"),
        ] {
            assert_eq!(to("/b/c/d;p?q", reference), Some((None, path.into())), "{reference}");
        }
        assert_eq!(to("/b/c/d;p?q", "//g"), Some((Some("g".into()), "/".into())));
        assert_eq!(to("/b/c/d;p?q", "g:h"), None);
        assert_eq!(to("/b/c/d;p?q", "http:g"), None);
    }

    #[test]
    fn hosts_and_escapes() {
        for (reference, host, path) in [
            ("https://CDN.example:8443/x/s%201.ts?t=1", Some("cdn.example"), "/x/s 1.ts"),
            ("//cdn.example/x//y.ts", Some("cdn.example"), "/x/y.ts"),
            ("http://user@h", Some("h"), "/"),
            ("s%2Fa.ts", None, "/l/s/a.ts"),
            ("a:b.ts/c", None, ""),
            ("./a:b.ts", None, "/l/a:b.ts"),
        ] {
            let want = (!path.is_empty()).then(|| (host.map(str::to_string), path.to_string()));
            assert_eq!(to("/l/live.m3u8?x=/y/", reference), want, "{reference}");
        }
        assert_eq!(to("/l/p.m3u8", "data:text/plain,x"), None);
        assert_eq!(to("/l/p.m3u8", "skd://key"), None);
        assert_eq!(to("/l/p.m3u8", "a%zz.ts"), None);
    }

    proptest! {
        #[test]
        fn any_reference_leads_below_the_root_or_nowhere(base in "/[a-z./%0-9?]{0,20}", reference in ".{0,40}") {
            if let Some(place) = resolve(base.as_bytes(), &reference) {
                prop_assert!(place.path.starts_with(b"/"));
                prop_assert!(!place.path.windows(4).any(|w| w == b"/../"));
            }
        }
    }
}
