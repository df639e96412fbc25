//! The head of an answer: status line, fields, and what they say of the body and the connection.

use super::exchange::AttemptError;
use crate::http::body::{Chunks, Framing};
use crate::http::lines::{line_end, line_feed, name_length, without_blanks};
use crate::http::response::Fields;
use bytes::Bytes;

/// The head of an answer.
#[derive(Debug)]
pub struct AnswerHead {
    /// The status.
    pub status: u16,
    /// The reason phrase, which is passed on.
    pub reason: Bytes,
    /// The fields, but for those of the connection.
    pub fields: Fields,
    /// `Content-Length`
    pub length: Option<u64>,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the connection may be used again once the body was read.
    pub keepalive: bool,
    /// Bytes the head took.
    pub size: usize,
}

/// Where the head ends, its empty line included.
pub fn head_end(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at = line_feed(input, at)? + 1;
        match input.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// Fields of an answer for which there is room at once.
const USUAL: usize = 12;

/// Reads a whole head.
pub fn parse(head: &Bytes, head_request: bool) -> Result<AnswerHead, AttemptError> {
    let all: &[u8] = head;
    let first_end = line_feed(all, 0).unwrap_or(all.len());
    let line = all[..first_end].strip_suffix(b"\r").unwrap_or(&all[..first_end]);
    let Some((http11, status, reason)) = status_line(line) else {
        return Err(AttemptError::Invalid(
            "upstream sent no valid HTTP/1.0 header while reading response header from upstream".into(),
        ));
    };
    let reason = match &line[reason..] {
        b"OK" => Bytes::from_static(b"OK"),
        _ => head.slice(reason..line.len()),
    };
    let mut fields = Fields::with_capacity(USUAL);
    let (mut length, mut chunked, mut close, mut keep) = (None, false, false, false);
    let mut at = first_end + 1;
    while at < all.len() {
        let here = at;
        let name_end = here + name_length(&all[here..]);
        let end = line_end(all, name_end);
        at = match &all[end..] {
            [] | [b'\n', ..] => end + 1,
            [b'\r'] | [b'\r', b'\n', ..] => end + 2,
            _ => return Err(invalid(bad_line(&all[here..]))),
        };
        let text = &all[here..end];
        if text.is_empty() {
            break;
        }
        // A name alone is a field without a value, to nginx.
        if name_end == here || name_end < end && all[name_end] != b':' {
            return Err(invalid(text));
        }
        let (name, value) = (&all[here..name_end], without_blanks(&all[(name_end + 1).min(end)..end]));
        // Most write them alike.
        macro_rules! is {
            ($usual:literal) => {
                name == $usual || name.eq_ignore_ascii_case($usual)
            };
        }
        match name.len() {
            10 if is!(b"Connection") => match value {
                b"keep-alive" => keep = true,
                b"close" => close = true,
                _ => {
                    for word in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                        close |= word.eq_ignore_ascii_case(b"close");
                        keep |= word.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
            },
            10 if is!(b"Keep-Alive") => {}
            17 if is!(b"Transfer-Encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") || chunked {
                    return Err(AttemptError::Invalid(format!(
                        "upstream sent unknown \"Transfer-Encoding\": \"{}\" while reading response header from upstream",
                        String::from_utf8_lossy(value)
                    )));
                }
                chunked = true;
            }
            14 if is!(b"Content-Length") => {
                let n = std::str::from_utf8(value).ok().and_then(crate::conf::values::number);
                if length.is_some() || n.is_none() {
                    return Err(invalid(text));
                }
                length = n;
            }
            _ => {
                let name = known_name(name).map_or_else(|| head.slice(here..name_end), Bytes::from_static);
                fields.add(name, head.slice_ref(value));
            }
        }
    }
    if chunked && length.is_some() {
        return Err(AttemptError::Invalid(
            "upstream sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time while reading response header from upstream".into(),
        ));
    }
    let bodyless = head_request || matches!(status, 101 | 204 | 304);
    let framing = match (bodyless, chunked, length) {
        (true, ..) | (false, false, Some(0)) => Framing::None,
        (false, true, _) => Framing::Chunked(Chunks::default()),
        (false, false, Some(n)) => Framing::Length(n),
        (false, false, None) => Framing::Close,
    };
    let endless = matches!(framing, Framing::Close);
    let keepalive = !close && (http11 || keep) && !endless && status != 101;
    Ok(AnswerHead { status, reason, fields, length, framing, keepalive, size: head.len() })
}

fn invalid(line: &[u8]) -> AttemptError {
    let shown = String::from_utf8_lossy(&line[..line.len().min(120)]);
    AttemptError::Invalid(format!(
        "upstream sent invalid header: \"{shown}\" while reading response header from upstream"
    ))
}

/// The line with which `rest` begins, which a zero or a carriage return within it makes none.
fn bad_line(rest: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
    match &rest[end..] {
        // A carriage return ends the line or is an error.
        [b'\r', other, ..] if *other != b'\n' => rest.split(|b| *b == b'\n').next().unwrap_or_default(),
        _ => &rest[..end],
    }
}

/// A name that most answers have, as most write it: it need not be counted who holds it.
fn known_name(name: &[u8]) -> Option<&'static [u8]> {
    macro_rules! one_of {
        ($($known:literal),*) => {
            match name {
                $(name if name == $known => Some($known),)*
                _ => None,
            }
        };
    }
    match name.len() {
        3 => one_of!(b"Age"),
        4 => one_of!(b"Date", b"ETag", b"Vary"),
        6 => one_of!(b"Server"),
        7 => one_of!(b"Expires"),
        8 => one_of!(b"Location"),
        10 => one_of!(b"Set-Cookie"),
        12 => one_of!(b"Content-Type"),
        13 => one_of!(b"Last-Modified", b"Accept-Ranges", b"Cache-Control"),
        16 => one_of!(b"Content-Encoding"),
        27 => one_of!(b"Access-Control-Allow-Origin"),
        _ => None,
    }
}

