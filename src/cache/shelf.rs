//! A bounded map whose readers take no lock, and what of it goes first when room is needed.
//!
//! The rules are those of S3-FIFO (Yang and others, "FIFO queues are all you need for cache
//! eviction", SOSP 2023). What is new is *young*, a tenth of the bytes: it stays for a while whoever
//! asked for it, as a live segment must. What was used while young becomes *proven*; the rest leaves,
//! as what a crawler asks for does, and is remembered as a *ghost*: asked for again, it is proven at
//! once. Of the proven the oldest goes, unless it was used since it was looked at last.
//!
//! A hit writes at most a byte of its own slot, and nothing once it is hot, where an LRU list or the
//! sketch of TinyLFU would be written by all cores at every hit. On traces of live streams, crawlers
//! and video on demand it hits more often than both; the tests beside the cache compare them.

use super::key::AsIs;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The share of the bytes that is for the young: a tenth.
const YOUNG_SHARE: u64 = 10;

/// Uses of a slot are counted up to this many; so often is it passed over.
const MOST_USES: u8 = 3;

/// So many proven slots are passed over at most before one goes all the same: the time under the
/// lock is bounded.
const MOST_PASSED: usize = 512;

/// Ghosts for each slot held, twice: those of the present and those of the previous turn.
const GHOSTS: usize = 2;

/// The least number of ghosts in a turn.
const LEAST_GHOSTS: usize = 1024;

/// Bytes that go under one lock when the bound has become smaller.
const STEP: u64 = 1 << 20;

/// Slots looked at for idleness under one lock.
const BATCH: usize = 1024;

/// Why something left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There was no room.
    Size,
    /// There was no room, and it was marked as the first to go.
    Expendable,
    /// Not used for long enough.
    Idle,
    /// Another took its place.
    Replaced,
    /// It was taken out.
    Removed,
}

/// What left, and why. It is to be dropped when no lock is held: freeing it takes time.
pub type Leavers<T> = SmallVec<[(Left, Arc<T>); 4]>;

/// A bounded map.
pub struct Shelf<T> {
    /// Written to only under the lock of `queues`.
    slots: papaya::HashMap<u128, Arc<Slot<T>>, AsIs>,
    queues: Mutex<Queues<T>>,
    /// What [`Self::tend`] was told last, seconds.
    clock: AtomicU32,
}

/// The place of a value. It outlives the value where a reader or a list still refers to it, so it is
/// small.
struct Slot<T> {
    hash: u128,
    /// `None` once it has left: its memory does not wait until the map forgets the slot.
    value: ArcSwapOption<T>,
    uses: AtomicU8,
    /// The clock at its last use.
    used: AtomicU32,
    /// The following are written only under the lock of the queues.
    weight: AtomicU64,
    rank: AtomicU8,
    /// Which of the references in the queues counts; 0: none.
    ticket: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Rank {
    Expendable,
    Young,
    Proven,
}

/// A queue, and what of it counts: what has moved or left is dropped when its turn comes.
struct Queue<T> {
    slots: VecDeque<(u64, Arc<Slot<T>>)>,
    count: usize,
    bytes: u64,
    /// Where the search for what is idle goes on.
    cursor: usize,
}

struct Queues<T> {
    bound: u64,
    /// By [`Rank`].
    ranks: [Queue<T>; 3],
    tickets: u64,
    /// Hashes of what left for want of room, in this turn and the one before.
    ghosts: [HashSet<u64, AsIs>; 2],
}

impl<T> Shelf<T> {
    /// One for values of at most `bound` bytes together.
    pub fn new(bound: u64) -> Shelf<T> {
        let queue = || Queue { slots: VecDeque::new(), count: 0, bytes: 0, cursor: 0 };
        Shelf {
            slots: papaya::HashMap::builder().hasher(AsIs).build(),
            queues: Mutex::new(Queues {
                bound,
                ranks: [queue(), queue(), queue()],
                tickets: 0,
                ghosts: Default::default(),
            }),
            clock: AtomicU32::new(0),
        }
    }

