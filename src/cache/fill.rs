//! An answer that is being received, and those who read it as it grows.
//!
//! The filler pushes; each [`Reader`] has its own position and is woken when there is more. A reader
//! that leaves stops nothing, and a slow one slows nobody: all of it is held, or, where that is more
//! than memory may hold, in a file what the window in memory has left behind. A fill that breaks off
//! is an error to every reader.
//!
//! Where there is no file, or it may not grow any more, the fill is *passing*: what all have read is
//! forgotten, the filler waits when the slowest is a window behind, and ends when nobody reads. A
//! reader that all but stands still while others wait for it is cut off: what they want cannot be
//! held for it, and one client that stops reading must not stop them. Only then: as long as all are
//! slow, the slowest is not to blame, and `send_timeout` holds for each.

use super::entry::{Entry, Meta};
use super::freshness::Refusal;
use super::purge::Mark;
pub use super::reader::Reader;
use super::vary::Vary;
use crate::http::response::Fields;
use crate::upstream::{Failure, FailureKind};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

/// The head of an answer that is kept and shared.
#[derive(Debug)]
pub struct Opening {
    /// The status.
    pub status: u16,
    /// The reason phrase.
    pub reason: Bytes,
    /// The fields.
    pub fields: Fields,
    /// `Content-Length`, when the upstream gave one.
    pub length: Option<u64>,
    /// What the answer varies by.
    pub vary: Option<Vary>,
    /// Stale from then on.
    pub fresh_until: Option<Instant>,
    /// Why it will not be kept, as far as its head tells.
    pub refusal: Option<Refusal>,
    /// Where and when it came from.
    pub meta: Meta,
}

/// What those who wait for a fill's head are told.
#[derive(Clone, Debug)]
pub enum Told {
    /// The answer; its body is read from the fill.
    Shared(Arc<Opening>),
    /// What was kept is fresh again.
    Entry(Arc<Entry>),
    /// The answer, of this status, is its requester's alone.
    Alone(u16),
    /// The server fails, with this status; it would fail all whom this suits.
    Down(u16, Option<Vary>),
    /// There is no answer.
    Failed(u16, FailureKind, Arc<str>),
}

/// So many of those whom an answer is not for ask for themselves at first, and so many more for each
/// of them that has its answer: Varnish's `rush_exponent`.
const RUSH: usize = 3;

/// The turn to ask for oneself. Another's comes when it is dropped.
pub struct Turn {
    fill: Arc<Fill>,
    next: usize,
}

impl Turn {
    pub(super) fn new(fill: Arc<Fill>) -> Turn {
        Turn { fill, next: 1 }
    }

    /// The upstream keeps up: more may ask.
    pub fn went_well(&mut self) {
        self.next = RUSH;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.fill.turns.add_permits(self.next);
    }
}

/// Why a filler should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned;

/// Where a filler runs; it must not end while somebody reads what the filler receives.
pub trait Home: Send + Sync {
    /// One more reads.
    fn hold(&self);
    /// One less reads.
    fn release(&self);
}

/// A growing answer.
pub struct Fill {
    /// The text of the key it is for.
    pub key: Bytes,
    /// Whether it was purged.
    pub mark: Arc<Mark>,
    pub(super) started: Instant,
    pub(super) told: watch::Sender<Option<Told>>,
    pub(super) state: Mutex<State>,
    /// Wakes the filler of a passing fill when there may be room.
    pub(super) room: Notify,
    /// Turns of those who are to ask for themselves.
    pub(super) turns: Semaphore,
    pub(super) home: Option<Arc<dyn Home>>,
    /// Where it comes from, where streams are known (see [`super::streams::hash`]).
    pub origin: OnceLock<u128>,
}

#[derive(Default)]
pub(super) struct State {
    /// The bytes from `start` on, each piece with its offset.
    pieces: VecDeque<(u64, Bytes)>,
    pub(super) start: u64,
    end: u64,
    /// Whole, or broken off and why.
    pub(super) done: Option<Result<(), Arc<str>>>,
    /// A file, and how many bytes from the beginning on it holds.
    pub(super) file: Option<(Arc<File>, u64)>,
    pub(super) passing: bool,
    /// Readers that are awaited and not beyond `awaited` yet; at 0 the filler is woken.
    behind: usize,
    awaited: u64,
    /// Whether the filler is to know when a reader begins to wait.
    watched: bool,
    readers: Vec<Option<Place>>,
    vacant: Vec<usize>,
    /// Readers there have been.
    joined: u64,
}

/// Where a reader is, and what wakes it when it waits.
struct Place {
    at: u64,
    /// Whether a passing fill waits for it.
    awaited: bool,
    /// Since when others wait for it, and where it was then.
    slow: Option<(Instant, u64)>,
    cut: bool,
    waker: Option<Waker>,
}

/// A reader for which others wait must read so much …
const PACE: u64 = 64 << 10;

