//! Purging: what is kept under a key, under all keys that begin alike, or with a tag, goes at once.
//!
//! *At once* means: no request that comes after a purge is done gets what was fetched before it. A hit
//! pays nothing for that, because a purge is done only when every store was swept. What is neither
//! kept nor gone yet, an answer on its way, carries a [`Ticket`]: whoever puts something into a store
//! does so by [`Ticket::unless_purged`], and a purge marks every one that it means. Of an answer
//! whose head is still to come the tags are not known; such purges stay among the [`Rules`] until
//! the last head is there that was asked for before them.
//!
//! Purges that wait at the same time are carried out together, by one sweep, on a thread that may
//! take its time. Those of keys need none and do not wait for it.

mod rules;
pub mod tags;

pub use rules::{Kind, What};

use super::counters::{Counters, DiskEviction, Eviction};
use super::disk::Disk;
use super::entry::Entry;
use super::key::{HEAD, Key};
use super::store::Store;
use super::vary::Vary;
use crate::http::response::Fields;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rules::Rules;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::oneshot;

/// Bytes that the purges of a zone that are not worked off may take.
const MOST_BYTES: usize = 4 << 20;

/// Purges that may wait for the one under way.
const MOST_WAITING: usize = 4096;

/// Purges carried out by one sweep.
const BATCH: usize = 64;

/// The purges of a zone. They outlive a change of its size.
pub struct Purges {
    /// Grows when a purge begins and when it ends.
    changes: AtomicU64,
    /// Taken for writing by a purge for a moment; for reading by whoever puts something into memory.
    rules: RwLock<Rules>,
    under_way: Mutex<UnderWay>,
    /// How many rules there are.
    pending: AtomicUsize,
    /// The last purge for which all stores were swept.
    swept: AtomicU64,
    /// What this process gave no number up to.
    base: u64,
    store: Arc<Store>,
    disk: Option<Arc<Disk>>,
    counters: Arc<Counters>,
    /// By [`Lane`].
    queues: [Mutex<Queue>; 2],
}

/// Purges are carried out one after the other in each of these.
#[derive(Clone, Copy)]
enum Lane {
    /// What is found by its key.
    Keys,
    /// What everything has to be looked at for.
    Sweeps,
}

/// What has been asked for and is not kept yet.
#[derive(Default)]
struct UnderWay {
    /// The last number given, to a fill or to a purge.
    last: u64,
    marks: HashMap<u64, Arc<Mark>>,
    /// Those whose head is not there.
    headless: BTreeSet<u64>,
    /// Up to which numbers the rules of wildcards and of tags were dropped.
    retired: (u64, u64),
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whether somebody carries purges out.
    working: bool,
}

struct Waiting {
    what: What,
    done: oneshot::Sender<Result<u64, Refused>>,
}

/// Why a purge was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many are not worked off yet.
    TooMany,
    /// The process is ending.
    Interrupted,
}

/// Whether an answer on its way was purged.
#[derive(Debug, Default)]
pub struct Mark {
    text: Bytes,
    purged: AtomicBool,
    /// Its tags, once its head is there.
    tags: OnceLock<Box<[Bytes]>>,
}

impl Mark {
    /// The mark of what is under way for the key with this text.
    pub fn new(text: Bytes) -> Arc<Mark> {
        Arc::new(Mark { text, ..Mark::default() })
    }

    /// Whether it was purged: nobody else is to read it, and it is not kept.
    pub fn is_purged(&self) -> bool {
        self.purged.load(Ordering::SeqCst)
    }

    fn purge_if_meant(&self, what: &What) {
        let by_tag = || self.tags.get().is_some_and(|tags| tags.iter().any(|tag| what.has_tag(tag)));
        if what.names(&self.text).unwrap_or_else(by_tag) {
            self.purged.store(true, Ordering::SeqCst);
        }
    }
}

/// Something under way, as long as this is held.
pub struct Ticket {
    purges: Arc<Purges>,
    sequence: u64,
    mark: Arc<Mark>,
}

impl Ticket {
    /// Its number; later purges have higher ones.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The head is there, with these fields.
    pub fn opened(&self, fields: &Fields) {
        let rules = self.purges.rules.read();
        // A purge that comes later finds the tags; one that came before is among the rules.
        let tags = self.mark.tags.get_or_init(|| tags::of(fields).map(Bytes::copy_from_slice).collect());
        if rules.ban(&self.mark.text, tags.iter().map(|tag| &tag[..]), self.sequence) {
            self.mark.purged.store(true, Ordering::SeqCst);
        }
        self.purges.under_way.lock().headless.remove(&self.sequence);
        drop(rules);
        self.purges.retire();
    }

