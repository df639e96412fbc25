//! An answer that is at hand whole and small: head and body are one piece, and as a rule one write.

use super::write::Plan;
use crate::http::body::{Body, BodyError};
use crate::http::io::Io;
use crate::http::pace::Pace;
use crate::http::request::{H1Body, Request};
use crate::http::response::Response;
use crate::upstream::patience::Patience;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWrite;

/// Bodies up to this are copied behind their heads: the kernel takes one piece with less ado than two.
const SMALL: usize = 8 * 1024;

/// Room for a head that is not large.
pub(super) const HEAD: usize = 512;

/// The most memory that is kept for the next answer.
const KEPT: usize = 16 * 1024;

/// Whether the body goes out in one piece with its head.
pub(super) fn is(rq: &Request, response: &Response, plan: &Plan) -> bool {
    let Body::Bytes(body) = &response.body else { return false };
    let whole = plan.body && !plan.chunked && plan.length == Some(body.len() as u64);
    let fits = whole && body.len() <= SMALL && !response.trailers;
    fits && Pace::of(rq, true).is_none()
}

thread_local! {
    /// Memory for the next answer.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An answer in one piece: its head, and then its body.
pub(super) struct Piece {
    bytes: Vec<u8>,
    head: usize,
    written: usize,
}

/// Memory for the head of an answer that will be one piece.
pub(super) fn buffer() -> Vec<u8> {
    let mut buffer = BUFFER.take();
    buffer.reserve(HEAD);
    buffer
}

impl Piece {
    /// Puts the body behind the head.
    pub(super) fn new(head: Vec<u8>, response: &mut Response) -> Piece {
        let mut piece = Piece { head: head.len(), bytes: head, written: 0 };
        if let Body::Bytes(body) = std::mem::take(&mut response.body) {
            piece.bytes.extend_from_slice(&body);
        }
        piece
    }

    /// Sends what the socket takes at once, as a rule all; whether that was enough. `None` where the rest is to be
    /// waited for.
    pub(super) fn send_at_once(&mut self, h1: &H1Body) -> Option<Result<(), BodyError>> {
        match h1.io.send_at_once(&self.bytes)? {
            Ok(n) => self.written = n,
            Err(e) => return Some(Err(BodyError::Client(e))),
        }
        (self.written == self.bytes.len()).then_some(Ok(()))
    }

    /// Sends the rest; each write has so long.
    pub(super) async fn send(&mut self, h1: &mut H1Body, each: Duration) -> Result<(), BodyError> {
        write(&mut h1.io, &self.bytes, each, &mut self.written).await
    }

    /// Takes note of what was sent, and gives the memory back.
    pub(super) fn end(mut self, rq: &mut Request) {
        rq.sent.bytes = self.written as u64;
        rq.sent.body_bytes = self.written.saturating_sub(self.head) as u64;
        if self.bytes.capacity() <= KEPT {
            self.bytes.clear();
            BUFFER.set(self.bytes);
        }
    }
}

/// Writes everything; each write has so long.
async fn write(io: &mut Io, all: &[u8], each: Duration, written: &mut usize) -> Result<(), BodyError> {
    let mut patience = Patience::new(each);
    while *written < all.len() {
        let n = poll_fn(|cx| match Pin::new(&mut *io).poll_write(cx, &all[*written..]) {
            Poll::Pending if patience.is_over(cx) => Poll::Ready(Err(BodyError::ClientTimeout)),
            n => n.map_err(BodyError::Client),
        });
        match n.await? {
            0 => return Err(BodyError::Client(io::ErrorKind::WriteZero.into())),
            n => *written += n,
        }
        patience.rest();
    }
    if !io.is_tls() {
        return Ok(());
    }
    poll_fn(|cx| match Pin::new(&mut *io).poll_flush(cx) {
        Poll::Pending if patience.is_over(cx) => Poll::Ready(Err(BodyError::ClientTimeout)),
        flushed => flushed.map_err(BodyError::Client),
    })
    .await
}
