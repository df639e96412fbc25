//! The parameters of a query that are not part of a key.
//!
//! While a key is evaluated the request shows another query (`$args`, `$query_string`, `$is_args`, `$request_uri`);
//! what goes upstream and into logs is the one that was sent. `$arg_name` names its parameter and has it.

use super::Shown;
use crate::cache::hls::life::Directives;
use crate::conf::{ConfError, ConfResult};
use crate::http::request::{Request, Shown as Query};
use crate::http::uri::{arg, unescape};
use bytes::Bytes;
use std::borrow::Cow;

/// How delivery directives begin: they say which state of a playlist is asked for (rfc8216bis, 6.2.5).
const DIRECTIVE: &str = "_HLS_";

/// A name, or how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    name: String,
    /// Whether more may follow.
    open: bool,
}

impl Pattern {
    /// Reads one; it may not be one of a delivery directive.
    pub fn read(text: &str) -> ConfResult<Pattern> {
        let (name, open) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if text.is_empty() || name.contains(['*', '&', '=', '#', '?']) {
            return Err(ConfError::new(format!("invalid parameter \"{text}\""))
                .hint("the name of a parameter of the query, as in token, or how it begins, as in utm_*"));
        }
        let pattern = Pattern { name: name.to_string(), open };
        if name.starts_with(DIRECTIVE) || (open && DIRECTIVE.starts_with(name)) {
            return Err(ConfError::new(format!("invalid parameter \"{text}\"")).hint(
                "_HLS_msn, _HLS_part and _HLS_skip ask for different playlists: they must be part of the key",
            ));
        }
        Ok(pattern)
    }

    fn fits(&self, name: &[u8]) -> bool {
        let own = self.name.as_bytes();
        if self.open { name.starts_with(own) } else { name == own }
    }
}

/// The parts of a query between its `&`.
pub fn pairs(args: &[u8]) -> impl Iterator<Item = &[u8]> {
    args.split(|b| *b == b'&').filter(|pair| !pair.is_empty())
}

/// The name of a parameter, decoded: what is ignored is what the upstream would read.
pub fn name(pair: &[u8]) -> Cow<'_, [u8]> {
    let name = &pair[..memchr::memchr(b'=', pair).unwrap_or(pair.len())];
    if memchr::memchr(b'%', name).is_some() { Cow::Owned(unescape(name)) } else { Cow::Borrowed(name) }
}

/// Whether a text has a parameter as a whole: `a=1` is not in `a=12`.
pub fn has_whole(text: &[u8], pair: &[u8]) -> bool {
    memchr::memmem::find_iter(text, pair).any(|at| {
        let (before, after) = (text[..at].last(), text.get(at + pair.len()));
        before.is_none_or(|b| matches!(b, b'?' | b'&' | b'\0')) && after.is_none_or(|b| *b == b'&')
    })
}

/// Whether a parameter of this name is a delivery directive.
pub fn is_directive(name: impl AsRef<[u8]>) -> bool {
    name.as_ref().starts_with(DIRECTIVE.as_bytes())
}

/// Whether one of the patterns fits a name.
pub fn is_ignored(patterns: &[Pattern], name: &[u8]) -> bool {
    !is_directive(name) && patterns.iter().any(|pattern| pattern.fits(name))
}

/// What is asked of a server that can wait.
pub fn directives(args: &[u8]) -> Directives {
    let number = |name: &[u8]| std::str::from_utf8(arg(args, name)?).ok()?.parse().ok();
    Directives { number: number(b"_HLS_msn"), part: number(b"_HLS_part") }
}

/// A query without what is ignored; `None` when nothing of it is.
fn without(args: &[u8], ignored: &dyn Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    if !pairs(args).any(|pair| ignored(&name(pair))) {
        return None;
    }
    let kept: Vec<&[u8]> = args.split(|b| *b == b'&').filter(|pair| !ignored(&name(pair))).collect();
    Some(kept.join(&b'&'))
}

/// The same of a path with its query; a `?` with nothing behind it goes, too.
fn target_without(target: &[u8], ignored: &dyn Fn(&[u8]) -> bool) -> Option<Bytes> {
    let at = memchr::memchr(b'?', target)?;
    let args = without(&target[at + 1..], ignored)?;
    let path = &target[..at];
    Some(if args.is_empty() { Bytes::copy_from_slice(path) } else { [path, b"?", &args].concat().into() })
}

