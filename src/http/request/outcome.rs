//! What became of a request: the attempts at upstream servers, and what was sent.

use crate::http::response::{Fields, Modified};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An attempt at an upstream server, for `$upstream_*`.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// Whether it is the first for another URI of the request (after an internal redirect).
    pub another: bool,
    /// The peer's name as configured.
    pub peer: Arc<str>,
    /// The status it answered with; 0 if it did not.
    pub status: u16,
    /// Time to connect, if it connected.
    pub connect: Option<Duration>,
    /// Time to the head of the answer.
    pub header: Option<Duration>,
    /// Bytes of the answer's head.
    pub head_size: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// What is known only once the body has been read.
    pub end: End,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum End {
    /// With its head, or without one: microseconds from the request to the end, and body bytes received.
    Known(u64, u64),
    /// With a body that somebody reads, who notes it here.
    Noted(Arc<AttemptEnd>),
}

impl Default for End {
    fn default() -> End {
        End::Known(0, 0)
    }
}

impl End {
    /// As [`AttemptEnd::micros`].
    pub fn micros(&self) -> u64 {
        match self {
            End::Known(micros, _) => *micros,
            End::Noted(end) => end.micros.load(Ordering::Relaxed),
        }
    }

    /// As [`AttemptEnd::received`].
    pub fn received(&self) -> u64 {
        match self {
            End::Known(_, received) => *received,
            End::Noted(end) => end.received.load(Ordering::Relaxed),
        }
    }

    /// As [`AttemptEnd::trailers`], if there are any.
    pub fn trailers(&self) -> Option<&Fields> {
        match self {
            End::Known(..) => None,
            End::Noted(end) => end.trailers.get(),
        }
    }

    /// It ended just so long after the request, with so many bytes.
    pub fn at(took: Duration, received: u64) -> End {
        // Nothing is what is not known yet.
        End::Known((took.as_micros() as u64).max(1), received)
    }
}

/// How an attempt ended; written by whoever reads the answer's body.
#[derive(Debug, Default)]
pub struct AttemptEnd {
    /// Microseconds from the request to the end of the answer; 0 while it goes on.
    pub micros: AtomicU64,
    /// Body bytes received.
    pub received: AtomicU64,
    /// The fields after the body, where they are asked for (`proxy_pass_trailers`).
    pub trailers: std::sync::OnceLock<Fields>,
}

/// What was sent, for the log and `$sent_http_*`.
#[derive(Default)]
pub struct Sent {
    /// The status.
    pub status: u16,
    /// The response's fields, as sent.
    pub fields: Fields,
    /// The fields after the body.
    pub trailers: Fields,
    /// `Content-Type`.
    pub content_type: Option<Bytes>,
    /// `Content-Length`.
    pub length: Option<u64>,
    /// `Last-Modified`
    pub last_modified: Option<Modified>,
    /// `ETag`
    pub etag: Option<Bytes>,
    /// Whether `Accept-Ranges: bytes` was announced.
    pub accept_ranges: bool,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// Whether the connection ended before the response did.
    pub aborted: bool,
}
