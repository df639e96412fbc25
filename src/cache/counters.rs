//! What a zone counts.

use super::CacheStatus;
use super::disk::format::Damage;
use super::freshness::Refusal;
use super::purge::Kind;
use crate::http::date::since_epoch;
use crate::observe::metrics::{Counter, Gauge};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

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

/// Why an entry left the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// There was no room.
    Size,
    /// There was no room, and it was known that nobody would ask for it: a segment that has left its
    /// playlist.
    Expendable,
    /// Not used for `inactive`.
    Inactive,
    /// A newer one took its place.
    Replaced,
    /// It was purged.
    Purged,
}

impl Eviction {
    /// All of them, in the order of their numbers.
    pub const ALL: [Eviction; 5] =
        [Eviction::Size, Eviction::Expendable, Eviction::Inactive, Eviction::Replaced, Eviction::Purged];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Eviction::Size => "size",
            Eviction::Expendable => "expendable",
            Eviction::Inactive => "inactive",
            Eviction::Replaced => "replaced",
            Eviction::Purged => "purged",
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
    /// It was purged.
    Purged,
}

impl DiskEviction {
    /// All of them, in the order of their numbers.
    pub const ALL: [DiskEviction; 5] = [
        DiskEviction::Size,
        DiskEviction::Free,
        DiskEviction::Inactive,
        DiskEviction::Keys,
        DiskEviction::Purged,
    ];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskEviction::Size => "size",
            DiskEviction::Free => "min_free",
            DiskEviction::Inactive => "inactive",
            DiskEviction::Keys => "keys",
            DiskEviction::Purged => "purged",
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
///
/// What every hit counts is kept apart for each thread, in lines of memory that no other core
/// writes, and summed when somebody asks.
#[derive(Debug)]
pub struct Counters {
    shards: Box<[Shard]>,
    fills: [Counter; FillEnd::ALL.len()],
    refusals: [Counter; Refusal::ALL.len()],
    evictions: [Counter; Eviction::ALL.len()],
    /// What is counted of its files.
    pub disk: DiskCounters,
    readers_per_fill: [Counter; READERS.len() + 1],
    readers_of_ended: Counter,
    /// Fills under way.
    pub filling: Gauge,
    /// Requests that read from a fill, the one that caused it included.
    pub readers: Counter,
    /// Requests that went upstream because another's fill took too long.
    pub lock_timeouts: Counter,
    purges: [Counter; Kind::ALL.len()],
}

/// Upper bounds of the buckets of entries' ages at a hit, in seconds: below a segment's length, a
/// playlist's window, minutes, hours, days.
pub const AGES: [u64; 11] = [1, 2, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400, 604_800];

/// Upper bounds of the buckets of readers per fill.
pub const READERS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000];

/// A thread's part. Two lines of memory at a time are fetched by some processors.
#[derive(Default, Debug)]
#[repr(align(128))]
struct Shard {
    requests: [Counter; CacheStatus::ALL.len()],
    ages: [Counter; AGES.len() + 1],
    /// Milliseconds.
    age_sum: Counter,
}

/// Which shard is the thread's, before it is brought into the range of those there are.
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    OWN.with(|own| *own)
}

/// A histogram: upper bounds with how many were at or below each, the sum, the count.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Spread {
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
    pub count: u64,
}

impl Spread {
    /// From how many were in each bucket, the last without a bound.
    fn new(bounds: &[u64], counts: impl Fn(usize) -> u64, sum: f64) -> Spread {
        let mut count = 0;
        let mut upto = |index| {
            count += counts(index);
            count
        };
        let buckets = bounds.iter().enumerate().map(|(i, bound)| (*bound as f64, upto(i))).collect();
        let count = upto(bounds.len());
        Spread { buckets, sum, count }
    }
}

impl Default for Counters {
    fn default() -> Counters {
        // No more than there are cores write at once.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = cores.next_power_of_two().clamp(4, 128);
        Counters {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            fills: Default::default(),
            refusals: Default::default(),
            evictions: Default::default(),
            disk: DiskCounters::default(),
            readers_per_fill: Default::default(),
            readers_of_ended: Counter::default(),
            filling: Gauge::default(),
            readers: Counter::default(),
            lock_timeouts: Counter::default(),
            purges: Default::default(),
        }
    }
}