/// Evaluates a key as if what is ignored had not been sent.
pub fn evaluated(rq: &Request, ignored: &dyn Fn(&[u8]) -> bool, text: &impl Fn(Shown<'_>) -> Bytes) -> Bytes {
    // Where the query that goes upstream was put together from variables it may differ from both.
    let strip = |target: &[u8]| target_without(target, ignored);
    let (args, unparsed) = (without(&rq.args, ignored), strip(&rq.unparsed));
    if args.is_none() && unparsed.is_none() {
        return text(Some(&strip));
    }
    let shown = Query {
        args: args.map_or_else(|| rq.args.clone(), Bytes::from),
        unparsed: unparsed.unwrap_or_else(|| rq.unparsed.clone()),
    };
    rq.showing(shown, || text(Some(&strip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(list: &[&str]) -> Vec<Pattern> {
        list.iter().map(|text| Pattern::read(text).unwrap()).collect()
    }

    fn left(args: &str, list: &[&str]) -> Option<String> {
        let patterns = patterns(list);
        let args = without(args.as_bytes(), &|name| is_ignored(&patterns, name))?;
        Some(String::from_utf8(args).unwrap())
    }

    #[test]
    fn what_is_named_goes_and_the_rest_stays_as_it_is() {
        let names = ["token", "utm_*", "_"];
        for (args, wanted) in [
            ("token=1", Some("")),
            ("a=1&token=2&b=3", Some("a=1&b=3")),
            ("token&a", Some("a")),
            ("token=&token=1&a=%20+", Some("a=%20+")),
            ("utm_source=x&utm=1&utm_", Some("utm=1")),
            ("a&&token=1&", Some("a&&")),
            ("%74oken=1&a", Some("a")),
            ("_=1234&b=1", Some("b=1")),
            ("Token=1&tokens=2&a=token=3&__=1", None),
            ("_HLS_msn=1&_HLS_part=2", None),
            ("%5fHLS_msn=1", None),
            ("", None),
            ("&", None),
        ] {
            assert_eq!(left(args, &names), wanted.map(str::to_string), "{args}");
        }
    }

    #[test]
    fn a_target_without_its_last_parameter_has_no_question_mark() {
        let patterns = patterns(&["t"]);
        let of = |target: &str| target_without(target.as_bytes(), &|name| is_ignored(&patterns, name));
        assert_eq!(of("/a?t=1").unwrap(), "/a");
        assert_eq!(of("/a?t=1&b").unwrap(), "/a?b");
        assert_eq!(of("/a?b?t=1"), None);
        assert_eq!(of("/a?"), None);
        assert_eq!(of("/t=1"), None);
    }

    #[test]
    fn a_parameter_is_found_as_a_whole_only() {
        for (text, found) in [
            ("/a?_HLS_msn=1", true),
            ("/a?x&_HLS_msn=1&y", true),
            ("/a?_HLS_msn=12&_HLS_msn=1", true),
            ("/a?_HLS_msn=12", false),
            ("/a?x_HLS_msn=1", false),
            ("/a_HLS_msn=1", false),
            ("/a", false),
        ] {
            assert_eq!(has_whole(text.as_bytes(), b"_HLS_msn=1"), found, "{text}");
        }
    }

    #[test]
    fn directives_cannot_be_ignored() {
        for text in ["_HLS_msn", "_HLS_x", "_HLS_*", "_HLS*", "_H*", "_*", "*"] {
            let error = Pattern::read(text).unwrap_err();
            assert_eq!(error.message, format!("invalid parameter \"{text}\""));
            assert!(error.hint.unwrap().contains("part of the key"), "{text}");
        }
        for text in ["", "a*b", "a=b", "a&b", "?a"] {
            assert!(Pattern::read(text).is_err(), "{text}");
        }
        for text in ["_", "_HLS", "_hls_msn", "__*", "t*"] {
            assert!(Pattern::read(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn directives_are_read() {
        let of = |args: &str| {
            let Directives { number, part } = directives(args.as_bytes());
            (number, part)
        };
        assert_eq!(of("_HLS_msn=12&_HLS_part=3"), (Some(12), Some(3)));
        assert_eq!(of("a=1&_HLS_msn=12"), (Some(12), None));
        assert_eq!(of("_HLS_msn=x&_HLS_part=-1"), (None, None));
        assert_eq!(of("_HLS_msn=99999999999999999999999"), (None, None));
    }

    proptest! {
        #[test]
        fn nothing_else_is_lost(args in "[ab_=&%7]{0,30}") {
            let patterns = patterns(&["a"]);
            let ignored = |name: &[u8]| is_ignored(&patterns, name);
            let kept = without(args.as_bytes(), &ignored).unwrap_or(args.clone().into_bytes());
            prop_assert!(!pairs(&kept).any(|pair| ignored(&name(pair))));
            let others = |args: &[u8]| pairs(args).filter(|p| !ignored(&name(p))).map(<[u8]>::to_vec).collect::<Vec<_>>();
            prop_assert_eq!(others(&kept), others(args.as_bytes()));
        }
    }
}
