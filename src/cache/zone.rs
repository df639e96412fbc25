//! A cache zone: the store of what is whole, the table of what grows, and what is known of keys that
//! have neither.

use super::counters::Counters;
use super::disk::blocks::too_many_open;
use super::disk::clock::Clock;
use super::disk::writer::Act;
use super::disk::{Disk, Draft, Settings};
use super::entry::{Entry, EntryBody};
use super::fill::{Fill, Reader};
use super::key::{AsIs, Key};
use super::purge::{Mark, Purges, Refused, What, with_head};
use super::store::Store;
use super::streams::{Purge, Streams};
use super::variants::Variants;
use crate::http::date;
use crate::http::head::Head;
use moka::sync::Cache;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long it is remembered that answers for a key are not kept, unless one is kept meanwhile.
const APART: Duration = Duration::from_secs(5);

/// Bytes of `keys_zone` that one key takes in nginx, about; how many keys are remembered that have
/// no entry follows from it.
const KEY_SIZE: u64 = 128;

/// What makes a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: Arc<str>,
    /// Bytes its entries may take.
    pub bound: u64,
    /// Bytes of the largest body that is kept in memory.
    pub largest: u64,
    /// Entries not used for so long go.
    pub inactive: Duration,
    /// The size of `keys_zone` in bytes.
    pub keys: u64,
}

/// A zone.
pub struct Zone {
    /// What made it.
    pub spec: Spec,
    /// The entries.
    pub store: Arc<Store>,
    /// What is purged of it, and the numbers of its fills.
    pub purges: Arc<Purges>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Its files; `None` where it is in memory alone.
    pub disk: Option<Arc<Disk>>,
    /// Keys that are being looked for on disk.
    recalls: Mutex<HashMap<u128, watch::Receiver<Recalled>, AsIs>>,
    /// The live streams it knows.
    pub streams: Arc<Streams>,
    fills: Mutex<HashMap<u128, Arc<Fill>, AsIs>>,
    /// Requests by key, for `proxy_cache_min_uses`.
    uses: Cache<u128, Arc<AtomicU32>, AsIs>,
    /// Keys whose last answer was not kept: requests for them do not wait for each other.
    apart: Cache<u128, (), AsIs>,
    variants: Arc<Variants>,
    growing: AtomicU64,
}

/// What a request for a key finds.
pub struct Found {
    /// The key of the variant that suits the request.
    pub slot: Key,
    /// What is kept under it, fresh or stale.
    pub entry: Option<Arc<Entry>>,
    /// Whether it was on disk only.
    pub recalled: bool,
    /// The family of the main entry that is kept under the key (see [`super::entry::Meta::family`]).
    pub family: u64,
}

/// What came of looking for a key on disk; `None` until that is known.
type Recalled = Option<Option<Arc<Entry>>>;

/// What came of the wish to start a fill.
pub enum Begun {
    /// It is the request's to drive on.
    Started(Arc<Fill>),
    /// Another drives one; this reads it.
    Joined(Reader),
    /// What is kept has changed; look again.
    Changed,
}

impl Zone {
    /// An empty zone in memory.
    pub fn new(spec: Spec) -> Zone {
        Zone::with_disk(spec, Arc::default(), None)
    }

    /// A zone with nothing in memory yet and the files that its disk finds.
    pub fn on_disk(spec: Spec, settings: Settings) -> Zone {
        let counters = Arc::<Counters>::default();
        let disk = Disk::new(spec.name.clone(), settings, counters.clone());
        Zone::with_disk(spec, counters, Some(disk))
    }

    /// A zone with nothing in memory yet and the files of this disk.
    pub fn with_disk(spec: Spec, counters: Arc<Counters>, disk: Option<Arc<Disk>>) -> Zone {
        let store = Arc::new(Store::new(spec.bound, &counters));
        // Larger than those before a restart: what was purged then does not come back either.
        let base = date::since_epoch().as_micros().try_into().unwrap_or(0);
        let purges = Arc::new(Purges::new(base, store.clone(), disk.clone(), counters.clone()));
        Zone::with(spec, counters, store, purges, disk)
    }

