//! The task that asks the upstream and makes a fill grow. No request drives it, so none that leaves
//! can stop it.

use super::counters::FillEnd;
use super::disk::Draft;
use super::entry::{Entry, EntryBody, Meta, Times, Validators, pack_fields};
use super::fill::{Fill, Opening, Told};
use super::freshness::{self, Received, Refusal, Verdict, wall};
use super::hls::watch::{self, Watch};
use super::hls::{self, Hls};
use super::key::{HEAD, Key};
use super::pack::{Packed, Packer};
use super::passed;
use super::policy::{Policy, Rfc9111, is_down};
use super::pump::{Claim, Held, Pump};
use super::purge::Ticket;
use super::streams;
use super::update;
use super::vary::Vary;
use super::zone::Zone;
use crate::http::body::Body;
use crate::http::head::Head;
use crate::http::request::Attempt;
use crate::http::response::Fields;
use crate::upstream::{Answer, Failure, FailureKind};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A request that can be sent to an upstream, once.
pub trait Upstream: Send + 'static {
    /// Sends it, with validators when what is kept is only to be confirmed.
    fn fetch(
        self,
        validators: Option<Validators>,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send + 'static;
}

/// What is to be filled, and how.
pub struct Job {
    /// The zone.
    pub zone: Arc<Zone>,
    /// The fill, in the zone's table or not.
    pub fill: Arc<Fill>,
    /// What the location wants.
    pub policy: Arc<Policy>,
    /// The key.
    pub key: Key,
    /// The key of the variant.
    pub slot: Key,
    /// What the client sent, for `Vary`.
    pub asked: Head,
    /// What is kept and stale.
    pub stale: Option<Arc<Entry>>,
    /// What [`super::purge::Purges::changes`] said before that was looked up.
    pub seen: u64,
    /// Whether the requester is to be asked about `proxy_no_cache` when the answer is there.
    pub ask: bool,
    /// Whether a 206 is what was asked for.
    pub part: bool,
    /// Whether the request was not to be answered from the cache.
    pub bypass: bool,
    /// Where playlists are known: what the request brings along.
    pub hls: Option<Arc<Hls>>,
}

/// What the requester, and nobody else, gets.
pub enum Outcome {
    /// The answer is its own.
    Own(Answer),
    /// The answer is shared, and read from the fill.
    Shared(Arc<Opening>, Vec<Attempt>),
    /// What was kept is fresh again.
    Entry(Arc<Entry>, Vec<Attempt>),
    /// There is no answer.
    Failed(Failure),
}

/// The filler asks whether `proxy_no_cache` holds for this answer.
pub struct Question {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: Fields,
    /// Where the reply goes.
    pub reply: oneshot::Sender<bool>,
}

/// The requester's end.
pub struct Requester {
    /// A question, if one was to be asked.
    pub question: Option<oneshot::Receiver<Question>>,
    /// What comes of it.
    pub outcome: oneshot::Receiver<Outcome>,
}

/// Starts a filler.
pub fn spawn<U: Upstream>(job: Job, upstream: U) -> Requester {
    let (outcome, outcome_end) = oneshot::channel();
    let (question, question_end) = job.ask.then(oneshot::channel).unzip();
    job.zone.counters.filling.add(1);
    let purges = &job.zone.purges;
    let ticket = purges.ticket(&job.fill.mark);
    // A purge that comes from here on marks the fill.
    let stale = job.stale.filter(|stale| purges.stands(job.seen, stale));
    if let Some(hls) = &job.hls {
        // It is told once: this is the fill's only filler.
        let _ = job.fill.origin.set(streams::hash(&hls.origin));
    }
    let filler = Filler { job: Job { stale, ..job }, ticket, received: 0, watch: None };
    tokio::spawn(filler.run(upstream, question, outcome));
    Requester { question: question_end, outcome: outcome_end }
}

/// A job under way. However it ends, nobody is left waiting: see its `Drop`.
struct Filler {
    job: Job,
    /// What a purge finds it by.
    ticket: Ticket,
    /// When the head came, milliseconds since 1970.
    received: u64,
    /// Tells whether it is a playlist, and how long that lives.
    watch: Option<Watch>,
}

