//! The second tier of a zone: files below the directory of `proxy_cache_path`.
//!
//! What is kept in memory is also written to disk, by a thread of its own ([`writer`]); what memory
//! has no room for is found here again ([`Disk::read`]), before the upstream is asked and after a
//! restart. A body too large for memory is written as it is received ([`Draft`]) and read from its
//! file ([`FileBlocks`]). [`manager`] is the thread that learns at the start what files there are and
//! removes what is too much or was not used for too long; the [`index`] is what it knows. The form
//! of a file and what it is safe against is told in [`format`].
//!
//! Two processes may use one directory, as when one takes over from another: files get their names
//! whole, what one removes is a miss to the other, and a file is read as it is described in itself,
//! not in an index. Temporary files are locked by who writes them ([`names`]), so that only abandoned
//! ones are cleaned up.
//!
//! Nothing here runs on a worker, but for what says so.

pub mod blocks;
pub mod clock;
pub mod description;
pub mod draft;
pub mod format;
pub mod health;
pub mod index;
pub mod manager;
pub mod names;
pub mod sweep;
pub mod writer;

pub use blocks::FileBlocks;
pub use draft::{Draft, DraftFile};

use super::counters::Counters;
use super::entry::{Entry, EntryBody};
use super::key::Key;
use super::pack::{Packed, Packer};
use super::zone::Zone;
use crate::edge::privileges::Identity;
use crate::observe::error_log::{Level, log};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use clock::Clock;
use draft::Sealed;
use format::{BLOCK, Damage, Ends, Tail};
use health::{Health, Rate};
use index::Index;
use manager::Threads;
use names::{Name, Place};
use parking_lot::{Mutex, MutexGuard};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use writer::Act;

/// What `proxy_cache_path` says of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The directory and its levels.
    pub place: Place,
    /// Where temporary files are made (`proxy_temp_path`); `None`: beside the entries.
    pub temp: Option<PathBuf>,
    /// Bytes that the files may take; `None`: as much as there is.
    pub max_size: Option<u64>,
    /// Bytes that are to be left free on the file system; 0: it does not matter.
    pub min_free: u64,
    /// Files not used for so long go.
    pub inactive: Duration,
    /// Files there may be.
    pub keys: usize,
    /// Bytes that may wait to be written.
    pub pending: u64,
    /// How the manager removes.
    pub manager: Pace,
    /// How the loader reads.
    pub loader: Pace,
    /// How files are looked at for a purge.
    pub purger: Pace,
}

/// How much work is done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// So many files at most.
    pub files: u64,
    /// Then a pause of this length.
    pub sleep: Duration,
    /// Work lasts no longer than this before a pause.
    pub threshold: Duration,
}

impl Pace {
    /// `loader_files=100 loader_sleep=50ms loader_threshold=200ms`, and so for the manager.
    pub const DEFAULT: Pace =
        Pace { files: 100, sleep: Duration::from_millis(50), threshold: Duration::from_millis(200) };

    /// `purger_files=10 purger_sleep=50ms purger_threshold=50ms`.
    pub const PURGER: Pace =
        Pace { files: 10, sleep: Duration::from_millis(50), threshold: Duration::from_millis(50) };

    /// Without a pause.
    pub const SWIFT: Pace = Pace { files: u64::MAX, sleep: Duration::ZERO, threshold: Duration::MAX };
}

/// Locks by name: work on one file is done one after the other.
const STRIPES: usize = 64;

/// The files of a zone.
pub struct Disk {
    zone: Arc<str>,
    settings: ArcSwap<Settings>,
    /// Bytes of a block of the file system.
    block: u64,
    index: Mutex<Index>,
    stripes: [Mutex<()>; STRIPES],
    health: Health,
    damaged: Rate,
    counters: Arc<Counters>,
    /// Whether the index is complete.
    loaded: AtomicBool,
    threads: Threads,
    started: AtomicBool,
    /// What of the files is in memory.
    memory: Mutex<Weak<Zone>>,
}

