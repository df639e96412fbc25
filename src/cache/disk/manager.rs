//! The thread that reads at the start what files there are, and removes what is too much.
//!
//! Both go in small steps with pauses between them, as `loader_*` and `manager_*` of
//! `proxy_cache_path` say, so that the disk has time for requests.

use super::format::{self, Damage};
use super::index::{Index, Slot};
use super::names::{self, Kind, Name};
use super::{Disk, Pace};
use crate::cache::counters::DiskEviction;
use crate::observe::error_log::{Level, log};
use parking_lot::{Condvar, Mutex};
use std::fs::DirEntry;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// With nothing to do the manager looks again after so long: others fill the file system too, and the
/// memory is to be tended.
const IDLE: Duration = Duration::from_secs(1);

/// Levels of directories that are looked into, the most that `levels` may have.
const DEPTH: usize = 3;

/// A file in memory too is used; so many of those are passed over when a place is needed.
const CHANCES: usize = 20;

/// Wakes the manager.
#[derive(Default)]
pub struct Signal {
    state: Mutex<Told>,
    told: Condvar,
}

#[derive(Default)]
struct Told {
    wake: bool,
    stop: bool,
    hurry: bool,
}

impl Signal {
    /// There may be too much.
    pub fn wake(&self) {
        self.state.lock().wake = true;
        self.told.notify_all();
    }

    /// Somebody waits for the loader: it makes no pauses from here on.
    pub fn hurry(&self) {
        self.state.lock().hurry = true;
        self.told.notify_all();
    }

    /// The thread is to end.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.told.notify_all();
    }

    /// Waits to be woken, so long at most; false: the thread is to end.
    fn wait(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut state = self.state.lock();
        while !state.wake && !state.stop {
            if self.told.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.wake = false;
        !state.stop
    }

    /// Waits so long, whatever there is to do; false: the thread is to end.
    fn pause(&self, length: Duration) -> bool {
        self.pause_unless(length, |_| false)
    }

    fn pause_unless(&self, length: Duration, over: impl Fn(&Told) -> bool) -> bool {
        let until = Instant::now() + length;
        let mut state = self.state.lock();
        while !state.stop && !over(&state) {
            if self.told.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        !state.stop
    }
}

/// Reads the directory, then keeps it in bounds until the disk is no longer needed.
pub fn run(disk: &Weak<Disk>, signal: &Signal) {
    if load(disk, signal).is_none() {
        return;
    }
    loop {
        let Some(next) = disk.upgrade().map(|disk| {
            disk.zone_in_memory().inspect(|zone| zone.tend());
            disk.tidy()
        }) else {
            return;
        };
        let go_on = match next {
            Next::Pause(length) => signal.pause(length),
            Next::Wait(length) => signal.wait(length),
        };
        if !go_on {
            return;
        }
    }
}

/// What the manager does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is more to do, after a pause.
    Pause(Duration),
    /// There is nothing to do before so long.
    Wait(Duration),
}

/// A stretch of work.
struct Stretch {
    pace: Pace,
    began: Instant,
    files: u64,
}

impl Stretch {
    fn new(pace: Pace) -> Stretch {
        Stretch { pace, began: Instant::now(), files: 0 }
    }

    /// One more file; whether it is time for a pause.
    fn step(&mut self) -> bool {
        self.files += 1;
        self.files >= self.pace.files.max(1) || self.began.elapsed() >= self.pace.threshold
    }
}

/// Reads what files there are; `None`: the disk is no longer needed.
fn load(disk: &Weak<Disk>, signal: &Signal) -> Option<()> {
    let (root, temp, pace) = {
        let disk = disk.upgrade()?;
        let settings = disk.settings();
        (settings.place.root.clone(), settings.temp.clone(), settings.loader)
    };
    let tended = Instant::now();
    let mut loading = Loading { disk, signal, stretch: Stretch::new(pace), tended, removed: 0 };
    loading.directory(&root, DEPTH)?;
    if let Some(temp) = temp {
        loading.directory(&temp, 0)?;
    }
    let removed = loading.removed;
    let disk = disk.upgrade()?;
    disk.loaded.store(true, Ordering::Release);
    let (_, bytes) = disk.held();
    let (path, mib) = (root.display(), bytes as f64 / f64::from(1 << 20));
    log(Level::Notice, format_args!("http file cache: {path} {mib:.3}M, bsize: {}", disk.block));
    if removed > 0 {
        log(
            Level::Notice,
            format_args!("{removed} files in \"{path}\" were not entries of this cache and were removed"),
        );
    }
    Some(())
}

