//! One attempt: a request out, the head of the answer in, over one connection.

use super::pool::Connection;
use crate::http::body::{Chunks, Framing};
use crate::http::io::{poll_read_into, read_into};
use crate::http::response::Fields;
use bytes::{Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

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

/// Why an attempt failed.
#[derive(Debug)]
pub enum AttemptError {
    /// The connection failed or ended early, in nginx's words.
    Broken(String),
    /// Nothing came in time, in nginx's words.
    Timeout(&'static str),
    /// The head is not one.
    Invalid(String),
    /// The client's part failed: its body.
    Client(crate::http::body::BodyError),
}

/// Writes the request's head, and what there is of the body at hand with it. An upstream that takes no
/// more and answers already ends it as one that is broken: its answer is in `input`.
pub async fn write_all(
    connection: &mut Connection,
    input: &mut BytesMut,
    parts: &[&[u8]],
    each: Duration,
) -> Result<u64, AttemptError> {
    let total: usize = parts.iter().map(|p| p.len()).sum();
    // One buffer, one write: a head and a small body leave together.
    let joined;
    let bytes: &[u8] = if let [one] = parts {
        one
    } else {
        joined = parts.concat();
        &joined
    };
    let mut sent = 0;
    while sent < bytes.len() {
        let write = std::future::poll_fn(|cx| {
            let stream = &mut connection.stream;
            if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, &bytes[sent..]) {
                return Poll::Ready(written);
            }
            loop {
                match ready!(poll_read_into(stream, cx, input)) {
                    Ok(n) if n > 0 && is_interim(input) => {}
                    Ok(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
        });
        match timeout(each, write).await {
            Err(_) => {
                return Err(AttemptError::Timeout(
                    "upstream timed out (110: Connection timed out) while sending request to upstream",
                ));
            }
            Ok(Err(e)) => return Err(broken("writev()", &e)),
            Ok(Ok(0)) => return Err(broken("writev()", &io::ErrorKind::WriteZero.into())),
            Ok(Ok(n)) => sent += n,
        }
    }
    match timeout(each, connection.stream.flush()).await {
        Err(_) => Err(AttemptError::Timeout(
            "upstream timed out (110: Connection timed out) while sending request to upstream",
        )),
        Ok(Err(e)) => Err(broken("writev()", &e)),
        Ok(Ok(())) => Ok(total as u64),
    }
}

/// Whether all that came are interim answers, no more of them than have a use.
fn is_interim(input: &[u8]) -> bool {
    input.len() < 4096 && input.starts_with(b"HTTP/1.1 1")
}

fn broken(call: &str, e: &io::Error) -> AttemptError {
    AttemptError::Broken(format!(
        "{call} failed ({}) while sending request to upstream",
        crate::conf::values::os_error(e)
    ))
}

/// Reads the head of an answer; interim ones (1xx but 101) are skipped. What follows the head stays
/// in `input`.
pub async fn read_head(
    connection: &mut Connection,
    input: &mut BytesMut,
    head_request: bool,
    limit: usize,
    each: Duration,
) -> Result<AnswerHead, AttemptError> {
    loop {
        let whole = head_end(input);
        if whole.unwrap_or(input.len()) > limit {
            return Err(AttemptError::Invalid(
                "upstream sent too big header while reading response header from upstream".into(),
            ));
        }
        if let Some(end) = whole {
            let head = input.split_to(end).freeze();
            let parsed = parse(&head, head_request)?;
            if (100..200).contains(&parsed.status) && parsed.status != 101 {
                continue;
            }
            return Ok(parsed);
        }
        // What does not begin like HTTP is an answer of HTTP/0.9: all of it is body.
        let start = &input[..input.len().min(5)];
        if !b"HTTP/".starts_with(start) {
            return Ok(AnswerHead {
                status: 200,
                reason: Bytes::from_static(b"OK"),
                fields: Fields::default(),
                length: None,
                framing: Framing::Close,
                keepalive: false,
                size: 0,
            });
        }
        match timeout(each, read_into(&mut connection.stream, input)).await {
            Err(_) => {
                return Err(AttemptError::Timeout(
                    "upstream timed out (110: Connection timed out) while reading response header from upstream",
                ));
            }
            Ok(Ok(0)) => {
                return Err(AttemptError::Broken(
                    "upstream prematurely closed connection while reading response header from upstream"
                        .into(),
                ));
            }
            Ok(Err(e)) => {
                let cause = crate::conf::values::os_error(&e);
                return Err(AttemptError::Broken(format!(
                    "recv() failed ({cause}) while reading response header from upstream"
                )));
            }
            Ok(Ok(_)) => {}
        }
    }
}

/// Where the head ends, its empty line included.
fn head_end(input: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'\n', &input[from..]) {
        let next = from + at + 1;
        match &input[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

fn parse(head: &Bytes, head_request: bool) -> Result<AnswerHead, AttemptError> {
    let invalid = |what: &str| {
        AttemptError::Invalid(format!(
            "upstream sent invalid header: \"{what}\" while reading response header from upstream"
        ))
    };
    let first_end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    let line = head[..first_end].strip_suffix(b"\r").unwrap_or(&head[..first_end]);
    let (http11, status) = status_line(line).ok_or_else(|| {
        AttemptError::Invalid(
            "upstream sent no valid HTTP/1.0 header while reading response header from upstream".into(),
        )
    })?;
    let reason_at = memchr::memmem::find(line, status.to_string().as_bytes()).unwrap_or(0) + 3;
    let reason = head.slice(reason_at.min(line.len())..line.len());
    let reason = reason.slice(reason.iter().take_while(|b| **b == b' ').count()..);
    let mut fields = Fields::default();
    let (mut length, mut chunked, mut close, mut keep) = (None, false, false, false);
    let mut at = first_end + 1;
    while at < head.len() {
        let end = memchr::memchr(b'\n', &head[at..]).map_or(head.len(), |n| at + n);
        let raw = &head[at..end];
        let text = raw.strip_suffix(b"\r").unwrap_or(raw);
        let here = at;
        at = end + 1;
        if text.is_empty() {
            break;
        }
        let shown = String::from_utf8_lossy(&text[..text.len().min(120)]);
        // A name alone is a field without a value, to nginx.
        let colon = memchr::memchr(b':', text).unwrap_or(text.len());
        let name = &text[..colon];
        let fine = !name.is_empty() && name.iter().all(|b| b.is_ascii_graphic());
        // A carriage return ends the line or is an error.
        if !fine || text.contains(&0) || text.contains(&b'\r') {
            return Err(invalid(&shown));
        }
        let is_blank = |b: &&u8| matches!(**b, b' ' | b'\t');
        let after = (colon + 1).min(text.len());
        let lead = text[after..].iter().take_while(is_blank).count();
        let trail = text[after + lead..].iter().rev().take_while(is_blank).count();
        let value = head.slice(here + after + lead..here + text.len() - trail);
        if name.eq_ignore_ascii_case(b"connection") {
            let has = |w: &[u8]| value.split(|b| *b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(w));
            close |= has(b"close");
            keep |= has(b"keep-alive");
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || chunked {
                return Err(AttemptError::Invalid(format!(
                    "upstream sent unknown \"Transfer-Encoding\": \"{}\" while reading response header from upstream",
                    String::from_utf8_lossy(&value)
                )));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let n = std::str::from_utf8(&value).ok().and_then(crate::conf::values::number);
            if length.is_some() || n.is_none() {
                return Err(invalid(&shown));
            }
            length = n;
        } else if !name.eq_ignore_ascii_case(b"keep-alive") {
            fields.add(head.slice(here..here + colon), value);
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

/// The version (whether 1.1) and the status.
fn status_line(line: &[u8]) -> Option<(bool, u16)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let minor = *rest.first().filter(|b| b.is_ascii_digit())?;
    let rest = rest.get(1..)?.trim_ascii_start();
    let digits = rest.get(..3)?;
    if line.iter().any(|b| matches!(b, b'\r' | 0)) {
        return None;
    }
    if !digits.iter().all(u8::is_ascii_digit) || rest.get(3).is_some_and(|b| *b != b' ') {
        return None;
    }
    let status = digits.iter().fold(0u16, |n, b| n * 10 + u16::from(b - b'0'));
    (status >= 100).then_some((minor >= b'1', status))
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
    fn heads_that_are_none() {
        for bad in [
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
            "HTTP/1.1 200 O\rX: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n",
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
