//! The entries of a zone, bounded by their weight in bytes; the least recently used go first.
//!
//! moka's own admission by frequency is turned off: what a live stream asks for is always what was
//! never asked for before.

use super::counters::{Counters, Eviction};
use super::entry::Entry;
use super::key::{AsIs, Key};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::sync::Arc;
use std::time::Duration;

/// A bounded store. Reading takes no lock.
pub struct Store {
    entries: Cache<u128, Arc<Entry>, AsIs>,
}

impl Store {
    /// A store of at most `bound` bytes, whose entries go when not used for `inactive`.
    pub fn new(bound: u64, inactive: Duration, counters: &Arc<Counters>) -> Store {
        let counters = counters.clone();
        let entries = Cache::builder()
            .max_capacity(bound)
            .weigher(|_, entry: &Arc<Entry>| entry.weight().try_into().unwrap_or(u32::MAX))
            .time_to_idle(inactive)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |_, _, cause| counters.eviction(Eviction::from(cause)))
            .build_with_hasher(AsIs);
        Store { entries }
    }

    /// The entry under this key.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(&key.hash).filter(|entry| entry.key == key.text)
    }

    /// Keeps an entry in place of what was there.
    pub fn put(&self, hash: u128, entry: Arc<Entry>) {
        self.entries.insert(hash, entry);
    }

    /// Removes the entry under this key.
    pub fn remove(&self, key: &Key) {
        self.entries.invalidate(&key.hash);
    }

    /// Takes over the entries of another store, as far as there is room.
    pub fn adopt(&self, other: &Store) {
        for (hash, entry) in &other.entries {
            self.entries.insert(*hash, entry);
        }
    }

    /// Entries held, and their bytes. Settles first what was put off.
    pub fn held(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.entry_count(), self.entries.weighted_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{EntryBody, Meta, Times};
    use crate::cache::freshness::Lifetime;
    use crate::http::response::Fields;
    use bytes::Bytes;
    use tokio::time::Instant;

    fn entry(key: &Key, length: usize) -> Arc<Entry> {
        Arc::new(Entry {
            key: key.text.clone(),
            status: 200,
            reason: Bytes::new(),
            fields: Fields::default(),
            body: EntryBody::Memory(Box::new([Bytes::from(vec![0; length])])),
            length: length as u64,
            vary: None,
            times: Times::new(Instant::now(), Lifetime::default()),
            failure: None,
            meta: Meta::default(),
        })
    }

    #[test]
    fn the_bound_holds_and_the_newest_stay() {
        let counters = Arc::new(Counters::default());
        let store = Store::new(1 << 20, Duration::from_secs(600), &counters);
        let keys: Vec<Key> = (0..100).map(|n| Key::new(Bytes::from(format!("/{n}")))).collect();
        for key in &keys {
            store.put(key.hash, entry(key, 100_000));
            store.held();
        }
        let (count, bytes) = store.held();
        assert!(bytes <= 1 << 20, "{bytes}");
        assert_eq!(count, 10);
        assert!(keys[90..].iter().all(|k| store.get(k).is_some()), "the newest must be there");
        assert_eq!(counters.evictions(Eviction::Size), 90);
    }

    #[test]
    fn another_text_under_the_same_hash_is_not_it() {
        let store = Store::new(1 << 20, Duration::from_secs(600), &Arc::new(Counters::default()));
        let key = Key::new(Bytes::from_static(b"/a"));
        store.put(key.hash, entry(&key, 1));
        assert!(store.get(&key).is_some());
        assert!(store.get(&Key { text: Bytes::from_static(b"/b"), ..key.clone() }).is_none());
    }
}
