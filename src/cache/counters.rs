//! What a zone counts.

use super::CacheStatus;
use super::disk::format::Damage;
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

/// Why a file left the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DiskEviction {
    /// `max_size`
    Size,
    /// `min_free`
    Free,
    /// Not used for `inactive`.
    Inactive,
    /// `keys_zone` has no room for more names.
    Keys,
}

impl DiskEviction {
    /// All of them, in the order of their numbers.
    pub const ALL: [DiskEviction; 4] =
        [DiskEviction::Size, DiskEviction::Free, DiskEviction::Inactive, DiskEviction::Keys];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskEviction::Size => "size",
            DiskEviction::Free => "min_free",
            DiskEviction::Inactive => "inactive",
            DiskEviction::Keys => "keys",
        }
    }
}

/// What a zone counts of its files.
#[derive(Default, Debug)]
pub struct DiskCounters {
    /// Entries read.
    pub reads: Counter,
    /// Entries written.
    pub writes: Counter,
    /// Entries that were not written: too much was waiting, or the disk does not work.
    pub dropped: Counter,
    /// Failures to write.
    pub failures: Counter,
    /// Files found at the start that were not ours, and removed.
    pub foreign: Counter,
    damaged: [Counter; Damage::ALL.len()],
    evictions: [Counter; DiskEviction::ALL.len()],
}

impl DiskCounters {
    /// A file was damaged so.
    pub fn damage(&self, what: Damage) {
        self.damaged[what as usize].inc();
    }

    /// Files that were damaged so.
    pub fn damaged(&self, what: Damage) -> u64 {
        self.damaged[what as usize].get()
    }

    /// A file was removed.
    pub fn eviction(&self, why: DiskEviction) {
        self.evictions[why as usize].inc();
    }

    /// Files that were removed for this reason.
    pub fn evictions(&self, why: DiskEviction) -> u64 {
        self.evictions[why as usize].get()
    }
}

/// The counters of a zone; they outlive a change of its size.
#[derive(Default, Debug)]
pub struct Counters {
    requests: [Counter; CacheStatus::ALL.len()],
    fills: [Counter; FillEnd::ALL.len()],
    refusals: [Counter; Refusal::ALL.len()],
    evictions: [Counter; Eviction::ALL.len()],
    /// What is counted of its files.
    pub disk: DiskCounters,
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
