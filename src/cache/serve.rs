//! The way of one request through the cache.
//!
//! Fresh: a hit. Stale: served while somebody updates it, where that is allowed. Else the request
//! reads the fill that is under way, or starts one. Only what may be kept is shared: when an answer
//! turns out to be one request's alone, the others each ask for themselves, and for a while later ones
//! do not wait for each other either.
//!
//! They do not ask all at once. A few go, and each that has its answer lets a few more go, as Varnish
//! does: a server that keeps up is soon asked by all, one that does not is not buried. When the answer
//! is that the server fails (500, 502, 503, 504), those who wait are told the status and have a page of
//! ours: no byte of an answer that may not be reused (RFC 9111, section 4) reaches another, but a
//! gateway may say of itself that it cannot serve (RFC 9110, section 15.6). Unless it is a matter
//! between the server and one client: then the next asks, one after the other, until one succeeds or
//! patience ends. nginx has them all ask one after the other, whatever the answer was.
//!
//! nginx shares only with `proxy_cache_lock on`, and then from the end of the first request on; here
//! everybody shares unless it is expressly off, from the first byte on. Who shares another's fill is a
//! `HIT`: it cost the upstream nothing.

use super::CacheStatus;
use super::entry::Entry;
use super::fill::{Fill, Home, Reader, Told, Turn, failure};
use super::filler::{self, Job, Outcome, Question, Upstream};
use super::hls::{Hls, is_absence};
use super::key::Key;
use super::passed;
use super::policy::{Policy, Rfc9111, is_down};
use super::seen::Tier;
use super::wishes::{Use, Wishes};
use super::zone::{Begun, Found, Zone};
use crate::http::head::Head;
use crate::http::response::Fields;
use crate::upstream::{Answer, Failure, FailureKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What a request wants of the cache.
pub struct Ask {
    /// The zone.
    pub zone: Arc<Zone>,
    /// What its location wants.
    pub policy: Arc<Policy>,
    /// What it asks for.
    pub key: Key,
    /// Whether it must not be answered from the cache.
    pub bypass: bool,
    /// Whether its answer must not be kept.
    pub no_cache: NoCache,
    /// Whether it asks for a range so far back that it is better passed on.
    pub far_range: bool,
    /// Whether what goes upstream asks for a range that the key names: its answer, a 206, is then all
    /// there is to keep.
    pub part: bool,
    /// Where playlists are known: what the request brings along.
    pub hls: Option<Arc<Hls>>,
}

/// `proxy_no_cache`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCache {
    /// Does not hold.
    No,
    /// Holds.
    Yes,
    /// Depends on the answer.
    Depends,
}

/// The request, as far as the cache needs it.
pub trait Viewer: Send {
    /// What can be sent upstream for it.
    type Upstream: Upstream;
    /// What the client sent.
    fn head(&self) -> &Head;
    /// Whether `proxy_no_cache` holds, given the answer if there is one.
    fn no_cache(&mut self, answer: Option<(u16, &Fields)>) -> bool;
    /// It has waited for another's answer for as long as it may.
    fn lost_patience(&mut self) {}
    /// Where a filler for it runs.
    fn home(&self) -> Option<Arc<dyn Home>> {
        None
    }
    /// Puts back into what goes upstream what only a cached request leaves out: conditions, ranges.
    fn plain(&mut self, upstream: &mut Self::Upstream);
}

/// What the request gets.
pub struct Served {
    /// How the cache answered.
    pub status: CacheStatus,
    /// The answer.
    pub result: Result<Answer, Failure>,
}

/// The fresh entry for a request, if there is one.
pub fn fresh(zone: &Zone, key: &Key, asked: &Head, now: Instant) -> Option<Arc<Entry>> {
    let entry = zone.find(key, asked).entry?;
    let fresh = entry.is_fresh(now);
    if fresh {
        zone.counters.served(entry.meta.received, now);
    }
    fresh.then_some(entry)
}