    fn with(
        spec: Spec,
        counters: Arc<Counters>,
        store: Arc<Store>,
        purges: Arc<Purges>,
        disk: Option<Arc<Disk>>,
    ) -> Zone {
        let keys = (spec.keys / KEY_SIZE).max(1);
        Zone {
            store,
            uses: Cache::builder().max_capacity(keys).time_to_idle(spec.inactive).build_with_hasher(AsIs),
            variants: Arc::new(Variants::new(keys, spec.inactive)),
            apart: Cache::builder().max_capacity(keys).time_to_live(APART).build_with_hasher(AsIs),
            fills: Mutex::default(),
            recalls: Mutex::default(),
            disk,
            growing: AtomicU64::new(0),
            purges,
            counters,
            streams: Arc::new(Streams::new(spec.keys)),
            spec,
        }
    }

    /// A zone of other bounds with the same entries and files. Its own bounds hold from the first
    /// [`Self::tend`] on: a configuration that does not come into force changes nothing.
    pub fn resized(&self, spec: Spec) -> Zone {
        let (counters, store, purges) = (self.counters.clone(), self.store.clone(), self.purges.clone());
        let zone = Zone::with(spec, counters, store, purges, self.disk.clone());
        Zone { streams: self.streams.clone(), ..zone }
    }

    /// What is to be done about once a second for a zone of the configuration in force, not on a
    /// worker's thread: bounds are taken over, what was not used for long goes.
    pub fn tend(&self) {
        self.store.tend(self.spec.bound, self.spec.inactive);
        self.uses.run_pending_tasks();
        self.apart.run_pending_tasks();
    }

    /// What `key` has for the request `asked`.
    pub fn find(&self, key: &Key, asked: &Head) -> Found {
        match self.kept(key) {
            Some(main) => {
                let family = main.meta.family;
                match main.vary.as_ref().map(|vary| (vary.variant_for(asked), vary.variant())) {
                    Some((wanted, own)) if wanted != own => {
                        self.find_variant(key.variant(wanted), family, asked)
                    }
                    _ => Found { slot: key.clone(), entry: Some(main), recalled: false, family },
                }
            }
            None => Found { slot: key.clone(), entry: None, recalled: false, family: 0 },
        }
    }

    /// The very entry that is in memory under a key.
    pub fn in_memory(&self, key: &Key) -> Option<Arc<Entry>> {
        self.kept(key)
    }

    fn kept(&self, key: &Key) -> Option<Arc<Entry>> {
        self.store.get(key).filter(|entry| entry.is_sound())
    }

    /// What the variant `slot` of a main entry of this `family` has for the request `asked`.
    pub fn find_variant(&self, slot: Key, family: u64, asked: &Head) -> Found {
        let entry = self.kept(&slot).filter(|entry| entry.is_variant(family, asked));
        Found { slot, entry, recalled: false, family }
    }

    /// As [`Self::find`]; what is not in memory is looked for on disk.
    pub async fn look(self: &Arc<Zone>, key: &Key, asked: &Head) -> Found {
        let found = self.find(key, asked);
        if found.entry.is_some() || self.disk.is_none() {
            return found;
        }
        let (slot, family) = match found.slot.variant {
            // The main one is in memory, and another variant than the request's.
            Some(_) => (found.slot, found.family),
            None => match self.recall(key).await {
                None => return found,
                Some(main) => match &main.vary {
                    Some(vary) if !vary.suits(asked) => {
                        (key.variant(vary.variant_for(asked)), main.meta.family)
                    }
                    _ => {
                        let family = main.meta.family;
                        return Found { entry: Some(main), recalled: true, family, ..found };
                    }
                },
            },
        };
        self.look_variant(slot, family, asked).await
    }

    /// As [`Self::find_variant`]; what is not in memory is looked for on disk.
    pub async fn look_variant(self: &Arc<Zone>, slot: Key, family: u64, asked: &Head) -> Found {
        let found = self.find_variant(slot, family, asked);
        if found.entry.is_some() {
            return found;
        }
        let entry = self.recall(&found.slot).await.filter(|entry| entry.is_variant(family, asked));
        Found { recalled: entry.is_some(), entry, ..found }
    }

