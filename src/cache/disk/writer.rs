//! What waits to be written, and the thread that writes it.
//!
//! Whoever keeps an entry does not wait. What waits is bounded in bytes; what finds no room there is
//! in memory alone. Of one entry only the newest state waits; that of a small one which is soon out of date, as
//! playlists are, waits until no newer one has come for a while: it would be written for nothing.

use super::Disk;
use super::clock::Clock;
use super::description;
use super::draft::Writing;
use super::format::{self, Sums, Tail};
use super::names::Name;
use crate::cache::entry::{Entry, EntryBody};
use crate::cache::key::Key;
use bytes::BytesMut;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What is to be done with a file.
#[derive(Clone, Debug)]
pub enum Act {
    /// It gets this content.
    Store(Arc<Entry>),
    /// Its body is what it was, the rest is this entry's.
    Describe(Arc<Entry>),
    /// It goes.
    Remove,
}

struct Job {
    key: Key,
    act: Act,
    /// When that was asked for.
    clock: Clock,
    bytes: u64,
    /// Not to be done before, unless the process ends.
    due: Option<Instant>,
    /// Whether what it replaces was to be removed.
    replaces: bool,
}

/// What is out of date after so long, and takes no more bytes, is not written at once.
const SHORT: Duration = Duration::from_secs(10);
const SMALL: u64 = 64 * 1024;

/// How long something waits beside its time to be fresh: another is fetched when somebody asks.
const ASKED: Duration = Duration::from_secs(1);

/// What waits to be written.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// There is something to do, or nothing ever again.
    work: Condvar,
    /// There is nothing left to do.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Name, Job>,
    /// The names, in the order in which they came; perhaps of some that wait no longer.
    order: VecDeque<Name>,
    /// Those that are not to be done yet.
    later: BTreeSet<(Instant, Name)>,
    bytes: u64,
    /// What is being written.
    current: Option<Current>,
    closed: bool,
    stopped: bool,
}

struct Current {
    key: Key,
    name: Name,
    act: Act,
    replaces: bool,
    /// Whether it is still to be written.
    wanted: bool,
}

/// Bytes that a job takes beside its entry.
const JOB: u64 = 256;

/// Jobs that are looked at under one lock.
const LOOKED_AT: usize = 64;

impl Queue {
    /// Has something done, unless that makes more than `most` bytes wait; false then.
    pub fn push(&self, key: &Key, act: Act, most: u64) -> bool {
        self.push_in(key, act, most, true)
    }

    /// As [`Self::push`], and it does not wait for a newer one.
    pub fn push_now(&self, key: &Key, act: Act, most: u64) -> bool {
        self.push_in(key, act, most, false)
    }

    fn push_in(&self, key: &Key, act: Act, most: u64, may_wait: bool) -> bool {
        let name = key.name();
        let bytes = JOB
            + match &act {
                Act::Store(entry) | Act::Describe(entry) => entry.weight(),
                Act::Remove => 0,
            };
        let mut state = self.state.lock();
        // What was to go must not be there again if the process falls before its successor is written.
        let was_to_go = state.is_to_go(&name);
        // What it was to become is no longer true, in any case.
        let before = state.cancel(&name);
        if state.closed || state.bytes + bytes > most {
            return false;
        }
        let act = match (act, before) {
            // The file with the body has yet to be written.
            (Act::Describe(entry), Some(Act::Store(_))) => Act::Store(entry),
            (act, _) => act,
        };
        // With much waiting already nothing waits for longer than it must.
        let may_wait = may_wait && !was_to_go && state.bytes + bytes <= most / 2;
        let due = if may_wait { due(&act) } else { None };
        state.bytes += bytes;
        let job = Job { key: key.clone(), act, clock: Clock::now(), bytes, due, replaces: was_to_go };
        state.waiting.insert(name, job);
        match due {
            Some(due) => {
                // The thread wakes for the first only.
                let first = state.later.first().is_none_or(|(first, _)| due < *first);
                state.later.insert((due, name));
                if !first {
                    return true;
                }
            }
            None => state.order.push_back(name),
        }
        state.compact();
        drop(state);
        self.work.notify_one();
        true
    }

