//! The body of an answer, read from its connection as the client takes it.

use super::group::Taken;
use super::patience::Patience;
use super::pool::Connection;
use crate::edge::turn;
use crate::http::body::{BodyError, BodyStream, Framing};
use crate::http::io::poll_read_into;
use crate::http::request::AttemptEnd;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The body of an answer. At its end the connection goes back to the pool.
pub struct UpstreamBody {
    /// What was read and not yet given out.
    pub input: BytesMut,
    /// Where it ends.
    pub framing: Framing,
    /// `None` once it has been given back or has failed.
    pub connection: Option<Connection>,
    /// Whether the connection may be used again.
    pub keepalive: bool,
    /// The peer, busy until the end.
    pub taken: Option<Taken>,
    /// The worker and the kind of connection, for the pool.
    pub home: (usize, u64),
    /// Time between two reads.
    pub patience: Patience,
    /// `proxy_buffering off`: each piece is sent on at once.
    pub unbuffered: bool,
    /// When the request was sent, and where the end is noted.
    pub began: Instant,
    /// What the log will ask for.
    pub end: Arc<AttemptEnd>,
}

impl UpstreamBody {
    /// All of it was read: the connection is free.
    pub fn complete(&mut self, now: Instant) {
        note(&self.end, now.saturating_duration_since(self.began));
        let (Some(connection), Some(taken)) = (self.connection.take(), self.taken.take()) else { return };
        // Bytes after the body are nobody's; such a connection is not to be trusted.
        if self.keepalive && self.input.is_empty() {
            let (worker, kind) = self.home;
            taken.keep(worker, kind, connection, now);
        }
        taken.done();
    }

    fn fail(&mut self, message: String) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.connection = None;
        if let Some(taken) = self.taken.take() {
            taken.metrics().errors.inc();
        }
        self.framing = Framing::None;
        Poll::Ready(Some(Err(BodyError::Upstream(message))))
    }
}

impl BodyStream for UpstreamBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match self.framing.take(&mut self.input) {
                Ok(Some(piece)) => {
                    self.patience.rest();
                    if self.framing.is_done() {
                        self.complete(turn::now());
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Ok(None) if self.framing.is_done() => {
                    self.complete(turn::now());
                    return Poll::Ready(None);
                }
                Ok(None) => {}
                Err(_) => return self.fail("upstream sent invalid chunked response".into()),
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match poll_read_into(&mut connection.stream, cx, &mut self.input) {
                Poll::Ready(Ok(0)) if matches!(self.framing, Framing::Close) => {
                    self.framing = Framing::None;
                }
                Poll::Ready(Ok(0)) => {
                    return self.fail("upstream prematurely closed connection while reading upstream".into());
                }
                Poll::Ready(Ok(n)) => {
                    self.end.received.fetch_add(n as u64, Ordering::Relaxed);
                }
                Poll::Ready(Err(e)) => {
                    let cause = crate::conf::values::os_error(&e);
                    return self.fail(format!("recv() failed ({cause}) while reading upstream"));
                }
                Poll::Pending => {
                    if self.patience.is_over(cx) {
                        return self.fail(
                            "upstream timed out (110: Connection timed out) while reading upstream".into(),
                        );
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn flush_each(&self) -> bool {
        self.unbuffered
    }

    fn set_flush_each(&mut self, on: bool) {
        self.unbuffered = on;
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        if self.end.micros.load(Ordering::Relaxed) == 0 {
            note(&self.end, turn::since(self.began));
        }
    }
}

/// Notes how long an attempt took, all in all.
pub fn note(end: &AttemptEnd, took: Duration) {
    // Nothing is what is not known yet.
    end.micros.store((took.as_micros() as u64).max(1), Ordering::Relaxed);
}