    /// The entry under this key that is on disk and, when this is called, not in memory. Unless it is
    /// too large it is in memory from then on. However many ask, it is read once.
    pub async fn recall(self: &Arc<Zone>, key: &Key) -> Option<Arc<Entry>> {
        let disk = self.disk.as_ref()?;
        if disk.waiting(key).is_some() {
            let ticket = self.purges.ticket(&Mark::new(key.text.clone()));
            match disk.waiting(key) {
                Some(Act::Store(entry) | Act::Describe(entry)) => {
                    let found = ticket.found(&entry);
                    return ticket
                        .unless_purged(|| found.then(|| self.remember(key, &entry)))?
                        .map(|()| entry);
                }
                Some(Act::Remove) => return None,
                None => {}
            }
        }
        if !disk.may_have(&key.name()) {
            return None;
        }
        let mut told = {
            let mut recalls = self.recalls.lock();
            match recalls.get(&key.hash) {
                Some(told) => told.clone(),
                // One that has just ended has left it in memory.
                None if let Some(entry) = self.kept(key) => return Some(entry),
                None => {
                    let (tell, told) = watch::channel(None);
                    recalls.insert(key.hash, told.clone());
                    // It leaves the table however it ends, also if it is never run.
                    let recall = Recall { zone: self.clone(), key: key.clone(), tell };
                    let clock = Clock::now();
                    tokio::task::spawn_blocking(move || recall.run(&clock));
                    told
                }
            }
        };
        // An error: it was never run, as the runtime ends.
        told.wait_for(Option::is_some).await.ok()?.clone()?.filter(|entry| entry.key == key.text)
    }

    /// A file for what is received for `slot` and is more than memory may hold; `None` when there is
    /// no disk, or none that works. See [`Draft`].
    pub async fn draft(&self, slot: &Key) -> Option<Draft> {
        let disk = self.disk.as_ref()?;
        if !disk.may_write() {
            return None;
        }
        disk.draft(slot).await.ok()
    }

    /// Whether a fill for `slot` is under way that is not overdue.
    pub fn is_filling(&self, slot: &Key, overdue: Duration) -> bool {
        self.fills.lock().get(&slot.hash).is_some_and(|fill| !fill.is_overdue(overdue))
    }

    /// Reads the fill for `slot` that is under way, if there is one.
    pub fn join(&self, slot: &Key, overdue: Duration) -> Option<Reader> {
        let fill = self.fills.lock().get(&slot.hash).cloned()?;
        if fill.key != slot.text || fill.is_overdue(overdue) {
            return None;
        }
        let reader = fill.join()?;
        self.counters.readers.inc();
        Some(reader)
    }

    /// Puts a `new` fill for `slot` into the table, unless there is one or what is kept is no longer
    /// `seen`. A variant that is not of this `family` is as good as none.
    pub fn begin(
        &self,
        (slot, family): (&Key, u64),
        overdue: Duration,
        seen: Option<&Arc<Entry>>,
        new: impl FnOnce() -> Arc<Fill>,
    ) -> Begun {
        if let Some(reader) = self.join(slot, overdue) {
            return Begun::Joined(reader);
        }
        let mut fills = self.fills.lock();
        if fills.get(&slot.hash).is_some_and(|fill| fill.key == slot.text && !fill.is_overdue(overdue)) {
            drop(fills);
            // Somebody was quicker; or it can no longer be read from its beginning, and is to go soon.
            return self.join(slot, overdue).map_or(Begun::Changed, Begun::Joined);
        }
        // A fill puts what it got into the store before it leaves the table.
        let now = Instant::now();
        let is_own = |entry: &Arc<Entry>| slot.variant.is_none() || entry.meta.sequence >= family;
        let newer = self.kept(slot).filter(|entry| entry.is_fresh(now) && is_own(entry));
        if newer.is_some_and(|entry| !seen.is_some_and(|seen| Arc::ptr_eq(&entry, seen))) {
            return Begun::Changed;
        }
        let fill = new();
        fills.insert(slot.hash, fill.clone());
        Begun::Started(fill)
    }

    /// Lets others read a fill that was nobody's but its requester's, if there is no other.
    pub fn admit(&self, slot: &Key, fill: &Arc<Fill>) {
        if fill.mark.is_purged() {
            return;
        }
        self.fills.lock().entry(slot.hash).or_insert_with(|| fill.clone());
    }

    /// Takes a fill from the table.
    pub fn leave(&self, slot: &Key, fill: &Arc<Fill>) {
        let mut fills = self.fills.lock();
        if fills.get(&slot.hash).is_some_and(|other| Arc::ptr_eq(other, fill)) {
            fills.remove(&slot.hash);
        }
    }

