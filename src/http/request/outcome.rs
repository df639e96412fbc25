//! What became of a request: the attempts at upstream servers, and what was sent.

use crate::http::response::Fields;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
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
    pub end: Arc<AttemptEnd>,
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
    pub last_modified: Option<u64>,
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
