//! How many variants of one response are kept: so many that no site needs more, and so few that a client
//! which makes up values of a field that `Vary` names pushes out its own and not those of other keys.

use super::key::{AsIs, Key};
use moka::sync::Cache;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Variants of a key beside its main entry.
const MOST: usize = 256;

/// The variants that are kept of each key, the oldest first. Those from before a restart are not known
/// here; of them the bounds of the store are the only ones.
pub struct Variants {
    known: Cache<u128, Arc<Mutex<VecDeque<u128>>>, AsIs>,
}

impl Variants {
    /// Of at most so many keys.
    pub fn new(keys: u64, inactive: Duration) -> Variants {
        Variants { known: Cache::builder().max_capacity(keys).time_to_idle(inactive).build_with_hasher(AsIs) }
    }

    /// Notes that the `variant` of `key` is kept; the one that is to go for it, if any.
    pub fn note(&self, key: &Key, variant: u128) -> Option<Key> {
        let list = self.known.get_with(key.hash, Arc::default);
        let mut list = list.lock();
        if let Some(at) = list.iter().position(|known| *known == variant) {
            list.remove(at);
        }
        list.push_back(variant);
        let oldest = if list.len() > MOST { list.pop_front() } else { None };
        oldest.map(|variant| key.variant(variant))
    }

    /// Forgets the variants of `key`, and says which there were.
    pub fn take(&self, key: &Key) -> Vec<Key> {
        let Some(list) = self.known.remove(&key.hash) else { return Vec::new() };
        let list = std::mem::take(&mut *list.lock());
        list.into_iter().map(|variant| key.variant(variant)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let variants = Variants::new(100, Duration::from_secs(600));
        let (key, other) = (Key::new(Bytes::from_static(b"/a")), Key::new(Bytes::from_static(b"/b")));
        let most = MOST as u128;
        for n in 0..most {
            assert_eq!(variants.note(&key, n), None);
        }
        // One that is kept anew is the newest, and no other key's count.
        assert_eq!(variants.note(&key, 0), None);
        assert_eq!(variants.note(&other, 7), None);
        assert_eq!(variants.note(&key, most), Some(key.variant(1)));
        assert_eq!(variants.note(&key, most + 1), Some(key.variant(2)));
        assert_eq!(variants.take(&key).len(), MOST);
        assert!(variants.take(&key).is_empty());
        assert_eq!(variants.take(&other), [other.variant(7)]);
    }
}