impl Counters {
    fn shard(&self) -> &Shard {
        // The number of shards is a power of two.
        &self.shards[thread() & (self.shards.len() - 1)]
    }

    /// A request was answered so.
    pub fn request(&self, status: CacheStatus) {
        self.shard().requests[status as usize].inc();
    }

    /// Requests answered so.
    pub fn requests(&self, status: CacheStatus) -> u64 {
        self.shards.iter().map(|shard| shard.requests[status as usize].get()).sum()
    }

    /// A request was answered at `now` with an entry that was received so many milliseconds after 1970.
    pub fn served(&self, received: u64, now: Instant) {
        // The time of day is not asked for anew at every hit; what the clock was corrected by since
        // the first one does not matter here.
        static FIRST: OnceLock<(Instant, u64)> = OnceLock::new();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (first, since) = FIRST.get_or_init(|| (now, millis(since_epoch())));
        let now = since.saturating_add(millis(now.saturating_duration_since(*first)));
        self.age(Duration::from_millis(now.saturating_sub(received)));
    }

    /// A request was answered with an entry that was received so long ago.
    fn age(&self, age: Duration) {
        let shard = self.shard();
        let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        shard.ages[AGES.partition_point(|bound| bound.saturating_mul(1000) < millis)].inc();
        shard.age_sum.add(millis);
    }

    /// The ages of entries at their hits, seconds.
    pub fn ages(&self) -> Spread {
        let count = |index: usize| self.shards.iter().map(|shard| shard.ages[index].get()).sum();
        let sum: u64 = self.shards.iter().map(|shard| shard.age_sum.get()).sum();
        Spread::new(&AGES, count, sum as f64 / 1000.0)
    }

    /// A fill ended so.
    pub fn fill(&self, end: FillEnd) {
        self.fills[end as usize].inc();
    }

    /// Fills that ended so.
    pub fn fills(&self, end: FillEnd) -> u64 {
        self.fills[end as usize].get()
    }

    /// A fill ended that so many had read or awaited.
    pub fn fill_readers(&self, readers: u64) {
        self.readers_per_fill[READERS.partition_point(|bound| *bound < readers)].inc();
        self.readers_of_ended.add(readers);
    }

    /// Readers of each fill that has ended.
    pub fn readers_per_fill(&self) -> Spread {
        let count = |index: usize| self.readers_per_fill[index].get();
        Spread::new(&READERS, count, self.readers_of_ended.get() as f64)
    }

    /// An answer was not kept.
    pub fn refusal(&self, why: Refusal) {
        self.refusals[why as usize].inc();
    }

    /// Answers that were not kept for this reason.
    pub fn refusals(&self, why: Refusal) -> u64 {
        self.refusals[why as usize].get()
    }

    /// A purge was carried out.
    pub fn purge(&self, kind: Kind) {
        self.purges[kind as usize].inc();
    }

    /// Purges of this kind that were carried out.
    pub fn purges(&self, kind: Kind) -> u64 {
        self.purges[kind as usize].get()
    }

    /// An entry left the memory.
    pub fn eviction(&self, why: Eviction) {
        self.evictions[why as usize].inc();
    }

    /// Entries that left the memory so.
    pub fn evictions(&self, why: Eviction) -> u64 {
        self.evictions[why as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_summed() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..500).for_each(|_| counters.request(CacheStatus::Hit)));
            }
        });
        assert_eq!(counters.requests(CacheStatus::Hit), 10_000);
        assert_eq!(counters.requests(CacheStatus::Miss), 0);
    }

    #[test]
    fn ages_at_a_bound_are_within_it() {
        let counters = Counters::default();
        for millis in [0, 1000, 1001, 86_400_000, 604_800_001] {
            counters.age(Duration::from_millis(millis));
        }
        let Spread { buckets, sum, count } = counters.ages();
        assert_eq!((sum, count), (691_202.002, 5));
        assert_eq!(buckets[..3], [(1.0, 2), (2.0, 3), (5.0, 3)]);
        assert_eq!(buckets[9..], [(86_400.0, 4), (604_800.0, 4)]);
    }
}