    /// What is to become of the entry under this key, where that waits or is being done.
    pub fn find(&self, key: &Key) -> Option<Act> {
        let name = key.name();
        let state = self.state.lock();
        let current = state.current.as_ref().filter(|current| current.name == name && current.wanted);
        let (of, act) = match (state.waiting.get(&name), current) {
            (Some(job), _) => (&job.key, &job.act),
            (None, current) => current.map(|current| (&current.key, &current.act))?,
        };
        (of.text == key.text && of.variant == key.variant).then(|| act.clone())
    }

    /// What waits for this name is not done, and what is being done comes to nothing; whether that was an entry.
    pub fn cancel(&self, name: &Name) -> bool {
        let is_entry = |act: &Act| !matches!(act, Act::Remove);
        let mut state = self.state.lock();
        let current = state.current.as_ref().filter(|current| current.name == *name && current.wanted);
        let written = current.is_some_and(|current| is_entry(&current.act));
        state.cancel(name).is_some_and(|act| is_entry(&act)) || written
    }

    /// As [`Self::cancel`] for all entries that are `meant`; how many were waiting.
    pub fn cancel_if(&self, meant: &mut dyn FnMut(&Entry) -> bool) -> u64 {
        let mut of = |act: &Act| match act {
            Act::Store(entry) | Act::Describe(entry) => meant(entry),
            Act::Remove => false,
        };
        let names: Vec<Name> = self.state.lock().waiting.keys().copied().collect();
        let mut cancelled = 0;
        // In parts: workers wait for the lock. What is meant is looked at while it waits, or while it is
        // being done, or is done when this returns.
        for names in names.chunks(LOOKED_AT).chain([&[][..]]) {
            let mut state = self.state.lock();
            if let Some(current) = &mut state.current {
                current.wanted = current.wanted && !of(&current.act);
            }
            for name in names {
                if state.waiting.get(name).is_some_and(|job| of(&job.act)) {
                    state.withdraw(name);
                    cancelled += 1;
                }
            }
        }
        cancelled
    }

    /// The names of what is to be removed and may still be there.
    pub fn removals(&self) -> Vec<Name> {
        let state = self.state.lock();
        let current = state.current.iter().map(|current| (&current.name, &current.act, current.replaces));
        let waiting = state.waiting.iter().map(|(name, job)| (name, &job.act, job.replaces));
        let removes = |act: &Act, replaces: bool| replaces || matches!(act, Act::Remove);
        waiting.chain(current).filter(|(_, act, own)| removes(act, *own)).map(|(name, ..)| *name).collect()
    }

    /// Whether what is being written to this name is still to be.
    fn is_wanted(&self, name: &Name) -> bool {
        self.state.lock().current.as_ref().is_some_and(|current| current.name == *name && current.wanted)
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// The thread is to end.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.work.notify_all();
        self.idle.notify_all();
    }

    /// Takes nothing more, and waits until everything is written, at most until `until`.
    pub fn drain(&self, until: Instant) {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_all();
        while !state.stopped && (state.current.is_some() || !state.waiting.is_empty()) {
            if self.idle.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// The next thing to do; waits for it. `None`: the thread is to end.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            state.current = None;
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            state.ripen(now);
            while let Some(name) = state.order.pop_front() {
                let closed = state.closed;
                let is_due = |job: &Job| closed || job.due.is_none_or(|due| due <= now);
                if state.waiting.get(&name).is_some_and(is_due)
                    && let Some(job) = state.waiting.remove(&name)
                {
                    state.bytes -= job.bytes;
                    let (key, act) = (job.key.clone(), job.act.clone());
                    let replaces = job.replaces;
                    state.current = Some(Current { key, name, act, replaces, wanted: true });
                    return Some(job);
                }
            }
            self.idle.notify_all();
            match state.later.first().map(|(due, _)| *due) {
                Some(due) => drop(self.work.wait_until(&mut state, due)),
                None => self.work.wait(&mut state),
            }
        }
    }
}