    /// The value under this hash. Counts as a use.
    pub fn get(&self, hash: u128) -> Option<Arc<T>> {
        let slots = self.slots.pin();
        let slot = slots.get(&hash)?;
        // Of uses at the same time one may be lost. Nothing is written to what is hot: cores would
        // take the line from each other.
        let uses = slot.uses.load(Relaxed);
        if uses < MOST_USES {
            slot.uses.store(uses + 1, Relaxed);
        }
        let now = self.clock.load(Relaxed);
        if slot.used.load(Relaxed) != now {
            slot.used.store(now, Relaxed);
        }
        slot.value.load_full()
    }

    /// The value under this hash; nothing is counted.
    pub fn peek(&self, hash: u128) -> Option<Arc<T>> {
        self.slots.pin().get(&hash)?.value.load_full()
    }

    /// Keeps a value of `weight` bytes in place of what was there. `wanted`: others have asked for it
    /// already. What is heavier than all there is room for leaves at once.
    pub fn put(&self, hash: u128, value: Arc<T>, weight: u64, wanted: bool) -> Leavers<T> {
        let mut left = Leavers::new();
        let slots = self.slots.pin();
        let mut queues = self.queues.lock();
        if weight > queues.bound {
            left.push((Left::Size, value));
            if let Some(old) = slots.remove(&hash) {
                queues.take(old, Left::Replaced, &mut left);
            }
            return left;
        }
        if let Some(slot) = slots.get(&hash) {
            left.extend(slot.value.swap(Some(value)).map(|old| (Left::Replaced, old)));
            slot.used.store(self.clock.load(Relaxed), Relaxed);
            // A new value says nothing of the old one's being expendable.
            let rank = slot.rank().max(Rank::Young);
            queues.move_to(slot, rank, weight);
        } else {
            let slot = Arc::new(Slot {
                hash,
                value: ArcSwapOption::from(Some(value)),
                uses: AtomicU8::new(wanted.into()),
                used: AtomicU32::new(self.clock.load(Relaxed)),
                weight: AtomicU64::new(weight),
                rank: AtomicU8::new(Rank::Young as u8),
                ticket: AtomicU64::new(0),
            });
            let rank = if queues.forget_ghost(hash) { Rank::Proven } else { Rank::Young };
            queues.push(&slot, rank);
            slots.insert(hash, slot);
        }
        queues.make_room(|hash| _ = slots.remove(&hash), &mut left);
        left
    }

    /// Takes a value out.
    pub fn remove(&self, hash: u128) -> Option<Arc<T>> {
        let mut left = Leavers::new();
        let slots = self.slots.pin();
        let mut queues = self.queues.lock();
        queues.take(slots.remove(&hash)?, Left::Removed, &mut left);
        drop(queues);
        left.pop().map(|(_, value)| value)
    }

    /// From now on the value goes before all others when room is needed. Whether there is one.
    pub fn expendable(&self, hash: u128) -> bool {
        let slots = self.slots.pin();
        let mut queues = self.queues.lock();
        let Some(slot) = slots.get(&hash) else { return false };
        if slot.rank() != Rank::Expendable {
            queues.move_to(slot, Rank::Expendable, slot.weight.load(Relaxed));
        }
        true
    }

    /// Shows every value, with no lock held; what comes or goes meanwhile may be shown or not.
    pub fn each(&self, mut show: impl FnMut(u128, &Arc<T>)) {
        for (hash, slot) in &self.slots.pin() {
            if let Some(value) = slot.value.load_full() {
                show(*hash, &value);
            }
        }
    }

    /// Sets the clock and the bound, takes out what does not fit, and of what was not used for
    /// `idle` seconds a part: all of it in eight calls.
    pub fn tend(&self, now: u32, bound: u64, idle: u32, mut dispose: impl FnMut(Leavers<T>)) {
        self.clock.store(now, Relaxed);
        while !self.shrink(bound, &mut dispose) {}
        for rank in [Rank::Expendable, Rank::Young, Rank::Proven] {
            let mut looked = 0;
            loop {
                let mut left = Leavers::new();
                let slots = self.slots.pin();
                let mut queues = self.queues.lock();
                let all = queues.ranks[rank as usize].slots.len();
                let idle = |slot: &Slot<T>| now.saturating_sub(slot.used.load(Relaxed)) > idle;
                let gone = queues.some_of(rank, BATCH, idle);
                for slot in gone {
                    slots.remove(&slot.hash);
                    queues.take(&slot, Left::Idle, &mut left);
                }
                queues.compact(rank);
                drop(queues);
                dispose(left);
                looked += BATCH;
                if looked >= all / 8 {
                    break;
                }
            }
        }
    }