impl Filler {
    async fn run<U: Upstream>(
        mut self,
        upstream: U,
        question: Option<oneshot::Sender<Question>>,
        outcome: oneshot::Sender<Outcome>,
    ) {
        let stale = if self.job.policy.revalidate { self.job.stale.clone() } else { None };
        let kept = stale.and_then(|stale| Some((stale.validators()?, stale)));
        let asked = Instant::now();
        let fetched = upstream.fetch(kept.as_ref().map(|(validators, _)| validators.clone())).await;
        let now = Instant::now();
        self.received = wall().as_millis().try_into().unwrap_or(u64::MAX);
        let delay = now - asked;
        let mut fetched = fetched;
        self.watch = fetched.as_mut().ok().and_then(|answer| watch::hold(&self.job, answer, now, delay));
        let end = match (fetched, kept) {
            (Err(failure), _) => self.failed(failure, now, outcome),
            (Ok(answer), Some((_, stale))) if answer.status == 304 => match self.job.policy.rfc9111 {
                Rfc9111::Off => self.confirmed(answer, &stale, now, outcome),
                Rfc9111::Responses | Rfc9111::On => self.updated(answer, &stale, now, delay, outcome),
            },
            (Ok(answer), _) => match self.judge(&answer, now, delay) {
                Err(refusal) => self.alone(answer, refusal, outcome),
                Ok(_) if forbids(question, answer.status, &answer.fields).await => {
                    self.alone(answer, Some(Refusal::NoCache), outcome)
                }
                Ok((verdict, vary)) => {
                    let times = Times::new(now, verdict.lifetime);
                    self.receive(answer, verdict, vary, times, outcome).await
                }
            },
        };
        self.job.zone.counters.fill(end);
    }

    fn failed(&self, failure: Failure, now: Instant, outcome: oneshot::Sender<Outcome>) -> FillEnd {
        let Job { policy, slot, stale, .. } = &self.job;
        let covered = stale.as_ref().is_some_and(|s| policy.serves_on_failure(s, failure.kind, now));
        // A failure of our own making is kept like an answer, as nginx keeps it; but that of a request
        // which passed by what is kept says nothing of that.
        let is_fresh = || self.job.zone.store.get(slot).is_some_and(|entry| entry.is_fresh(now));
        if !covered
            && !self.job.bypass
            && !is_fresh()
            && matches!(failure.status, 502 | 504)
            && let Some(fresh) = policy.valid(failure.status)
        {
            let failed = Entry::failure(slot.text.clone(), &failure, now, fresh);
            self.put(slot, Entry { meta: self.meta(), ..failed });
        }
        self.tell_last(Told::Failed(failure.status, failure.kind, failure.message.as_str().into()));
        // The requester may have left; nobody else wants its failure.
        let _ = outcome.send(Outcome::Failed(failure));
        FillEnd::Failed
    }

    /// A 304: what is kept lives on.
    fn confirmed(
        &self,
        answer: Answer,
        stale: &Arc<Entry>,
        now: Instant,
        outcome: oneshot::Sender<Outcome>,
    ) -> FillEnd {
        let Job { policy, slot, .. } = &self.job;
        let at = self.received / 1000;
        let lifetime = watch::confirmed(&self.job, &answer.fields, stale)
            .or_else(|| freshness::refreshed(&answer.fields, stale.status, &stale.fields, policy, at));
        let entry = match lifetime {
            Some(lifetime) => {
                let entry = stale.refreshed(Times::new(now, lifetime));
                let meta = Meta { origin: stale.meta.origin.clone(), ..self.meta() };
                self.ticket.opened(&entry.fields);
                self.put(slot, Entry { meta, ..entry })
            }
            None => stale.clone(),
        };
        self.tell_last(Told::Entry(entry.clone()));
        // The requester may have left.
        let _ = outcome.send(Outcome::Entry(entry, answer.attempts));
        FillEnd::Refreshed
    }

