//! The body of what looks like a playlist is held back until it is whole and read.
//!
//! It is small and comes at once, so nobody waits for it longer than for its last byte. What is larger than a
//! playlist may be goes on as it came.

use super::Hls;
use super::decode::decode;
use super::judge::{self, Candidate};
use super::playlist::{self, Facts, LARGEST, Mistake, Playlist};
use crate::cache::entry::{Entry, EntryBody, Times};
use crate::cache::filler::Job;
use crate::cache::freshness::{Lifetime, Received, Refusal, wall};
use crate::cache::streams::{Effect, Purge};
use crate::cache::zone::Zone;
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::response::Fields;
use crate::observe::error_log::{Level, log};
use crate::upstream::Answer;
use bytes::Bytes;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// What is read on a worker's thread: more is read beside it.
const QUICK: usize = 32 << 10;

/// What came of reading a body.
type Verdict = Result<Facts, Mistake>;

/// Awaits what the body of an answer turns out to be.
pub struct Watch {
    hls: Arc<Hls>,
    candidate: Candidate,
    /// When the head came.
    from: Instant,
    verdict: Arc<OnceLock<Verdict>>,
}

/// Holds back the body of an answer that looks like a playlist. Its head was there at `now`, so long after it was
/// asked for. It may be one that is not kept: its segments may be.
pub fn hold(job: &Job, answer: &mut Answer, now: Instant, delay: Duration) -> Option<Watch> {
    let hls = job.hls.as_ref()?;
    let Answer { status, fields, .. } = &*answer;
    if !judge::looks_so(hls, *status, fields) {
        return None;
    }
    let received = Received { status: *status, fields, asked: &job.asked, delay, now: wall().as_secs() };
    let candidate = judge::candidate(&received, &job.policy).ok();
    let verdict = hold_body(hls, &job.zone, job.stale.as_ref(), answer);
    Some(Watch { hls: hls.clone(), candidate: candidate?, from: now, verdict })
}

fn hold_body(
    hls: &Arc<Hls>,
    zone: &Arc<Zone>,
    stale: Option<&Arc<Entry>>,
    answer: &mut Answer,
) -> Arc<OnceLock<Verdict>> {
    let verdict = Arc::new(OnceLock::new());
    // The answer to HEAD is none.
    if matches!(answer.body, Body::Empty) {
        return verdict;
    }
    let reading = Reading {
        hls: hls.clone(),
        zone: zone.clone(),
        stale: stale.cloned(),
        encoding: answer.fields.get("content-encoding").cloned().unwrap_or_default(),
        upstream: answer.attempts.last().map(|attempt| attempt.peer.clone()).unwrap_or_default(),
        verdict: verdict.clone(),
    };
    let body = std::mem::take(&mut answer.body);
    let state = State::Collecting(body, reading);
    answer.body =
        Body::Stream(Box::new(HeldBody { state, pieces: VecDeque::new(), size: 0, length: answer.length }));
    verdict
}

impl Watch {
    /// When the answer gets old, now that its body is whole; or why it is not kept.
    pub fn times(&self, zone: &Zone) -> Result<Times, Refusal> {
        let lifetime = match self.verdict.get() {
            Some(Ok(facts)) => self.candidate.lifetime(facts, &self.hls, zone.spec.inactive),
            Some(Err(_)) | None => self.candidate.ordinary()?,
        };
        Ok(Times::new(self.from, lifetime))
    }

    /// Whether it is a playlist.
    pub fn is_playlist(&self) -> bool {
        matches!(self.verdict.get(), Some(Ok(_)))
    }
}

/// How long a playlist lives that a 304 with these fields confirms; `None` when what is kept is none.
pub fn confirmed(job: &Job, fields: &Fields, entry: &Entry) -> Option<Lifetime> {
    let hls = job.hls.as_ref()?;
    if !judge::looks_so(hls, entry.status, &entry.fields) {
        return None;
    }
    let streams = &job.zone.streams;
    let facts = streams.facts(hls.source.stream).or_else(|| {
        // After a start. It has nothing yet that could have left.
        let playlist = kept(hls, entry)?;
        streams.observe(&hls.source, &playlist, job.zone.purges.last());
        Some(playlist.facts)
    })?;
    let received =
        Received { status: 304, fields, asked: &job.asked, delay: Duration::ZERO, now: wall().as_secs() };
    judge::confirmed(&received, &entry.fields, &facts, hls, &job.policy, job.zone.spec.inactive)
}

fn kept(hls: &Hls, entry: &Entry) -> Option<Playlist> {
    let whole = entry.length <= LARGEST as u64 && entry.failure.is_none();
    if !whole || !judge::looks_so(hls, entry.status, &entry.fields) {
        return None;
    }
    let encoding = entry.fields.get("content-encoding").cloned().unwrap_or_default();
    // What is too large for memory is no playlist.
    let EntryBody::Memory(pieces) = &entry.body else { return None };
    read(hls, &encoding, &pieces.concat()).ok()
}

