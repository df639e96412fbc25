//! `Accept-Encoding` in one form for all requests that take the same codings (RFC 9110, 12.5.3), so that
//! browsers share variants: sorted, whichever one likes best. What an upstream sends to one of them the
//! others take as well.

use crate::http::head::Head;
use smallvec::SmallVec;

/// Appends which codings a request takes. False, and nothing is appended, where the field is not well
/// formed: then its text counts.
pub fn put(asked: &Head, text: &mut Vec<u8>) -> bool {
    let mut taken: SmallVec<[&[u8]; 16]> = SmallVec::new();
    let mut refused: SmallVec<[&[u8]; 4]> = SmallVec::new();
    let mut there = false;
    for element in asked.all("accept-encoding").inspect(|_| there = true).flat_map(elements) {
        match coding(element) {
            Some((coding, true)) => taken.push(coding),
            Some((coding, false)) => refused.push(coding),
            None => return false,
        }
    }
    // No field at all takes anything; one that names nothing takes only what is not coded.
    if !there {
        return true;
    }
    for list in [&mut taken[..], &mut refused[..]] {
        list.sort_unstable_by(|a, b| lower(a).cmp(lower(b)));
    }
    taken.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    refused.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    let is_in = |list: &[&[u8]], name: &[u8]| list.iter().any(|coding| coding.eq_ignore_ascii_case(name));
    if refused.iter().any(|coding| is_in(&taken, coding)) {
        return false;
    }
    text.push(b'=');
    for coding in taken.iter().filter(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        text.extend(lower(coding));
        text.push(b',');
    }
    // What is not coded is taken unless it is refused, by name or with all the rest.
    let plain = is_in(&taken, b"identity") || !is_in(&refused, b"identity") && !is_in(&refused, b"*");
    if !plain {
        text.extend_from_slice(b"-identity,");
    }
    // With a star whatever is not refused is taken.
    let any = is_in(&taken, b"*");
    for coding in refused.iter().filter(|coding| any && !coding.eq_ignore_ascii_case(b"identity")) {
        text.push(b'-');
        text.extend(lower(coding));
        text.push(b',');
    }
    true
}

fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn lower(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(u8::to_ascii_lowercase)
}

/// A coding by its one name, and whether it has any weight.
fn coding(element: &[u8]) -> Option<(&[u8], bool)> {
    let mut parts = element.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty() && name.iter().all(|b| is_token(*b)))?;
    let weighs = match (parts.next(), parts.next()) {
        (None, _) => true,
        (Some(weight), None) => {
            let digits = weight.strip_prefix(b"q=").or_else(|| weight.strip_prefix(b"Q="))?;
            let valid = match digits {
                [b'0' | b'1'] => true,
                [b'0', b'.', rest @ ..] => rest.len() <= 3 && rest.iter().all(u8::is_ascii_digit),
                [b'1', b'.', rest @ ..] => rest.len() <= 3 && rest.iter().all(|b| *b == b'0'),
                _ => false,
            };
            valid.then(|| digits.iter().any(|b| matches!(b, b'1'..=b'9')))?
        }
        _ => return None,
    };
    // The old names are the same codings (RFC 9110, 8.4.1).
    let name = match name {
        _ if name.eq_ignore_ascii_case(b"x-gzip") => &b"gzip"[..],
        _ if name.eq_ignore_ascii_case(b"x-compress") => b"compress",
        name => name,
    };
    Some((name, weighs))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use crate::cache::vary::Vary;
    use crate::http::head::{Head, Version};
    use crate::http::response::Fields;
    use proptest::prelude::*;

    fn asked(fields: &[(&str, &str)]) -> Head {
        let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        Head::from_parts(b"GET", b"/", Version::Http11, fields)
    }

    fn same(a: &str, b: &str) -> bool {
        let mut fields = Fields::default();
        fields.add_static("Vary", "Accept-Encoding");
        let vary = Vary::of(&fields, &asked(&[("Accept-Encoding", a)])).unwrap().unwrap();
        vary.suits(&asked(&[("accept-encoding", b)]))
    }

    #[test]
    fn requests_that_take_the_same_codings_are_one_variant() {
        for (a, b) in [
            ("gzip, br", "br, gzip"),
            ("gzip, deflate, br, zstd", "br;q=1.0, gzip;q=0.8, deflate;q=0.1 , ZSTD"),
            ("x-gzip", "gzip"),
            ("gzip, x-gzip", "GZIP"),
            ("compress", "x-compress;q=0.001"),
            ("gzip, identity", "gzip"),
            ("gzip, identity;q=0.5, *;q=0", "gzip"),
            ("gzip, br;q=0", "gzip"),
            ("gzip;q=0", "identity"),
            ("", "identity"),
            ("gzip, *;q=0", "gzip, identity;q=0.0"),
            (",gzip,,", "gzip"),
            // Not well formed, and the same text but for blanks and case.
            ("gzip;q=2, br", "GZIP;q=2,br"),
        ] {
            assert!(same(a, b), "{a} | {b}");
            assert!(same(b, a), "{b} | {a}");
        }
    }

    #[test]
    fn requests_that_take_other_codings_are_other_variants() {
        for (a, b) in [
            ("gzip", "br"),
            ("gzip", "gzip, br"),
            ("gzip", "gzip;q=0"),
            ("gzip", "gzip, *"),
            ("gzip", "gzip, identity;q=0"),
            ("*", "*, gzip;q=0"),
            ("*", "*, identity;q=0"),
            ("*;q=0", "identity"),
            ("gzip", "gzip;q=2"),
            ("gzip", "gzip;x=1"),
            ("gzip", "gzip, gzip;q=0"),
            ("gzip", "gzip br"),
        ] {
            assert!(!same(a, b), "{a} | {b}");
            assert!(!same(b, a), "{b} | {a}");
        }
    }

    #[test]
    fn who_says_nothing_takes_anything_and_who_says_an_empty_list_what_is_not_coded() {
        let mut fields = Fields::default();
        fields.add_static("Vary", "Accept-Encoding");
        let vary = Vary::of(&fields, &asked(&[])).unwrap().unwrap();
        assert!(!vary.suits(&asked(&[("Accept-Encoding", "")])));
        assert!(vary.suits(&asked(&[("Cookie", "a=1")])));
    }

    proptest! {
        #[test]
        fn neither_order_nor_weight_counts(
            list in prop::sample::subsequence(vec!["gzip", "br", "zstd", "deflate", "dcb", "*"], 0..6),
            weights in prop::collection::vec(1..1000, 6),
        ) {
            let weighed: Vec<_> =
                list.iter().zip(weights).rev().map(|(coding, q)| format!("{coding};q=0.{q:03}")).collect();
            prop_assert!(same(&list.join(", "), &weighed.join(",")));
        }

        #[test]
        fn no_list_of_codings_panics(value in "[ -~]{0,60}") {
            prop_assert!(same(&value, &value));
        }
    }
}
