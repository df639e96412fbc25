//! What an answer was made from: which fields of the request were read by name, and whether anything
//! else was looked at that may be another thing the next time.

use super::names;
use crate::conf::build::LevelId;
use crate::http::phases::Gate;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for all names that have no number.
const OTHER: u64 = 1 << 63;

/// Which fields of a head were read. It belongs to the head; atomic only because heads are shared with what
/// waits for something, and written by one thread.
#[derive(Debug, Default)]
pub struct Reads {
    on: bool,
    names: AtomicU64,
}

impl Clone for Reads {
    fn clone(&self) -> Reads {
        Reads { on: self.on, names: AtomicU64::new(self.names.load(Ordering::Relaxed)) }
    }
}

impl Reads {
    /// Begins to watch.
    pub fn begin(&mut self) {
        self.on = true;
    }

    /// A field is looked for by its name.
    pub fn note(&self, name: &[u8]) {
        if self.on {
            self.add(names::number(name).map_or(OTHER, |n| 1 << n));
        }
    }

    /// All fields are looked at.
    pub fn note_all(&self) {
        if self.on {
            self.add(OTHER);
        }
    }

    /// What was read so far, to be put back: what a gate reads it reads again the next time.
    pub fn so_far(&self) -> u64 {
        self.names.load(Ordering::Relaxed)
    }

    /// See [`Self::so_far`].
    pub fn put_back(&self, names: u64) {
        self.names.store(names, Ordering::Relaxed);
    }

    fn add(&self, bit: u64) {
        let names = self.names.load(Ordering::Relaxed);
        self.names.store(names | bit, Ordering::Relaxed);
    }

    /// The names that were read, a bit each by their numbers; `None` when others were read, too.
    pub fn all_known(&self) -> Option<u64> {
        Some(self.names.load(Ordering::Relaxed)).filter(|names| names & OTHER == 0)
    }
}

/// Whether the answer to a request may be repeated for another that reads the same.
#[derive(Debug, Default)]
pub struct Watch {
    on: Cell<bool>,
    spoiled: Cell<bool>,
    gates: RefCell<SmallVec<[Gate; 2]>>,
    found: RefCell<Option<(LevelId, Vec<u8>)>>,
}

impl Watch {
    /// Begins to watch.
    pub fn begin(&self) {
        self.on.set(true);
    }

    /// What spoiled it is done again each time.
    pub fn clean(&self) {
        self.spoiled.set(false);
    }

    /// Whether the request is watched.
    pub fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Something was done or looked at that has to be done, or may be another thing, the next time.
    pub fn spoil(&self) {
        self.spoiled.set(true);
    }

    /// A handler decided that has to be asked again each time, and that can be.
    pub fn gate(&self, gate: Gate) {
        if self.on.get() {
            self.gates.borrow_mut().push(gate);
        }
    }

    /// What has to be asked again, in order.
    pub fn gates(&self) -> Box<[Gate]> {
        self.gates.borrow().as_slice().into()
    }

    /// The request goes on at another level, of which what decided up to now knows nothing when it is asked again.
    pub fn leaves_level(&self) {
        if !self.gates.borrow().is_empty() {
            self.spoil();
        }
    }

    /// It goes on as it does because at this level there is a file of this path. Where the answer is that file at
    /// that level, this is seen anew each time.
    pub fn rests_on(&self, level: LevelId, path: Vec<u8>) {
        if self.on.get() && self.found.replace(Some((level, path))).is_some() {
            self.spoil();
        }
    }

    /// Whether an answer at this level, made of the file of this path if of one, is all that it rests on.
    pub fn is_all(&self, level: LevelId, path: Option<&[u8]>) -> bool {
        self.found.borrow().as_ref().is_none_or(|found| found.0 == level && path == Some(&found.1[..]))
    }

    /// Whether the request was watched, and nothing spoiled it.
    pub fn is_clean(&self) -> bool {
        self.on.get() && !self.spoiled.get()
    }
}
