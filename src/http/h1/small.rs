//! An answer that is at hand whole and small: head and body are one piece, and as a rule one write.

use super::write::Plan;
use crate::http::body::{Body, BodyError};
use crate::http::io::Io;
use crate::http::pace::Pace;
use crate::http::request::{H1Body, Request};
use crate::http::response::Response;
use crate::upstream::patience::Patience;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWrite;

/// Bodies up to this are copied behind their heads: the kernel takes one piece with less ado than two.
const SMALL: usize = 8 * 1024;

/// The length of a body that goes out in one piece with its head, if it may.
pub(super) fn length(rq: &Request, response: &Response, plan: &Plan) -> Option<usize> {
    let Body::Bytes(body) = &response.body else { return None };
    let whole = plan.body && !plan.chunked && plan.length == Some(body.len() as u64);
    let fits = whole && body.len() <= SMALL && !response.trailers;
    (fits && Pace::of(rq, true).is_none()).then_some(body.len())
}

/// Sends head and body, for which there is [`length`]. After the `last` answer the connection is closed.
pub(super) async fn send(
    rq: &mut Request,
    h1: &mut H1Body,
    mut head: Vec<u8>,
    response: &mut Response,
    last: bool,
) -> Result<(), BodyError> {
    let head_bytes = head.len() as u64;
    if let Body::Bytes(body) = std::mem::take(&mut response.body) {
        head.extend_from_slice(&body);
    }
    if last {
        h1.io.last();
    }
    let mut written = 0;
    let result = write(&mut h1.io, &head, *rq.loc().core.send_timeout, &mut written).await;
    rq.sent.bytes = written as u64;
    rq.sent.body_bytes = rq.sent.bytes.saturating_sub(head_bytes);
    result
}

/// Writes everything; each write has so long.
async fn write(io: &mut Io, all: &[u8], each: Duration, written: &mut usize) -> Result<(), BodyError> {
    let mut patience = Patience::new(each);
    if let Some(sent) = io.send_at_once(all) {
        *written += sent.map_err(BodyError::Client)?;
    }
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