    /// This entry was found on disk. Whether it was not purged.
    pub fn found(&self, entry: &Entry) -> bool {
        self.opened(&entry.fields);
        let rules = self.purges.rules.read();
        !self.mark.is_purged() && !rules.ban(&entry.key, tags::of(&entry.fields), entry.meta.sequence)
    }

    /// Puts something into memory, unless it was purged.
    pub fn unless_purged<T>(&self, put: impl FnOnce() -> T) -> Option<T> {
        let _rules = self.purges.rules.read();
        (!self.mark.is_purged()).then(put)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut under_way = self.purges.under_way.lock();
        under_way.marks.remove(&self.sequence);
        under_way.headless.remove(&self.sequence);
        drop(under_way);
        self.purges.retire();
    }
}

impl Purges {
    /// The purges of these; the first number is above `base`.
    pub fn new(base: u64, store: Arc<Store>, disk: Option<Arc<Disk>>, counters: Arc<Counters>) -> Purges {
        Purges {
            base,
            store,
            disk,
            counters,
            changes: AtomicU64::new(0),
            rules: RwLock::default(),
            under_way: Mutex::new(UnderWay { last: base, ..UnderWay::default() }),
            pending: AtomicUsize::new(0),
            swept: AtomicU64::new(base),
            queues: Default::default(),
        }
    }

    /// Changes when a purge begins or ends. Who looks something up, and keeps what comes of it, takes
    /// this first and asks [`Self::stands`] when it holds a [`Ticket`].
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Whether an entry found after `changes` was as they are given was not purged since.
    pub fn stands(&self, changes: u64, entry: &Entry) -> bool {
        let rules = self.rules.read();
        self.changes() == changes && !rules.ban(&entry.key, tags::of(&entry.fields), entry.meta.sequence)
    }

    /// Something is about to be asked for.
    pub fn ticket(self: &Arc<Purges>, mark: &Arc<Mark>) -> Ticket {
        let mut under_way = self.under_way.lock();
        under_way.last += 1;
        let sequence = under_way.last;
        under_way.marks.insert(sequence, mark.clone());
        under_way.headless.insert(sequence);
        drop(under_way);
        Ticket { purges: self.clone(), sequence, mark: mark.clone() }
    }

    /// The number of an entry that was on disk. Where the clock was set back since then it may be one that
    /// is still to come; what is purged from now on purges it too.
    pub fn number_of(&self, sequence: u64) -> u64 {
        if sequence > self.last() { self.base } else { sequence }
    }

    /// The last number given.
    pub fn last(&self) -> u64 {
        self.under_way.lock().last
    }

    /// Rules that are not worked off.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Removes what is meant from every store. How many entries went; when this is known, nobody gets
    /// any of them any more. Goes on when the asker leaves.
    pub async fn purge(self: &Arc<Purges>, what: What) -> Result<u64, Refused> {
        let (done, removed) = oneshot::channel();
        let lane = match what {
            What::Key(_) => Lane::Keys,
            What::Prefix(_) | What::Tags(_) => Lane::Sweeps,
        };
        if self.enqueue(lane, Waiting { what, done })? {
            let working = Working(self.clone(), lane);
            tokio::task::spawn_blocking(move || working.0.work(lane));
        }
        removed.await.unwrap_or(Err(Refused::Interrupted))
    }

    /// Whether somebody has to begin to work.
    fn enqueue(&self, lane: Lane, waiting: Waiting) -> Result<bool, Refused> {
        let mut queue = self.queues[lane as usize].lock();
        if queue.waiting.len() >= MOST_WAITING {
            return Err(Refused::TooMany);
        }
        queue.waiting.push(waiting);
        Ok(!std::mem::replace(&mut queue.working, true))
    }

    /// Carries out what waits, and what comes meanwhile.
    fn work(&self, lane: Lane) {
        loop {
            let mut queue = self.queues[lane as usize].lock();
            let batch = queue.waiting.len().min(BATCH);
            if batch == 0 {
                queue.working = false;
                return;
            }
            let batch: Vec<Waiting> = queue.waiting.drain(..batch).collect();
            drop(queue);
            self.carry_out(lane, batch);
        }
    }

    fn carry_out(&self, lane: Lane, batch: Vec<Waiting>) {
        let mut begun = Vec::with_capacity(batch.len());
        for waiting in batch {
            match self.begin(&waiting.what) {
                Ok(sequence) => begun.push((waiting, sequence, 0)),
                // Who asked may have left.
                Err(refused) => drop(waiting.done.send(Err(refused))),
            }
        }
        match lane {
            Lane::Keys => begun.iter_mut().for_each(|(waiting, _, removed)| {
                *removed = waiting.what.texts().iter().map(|text| self.remove(text)).sum();
            }),
            Lane::Sweeps => self.sweep(&mut begun),
        }
        if let Some((_, last, _)) = begun.last() {
            let mut rules = self.rules.write();
            match lane {
                Lane::Keys => rules.drop_keys(*last),
                Lane::Sweeps => self.swept.store(*last, Ordering::SeqCst),
            }
            self.pending.store(rules.len(), Ordering::SeqCst);
            self.changes.fetch_add(1, Ordering::SeqCst);
            drop(rules);
            self.retire();
        }
        for (waiting, _, removed) in begun {
            self.counters.purge(waiting.what.kind());
            // Who asked may have left.
            let _ = waiting.done.send(Ok(removed));
        }
    }