    /// A step towards a bound; whether it is in force. Whoever keeps something waits for the lock, so what
    /// is too much under a bound that is far below the last does not go all at once.
    fn shrink(&self, bound: u64, dispose: &mut impl FnMut(Leavers<T>)) -> bool {
        let mut left = Leavers::new();
        let slots = self.slots.pin();
        let mut queues = self.queues.lock();
        queues.bound = bound.max(queues.bytes().saturating_sub(STEP));
        queues.make_room(|hash| _ = slots.remove(&hash), &mut left);
        let reached = queues.bound == bound;
        drop(queues);
        dispose(left);
        reached
    }

    /// How many values, and their bytes.
    pub fn held(&self) -> (u64, u64) {
        let queues = self.queues.lock();
        (queues.ranks.iter().map(|queue| queue.count as u64).sum(), queues.bytes())
    }
}

impl<T> Slot<T> {
    fn rank(&self) -> Rank {
        match self.rank.load(Relaxed) {
            0 => Rank::Expendable,
            1 => Rank::Young,
            _ => Rank::Proven,
        }
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Rank) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

impl<T> Queue<T> {
    /// The oldest that counts.
    fn pop(&mut self) -> Option<Arc<Slot<T>>> {
        while let Some((ticket, slot)) = self.slots.pop_front() {
            self.cursor = self.cursor.saturating_sub(1);
            if slot.ticket.load(Relaxed) == ticket {
                return Some(slot);
            }
        }
        None
    }
}

impl<T> Queues<T> {
    fn bytes(&self) -> u64 {
        self.ranks.iter().map(|queue| queue.bytes).sum()
    }

    fn push(&mut self, slot: &Arc<Slot<T>>, rank: Rank) {
        self.tickets += 1;
        slot.ticket.store(self.tickets, Relaxed);
        slot.rank.store(rank as u8, Relaxed);
        let queue = &mut self.ranks[rank as usize];
        queue.slots.push_back((self.tickets, slot.clone()));
        queue.count += 1;
        queue.bytes += slot.weight.load(Relaxed);
    }

    /// The slot no longer counts where it is.
    fn unlink(&mut self, slot: &Slot<T>) {
        let rank = slot.rank();
        let queue = &mut self.ranks[rank as usize];
        queue.count -= 1;
        queue.bytes -= slot.weight.load(Relaxed);
        slot.ticket.store(0, Relaxed);
        self.compact(rank);
    }

    fn move_to(&mut self, slot: &Arc<Slot<T>>, rank: Rank, weight: u64) {
        if slot.rank() == rank {
            let queue = &mut self.ranks[rank as usize];
            queue.bytes = queue.bytes - slot.weight.swap(weight, Relaxed) + weight;
        } else {
            self.unlink(slot);
            slot.weight.store(weight, Relaxed);
            self.push(slot, rank);
        }
    }

    /// A slot that is no longer in the map gives back what it holds.
    fn take(&mut self, slot: &Slot<T>, why: Left, left: &mut Leavers<T>) {
        self.unlink(slot);
        left.extend(slot.value.swap(None).map(|value| (why, value)));
    }

    /// Drops references that do not count, when they are more than those that do.
    fn compact(&mut self, rank: Rank) {
        let queue = &mut self.ranks[rank as usize];
        if queue.slots.len() > 2 * queue.count + 64 {
            let (mut index, mut before) = (0, 0);
            let cursor = queue.cursor;
            queue.slots.retain(|(ticket, slot)| {
                let counts = slot.ticket.load(Relaxed) == *ticket;
                before += usize::from(counts && index < cursor);
                index += 1;
                counts
            });
            queue.cursor = before;
            queue.slots.shrink_to(2 * queue.count + 64);
        }
    }