    /// A 304 by RFC 9111: it changes the fields of what is kept, and with them how long that lives.
    fn updated(
        &self,
        answer: Answer,
        stale: &Arc<Entry>,
        now: Instant,
        delay: Duration,
        outcome: oneshot::Sender<Outcome>,
    ) -> FillEnd {
        let Job { zone, policy, key, slot, asked, .. } = &self.job;
        let at = self.received / 1000;
        let fields = match update::confirms(&answer.fields, stale) {
            true => update::updated(&stale.fields, &answer.fields, at),
            false => stale.fields.clone(),
        };
        let received = Received { status: stale.status, fields: &fields, asked, delay, now: at };
        let judged = freshness::judge(&received, policy);
        let judged = match watch::confirmed(&self.job, &answer.fields, stale) {
            Some(lifetime) => Ok(Verdict { lifetime, for_one: false, ..judged.unwrap_or_default() }),
            None => judged,
        };
        let judged = judged
            .and_then(|verdict| {
                let vary = self.vary(&fields)?;
                // What varies by something else now is not where requests would look for it, and what
                // grows with each 304 has a bound.
                match place(key, slot, vary.as_ref()).hash == slot.hash {
                    _ if fields.size() > update::LARGEST => Err(Refusal::TooLarge),
                    true => Ok((verdict, vary)),
                    false => Err(Refusal::Vary),
                }
            })
            .map_err(Some)
            // Nothing is known of what is kept that was not known before.
            .and_then(|judged| update::confirms(&answer.fields, stale).then_some(judged).ok_or(None));
        let (entry, end) = match judged {
            Ok((verdict, vary)) => {
                let kept = update::stored(&fields, &verdict, policy, at);
                let entry = |fields: &Fields| {
                    let times = Times::new(now, verdict.lifetime);
                    let origin = stale.meta.origin.clone();
                    let meta = Meta { initial_age: verdict.initial_age, origin, ..self.meta() };
                    let fields = pack_fields(fields);
                    Entry { fields, vary: vary.clone(), meta, ..stale.refreshed(times) }
                };
                let shared = entry(kept.as_ref().unwrap_or(&fields));
                self.ticket.opened(&shared.fields);
                let shared = self.put(slot, shared);
                self.tell_last(Told::Entry(shared.clone()));
                (if kept.is_some() { Arc::new(entry(&fields)) } else { shared }, FillEnd::Refreshed)
            }
            Err(refusal) => {
                // What must not be stored any more is not; its requester may have it. A cookie says
                // nothing of what is kept.
                if let Some(refusal) = refusal {
                    zone.counters.refusal(refusal);
                }
                if refusal.is_some_and(|refusal| refusal != Refusal::SetCookie) {
                    zone.forget(slot);
                }
                self.tell_last(Told::Alone(answer.status));
                let fields = pack_fields(&fields);
                (Arc::new(Entry { fields, ..stale.refreshed(stale.times) }), FillEnd::Uncacheable)
            }
        };
        // The requester may have left.
        let _ = outcome.send(Outcome::Entry(entry, answer.attempts));
        end
    }

    /// Whether the answer may be kept and shared; `Err(None)` when something better is kept.
    fn judge(
        &self,
        answer: &Answer,
        now: Instant,
        delay: Duration,
    ) -> Result<(Verdict, Option<Vary>), Option<Refusal>> {
        let Job { policy, stale, asked, part, .. } = &self.job;
        // A part is not the whole.
        if answer.status == 206 && !part {
            return Err(Some(Refusal::Status));
        }
        if stale.as_ref().is_some_and(|stale| policy.serves_on_status(stale, answer.status, now)) {
            return Err(None);
        }
        if answer.tunnel.is_some() {
            return Err(Some(Refusal::Status));
        }
        let Answer { status, fields, .. } = answer;
        let received = Received { status: *status, fields, asked, delay, now: self.received / 1000 };
        let verdict = match &self.job.hls {
            Some(hls) => hls::judge::judge(hls, &self.job.zone.streams, &received, policy)?,
            None => freshness::judge(&received, policy)?,
        };
        let vary = self.vary(fields)?;
        Ok((verdict, vary))
    }

    fn vary(&self, fields: &Fields) -> Result<Option<Vary>, Refusal> {
        match self.job.policy.ignore.vary {
            true => Ok(None),
            false => Vary::of(fields, &self.job.asked).map_err(|_| Refusal::Vary),
        }
    }

    fn alone(&self, mut answer: Answer, why: Option<Refusal>, outcome: oneshot::Sender<Outcome>) -> FillEnd {
        let Job { zone, slot, asked, policy, .. } = &self.job;
        answer.source.refusal = why;
        passed::pass_for_kept(&mut answer, asked, policy);
        if let Some(why) = why {
            zone.counters.refusal(why);
            // `proxy_no_cache` is the request's matter and says nothing about the next; nor does a
            // failure, and who fails is not to be asked by all at once.
            if why != Refusal::NoCache && !is_down(answer.status) && !zone.is_apart(slot) {
                zone.set_apart(slot);
            }
        }
        let theirs = why != Some(Refusal::NoCache) && is_down(answer.status) && !is_private(&answer, asked);
        self.tell_last(match Vary::of(&answer.fields, asked) {
            Ok(vary) if theirs => Told::Down(answer.status, vary),
            _ => Told::Alone(answer.status),
        });
        // The requester may have left; the answer is dropped then, and its connection with it.
        let _ = outcome.send(Outcome::Own(answer));
        FillEnd::Uncacheable
    }