struct Loading<'a> {
    disk: &'a Weak<Disk>,
    signal: &'a Signal,
    stretch: Stretch,
    /// When the memory was tended last.
    tended: Instant,
    removed: u64,
}

impl Loading<'_> {
    fn directory(&mut self, path: &Path, depth: usize) -> Option<()> {
        let is_level = |entry: &DirEntry| names::is_level(entry.file_name().as_encoded_bytes());
        // What cannot be read has no entries; it may be gone, or never have been ours.
        let Ok(entries) = std::fs::read_dir(path) else { return Some(()) };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 && is_level(&entry) => {
                    self.directory(&entry.path(), depth - 1)?
                }
                Ok(kind) if kind.is_file() => self.file(&entry)?,
                _ => {}
            }
        }
        Some(())
    }

    fn file(&mut self, entry: &DirEntry) -> Option<()> {
        let disk = self.disk.upgrade()?;
        let path = entry.path();
        match Kind::of(entry.file_name().as_encoded_bytes()) {
            Kind::Entry(name) => self.removed += u64::from(!disk.learn(&name, &path)),
            // Of one that cannot be looked into nothing is known.
            Kind::Temporary => drop(names::remove_abandoned(&path)),
            Kind::Other => return Some(()),
        }
        let too_many = disk.index.lock().files() > disk.settings().keys;
        if too_many {
            disk.tidy();
        }
        drop(disk);
        if self.stretch.step() {
            self.manage()?;
            if !self.signal.pause_unless(self.stretch.pace.sleep, |told| told.hurry) {
                return None;
            }
            self.stretch = Stretch::new(self.stretch.pace);
        }
        Some(())
    }

    /// With many files all is not learned for minutes; the bounds hold meanwhile too.
    fn manage(&mut self) -> Option<()> {
        if self.tended.elapsed() >= IDLE {
            self.disk.upgrade()?.zone_in_memory().inspect(|zone| zone.tend());
            self.tended = Instant::now();
        }
        loop {
            let next = self.disk.upgrade().map(|disk| disk.excess().map(|_| disk.tidy()))?;
            let Some(Next::Pause(length)) = next else { return Some(()) };
            if !self.signal.pause(length) {
                return None;
            }
        }
    }
}

impl Disk {
    /// Adds a file to the index; false: it was no entry, and was removed.
    pub(super) fn learn(&self, name: &Name, path: &Path) -> bool {
        let right = self.settings.load().place.path_of(name) == path;
        let _locked = self.stripe(name);
        let index = self.index.lock();
        // The manager removes the condemned.
        if right && (index.get(name).is_some() || index.is_condemned(name)) {
            return true;
        }
        drop(index);
        let read = match names::open(path) {
            Ok((file, size)) => format::read_tail(&file, size).map(|_| size),
            Err(e) if e.kind() == ErrorKind::NotFound => return true,
            Err(e) if names::is_lost(&e) => Err(Damage::Unreadable),
            // It is looked into when it is asked for.
            Err(_) => match std::fs::symlink_metadata(path) {
                Ok(about) => Ok(about.len()),
                Err(_) => return true,
            },
        };
        match read {
            Ok(size) if right => {
                let blocks = self.blocks_of(size);
                self.index.lock().put(*name, blocks, 0, Instant::now());
                return true;
            }
            // Where other levels have put it nobody looks for it.
            Ok(_) => self.counters.disk.damage(Damage::Foreign),
            Err(damage) => self.counters.disk.damage(damage),
        }
        // It may be on a disk that cannot be written to.
        let _ = std::fs::remove_file(path);
        false
    }

