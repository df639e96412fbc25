//! A cache zone: the store of what is whole, the table of what grows, and what is known of keys that
//! have neither.

use super::counters::Counters;
use super::entry::Entry;
use super::fill::{Fill, Reader};
use super::key::{AsIs, Key};
use super::store::Store;
use crate::http::head::Head;
use moka::sync::Cache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long it is remembered that answers for a key are not kept, unless one is kept meanwhile.
const APART: Duration = Duration::from_secs(5);

/// Bytes of `keys_zone` that one key takes in nginx, about; how many keys are remembered that have
/// no entry follows from it.
const KEY_SIZE: u64 = 128;

/// What makes a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: Arc<str>,
    /// Bytes its entries may take.
    pub bound: u64,
    /// Entries not used for so long go.
    pub inactive: Duration,
    /// The size of `keys_zone` in bytes.
    pub keys: u64,
}

/// A zone.
pub struct Zone {
    /// What made it.
    pub spec: Spec,
    /// The entries.
    pub store: Store,
    /// What it counts.
    pub counters: Arc<Counters>,
    fills: Mutex<HashMap<u128, Arc<Fill>, AsIs>>,
    /// Requests by key, for `proxy_cache_min_uses`.
    uses: Cache<u128, Arc<AtomicU32>, AsIs>,
    /// Keys whose last answer was not kept: requests for them do not wait for each other.
    apart: Cache<u128, (), AsIs>,
    growing: AtomicU64,
    /// The number of the last fill; a resized zone goes on counting.
    sequence: Arc<AtomicU64>,
}

/// What a request for a key finds.
pub struct Found {
    /// The key of the variant that suits the request.
    pub slot: Key,
    /// What is kept under it, fresh or stale.
    pub entry: Option<Arc<Entry>>,
}

/// What came of the wish to start a fill.
pub enum Begun {
    /// It is the request's to drive on.
    Started(Arc<Fill>),
    /// Another drives one; this reads it.
    Joined(Reader),
    /// What is kept has changed; look again.
    Changed,
}

impl Zone {
    /// An empty zone.
    pub fn new(spec: Spec) -> Zone {
        Zone::with_counters(spec, Arc::default(), Arc::default())
    }

    fn with_counters(spec: Spec, counters: Arc<Counters>, sequence: Arc<AtomicU64>) -> Zone {
        let keys = (spec.keys / KEY_SIZE).max(1);
        Zone {
            store: Store::new(spec.bound, spec.inactive, &counters),
            uses: Cache::builder().max_capacity(keys).time_to_idle(spec.inactive).build_with_hasher(AsIs),
            apart: Cache::builder().max_capacity(keys).time_to_live(APART).build_with_hasher(AsIs),
            fills: Mutex::default(),
            growing: AtomicU64::new(0),
            sequence,
            counters,
            spec,
        }
    }

    /// A zone of other bounds with the same entries, as far as there is room.
    pub fn resized(&self, spec: Spec) -> Zone {
        let zone = Zone::with_counters(spec, self.counters.clone(), self.sequence.clone());
        zone.store.adopt(&self.store);
        zone
    }

    /// What `key` has for the request `asked`.
    pub fn find(&self, key: &Key, asked: &Head) -> Found {
        match self.store.get(key) {
            Some(main) => match &main.vary {
                None => Found { slot: key.clone(), entry: Some(main) },
                Some(vary) => {
                    let variant = vary.variant_for(asked);
                    if variant == vary.variant() {
                        return Found { slot: key.clone(), entry: Some(main) };
                    }
                    self.find_variant(key.variant(variant), asked)
                }
            },
            None => Found { slot: key.clone(), entry: None },
        }
    }

    /// What the variant `slot` has for the request `asked`.
    pub fn find_variant(&self, slot: Key, asked: &Head) -> Found {
        let suits = |entry: &Arc<Entry>| entry.vary.as_ref().is_none_or(|vary| vary.suits(asked));
        let entry = self.store.get(&slot).filter(suits);
        Found { slot, entry }
    }