    /// Receives the body of an answer that is shared, and keeps it when it is whole.
    async fn receive(
        &mut self,
        answer: Answer,
        verdict: Verdict,
        vary: Option<Vary>,
        times: Times,
        outcome: oneshot::Sender<Outcome>,
    ) -> FillEnd {
        let Answer { status, reason, fields, length, mut body, attempts, .. } = answer;
        let reason = Bytes::copy_from_slice(&reason);
        let meta = Meta { initial_age: verdict.initial_age, ..self.meta() };
        let kept = update::stored(&fields, &verdict, &self.job.policy, self.received / 1000);
        let fresh_until = Some(times.fresh_until);
        // The answer to HEAD, above all, says how long a body is that does not come.
        let (coming, stated) = match &body {
            Body::Empty => (None, length.filter(|_| self.job.slot.text.ends_with(HEAD))),
            _ => (length, None),
        };
        let too_large = coming.is_some_and(|length| !self.job.zone.may_keep(length));
        let refusal = too_large.then_some(Refusal::TooLarge);
        let opening = |fields: &Fields| {
            let (reason, vary, meta) = (reason.clone(), vary.clone(), meta.clone());
            let fields = pack_fields(fields);
            Arc::new(Opening { status, reason, fields, length, vary, fresh_until, refusal, meta })
        };
        let own = opening(&fields);
        self.ticket.opened(&own.fields);
        let opening = kept.map_or_else(|| own.clone(), |kept| opening(&kept));
        drop(fields);
        let Job { zone, fill, slot, .. } = &self.job;
        if verdict.for_one {
            zone.leave(slot, fill);
            fill.tell(Told::Alone(status));
        } else {
            zone.admit(slot, fill);
            fill.tell(Told::Shared(opening.clone()));
        }
        // The requester may have left; the others have not, or will come.
        let _ = outcome.send(Outcome::Shared(own, attempts));
        let mut claim = Claim::new(zone.clone());
        let place = place(&self.job.key, slot, opening.vary.as_ref());
        let pumped = Pump::new(&self.job, &mut claim, place, coming).run(&mut body).await;
        let times = match (&pumped, &self.watch) {
            (Ok(_), Some(watch)) => match watch.times(zone) {
                Ok(times) => times,
                Err(refusal) => return self.unkept(refusal),
            },
            _ => times,
        };
        match pumped {
            Ok(Held::Memory) => {
                self.keep(place, &opening, times, stated).await;
                FillEnd::Stored
            }
            Ok(Held::File(draft)) => match self.commit(draft, place, &opening, times).await {
                Ok(()) => FillEnd::Stored,
                // The disk has said why.
                Err(_) => FillEnd::Passed,
            },
            Ok(Held::Passed) => FillEnd::Passed,
            Err((end, why)) => {
                self.job.zone.leave(&self.job.slot, &self.job.fill);
                self.job.fill.finish(Err(why));
                end
            }
        }
    }

    /// What was received looked like a playlist and is none, and may not be kept.
    fn unkept(&self, refusal: Refusal) -> FillEnd {
        let Job { zone, fill, slot, .. } = &self.job;
        zone.counters.refusal(refusal);
        zone.set_apart(slot);
        zone.leave(slot, fill);
        fill.finish(Ok(()));
        FillEnd::Uncacheable
    }

    /// Keeps what is whole and in memory, at `place`.
    async fn keep(&self, place: &Key, opening: &Opening, times: Times, stated: Option<u64>) {
        let Job { zone, fill, slot, .. } = &self.job;
        let body = pack(fill.pieces_from(0)).await;
        // From here on readers read what is kept, so that nothing is held twice.
        fill.replace(body.parts());
        let mut entry = self.entry(EntryBody::Memory(body), opening, times);
        if let Some(length) = stated {
            entry.state_length(length);
        }
        self.put(place, entry);
        zone.leave(slot, fill);
        fill.finish(Ok(()));
    }

    /// Keeps what is whole and in a file, at `place`.
    async fn commit(
        &self,
        draft: Draft,
        place: &Key,
        opening: &Opening,
        times: Times,
    ) -> std::io::Result<()> {
        let entry = self.entry(EntryBody::default(), opening, times);
        let mark = self.job.fill.mark.clone();
        self.put(place, draft.commit(place, entry, move || !mark.is_purged()).await?);
        Ok(())
    }