    /// Removes what was not used for too long and what is too much, as much as is to be done at once.
    pub fn tidy(&self) -> Next {
        let settings = self.settings();
        let mut stretch = Stretch::new(settings.manager);
        let mut chances = CHANCES;
        while let Some(name) = self.condemned() {
            self.remove_wanted(&name, |index| index.pardon(&name));
            if stretch.step() {
                return Next::Pause(settings.manager.sleep);
            }
        }
        loop {
            let oldest = self.index.lock().oldest().copied();
            let Some(oldest) = oldest else { return Next::Wait(IDLE) };
            let idle = oldest.used.elapsed();
            let cause = if idle >= settings.inactive { Some(DiskEviction::Inactive) } else { self.excess() };
            let Some(cause) = cause else {
                return Next::Wait(IDLE.min(settings.inactive.saturating_sub(idle)));
            };
            let oldest = match cause {
                DiskEviction::Inactive => oldest,
                _ => self.index.lock().first_to_go().unwrap_or(oldest),
            };
            // Whoever is answered from memory uses the file too, though nobody reads it.
            let in_use = !oldest.expendable && oldest.hash != 0 && self.in_memory(oldest.hash);
            if in_use && cause == DiskEviction::Inactive && idle < IDLE {
                // With a shorter `inactive` than that they would be looked at without end.
                return Next::Wait(IDLE);
            }
            if in_use && (chances > 0 || cause == DiskEviction::Inactive) {
                chances = chances.saturating_sub(1);
                self.index.lock().touch(&oldest.name, Instant::now());
            } else {
                chances = CHANCES;
                self.evict(&oldest, cause);
            }
            if stretch.step() {
                return Next::Pause(settings.manager.sleep);
            }
        }
    }

    /// Whether there is too much, and of what.
    pub(super) fn excess(&self) -> Option<DiskEviction> {
        let settings = self.settings.load();
        let (files, bytes) = self.held();
        if files > settings.keys as u64 {
            return Some(DiskEviction::Keys);
        }
        // nginx compares in whole blocks, and "as much as" is too much already.
        if settings.max_size.is_some_and(|most| bytes / self.block >= (most / self.block).max(1)) {
            return Some(DiskEviction::Size);
        }
        let free = || {
            let fs = rustix::fs::statvfs(&settings.place.root).ok()?;
            fs.f_bavail.checked_mul(fs.f_frsize)
        };
        if settings.min_free > 0 && free().is_some_and(|free| free < settings.min_free) {
            return Some(DiskEviction::Free);
        }
        None
    }

    fn condemned(&self) -> Option<Name> {
        self.index.lock().condemned()
    }

    fn evict(&self, slot: &Slot, cause: DiskEviction) {
        // It may have been used, or written anew, a moment ago.
        let same = |index: &mut Index| index.get(&slot.name).is_some_and(|now| now.used == slot.used);
        if self.remove_wanted(&slot.name, same) {
            self.counters.disk.eviction(cause);
        }
        // An entry that holds the file open would keep its bytes from being free.
        if let Some(zone) = self.zone_in_memory()
            && !self.knows(&slot.name)
        {
            zone.store.release_file(slot.hash);
        }
    }

    fn in_memory(&self, hash: u128) -> bool {
        self.zone_in_memory().is_some_and(|zone| zone.store.has(hash))
    }
}

/// Starts a thread of the disk, with the rights of a worker.
pub(super) fn spawn(
    name: &str,
    identity: Option<crate::edge::privileges::Identity>,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        match identity.map_or(Ok(()), |identity| identity.assume()) {
            Ok(()) => work(),
            Err(e) => log(Level::Emerg, format_args!("setuid() of a cache's thread failed: {e}")),
        }
    })?;
    Ok(())
}

/// What both threads of a disk are woken by.
#[derive(Default)]
pub(super) struct Threads {
    pub(super) signal: Arc<Signal>,
    pub(super) queue: Arc<super::writer::Queue>,
}
