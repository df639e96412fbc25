//! What a zone counts.

use super::CacheStatus;
use super::freshness::Refusal;
use crate::observe::metrics::{Counter, Gauge};
use moka::notification::RemovalCause;

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FillEnd {
    /// Whole, and kept.
    Stored,
    /// The upstream confirmed what was kept.
    Refreshed,
    /// The answer may not be kept; its requester alone got it.
    Uncacheable,
    /// There was no answer.
    Failed,
    /// The body broke off.
    Aborted,
    /// Whole, but larger than may be kept.
    Passed,
    /// Larger than may be kept, and nobody was reading any more.
    Abandoned,
}

impl FillEnd {
    /// All of them, in the order of their numbers.
    pub const ALL: [FillEnd; 7] = [
        FillEnd::Stored,
        FillEnd::Refreshed,
        FillEnd::Uncacheable,
        FillEnd::Failed,
        FillEnd::Aborted,
        FillEnd::Passed,
        FillEnd::Abandoned,
    ];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            FillEnd::Stored => "stored",
            FillEnd::Refreshed => "refreshed",
            FillEnd::Uncacheable => "uncacheable",
            FillEnd::Failed => "failed",
            FillEnd::Aborted => "aborted",
            FillEnd::Passed => "passed",
            FillEnd::Abandoned => "abandoned",
        }
    }
}

/// Why an entry left the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Eviction {
    /// There was no room.
    Size,
    /// Not used for `inactive`.
    Inactive,
    /// A newer one took its place.
    Replaced,
}

impl Eviction {
    /// All of them, in the order of their numbers.
    pub const ALL: [Eviction; 3] = [Eviction::Size, Eviction::Inactive, Eviction::Replaced];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Eviction::Size => "size",
            Eviction::Inactive => "inactive",
            Eviction::Replaced => "replaced",
        }
    }
}

impl From<RemovalCause> for Eviction {
    fn from(cause: RemovalCause) -> Eviction {
        match cause {
            RemovalCause::Size => Eviction::Size,
            RemovalCause::Expired => Eviction::Inactive,
            RemovalCause::Explicit | RemovalCause::Replaced => Eviction::Replaced,
        }
    }
}

/// The counters of a zone; they outlive a change of its size.
#[derive(Default, Debug)]
pub struct Counters {
    requests: [Counter; CacheStatus::ALL.len()],
    fills: [Counter; FillEnd::ALL.len()],
    refusals: [Counter; Refusal::ALL.len()],
    evictions: [Counter; Eviction::ALL.len()],
    /// Fills under way.
    pub filling: Gauge,
    /// Requests that read from a fill, the one that caused it included.
    pub readers: Counter,
    /// Requests that went upstream because another's fill took too long.
    pub lock_timeouts: Counter,
}

impl Counters {
    /// A request was answered so.
    pub fn request(&self, status: CacheStatus) {
        self.requests[status as usize].inc();
    }

    /// Requests answered so.
    pub fn requests(&self, status: CacheStatus) -> u64 {
        self.requests[status as usize].get()
    }

    /// A fill ended so.
    pub fn fill(&self, end: FillEnd) {
        self.fills[end as usize].inc();
    }

    /// Fills that ended so.
    pub fn fills(&self, end: FillEnd) -> u64 {
        self.fills[end as usize].get()
    }

    /// An answer was not kept.
    pub fn refusal(&self, why: Refusal) {
        self.refusals[why as usize].inc();
    }

    /// Answers that were not kept for this reason.
    pub fn refusals(&self, why: Refusal) -> u64 {
        self.refusals[why as usize].get()
    }

    /// An entry left the store.
    pub fn eviction(&self, why: Eviction) {
        self.evictions[why as usize].inc();
    }

    /// Entries that left the store so.
    pub fn evictions(&self, why: Eviction) -> u64 {
        self.evictions[why as usize].get()
    }
}
