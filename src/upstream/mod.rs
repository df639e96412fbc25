//! The other side: groups of peers, balancing, connections, and the exchange of a request for an
//! answer.

use crate::edge::Local;
use crate::http::body::Body;
use crate::http::request::Attempt;
use crate::http::response::{Fields, Tunnel};
use std::sync::Arc;

/// A request ready to go upstream. It owns all it needs, so that it can outlive the client's request
/// (a cache's fill does).
pub struct Plan {
    /// The generation and the worker it runs under.
    pub local: Arc<Local>,
    /// The level whose `proxy_*` settings hold.
    pub level: usize,
    /// The head's fields after the request line, as they will be written.
    pub fields: Fields,
}

/// What an upstream answered.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Every field as received, but for those of the connection (`Connection`, `Keep-Alive`,
    /// `Transfer-Encoding`); names as sent.
    pub fields: Fields,
    /// `Content-Length`, when the upstream gave one.
    pub length: Option<u64>,
    /// The body.
    pub body: Body,
    /// Whether ranges may be cut from it: it is whole, and from the cache or about to be.
    pub ranges: bool,
    /// A protocol switch.
    pub tunnel: Option<Box<dyn Tunnel>>,
    /// The attempts it took.
    pub attempts: Vec<Attempt>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failure {
    /// The status for the client: 502, 504, 503, 500.
    pub status: u16,
    /// What went wrong, by nginx's word in `proxy_next_upstream` and `proxy_cache_use_stale`.
    pub kind: FailureKind,
    /// For the log.
    pub message: String,
    /// The attempts that were made.
    pub attempts: Vec<Attempt>,
}

/// What went wrong at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The connection failed or ended early.
    Error,
    /// A time-out.
    Timeout,
    /// The answer's head is not one.
    InvalidHeader,
    /// No server of the group can be asked.
    NoLiveUpstreams,
    /// The client left or sent a bad body.
    Client,
}

impl Plan {
    /// Sends the request and reads the head of the answer, trying other servers as
    /// `proxy_next_upstream` allows.
    pub async fn fetch(self) -> Result<Answer, Failure> {
        Err(Failure {
            status: 502,
            kind: FailureKind::Error,
            message: "not built".into(),
            attempts: Vec::new(),
        })
    }
}
