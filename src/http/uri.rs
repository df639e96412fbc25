//! The target of a request: split, decoded and normalised as nginx does it
//! (`ngx_http_parse_complex_uri`), and encoded again where a value goes out.

use bytes::Bytes;
use std::ops::Range;

/// A request target taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The decoded path, dots and slashes resolved.
    pub path: Bytes,
    /// What follows `?`, as sent.
    pub args: Bytes,
    /// The host of an absolute target, as sent.
    pub host: Option<Bytes>,
    /// Path and query as sent, without scheme and host.
    pub unparsed: Bytes,
}

/// Where a target has its path and its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The path, which is in its normal form as it was sent.
    pub path: Range<usize>,
    /// What follows `?`, as sent.
    pub args: Range<usize>,
}

/// The parts of a target that begins with `/` and whose path is its normal form already, which is so for nearly all:
/// then [`parse`] gives the same path and the same query, and the whole target as the unparsed one. `None` for any other.
pub fn plain(target: &[u8], merge_slashes: bool) -> Option<Plain> {
    if target.first() != Some(&b'/') {
        return None;
    }
    let mut end = quiet_words(target);
    loop {
        match target.get(end..) {
            Some([]) | None | Some([b'?' | b'#', ..]) => break,
            Some([b'%' | 0, ..]) => return None,
            Some([b'/', b'/', ..]) if merge_slashes => return None,
            // A segment of one dot or two; any other that begins with a dot is a name.
            Some([b'/', b'.'] | [b'/', b'.', b'/' | b'?' | b'#', ..]) => return None,
            Some([b'/', b'.', b'.'] | [b'/', b'.', b'.', b'/' | b'?' | b'#', ..]) => return None,
            Some(_) => end += 1,
        }
    }
    let args = match target.get(end) {
        Some(b'?') => {
            let from = end + 1;
            from..memchr::memchr(b'#', &target[from..]).map_or(target.len(), |fragment| from + fragment)
        }
        _ => end..end,
    };
    Some(Plain { path: 0..end, args })
}

/// How many bytes at the beginning, eight at a time, have neither an end of the path in them nor an escape nor a zero, nor
/// a slash with a dot or a slash behind it, be it in the next eight.
fn quiet_words(text: &[u8]) -> usize {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    /// A word of eight times this byte.
    const fn all(byte: u8) -> u64 {
        0x0101_0101_0101_0101 * byte as u64
    }
    // The highest bit of each byte that is zero, and no other.
    let zeros = |word: u64| !(((word & LOW) + LOW) | word | LOW);
    let mut quiet = 0;
    let mut after_slash = 0;
    for word in text.chunks_exact(8) {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        let slashes = zeros(word ^ all(b'/'));
        let slashes_and_dots = zeros((word | all(1)) ^ all(b'/'));
        let ends = zeros(word ^ all(b'?')) | zeros(word ^ all(b'#')) | zeros(word ^ all(b'%')) | zeros(word);
        if ends | (slashes << 8 | after_slash) & slashes_and_dots != 0 {
            // What came last in the eight before belongs to what is found here.
            return quiet - usize::from(after_slash != 0);
        }
        after_slash = slashes >> 56;
        quiet += 8;
    }
    // What is left is looked at with some of what was, of which only the slash at its beginning is not known.
    if let (Some(word), true) = (text.last_chunk(), text.len() > quiet) {
        let word = u64::from_le_bytes(*word);
        let slashes = zeros(word ^ all(b'/'));
        let slashes_and_dots = zeros((word | all(1)) ^ all(b'/'));
        let ends = zeros(word ^ all(b'?')) | zeros(word ^ all(b'#')) | zeros(word ^ all(b'%')) | zeros(word);
        if ends | slashes << 8 & slashes_and_dots == 0 {
            return text.len();
        }
    }
    quiet - usize::from(after_slash != 0)
}

/// Takes `target` apart; `None` is a bad request.
pub fn parse(target: &[u8], merge_slashes: bool) -> Option<Target> {
    if let Some(Plain { path, args }) = plain(target, merge_slashes) {
        let unparsed = Bytes::copy_from_slice(target);
        return Some(Target { path: unparsed.slice(path), args: unparsed.slice(args), host: None, unparsed });
    }
    let (host, rest) = if target.first() == Some(&b'/') {
        (None, target)
    } else {
        let after = &target[memchr::memmem::find(target, b"://")? + 3..];
        let end = after.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(after.len());
        (Some(Bytes::copy_from_slice(&after[..end])), &after[end..])
    };
    if host.as_ref().is_some_and(|host| !is_authority(host)) {
        return None;
    }
    let unparsed =
        if rest.first() == Some(&b'/') { Bytes::copy_from_slice(rest) } else { [b"/", rest].concat().into() };
    let (path, args) = split(&unparsed, merge_slashes)?;
    Some(Target { path, args, host, unparsed })
}

