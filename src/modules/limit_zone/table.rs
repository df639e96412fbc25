//! A table of values by key, in order of last use: a hash table whose entries are a list too.

use smallvec::SmallVec;

/// Where an entry is, as long as it is not removed.
pub type Slot = u32;

const NONE: Slot = Slot::MAX;

/// A key; an address fits without an allocation.
pub type Key = SmallVec<[u8; 16]>;

/// A table.
pub struct Table<T> {
    /// The first entry of each chain; the number of chains is a power of two.
    chains: Vec<Slot>,
    entries: Vec<Entry<T>>,
    /// The first of the removed entries, which are a chain.
    removed: Slot,
    newest: Slot,
    oldest: Slot,
    len: usize,
}

struct Entry<T> {
    hash: u32,
    /// The next in the chain.
    next: Slot,
    newer: Slot,
    older: Slot,
    key: Key,
    value: T,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { chains: Vec::new(), entries: Vec::new(), removed: NONE, newest: NONE, oldest: NONE, len: 0 }
    }
}

impl<T: Default> Table<T> {
    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of `key`.
    pub fn find(&self, hash: u32, key: &[u8]) -> Option<Slot> {
        let mut at = *self.chains.get(self.chain(hash))?;
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.hash == hash && entry.key[..] == *key {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// Adds an entry, the newest, for a key that has none.
    pub fn insert(&mut self, hash: u32, key: &[u8], value: T) -> Slot {
        if self.len >= self.chains.len() {
            self.grow();
        }
        let chain = self.chain(hash);
        let next = self.chains[chain];
        let entry = Entry { hash, next, newer: NONE, older: NONE, key: Key::from_slice(key), value };
        let slot = if self.removed == NONE {
            self.entries.push(entry);
            (self.entries.len() - 1) as Slot
        } else {
            let slot = self.removed;
            self.removed = self.entries[slot as usize].next;
            self.entries[slot as usize] = entry;
            slot
        };
        self.chains[chain] = slot;
        self.link(slot);
        self.len += 1;
        slot
    }

    /// Makes an entry the newest.
    pub fn touch(&mut self, slot: Slot) {
        if self.newest != slot {
            self.unlink(slot);
            self.link(slot);
        }
    }

    /// The entry that was not used for longest.
    pub fn oldest(&self) -> Option<Slot> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// An entry's key.
    pub fn key(&self, slot: Slot) -> &[u8] {
        &self.entries[slot as usize].key
    }

    /// An entry's value.
    pub fn get(&self, slot: Slot) -> &T {
        &self.entries[slot as usize].value
    }

    /// An entry's value, to change it.
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.entries[slot as usize].value
    }

    /// Removes an entry.
    pub fn remove(&mut self, slot: Slot) {
        self.unlink(slot);
        let (hash, next) = (self.entries[slot as usize].hash, self.entries[slot as usize].next);
        let chain = self.chain(hash);
        if self.chains[chain] == slot {
            self.chains[chain] = next;
        } else {
            let mut at = self.chains[chain];
            while self.entries[at as usize].next != slot {
                at = self.entries[at as usize].next;
            }
            self.entries[at as usize].next = next;
        }
        let entry = &mut self.entries[slot as usize];
        (entry.key, entry.value, entry.next) = (Key::new(), T::default(), self.removed);
        self.removed = slot;
        self.len -= 1;
    }

    fn chain(&self, hash: u32) -> usize {
        // With no chains yet the mask is all ones, and no chain is found.
        hash as usize & self.chains.len().wrapping_sub(1)
    }

    fn grow(&mut self) {
        let chains = (self.chains.len() * 2).max(16);
        self.chains.clear();
        self.chains.resize(chains, NONE);
        let mut at = self.oldest;
        while at != NONE {
            let chain = self.chain(self.entries[at as usize].hash);
            self.entries[at as usize].next = self.chains[chain];
            self.chains[chain] = at;
            at = self.entries[at as usize].newer;
        }
    }

    fn link(&mut self, slot: Slot) {
        let before = std::mem::replace(&mut self.newest, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.newer, entry.older) = (NONE, before);
        match before {
            NONE => self.oldest = slot,
            before => self.entries[before as usize].newer = slot,
        }
    }

    fn unlink(&mut self, slot: Slot) {
        let Entry { newer, older, .. } = self.entries[slot as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Use(u8),
        Remove(u8),
        RemoveOldest,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => any::<u8>().prop_map(Step::Use),
            2 => any::<u8>().prop_map(Step::Remove),
            1 => Just(Step::RemoveOldest),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        /// Against a plain list, oldest first. The hashes are poor, so that chains are long.
        #[test]
        fn as_a_list_would(steps in steps()) {
            let mut table: Table<u32> = Table::default();
            let mut list: Vec<(Vec<u8>, u32)> = Vec::new();
            let key_of = |n: u8| vec![n; 1 + usize::from(n) % 30];
            for (number, step) in steps.into_iter().enumerate() {
                let number = number as u32;
                match step {
                    Step::Use(n) => {
                        let key = key_of(n);
                        match table.find(u32::from(n) % 40, &key) {
                            Some(slot) => {
                                table.touch(slot);
                                *table.get_mut(slot) = number;
                            }
                            None => {
                                table.insert(u32::from(n) % 40, &key, number);
                            }
                        }
                        list.retain(|(k, _)| *k != key);
                        list.push((key, number));
                    }
                    Step::Remove(n) => {
                        let found = table.find(u32::from(n) % 40, &key_of(n));
                        prop_assert_eq!(found.is_some(), list.iter().any(|(k, _)| *k == key_of(n)));
                        if let Some(slot) = found {
                            table.remove(slot);
                        }
                        list.retain(|(k, _)| *k != key_of(n));
                    }
                    Step::RemoveOldest => {
                        let oldest = table.oldest();
                        prop_assert_eq!(oldest.is_some(), !list.is_empty());
                        if let Some(slot) = oldest {
                            let (key, value) = list.remove(0);
                            prop_assert_eq!(table.key(slot), &key[..]);
                            prop_assert_eq!(*table.get(slot), value);
                            table.remove(slot);
                        }
                    }
                }
                prop_assert_eq!(table.len(), list.len());
                for (key, value) in &list {
                    let slot = table.find(u32::from(key[0]) % 40, key);
                    prop_assert_eq!(slot.map(|s| *table.get(s)), Some(*value));
                }
            }
        }
    }
}