    /// Looks at everything there is, and removes what is meant.
    fn sweep(&self, begun: &mut [(Waiting, u64, u64)]) {
        // What is in memory and on disk is one entry to whoever asks how many went.
        let mut counted = HashSet::new();
        let of = |entry: &Entry| (entry.key.clone(), entry.vary.as_ref().map(Vary::variant));
        self.store.each(|hash, entry| {
            let meant = |(waiting, sequence, _): &&mut (Waiting, u64, u64)| {
                entry.meta.sequence < *sequence && waiting.what.means(&entry.key, &entry.fields)
            };
            if let Some((_, _, removed)) = begun.iter_mut().find(meant) {
                let taken = self.take(hash);
                *removed += u64::from(taken);
                if taken && self.disk.is_some() {
                    counted.insert(of(entry));
                }
            }
        });
        // Meanwhile the rules hold for what is read from there.
        if let Some(disk) = &self.disk {
            let gone = disk.sweep(&mut |entry| {
                let number = self.number_of(entry.meta.sequence);
                let meant = |(waiting, sequence, _): &&mut (Waiting, u64, u64)| {
                    number < *sequence && waiting.what.means(&entry.key, &entry.fields)
                };
                let Some((_, _, removed)) = begun.iter_mut().find(meant) else { return false };
                *removed += u64::from(!counted.contains(&of(entry)));
                true
            });
            (0..gone).for_each(|_| self.counters.disk.eviction(DiskEviction::Purged));
        }
    }

    /// Removes what is kept under the key with this text and under that of the answer to HEAD. How many
    /// of the two there were. Variants are found by the main entry alone, and the next one does not
    /// know those from before it.
    fn remove(&self, text: &Bytes) -> u64 {
        let one = |key: &&Key| {
            let in_memory = self.store.get(key).is_some() && self.take(key.hash);
            let on_disk = self.disk.as_ref().is_some_and(|disk| disk.remove(key));
            if on_disk {
                self.counters.disk.eviction(DiskEviction::Purged);
            }
            in_memory || on_disk
        };
        with_head(text).iter().filter(one).count() as u64
    }

    /// Takes the entry with this hash out of memory; whether there was one.
    fn take(&self, hash: u128) -> bool {
        let taken = self.store.remove(hash).is_some();
        if taken {
            self.counters.eviction(Eviction::Purged);
        }
        taken
    }

    /// Nothing that was asked for before the returned number, and is meant, is kept from here on.
    fn begin(&self, what: &What) -> Result<u64, Refused> {
        let mut rules = self.rules.write();
        if rules.bytes_with(what) > MOST_BYTES {
            return Err(Refused::TooMany);
        }
        let mut under_way = self.under_way.lock();
        under_way.last += 1;
        let sequence = under_way.last;
        rules.add(what, sequence);
        for mark in under_way.marks.values() {
            mark.purge_if_meant(what);
        }
        self.pending.store(rules.len(), Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
        Ok(sequence)
    }

    /// Drops the rules that nothing can fall under any more.
    fn retire(&self) {
        if self.pending() == 0 {
            return;
        }
        let until = |under_way: &UnderWay| {
            let swept = self.swept.load(Ordering::SeqCst);
            (swept, swept.min(under_way.headless.first().copied().unwrap_or(u64::MAX)))
        };
        let under_way = self.under_way.lock();
        if under_way.retired == until(&under_way) {
            return;
        }
        drop(under_way);
        let mut rules = self.rules.write();
        let mut under_way = self.under_way.lock();
        under_way.retired = until(&under_way);
        let (wildcards, tags) = under_way.retired;
        drop(under_way);
        rules.drop_lasting(wildcards, tags);
        self.pending.store(rules.len(), Ordering::SeqCst);
    }
}

/// The keys with this text and of the answer to HEAD.
pub fn with_head(text: &Bytes) -> [Key; 2] {
    [Key::new(text.clone()), Key::new([text, HEAD].concat().into())]
}

/// The thread that carries purges out. If it falls, those who wait are told, and the next begins anew.
struct Working(Arc<Purges>, Lane);

impl Drop for Working {
    fn drop(&mut self) {
        let mut queue = self.0.queues[self.1 as usize].lock();
        // After an ordinary end another may be at work already.
        if std::thread::panicking() {
            queue.working = false;
            queue.waiting.clear();
        }
    }
}
