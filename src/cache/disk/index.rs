//! Which files there are, how large, and in which order they were used.

use super::names::Name;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: Name,
    /// Blocks of the file system that it takes.
    pub blocks: u64,
    /// The hash of its key in this process; 0 while that is not known.
    pub hash: u128,
    /// When it was used last.
    pub used: Instant,
    /// Whether it goes before all others, unless it is used again.
    pub expendable: bool,
    newer: usize,
    older: usize,
}

const NONE: usize = usize::MAX;

/// The files of a zone.
pub struct Index {
    places: HashMap<Name, usize>,
    slots: Vec<Slot>,
    vacant: Vec<usize>,
    newest: usize,
    oldest: usize,
    blocks: u64,
    /// What goes before all others, the first marked first; among them names that are gone or used again.
    expendable: VecDeque<Name>,
    /// What is to be removed and is no entry any more.
    condemned: HashSet<Name>,
}

impl Default for Index {
    fn default() -> Index {
        Index {
            places: HashMap::new(),
            slots: Vec::new(),
            vacant: Vec::new(),
            newest: NONE,
            oldest: NONE,
            blocks: 0,
            expendable: VecDeque::new(),
            condemned: HashSet::new(),
        }
    }
}

impl Index {
    /// Files.
    pub fn files(&self) -> usize {
        self.places.len()
    }

    /// Blocks that all files take.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// What is known of a file.
    pub fn get(&self, name: &Name) -> Option<&Slot> {
        self.places.get(name).map(|at| &self.slots[*at])
    }

    /// All names there are now, those that are to be removed included.
    pub fn names(&self) -> Vec<Name> {
        self.places.keys().chain(&self.condemned).copied().collect()
    }

    /// A file is there, of this size, and was used just now.
    pub fn put(&mut self, name: Name, blocks: u64, hash: u128, used: Instant) {
        self.remove(&name);
        self.condemned.remove(&name);
        let slot = Slot { name, blocks, hash, used, expendable: false, newer: NONE, older: NONE };
        let at = match self.vacant.pop() {
            Some(at) => {
                self.slots[at] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.places.insert(name, at);
        self.blocks += blocks;
        self.link(at);
    }

    /// A file was used.
    pub fn touch(&mut self, name: &Name, used: Instant) {
        if let Some(at) = self.places.get(name).copied() {
            self.unlink(at);
            self.slots[at].used = used;
            self.slots[at].expendable = false;
            self.link(at);
        }
    }

    /// A file is gone.
    pub fn remove(&mut self, name: &Name) -> Option<Slot> {
        let at = self.places.remove(name)?;
        self.unlink(at);
        self.vacant.push(at);
        self.blocks -= self.slots[at].blocks;
        Some(self.slots[at])
    }

    /// There may be a file of this name, and it is to be removed unless a new one comes; of `most` such
    /// names that is remembered.
    pub fn condemn(&mut self, name: Name, most: usize) {
        self.remove(&name);
        if self.condemned.len() < most {
            self.condemned.insert(name);
        }
    }

    /// Whether the file of this name is to be removed.
    pub fn is_condemned(&self, name: &Name) -> bool {
        self.condemned.contains(name)
    }

    /// One that is to be removed.
    pub fn condemned(&self) -> Option<Name> {
        self.condemned.iter().next().copied()
    }

    /// That one needs not be removed any more; whether it was to be.
    pub fn pardon(&mut self, name: &Name) -> bool {
        self.condemned.remove(name)
    }

    /// A file goes before all others when room is needed, unless it is used again.
    pub fn expend(&mut self, name: &Name) {
        let Some(at) = self.places.get(name) else { return };
        if std::mem::replace(&mut self.slots[*at].expendable, true) {
            return;
        }
        self.expendable.push_back(*name);
        if self.expendable.len() > 2 * self.places.len() {
            let Index { places, slots, expendable, .. } = self;
            let mut seen = HashSet::new();
            let holds = |name: &Name| places.get(name).is_some_and(|at| slots[*at].expendable);
            expendable.retain(|name| holds(name) && seen.insert(*name));
        }
    }

    /// The file that goes when room is needed.
    pub fn first_to_go(&mut self) -> Option<Slot> {
        while let Some(name) = self.expendable.front() {
            let slot = self.get(name).filter(|slot| slot.expendable).copied();
            if slot.is_some() {
                return slot;
            }
            self.expendable.pop_front();
        }
        self.oldest().copied()
    }

    /// The file that was not used for the longest time.
    pub fn oldest(&self) -> Option<&Slot> {
        self.slots.get(self.oldest)
    }

    fn link(&mut self, at: usize) {
        self.slots[at].newer = NONE;
        self.slots[at].older = self.newest;
        match self.newest {
            NONE => self.oldest = at,
            newest => self.slots[newest].newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: usize) {
        let Slot { newer, older, .. } = self.slots[at];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_expendable_goes_first_unless_it_is_used_again() {
        let mut index = Index::default();
        let now = Instant::now();
        let name = |n: u8| [n; 16];
        (0..6).for_each(|n| index.put(name(n), 1, 0, now));
        for n in [4, 2, 3, 2] {
            index.expend(&name(n));
        }
        index.touch(&name(2), now);
        index.remove(&name(3));
        index.expend(&name(99));
        let mut order = Vec::new();
        while let Some(slot) = index.first_to_go() {
            index.remove(&slot.name);
            order.push(slot.name[0]);
        }
        assert_eq!(order, [4, 0, 1, 5, 2]);
        for n in 0..100 {
            index.put(name(1), 1, 0, now);
            index.expend(&name(1));
            assert!(index.expendable.len() <= 3, "{n}: {}", index.expendable.len());
        }
    }

    proptest! {
        #[test]
        fn it_is_a_list_in_the_order_of_use(acts in prop::collection::vec((0u8..3, 0u8..6, 0u64..9), 0..60)) {
            let (mut index, mut list) = (Index::default(), Vec::<(Name, u64)>::new());
            let now = Instant::now();
            for (act, name, blocks) in acts {
                let name = [name; 16];
                let known = list.iter().position(|(n, _)| *n == name).map(|at| list.remove(at));
                match act {
                    0 => {
                        index.put(name, blocks, 0, now);
                        list.push((name, blocks));
                    }
                    1 => {
                        index.touch(&name, now);
                        list.extend(known);
                    }
                    _ => prop_assert_eq!(index.remove(&name).map(|s| s.blocks), known.map(|k| k.1)),
                }
                prop_assert_eq!(index.files(), list.len());
                prop_assert_eq!(index.blocks(), list.iter().map(|l| l.1).sum::<u64>());
                prop_assert_eq!(index.oldest().map(|s| s.name), list.first().map(|l| l.0));
            }
            while let Some(slot) = index.oldest().copied() {
                prop_assert_eq!(slot.name, list.remove(0).0);
                index.remove(&slot.name);
            }
            prop_assert!(list.is_empty());
        }
    }
}