/// The version (whether 1.1), the status, and where the reason begins.
fn status_line(line: &[u8]) -> Option<(bool, u16, usize)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let minor = *rest.first().filter(|b| b.is_ascii_digit())?;
    let rest = rest.get(1..)?.trim_ascii_start();
    let digits = rest.get(..3)?;
    if line_end(line, 0) < line.len() {
        return None;
    }
    if !digits.iter().all(u8::is_ascii_digit) || rest.get(3).is_some_and(|b| *b != b' ') {
        return None;
    }
    let status = digits.iter().fold(0u16, |n, b| n * 10 + u16::from(b - b'0'));
    let blanks = rest[3..].iter().take_while(|b| **b == b' ').count();
    (status >= 100).then_some((minor >= b'1', status, line.len() - rest.len() + 3 + blanks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<AnswerHead, AttemptError> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), false)
    }

    #[test]
    fn framing_follows_the_head() {
        let ok = head("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n").unwrap();
        assert!(ok.keepalive && matches!(ok.framing, Framing::Length(5)));
        assert_eq!(ok.fields.len(), 1);
        assert!(matches!(head("HTTP/1.1 200\r\n\r\n").unwrap().framing, Framing::Close));
        assert!(matches!(
            head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap().framing,
            Framing::Chunked(_)
        ));
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap().keepalive);
        assert!(
            !head("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap().keepalive
        );
        assert!(head("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n").unwrap().framing.is_done());
    }

    #[test]
    fn names_and_reasons_are_as_they_were_sent() {
        let text = "HTTP/1.1  404  No 404 here \r\nServer: a\nserver:\tb \r\nX-Y\r\nvary: 404\r\n\r\n";
        let answer = head(text).unwrap();
        assert_eq!((answer.status, &answer.reason[..]), (404, &b"No 404 here "[..]));
        let fields: Vec<_> = answer.fields.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        let wanted: [(&[u8], &[u8]); 4] =
            [(b"Server", b"a"), (b"server", b"b"), (b"X-Y", b""), (b"vary", b"404")];
        assert_eq!(fields, wanted);
        assert_eq!(head("HTTP/1.1 200\r\n\r\n").unwrap().reason, "");
        assert_eq!(head("HTTP/1.0 200 OK\r\n\r\n").unwrap().reason, "OK");
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        for (text, end) in [
            ("a\r\n\r\nb\n\n", Some(5)),
            ("a\n\nb\r\n\r\n", Some(3)),
            ("a\n\r\n", Some(4)),
            ("a\r\n\n\r\n", Some(4)),
            ("a\r\n\r", None),
            ("a\r\nb: c\r\n", None),
            ("", None),
        ] {
            assert_eq!(head_end(text.as_bytes()), end, "{text:?}");
        }
    }

    #[test]
    fn heads_that_are_none() {
        for bad in [
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
            "HTTP/1.1 200 O\rX: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(matches!(head(bad), Err(AttemptError::Invalid(_))), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = parse(&Bytes::from(bytes), false);
        }
    }
}
