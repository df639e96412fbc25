//! A first look at a request's head, in place: enough to know whether it is a plain GET that was answered
//! before. What is in any way unusual is left to the parser of heads.

use super::names;
use crate::http::head::Version;
use crate::http::lines::{line_end, line_feed, plain_length};
use smallvec::SmallVec;

/// The most fields that are looked at.
pub const FIELDS: usize = 32;

/// A head of HTTP/1.1 or HTTP/2 that is in order; everything borrowed from where it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Glance<'a> {
    /// The target, as sent; it begins with a slash.
    pub target: &'a [u8],
    /// The value of `Host`, as sent.
    pub host: &'a [u8],
    /// The fields with known names that are there, a bit each.
    pub present: u64,
    /// Their numbers and values.
    pub values: SmallVec<[(u8, &'a [u8]); FIELDS]>,
    /// How many fields there are.
    pub fields: usize,
    /// Bytes of the longest line.
    pub longest: usize,
    /// Bytes of the head.
    pub length: usize,
    /// The version.
    pub version: Version,
}

/// Looks at the head with which `input` begins; `None` when it is not whole or not plain: another method or
/// version, a field that frames a body, the same name twice, bytes that not every parser takes alike.
pub fn glance(input: &[u8]) -> Option<Glance<'_>> {
    let rest = input.strip_prefix(b"GET ")?;
    let end = line_feed(rest, 0)?;
    let target = rest[..end].strip_suffix(b" HTTP/1.1\r")?;
    if target.first() != Some(&b'/') || target.iter().any(|b| *b <= 0x20 || *b == 0x7f) {
        return None;
    }
    let mut found = Glance {
        target,
        host: b"",
        present: 0,
        values: SmallVec::new(),
        fields: 0,
        longest: 4 + end,
        length: 4 + end + 1,
        version: Version::Http11,
    };
    loop {
        let rest = &input[found.length..];
        let end = line_feed(rest, 0)?;
        let line = rest[..end].strip_suffix(b"\r")?;
        found.length += end + 1;
        if line.is_empty() {
            break;
        }
        found.longest = found.longest.max(end);
        found.fields += 1;
        field(line, &mut found)?;
    }
    let unusual = const { 1 << names::known("content-length") | 1 << names::known("transfer-encoding") };
    (found.present & HOST != 0 && found.present & unusual == 0 && found.fields <= FIELDS).then_some(found)
}

const HOST: u64 = 1 << names::known("host");

fn field<'a>(line: &'a [u8], found: &mut Glance<'a>) -> Option<()> {
    let colon = plain_length(line);
    if colon == 0 || line.get(colon) != Some(&b':') || line_end(line, colon) < line.len() {
        return None;
    }
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if let Some(number) = names::number(name) {
        let bit = 1 << number;
        if found.present & bit != 0 {
            return None;
        }
        found.present |= bit;
        let value = blanks_off(value);
        if bit == HOST {
            found.host = value;
        }
        found.values.push((number, value));
    }
    Some(())
}

/// A value without the blanks around it, as the parser of heads takes it.
fn blanks_off(value: &[u8]) -> &[u8] {
    let lead = value.iter().take_while(|b| **b == b' ').count();
    let value = &value[lead..];
    let tail = value.iter().rev().take_while(|b| **b == b' ').count();
    &value[..value.len() - tail]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{Head, HeadLimits, HeadScan, Method, Progress};
    use proptest::prelude::*;

    const LIMITS: HeadLimits =
        HeadLimits { line: 8192, total: 32768, underscores: false, ignore_invalid: true, fields: 1000 };

    #[test]
    fn a_plain_head_is_seen() {
        let text = b"GET /a?b HTTP/1.1\r\nHost:  x.org \r\nX-Y: 1\r\nuser-agent: u\r\n\r\nGET";
        let found = glance(text).unwrap();
        assert_eq!((found.target, found.host), (&b"/a?b"[..], &b"x.org"[..]));
        assert_eq!((found.length, found.fields, found.longest), (text.len() - 3, 3, 18));
        let user_agent = names::known("user-agent");
        assert_eq!(found.present, HOST | 1 << user_agent);
        assert_eq!(found.values[1], (user_agent, &b"u"[..]));
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
                prop_assert_eq!(head.iter().count(), found.fields);
                let known: Vec<_> = head.iter().filter_map(|(n, v)| Some((names::number(n)?, v))).collect();
                prop_assert_eq!(known, found.values.to_vec());
            }
        }
    }
}