fn read(hls: &Hls, encoding: &[u8], body: &[u8]) -> Result<Playlist, Mistake> {
    playlist::parse(&decode(body, encoding)?, hls.query())
}

/// What it takes to read a body.
struct Reading {
    hls: Arc<Hls>,
    zone: Arc<Zone>,
    stale: Option<Arc<Entry>>,
    encoding: Bytes,
    /// Who sent it.
    upstream: Arc<str>,
    verdict: Arc<OnceLock<Verdict>>,
}

impl Reading {
    async fn run(self, pieces: Vec<Bytes>) {
        let (zone, hls) = (self.zone.clone(), self.hls.clone());
        let quick = if self.encoding.is_empty() { QUICK } else { QUICK / 4 };
        let effect = if pieces.iter().map(Bytes::len).sum::<usize>() <= quick {
            self.read(&pieces)
        } else {
            // It ends early only with the process.
            tokio::task::spawn_blocking(move || self.read(&pieces)).await.unwrap_or_default()
        };
        apply(&zone, &hls, effect);
    }

    fn read(self, pieces: &[Bytes]) -> Effect {
        let streams = &self.zone.streams;
        let found = read(&self.hls, &self.encoding, &pieces.concat());
        let effect = match &found {
            Ok(playlist) => {
                // After a start, or after long, what is kept says where the stream was.
                if streams.facts(self.hls.source.stream).is_none()
                    && let Some(before) = self.stale.as_ref().and_then(|entry| kept(&self.hls, entry))
                {
                    streams.observe(&self.hls.source, &before, 0);
                }
                streams.observe(&self.hls.source, playlist, self.zone.purges.last())
            }
            Err(why) => {
                self.complain(*why);
                Effect::default()
            }
        };
        let _ = self.verdict.set(found.map(|playlist| playlist.facts));
        effect
    }

    fn complain(&self, why: Mistake) {
        let counters = &self.zone.streams.counters;
        counters.mistake(why);
        if counters.may_complain(Instant::now()) {
            log(
                Level::Warn,
                format_args!(
                    "upstream \"{}\" sent as a playlist what is none: {}; it is kept like any other answer, \"{}{}\"",
                    self.upstream,
                    why.told(),
                    String::from_utf8_lossy(&self.hls.source.host),
                    String::from_utf8_lossy(&self.hls.source.target),
                ),
            );
        }
    }

    /// It is larger than a playlist may be.
    fn give_up(self) {
        self.complain(Mistake::TooLarge);
        let _ = self.verdict.set(Err(Mistake::TooLarge));
    }
}

/// Does in the zone what a new version calls for.
fn apply(zone: &Zone, hls: &Hls, effect: Effect) {
    let demoted = effect.left.iter().filter(|key| zone.demote(key)).count();
    zone.streams.counters.demoted.add(demoted as u64);
    let Some(Purge { keys, origins, rewound }) = effect.purge else { return };
    let purged = zone.void(&keys, &origins);
    if let Some((before, now)) = rewound {
        zone.streams.counters.purged.add(purged);
        log(
            Level::Notice,
            format_args!(
                "the media sequence of \"{}{}\" went back from {before} to {now}: {purged} answers of its segments purged",
                String::from_utf8_lossy(&hls.source.host),
                String::from_utf8_lossy(&hls.source.target),
            ),
        );
    }
}

/// A body that is held back.
struct HeldBody {
    state: State,
    /// What is there of it.
    pieces: VecDeque<Bytes>,
    size: usize,
    /// `Content-Length`: what is shorter has broken off.
    length: Option<u64>,
}

enum State {
    Collecting(Body, Reading),
    Reading(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// What is there, then what else comes.
    Giving(Body),
}

impl BodyStream for HeldBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match &mut self.state {
                State::Collecting(body, _) => match ready!(body.poll_next(cx)) {
                    Some(Ok(piece)) => {
                        self.size += piece.len();
                        self.pieces.push_back(piece);
                        if self.size > LARGEST {
                            self.finish(false);
                        }
                    }
                    Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                    None => self.finish(true),
                },
                State::Reading(reading) => {
                    ready!(reading.as_mut().poll(cx));
                    self.state = State::Giving(Body::Empty);
                }
                State::Giving(rest) => {
                    return match self.pieces.pop_front() {
                        Some(piece) => Poll::Ready(Some(Ok(piece))),
                        None => rest.poll_next(cx),
                    };
                }
            }
        }
    }
}

impl HeldBody {
    /// No more is held back.
    fn finish(&mut self, ended: bool) {
        let state = std::mem::replace(&mut self.state, State::Giving(Body::Empty));
        let State::Collecting(body, reading) = state else { return };
        let broken = self.length.is_some_and(|length| length != self.size as u64);
        self.state = match ended {
            // Who reads it finds that it has broken off.
            true if broken => State::Giving(Body::Empty),
            true => State::Reading(Box::pin(reading.run(self.pieces.iter().cloned().collect()))),
            false => {
                reading.give_up();
                State::Giving(body)
            }
        };
    }
}
