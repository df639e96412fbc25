//! A worker's table of answers that may be repeated.
//!
//! It has two halves: what is found in the older one moves to the newer, and when the newer is full the older is
//! dropped. So it is bounded, and what is asked for stays. A half is full with so many requests, or with the memory
//! that these usually take; how many, is by how much is configured.

use super::glance::Glance;
use super::memo::Memo;
use crate::cache::key::AsIs;
use crate::edge::Generation;
use crate::http::request::Conn;
use foldhash::quality::RandomState;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

/// Requests that a half remembers: the least, and the most.
const LEAST: usize = 2048;
const MOST: usize = 16 * 1024;

/// Bytes that one of them usually takes.
const USUAL: usize = 1536;

/// Answers to one target that differ by what their requests read.
const VARIANTS: usize = 4;

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table::default());
}

#[derive(Default)]
struct Table {
    generation: u64,
    seed: RandomState,
    /// Requests that a half remembers.
    half: usize,
    newer: HashMap<u64, Slot, AsIs>,
    /// Bytes of what was put there.
    taken: usize,
    older: HashMap<u64, Slot, AsIs>,
}

enum Slot {
    /// The answer lay ready in memory once.
    Seen,
    /// It may not be repeated; not looked at again for a while.
    Refused,
    /// It may.
    Memos(Vec<Rc<Memo>>),
}

/// What is known of a request.
pub enum Known {
    /// Its answer.
    Memo(Rc<Memo>),
    /// It is to go the full way, watched if so; then [`note`] is told what it came to.
    Unknown(Mark),
}

/// Stands for a request in the table.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    hash: u64,
    generation: u64,
    /// Whether the request is to be watched.
    pub watch: bool,
}

/// Looks a request up.
pub fn find(generation: &Generation, conn: &Conn, asked: &Glance<'_>) -> Known {
    TABLE.with_borrow_mut(|table| table.find(generation, conn, asked))
}

/// Notes that a request which was not watched was answered with what lay ready in memory.
pub fn seen(mark: Mark) {
    TABLE.with_borrow_mut(|table| {
        if table.generation == mark.generation && !table.newer.contains_key(&mark.hash) {
            table.put(mark.hash, Slot::Seen);
        }
    });
}

/// Notes what came of a request that was watched: an answer, or that it may not be repeated.
pub fn note(mark: Mark, memo: Option<Memo>) {
    TABLE.with_borrow_mut(|table| {
        if table.generation == mark.generation {
            table.note(mark.hash, memo);
        }
    });
}

/// Lets go of what belongs to another generation than this one.
pub fn forget(generation: &Generation) {
    super::pool::clear();
    TABLE.with_borrow_mut(|table| table.take(generation));
}

impl Table {
    fn take(&mut self, generation: &Generation) {
        if self.generation != generation.number {
            let seed = std::mem::take(&mut self.seed);
            // Each server or location has one request at least that is asked often; a quarter more for all others.
            let levels = generation.http.levels.len();
            let half = (levels + levels / 4).clamp(LEAST, MOST);
            *self = Table { generation: generation.number, seed, half, ..Table::default() };
        }
    }

    fn find(&mut self, generation: &Generation, conn: &Conn, asked: &Glance<'_>) -> Known {
        self.take(generation);
        let mut hasher = self.seed.build_hasher();
        hasher.write(asked.target);
        hasher.write(asked.host);
        hasher.write_u8(asked.version as u8);
        let hash = hasher.finish();
        let mut mark = Mark { hash, generation: generation.number, watch: false };
        let mut slot = self.newer.get(&hash);
        if slot.is_none()
            && !self.older.is_empty()
            && let Some(found) = self.older.remove(&hash)
        {
            self.put(hash, found);
            slot = self.newer.get(&hash);
        }
        match slot {
            None | Some(Slot::Refused) => {}
            Some(Slot::Seen) => mark.watch = true,
            Some(Slot::Memos(memos)) => match memos.iter().find(|memo| memo.fits(conn, asked)) {
                Some(memo) => return Known::Memo(memo.clone()),
                None => mark.watch = true,
            },
        }
        Known::Unknown(mark)
    }

    fn note(&mut self, hash: u64, memo: Option<Memo>) {
        match (self.newer.get_mut(&hash), memo) {
            (Some(Slot::Memos(memos)), Some(memo)) => {
                let before = bytes(memos);
                memos.retain(|other| !other.is_like(&memo));
                memos.insert(0, Rc::new(memo));
                memos.truncate(VARIANTS);
                self.taken = self.taken.saturating_sub(before) + bytes(memos);
                self.turn();
            }
            // Others of this target may be.
            (Some(Slot::Memos(_)), None) => {}
            (_, Some(memo)) => self.put(hash, Slot::Memos(vec![Rc::new(memo)])),
            (_, None) => self.put(hash, Slot::Refused),
        }
    }

    fn put(&mut self, hash: u64, slot: Slot) {
        self.turn();
        if let Slot::Memos(memos) = &slot {
            self.taken += bytes(memos);
        }
        self.newer.insert(hash, slot);
    }

    /// Drops the older half where the newer one is full.
    fn turn(&mut self) {
        if self.newer.len() >= self.half || self.taken >= self.half * USUAL {
            self.older = std::mem::take(&mut self.newer);
            self.taken = 0;
        }
    }
}

fn bytes(memos: &[Rc<Memo>]) -> usize {
    memos.iter().map(|memo| memo.bytes()).sum()
}