/// When something is to be done, if not at once.
fn due(act: &Act) -> Option<Instant> {
    let (Act::Store(entry) | Act::Describe(entry)) = act else { return None };
    let now = tokio::time::Instant::now();
    let fresh = entry.times.fresh_until.saturating_duration_since(now);
    let waits = !fresh.is_zero() && fresh <= SHORT && entry.weight() <= SMALL;
    waits.then(|| Instant::now() + 2 * fresh + ASKED)
}

impl State {
    /// What is due is to be done in its turn.
    fn ripen(&mut self, now: Instant) {
        while let Some((due, name)) = self.later.first().copied()
            && (due <= now || self.closed)
        {
            self.later.pop_first();
            self.order.push_back(name);
        }
    }

    /// Drops names that do not wait any more, where they are more than those that do: one may be asked
    /// for again and again while the disk stands still.
    fn compact(&mut self) {
        if self.order.len() > 2 * self.waiting.len() + 64 {
            let mut seen = HashSet::with_capacity(self.waiting.len());
            let waiting = &self.waiting;
            self.order.retain(|name| waiting.contains_key(name) && seen.insert(*name));
        }
    }

    /// Whether a file of this name is to be removed, or took another's removal upon itself, and is still there.
    fn is_to_go(&self, name: &Name) -> bool {
        let current = self.current.as_ref().filter(|current| current.name == *name && current.wanted);
        let act = self.waiting.get(name).map(|job| (&job.act, job.replaces));
        let act = act.or(current.map(|current| (&current.act, current.replaces)));
        act.is_some_and(|(act, replaces)| replaces || matches!(act, Act::Remove))
    }

    /// As [`Self::cancel`]; what was to be removed before it came still is.
    fn withdraw(&mut self, name: &Name) {
        match self.waiting.get_mut(name).filter(|job| job.replaces) {
            Some(job) => {
                self.bytes -= job.bytes - JOB;
                (job.act, job.bytes) = (Act::Remove, JOB);
            }
            None => _ = self.cancel(name),
        }
    }

    fn cancel(&mut self, name: &Name) -> Option<Act> {
        if let Some(current) = self.current.as_mut().filter(|current| current.name == *name) {
            current.wanted = false;
        }
        let job = self.waiting.remove(name)?;
        self.bytes -= job.bytes;
        if let Some(due) = job.due {
            // It may have become due since.
            self.later.remove(&(due, *name));
        }
        if self.waiting.is_empty() {
            self.order.clear();
        }
        Some(job.act)
    }
}

/// Writes until the disk is no longer needed.
pub fn run(disk: &Weak<Disk>, queue: &Queue) {
    while let Some(job) = queue.next() {
        let Some(disk) = disk.upgrade() else { return };
        let name = job.key.name();
        let done = match &job.act {
            // A new file may have come in between.
            Act::Remove => {
                disk.remove_wanted(&name, |_| queue.is_wanted(&name));
                Ok(())
            }
            _ if !disk.may_write() => Err(ErrorKind::Unsupported.into()),
            Act::Store(entry) => store(&disk, &job, entry, || queue.is_wanted(&name)),
            Act::Describe(entry) => describe(&disk, &job, entry, || queue.is_wanted(&name)),
        };
        match done {
            Err(e) if e.kind() != ErrorKind::Interrupted => {
                disk.counters.disk.dropped.inc();
                // What is there is not the newest any more.
                disk.remove_wanted(&name, |_| queue.is_wanted(&name));
            }
            _ => {}
        }
    }
}

fn store(disk: &Arc<Disk>, job: &Job, entry: &Entry, wanted: impl Fn() -> bool) -> Result<()> {
    let mut writing = Writing::new(disk, job.key.name())?;
    match &entry.body {
        EntryBody::Memory(pieces) => writing.append(pieces)?,
        EntryBody::File(blocks) => {
            let mut at = 0;
            while at < blocks.length() {
                let mut block = BytesMut::new();
                blocks.block(at, &mut block).map_err(|_| ErrorKind::InvalidData)?;
                at += block.len() as u64;
                writing.append(&[block.freeze()])?;
            }
        }
    }
    disk.publish(writing.seal(entry, job.key.variant, &job.clock)?, &job.key, wanted).map(drop)
}