    /// Counts a request for `slot`; the first is 1.
    pub fn used(&self, slot: &Key) -> u32 {
        let uses = self.uses.get_with(slot.hash, Arc::default);
        uses.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Whether the last answer for `slot` was not kept.
    pub fn is_apart(&self, slot: &Key) -> bool {
        self.apart.contains_key(&slot.hash)
    }

    /// Remembers that an answer for `slot` was not kept.
    pub fn set_apart(&self, slot: &Key) {
        self.apart.insert(slot.hash, ());
    }

    /// Keeps an entry, in memory and soon on disk too; `slot` is where requests look for it. One that
    /// was made by [`Draft::commit`] is on disk already.
    pub fn keep(&self, slot: &Key, entry: Arc<Entry>) {
        self.keep_for(slot, entry, 1);
    }

    /// Keeps an entry that so many have read as it grew.
    pub fn keep_for(&self, slot: &Key, entry: Arc<Entry>, readers: u64) {
        if let Some(disk) = &self.disk
            && entry.failure.is_none()
        {
            let before = self.store.get(slot);
            let act = match &entry.body {
                EntryBody::File(blocks) if blocks.was_described() => None,
                EntryBody::File(_) => Some(Act::Describe(entry.clone())),
                body => Some(match before.as_ref().is_some_and(|before| before.body.is_same(body)) {
                    true => Act::Describe(entry.clone()),
                    false => Act::Store(entry.clone()),
                }),
            };
            // What is on disk is no longer fresh than what is in memory, and must not be than what follows it, for it
            // would be served instead if the process fell.
            let outlives = match before.filter(|before| before.failure.is_none()) {
                Some(before) => before.times.fresh_until > entry.times.fresh_until,
                None => disk.may_have(&slot.name()),
            };
            match act {
                Some(act) if outlives => disk.write_now(slot, act),
                Some(act) => disk.write(slot, act),
                None => {}
            }
        }
        match entry.holds_file() {
            true => self.put_file(slot, entry),
            false => self.store.put(slot.hash, entry, readers > 1),
        }
        self.apart.invalidate(&slot.hash);
    }

    /// Forgets what is kept under `slot`.
    pub fn forget(&self, slot: &Key) {
        if let Some(disk) = &self.disk {
            disk.forget(slot);
        }
        self.store.remove(slot.hash);
    }

    /// Keeps in mind that a variant of `key` is kept; the oldest goes where there are too many.
    pub fn note_variant(&self, key: &Key, slot: &Key) {
        if let Some(oldest) = slot.variant.and_then(|variant| self.variants.note(key, variant)) {
            self.forget(&oldest);
        }
    }

    /// Forgets what is kept under `key`, in all variants; when this is done nobody gets it any more.
    pub async fn invalidate(&self, key: &Key) {
        self.forget(key);
        // Refused only where the process ends, or where more waits than a request may add to.
        let _ = self.purge(What::Key(key.text.clone())).await;
    }

    /// Removes what is meant; how many entries that were. When this is done nobody gets what was asked
    /// for before (see [`super::purge`]).
    pub async fn purge(&self, what: What) -> Result<u64, Refused> {
        let removed = self.purges.purge(what.clone()).await;
        if let What::Key(text) = what {
            // Nobody finds them any more; this is for their room.
            for key in with_head(&text) {
                self.variants.take(&key).iter().for_each(|slot| self.forget(slot));
            }
        }
        removed
    }

    /// From now on what is kept under `slot` is evicted before anything else; whether there is something.
    pub fn demote(&self, slot: &Key) -> bool {
        if let Some(disk) = &self.disk {
            disk.expend(slot);
        }
        self.store.expendable(slot.hash)
    }

    /// Where streams are known, an entry under `slot` is one of theirs.
    pub fn register(&self, slot: &Key, entry: &Entry) {
        let effect = self.streams.register(&entry.meta.origin, slot);
        if let Some(Purge { keys, origins, .. }) = effect.purge {
            self.void(&keys, &origins);
        }
    }

    /// Removes what is kept under `keys`, and what is on its way from these origins ([`streams::hash`]) goes to
    /// nobody else; how much that was.
    pub fn void(&self, keys: &[Key], origins: &HashSet<u128, AsIs>) -> u64 {
        let from_there = |fill: &Arc<Fill>| fill.origin.get().is_some_and(|origin| origins.contains(origin));
        self.fills.lock().retain(|_, fill| !from_there(fill));
        let kept = keys.iter().filter(|key| self.store.get(key).is_some()).count();
        keys.iter().for_each(|key| self.forget(key));
        kept as u64
    }

    /// The largest body that is kept in memory.
    pub fn largest(&self) -> u64 {
        self.spec.largest
    }

    /// Whether a body of this length has room in memory or on disk.
    pub fn may_keep(&self, length: u64) -> bool {
        length <= self.largest() || self.disk.as_ref().is_some_and(|disk| length <= disk.largest())
    }

    /// Takes `bytes` from what fills may hold together, half of the zone's bound; false when there
    /// is not so much left.
    pub fn reserve(&self, bytes: u64) -> bool {
        let most = self.spec.bound / 2;
        let take = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= most);
        self.growing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Takes `after` in place of `before`, whether or not there is so much left.
    pub fn exchange(&self, before: u64, after: u64) {
        self.growing.fetch_add(after, Ordering::Relaxed);
        self.growing.fetch_sub(before, Ordering::Relaxed);
    }

    /// Gives back what [`Self::reserve`] took.
    pub fn release(&self, bytes: u64) {
        self.growing.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that fills hold.
    pub fn growing(&self) -> u64 {
        self.growing.load(Ordering::Relaxed)
    }

    /// Fills in the table.
    pub fn filling(&self) -> usize {
        self.fills.lock().len()
    }
}

/// A key that is being looked for on disk.
struct Recall {
    zone: Arc<Zone>,
    key: Key,
    tell: watch::Sender<Recalled>,
}

impl Recall {
    fn run(self, clock: &Clock) {
        let Recall { zone, key, tell } = &self;
        let ticket = zone.purges.ticket(&Mark::new(key.text.clone()));
        // What is being read takes part in the bound of what grows.
        let reserved = Cell::new(0);
        let room = |size: u64| {
            let room = size <= zone.largest() && zone.reserve(size);
            reserved.set(if room { size } else { 0 });
            room
        };
        let read = zone.disk.as_ref().and_then(|disk| disk.read(key, room, clock));
        // It may be of an earlier run of an encoder, or purged.
        let is_void = |entry: &Entry| zone.streams.is_void(&entry.meta.origin, entry.meta.sequence);
        let read = read.map(|mut entry| {
            let number = zone.purges.number_of(entry.meta.sequence);
            (entry.meta.sequence, entry.meta.family) = (number, entry.meta.family.min(number));
            entry
        });
        let entry = read.map(Arc::new).filter(|entry| {
            let stands = ticket.found(entry) && !is_void(entry);
            if let (false, Some(disk)) = (stands, &zone.disk) {
                disk.remove(key);
            }
            stands
        });
        if let Some(entry) = &entry {
            zone.register(key, entry);
        }
        let entry = ticket.unless_purged(|| {
            if let Some(entry) = &entry {
                zone.remember(key, entry);
            }
            // Who comes after a purge does not get what this found before it.
            zone.recalls.lock().remove(&key.hash);
            entry
        });
        zone.release(reserved.get());
        tell.send_replace(Some(entry.flatten()));
    }
}

impl Drop for Recall {
    fn drop(&mut self) {
        self.zone.recalls.lock().remove(&self.key.hash);
    }
}

impl Zone {
    /// Puts into memory what was read from disk, unless it is there, or something newer.
    fn remember(&self, key: &Key, entry: &Arc<Entry>) {
        if self.kept(key).is_some() {
            return;
        }
        match entry.holds_file() {
            true => self.put_file(key, entry.clone()),
            false => self.store.put(key.hash, entry.clone(), false),
        }
    }

    /// Puts into memory an entry that holds its file open, unless there are too many such; it is found
    /// on disk then. Once the file is evicted the entry goes too, or its bytes would not be free.
    fn put_file(&self, slot: &Key, entry: Arc<Entry>) {
        if too_many_open() {
            self.store.remove(slot.hash);
            return;
        }
        self.store.put(slot.hash, entry, false);
        // It may have been evicted a moment ago.
        if self.disk.as_ref().is_some_and(|disk| !disk.knows(&slot.name())) {
            self.store.release_file(slot.hash);
        }
    }
}
