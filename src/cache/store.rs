//! The entries of a zone that are in memory, bounded by their weight in bytes. Which of them go first
//! is the [`super::shelf`]'s matter.

use super::counters::{Counters, Eviction};
use super::entry::Entry;
use super::key::Key;
use super::shelf::{Leavers, Left, Shelf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A bounded store. Reading takes no lock.
pub struct Store {
    shelf: Shelf<Entry>,
    counters: Arc<Counters>,
    /// The clock of the shelf counts from here.
    began: Instant,
    tending: AtomicBool,
}

impl Store {
    /// A store of at most `bound` bytes.
    pub fn new(bound: u64, counters: &Arc<Counters>) -> Store {
        Store {
            shelf: Shelf::new(bound),
            counters: counters.clone(),
            began: Instant::now(),
            tending: AtomicBool::new(false),
        }
    }

    /// The entry under this key. Counts as a use.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.shelf.get(key.hash).filter(|entry| entry.key == key.text)
    }

    /// Keeps an entry in place of what was there. `wanted`: others than who caused it have asked for
    /// it already, so it is not a crawler's.
    pub fn put(&self, hash: u128, entry: Arc<Entry>, wanted: bool) {
        let weight = entry.weight();
        self.count(self.shelf.put(hash, entry, weight, wanted));
    }

    /// Takes an entry out: it was purged, or is damaged.
    pub fn remove(&self, hash: u128) -> Option<Arc<Entry>> {
        self.shelf.remove(hash)
    }

    /// Whether there is an entry under this hash; that does not count as a use.
    pub fn has(&self, hash: u128) -> bool {
        self.shelf.peek(hash).is_some()
    }

    /// Takes an entry out if it holds a file open: that is no longer kept.
    pub fn release_file(&self, hash: u128) {
        if self.shelf.peek(hash).is_some_and(|entry| entry.holds_file()) {
            self.shelf.remove(hash);
        }
    }

    /// The entry under this hash stays servable, but goes before all others when room is needed, as a
    /// segment that has left its playlist. Whether there is one.
    pub fn expendable(&self, hash: u128) -> bool {
        self.shelf.expendable(hash)
    }

    /// Shows every entry, with no lock held; what comes or goes meanwhile may be shown or not.
    pub fn each(&self, show: impl FnMut(u128, &Arc<Entry>)) {
        self.shelf.each(show);
    }

    /// What is to be done about once a second: takes over the bound of the zone in force, and takes out
    /// entries that were not used for `inactive`. In a large store that takes milliseconds; not for a
    /// worker's thread.
    pub fn tend(&self, bound: u64, inactive: Duration) {
        if self.tending.swap(true, Ordering::Acquire) {
            return;
        }
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let now = seconds(self.began.elapsed());
        self.shelf.tend(now, bound, seconds(inactive), |left| self.count(left));
        self.tending.store(false, Ordering::Release);
    }

    /// Entries held, and their bytes.
    pub fn held(&self) -> (u64, u64) {
        self.shelf.held()
    }

    fn count(&self, left: Leavers<Entry>) {
        for (why, _) in &left {
            let why = match why {
                Left::Size => Eviction::Size,
                Left::Expendable => Eviction::Expendable,
                Left::Idle => Eviction::Inactive,
                Left::Replaced => Eviction::Replaced,
                Left::Removed => Eviction::Purged,
            };
            self.counters.eviction(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{EntryBody, Meta, Times};
    use crate::cache::freshness::Lifetime;
    use crate::cache::pack::Packer;
    use crate::http::response::Fields;
    use bytes::Bytes;

    fn entry(key: &Key, length: usize) -> Arc<Entry> {
        Arc::new(Entry {
            key: key.text.clone(),
            status: 200,
            reason: Bytes::new(),
            fields: Fields::default(),
            body: EntryBody::Memory({
                let mut packer = Packer::new(length);
                packer.push(&vec![0; length]);
                packer.finish()
            }),
            length: length as u64,
            vary: None,
            times: Times::new(Instant::now(), Lifetime::default()),
            failure: None,
            meta: Meta::default(),
        })
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn keys(n: usize) -> Vec<Key> {
        (0..n).map(|n| Key::new(Bytes::from(format!("/{n}")))).collect()
    }

    #[test]
    fn the_bound_holds_and_the_newest_stay() {
        let counters = Arc::new(Counters::default());
        let store = Store::new(1 << 20, &counters);
        let keys = keys(100);
        for key in &keys {
            store.put(key.hash, entry(key, 100_000), false);
            assert!(store.held().1 <= 1 << 20);
        }
        assert_eq!(store.held().0, 10);
        assert!(keys[90..].iter().all(|k| store.get(k).is_some()), "the newest must be there");
        assert_eq!(counters.evictions(Eviction::Size), 90);
    }

    #[test]
    fn another_text_under_the_same_hash_is_not_it() {
        let store = Store::new(1 << 20, &Arc::default());
        let key = Key::new(Bytes::from_static(b"/a"));
        store.put(key.hash, entry(&key, 1), false);
        assert!(store.get(&key).is_some());
        assert!(store.get(&Key { text: Bytes::from_static(b"/b"), ..key.clone() }).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_used_goes_without_traffic_and_its_memory_at_once() {
        let counters = Arc::new(Counters::default());
        let store = Store::new(64 << 20, &counters);
        let keys = keys(20_000);
        let mut watched = Vec::new();
        for key in &keys {
            let entry = entry(key, 10);
            watched.push(Arc::downgrade(&entry));
            store.put(key.hash, entry, false);
        }
        for second in 1..=40 {
            tokio::time::advance(Duration::from_secs(1)).await;
            store.tend(64 << 20, Duration::from_secs(30));
            assert!(store.get(&keys[7]).is_some());
            assert_eq!(store.held().0 == 20_000, second <= 30, "at {second}");
        }
        assert_eq!(store.held().0, 1);
        assert_eq!(counters.evictions(Eviction::Inactive), 19_999);
        assert_eq!(watched.iter().filter(|entry| entry.upgrade().is_some()).count(), 1);
    }

    #[test]
    fn a_smaller_bound_keeps_what_fits_and_a_larger_one_all() {
        let store = Store::new(4 << 20, &Arc::default());
        let keys = keys(30);
        for key in &keys {
            store.put(key.hash, entry(key, 100_000), false);
        }
        // Used ones stay rather than newer ones.
        store.get(&keys[0]);
        store.tend(1 << 20, HOUR);
        assert_eq!(store.held().0, 10);
        assert!(store.get(&keys[0]).is_some() && store.get(&keys[29]).is_some());
        store.tend(4 << 20, HOUR);
        assert_eq!(store.held().0, 10);
    }

    #[test]
    fn what_is_removed_or_replaced_is_freed_and_what_is_too_heavy_is_not_kept() {
        let counters = Arc::new(Counters::default());
        let store = Store::new(1 << 20, &counters);
        let key = Key::new(Bytes::from_static(b"/a"));
        let first = entry(&key, 1000);
        store.put(key.hash, first.clone(), false);
        let second = entry(&key, 2000);
        store.put(key.hash, second.clone(), false);
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(store.held(), (1, second.weight()));
        assert_eq!(counters.evictions(Eviction::Replaced), 1);
        store.put(key.hash, entry(&key, 2 << 20), false);
        assert!(store.get(&key).is_none(), "what is old is not served in place of what does not fit");
        store.put(key.hash, second.clone(), false);
        assert!(store.remove(key.hash).is_some() && store.remove(key.hash).is_none());
        assert_eq!((store.held(), Arc::strong_count(&second)), ((0, 0), 1));
    }
}