/// A file may hold so many bytes of descriptions that count no more, or an eighth of its body: then it
/// is written anew.
const DEAD: u64 = 16 * 1024;

/// Appends another description to the file, if that has this entry's body.
fn describe(disk: &Arc<Disk>, job: &Job, entry: &Entry, wanted: impl Fn() -> bool) -> Result<()> {
    let name = job.key.name();
    let path = disk.settings().place.path_of(&name);
    let locked = disk.stripe(&name);
    if !wanted() {
        return Ok(());
    }
    let file = match File::options().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(_) => {
            drop(locked);
            // It was removed, or never written; only what is in memory is worth to be written again.
            return if entry.holds_file() { Ok(()) } else { store(disk, job, entry, wanted) };
        }
    };
    let size = file.metadata()?.len();
    let described = description::encode(entry, job.key.variant, &job.clock).ok_or(ErrorKind::FileTooLarge)?;
    match same_body(&file, size, entry) {
        Some(tail) if size - tail.body <= DEAD + tail.sums_size() + tail.body / 8 => {
            let tail = Tail {
                // A description is bounded far below.
                description: described.len() as u32,
                description_crc: crc32fast::hash(&described),
                ..tail
            };
            let end = [&described[..], &tail.encode()].concat();
            if let Err(e) = file.write_all_at(&end, size) {
                // What it was is still there.
                let _ = file.set_len(size);
                return Err(disk.failed("pwrite()", &path, e));
            }
            let blocks = disk.blocks_of(size + end.len() as u64);
            disk.index.lock().put(name, blocks, job.key.hash, Instant::now());
            disk.counters.disk.writes.inc();
            Ok(())
        }
        // Too many descriptions, or another body.
        tail => {
            drop(locked);
            if tail.is_none() && entry.holds_file() { Ok(()) } else { store(disk, job, entry, wanted) }
        }
    }
}

/// The tail of the file, if its body is this entry's.
fn same_body(file: &File, size: u64, entry: &Entry) -> Option<Tail> {
    let tail = format::read_tail(file, size).ok().filter(|tail| tail.body == entry.length)?;
    let there = format::read_sums(file, &tail).ok()?;
    let same = match &entry.body {
        EntryBody::Memory(pieces) => there == Sums::of(pieces),
        EntryBody::File(blocks) => *there == *blocks.sums(),
    };
    same.then_some(tail)
}

