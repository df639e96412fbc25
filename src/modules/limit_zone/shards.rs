//! A table in parts with a lock each, so that workers rarely meet, and one bound on all of them.

use super::table::{Slot, Table};
use parking_lot::{Mutex, MutexGuard};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of a large table. A part pushes out its own oldest key, not the table's, so parts are kept
/// large enough for the difference to be small, and a small table has one.
const MOST_SHARDS: usize = 16;
const KEYS_IN_A_SHARD: usize = 512;

/// A table, bounded in bytes as nginx would count them.
pub struct Shards<T> {
    /// A power of two of them.
    shards: Box<[Shard<T>]>,
    /// Keys come from clients: a hash they cannot foresee keeps the chains short.
    hasher: RandomState,
    /// Bytes.
    room: usize,
    /// Bytes.
    used: AtomicUsize,
}

/// On a line of its own, so that a lock taken by one worker costs no other a cache miss.
#[repr(align(128))]
struct Shard<T>(Mutex<Table<T>>);

/// Where a key belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    shard: usize,
    /// Its hash within the shard's table.
    pub hash: u32,
}

/// An entry that stays where it is while it is in use.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where its key belongs.
    pub place: Place,
    /// Its slot in the shard's table.
    pub slot: Slot,
}

impl<T: Default> Shards<T> {
    /// An empty table with so many bytes of room, where a key takes `entry` bytes or more.
    pub fn new(room: usize, entry: usize) -> Shards<T> {
        let shards = (room / entry / KEYS_IN_A_SHARD).clamp(1, MOST_SHARDS);
        // The power of two below or equal.
        let shards = 1 << shards.ilog2();
        Shards {
            shards: (0..shards).map(|_| Shard(Mutex::default())).collect(),
            hasher: RandomState::new(),
            room,
            used: AtomicUsize::new(0),
        }
    }

    /// Where `key` belongs.
    pub fn place(&self, key: &[u8]) -> Place {
        let hash = self.hasher.hash_one(key);
        Place { shard: (hash >> 32) as usize & (self.shards.len() - 1), hash: hash as u32 }
    }

    /// The part of the table to which a place belongs.
    pub fn lock(&self, place: Place) -> MutexGuard<'_, Table<T>> {
        self.shards[place.shard].0.lock()
    }

    /// Takes `bytes` of the room; false when there is not so much.
    pub fn take(&self, bytes: usize) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.room)
        });
        taken.is_ok()
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Tries `what` on the other parts that nobody has locked, until it returns true.
    pub fn elsewhere(&self, than: Place, mut what: impl FnMut(&mut Table<T>) -> bool) -> bool {
        let shards = self.shards.len();
        let others = (1..shards).map(|n| (than.shard + n) % shards);
        // Waiting for a lock with one in hand could be waiting for each other.
        others.filter_map(|n| self.shards[n].0.try_lock()).any(|mut table| what(&mut table))
    }

    /// Keys.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use, as nginx would count them.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_one_for_all_parts() {
        let shards: Shards<u8> = Shards::new(100, 10);
        assert!(shards.take(60));
        assert!(!shards.take(41));
        assert!(shards.take(40));
        shards.give(60);
        assert_eq!(shards.used(), 40);
    }

    #[test]
    fn keys_spread_over_the_parts() {
        let shards: Shards<u8> = Shards::new(10 << 20, 128);
        let used: std::collections::HashSet<usize> =
            (0..1000u32).map(|n| shards.place(&n.to_be_bytes()).shard).collect();
        assert_eq!(used.len(), MOST_SHARDS);
        assert_eq!(Shards::<u8>::new(32 << 10, 128).shards.len(), 1);
        let same = shards.place(b"x");
        assert_eq!((same.shard, same.hash), (shards.place(b"x").shard, shards.place(b"x").hash));
    }
}
