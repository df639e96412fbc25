//! An answer that is being received, and those who read it as it grows.
//!
//! The filler pushes; each [`Reader`] has its own position and is woken when there is more. A reader
//! that leaves stops nothing, a slow one slows nobody, unless the fill is *passing*: larger than may
//! be kept. Then what all have read is forgotten, the filler waits when the slowest is too far
//! behind, and ends when nobody reads. A fill that breaks off is an error to every reader.

use super::entry::{Entry, Meta, takes_ranges};
use super::seen::{Source, Tier};
use super::vary::Vary;
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::response::Fields;
use crate::upstream::{Answer, Failure, FailureKind};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

/// What a passing fill holds at most, in bytes.
pub const WINDOW: u64 = 1 << 20;

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
    started: Instant,
    told: watch::Sender<Option<Told>>,
    state: Mutex<State>,
    /// Wakes the filler of a passing fill when there may be room.
    room: Notify,
    /// Turns of those who are to ask for themselves.
    turns: Semaphore,
    home: Option<Arc<dyn Home>>,
}

#[derive(Default)]
struct State {
    /// The bytes from `start` on, each piece with its offset.
    pieces: VecDeque<(u64, Bytes)>,
    start: u64,
    end: u64,
    /// Whole, or broken off and why.
    done: Option<Result<(), Arc<str>>>,
    passing: bool,
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
    waker: Option<Waker>,
}