    fn entry(&self, body: EntryBody, opening: &Opening, times: Times) -> Entry {
        Entry {
            key: self.job.slot.text.clone(),
            status: opening.status,
            reason: opening.reason.clone(),
            fields: opening.fields.clone(),
            length: self.job.fill.received(),
            body,
            vary: opening.vary.clone(),
            times,
            failure: None,
            meta: opening.meta.clone(),
        }
    }

    /// What is known of an entry that is made of the answer. As a main entry it follows the one that
    /// is kept.
    fn meta(&self) -> Meta {
        let Job { zone, key, hls, .. } = &self.job;
        let origin = hls.as_ref().map(|hls| hls.origin.clone()).unwrap_or_default();
        let sequence = self.ticket.sequence();
        let family = zone.store.get(key).map_or(sequence, |main| main.meta.family.min(sequence));
        Meta { received: self.received, sequence, family, origin, ..Meta::default() }
    }

    /// Gives the zone an entry, unless it was purged; `slot` is where requests look for it.
    fn put(&self, slot: &Key, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        let Job { zone, fill, .. } = &self.job;
        // It was asked for before the encoder began anew; or that happens now.
        let is_void = || zone.streams.is_void(&entry.meta.origin, self.ticket.sequence());
        if is_void() {
            if entry.holds_file() {
                zone.forget(slot);
            }
            return entry;
        }
        let keep = || zone.keep_for(slot, entry.clone(), fill.joined());
        if self.ticket.unless_purged(keep).is_none() {
            return entry;
        }
        zone.note_variant(&self.job.key, slot);
        if !self.watch.as_ref().is_some_and(Watch::is_playlist) {
            zone.register(slot, &entry);
        }
        if is_void() {
            zone.forget(slot);
        }
        entry
    }

    /// Tells those who wait how it ended; nobody joins any more.
    fn tell_last(&self, told: Told) {
        self.job.zone.leave(&self.job.slot, &self.job.fill);
        self.job.fill.tell(told);
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let Job { zone, fill, slot, .. } = &self.job;
        zone.counters.filling.add(-1);
        zone.counters.fill_readers(fill.joined());
        // Only if the task was ended from outside, or fell, has nobody been told yet.
        zone.leave(slot, fill);
        let why = "the fill was interrupted";
        fill.tell(Told::Failed(502, FailureKind::Internal, why.into()));
        fill.finish(Err(why.into()));
    }
}

/// Whether the requester, where it is to be asked, forbids that this answer is kept. With the
/// requester gone nobody can tell, and what may be forbidden is not done.
async fn forbids(question: Option<oneshot::Sender<Question>>, status: u16, fields: &Fields) -> bool {
    let Some(question) = question else { return false };
    let (reply, replied) = oneshot::channel();
    question.send(Question { status, fields: fields.clone(), reply }).is_err()
        || replied.await.unwrap_or(true)
}

/// Whether an answer says that it is for one client, or was asked for with who the client is.
fn is_private(answer: &Answer, asked: &Head) -> bool {
    let names_one = |value: &Bytes| memchr::memmem::find(&value.to_ascii_lowercase(), b"private").is_some();
    answer.fields.get("set-cookie").is_some()
        || answer.fields.all("cache-control").any(names_one)
        || asked.get("authorization").is_some()
}

/// Bytes copied before others have their turn.
const TURN: usize = 1 << 20;

/// Copies a body into memory of its own. Lets others run in between.
async fn pack(pieces: Vec<Bytes>) -> Packed {
    let mut packer = Packer::new(pieces.iter().map(Bytes::len).sum());
    let mut copied = 0;
    for piece in pieces {
        packer.push(&piece);
        copied += piece.len();
        if copied >= TURN {
            copied = 0;
            tokio::task::yield_now().await;
        }
    }
    packer.finish()
}

/// Where an entry for `slot` is kept. A variant is found by what the main entry varies by; one that
/// varies by something else becomes the main entry.
fn place<'a>(key: &'a Key, slot: &'a Key, vary: Option<&Vary>) -> &'a Key {
    let found = match vary {
        _ if slot.hash == key.hash => true,
        Some(vary) => key.variant(vary.variant()).hash == slot.hash,
        None => false,
    };
    if found { slot } else { key }
}
