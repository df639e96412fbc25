//! The zones: what the configuration declares, what outlives a reload.

use super::path::{Declared, Memory};
use crate::cache::disk::Settings;
use crate::cache::memory;
use crate::cache::zone::{Spec, Zone};
use crate::conf::values::os_error;
use crate::conf::{Builder, ConfError, ConfResult, NoteLevel};
use crate::edge::privileges::Identity;
use crate::http::temp_file::TempPath;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// What the whole of `http` configures.
#[derive(Default)]
pub struct Http {
    /// The zones, in the order of their declaration.
    pub(super) zones: Vec<Declared>,
    /// `memory_cache`
    pub(super) memory: Option<Memory>,
    /// Bytes for each zone.
    bounds: Vec<u64>,
    /// What the disk of each zone is to do.
    settings: Vec<Settings>,
}

impl Http {
    /// The index of the zone of this name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.zones.iter().position(|zone| &*zone.name == name)
    }
}

/// Makes the directories, as nginx does when it reads its configuration, divides the memory there is
/// among the zones, and tells the operator.
pub(super) fn settle(b: &mut Builder) -> ConfResult<()> {
    let http = &b.http.proxy_cache;
    if http.zones.is_empty() {
        return Ok(());
    }
    let owner = b.main.user.as_ref().and_then(|(u, g)| Identity::of(u, g.as_deref()));
    for zone in &http.zones {
        let directory = TempPath { directory: zone.path.clone(), levels: Vec::new(), shared: false };
        directory.prepare(owner).map_err(|(call, e)| {
            let (path, cause) = (zone.path.display(), os_error(&e));
            ConfError::new(format!("{call} \"{path}\" failed ({cause})"))
        })?;
    }
    let total = http.memory.and_then(|m| m.size).unwrap_or_else(memory::default_bound);
    let wants: Vec<Option<u64>> = http.zones.iter().map(|zone| zone.max_size).collect();
    let bounds = memory::divide(total, &wants);
    let temps = http.zones.iter().map(|zone| temp_of(b, &zone.name)).collect::<Vec<_>>();
    for (zone, bound) in http.zones.iter().zip(&bounds).map(|(z, b)| (z.clone(), *b)).collect::<Vec<_>>() {
        b.here = zone.at;
        let note = format!("of cache zone \"{}\" at most {bound} bytes are held in memory too", zone.name);
        b.note(NoteLevel::Notice, note);
    }
    let http = &mut b.http.proxy_cache;
    let memory = http.memory.unwrap_or_default();
    let settings = http.zones.iter().zip(&bounds).zip(temps);
    http.settings = settings.map(|((z, b), t)| z.settings(*b, memory.largest(*b), t)).collect();
    http.bounds = bounds;
    Ok(())
}

/// The `proxy_temp_path` of the first location that uses the zone of this name, or may use it.
fn temp_of(b: &Builder, zone: &str) -> Option<PathBuf> {
    let uses = |level: &&crate::conf::build::Level| {
        let named = (*level.conf.proxy_cache.zone).as_ref();
        let path = &*level.conf.proxy.temp_path;
        !path.shared && named.is_some_and(|(name, _)| name.constant().is_none() || name.source == zone)
    };
    b.levels.iter().find(uses).map(|level| level.conf.proxy.temp_path.directory.clone())
}

/// The zones of all generations that are still in use. A zone goes with the last generation that
/// uses it; its files stay.
#[derive(Default)]
pub struct Shared {
    zones: Mutex<Vec<Weak<Zone>>>,
    /// Those of the generation in force.
    in_force: Mutex<Vec<Weak<Zone>>>,
}

/// What a generation uses.
#[derive(Default)]
pub struct Runtime {
    zones: Vec<Arc<Zone>>,
    /// What each zone's disk is to do from the start on.
    pub(super) settings: Vec<Settings>,
}

impl Runtime {
    /// Joins the configuration with what outlives it: a zone of the same name and path keeps its
    /// entries and files.
    pub fn build(http: &crate::conf::build::Http, shared: &Shared) -> ConfResult<Runtime> {
        let http = &http.conf.proxy_cache;
        let mut known = shared.zones.lock();
        known.retain(|zone| zone.strong_count() > 0);
        let mut zones = Vec::new();
        for ((declared, bound), settings) in http.zones.iter().zip(&http.bounds).zip(&http.settings) {
            unlike_before(declared, shared)?;
            let spec = Spec {
                name: declared.name.clone(),
                bound: *bound,
                largest: http.memory.unwrap_or_default().largest(*bound),
                inactive: declared.inactive,
                keys: declared.keys,
            };
            let same = |zone: &Weak<Zone>| {
                let zone = zone.upgrade()?;
                let place = zone.disk.as_ref()?.settings();
                (zone.spec.name == spec.name && place.place == settings.place).then_some(zone)
            };
            // The last is the newest; one that a failed reload left behind is gone by now.
            let zone = match known.iter().rev().find_map(same) {
                Some(zone) if zone.spec == spec => zone,
                other => {
                    let zone = Arc::new(match other {
                        Some(zone) => zone.resized(spec),
                        None => Zone::on_disk(spec, settings.clone()),
                    });
                    known.push(Arc::downgrade(&zone));
                    zone
                }
            };
            zones.push(zone);
        }
        Ok(Runtime { zones, settings: http.settings.clone() })
    }

    /// The generation is in force: settings of disks hold from here on, and disks that are new begin
    /// to work, with the rights of a worker.
    pub fn start(&self, shared: &Shared, identity: Option<Identity>) {
        *shared.in_force.lock() = self.zones.iter().map(Arc::downgrade).collect();
        for (zone, settings) in self.zones.iter().zip(&self.settings) {
            if let Some(disk) = &zone.disk {
                disk.start(zone, settings.clone(), identity);
            }
        }
    }

    /// The process ends: what is kept gets its time to be written.
    pub fn finish(&self) {
        self.zones.iter().filter_map(|zone| zone.disk.as_ref()).for_each(|disk| disk.finish());
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

/// As in nginx, a zone that stays cannot move: only with another size of its keys it is a new one.
fn unlike_before(declared: &Declared, shared: &Shared) -> ConfResult<()> {
    let before = shared
        .in_force
        .lock()
        .iter()
        .filter_map(Weak::upgrade)
        .find(|zone| zone.spec.name == declared.name && zone.spec.keys == declared.keys);
    let Some(disk) = before.as_ref().and_then(|zone| zone.disk.as_ref()) else { return Ok(()) };
    let (name, place) = (&declared.name, &disk.settings().place);
    if place.root != declared.path {
        let (path, before) = (declared.path.display(), place.root.display());
        return Err(ConfError::new(format!(
            "cache \"{name}\" uses the \"{path}\" cache path while previously it used the \"{before}\" cache path"
        )));
    }
    if place.levels != declared.levels {
        return Err(ConfError::new(format!("cache \"{name}\" had previously different levels")));
    }
    Ok(())
}