    /// Those of the next `most` slots of a queue that are `wanted`.
    fn some_of(&mut self, rank: Rank, most: usize, wanted: impl Fn(&Slot<T>) -> bool) -> Vec<Arc<Slot<T>>> {
        let queue = &mut self.ranks[rank as usize];
        let start = if queue.cursor < queue.slots.len() { queue.cursor } else { 0 };
        queue.cursor = start + most;
        let counts = |(ticket, slot): &&(u64, Arc<Slot<T>>)| slot.ticket.load(Relaxed) == *ticket;
        let part = queue.slots.iter().skip(start).take(most).filter(counts);
        part.filter(|(_, slot)| wanted(slot)).map(|(_, slot)| slot.clone()).collect()
    }

    fn make_room(&mut self, unmap: impl Fn(u128), left: &mut Leavers<T>) {
        let mut passed = 0;
        while self.bytes() > self.bound {
            let [expendable, young, proven] = &self.ranks;
            let from = if expendable.count > 0 {
                Rank::Expendable
            } else if proven.count == 0 || (young.count > 1 && young.bytes > self.bound / YOUNG_SHARE) {
                Rank::Young
            } else {
                Rank::Proven
            };
            let Some(slot) = self.ranks[from as usize].pop() else {
                // Where bytes are counted there is a slot.
                debug_assert!(false, "bytes without a slot");
                return;
            };
            let uses = slot.uses.load(Relaxed);
            if from != Rank::Expendable && uses > 0 && passed < MOST_PASSED {
                // What was used while young has that use behind it; the proven have one less left.
                let rest = if from == Rank::Young { 0 } else { uses - 1 };
                slot.uses.store(rest, Relaxed);
                self.unlink(&slot);
                self.push(&slot, Rank::Proven);
                passed += 1;
                continue;
            }
            unmap(slot.hash);
            let why = if from == Rank::Expendable { Left::Expendable } else { Left::Size };
            self.take(&slot, why, left);
            if from != Rank::Expendable {
                self.remember_ghost(slot.hash);
            }
            passed = 0;
        }
    }

    fn remember_ghost(&mut self, hash: u128) {
        let held: usize = self.ranks.iter().map(|queue| queue.count).sum();
        if self.ghosts[0].len() >= (GHOSTS * held).max(LEAST_GHOSTS) {
            self.ghosts.swap(0, 1);
            self.ghosts[0] = HashSet::default();
        }
        self.ghosts[0].insert(hash as u64);
    }

