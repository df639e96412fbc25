//! A first look at a request's head, in place: enough to know whether it is a plain GET that was answered
//! before. What is in any way unusual is left to the parser of heads.

use super::names;
use crate::http::head::Version;
use crate::http::lines::{line_end, name_length, plain_length, visible_length};
use smallvec::SmallVec;

/// The most fields that are looked at.
pub const FIELDS: usize = 32;

/// A head of HTTP/1.1 or HTTP/2 that is in order; everything borrowed from where it was read.
///
/// It is large, and filled where it lies.
#[derive(Debug, PartialEq, Eq)]
pub struct Glance<'a> {
    /// The target, as sent; it begins with a slash.
    pub target: &'a [u8],
    /// The value of `Host`, as sent.
    pub host: &'a [u8],
    /// The fields with known names that are there, a bit each.
    pub present: u64,
    /// They, and of HTTP/1.1 all others as well.
    pub values: SmallVec<[Field<'a>; FIELDS]>,
    /// How many fields there are.
    pub fields: usize,
    /// Bytes of the longest line.
    pub longest: usize,
    /// Bytes of the head.
    pub length: usize,
    /// The version.
    pub version: Version,
}

/// A field of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The number of its name, or [`UNKNOWN`].
    pub number: u8,
    /// Its name, as sent.
    pub name: &'a [u8],
    /// Its value without the blanks around it.
    pub value: &'a [u8],
}

/// The number of a name that has none.
pub const UNKNOWN: u8 = u8::MAX;

impl<'a> Glance<'a> {
    /// Nothing yet, of this version.
    #[inline]
    pub fn new(version: Version) -> Glance<'a> {
        Glance {
            target: b"",
            host: b"",
            present: 0,
            values: SmallVec::new(),
            fields: 0,
            longest: 0,
            length: 0,
            version,
        }
    }

    /// Looks at the head with which `input` begins; `None` when it is not whole or not plain: another method or
    /// version, a field that frames a body, the same name twice, bytes that not every parser takes alike.
    pub fn look(&mut self, input: &'a [u8]) -> Option<()> {
        const BEHIND: &[u8] = b" HTTP/1.1\r\n";
        let end = 4 + visible_length(input.strip_prefix(b"GET ")?);
        self.target = &input[4..end];
        let mut at = end + BEHIND.len();
        if self.target.first() != Some(&b'/') || input.get(end..at)? != BEHIND {
            return None;
        }
        self.longest = at - 1;
        while input.get(at) != Some(&b'\r') {
            let colon = at + name_length(&input[at..]);
            let end = line_end(input, colon);
            if !is_line_end(input, end) || self.fields == FIELDS {
                return None;
            }
            self.longest = self.longest.max(end + 1 - at);
            self.field(&input[at..colon], input[colon..end].strip_prefix(b":")?)?;
            at = end + 2;
        }
        if !is_line_end(input, at) {
            return None;
        }
        self.length = at + 2;
        let unusual = const { 1 << names::known("content-length") | 1 << names::known("transfer-encoding") };
        (self.present & HOST != 0 && self.present & unusual == 0).then_some(())
    }

    fn field(&mut self, name: &'a [u8], value: &'a [u8]) -> Option<()> {
        let value = blanks_off(value);
        let number = match names::number(name) {
            Some(number) => {
                let bit = 1 << number;
                if self.present & bit != 0 {
                    return None;
                }
                self.present |= bit;
                if bit == HOST {
                    self.host = value;
                }
                number
            }
            // A known name has no other bytes.
            None if name.is_empty() || plain_length(name) < name.len() => return None,
            None => UNKNOWN,
        };
        self.fields += 1;
        self.values.push(Field { number, name, value });
        Some(())
    }
}

fn is_line_end(input: &[u8], at: usize) -> bool {
    input.get(at) == Some(&b'\r') && input.get(at + 1) == Some(&b'\n')
}

const HOST: u64 = 1 << names::known("host");

/// A value without the blanks around it, as the parser of heads takes it.
fn blanks_off(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{Head, HeadLimits, HeadScan, Method, Progress};
    use proptest::prelude::*;

    const LIMITS: HeadLimits =
        HeadLimits { line: 8192, total: 32768, underscores: false, ignore_invalid: true, fields: 1000 };

    fn glance(input: &[u8]) -> Option<Glance<'_>> {
        let mut found = Glance::new(Version::Http11);
        found.look(input).map(|()| found)
    }

    #[test]
    fn a_plain_head_is_seen() {
        let text = b"GET /a?b HTTP/1.1\r\nHost:  x.org \r\nX-Y: 1\r\nuser-agent: u\r\n\r\nGET";
        let found = glance(text).unwrap();
        assert_eq!((found.target, found.host), (&b"/a?b"[..], &b"x.org"[..]));
        assert_eq!((found.length, found.fields, found.longest), (text.len() - 3, 3, 18));
        let user_agent = names::known("user-agent");
        assert_eq!(found.present, HOST | 1 << user_agent);
        let seen: Vec<_> = found.values.iter().map(|f| (f.number, f.name, f.value)).collect();
        let host = (names::known("host"), &b"Host"[..], &b"x.org"[..]);
        assert_eq!(seen, [host, (UNKNOWN, b"X-Y", b"1"), (user_agent, b"user-agent", b"u")]);
    }

    #[test]
    fn what_is_unusual_is_left_to_others() {
        for text in [
            "GET / HTTP/1.1\r\nHost: x\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\na_b: c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nnone\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\na : c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\na: b\rc\r\n\r\n",
        ] {
            assert_eq!(glance(text.as_bytes()), None, "{text:?}");
        }
    }

    /// Names that are known, that may be, and that may not.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        let plain = "[A-Za-z0-9_-]{1,12}|range|Accept-Encoding".prop_map(String::into_bytes);
        prop_oneof![9 => plain, 1 => prop::collection::vec(any::<u8>(), 0..4)]
    }

    proptest! {
        /// Where the glance sees a head, the parser sees the same.
        #[test]
        fn it_sees_what_the_parser_sees(
            target in "/[!-~]{0,20}",
            fields in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..8)), 0..6),
            end in prop::sample::select(vec!["\r\n", "\n"]),
            host in "[ ]{0,2}[a-z.]{1,9}[ ]{0,2}",
        ) {
            let mut text = format!("GET {target} HTTP/1.1{end}Host:{host}{end}").into_bytes();
            for (name, value) in &fields {
                text.extend([name, &b":"[..], value, end.as_bytes()].concat());
            }
            text.extend(end.as_bytes());
            if let Some(found) = glance(&text) {
                let mut head = Head::default();
                let read = head.read(&text, &mut HeadScan::default(), &LIMITS);
                prop_assert!(matches!(read, Ok(Progress::Done(n)) if n == found.length));
                prop_assert_eq!(head.target(), found.target);
                prop_assert_eq!(Method::of(head.method()), Method::Get);
                prop_assert_eq!(head.version, Version::Http11);
                prop_assert_eq!(head.get("host"), Some(found.host));
                prop_assert_eq!(found.values.len(), found.fields);
                let number = |name| names::number(name).unwrap_or(UNKNOWN);
                let all: Vec<_> = head.iter().map(|(n, v)| Field { number: number(n), name: n, value: v }).collect();
                prop_assert_eq!(all, found.values.to_vec());
                prop_assert_eq!(format!("{head:?}"), format!("{:?}", Head::seen(&text, &found)));
            }
        }
    }
}