/// Answers a request.
pub async fn serve<V: Viewer>(ask: &Ask, viewer: &mut V, upstream: V::Upstream) -> Served {
    let served = Visit { ask, viewer, recalled: false, seen: 0 }.answer(upstream).await;
    ask.zone.counters.request(served.status);
    served
}

/// How often a request looks again because what it waited for was not for it; then it asks itself.
const TURNS: usize = 4;

struct Visit<'a, V> {
    ask: &'a Ask,
    viewer: &'a mut V,
    /// Whether what was found last was on disk only.
    recalled: bool,
    /// What the zone's purges said before anything was looked up.
    seen: u64,
}

/// What came of waiting for another's fill.
enum Waited {
    Served(Served),
    /// Look again, at this variant of a family if any is given.
    Again(Option<(Key, u64)>),
    /// The answer was another's alone, and it is this request's turn to ask.
    Turn(Turn),
    /// The server failed another, perhaps not this one.
    Failing,
    /// What varies cannot be told apart by its key.
    Alone,
    /// The other takes too long.
    Overdue,
    /// This one has waited too long.
    TimedOut,
}

impl<V: Viewer> Visit<'_, V> {
    async fn answer(&mut self, upstream: V::Upstream) -> Served {
        let ask = self.ask;
        let Ask { zone, policy, key, .. } = ask;
        if ask.bypass {
            if ask.no_cache == NoCache::Yes {
                return self.direct(upstream, CacheStatus::Bypass, None).await;
            }
            let Found { slot, .. } = zone.find(key, self.viewer.head());
            return self.own(upstream, CacheStatus::Bypass, slot, None).await;
        }
        let wishes = Wishes::of(policy, self.viewer.head());
        let keeps_nothing = ask.no_cache == NoCache::Yes || wishes.no_store();
        let patience = Instant::now() + policy.lock_timeout;
        let (mut variant, mut turns, mut first) = (None, 0, true);
        // Given back when this request has its answer, or has left.
        let mut turn: Option<Turn> = None;
        let served = loop {
            self.seen = zone.purges.changes();
            let Found { slot, entry, recalled, family } = match variant.take() {
                Some((slot, family)) => zone.look_variant(slot, family, self.viewer.head()).await,
                None => zone.look(key, self.viewer.head()).await,
            };
            self.recalled = recalled;
            let now = Instant::now();
            let usage = entry.as_ref().map_or(Use::Not, |entry| wishes.allow(policy, entry, now));
            if let Some(entry) = &entry {
                match usage {
                    Use::Fresh => {
                        zone.counters.served(entry.meta.received, now);
                        break self.kept(CacheStatus::Hit, entry);
                    }
                    Use::Stale => break self.kept(CacheStatus::Stale, entry),
                    Use::Not | Use::Validate => {}
                }
            }
            // A failure that is over is nothing to fall back on, nor is what a page stands in for, nor that
            // something was not there.
            let usable = |e: &Arc<Entry>| {
                e.failure.is_none() && !policy.intercepted.contains(&e.status) && !is_absence(e)
            };
            let stale = entry.filter(usable);
            let missed = if stale.is_some() { CacheStatus::Expired } else { CacheStatus::Miss };
            if wishes.only_if_cached() {
                let why = "only what is cached was asked for, and it is not";
                break Served { status: missed, result: Err(failure(504, FailureKind::Internal, why)) };
            }
            if let Some(entry) = &stale
                && usage == Use::Not
                && policy.serves_while_updating(entry, now)
            {
                if zone.is_filling(&slot, policy.lock_age) {
                    break self.kept(CacheStatus::Updating, entry);
                }
                if policy.background_update && !wishes.no_store() {
                    break self.update(upstream, (slot, family), entry);
                }
            }
            // What others ask for, or will get, is not for this one.
            let by_itself = usage == Use::Validate
                || wishes.wants_new()
                || stale.as_ref().is_some_and(|stale| policy.is_for_one(stale));
            // What is not to be kept, or not yet, goes the way of such requests.
            let counts = stale.is_none() && policy.min_uses > 1;
            if by_itself && !keeps_nothing && !ask.far_range && !counts {
                break self.own(upstream, missed, slot, stale).await;
            }
            // Whose turn it is to ask waits for nobody, but reads what is seen to be for all.
            let overdue = if turn.is_some() { Duration::ZERO } else { policy.lock_age };
            let joined = match policy.share.then(|| zone.join(&slot, overdue)).flatten() {
                Some(reader) => Begun::Joined(reader),
                None => {
                    let counted = std::mem::take(&mut first) && stale.is_none() && policy.min_uses > 1;
                    if counted && zone.used(&slot) < policy.min_uses {
                        break self.plain(upstream, missed, None).await;
                    }
                    if ask.far_range {
                        break self.plain(upstream, missed, stale).await;
                    }
                    if keeps_nothing {
                        break self.direct(upstream, missed, stale).await;
                    }
                    // Without sharing only updates are known to others: nginx marks what is stale.
                    let shared = if policy.share {
                        turns < TURNS && turn.is_none() && !zone.is_apart(&slot)
                    } else {
                        stale.is_some() && !zone.is_filling(&slot, policy.lock_age)
                    };
                    if !shared {
                        break self.own(upstream, missed, slot, stale).await;
                    }
                    let place = (&slot, family);
                    zone.begin(place, policy.lock_age, stale.as_ref(), || self.fill(&slot))
                }
            };
            turns += 1;
            match joined {
                Begun::Changed => {}
                Begun::Started(fill) => break self.lead(upstream, missed, slot, stale, fill).await,
                // Somebody was quicker, for whom it does not wait.
                Begun::Joined(_) if !policy.share => break self.own(upstream, missed, slot, stale).await,
                Begun::Joined(reader) => match self.wait(reader, &slot, stale.as_ref(), patience).await {
                    Waited::Served(served) => break served,
                    Waited::Again(slot) => variant = slot,
                    Waited::Turn(mine) => turn = Some(mine),
                    // Each time another has asked, so that it comes to an end.
                    Waited::Failing | Waited::Overdue => turns = 0,
                    Waited::Alone => break self.own(upstream, missed, slot, stale).await,
                    Waited::TimedOut => {
                        zone.counters.lock_timeouts.inc();
                        self.viewer.lost_patience();
                        break self.plain(upstream, missed, stale).await;
                    }
                },
            }
        };
        if let (Some(turn), Ok(answer)) = (&mut turn, &served.result)
            && !is_down(answer.status)
        {
            turn.went_well();
        }
        served
    }

    /// Waits for the head of another's fill until `patience` ends.
    async fn wait(
        &mut self,
        reader: Reader,
        slot: &Key,
        stale: Option<&Arc<Entry>>,
        patience: Instant,
    ) -> Waited {
        let policy = &self.ask.policy;
        // One who waits may be the one that asks when the other takes too long.
        let until = reader.overdue_at(policy.lock_age).map_or(patience, |overdue| overdue.min(patience));
        let told = match timeout_at(until, reader.told()).await {
            Ok(told) => told,
            Err(_) if until < patience => return Waited::Overdue,
            Err(_) => return Waited::TimedOut,
        };
        let now = Instant::now();
        let missed = if stale.is_some() { CacheStatus::Expired } else { CacheStatus::Miss };
        let hit = |result| Waited::Served(Served { status: CacheStatus::Hit, result });
        let failed = |failure| Waited::Served(Served { status: missed, result: Err(failure) });
        let fall_back = |entry: &Arc<Entry>| {
            Waited::Served(Served { status: CacheStatus::Stale, result: policy.answer(entry) })
        };
        match told {
            // It was not known that it would be purged when the request joined.
            Told::Shared(_) | Told::Entry(_) if reader.is_purged() => Waited::Again(None),
            Told::Shared(opening) => match &opening.vary {
                Some(vary) if !vary.suits(self.viewer.head()) => {
                    let other = self.ask.key.variant(vary.variant_for(self.viewer.head()));
                    if other.hash == slot.hash {
                        Waited::Alone
                    } else {
                        Waited::Again(Some((other, opening.meta.family)))
                    }
                }
                _ => hit(Ok(policy.shared(reader.with_parts().answer(&opening), &opening.meta))),
            },
            Told::Entry(entry) => match &entry.vary {
                Some(vary) if !vary.suits(self.viewer.head()) => Waited::Again(None),
                // It was confirmed for the one who asked.
                _ if policy.rfc9111 != Rfc9111::Off && !entry.is_fresh(now) => turn(reader, patience).await,
                _ => hit(policy.answer(&entry)),
            },
            Told::Alone(status) | Told::Down(status, _)
                if let Some(entry) = stale
                    && policy.serves_on_status(entry, status, now) =>
            {
                fall_back(entry)
            }
            Told::Down(status, vary) if vary.as_ref().is_none_or(|v| v.suits(self.viewer.head())) => {
                failed(failure(status, FailureKind::Error, "the upstream failed a request like this one"))
            }
            Told::Down(..) => Waited::Failing,
            Told::Alone(status) if is_down(status) => Waited::Failing,
            Told::Alone(_) => turn(reader, patience).await,
            Told::Failed(status, kind, why) => match stale {
                Some(entry) if policy.serves_on_failure(entry, kind, now) => fall_back(entry),
                // The filler's worker ended, not the upstream.
                _ if kind == FailureKind::Internal => turn(reader, patience).await,
                _ => failed(failure(status, kind, &why)),
            },
        }
    }

    /// Serves a stale entry and has it updated by nobody's request.
    fn update(&mut self, upstream: V::Upstream, (slot, family): (Key, u64), entry: &Arc<Entry>) -> Served {
        // Nobody will be there to ask when the answer comes.
        let no_cache = match self.ask.no_cache {
            NoCache::Depends => self.viewer.no_cache(None),
            known => known == NoCache::Yes,
        };
        let mut status = CacheStatus::Stale;
        if !no_cache {
            let overdue = self.ask.policy.lock_age;
            match self.ask.zone.begin((&slot, family), overdue, Some(entry), || self.fill(&slot)) {
                Begun::Started(fill) => {
                    let job = Job { ask: false, ..self.job(slot, Some(entry.clone()), fill) };
                    filler::spawn(job, upstream);
                }
                Begun::Joined(_) | Begun::Changed => status = CacheStatus::Updating,
            }
        }
        self.kept(status, entry)
    }

    fn kept(&self, status: CacheStatus, entry: &Entry) -> Served {
        let mut result = self.ask.policy.answer(entry);
        if let (Ok(answer), true) = (&mut result, self.recalled) {
            answer.source.tier = Tier::Disk;
        }
        Served { status, result }
    }

    fn fill(&self, slot: &Key) -> Arc<Fill> {
        Fill::new(slot.text.clone(), self.viewer.home())
    }

    fn job(&self, slot: Key, stale: Option<Arc<Entry>>, fill: Arc<Fill>) -> Job {
        let Ask { zone, policy, key, bypass, no_cache, part, hls, .. } = self.ask;
        Job {
            zone: zone.clone(),
            fill,
            policy: policy.clone(),
            key: key.clone(),
            slot,
            asked: self.viewer.head().clone(),
            stale,
            seen: self.seen,
            ask: *no_cache == NoCache::Depends,
            part: *part,
            bypass: *bypass,
            hls: hls.clone(),
        }
    }

    /// A fill that others learn of only when its answer may be shared.
    async fn own(
        &mut self,
        upstream: V::Upstream,
        status: CacheStatus,
        slot: Key,
        stale: Option<Arc<Entry>>,
    ) -> Served {
        let fill = self.fill(&slot);
        self.lead(upstream, status, slot, stale, fill).await
    }

    /// Starts the filler of `fill` and is the first to read it.
    async fn lead(
        &mut self,
        upstream: V::Upstream,
        missed: CacheStatus,
        slot: Key,
        stale: Option<Arc<Entry>>,
        fill: Arc<Fill>,
    ) -> Served {
        // Joined before anything can be forgotten.
        let reader = fill.join();
        self.ask.zone.counters.readers.inc();
        let requester = filler::spawn(self.job(slot, stale.clone(), fill), upstream);
        if let Some(question) = requester.question
            && let Ok(Question { status, fields, reply }) = question.await
        {
            // The filler waits for the reply.
            let _ = reply.send(self.viewer.no_cache(Some((status, &fields))));
        }
        let gone = || Err(failure(502, FailureKind::Error, "the fill was interrupted"));
        let outcome = requester.outcome.await;
        match (outcome, reader) {
            (Ok(Outcome::Own(answer)), _) => self.unless_stale_on_status(answer, missed, stale),
            (Ok(Outcome::Failed(failure)), _) => self.unless_stale_on_failure(failure, missed, stale),
            (Ok(Outcome::Entry(entry, attempts)), _) => {
                let result = entry.answer().map(|answer| Answer { attempts, ..answer });
                Served { status: CacheStatus::Revalidated, result }
            }
            (Ok(Outcome::Shared(opening, attempts)), Some(reader)) => {
                let answer = Answer { attempts, ..reader.answer(&opening) };
                Served { status: missed, result: Ok(answer) }
            }
            (Ok(Outcome::Shared(..)), None) | (Err(_), _) => Served { status: missed, result: gone() },
        }
    }

    /// Goes upstream as if there were no cache.
    async fn plain(
        &mut self,
        mut upstream: V::Upstream,
        missed: CacheStatus,
        stale: Option<Arc<Entry>>,
    ) -> Served {
        self.viewer.plain(&mut upstream);
        self.send(upstream, missed, stale).await
    }

    /// Goes upstream; nothing is kept or shared.
    async fn direct(
        &mut self,
        upstream: V::Upstream,
        missed: CacheStatus,
        stale: Option<Arc<Entry>>,
    ) -> Served {
        let mut served = self.send(upstream, missed, stale).await;
        if let Ok(answer) = &mut served.result
            && !answer.kept
        {
            passed::pass_for_kept(answer, self.viewer.head(), &self.ask.policy);
        }
        served
    }

    async fn send(
        &mut self,
        upstream: V::Upstream,
        missed: CacheStatus,
        stale: Option<Arc<Entry>>,
    ) -> Served {
        match upstream.fetch(None).await {
            Ok(answer) => self.unless_stale_on_status(answer, missed, stale),
            Err(failure) => self.unless_stale_on_failure(failure, missed, stale),
        }
    }

    fn unless_stale_on_status(
        &self,
        answer: Answer,
        missed: CacheStatus,
        stale: Option<Arc<Entry>>,
    ) -> Served {
        match stale {
            Some(entry) if self.ask.policy.serves_on_status(&entry, answer.status, Instant::now()) => {
                let attempts = answer.attempts;
                let result = self.ask.policy.answer(&entry).map(|answer| Answer { attempts, ..answer });
                Served { status: CacheStatus::Stale, result }
            }
            _ => Served { status: missed, result: Ok(answer) },
        }
    }

    fn unless_stale_on_failure(
        &self,
        failure: Failure,
        missed: CacheStatus,
        stale: Option<Arc<Entry>>,
    ) -> Served {
        match stale {
            Some(entry) if self.ask.policy.serves_on_failure(&entry, failure.kind, Instant::now()) => {
                let attempts = failure.attempts;
                let result = self.ask.policy.answer(&entry).map(|answer| Answer { attempts, ..answer });
                Served { status: CacheStatus::Stale, result }
            }
            _ => Served { status: missed, result: Err(failure) },
        }
    }
}

/// Waits until so few ask at the same time that this request may, too.
async fn turn(reader: Reader, patience: Instant) -> Waited {
    match timeout_at(patience, reader.turn()).await {
        Ok(turn) => Waited::Turn(turn),
        Err(_) => Waited::TimedOut,
    }
}
