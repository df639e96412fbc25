//! The open-file cache: descriptors, what is known of files, failures, the bytes of small ones.
//!
//! [`find`] is the way to any file, with a cache or without. It never makes a worker wait: what the
//! kernel has at hand is had at once, the rest on a thread that may wait. What is given out as the
//! bytes or the descriptor of a file is one file's, with that file's [`Stat`], whatever is renamed
//! over its name in the meantime.

pub use super::aside::Texts;
use super::aside::{self, Answer, Bounds};
use super::file_io::{Failure, Stop, Wait, open, read_whole, stat, stat_of};
pub use super::file_io::{Kind, Stat};
use crate::http::date::ticks;
use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use std::fs::File;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes up to which a file is read whole, and kept so in a cache.
pub const SMALL: u64 = 64 * 1024;

/// Bytes of small files that a cache keeps.
const KEPT: u64 = 32 << 20;

/// How often a file that changes while it is read is read again.
const ATTEMPTS: u32 = 4;

/// What is asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// What it stands for.
    Stat,
    /// Besides, that it can be read.
    Open,
    /// Besides, its content.
    Content,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is known of it.
    pub stat: Stat,
    /// Its content, when that was asked for.
    pub content: Content,
    /// The texts of an answer with it, if it is one that is given often.
    pub texts: Option<Arc<Texts>>,
}

impl Found {
    /// One without texts.
    pub fn new(stat: Stat, content: Content) -> Found {
        Found { stat, content, texts: None }
    }
}

/// The content of a file.
#[derive(Clone, Debug)]
pub enum Content {
    /// Not asked for, or no regular file.
    None,
    /// All of it.
    Bytes(Bytes),
    /// To be read, up to the size that is known.
    File(Arc<File>),
}

/// How a location uses its cache.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long what is held is believed.
    pub valid: Duration,
    /// Uses before a descriptor is held.
    pub min_uses: u32,
    /// Whether failures are held.
    pub errors: bool,
}

/// Finds what `path` stands for, by way of `cache` if there is one.
pub async fn find(
    cache: Option<&Arc<FileCache>>,
    policy: Policy,
    path: &[u8],
    want: Want,
) -> Result<Found, Failure> {
    let stop = match find_now(cache, policy, path, want) {
        Ok(found) => return Ok(found),
        Err(Stop::Failed(failure)) => return Err(failure),
        Err(stop @ Stop::WouldWait) => stop,
    };
    let (cache, path) = (cache.cloned(), path.to_vec());
    let waiting = tokio::task::spawn_blocking(move || match cache {
        Some(cache) => cache.find(&path, want, policy, Wait::Yes),
        None => load(&path, want, Wait::Yes),
    });
    // The only ways for it not to finish are a panic and the end of the runtime.
    waiting.await.unwrap_or(Err(stop)).map_err(|stop| match stop {
        Stop::Failed(failure) => failure,
        Stop::WouldWait => Failure::of("open()", rustix::io::Errno::CANCELED),
    })
}

/// As [`find`], but says so when it would have to be waited for.
pub fn find_now(
    cache: Option<&Arc<FileCache>>,
    policy: Policy,
    path: &[u8],
    want: Want,
) -> Result<Found, Stop> {
    match cache {
        Some(cache) => cache.find(path, want, policy, Wait::No),
        None => load(path, want, Wait::No),
    }
}

/// The bytes of a small file, where they are had at once and it is the `same` one.
pub fn bytes_now(
    cache: Option<&Arc<FileCache>>,
    policy: Policy,
    path: &[u8],
    same: impl Fn(&Stat) -> bool,
) -> Option<Bytes> {
    if let Some(cache) = cache {
        let now = ticks();
        let at_hand = aside::get(&cache.bounds, path, now, |answer| answer.bytes(policy, now, &same));
        if at_hand.is_some() {
            return at_hand;
        }
    }
    let found = find_now(cache, policy, path, Want::Content).ok()?;
    match found.content {
        Content::Bytes(bytes) if same(&found.stat) => Some(bytes),
        _ => None,
    }
}

