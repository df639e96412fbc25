//! Head and body on their way: few writes, read-ahead for slow clients, an eye on who leaves.

use super::sendfile::{Straight, send_straight};
use super::write::{Plan, last_chunk};
use crate::edge::turn::Slice;
use crate::http::body::{Body, BodyError};
use crate::http::io::{Io, poll_read_into};
use crate::http::pace::{self, Pace};
use crate::http::request::{H1Body, Request};
use crate::http::response::Response;
use crate::modules::headers;
use crate::upstream::patience::Patience;
use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

/// Sends head and body, gathering what is at hand into as few writes as can be. After the `last` answer the
/// connection is closed, and the end of its session goes out with the end of the answer.
pub(super) async fn send(
    rq: &mut Request,
    h1: &mut H1Body,
    head: Vec<u8>,
    response: &mut Response,
    plan: &Plan,
    last: bool,
) -> Result<(), BodyError> {
    let proxy = &rq.loc().proxy;
    let buffered = response.upstream && !response.body.flush_each();
    let ahead = if buffered { *proxy.buffers as usize } else { 0 };
    let pace = Pace::of(rq, !h1.io.is_tls());
    // An upstream's answer of known length is gathered in the buffer of its head, unless ours is large: its body often
    // comes just after (ngx_event_pipe, ngx_http_write_filter).
    let gathers = buffered
        && plan.length.is_some()
        && pace.is_none()
        && (head.len() as u64) < *rq.loc().core.postpone_output;
    let room = *proxy.buffer_size;
    let room = room.saturating_sub(rq.attempts.last().map_or(0, |attempt| attempt.head_size));
    let mut out = Outgoing::new(*rq.loc().core.send_timeout, ahead, pace);
    out.push(Bytes::from(head));
    let head_bytes = out.queued as u64;
    let mut body_bytes = 0u64;
    let result = async {
        if plan.body {
            let flush_each = response.body.flush_each();
            let mut slice = Slice::begin();
            loop {
                slice.pass().await;
                if !plan.chunked {
                    send_past(response, h1, &mut out, plan, &mut body_bytes).await?;
                }
                let gathers = gathers && body_bytes < room;
                let piece = next_piece(response, h1, &mut out, gathers).await;
                let heeded = rq.cache_status.is_none() && !*rq.loc().proxy.ignore_client_abort;
                if let (true, 0, Err(BodyError::Client(_))) = (gathers && heeded, out.written, &piece) {
                    // It left before anything was sent.
                    rq.sent.status = 499;
                }
                let Some(piece) = piece? else { break };
                let length = piece.len() as u64;
                body_bytes += length;
                // What is more would be taken for the next response.
                if plan.length.is_some_and(|announced| body_bytes > announced) {
                    return Err(BodyError::Upstream("body is longer than its length".into()));
                }
                if plan.chunked {
                    out.push_chunk(piece);
                } else {
                    out.push(piece);
                }
                // What is kept in memory waits for nothing and takes no more by being gathered.
                let is_kept = matches!(response.body, Body::Kept(..) | Body::Lasting(_));
                let full = match is_kept {
                    true => FULL_KEPT,
                    false if out.pace.is_some() => FULL_PACED,
                    false => FULL,
                };
                if flush_each || out.queued >= full || out.queue.len() >= SLICES {
                    out.write(h1, &mut response.body).await?;
                }
            }
            if let (Some(length), false) = (plan.length, plan.chunked)
                && length != body_bytes
            {
                return Err(BodyError::Upstream(format!("body of {length} bytes ended after {body_bytes}")));
            }
            if plan.chunked {
                out.close_chunk();
                rq.sent.bytes = out.written;
                out.push(last_chunk(rq, response));
            } else if response.trailers {
                // They are not sent, but they are variables.
                headers::trailers(rq, response);
            }
        }
        if last {
            if out.pace.is_some() {
                // There may be more than one write to come.
                out.write(h1, &mut response.body).await?;
            }
            h1.io.last();
        }
        out.write(h1, &mut response.body).await
    }
    .await;
    if let Err(BodyError::Upstream(_) | BodyError::Coding(_) | BodyError::File(_)) = &result {
        // What there was of the body is the client's to see, and that it is not whole.
        let _ = out.write(h1, &mut Body::Empty).await;
    }
    rq.sent.bytes = out.written;
    rq.sent.body_bytes = out.written.saturating_sub(head_bytes);
    result
}

