//! One attempt: a request out, the head of the answer in, over one connection.

use super::head::{AnswerHead, head_end, take};
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
    let first = write_first(connection, parts);
    write_rest(connection, input, parts, each, first, bytes).await
}

/// A first write of what is in one piece, see [`send_at_once`].
pub fn write_first(connection: &Connection, parts: &[&[u8]]) -> Option<io::Result<usize>> {
    match (parts, &connection.stream) {
        ([one], Socket::Tcp(socket)) => send_at_once(socket, one),
        _ => None,
    }
}

/// The same after a first write.
pub async fn write_rest(
    connection: &mut Connection,
    input: &mut BytesMut,
    parts: &[&[u8]],
    each: Duration,
    first: Option<io::Result<usize>>,
    bytes: &mut u64,
) -> Result<(), AttemptError> {
    const LATE: AttemptError = AttemptError::Timeout(
        "upstream timed out (110: Connection timed out) while sending request to upstream",
    );
    let total: usize = parts.iter().map(|p| p.len()).sum();
    let mut patience = Patience::new(each);
    let mut sent = 0;
    let stream = &mut connection.stream;
    if let Some(written) = first {
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

/// A head of an answer that is waited for.
pub struct Reading {
    /// Whether it answers a `HEAD`.
    head_request: bool,
    /// Whether a switch of protocols was asked for.
    upgrade: bool,
    /// The most bytes it may have.
    limit: usize,
    /// Bytes of interim answers so far, which may be as many in all.
    skipped: usize,
    patience: Patience,
}

impl Reading {
    /// One of no more than `limit` bytes, all of which have the time `each`. With `upgrade` a switch of protocols is
    /// an answer.
    pub fn new(head_request: bool, upgrade: bool, limit: usize, each: Duration) -> Reading {
        Reading { head_request, upgrade, limit, skipped: 0, patience: Patience::new(each) }
    }

    /// The head, once it has come; interim ones (1xx but 101) are skipped. What follows it stays in `input`.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Socket,
        input: &mut BytesMut,
    ) -> Poll<Result<AnswerHead, AttemptError>> {
        loop {
            match self.take(input) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            let failed = match poll_read_into(stream, cx, input) {
                // All of the head has the time that one wait has, as in nginx.
                Poll::Ready(Ok(n)) if n > 0 => continue,
                Poll::Pending if !self.patience.is_over(cx) => return Poll::Pending,
                failed => failed,
            };
            return Poll::Ready(Err(match failed {
                Poll::Pending => AttemptError::Timeout(
                    "upstream timed out (110: Connection timed out) while reading response header from upstream",
                ),
                Poll::Ready(Ok(_)) => AttemptError::Broken(
                    "upstream prematurely closed connection while reading response header from upstream"
                        .into(),
                ),
                Poll::Ready(Err(e)) => AttemptError::Broken(format!(
                    "recv() failed ({}) while reading response header from upstream",
                    crate::conf::values::os_error(&e)
                )),
            }));
        }
    }

    /// The head, if all of it is there.
    fn take(&mut self, input: &mut BytesMut) -> Result<Option<AnswerHead>, AttemptError> {
        while !input.is_empty() {
            let Some(head) = take(input, self.limit, self.head_request)? else {
                if input.len() > self.limit {
                    return Err(too_big());
                }
                // What does not begin like HTTP is an answer of HTTP/0.9: all of it is body.
                let start = &input[..input.len().min(5)];
                return Ok((!b"HTTP/".starts_with(start)).then(old));
            };
            match head.status {
                // Passed on, it would have the client and those between take what follows for another protocol's
                // bytes.
                101 if !self.upgrade => {
                    return Err(AttemptError::Invalid(
                        "upstream sent unexpected 101 response while reading response header from upstream"
                            .into(),
                    ));
                }
                100 | 102..200 => {}
                _ => return Ok(Some(head)),
            }
            self.skipped += head.size;
            if self.skipped > self.limit {
                return Err(too_big());
            }
            self.patience.rest();
        }
        Ok(None)
    }
}

fn too_big() -> AttemptError {
    AttemptError::Invalid("upstream sent too big header while reading response header from upstream".into())
}

/// The head of an answer that has none.
fn old() -> AnswerHead {
    AnswerHead {
        status: 200,
        reason: Bytes::from_static(b"OK"),
        fields: Fields::default(),
        length: None,
        framing: Framing::Close,
        keepalive: false,
        size: 0,
    }
}

/// Reads the head of an answer.
pub async fn read_head(
    connection: &mut Connection,
    input: &mut BytesMut,
    mut reading: Reading,
) -> Result<AnswerHead, AttemptError> {
    poll_fn(|cx| reading.poll(cx, &mut connection.stream, input)).await
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
            let answer = read_head(&mut connection, &mut input, Reading::new(false, false, 4096, each)).await;
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
        let answer = read_head(&mut connection, &mut input, Reading::new(false, false, 4096, each));
        tokio::select! {
            answer = answer => assert!(matches!(answer, Err(AttemptError::Timeout(_))), "{answer:?}"),
            () = drips => panic!("still waited for"),
        }
    }
}