/// Opens, looks and reads, without a cache.
fn load(path: &[u8], want: Want, wait: Wait) -> Result<Found, Stop> {
    if want == Want::Stat {
        return Ok(Found::new(stat(path, wait)?, Content::None));
    }
    // A small file that shrinks between the look and the reading is looked at again.
    for _ in 0..ATTEMPTS {
        let file = open(path, wait)?;
        let stat = stat_of(&file)?;
        if stat.kind != Kind::File {
            return Ok(Found::new(stat, Content::None));
        }
        if want == Want::Open || stat.size > SMALL {
            return Ok(Found::new(stat, Content::File(Arc::new(file))));
        }
        if let Some(bytes) = read_whole(&file, stat.size as usize, wait)? {
            return Ok(Found::new(stat, Content::Bytes(bytes)));
        }
    }
    Err(unsteady())
}

/// For a file that changes faster than it can be read.
fn unsteady() -> Stop {
    Stop::Failed(Failure::of("read()", rustix::io::Errno::IO))
}

/// How often this process itself changed files. What was looked at before the last time is looked at
/// again, in all caches.
static DOUBTS: AtomicU32 = AtomicU32::new(0);

/// Says that this process changed files.
pub fn doubt() {
    DOUBTS.fetch_add(1, Ordering::Release);
}

impl std::fmt::Debug for FileCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "max={} inactive={:?}", self.max, self.inactive)
    }
}

/// A cache of open files. Workers share it; what they share it by is sharded, and each has at hand what it was asked for
/// last.
pub struct FileCache {
    max: u64,
    inactive: Duration,
    bounds: Bounds,
    entries: Cache<Bytes, Arc<Entry>>,
    /// Bytes kept of small files.
    kept: Arc<AtomicU64>,
}

/// What is held of a name.
pub struct Entry {
    found: Result<Stat, Failure>,
    /// When it was last seen to be so, by [`ticks`].
    checked: AtomicU64,
    /// [`DOUBTS`] at that time.
    doubts: AtomicU32,
    /// Uses, counted as far as they matter.
    uses: AtomicU32,
    bytes: OnceLock<Kept>,
    file: Mutex<Option<Arc<File>>>,
}

/// Bytes of a small file, counted while they are kept.
struct Kept {
    bytes: Bytes,
    total: Arc<AtomicU64>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

impl FileCache {
    /// A cache of at most `max` files, each forgotten when not used for `inactive`.
    pub fn new(max: u64, inactive: Duration) -> FileCache {
        // A bound beyond any uptime, which the store insists on.
        let idle = inactive.min(Duration::from_secs(10 * 365 * 86_400));
        let entries = Cache::builder()
            .max_capacity(max)
            .time_to_idle(idle)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        static CACHES: AtomicU64 = AtomicU64::new(0);
        let cache = CACHES.fetch_add(1, Ordering::Relaxed);
        let bounds = Bounds { cache, max, inactive: idle.as_millis() as u64 };
        FileCache { max, inactive, bounds, entries, kept: Arc::default() }
    }

    /// The bounds: files, and how long an unused one stays.
    pub fn bounds(&self) -> (u64, Duration) {
        (self.max, self.inactive)
    }

    fn find(&self, path: &[u8], want: Want, policy: Policy, wait: Wait) -> Result<Found, Stop> {
        let now = ticks();
        if let Some(result) = aside::get(&self.bounds, path, now, |answer| answer.give(want, policy, now)) {
            return result;
        }
        let Some(entry) = self.entries.get(path) else {
            aside::remove(&self.bounds, path);
            return self.load(path, want, policy, wait, 0);
        };
        let believed = entry.is_believed(policy, now);
        if let Some(result) = self.held(&entry, path, believed, want, policy, wait) {
            entry.use_once(policy.min_uses);
            // Threads that wait are no workers; and what a look at the file refuted is not given again.
            if wait == Wait::No && (result.is_ok() || believed && entry.found.is_err()) {
                aside::put(&self.bounds, path, now, &entry, || Answer::of(&entry, now));
            }
            return result;
        }
        self.load(path, want, policy, wait, entry.uses.load(Ordering::Relaxed))
    }