/// Sends what is left of the body past the process where that can be done, and before it what is queued.
/// `body_bytes` is how much of the body was taken.
async fn send_past(
    response: &mut Response,
    h1: &mut H1Body,
    out: &mut Outgoing,
    plan: &Plan,
    body_bytes: &mut u64,
) -> Result<(), BodyError> {
    if !matches!(h1.io, Io::Tcp(_)) {
        return Ok(());
    }
    // What is more than was announced would be taken for the next response.
    let fits = |left| plan.length.is_none_or(|announced| *body_bytes + left <= announced);
    let straight = Straight::of(&response.body).filter(|body| fits(body.left()));
    let Some(mut straight) = straight.filter(|_| out.ahead.is_empty()) else { return Ok(()) };
    response.body = Body::Empty;
    let may = out.turn(h1, &mut Body::Empty).await?;
    let Io::Tcp(stream) = &h1.io else { return Ok(()) };
    // Where the socket takes all of it, as it does nearly always, the head leaves in one segment with the body.
    if may > out.queued as u64
        && let Ok(n) = out.write_more(stream)
    {
        out.advance(n);
        out.went(n as u64, false);
    }
    out.drain(h1, &mut Body::Empty).await?;
    while straight.left() > 0 {
        let most = match out.turn(h1, &mut Body::Empty).await? {
            u64::MAX => None,
            most => Some(straight.whole_pages(most)),
        };
        let Io::Tcp(stream) = &h1.io else { return Ok(()) };
        let mut sent = 0;
        let result = send_straight(stream, &mut straight, most, out.timeout, &mut sent).await;
        *body_bytes += sent;
        out.went(sent, most.is_some_and(|most| sent < most));
        if !result? {
            if let Straight::Memory(left) = straight {
                response.body = Body::Lasting(left);
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Bytes gathered before they are written.
const FULL: usize = 64 * 1024;

/// The same where the body is kept in memory.
const FULL_KEPT: usize = 1024 * 1024;

/// The same where they wait longer.
const FULL_PACED: usize = pace::READ as usize;

/// Pieces that are written at once.
const SLICES: usize = 32;

/// Bytes a client may send ahead while its answer is being produced.
const AHEAD: usize = 64 * 1024;

/// The next piece of the body. What is queued is written before anything is waited for, unless all of it `gathers`, and
/// a client that leaves while there is nothing to send is noticed.
async fn next_piece(
    response: &mut Response,
    h1: &mut H1Body,
    out: &mut Outgoing,
    gathers: bool,
) -> Result<Option<Bytes>, BodyError> {
    let at_hand = std::future::poll_fn(|cx| Poll::Ready(out.take_piece(&mut response.body, cx))).await;
    if let Poll::Ready(piece) = at_hand {
        return piece.transpose();
    }
    if !gathers {
        out.write(h1, &mut response.body).await?;
    }
    std::future::poll_fn(|cx| match out.take_piece(&mut response.body, cx) {
        Poll::Ready(piece) => Poll::Ready(piece.transpose()),
        Poll::Pending => poll_left(h1, cx).map(Err),
    })
    .await
}

/// Ready when the client is seen to have left, while there is nothing to send; what it sends ahead is kept, within
/// bounds.
fn poll_left(h1: &mut H1Body, cx: &mut Context<'_>) -> Poll<BodyError> {
    // Bytes of an unread body are the request's, not ours to read ahead.
    while h1.framing.is_done() && h1.input.len() < AHEAD {
        let left = match ready!(poll_read_into(&mut h1.io, cx, &mut h1.input)) {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => continue,
            Err(e) => e,
        };
        return Poll::Ready(BodyError::Client(left));
    }
    Poll::Pending
}

/// Bytes on their way to the client.
struct Outgoing {
    queue: VecDeque<Bytes>,
    /// Pieces that will be one chunk.
    chunk: VecDeque<Bytes>,
    chunk_bytes: usize,
    queued: usize,
    written: u64,
    timeout: Duration,
    pace: Option<Box<Pace>>,
    /// What was read of the body while the client did not take more (`proxy_buffers`), so that an
    /// upstream is done with sooner than a slow client.
    ahead: VecDeque<Option<Result<Bytes, BodyError>>>,
    ahead_bytes: usize,
    ahead_limit: usize,
}

impl Outgoing {
    fn new(timeout: Duration, ahead_limit: usize, pace: Option<Box<Pace>>) -> Outgoing {
        Outgoing {
            queue: VecDeque::new(),
            chunk: VecDeque::new(),
            chunk_bytes: 0,
            queued: 0,
            written: 0,
            timeout,
            pace,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            ahead_limit,
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Adds a piece to the chunk that the next write will send: one chunk for what is at hand.
    fn push_chunk(&mut self, piece: Bytes) {
        self.queued += piece.len();
        self.chunk_bytes += piece.len();
        self.chunk.push_back(piece);
    }

    fn close_chunk(&mut self) {
        let bytes = std::mem::take(&mut self.chunk_bytes);
        if bytes > 0 {
            self.queued -= bytes;
            self.push(Bytes::from(format!("{bytes:x}\r\n")));
            while let Some(piece) = self.chunk.pop_front() {
                self.push(piece);
            }
            self.push(Bytes::from_static(b"\r\n"));
        }
    }

    /// The next piece of the body, one read ahead first.
    fn take_piece(
        &mut self,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self.ahead.front() {
            // The end stays, to be seen again if it is asked for again.
            Some(None) => Poll::Ready(None),
            Some(Some(_)) => {
                let piece = self.ahead.pop_front().flatten();
                if let Some(Ok(bytes)) = &piece {
                    self.ahead_bytes -= bytes.len();
                }
                Poll::Ready(piece)
            }
            None => body.poll_next(cx),
        }
    }

    /// Reads ahead as far as is allowed.
    fn read_ahead(&mut self, body: &mut Body, cx: &mut Context<'_>) {
        // It stands for one that is sent past the process.
        if matches!(body, Body::Empty) {
            return;
        }
        while self.ahead_bytes < self.ahead_limit && !matches!(self.ahead.back(), Some(None | Some(Err(_)))) {
            match body.poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(piece) => {
                    if let Some(Ok(bytes)) = &piece {
                        self.ahead_bytes += bytes.len();
                    }
                    self.ahead.push_back(piece);
                }
            }
        }
    }

    /// Waits until something may be sent; how many bytes. Meanwhile a client that leaves is noticed, and the body read
    /// ahead.
    async fn turn(&mut self, h1: &mut H1Body, body: &mut Body) -> Result<u64, BodyError> {
        std::future::poll_fn(|cx| {
            let Some(pace) = &mut self.pace else { return Poll::Ready(Ok(u64::MAX)) };
            if let Poll::Ready(most) = pace.poll_turn(cx) {
                return Poll::Ready(Ok(most));
            }
            self.read_ahead(body, cx);
            poll_left(h1, cx).map(Err)
        })
        .await
    }

    /// Takes note that bytes were sent, and whether the client takes no more for now.
    fn went(&mut self, bytes: u64, full: bool) {
        self.written += bytes;
        if let Some(pace) = &mut self.pace {
            pace.went(bytes, 0);
            if full {
                pace.rest();
            }
        }
    }

    /// Writes everything that is at hand.
    async fn write(&mut self, h1: &mut H1Body, body: &mut Body) -> Result<(), BodyError> {
        self.close_chunk();
        self.drain(h1, body).await?;
        if let Some(pace) = &mut self.pace {
            pace.rest();
        }
        self.flush(&mut h1.io).await
    }

    /// Writes what is queued; each write has `send_timeout`.
    async fn drain(&mut self, h1: &mut H1Body, body: &mut Body) -> Result<(), BodyError> {
        let mut patience = Patience::new(self.timeout);
        while !self.queue.is_empty() {
            let most = self.turn(h1, body).await?;
            let (n, full) = self.write_some(&mut h1.io, body, most, &mut patience).await?;
            if n == 0 {
                return Err(BodyError::Client(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
            self.went(n as u64, full);
            patience.rest();
            if self.pace.is_some() {
                // It may be long until the next.
                self.flush(&mut h1.io).await?;
            }
        }
        Ok(())
    }

    async fn flush(&self, io: &mut Io) -> Result<(), BodyError> {
        let mut patience = Patience::new(self.timeout);
        std::future::poll_fn(|cx| match Pin::new(&mut *io).poll_flush(cx) {
            Poll::Pending if patience.is_over(cx) => Poll::Ready(Err(BodyError::ClientTimeout)),
            flushed => flushed.map_err(BodyError::Client),
        })
        .await
    }

    /// Writes at most so many bytes; how many, and whether the client takes no more for now.
    async fn write_some(
        &mut self,
        io: &mut Io,
        body: &mut Body,
        most: u64,
        patience: &mut Patience,
    ) -> Result<(usize, bool), BodyError> {
        std::future::poll_fn(|cx| {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (count, bytes) = self.slices(&mut slices, most);
            let written = Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]);
            if written.is_pending() {
                self.read_ahead(body, cx);
                if patience.is_over(cx) {
                    return Poll::Ready(Err(BodyError::ClientTimeout));
                }
            }
            // What TLS takes the client need not have taken.
            written.map_ok(|n| (n, n < bytes && !io.is_tls())).map_err(BodyError::Client)
        })
        .await
    }

    /// Writes what the socket takes at once, and says that more follows at once.
    fn write_more(&self, stream: &TcpStream) -> io::Result<usize> {
        stream.try_io(Interest::WRITABLE, || {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (n, _) = self.slices(&mut slices, u64::MAX);
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            Ok(sendmsg(stream, &slices[..n], &mut SendAncillaryBuffer::default(), flags)?)
        })
    }

    /// The next `most` bytes of what is queued, as far as there is room for them. Returns how many slices and bytes.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES], most: u64) -> (usize, usize) {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let (mut count, mut bytes) = (0, 0);
        for (slot, next) in slices.iter_mut().zip(&self.queue) {
            let part = &next[..next.len().min(most - bytes)];
            if part.is_empty() {
                break;
            }
            *slot = IoSlice::new(part);
            (count, bytes) = (count + 1, bytes + part.len());
        }
        (count, bytes)
    }

    fn advance(&mut self, mut n: usize) {
        self.queued -= n;
        while let Some(front) = self.queue.front_mut() {
            if n < front.len() {
                let _ = front.split_to(n);
                return;
            }
            n -= front.len();
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
