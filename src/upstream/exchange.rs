//! One attempt: a request out, the head of the answer in, over one connection.

use super::head::{AnswerHead, head_end, parse};
use super::patience::Patience;
use super::pool::Connection;
use super::socket::Socket;
use crate::http::body::Framing;
use crate::http::io::{poll_read_into, send_at_once};
use crate::http::response::Fields;
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;

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
/// more and answers already ends it as one that is broken: its answer is in `input`. What goes is counted in `bytes`.
pub async fn write_all(
    connection: &mut Connection,
    input: &mut BytesMut,
    parts: &[&[u8]],
    each: Duration,
    bytes: &mut u64,
) -> Result<(), AttemptError> {
    const LATE: AttemptError = AttemptError::Timeout(
        "upstream timed out (110: Connection timed out) while sending request to upstream",
    );
    let total: usize = parts.iter().map(|p| p.len()).sum();
    let mut patience = Patience::new(each);
    let mut sent = 0;
    let stream = &mut connection.stream;
    if let ([one], Socket::Tcp(socket)) = (parts, &*stream)
        && let Some(written) = send_at_once(socket, one)
    {
        sent = written.map_err(|e| broken("writev()", &e))?;
        *bytes += sent as u64;
    }
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
            Some(Ok(n)) => {
                sent += n;
                *bytes += n as u64;
            }
        }
        patience.rest();
    }
    if stream.is_plain() {
        return Ok(());
    }
    let flushed = poll_fn(|cx| match Pin::new(&mut *stream).poll_flush(cx) {
        Poll::Pending if patience.is_over(cx) => Poll::Ready(None),
        flushed => flushed.map(Some),
    });
    match flushed.await {
        None => Err(LATE),
        Some(Err(e)) => Err(broken("writev()", &e)),
        Some(Ok(())) => Ok(()),
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

/// Reads the head of an answer; interim ones (1xx but 101) are skipped, which may take as many bytes in all.
/// What follows the head stays in `input`.
pub async fn read_head(
    connection: &mut Connection,
    input: &mut BytesMut,
    head_request: bool,
    limit: usize,
    each: Duration,
) -> Result<AnswerHead, AttemptError> {
    let too_big = || {
        AttemptError::Invalid(
            "upstream sent too big header while reading response header from upstream".into(),
        )
    };
    let mut patience = Patience::new(each);
    let mut skipped = 0;
    loop {
        let whole = head_end(input);
        if whole.unwrap_or(input.len()) > limit {
            return Err(too_big());
        }
        if let Some(end) = whole {
            let head = input.split_to(end).freeze();
            let parsed = parse(&head, head_request)?;
            if (100..200).contains(&parsed.status) && parsed.status != 101 {
                skipped += end;
                if skipped > limit {
                    return Err(too_big());
                }
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test]
    async fn interim_answers_have_an_end() {
        use tokio::io::AsyncWriteExt;
        for (interim, fine) in [(0, true), (100, true), (200, false)] {
            let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
            let stream = Socket::Unix(ours);
            let mut connection = Connection { stream, requests: 0, born: std::time::Instant::now() };
            let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(interim);
            theirs.write_all(interim.as_bytes()).await.unwrap();
            theirs.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            let (mut input, each) = (BytesMut::new(), Duration::from_secs(2));
            let answer = read_head(&mut connection, &mut input, false, 4096, each).await;
            match answer {
                Ok(head) => assert!(fine && head.status == 200),
                Err(e) => assert!(!fine && matches!(e, AttemptError::Invalid(_)), "{e:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_was_sent_in_part_is_counted() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let stream = Socket::Unix(ours);
        let mut connection = Connection { stream, requests: 0, born: std::time::Instant::now() };
        let body = vec![b'x'; 8 << 20];
        let (mut input, mut bytes) = (BytesMut::new(), 0);
        let leaves = async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(theirs);
        };
        let parts = [&b"head"[..], &body];
        let sending = write_all(&mut connection, &mut input, &parts, Duration::from_secs(5), &mut bytes);
        let (sent, ()) = tokio::join!(sending, leaves);
        assert!(matches!(sent, Err(AttemptError::Broken(_))), "{sent:?}");
        assert!(bytes > 4 && bytes < body.len() as u64, "{bytes}");
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
}