    /// What an entry answers; `None` when the file has to be opened anew. An entry that is not
    /// believed is compared with the file first.
    fn held(
        &self,
        entry: &Entry,
        path: &[u8],
        believed: bool,
        want: Want,
        policy: Policy,
        wait: Wait,
    ) -> Option<Result<Found, Stop>> {
        let held = match entry.found {
            Err(failure) if believed => return Some(Err(Stop::Failed(failure))),
            Err(_) => return None,
            Ok(held) => held,
        };
        let content = if held.kind == Kind::File { Some(entry.content()?) } else { None };
        if !believed {
            let doubts = DOUBTS.load(Ordering::Acquire);
            match stat(path, wait) {
                Ok(is) if is == held => {
                    entry.checked.store(ticks(), Ordering::Relaxed);
                    entry.doubts.store(doubts, Ordering::Relaxed);
                }
                Ok(_) => return None,
                Err(stop) => {
                    self.hold_failure(path, stop, policy, entry.uses.load(Ordering::Relaxed), doubts);
                    return Some(Err(stop));
                }
            }
        }
        let content = match (want, content) {
            (Want::Stat, _) | (_, None) => Content::None,
            (Want::Content, Some(Content::File(file))) if held.size <= SMALL => {
                match self.read(entry, &file, held, wait) {
                    Ok(bytes) => Content::Bytes(bytes?),
                    Err(stop) => return Some(Err(stop)),
                }
            }
            (_, Some(content)) => content,
        };
        Some(Ok(Found::new(held, content)))
    }

    /// Reads a small file and keeps its bytes in its entry, if it may. `None` when the file is not
    /// any more what it was.
    fn read(&self, entry: &Entry, file: &File, stat: Stat, wait: Wait) -> Result<Option<Bytes>, Stop> {
        let Some(bytes) = read_whole(file, stat.size as usize, wait)? else { return Ok(None) };
        if !stat_of(file)?.same_content(&stat) {
            return Ok(None);
        }
        // What was changed a moment ago may be changed again without a sign of it.
        let mut file = entry.file.lock();
        if file.is_some()
            && !stat.is_fresh()
            && let Some(kept) = self.keep(bytes.clone())
        {
            // The descriptor has done its work once the bytes are here.
            let _ = entry.bytes.set(kept);
            *file = None;
        }
        Ok(Some(bytes))
    }

    /// Counts the bytes as kept, when there is room for them.
    fn keep(&self, bytes: Bytes) -> Option<Kept> {
        let length = bytes.len() as u64;
        // From here on they are uncounted by being dropped.
        let kept = Kept { bytes, total: self.kept.clone() };
        (self.kept.fetch_add(length, Ordering::Relaxed) + length <= KEPT).then_some(kept)
    }

    /// Holds a failure, or forgets the file.
    fn hold_failure(&self, path: &[u8], stop: Stop, policy: Policy, uses: u32, doubts: u32) {
        match stop {
            Stop::WouldWait => {}
            Stop::Failed(failure) if policy.errors => {
                // What is held of a failure is told as one of opening, as in nginx.
                let failure = Failure { call: "open()", ..failure };
                let entry = Entry::new(Err(failure), ticks(), doubts, uses.saturating_add(1));
                self.entries.insert(Bytes::copy_from_slice(path), Arc::new(entry));
                aside::remove(&self.bounds, path);
            }
            Stop::Failed(_) => {
                self.entries.invalidate(path);
                aside::remove(&self.bounds, path);
            }
        }
    }