/// How long a process that ends waits for what is not written yet.
pub const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::super::tests::{entry, key, pattern};
    use super::*;
    use crate::cache::entry::Times;
    use crate::cache::freshness::Lifetime;

    const MOST: u64 = 1 << 20;

    #[test]
    fn names_that_wait_no_more_are_bounded_while_the_disk_stands_still() {
        let queue = Queue::default();
        queue.push(&key("/first"), Act::Remove, MOST);
        for _ in 0..10_000 {
            assert!(queue.push(&key("/again"), Act::Remove, MOST));
        }
        assert!(queue.state.lock().order.len() <= 2 * 2 + 65);
        let mut left = 0;
        while !queue.state.lock().waiting.is_empty() {
            left += usize::from(queue.next().is_some());
        }
        assert_eq!(left, 2);
    }

    #[test]
    fn what_is_being_written_is_found_until_it_is_not_wanted() {
        let queue = Queue::default();
        let key = key("/a");
        queue.push(&key, Act::Store(Arc::new(entry(&key, pattern(10)))), MOST);
        assert!(queue.next().is_some());
        assert!(matches!(queue.find(&key), Some(Act::Store(entry)) if entry.length == 10));
        assert!(queue.find(&key.variant(1)).is_none());
        queue.cancel(&key.name());
        assert!(queue.find(&key).is_none());
    }

    /// An entry that is fresh for so long.
    fn fresh(key: &Key, length: usize, fresh: Duration) -> Act {
        let mut entry = entry(key, pattern(length));
        let lifetime = Lifetime { fresh, ..Lifetime::default() };
        entry.times = Times::new(tokio::time::Instant::now(), lifetime);
        Act::Store(Arc::new(entry))
    }

    #[test]
    fn what_is_soon_out_of_date_waits_for_the_next() {
        let queue = Queue::default();
        let (playlist, segment, large) = (key("/playlist"), key("/segment"), key("/large"));
        for _ in 0..3 {
            assert!(queue.push(&playlist, fresh(&playlist, 10, SHORT), MOST));
        }
        assert!(queue.push(&segment, fresh(&segment, 10, 2 * SHORT), MOST));
        assert!(queue.push(&large, fresh(&large, 100_000, SHORT), MOST));
        let next = || queue.next().map(|job| job.key.text.clone());
        assert_eq!([next(), next()], [Some(segment.text), Some(large.text)]);
        assert!(queue.find(&playlist).is_some());
        let state = queue.state.lock();
        assert_eq!((state.waiting.len(), state.later.len(), state.order.len()), (1, 1, 0));
        drop(state);
        // The process ends.
        queue.state.lock().closed = true;
        assert_eq!(queue.next().map(|job| job.key.text), Some(playlist.text));
        let state = queue.state.lock();
        assert_eq!((state.waiting.len(), state.later.len(), state.bytes), (0, 0, 0));
    }

    #[test]
    fn what_waits_longer_is_written_when_nothing_newer_comes() {
        let queue = Queue::default();
        let key = key("/playlist");
        assert!(queue.push(&key, fresh(&key, 10, Duration::from_millis(1)), MOST));
        let begun = Instant::now();
        assert!(queue.next().is_some());
        assert!(begun.elapsed() >= ASKED);
    }

    #[test]
    fn with_much_waiting_nothing_waits_longer_and_what_is_cancelled_not_at_all() {
        let queue = Queue::default();
        let (first, second) = (key("/first"), key("/second"));
        assert!(queue.push(&first, fresh(&first, 10, SHORT), MOST));
        queue.cancel(&first.name());
        assert!(queue.state.lock().later.is_empty());
        assert!(queue.push(&second, fresh(&second, 1000, SHORT), 3000));
        assert_eq!(queue.next().map(|job| job.key.text), Some(second.text));
    }

    #[test]
    fn what_takes_the_place_of_what_was_to_go_is_written_at_once() {
        let queue = Queue::default();
        let key = key("/playlist");
        let short = || fresh(&key, 10, SHORT);
        let waits = |queue: &Queue| queue.state.lock().waiting[&key.name()].due.is_some();
        assert!(queue.push(&key, Act::Remove, MOST));
        for _ in 0..2 {
            assert!(queue.push(&key, short(), MOST));
            assert!(!waits(&queue));
        }
        // A purge of it is none of the purge before.
        assert_eq!(queue.removals(), [key.name()]);
        assert_eq!(queue.cancel_if(&mut |_| true), 1);
        assert!(matches!(queue.find(&key), Some(Act::Remove)));
        assert_eq!((queue.bytes(), queue.removals()), (JOB, vec![key.name()]));
        assert!(queue.push(&key, short(), MOST));
        assert!(queue.next().is_some());
        // While it is being written.
        assert!(queue.push(&key, short(), MOST));
        assert!(!waits(&queue));
        assert!(queue.next().is_some());
        queue.state.lock().current = None;
        assert!(queue.push(&key, short(), MOST));
        assert!(waits(&queue));
        assert!(queue.cancel(&key.name()) && !queue.cancel(&key.name()));
    }

    #[test]
    fn a_sweep_looks_at_all_that_waits_and_at_what_is_being_written() {
        let queue = Queue::default();
        for n in 0..3 * LOOKED_AT {
            let key = key(&format!("/{n}"));
            queue.push(&key, Act::Store(Arc::new(entry(&key, pattern(1)))), MOST);
        }
        assert!(queue.next().is_some());
        assert_eq!(queue.cancel_if(&mut |_| true), 3 * LOOKED_AT as u64 - 1);
        let state = queue.state.lock();
        assert!(state.waiting.is_empty() && state.current.as_ref().is_some_and(|current| !current.wanted));
    }
}