/// … in this time. A viewer that needs less than a hundred kilobits a second is none of a live
/// stream; and players have a few seconds in reserve, which the others live on meanwhile.
const STALL: Duration = Duration::from_secs(5);

impl Fill {
    /// A fill for the key with this text, whose filler runs at `home`.
    pub fn new(key: Bytes, home: Option<Arc<dyn Home>>) -> Arc<Fill> {
        Arc::new(Fill {
            mark: Mark::new(key.clone()),
            key,
            started: Instant::now(),
            told: watch::Sender::new(None),
            state: Mutex::default(),
            room: Notify::new(),
            turns: Semaphore::new(RUSH),
            home,
            origin: OnceLock::new(),
        })
    }

    /// Tells those who wait for the head; the first word holds.
    pub fn tell(&self, told: Told) {
        self.told.send_if_modified(|before| {
            let first = before.is_none();
            if first {
                *before = Some(told);
            }
            first
        });
    }

    /// Whether nobody is to join it: it was purged, or there is no head yet since longer than `age`.
    pub fn is_overdue(&self, age: std::time::Duration) -> bool {
        self.mark.is_purged() || self.told.borrow().is_none() && self.started.elapsed() >= age
    }

    /// A reader from the first byte; `None` when that is forgotten already.
    pub fn join(self: &Arc<Fill>) -> Option<Reader> {
        let mut state = self.state.lock();
        // In what passes all others would have to wait until this one has caught up.
        if state.start > 0 && (state.file.is_none() || state.passing) {
            return None;
        }
        let id = state.seat(0, true);
        state.joined += 1;
        drop(state);
        Some(Reader::new(self.clone(), id, 0..u64::MAX))
    }

    /// A reader of `range`. A passing fill does not wait for it: several such are read one after the
    /// other, and would wait for each other.
    pub(super) fn join_part(self: &Arc<Fill>, range: Range<u64>) -> Reader {
        let id = self.state.lock().seat(range.start, false);
        Reader::new(self.clone(), id, range)
    }

    /// From now on what memory has no room for is read from this file, to which nothing is written
    /// yet.
    pub fn spill(&self, file: Arc<File>) {
        self.state.lock().file = Some((file, 0));
    }

    /// The first `written` bytes are in the file: as many of them are forgotten as leaves `window`
    /// bytes. Returns the bytes held.
    pub fn wrote(&self, written: u64, window: u64) -> u64 {
        let mut state = self.state.lock();
        if let Some((_, before)) = &mut state.file {
            *before = written;
        }
        while state.held() > window && state.forget_first(written) {}
        state.held()
    }

    /// From now on what was read by all is forgotten: there is no file, or no more of one.
    pub fn pass(&self) {
        self.state.lock().passing = true;
    }

    /// Waits until a passing fill has room for `more` bytes in a window of `window`: until the slowest
    /// reader has read on or is cut off. Whether it can still be joined then.
    pub async fn room(&self, more: u64, window: u64) -> Result<bool, Abandoned> {
        loop {
            let until = {
                let mut state = self.state.lock();
                if state.make_room(more, window)? {
                    return Ok(state.start == 0);
                }
                state.hurry(Instant::now())
            };
            // A permit is kept if a reader moved in between.
            match until {
                None => self.room.notified().await,
                // Either way it is looked again.
                Some(until) => drop(timeout_at(until, self.room.notified()).await),
            }
        }
    }

    /// Adds a piece. Returns the bytes held.
    pub fn push(&self, piece: Bytes) -> u64 {
        let mut state = self.state.lock();
        let at = state.end;
        state.end += piece.len() as u64;
        state.pieces.push_back((at, piece));
        let (held, wakers) = (state.held(), state.take_wakers());
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        held
    }

    /// The pieces from `at` on, where a piece begins.
    pub fn pieces_from(&self, at: u64) -> Vec<Bytes> {
        let state = self.state.lock();
        let first = state.pieces.partition_point(|(start, _)| *start < at);
        state.pieces.range(first..).map(|(_, piece)| piece.clone()).collect()
    }

    /// How many have joined so far.
    pub fn joined(&self) -> u64 {
        self.state.lock().joined
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.state.lock().end
    }

    /// Puts `pieces`, which are the same bytes, in place of those held: they are kept anyway.
    pub fn replace(&self, pieces: impl Iterator<Item = Bytes>) {
        let mut at = 0;
        let pieces = pieces.map(|piece| {
            let start = at;
            at += piece.len() as u64;
            (start, piece)
        });
        self.state.lock().pieces = pieces.collect();
    }