    /// Whether a fill for `slot` is under way that is not overdue.
    pub fn is_filling(&self, slot: &Key, overdue: Duration) -> bool {
        self.fills.lock().get(&slot.hash).is_some_and(|fill| !fill.is_overdue(overdue))
    }

    /// Reads the fill for `slot` that is under way, if there is one.
    pub fn join(&self, slot: &Key, overdue: Duration) -> Option<Reader> {
        let fill = self.fills.lock().get(&slot.hash).cloned()?;
        if fill.key != slot.text || fill.is_overdue(overdue) {
            return None;
        }
        let reader = fill.join()?;
        self.counters.readers.inc();
        Some(reader)
    }

    /// Puts a `new` fill for `slot` into the table, unless there is one or what is kept is no longer
    /// `seen`.
    pub fn begin(
        &self,
        slot: &Key,
        overdue: Duration,
        seen: Option<&Arc<Entry>>,
        new: impl FnOnce() -> Arc<Fill>,
    ) -> Begun {
        if let Some(reader) = self.join(slot, overdue) {
            return Begun::Joined(reader);
        }
        let mut fills = self.fills.lock();
        if fills.get(&slot.hash).is_some_and(|fill| fill.key == slot.text && !fill.is_overdue(overdue)) {
            drop(fills);
            // Somebody was quicker; or it can no longer be read from its beginning, and is to go soon.
            return self.join(slot, overdue).map_or(Begun::Changed, Begun::Joined);
        }
        // A fill puts what it got into the store before it leaves the table.
        let now = Instant::now();
        let newer = self.store.get(slot).filter(|entry| entry.is_fresh(now));
        if newer.is_some_and(|entry| !seen.is_some_and(|seen| Arc::ptr_eq(&entry, seen))) {
            return Begun::Changed;
        }
        let fill = new();
        fills.insert(slot.hash, fill.clone());
        Begun::Started(fill)
    }

    /// Lets others read a fill that was nobody's but its requester's, if there is no other.
    pub fn admit(&self, slot: &Key, fill: &Arc<Fill>) {
        self.fills.lock().entry(slot.hash).or_insert_with(|| fill.clone());
    }

    /// Takes a fill from the table.
    pub fn leave(&self, slot: &Key, fill: &Arc<Fill>) {
        let mut fills = self.fills.lock();
        if fills.get(&slot.hash).is_some_and(|other| Arc::ptr_eq(other, fill)) {
            fills.remove(&slot.hash);
        }
    }

    /// Counts a request for `slot`; the first is 1.
    pub fn used(&self, slot: &Key) -> u32 {
        let uses = self.uses.get_with(slot.hash, Arc::default);
        uses.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Whether the last answer for `slot` was not kept.
    pub fn is_apart(&self, slot: &Key) -> bool {
        self.apart.contains_key(&slot.hash)
    }

    /// Remembers that an answer for `slot` was not kept.
    pub fn set_apart(&self, slot: &Key) {
        self.apart.insert(slot.hash, ());
    }

    /// Keeps an entry; `slot` is where requests look for it.
    pub fn keep(&self, slot: &Key, entry: Arc<Entry>) {
        self.store.put(slot.hash, entry);
        self.apart.invalidate(&slot.hash);
    }

    /// A number for a fill that begins now, larger than those before.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Forgets what is kept under `slot`.
    pub fn forget(&self, slot: &Key) {
        self.store.remove(slot);
    }

    /// The largest body that is kept: an eighth of the zone.
    pub fn largest(&self) -> u64 {
        self.spec.bound / 8
    }

    /// Takes `bytes` from what fills may hold together, half of the zone's bound; false when there
    /// is not so much left.
    pub fn reserve(&self, bytes: u64) -> bool {
        let most = self.spec.bound / 2;
        let take = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= most);
        self.growing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Gives back what [`Self::reserve`] took.
    pub fn release(&self, bytes: u64) {
        self.growing.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that fills hold.
    pub fn growing(&self) -> u64 {
        self.growing.load(Ordering::Relaxed)
    }

    /// Fills in the table.
    pub fn filling(&self) -> usize {
        self.fills.lock().len()
    }
}