    fn forget_ghost(&mut self, hash: u128) -> bool {
        self.ghosts.iter_mut().any(|ghosts| ghosts.remove(&(hash as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(shelf: &Shelf<u128>, hash: u128, weight: u64) -> Vec<u128> {
        shelf.put(hash, Arc::new(hash), weight, false).iter().map(|(_, value)| **value).collect()
    }

    #[test]
    fn what_was_used_while_young_outlives_what_was_not() {
        let shelf = Shelf::new(100);
        for hash in 0..100 {
            put(&shelf, hash, 1);
        }
        (0..50).for_each(|hash| assert!(shelf.get(hash).is_some()));
        // A long list that nobody asks for twice.
        for hash in 1000..5000 {
            put(&shelf, hash, 1);
        }
        assert!((0..50).all(|hash| shelf.peek(hash).is_some()));
        assert_eq!(shelf.held(), (100, 100));
    }

    #[test]
    fn what_is_asked_for_again_soon_after_it_left_is_proven() {
        let shelf = Shelf::new(100);
        (0..100).for_each(|hash| _ = put(&shelf, hash, 1));
        assert_eq!(put(&shelf, 100, 1), [0]);
        put(&shelf, 0, 1);
        (200..260).for_each(|hash| _ = put(&shelf, hash, 1));
        assert!(shelf.peek(0).is_some() && shelf.peek(50).is_none());
    }

    #[test]
    fn what_others_wait_for_is_proven() {
        let shelf = Shelf::new(100);
        shelf.put(7, Arc::new(7), 1, true);
        (100..1000).for_each(|hash| _ = put(&shelf, hash, 1));
        assert!(shelf.peek(7).is_some());
    }

    #[test]
    fn the_expendable_go_first_and_are_served_until_then() {
        let shelf = Shelf::new(100);
        (0..100).for_each(|hash| _ = put(&shelf, hash, 1));
        (0..100).for_each(|hash| (0..3).for_each(|_| _ = shelf.get(hash)));
        assert!(shelf.expendable(60) && shelf.expendable(61) && shelf.expendable(60));
        assert!(!shelf.expendable(1000));
        assert!(shelf.get(60).is_some());
        let left = shelf.put(200, Arc::new(200), 2, false);
        let why: Vec<_> = left.iter().map(|(why, value)| (*why, **value)).collect();
        assert_eq!(why, [(Left::Expendable, 60), (Left::Expendable, 61)]);
        // What is put anew under the same name is not expendable for that.
        shelf.expendable(5);
        put(&shelf, 5, 1);
        put(&shelf, 300, 1);
        assert!(shelf.peek(5).is_some());
    }

    #[test]
    fn one_that_is_larger_than_the_share_of_the_young_gets_in() {
        let shelf = Shelf::new(80);
        (0..8).for_each(|hash| _ = put(&shelf, hash, 10));
        (0..8).for_each(|hash| _ = shelf.get(hash));
        for hash in 10..100 {
            put(&shelf, hash, 10);
            assert!(shelf.peek(hash).is_some(), "{hash}");
        }
    }

    #[test]
    fn a_bound_that_has_become_smaller_is_reached_in_steps() {
        let shelf = Shelf::new(64 * STEP);
        (0..640).for_each(|hash| _ = put(&shelf, hash, STEP / 10));
        let (mut most, mut gone) = (0, 0);
        shelf.tend(1, STEP, 100, |left| {
            most = most.max(left.len());
            gone += left.len();
            // Nobody waits for more than a step: this would not come back with the lock held.
            assert!(shelf.held().0 + gone as u64 >= 640);
        });
        assert!(most <= 11, "{most}");
        assert_eq!((gone, shelf.held()), (630, (10, 10 * (STEP / 10))));
    }

    #[test]
    fn references_that_do_not_count_are_bounded() {
        let shelf = Shelf::new(1000);
        (0..100).for_each(|hash| _ = put(&shelf, hash, 1));
        for turn in 0..1000 {
            shelf.expendable(turn % 100);
            put(&shelf, turn % 100, 1);
            shelf.remove((turn + 50) % 100);
            put(&shelf, (turn + 50) % 100, 1);
        }
        let queues = shelf.queues.lock();
        let references: usize = queues.ranks.iter().map(|queue| queue.slots.len()).sum();
        assert!(references < 3 * 64 + 2 * 100 + 1, "{references}");
    }

    #[test]
    fn readers_and_writers_at_once() {
        let shelf = Shelf::new(500);
        std::thread::scope(|scope| {
            for seed in 1..=4u128 {
                let shelf = &shelf;
                scope.spawn(move || {
                    for n in 0..20_000u128 {
                        let hash = n.wrapping_mul(seed * 7919) % 1000;
                        match n % 8 {
                            0 => _ = put(shelf, hash, 1 + (hash % 5) as u64),
                            1 if n % 5 == 0 => _ = shelf.remove(hash),
                            2 if n % 7 == 0 => _ = shelf.expendable(hash),
                            _ => assert!(shelf.get(hash).is_none_or(|value| *value == hash)),
                        }
                    }
                });
            }
        });
        agrees(&shelf);
    }

    /// What is counted is what is there.
    fn agrees(shelf: &Shelf<u128>) {
        let (mut count, mut bytes) = (0, 0);
        shelf.each(|_, _| count += 1);
        for (_, slot) in &shelf.slots.pin() {
            bytes += slot.weight.load(Relaxed);
        }
        assert_eq!(shelf.held(), (count, bytes));
        assert!(bytes <= shelf.queues.lock().bound);
    }

    proptest! {
        #[test]
        fn the_books_are_right(ops in prop::collection::vec((0u8..8, 0u128..40, 1u64..30), 0..400)) {
            let shelf = Shelf::new(100);
            let mut clock = 0;
            for (op, hash, weight) in ops {
                match op {
                    0 | 1 => {
                        let left = put(&shelf, hash, weight);
                        prop_assert!(left.iter().all(|h| *h == hash || shelf.peek(*h).is_none()));
                    }
                    2 => _ = shelf.remove(hash),
                    3 => _ = shelf.expendable(hash),
                    4 => {
                        clock += 1;
                        shelf.tend(clock, 60 + weight * 2, 10, drop);
                    }
                    _ => prop_assert!(shelf.get(hash).is_none_or(|value| *value == hash)),
                }
                agrees(&shelf);
            }
        }
    }
}