impl Disk {
    /// The files of the zone of this name. Nothing is read yet.
    pub fn new(zone: Arc<str>, settings: Settings, counters: Arc<Counters>) -> Arc<Disk> {
        // As ngx_fs_bsize() has it, which has a block of 512 bytes where the file system says nothing.
        let block = rustix::fs::statfs(&settings.place.root).ok();
        let block = block.and_then(|s| u64::try_from(s.f_bsize).ok()).filter(|n| *n > 0 && n % 512 == 0);
        Arc::new(Disk {
            zone,
            settings: ArcSwap::from_pointee(settings),
            block: block.unwrap_or(512),
            index: Mutex::default(),
            stripes: [const { Mutex::new(()) }; STRIPES],
            health: Health::default(),
            damaged: Rate::default(),
            counters,
            loaded: AtomicBool::new(false),
            threads: Threads::default(),
            started: AtomicBool::new(false),
            memory: Mutex::default(),
        })
    }

    /// Puts settings in force for `zone`, whose files these are; the first time starts the threads,
    /// with the rights of a worker.
    pub fn start(self: &Arc<Disk>, zone: &Arc<Zone>, settings: Settings, identity: Option<Identity>) {
        *self.memory.lock() = Arc::downgrade(zone);
        self.settings.store(Arc::new(settings));
        self.threads.signal.wake();
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let Threads { signal, queue } = &self.threads;
        let (disk, signal) = (Arc::downgrade(self), signal.clone());
        let managing = manager::spawn("cache manager", identity, move || manager::run(&disk, &signal));
        let (disk, queue) = (Arc::downgrade(self), queue.clone());
        let writing = manager::spawn("cache writer", identity, move || writer::run(&disk, &queue));
        if let Err(e) = managing.and(writing) {
            let zone = &self.zone;
            log(Level::Alert, format_args!("a thread of cache \"{zone}\" cannot start: {e}"));
        }
    }

    /// Has an entry written. It is in memory alone where too much is waiting already.
    pub fn write(&self, key: &Key, act: Act) {
        let written = self.threads.queue.push(key, act, self.settings.load().pending);
        self.see(key, written);
    }

    /// As [`Self::write`], where the file that is there would be taken for good for longer than this.
    pub fn write_now(&self, key: &Key, act: Act) {
        let written = self.threads.queue.push_now(key, act, self.settings.load().pending);
        self.see(key, written);
    }

    fn see(&self, key: &Key, written: bool) {
        if !written {
            self.counters.disk.dropped.inc();
            // What is there is not the newest any more.
            self.forget(key);
        }
    }

    /// Has the entry under this key removed. Does not wait.
    pub fn forget(&self, key: &Key) {
        // Even with the queue full of what is to be removed it is not found any more.
        self.index.lock().remove(&key.name());
        let settings = self.settings.load();
        if !self.threads.queue.push(key, Act::Remove, settings.pending.saturating_mul(2)) {
            // Nor after a restart; the manager takes it away.
            self.index.lock().condemn(key.name(), settings.keys);
            self.threads.signal.wake();
        }
    }

    /// The file of this key goes before all others when room is needed, unless it is used again.
    pub fn expend(&self, key: &Key) {
        self.index.lock().expend(&key.name());
    }

    /// What is to become of the entry under this key, where that is not written yet. Does not wait.
    pub fn waiting(&self, key: &Key) -> Option<Act> {
        self.threads.queue.find(key)
    }

    /// Bytes that wait to be written.
    pub fn waiting_bytes(&self) -> u64 {
        self.threads.queue.bytes()
    }

    /// Waits until what is kept is written, but not for ever: the process ends.
    pub fn finish(&self) {
        if self.started.load(Ordering::Acquire) {
            self.threads.queue.drain(Instant::now() + writer::PATIENCE);
        }
    }

    /// What waits for this name is not written; whether an entry did.
    fn cancel(&self, name: &Name) -> bool {
        self.threads.queue.cancel(name)
    }

    fn zone_in_memory(&self) -> Option<Arc<Zone>> {
        self.memory.lock().upgrade()
    }

    /// What is in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Bytes of the largest file that makes sense.
    pub fn largest(&self) -> u64 {
        self.settings.load().max_size.unwrap_or(u64::MAX).min(format::MOST_BODY)
    }