    /// Opens the file, or looks at it, and holds what was found; `uses` were counted before.
    fn load(&self, path: &[u8], want: Want, policy: Policy, wait: Wait, uses: u32) -> Result<Found, Stop> {
        let now = ticks();
        let doubts = DOUBTS.load(Ordering::Acquire);
        for _ in 0..ATTEMPTS {
            let loaded = load(path, want.min(Want::Open), wait);
            let entry = match &loaded {
                Ok(found) => Entry::new(Ok(found.stat), now, doubts, uses),
                Err(stop) => {
                    self.hold_failure(path, *stop, policy, uses, doubts);
                    return loaded;
                }
            };
            entry.use_once(policy.min_uses);
            let found = match loaded {
                Ok(Found { stat, content: Content::File(file), .. }) => {
                    if entry.uses.load(Ordering::Relaxed) >= policy.min_uses {
                        *entry.file.lock() = Some(file.clone());
                    }
                    let content = if want == Want::Content && stat.size <= SMALL {
                        let Some(bytes) = self.read(&entry, &file, stat, wait)? else { continue };
                        Content::Bytes(bytes)
                    } else {
                        Content::File(file)
                    };
                    Ok(Found::new(stat, content))
                }
                other => other,
            };
            self.entries.insert(Bytes::copy_from_slice(path), Arc::new(entry));
            aside::remove(&self.bounds, path);
            return found;
        }
        Err(unsteady())
    }
}

impl Entry {
    fn new(found: Result<Stat, Failure>, now: u64, doubts: u32, uses: u32) -> Entry {
        let (checked, uses) = (AtomicU64::new(now), AtomicU32::new(uses));
        Entry {
            found,
            checked,
            doubts: AtomicU32::new(doubts),
            uses,
            bytes: OnceLock::new(),
            file: Mutex::new(None),
        }
    }

    /// The bytes or the descriptor, whichever is held.
    fn content(&self) -> Option<Content> {
        match self.bytes.get() {
            Some(kept) => Some(Content::Bytes(kept.bytes.clone())),
            // The bytes may have come in place of the descriptor just now.
            None => match self.file.lock().clone() {
                Some(file) => Some(Content::File(file)),
                None => self.bytes.get().map(|kept| Content::Bytes(kept.bytes.clone())),
            },
        }
    }

    /// Whether it was seen to be so not too long ago.
    fn is_believed(&self, policy: Policy, now: u64) -> bool {
        let age = now.saturating_sub(self.checked.load(Ordering::Relaxed));
        Duration::from_millis(age) < policy.valid
            && self.doubts.load(Ordering::Relaxed) == DOUBTS.load(Ordering::Acquire)
    }

    /// Counts a use; beyond what matters nothing is written, so that a hot entry stays in the caches
    /// of all cores.
    fn use_once(&self, enough: u32) {
        if self.uses.load(Ordering::Relaxed) < enough {
            self.uses.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Answer {
    /// The answer from an entry that is whole: a small file has to have been read.
    fn of(entry: &Arc<Entry>, now: u64) -> Option<Answer> {
        let content = match (entry.found, entry.bytes.get()) {
            (Err(_), _) => Content::None,
            (Ok(stat), _) if stat.kind != Kind::File => Content::None,
            // The same bytes, whose users this worker counts where no other does.
            (Ok(_), Some(kept)) => Content::Bytes(Bytes::from_owner(kept.bytes.clone())),
            (Ok(stat), None) if stat.size > SMALL => Content::File(entry.file.lock().clone()?),
            (Ok(_), None) => return None,
        };
        Some(Answer { entry: entry.clone(), found: entry.found, content, texts: None, touched: now })
    }

    /// What is answered; `None` when the entry is not believed.
    fn give(&mut self, want: Want, policy: Policy, now: u64) -> Option<Result<Found, Stop>> {
        if !self.entry.is_believed(policy, now) {
            return None;
        }
        self.entry.use_once(policy.min_uses);
        let stat = match self.found {
            Ok(stat) => stat,
            Err(failure) => return Some(Err(Stop::Failed(failure))),
        };
        let file = stat.kind == Kind::File && want == Want::Content;
        let texts = file.then(|| self.texts.get_or_insert_with(|| Arc::new(Texts::of(&stat))).clone());
        let content = if want == Want::Stat { Content::None } else { self.content.clone() };
        Some(Ok(Found { stat, content, texts }))
    }

    /// See [`bytes_now`].
    fn bytes(&self, policy: Policy, now: u64, same: impl Fn(&Stat) -> bool) -> Option<Bytes> {
        let (Ok(stat), Content::Bytes(bytes)) = (&self.found, &self.content) else { return None };
        if !same(stat) || !self.entry.is_believed(policy, now) {
            return None;
        }
        self.entry.use_once(policy.min_uses);
        Some(bytes.clone())
    }
}

#[cfg(test)]
mod tests;
