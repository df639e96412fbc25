//! What a location wants of its cache.

use crate::http::temp_file::TempPath;
use crate::upstream::FailureKind;
use std::sync::Arc;
use std::time::Duration;

/// A location's wishes: the `proxy_cache_*` settings without their names and texts.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How long answers live that do not say it themselves; the first that fits holds.
    pub valid: Vec<Valid>,
    /// Fields of an answer that are not heeded.
    pub ignore: IgnoreHeaders,
    /// When a stale entry is better than none.
    pub stale: UseStale,
    /// Whether a stale entry that may be served while it is updated is updated by nobody's request.
    pub background_update: bool,
    /// Whether a stale entry is asked for with its validators.
    pub revalidate: bool,
    /// Statuses of answers that pages of ours take the place of: once stale they are nothing to fall back on.
    pub intercepted: Vec<u16>,
    /// Whether requests that miss the same key read one fill; else each goes upstream by itself.
    pub share: bool,
    /// How long a request waits for the head of another's fill before it goes upstream itself.
    pub lock_timeout: Duration,
    /// How long a fill may take to its head before another is started beside it.
    pub lock_age: Duration,
    /// The request for a key by which it is kept.
    pub min_uses: u32,
    /// How far RFC 9111 holds where nginx does otherwise.
    pub rfc9111: Rfc9111,
    /// How long an answer lives that only says when it was changed last; only with `rfc9111`.
    pub heuristic: Option<Heuristic>,
    /// Fields that, where an answer has them, hold in place of `Cache-Control` and `Expires` (RFC 9213),
    /// the first before the others; only with `rfc9111`.
    pub targeted: Vec<Box<str>>,
    /// What becomes of an answer that is more than memory may hold.
    pub temporary: Temporary,
}

/// Temporary files of answers that are not stored.
#[derive(Clone, Debug)]
pub struct Temporary {
    /// Where they are.
    pub path: Arc<TempPath>,
    /// Bytes that one may have; 0: there are none.
    pub most: u64,
    /// Bytes that are gathered before they are written.
    pub at_once: u64,
}

impl Default for Temporary {
    fn default() -> Temporary {
        Temporary { path: Arc::default(), most: 1 << 30, at_once: 8 << 10 }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            valid: Vec::new(),
            ignore: IgnoreHeaders::default(),
            stale: UseStale::default(),
            background_update: false,
            revalidate: false,
            intercepted: Vec::new(),
            share: true,
            lock_timeout: Duration::from_secs(5),
            lock_age: Duration::from_secs(5),
            min_uses: 1,
            rfc9111: Rfc9111::Off,
            heuristic: None,
            targeted: Vec::new(),
            temporary: Temporary::default(),
        }
    }
}

impl Policy {
    /// How long `proxy_cache_valid` lets an answer of this status live; `None` when it does not.
    pub fn valid(&self, status: u16) -> Option<Duration> {
        let valid = self.valid.iter().find(|v| v.status.is_none_or(|s| s == status))?;
        (!valid.time.is_zero()).then_some(valid.time)
    }
}

/// Whether an answer of this status says that the server fails, whoever asks: what
/// `proxy_next_upstream` and `proxy_cache_use_stale` can name of 5xx.
pub fn is_down(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

/// `proxy_cache_rfc9111`: how far RFC 9111 holds where nginx does otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rfc9111 {
    /// Not at all.
    #[default]
    Off,
    /// In what concerns answers.
    Responses,
    /// And requests: a client may ask for a fresh copy.
    On,
}

/// `proxy_cache_heuristic`: a share of the time since an answer was changed last (RFC 9111, 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heuristic {
    /// Percent of that time.
    pub percent: u64,
    /// And no more than this.
    pub max: Duration,
}

/// A `proxy_cache_valid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Valid {
    /// The status; `None` is any.
    pub status: Option<u16>,
    /// How long; zero is not at all.
    pub time: Duration,
}

/// `proxy_ignore_headers`: fields of an answer that are not heeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct IgnoreHeaders {
    pub x_accel_redirect: bool,
    pub x_accel_expires: bool,
    pub x_accel_limit_rate: bool,
    pub x_accel_buffering: bool,
    pub x_accel_charset: bool,
    pub expires: bool,
    pub cache_control: bool,
    pub set_cookie: bool,
    pub vary: bool,
}

/// `proxy_cache_use_stale`: when a stale entry is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UseStale {
    /// No connection, or one that failed; also when no server of a group can be asked.
    pub error: bool,
    /// A time-out.
    pub timeout: bool,
    /// An answer that is none.
    pub invalid_header: bool,
    /// While another request updates it.
    pub updating: bool,
    /// These statuses.
    pub statuses: Vec<u16>,
}

impl UseStale {
    /// Whether a failure of this kind calls for a stale entry.
    pub fn on_failure(&self, kind: FailureKind) -> bool {
        match kind {
            FailureKind::Error | FailureKind::NoLiveUpstreams => self.error,
            FailureKind::Timeout => self.timeout,
            FailureKind::InvalidHeader => self.invalid_header,
            FailureKind::Client | FailureKind::Internal => false,
        }
    }

    /// Whether an answer of this status calls for a stale entry.
    pub fn on_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }
}
