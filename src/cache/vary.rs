//! `Vary`: which of a request's fields make it another variant, as nginx reads them; but what only looks
//! different, above all in `Accept-Encoding`, is one variant here.

use super::codings;
use crate::http::head::Head;
use crate::http::response::Fields;

/// The longest `Vary` that is understood, as in nginx; a longer one prevents caching.
const LONGEST: usize = 128;

/// The names a response varies by, and the variant it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vary {
    names: Box<[Box<str>]>,
    variant: u128,
}

/// A `Vary` with which nothing can be kept: `*`, or one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unkeepable;

impl Vary {
    /// What `fields` of an answer to `asked` vary by; `None` when by nothing.
    pub fn of(fields: &Fields, asked: &Head) -> Result<Option<Vary>, Unkeepable> {
        let mut names: Vec<Box<str>> = Vec::new();
        let mut length = 0;
        for value in fields.all("vary") {
            length += value.len();
            for name in tokens(value) {
                if name == b"*" {
                    return Err(Unkeepable);
                }
                names.push(String::from_utf8_lossy(name).to_ascii_lowercase().into());
            }
        }
        if length > LONGEST {
            return Err(Unkeepable);
        }
        if names.is_empty() {
            return Ok(None);
        }
        let names = names.into_boxed_slice();
        let variant = variant(&names, asked);
        Ok(Some(Vary { names, variant }))
    }

    /// What it was made of, as it is kept on disk: names in lower case, and the variant.
    pub fn parts(&self) -> (&[Box<str>], u128) {
        (&self.names, self.variant)
    }

    /// What [`Self::parts`] was.
    pub fn from_parts(names: Box<[Box<str>]>, variant: u128) -> Vary {
        Vary { names, variant }
    }

    /// The variant of the response that the request `asked` would get.
    pub fn variant_for(&self, asked: &Head) -> u128 {
        variant(&self.names, asked)
    }

    /// The variant this is.
    pub fn variant(&self) -> u128 {
        self.variant
    }

    /// Whether the request `asked` gets this variant.
    pub fn suits(&self, asked: &Head) -> bool {
        self.variant_for(asked) == self.variant
    }

    /// Bytes it takes, about.
    pub fn size(&self) -> usize {
        self.names.iter().map(|n| n.len() + 16).sum::<usize>() + 32
    }
}

/// Hashes the named fields of a request, as far as they differ in meaning (RFC 9111, 4.1). Blanks and
/// commas between the parts of a value do not count: `gzip, br` and `gzip,br` are one variant.
fn variant(names: &[Box<str>], asked: &Head) -> u128 {
    let mut text = Vec::with_capacity(64);
    for name in names {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        // Codings, ranges of languages and charsets have no case (RFC 9110, 12.5).
        let cased = !matches!(&**name, "accept-encoding" | "accept-language" | "accept-charset");
        if &**name != "accept-encoding" {
            put_tokens(asked, name, cased, &mut text);
        } else if !codings::put(asked, &mut text) {
            // What is not well formed is no other one's variant, whatever it says.
            text.push(b'?');
            put_tokens(asked, name, cased, &mut text);
        }
        text.extend_from_slice(b"\r\n");
    }
    // The same in every process, as variants are kept on disk; and nobody finds two that collide.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_ref()[..16]);
    u128::from_be_bytes(half)
}

fn put_tokens(asked: &Head, name: &str, cased: bool, text: &mut Vec<u8>) {
    for token in asked.all(name).flat_map(tokens) {
        let at = text.len();
        text.extend_from_slice(token);
        if !cased {
            text[at..].make_ascii_lowercase();
        }
        text.push(b',');
    }
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| matches!(b, b',' | b' ' | b'\t')).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Version;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn asked(fields: &[(&str, &str)]) -> Head {
        let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        Head::from_parts(b"GET", b"/", Version::Http11, fields)
    }

    fn varies(by: &[&str]) -> Fields {
        let mut fields = Fields::default();
        for value in by {
            fields.add_static("Vary", Bytes::copy_from_slice(value.as_bytes()));
        }
        fields
    }

    #[test]
    fn a_star_or_too_long_a_list_cannot_be_kept() {
        let asked = asked(&[]);
        assert_eq!(Vary::of(&varies(&["*"]), &asked), Err(Unkeepable));
        assert_eq!(Vary::of(&varies(&["accept, *"]), &asked), Err(Unkeepable));
        assert_eq!(Vary::of(&varies(&[&"x".repeat(129)]), &asked), Err(Unkeepable));
        assert!(Vary::of(&varies(&[&"x".repeat(128)]), &asked).is_ok_and(|v| v.is_some()));
        assert_eq!(Vary::of(&varies(&[""]), &asked), Ok(None));
        assert_eq!(Vary::of(&varies(&[]), &asked), Ok(None));
    }

    #[test]
    fn only_the_named_fields_count() {
        let one = asked(&[("Accept-Encoding", "gzip, br"), ("Cookie", "a=1")]);
        let vary = Vary::of(&varies(&["Accept-Encoding"]), &one).unwrap().unwrap();
        assert!(vary.suits(&one));
        assert!(vary.suits(&asked(&[("accept-encoding", "gzip,br"), ("Cookie", "b=2")])));
        assert!(vary.suits(&asked(&[("Accept-Encoding", "gzip"), ("Accept-Encoding", "br")])));
        assert!(!vary.suits(&asked(&[("Accept-Encoding", "br")])));
        assert!(!vary.suits(&asked(&[])));
    }

    #[test]
    fn case_counts_unless_it_is_known_not_to() {
        let same = |field: &str, a: &str, b: &str| {
            let vary = Vary::of(&varies(&[field]), &asked(&[(field, a)])).unwrap().unwrap();
            vary.suits(&asked(&[(field, b)]))
        };
        assert!(same("accept-language", "de-DE, en", "de-de,EN"));
        assert!(!same("accept-language", "de, en", "en, de"));
        assert!(!same("cookie", "a=b", "a=B"));
    }

    proptest! {
        #[test]
        fn values_do_not_run_into_each_other(a in "[a-z]{0,3}", b in "[a-z]{0,3}", c in "[a-z]{0,3}", d in "[a-z]{0,3}") {
            let one = asked(&[("a", a.as_str()), ("b", b.as_str())]);
            let vary = Vary::of(&varies(&["a, b"]), &one).unwrap().unwrap();
            let other = asked(&[("a", c.as_str()), ("b", d.as_str())]);
            prop_assert_eq!(vary.suits(&other), (a, b) == (c, d));
        }
    }
}
