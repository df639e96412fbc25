//! The zones: what the configuration declares, what outlives a reload.

use super::path::Declared;
use crate::cache::memory;
use crate::cache::zone::{Spec, Zone};
use crate::conf::{Builder, ConfResult, NoteLevel};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// What the whole of `http` configures.
#[derive(Default)]
pub struct Http {
    /// The zones, in the order of their declaration.
    pub(super) zones: Vec<Declared>,
    /// `memory_cache`, bytes.
    pub(super) memory: Option<u64>,
    /// Bytes for each zone.
    bounds: Vec<u64>,
}

impl Http {
    /// The index of the zone of this name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.zones.iter().position(|zone| &*zone.name == name)
    }
}

/// Divides the memory there is among the zones, and tells the operator.
pub(super) fn set_bounds(b: &mut Builder) {
    let http = &b.http.proxy_cache;
    if http.zones.is_empty() {
        return;
    }
    let total = http.memory.unwrap_or_else(memory::default_bound);
    let wants: Vec<Option<u64>> = http.zones.iter().map(|zone| zone.max_size).collect();
    let bounds = memory::divide(total, &wants);
    for (zone, bound) in http.zones.iter().zip(&bounds).map(|(z, b)| (z.clone(), *b)).collect::<Vec<_>>() {
        b.here = zone.at;
        let less = match zone.max_size {
            Some(max) if max > bound => format!(" of the {max} of max_size"),
            _ => String::new(),
        };
        b.note(
            NoteLevel::Notice,
            format!(
                "the entries of cache zone \"{}\" are held in memory for now, not under \"{}\": at most {bound} bytes{less}",
                zone.name,
                zone.path.display()
            ),
        );
    }
    b.http.proxy_cache.bounds = bounds;
}

/// The zones of all generations that are still in use. A zone goes with the last generation that
/// uses it.
#[derive(Default)]
pub struct Shared {
    zones: Mutex<Vec<(PathBuf, Weak<Zone>)>>,
}

/// What a generation uses.
#[derive(Default)]
pub struct Runtime {
    zones: Vec<Arc<Zone>>,
}

impl Runtime {
    /// Joins the configuration with what outlives it: a zone of the same name and path keeps its
    /// entries.
    pub fn build(http: &crate::conf::build::Http, shared: &Shared) -> ConfResult<Runtime> {
        let http = &http.conf.proxy_cache;
        let mut known = shared.zones.lock();
        known.retain(|(_, zone)| zone.strong_count() > 0);
        let mut zones = Vec::new();
        for (declared, bound) in http.zones.iter().zip(&http.bounds) {
            let spec = Spec {
                name: declared.name.clone(),
                bound: *bound,
                inactive: declared.inactive,
                keys: declared.keys,
            };
            let same = |(path, zone): &(PathBuf, Weak<Zone>)| {
                let zone = zone.upgrade()?;
                (*path == declared.path && zone.spec.name == spec.name).then_some(zone)
            };
            // The last is the newest; one that a failed reload left behind is gone by now.
            let zone = match known.iter().rev().find_map(same) {
                Some(zone) if zone.spec == spec => zone,
                other => {
                    let zone = Arc::new(match other {
                        Some(zone) => zone.resized(spec),
                        None => Zone::new(spec),
                    });
                    known.push((declared.path.clone(), Arc::downgrade(&zone)));
                    zone
                }
            };
            zones.push(zone);
        }
        Ok(Runtime { zones })
    }

    /// The zone at this index of the configuration.
    pub(super) fn zone(&self, index: usize) -> Option<Arc<Zone>> {
        self.zones.get(index).cloned()
    }

    /// The zone of this name.
    pub(super) fn zone_named(&self, name: &str) -> Option<Arc<Zone>> {
        self.zones.iter().find(|zone| &*zone.spec.name == name).cloned()
    }

    /// All zones.
    pub fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }
}