/// Whether it is a host, or an address in brackets, and perhaps a port; nginx takes no user's name.
fn is_authority(text: &[u8]) -> bool {
    let host = match memchr::memchr(b']', text) {
        Some(end) if text[0] == b'[' => end + 1,
        _ => {
            let other = |b: &u8| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
            text.iter().position(other).unwrap_or(text.len())
        }
    };
    let port = &text[host..];
    host > 0 && (port.is_empty() || port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit))
}

/// The decoded path and the query of a target that begins with `/`.
pub fn split(target: &[u8], merge_slashes: bool) -> Option<(Bytes, Bytes)> {
    let end = target.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(target.len());
    let args = match target.get(end) {
        Some(b'?') => {
            let args = &target[end + 1..];
            &args[..memchr::memchr(b'#', args).unwrap_or(args.len())]
        }
        _ => &[],
    };
    let path = normalise(&target[..end], merge_slashes)?;
    Some((path.into(), Bytes::copy_from_slice(args)))
}

/// Decodes `%XX`, then resolves `.`, `..` and, when asked, repeated slashes. `None` for a broken
/// escape, a zero byte, or a path that climbs above the root.
fn normalise(path: &[u8], merge_slashes: bool) -> Option<Vec<u8>> {
    let plain = !path.iter().any(|b| matches!(b, b'%' | b'\0'))
        && memchr::memmem::find(path, b"/.").is_none()
        && memchr::memmem::find(path, b"//").is_none();
    if plain {
        return Some(path.to_vec());
    }
    let decoded = decode(path)?;
    let mut out: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut segments = decoded[1..].split(|b| *b == b'/').peekable();
    out.push(b'/');
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => {
                // Drop the trailing slash, then the segment before it.
                if out.len() == 1 {
                    return None;
                }
                out.pop();
                while out.last() != Some(&b'/') {
                    out.pop();
                }
            }
            b"" if !last && merge_slashes => {}
            _ => {
                out.extend_from_slice(segment);
                if !last {
                    out.push(b'/');
                }
            }
        }
    }
    Some(out)
}

fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = (*bytes.next()? as char).to_digit(16)?;
                let low = (*bytes.next()? as char).to_digit(16)?;
                (high * 16 + low) as u8
            }
            other => *other,
        };
        if byte == 0 {
            return None;
        }
        out.push(byte);
    }
    Some(out)
}

/// Decodes what can be decoded and leaves the rest, for arguments and rewrites (ngx_unescape_uri).
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digit = |i: usize| text.get(i).and_then(|b| (*b as char).to_digit(16));
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Decodes what stands encoded in a redirect without need, up to its query (ngx_unescape_uri with
/// NGX_UNESCAPE_REDIRECT): printable characters above `%`; the rest stays as it is.
pub fn unescape_redirect(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digit = |i: usize| text.get(i).and_then(|b| (*b as char).to_digit(16));
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'?', ..) => {
                out.extend_from_slice(&text[at..]);
                return out;
            }
            (b'%', Some(high), Some(low)) => {
                let byte = (high * 16 + low) as u8;
                if byte > b'%' && byte < 0x7f {
                    out.push(byte);
                } else {
                    out.extend_from_slice(&text[at..at + 3]);
                }
                at += 3;
            }
            // A broken escape loses its `%`, and if only its second digit is none, all of it.
            (b'%', Some(_), None) => at += 3,
            (b'%', None, _) => {
                out.extend(text.get(at + 1));
                at += 2;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// What is being encoded; nginx escapes a different set in each place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A path: blanks, `#`, `%`, `?`, controls and bytes above 0x7e.
    Uri,
    /// A query made of a captured part: also `&`, `+`.
    Args,
    /// One component: everything but unreserved characters.
    Component,
}

/// Encodes `text`.
pub fn escape(text: &[u8], kind: Escape) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    escape_into(text, kind, &mut out);
    out
}