    /// Ends the fill: whole, or broken off. The first word holds.
    pub fn finish(&self, end: Result<(), Arc<str>>) {
        let mut state = self.state.lock();
        state.done.get_or_insert(end);
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Those who read it now.
    pub fn readers(&self) -> u32 {
        let state = self.state.lock();
        (state.readers.len() - state.vacant.len()) as u32
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.state.lock().done.is_some()
    }
}

impl Place {
    /// Whether what ends at `until` is kept for it.
    fn is_behind(&self, until: u64) -> bool {
        self.awaited && !self.cut && self.at < until
    }
}

impl State {
    fn seat(&mut self, at: u64, awaited: bool) -> usize {
        let place = Some(Place { at, awaited, slow: None, cut: false, waker: None });
        match self.vacant.pop() {
            Some(id) => {
                self.readers[id] = place;
                id
            }
            None => {
                self.readers.push(place);
                self.readers.len() - 1
            }
        }
    }

    fn take_wakers(&mut self) -> Vec<Waker> {
        self.readers.iter_mut().flatten().filter_map(|place| place.waker.take()).collect()
    }

    /// Bytes in memory.
    fn held(&self) -> u64 {
        self.end - self.start
    }

    /// Forgets the first piece if it ends at `until` at the latest; whether it has.
    fn forget_first(&mut self, until: u64) -> bool {
        let end = self.pieces.front().map(|(at, piece)| at + piece.len() as u64);
        let Some(end) = end.filter(|end| *end <= until) else { return false };
        self.start = end;
        self.pieces.pop_front();
        true
    }

    /// Forgets what all have read or is in the file; whether `more` bytes fit into the window then.
    fn make_room(&mut self, more: u64, window: u64) -> Result<bool, Abandoned> {
        let awaited = || self.readers.iter().flatten().filter(|place| place.awaited && !place.cut);
        let slowest = awaited().map(|place| place.at).min().ok_or(Abandoned)?;
        let written = self.file.as_ref().map_or(0, |(_, written)| *written);
        while self.forget_first(slowest.max(written)) {}
        // A piece larger than the window fits when nothing else is held.
        let Some((at, first)) = self.pieces.front().filter(|_| self.held() + more > window) else {
            return Ok(true);
        };
        self.awaited = at + first.len() as u64;
        self.behind = self.readers.iter().flatten().filter(|place| place.is_behind(self.awaited)).count();
        Ok(false)
    }

    /// Cuts off who has held up others for too long; when to look again.
    fn hurry(&mut self, now: Instant) -> Option<Instant> {
        self.watched = !self.readers.iter().flatten().any(|place| place.waker.is_some());
        if self.watched {
            return None;
        }
        let awaited = self.awaited;
        let mut until: Option<Instant> = None;
        for place in self.readers.iter_mut().flatten() {
            if !place.is_behind(awaited) {
                place.slow = None;
                continue;
            }
            let (since, at) = *place.slow.get_or_insert((now, place.at));
            if place.at - at >= PACE {
                place.slow = Some((now, place.at));
            } else if now >= since + STALL {
                place.cut = true;
            }
            let ends = if place.cut { now } else { place.slow.map_or(now, |(since, _)| since + STALL) };
            until = Some(until.map_or(ends, |other| other.min(ends)));
        }
        until
    }

    /// A reader has read up to `at`; whether the filler is to be woken.
    pub(super) fn read_to(&mut self, id: usize, at: u64) -> bool {
        let Some(place) = &mut self.readers[id] else { return false };
        let was_behind = place.is_behind(self.awaited);
        place.at = at;
        let passed = was_behind && !place.is_behind(self.awaited);
        self.passed(passed)
    }

    /// One fewer is behind, if so; whether the filler is to be woken.
    fn passed(&mut self, passed: bool) -> bool {
        if passed {
            self.behind = self.behind.saturating_sub(1);
        }
        passed && self.passing && self.behind == 0
    }

    /// A reader waits for more; whether the filler is to be woken.
    pub(super) fn wait(&mut self, id: usize, waker: Waker) -> bool {
        if let Some(place) = &mut self.readers[id] {
            place.waker = Some(waker);
        }
        self.passing && std::mem::take(&mut self.watched)
    }

    /// A reader leaves; whether the filler is to be woken.
    pub(super) fn leave(&mut self, id: usize) -> bool {
        let place = self.readers[id].take();
        self.vacant.push(id);
        let nobody = self.readers.len() == self.vacant.len();
        let passed = place.is_some_and(|place| place.is_behind(self.awaited));
        self.passed(passed) || self.passing && nobody
    }

    pub(super) fn is_cut(&self, id: usize) -> bool {
        self.readers[id].as_ref().is_some_and(|place| place.cut)
    }

    pub(super) fn piece_at(&self, at: u64) -> Option<Bytes> {
        // The pieces are in order, so the one that holds `at` is the last that does not begin after.
        let index = self.pieces.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, piece) = &self.pieces[index];
        let mut piece = piece.clone();
        piece.advance(((at - start) as usize).min(piece.len()));
        (!piece.is_empty()).then_some(piece)
    }
}

/// The failure that those who waited for another's fill get.
pub fn failure(status: u16, kind: FailureKind, why: &str) -> Failure {
    Failure { status, kind, message: why.to_string(), attempts: Vec::new() }
}
