//! A zone: how many requests of each key are under way.

use crate::modules::limit_zone::declare::{room, slab};
use crate::modules::limit_zone::shards::{Entry, Shards};
use crate::observe::metrics::{Counter, Gauge};
use std::sync::Arc;

/// Bytes of an entry in nginx, without its key.
const ENTRY: usize = 36;

/// A zone.
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Bytes, as configured.
    pub size: u64,
    /// The expression of its key, as written.
    pub key: String,
    /// Requests that had room.
    pub passed: Counter,
    /// Requests that were refused.
    pub rejected: Counter,
    /// Requests that would have been refused.
    pub rejected_dry_run: Counter,
    /// Requests under way.
    pub current: Gauge,
    counts: Shards<u32>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key has as many as it may have.
    Over,
    /// The zone has no room for the key.
    Full,
}

/// A request that is counted, for as long as this lives.
pub struct Counted {
    zone: Arc<Zone>,
    entry: Entry,
}

impl Zone {
    /// An empty zone of `size` bytes.
    pub fn new(name: &str, size: u64, key: &str) -> Zone {
        Zone {
            name: name.to_string(),
            size,
            key: key.to_string(),
            passed: Counter::default(),
            rejected: Counter::default(),
            rejected_dry_run: Counter::default(),
            current: Gauge::default(),
            counts: Shards::new(room(size, ENTRY), slab(ENTRY)),
        }
    }

    /// Keys with requests under way.
    pub fn keys(&self) -> usize {
        self.counts.len()
    }

    /// Counts a request of `key`, of which there may be `most`.
    pub fn enter(self: &Arc<Zone>, key: &[u8], most: u32) -> Result<Counted, Refused> {
        let place = self.counts.place(key);
        let mut table = self.counts.lock(place);
        let slot = match table.find(place.hash, key) {
            Some(slot) if *table.get(slot) >= most => return Err(Refused::Over),
            Some(slot) => {
                *table.get_mut(slot) += 1;
                slot
            }
            None if self.counts.take(cost(key)) => table.insert(place.hash, key, 1),
            None => return Err(Refused::Full),
        };
        self.current.add(1);
        Ok(Counted { zone: self.clone(), entry: Entry { place, slot } })
    }
}

impl Counted {
    /// The zone that counts it.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Counted { zone, entry } = self;
        let mut table = zone.counts.lock(entry.place);
        let count = table.get_mut(entry.slot);
        *count -= 1;
        if *count == 0 {
            zone.counts.give(cost(table.key(entry.slot)));
            table.remove(entry.slot);
        }
        zone.current.add(-1);
    }
}

/// Bytes that nginx would need for the entry of a key.
fn cost(key: &[u8]) -> usize {
    slab(ENTRY + key.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zone() -> Arc<Zone> {
        Arc::new(Zone::new("z", 32 << 10, "$x"))
    }

    #[test]
    fn a_request_counts_until_it_ends() {
        let zone = zone();
        let first = zone.enter(b"a", 2).unwrap();
        let second = zone.enter(b"a", 2).unwrap();
        assert_eq!(zone.enter(b"a", 2).err(), Some(Refused::Over));
        assert!(zone.enter(b"b", 2).is_ok());
        assert_eq!((zone.current.get(), zone.keys()), (2, 1));
        drop(first);
        let third = zone.enter(b"a", 2).unwrap();
        assert_eq!(zone.enter(b"a", 2).err(), Some(Refused::Over));
        drop((second, third));
        assert_eq!((zone.current.get(), zone.keys(), zone.counts.used()), (0, 0, 0));
    }

    #[test]
    fn a_zone_holds_no_more_keys_than_it_has_room_for() {
        let zone = zone();
        let mut counted = Vec::new();
        let refused = (0..10_000u32).find_map(|n| match zone.enter(&n.to_be_bytes(), 1) {
            Ok(guard) => {
                counted.push(guard);
                None
            }
            Err(refused) => Some((n as usize, refused)),
        });
        assert_eq!(refused, Some((room(32 << 10, ENTRY) / 64, Refused::Full)));
        counted.pop();
        assert!(zone.enter(b"new", 1).is_ok());
    }

    #[test]
    fn many_threads_never_exceed_the_limit() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let zone = zone();
        let (inside, refused) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        match zone.enter(b"k", 2) {
                            Ok(_guard) => {
                                assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                                inside.fetch_sub(1, Ordering::SeqCst);
                            }
                            Err(_) => {
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
        });
        assert_eq!((zone.current.get(), zone.keys()), (0, 0));
    }

    proptest! {
        /// Against a plain count by key.
        #[test]
        fn as_a_map_of_counts_would(steps in proptest::collection::vec((0u8..6, any::<bool>()), 0..200)) {
            let zone = zone();
            let mut open: Vec<(u8, Counted)> = Vec::new();
            for (key, enters) in steps {
                if enters {
                    let before = open.iter().filter(|(k, _)| *k == key).count();
                    let entered = zone.enter(&[key], 3);
                    prop_assert_eq!(entered.is_ok(), before < 3);
                    open.extend(entered.ok().map(|guard| (key, guard)));
                } else if let Some(at) = open.iter().position(|(k, _)| *k == key) {
                    open.remove(at);
                }
                prop_assert_eq!(zone.current.get(), open.len() as i64);
            }
        }
    }
}
