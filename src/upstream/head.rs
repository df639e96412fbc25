//! The head of an answer: status line, fields, and what they say of the body and the connection.

use super::exchange::AttemptError;
use crate::http::body::{Chunks, Framing};
use crate::http::lines::{line_end, line_feed, name_length};
use crate::http::response::Fields;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

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

/// A field's line: where its name begins and ends, and its value.
type Line = [usize; 4];

/// Lines for which there is room without asking for memory.
const USUAL: usize = 24;

/// Takes a head of no more than `limit` bytes from the front of `input`, when it is there to its empty line.
pub fn take(
    input: &mut BytesMut,
    limit: usize,
    head_request: bool,
) -> Result<Option<AnswerHead>, AttemptError> {
    let all = &input[..input.len().min(limit)];
    let Some(first_end) = line_feed(all, 0) else { return Ok(None) };
    let line = all[..first_end].strip_suffix(b"\r").unwrap_or(&all[..first_end]);
    let Some((http11, status, reason)) = status_line(line) else {
        // What else begins like this is for the caller to see.
        return if head_end(all).is_some() { Err(no_header()) } else { Ok(None) };
    };
    let reason = reason..line.len();
    let mut lines: SmallVec<[Line; USUAL]> = SmallVec::new();
    let (mut length, mut chunked, mut close, mut keep) = (None, false, false, false);
    let mut at = first_end + 1;
    loop {
        let here = at;
        let Some(rest) = all.get(here..) else { return Ok(None) };
        let name_end = here + name_length(rest);
        let end = line_end(all, name_end);
        at = match &all[end..] {
            [b'\n', ..] => end + 1,
            [b'\r', b'\n', ..] => end + 2,
            [b'\r', rest @ ..] => match rest.iter().position(|byte| *byte != b'\r') {
                None => return Ok(None),
                // More of them may end a field's line, but not an empty one.
                Some(more) if rest[more] == b'\n' && end > here => end + 2 + more,
                Some(_) => return Err(invalid(all, here, end)),
            },
            [] => return Ok(None),
            _ => return Err(invalid(all, here, end)),
        };
        if end == here {
            break;
        }
        // A name alone is a field without a value, to nginx.
        if name_end == here || name_end < end && all[name_end] != b':' {
            return Err(invalid(all, here, name_end));
        }
        let name = &all[here..name_end];
        let (start, stop) = within_blanks(all, (name_end + 1).min(end), end);
        let value = &all[start..stop];
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
                let n = digits(value);
                if length.is_some() || n.is_none() {
                    return Err(bad_length(&all[here..end]));
                }
                length = n;
            }
            _ => lines.push([here, name_end, start, stop]),
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
    let head = input.split_to(at).freeze();
    let mut fields = Fields::with_capacity(lines.len());
    for &[name, name_end, start, stop] in &lines {
        let known = known_name(&head[name..name_end]);
        let name = known.map_or_else(|| head.slice(name..name_end), Bytes::from_static);
        fields.add(name, head.slice(start..stop));
    }
    let reason = match &head[reason.clone()] {
        b"OK" => Bytes::from_static(b"OK"),
        _ => head.slice(reason),
    };
    Ok(Some(AnswerHead { status, reason, fields, length, framing, keepalive, size: at }))
}

/// A number in digits.
fn digits(text: &[u8]) -> Option<u64> {
    // So many digits are always a number.
    if text.len() > 19 {
        return std::str::from_utf8(text).ok().and_then(crate::conf::values::number);
    }
    let mut number = 0;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u64::from(byte - b'0');
    }
    (!text.is_empty()).then_some(number)
}

/// What is left of a part of `text` without the blanks at its ends.
fn within_blanks(text: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    // As nearly all are written.
    if let [b' ', b'!'..=u8::MAX, .., b'!'..=u8::MAX] = &text[start..end] {
        return (start + 1, end);
    }
    while start < end && matches!(text[start], b' ' | b'\t') {
        start += 1;
    }
    while start < end && matches!(text[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    (start, end)
}

fn no_header() -> AttemptError {
    AttemptError::Invalid(
        "upstream sent no valid HTTP/1.0 header while reading response header from upstream".into(),
    )
}

/// Of the line that begins at `here` the byte at `bad` has no place in it.
fn invalid(text: &[u8], here: usize, bad: usize) -> AttemptError {
    let shown = String::from_utf8_lossy(&text[here..bad.min(here + SHOWN)]);
    let byte = text.get(bad).copied().unwrap_or_default();
    AttemptError::Invalid(format!(
        "upstream sent invalid header: \"{shown}\\x{byte:02x}...\" while reading response header from upstream"
    ))
}

fn bad_length(line: &[u8]) -> AttemptError {
    let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    AttemptError::Invalid(format!(
        "upstream sent invalid header: \"{shown}\" while reading response header from upstream"
    ))
}

/// Bytes of a line that are told.
const SHOWN: usize = 120;

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
        take(&mut BytesMut::from(text), 4096, false).map(|head| head.expect("these are whole"))
    }

    #[test]
    fn framing_follows_the_head() {
        let ok = head("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n").unwrap();
        assert!(ok.keepalive && matches!(ok.framing, Framing::Length(5)));
        assert_eq!(ok.fields.len(), 1);
        for length in [9, 10, 9_999_999_999_999_999_999, u64::MAX] {
            let head = head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).unwrap();
            assert_eq!(head.length, Some(length));
        }
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
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n\r\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(matches!(head(bad), Err(AttemptError::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole() {
        let whole = "HTTP/1.1 200 OK\r\nServer: a\r\nX:\nY: b \r\r\nContent-Length: 3\r\n\r\n";
        for end in 0..whole.len() {
            let mut input = BytesMut::from(&whole[..end]);
            assert!(take(&mut input, 4096, false).unwrap().is_none(), "{end}");
            assert_eq!(input.len(), end);
        }
        let mut input = BytesMut::from(&*format!("{whole}abc\r\n\r\n"));
        let head = take(&mut input, 4096, false).unwrap().unwrap();
        assert_eq!((head.size, head.length, &input[..]), (whole.len(), Some(3), &b"abc\r\n\r\n"[..]));
        let values: Vec<_> = head.fields.iter().map(|(_, value)| &value[..]).collect();
        assert_eq!(values, [&b"a"[..], b"", b"b"]);
    }

    #[test]
    fn the_byte_that_has_no_place_is_told() {
        for (text, told) in [
            ("HTTP/1.1 200 OK\r\nBad name: x\r\n", "\"Bad\\x20...\""),
            ("HTTP/1.1 200 OK\r\nX: a\0b", "\"X: a\\x00...\""),
            ("HTTP/1.1 200 OK\r\nX: a\rb", "\"X: a\\x0d...\""),
            ("HTTP/1.1 200 OK\r\n: b\r\n", "\"\\x3a...\""),
        ] {
            let refused = take(&mut BytesMut::from(text), 4096, false);
            assert!(matches!(&refused, Err(AttemptError::Invalid(why)) if why.contains(told)), "{refused:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = take(&mut BytesMut::from(&bytes[..]), 150, false);
        }
    }
}