    /// Files, and the bytes that they take.
    pub fn held(&self) -> (u64, u64) {
        let index = self.index.lock();
        (index.files() as u64, index.blocks() * self.block)
    }

    /// Whether there may be a file of this name; to be asked on a worker.
    pub fn may_have(&self, name: &Name) -> bool {
        !self.loaded.load(Ordering::Acquire) || self.index.lock().get(name).is_some()
    }

    /// Whether there is a file of this name, as far as is known.
    pub fn knows(&self, name: &Name) -> bool {
        self.index.lock().get(name).is_some()
    }

    /// Whether the disk works, as far as is known, or is to be tried again.
    pub fn may_write(&self) -> bool {
        self.health.may_write()
    }

    /// A file for the entry under this key.
    pub async fn draft(self: &Arc<Disk>, key: &Key) -> std::io::Result<Draft> {
        Draft::new(self.clone(), key).await
    }

    fn stripe(&self, name: &Name) -> MutexGuard<'_, ()> {
        // Names are spread evenly.
        self.stripes[usize::from(name[15]) % STRIPES].lock()
    }

    fn blocks_of(&self, size: u64) -> u64 {
        size.div_ceil(self.block)
    }

    /// Reads the entry under this key: whole and checked when there is `room` in memory for a body of
    /// its size, else with a body that is read later. A file that is damaged is removed.
    pub fn read(self: &Arc<Disk>, key: &Key, room: impl FnOnce(u64) -> bool, clock: &Clock) -> Option<Entry> {
        let name = key.name();
        let path = self.settings.load().place.path_of(&name);
        let locked = self.stripe(&name);
        if self.index.lock().is_condemned(&name) {
            return None;
        }
        let (file, size) = match names::open(&path) {
            Ok(opened) => opened,
            Err(e) => {
                self.not_opened(&name, &path, e);
                return None;
            }
        };
        let ends = format::read_ends(&file, size);
        if ends.is_ok() {
            let blocks = self.blocks_of(size);
            self.index.lock().put(name, blocks, key.hash, Instant::now());
        }
        drop(locked);
        let file = Arc::new(file);
        match ends.and_then(|ends| self.read_body(&file, ends, key, room, clock)) {
            Ok(entry) => {
                self.counters.disk.reads.add(u64::from(entry.is_some()));
                entry
            }
            Err(damage) => {
                self.remove_damaged(&name, &file, damage);
                None
            }
        }
    }

    /// The file of this name cannot be opened; its stripe is held.
    fn not_opened(&self, name: &Name, path: &Path, e: std::io::Error) {
        if e.kind() == ErrorKind::NotFound {
            self.index.lock().remove(name);
        } else if names::is_lost(&e) {
            self.index.lock().remove(name);
            // It may be on a disk that cannot be written to; it is a miss in any case.
            let _ = std::fs::remove_file(path);
            self.complain(path, Damage::Unreadable);
        } else if self.damaged.pass().is_some() {
            let (path, zone, cause) = (path.display(), &self.zone, crate::conf::values::os_error(&e));
            log(Level::Crit, format_args!("open() \"{path}\" failed ({cause}), cache \"{zone}\""));
        }
    }

    /// `Ok(None)`: another key has the same name.
    fn read_body(
        self: &Arc<Disk>,
        file: &Arc<File>,
        ends: Ends,
        key: &Key,
        room: impl FnOnce(u64) -> bool,
        clock: &Clock,
    ) -> Result<Option<Entry>, Damage> {
        let Ends { tail, description } = ends;
        let described = description::decode(description, clock).ok_or(Damage::Description)?;
        if described.entry.key != key.text || described.variant != key.variant {
            return Ok(None);
        }
        let mut entry = described.entry;
        if entry.length != tail.body {
            return Err(Damage::Description);
        }
        let sums = format::read_sums(file, &tail)?;
        let blocks = FileBlocks::new(file.clone(), tail.body, sums, key.name(), self);
        entry.body = match room(tail.body) {
            true => EntryBody::Memory(whole(&blocks, &tail)?),
            false => EntryBody::File(blocks),
        };
        Ok(Some(entry))
    }

    /// Gives a file the name of its entry, if that is still `wanted` then.
    fn publish(
        &self,
        sealed: Sealed,
        key: &Key,
        wanted: impl FnOnce() -> bool,
    ) -> std::io::Result<(Arc<File>, Box<[u32]>)> {
        let Sealed { file, temp, name, sums, size } = sealed;
        let settings = self.settings();
        let locked = self.stripe(&name);
        if !wanted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let published = settings.place.publish(&file, temp.path(), &name);
        let copy = published.map_err(|e| self.failed("rename()", temp.path(), e))?;
        temp.forget();
        self.index.lock().put(name, self.blocks_of(size), key.hash, Instant::now());
        drop(locked);
        self.counters.disk.writes.inc();
        if self.excess().is_some() {
            self.threads.signal.wake();
        }
        if self.health.worked() {
            let (zone, path) = (&self.zone, settings.place.root.display());
            log(Level::Notice, format_args!("cache \"{zone}\" is written to \"{path}\" again"));
        }
        Ok((copy.map_or(file, Arc::new), sums))
    }

    /// Removes the entry under this key, also one that is about to be written; whether there was one.
    pub fn remove(&self, key: &Key) -> bool {
        let name = key.name();
        let waited = self.cancel(&name);
        self.remove_name(&name) || waited
    }

    fn remove_name(&self, name: &Name) -> bool {
        let path = self.settings.load().place.path_of(name);
        let _locked = self.stripe(name);
        self.index.lock().remove(name);
        std::fs::remove_file(path).is_ok()
    }

    /// As [`Self::remove_name`], if that is still `wanted`.
    fn remove_wanted(&self, name: &Name, wanted: impl FnOnce(&mut Index) -> bool) -> bool {
        let path = self.settings.load().place.path_of(name);
        let _locked = self.stripe(name);
        let mut index = self.index.lock();
        if !wanted(&mut index) {
            return false;
        }
        index.remove(name);
        drop(index);
        std::fs::remove_file(path).is_ok()
    }

    /// Removes a file that is not what it should be, unless its name is another's by now.
    fn remove_damaged(&self, name: &Name, file: &File, damage: Damage) {
        let path = self.settings.load().place.path_of(name);
        let locked = self.stripe(name);
        let same = match (file.metadata(), std::fs::metadata(&path)) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            _ => false,
        };
        if same {
            self.index.lock().remove(name);
            // It may be on a disk that cannot be written to; it is a miss in any case.
            let _ = std::fs::remove_file(&path);
        }
        drop(locked);
        self.complain(&path, damage);
    }

    fn complain(&self, path: &Path, damage: Damage) {
        self.counters.disk.damage(damage);
        // The loader says in one line what nginx has left.
        if damage != Damage::Foreign
            && let Some(others) = self.damaged.pass()
        {
            let (path, zone, what) = (path.display(), &self.zone, damage.as_str());
            let others = match others {
                0 => String::new(),
                n => format!(", as {n} others since the last such line"),
            };
            log(
                Level::Crit,
                format_args!(
                    "cache file \"{path}\" is damaged ({what}) and was removed, cache \"{zone}\"{others}"
                ),
            );
        }
    }

    /// Writing failed: from now on memory has to do. Returns the error.
    fn failed(&self, call: &str, path: &Path, e: std::io::Error) -> std::io::Error {
        self.counters.disk.failures.inc();
        if self.health.failed() {
            let (path, zone) = (path.display(), &self.zone);
            let cause = crate::conf::values::os_error(&e);
            log(
                Level::Crit,
                format_args!(
                    "{call} \"{path}\" failed ({cause}); cache \"{zone}\" is in memory alone until it works"
                ),
            );
        }
        e
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.threads.queue.stop();
        self.threads.signal.stop();
    }
}

/// The body of a file, checked.
fn whole(blocks: &FileBlocks, tail: &Tail) -> Result<Packed, Damage> {
    // The bound is memory's for one entry, so the length fits.
    let mut packer = Packer::new(tail.body as usize);
    let mut block = BytesMut::with_capacity(BLOCK);
    let mut at = 0;
    while at < tail.body {
        blocks.block(at, &mut block)?;
        packer.push(&block);
        at += block.len() as u64;
    }
    Ok(packer.finish())
}

#[cfg(test)]
pub(super) mod tests;