/// Appends `text` encoded.
pub fn escape_into(text: &[u8], kind: Escape, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text {
        if must_escape(*byte, kind) {
            out.extend_from_slice(&[b'%', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
        } else {
            out.push(*byte);
        }
    }
}

/// Whether a path has to be encoded before it goes out.
pub fn needs_escape(text: &[u8], kind: Escape) -> bool {
    text.iter().any(|b| must_escape(*b, kind))
}

fn must_escape(byte: u8, kind: Escape) -> bool {
    if byte <= 0x20 || byte >= 0x7f {
        return true;
    }
    let common = matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' | b'%');
    match kind {
        Escape::Uri => common || byte == b'?',
        Escape::Args => common || matches!(byte, b'&' | b'+' | b'?' | b';'),
        Escape::Component => !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')),
    }
}

/// The value of `name` in a query, as sent (ngx_http_arg): names are case-insensitive.
pub fn arg<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    args.split(|b| *b == b'&').find_map(|pair| {
        let value = pair.get(name.len() + 1..)?;
        (pair[name.len()] == b'=' && pair[..name.len()].eq_ignore_ascii_case(name)).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Option<String> {
        parse(target.as_bytes(), true).map(|t| String::from_utf8_lossy(&t.path).into_owned())
    }

    #[test]
    fn paths_are_resolved_as_nginx_resolves_them() {
        for (target, want) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/./b/.", Some("/a/b/")),
            ("/a/..", Some("/")),
            ("/a//b///c", Some("/a/b/c")),
            ("/%61%2fb", Some("/a/b")),
            ("/a%2e%2e/b", Some("/a../b")),
            ("/%2e%2e/b", None),
            ("/..", None),
            ("/a%00", None),
            ("/a%zz", None),
            ("/a?b=/../c", Some("/a")),
            ("/a#x?y", Some("/a")),
            ("http://h:1/p?q", Some("/p")),
            ("http://h", Some("/")),
            ("http:///x", None),
            ("/.hidden", Some("/.hidden")),
            ("/a//", Some("/a/")),
        ] {
            assert_eq!(path(target).as_deref(), want, "{target}");
        }
    }

    #[test]
    fn queries_are_kept_as_sent() {
        let t = parse(b"/a?x=%20&y#z", true).unwrap();
        assert_eq!(&t.args[..], b"x=%20&y");
        assert_eq!(arg(&t.args, b"X"), Some(&b"%20"[..]));
        assert_eq!(arg(&t.args, b"y"), None);
        assert_eq!(arg(b"ab=1&b=2", b"b"), Some(&b"2"[..]));
    }

    #[test]
    fn a_path_in_its_normal_form_is_known_by_looking_at_it() {
        let parts =
            |target: &'static str| plain(target.as_bytes(), true).map(|p| (&target[p.path], &target[p.args]));
        for (target, path, args) in [
            ("/", "/", ""),
            ("/live/stream/segment-000123.ts", "/live/stream/segment-000123.ts", ""),
            ("/a/b/?x=%20//../&y#z?", "/a/b/", "x=%20//../&y"),
            ("/1234567/.well-known/a..b/...", "/1234567/.well-known/a..b/...", ""),
            ("/a#b?c", "/a", ""),
            ("/a?", "/a", ""),
        ] {
            assert_eq!(parts(target), Some((path, args)), "{target}");
        }
        for target in
            ["", "*", "a/b", "http://h/", "/a/./b", "/1234567/..", "/a%20b", "/1234567//a", "/a\0b", "/a/."]
        {
            assert_eq!(parts(target), None, "{target}");
        }
        assert_eq!(plain(b"/a//b", false), Some(Plain { path: 0..5, args: 5..5 }));
    }

    proptest::proptest! {
        #[test]
        fn a_path_never_leaves_the_root(target in "/[a-z./%2eE0]{0,40}") {
            if let Some(t) = parse(target.as_bytes(), true) {
                proptest::prop_assert!(t.path.starts_with(b"/"));
                proptest::prop_assert!(!t.path.split(|b| *b == b'/').any(|s| s == b".." || s == b"."));
            }
        }

        /// What is plain is what the long way leaves as it is.
        #[test]
        fn plain_agrees_with_the_long_way(target in "/[a-c/.?#%2e\\x00\\xff]{0,40}", merge in proptest::bool::ANY) {
            let target = target.as_bytes();
            let split = split(target, merge);
            let expected = split.filter(|(path, _)| target.starts_with(path) && {
                let rest = &target[path.len()..];
                matches!(rest.first(), None | Some(b'?' | b'#')) && !path.contains(&b'%')
            });
            let got = plain(target, merge);
            let parts = got.map(|p| (Bytes::copy_from_slice(&target[p.path]), Bytes::copy_from_slice(&target[p.args])));
            proptest::prop_assert_eq!(parts, expected);
        }
    }
}