impl Fill {
    /// A fill for the key with this text, whose filler runs at `home`.
    pub fn new(key: Bytes, home: Option<Arc<dyn Home>>) -> Arc<Fill> {
        Arc::new(Fill {
            key,
            started: Instant::now(),
            told: watch::Sender::new(None),
            state: Mutex::default(),
            room: Notify::new(),
            turns: Semaphore::new(RUSH),
            home,
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

    /// Whether there is no head yet since longer than `age`.
    pub fn is_overdue(&self, age: std::time::Duration) -> bool {
        self.told.borrow().is_none() && self.started.elapsed() >= age
    }

    /// A reader from the first byte; `None` when that is forgotten already.
    pub fn join(self: &Arc<Fill>) -> Option<Reader> {
        let mut state = self.state.lock();
        if state.start > 0 {
            return None;
        }
        let id = state.seat(0, true);
        state.joined += 1;
        drop(state);
        Some(self.reader(id, 0..u64::MAX))
    }

    /// A reader of `range`. A passing fill does not wait for it: several such are read one after the
    /// other, and would wait for each other.
    fn join_part(self: &Arc<Fill>, range: Range<u64>) -> Reader {
        let id = self.state.lock().seat(range.start, false);
        self.reader(id, range)
    }

    fn reader(self: &Arc<Fill>, id: usize, range: Range<u64>) -> Reader {
        if let Some(home) = &self.home {
            home.hold();
        }
        Reader { fill: self.clone(), id, at: range.start, end: range.end, parts: false }
    }

    /// From now on what was read by all is forgotten: the answer is too large to be kept.
    pub fn pass(&self) {
        self.state.lock().passing = true;
    }

    /// Adds a piece. Waits only when the fill is passing and the slowest reader is a window behind.
    pub async fn push(&self, piece: Bytes) -> Result<(), Abandoned> {
        loop {
            let room = {
                let mut state = self.state.lock();
                !state.passing || state.make_room(piece.len() as u64)?
            };
            if room {
                break;
            }
            // A permit is kept if a reader moved in between.
            self.room.notified().await;
        }
        let mut state = self.state.lock();
        let at = state.end;
        state.end += piece.len() as u64;
        state.pieces.push_back((at, piece));
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// How many have joined so far.
    pub fn joined(&self) -> u64 {
        self.state.lock().joined
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.state.lock().end
    }

    /// The pieces held: all of them, unless the fill is passing.
    pub fn pieces(&self) -> Vec<Bytes> {
        self.state.lock().pieces.iter().map(|(_, piece)| piece.clone()).collect()
    }

    /// Puts `pieces`, which are the same bytes, in place of those held: they are kept anyway.
    pub fn replace(&self, pieces: &[Bytes]) {
        let mut at = 0;
        let pieces = pieces.iter().map(|piece| {
            let start = at;
            at += piece.len() as u64;
            (start, piece.clone())
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
    fn readers(&self) -> u32 {
        let state = self.state.lock();
        (state.readers.len() - state.vacant.len()) as u32
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.state.lock().done.is_some()
    }
}

impl State {
    fn seat(&mut self, at: u64, awaited: bool) -> usize {
        let place = Some(Place { at, awaited, waker: None });
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

    /// Forgets what all have read; whether `more` bytes fit then.
    fn make_room(&mut self, more: u64) -> Result<bool, Abandoned> {
        let awaited = self.readers.iter().flatten().filter(|place| place.awaited);
        let slowest = awaited.map(|place| place.at).min().ok_or(Abandoned)?;
        while let Some((at, piece)) = self.pieces.front()
            && at + piece.len() as u64 <= slowest
        {
            self.start = at + piece.len() as u64;
            self.pieces.pop_front();
        }
        // A piece larger than the window fits when nothing else is held.
        Ok(self.pieces.is_empty() || self.end - self.start + more <= WINDOW)
    }

    fn piece_at(&self, at: u64) -> Option<Bytes> {
        // The pieces are in order, so the one that holds `at` is the last that does not begin after.
        let index = self.pieces.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, piece) = &self.pieces[index];
        let mut piece = piece.clone();
        piece.advance(((at - start) as usize).min(piece.len()));
        (!piece.is_empty()).then_some(piece)
    }
}

/// One who reads a fill, from the first byte on, or a part of it.
pub struct Reader {
    fill: Arc<Fill>,
    id: usize,
    at: u64,
    /// Where it stops.
    end: u64,
    /// Whether parts can be had of it.
    parts: bool,
}

impl Reader {
    /// Waits for the head.
    pub async fn told(&self) -> Told {
        let mut told = self.fill.told.subscribe();
        match told.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(told)) => told.clone(),
            // The sender lives as long as the fill, which we hold.
            Ok(None) | Err(_) => Told::Failed(502, FailureKind::Error, "the fill is gone".into()),
        }
    }

    /// Leaves the fill, whose answer is another's alone, and waits for its turn to ask for itself.
    pub async fn turn(self) -> Turn {
        let fill = self.fill.clone();
        drop(self);
        if let Ok(permit) = fill.turns.acquire().await {
            permit.forget();
        }
        Turn { fill, next: 1 }
    }

    /// The same reader, of which parts can be had: as nginx cuts several ranges from what it has, and
    /// only one from what it is receiving.
    pub fn with_parts(mut self) -> Reader {
        self.parts = true;
        self
    }

    /// The answer that begins with `opening` and whose body is read here.
    pub fn answer(self, opening: &Opening) -> Answer {
        let source = Source {
            tier: Tier::Fill,
            fresh_until: opening.fresh_until,
            received: opening.meta.received,
            initial_age: opening.meta.initial_age,
            readers: self.fill.readers(),
            ..Source::default()
        };
        Answer {
            status: opening.status,
            reason: opening.reason.clone(),
            fields: opening.fields.clone(),
            length: opening.length,
            body: Body::Stream(Box::new(self)),
            ranges: takes_ranges(&opening.fields),
            kept: true,
            source,
            tunnel: None,
            attempts: Vec::new(),
        }
    }
}

impl BodyStream for Reader {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.at >= self.end {
            return Poll::Ready(None);
        }
        let mut state = self.fill.state.lock();
        if self.at < state.start {
            let why = "the fill became too large to be kept while a part of it was read";
            return Poll::Ready(Some(Err(BodyError::Upstream(why.into()))));
        }
        if let Some(mut piece) = state.piece_at(self.at) {
            piece.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
            self.at += piece.len() as u64;
            let passing = state.passing;
            if let Some(place) = &mut state.readers[self.id] {
                place.at = self.at;
            }
            drop(state);
            if passing {
                self.fill.room.notify_one();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match &state.done {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(why)) => Poll::Ready(Some(Err(BodyError::Upstream(why.to_string())))),
            None => {
                if let Some(place) = &mut state.readers[self.id] {
                    place.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn part(&self, range: Range<u64>) -> Option<Body> {
        let (start, end) = (self.at.checked_add(range.start)?, self.at.checked_add(range.end)?);
        let part = || self.fill.join_part(start..end.min(self.end));
        self.parts.then(|| Body::Stream(Box::new(part())))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.fill.state.lock();
        state.readers[self.id] = None;
        state.vacant.push(self.id);
        drop(state);
        self.fill.room.notify_one();
        if let Some(home) = &self.fill.home {
            home.release();
        }
    }
}

/// The failure that those who waited for another's fill get.
pub fn failure(status: u16, kind: FailureKind, why: &str) -> Failure {
    Failure { status, kind, message: why.to_string(), attempts: Vec::new() }
}
