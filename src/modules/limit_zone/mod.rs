//! What the zones of `limit_req` and `limit_conn` have in common: how they are declared, how many
//! keys they hold, the table of the keys.

pub mod declare;
pub mod names;
pub mod shards;
pub mod table;

use crate::conf::{ConfError, ConfResult};
use declare::{Declared, Zones};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// A zone's name and size, by which it is found again after a reload.
pub trait Named {
    /// The name.
    fn name(&self) -> &str;
    /// Bytes, as configured.
    fn size(&self) -> u64;
    /// The expression of its key, as written.
    fn key(&self) -> &str;
}

/// The zones that some generation uses. A zone lives as long as a generation that has it, so that a
/// configuration that fails leaves none behind.
pub struct Alive<Z>(Mutex<Vec<Weak<Z>>>);

impl<Z> Default for Alive<Z> {
    fn default() -> Self {
        Alive(Mutex::new(Vec::new()))
    }
}

impl<Z: Named> Alive<Z> {
    /// The zones of a configuration: those of the one before it, where name and size are the same,
    /// and new ones. Another key for the same zone is nginx's error, in which the zone is called
    /// `what`.
    pub fn join(
        &self,
        declared: &Zones,
        what: &str,
        new: impl Fn(&str, u64, &str) -> Z,
    ) -> ConfResult<Vec<Arc<Z>>> {
        let join_one = |zone: &Declared| {
            let key = zone.key.source.as_str();
            match self.latest(&zone.name) {
                Some(before) if before.size() == zone.size && before.key() != key => {
                    Err(ConfError::new(format!(
                        "{what} \"{}\" uses the \"{key}\" key while previously it used the \"{}\" key",
                        zone.name,
                        before.key()
                    ))
                    .hint("a zone keeps its key as long as the process lives: give the new one another name"))
                }
                Some(before) if before.size() == zone.size => Ok(before),
                _ => Ok(Arc::new(new(&zone.name, zone.size, key))),
            }
        };
        let zones: Vec<Arc<Z>> = declared.iter().map(join_one).collect::<ConfResult<_>>()?;
        zones.iter().for_each(|zone| self.add(zone));
        Ok(zones)
    }

    fn latest(&self, name: &str) -> Option<Arc<Z>> {
        self.0.lock().iter().rev().filter_map(Weak::upgrade).find(|zone| zone.name() == name)
    }

    /// Adds a zone that is new; those that nobody uses any more are forgotten.
    fn add(&self, zone: &Arc<Z>) {
        let mut all = self.0.lock();
        all.retain(|known| known.strong_count() > 0);
        if !all.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(zone))) {
            all.push(Arc::downgrade(zone));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::template::Template;

    #[derive(Debug)]
    struct Zone(String, u64, String);

    impl Named for Zone {
        fn name(&self) -> &str {
            &self.0
        }
        fn size(&self) -> u64 {
            self.1
        }
        fn key(&self) -> &str {
            &self.2
        }
    }

    fn join(alive: &Alive<Zone>, size: u64, key: &str) -> ConfResult<Arc<Zone>> {
        let mut zones = Zones::default();
        zones.declare(Declared { name: "z".into(), size, key: Template::literal(key), rate: 0 })?;
        let new = |name: &str, size: u64, key: &str| Zone(name.to_string(), size, key.to_string());
        alive.join(&zones, "limit_req", new).map(|mut zones| zones.remove(0))
    }

    #[test]
    fn a_zone_goes_on_while_its_size_and_key_stay() {
        let alive = Alive::default();
        let first = join(&alive, 1, "a").unwrap();
        assert!(Arc::ptr_eq(&first, &join(&alive, 1, "a").unwrap()));
        let error = join(&alive, 1, "b").unwrap_err();
        assert_eq!(
            error.message,
            "limit_req \"z\" uses the \"b\" key while previously it used the \"a\" key"
        );
        let larger = join(&alive, 2, "b").unwrap();
        assert!(!Arc::ptr_eq(&first, &larger));
        assert!(Arc::ptr_eq(&larger, &join(&alive, 2, "b").unwrap()));
    }

    #[test]
    fn a_zone_that_no_generation_uses_is_gone() {
        let alive = Alive::default();
        drop(join(&alive, 1, "a").unwrap());
        assert_eq!(join(&alive, 1, "b").unwrap().key(), "b");
    }
}
