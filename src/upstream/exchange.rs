//! One attempt: a request out, the head of the answer in, over one connection.

use super::patience::Patience;
use super::pool::Connection;
use super::socket::Socket;
use crate::http::body::{Chunks, Framing};
use crate::http::io::poll_read_into;
use crate::http::response::Fields;
use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;

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
    const LATE: AttemptError = AttemptError::Timeout(
        "upstream timed out (110: Connection timed out) while sending request to upstream",
    );
    let total: usize = parts.iter().map(|p| p.len()).sum();
    let mut patience = Patience::new(each);
    let mut sent = 0;
    let stream = &mut connection.stream;
    while sent < total {
        let written = poll_fn(|cx| {
            if let Poll::Ready(written) = poll_write(stream, cx, parts, sent) {
                return Poll::Ready(Some(written));
            }
            loop {
                match poll_read_into(stream, cx, input) {
                    Poll::Ready(Ok(n)) if n > 0 && is_interim(input) => {}
                    Poll::Ready(Ok(_)) => return Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
                    Poll::Ready(Err(e)) => return Poll::Ready(Some(Err(e))),
                    Poll::Pending if patience.is_over(cx) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        match written.await {
            None => return Err(LATE),
            Some(Err(e)) => return Err(broken("writev()", &e)),
            Some(Ok(0)) => return Err(broken("writev()", &io::ErrorKind::WriteZero.into())),
            Some(Ok(n)) => sent += n,
        }
        patience.rest();
    }
    if stream.is_plain() {
        return Ok(total as u64);
    }
    let flushed = poll_fn(|cx| match Pin::new(&mut *stream).poll_flush(cx) {
        Poll::Pending if patience.is_over(cx) => Poll::Ready(None),
        flushed => flushed.map(Some),
    });
    match flushed.await {
        None => Err(LATE),
        Some(Err(e)) => Err(broken("writev()", &e)),
        Some(Ok(())) => Ok(total as u64),
    }
}

/// The most parts of a request that are written at once: a head and a body, or a chunk with its ends.
const PARTS: usize = 4;

/// Writes what follows the first `sent` bytes of `parts`: a head and a small body leave together.
fn poll_write(
    stream: &mut Socket,
    cx: &mut Context<'_>,
    parts: &[&[u8]],
    mut sent: usize,
) -> Poll<io::Result<usize>> {
    if let [one] = parts {
        return Pin::new(stream).poll_write(cx, &one[sent..]);
    }
    let mut slices = [IoSlice::new(&[]); PARTS];
    let mut n = 0;
    for part in parts {
        let rest = &part[sent.min(part.len())..];
        sent -= part.len() - rest.len();
        if !rest.is_empty() && n < PARTS {
            slices[n] = IoSlice::new(rest);
            n += 1;
        }
    }
    Pin::new(stream).poll_write_vectored(cx, &slices[..n])
}

/// Whether all that came are interim answers, no more of them than have a use.
fn is_interim(input: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.1 1";
    let mut rest = input;
    while rest.starts_with(START) {
        // The answer itself may be behind it.
        rest = head_end(rest).map_or(&[], |end| &rest[end..]);
    }
    input.len() < 4096 && START.starts_with(rest)
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
    let mut patience = Patience::new(each);
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
                patience.rest();
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
        let read = poll_fn(|cx| match poll_read_into(&mut connection.stream, cx, input) {
            Poll::Pending if patience.is_over(cx) => Poll::Ready(None),
            read => read.map(Some),
        });
        match read.await {
            None => {
                return Err(AttemptError::Timeout(
                    "upstream timed out (110: Connection timed out) while reading response header from upstream",
                ));
            }
            Some(Ok(0)) => {
                return Err(AttemptError::Broken(
                    "upstream prematurely closed connection while reading response header from upstream"
                        .into(),
                ));
            }
            Some(Err(e)) => {
                let cause = crate::conf::values::os_error(&e);
                return Err(AttemptError::Broken(format!(
                    "recv() failed ({cause}) while reading response header from upstream"
                )));
            }
            // All of the head has the time that one wait has, as in nginx.
            Some(Ok(_)) => {}
        }
    }
}

/// Where the head ends, its empty line included.
fn head_end(input: &[u8]) -> Option<usize> {
    static EMPTY: LazyLock<[Finder<'static>; 2]> =
        LazyLock::new(|| [Finder::new(b"\n\r\n"), Finder::new(b"\n\n")]);
    let [usual, bare] = &*EMPTY;
    let usual = usual.find(input);
    // One before that ends it sooner.
    let before = usual.map_or(input, |at| &input[..=at]);
    bare.find(before).map(|at| at + 2).or(usual.map(|at| at + 3))
}

fn parse(head: &Bytes, head_request: bool) -> Result<AnswerHead, AttemptError> {
    let first_end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    let line = head[..first_end].strip_suffix(b"\r").unwrap_or(&head[..first_end]);
    let Some((http11, status, reason)) = status_line(line) else {
        return Err(AttemptError::Invalid(
            "upstream sent no valid HTTP/1.0 header while reading response header from upstream".into(),
        ));
    };
    let reason = match &line[reason..] {
        b"OK" => Bytes::from_static(b"OK"),
        _ => head.slice(reason..line.len()),
    };
    let mut fields = Fields::default();
    let (mut length, mut chunked, mut close, mut keep) = (None, false, false, false);
    let mut at = first_end + 1;
    let has_nul = memchr::memchr(0, head).is_some();
    while at < head.len() {
        let here = at;
        let end = memchr::memchr2(b'\n', b'\r', &head[at..]).map_or(head.len(), |n| at + n);
        let with_return = head.get(end) == Some(&b'\r');
        at = end + 1 + usize::from(with_return);
        // A carriage return ends the line or is an error.
        if with_return && head.get(end + 1).is_some_and(|b| *b != b'\n') {
            let line = head[here..].split(|b| *b == b'\n').next().unwrap_or_default();
            return Err(invalid(line));
        }
        let text = &head[here..end];
        if text.is_empty() {
            break;
        }
        // A name alone is a field without a value, to nginx.
        let colon = text.iter().position(|b| *b == b':').unwrap_or(text.len());
        let name = &text[..colon];
        let known = known_name(name);
        let fine = known.is_some() || !name.is_empty() && name.iter().all(|b| b.is_ascii_graphic());
        if !fine || has_nul && text.contains(&0) {
            return Err(invalid(text));
        }
        let is_blank = |b: &&u8| matches!(**b, b' ' | b'\t');
        let after = (colon + 1).min(text.len());
        let lead = text[after..].iter().take_while(is_blank).count();
        let trail = text[after + lead..].iter().rev().take_while(is_blank).count();
        let value = after + lead..text.len() - trail;
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let words = || text[value.clone()].split(|b| *b == b',').map(<[u8]>::trim_ascii);
                close |= words().any(|word| word.eq_ignore_ascii_case(b"close"));
                keep |= words().any(|word| word.eq_ignore_ascii_case(b"keep-alive"));
            }
            10 if name.eq_ignore_ascii_case(b"keep-alive") => {}
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let value = &text[value];
                if !value.eq_ignore_ascii_case(b"chunked") || chunked {
                    return Err(AttemptError::Invalid(format!(
                        "upstream sent unknown \"Transfer-Encoding\": \"{}\" while reading response header from upstream",
                        String::from_utf8_lossy(value)
                    )));
                }
                chunked = true;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let n = std::str::from_utf8(&text[value]).ok().and_then(crate::conf::values::number);
                if length.is_some() || n.is_none() {
                    return Err(invalid(text));
                }
                length = n;
            }
            _ => {
                let name = known.map_or_else(|| head.slice(here..here + colon), Bytes::from_static);
                fields.add(name, head.slice(here + value.start..here + value.end));
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

/// A name that most answers have, as most write it: it need not be counted who holds it.
fn known_name(name: &[u8]) -> Option<&'static [u8]> {
    const NAMES: [&[u8]; 16] = [
        b"Age",
        b"Date",
        b"ETag",
        b"Vary",
        b"Server",
        b"Expires",
        b"Location",
        b"Connection",
        b"Set-Cookie",
        b"Content-Type",
        b"Last-Modified",
        b"Accept-Ranges",
        b"Cache-Control",
        b"Content-Length",
        b"Content-Encoding",
        b"Access-Control-Allow-Origin",
    ];
    NAMES.into_iter().find(|known| *known == name)
}

/// The version (whether 1.1), the status, and where the reason begins.
fn status_line(line: &[u8]) -> Option<(bool, u16, usize)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let minor = *rest.first().filter(|b| b.is_ascii_digit())?;
    let rest = rest.get(1..)?.trim_ascii_start();
    let digits = rest.get(..3)?;
    if memchr::memchr2(b'\r', 0, line).is_some() {
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
    fn an_answer_behind_an_interim_one_is_seen() {
        const INTERIM: &str = "HTTP/1.1 100 Continue\r\n\r\n";
        for (more, interim) in [
            ("", true),
            ("HTTP/1", true),
            ("HTTP/1.1 103 Early", true),
            ("HTTP/1.1 103 Early\r\n\r\n", true),
            ("HTTP/1.1 4", false),
            ("HTTP/1.1 403 No\r\n\r\n", false),
            ("x", false),
        ] {
            assert_eq!(is_interim(format!("{INTERIM}{more}").as_bytes()), interim, "{more}");
        }
        assert!(!is_interim(INTERIM.repeat(200).as_bytes()));
    }

    /// As nginx does: an upstream that drips does not hold on to a client for ever.
    #[tokio::test(start_paused = true)]
    async fn a_head_has_the_time_of_one_wait() {
        use tokio::io::AsyncWriteExt;
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let stream = Socket::Unix(ours);
        let mut connection = Connection { stream, requests: 0, born: std::time::Instant::now() };
        let drips = async {
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" {
                theirs.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
        };
        let (mut input, each) = (BytesMut::new(), Duration::from_secs(2));
        let answer = read_head(&mut connection, &mut input, false, 4096, each);
        tokio::select! {
            answer = answer => assert!(matches!(answer, Err(AttemptError::Timeout(_))), "{answer:?}"),
            () = drips => panic!("still waited for"),
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
