//! How a body gets from the upstream into a fill: held in memory as long as memory may hold it, then
//! spilled to a file, and passed through where there is none.

use super::counters::FillEnd;
use super::disk::Draft;
use super::fill::Abandoned;
use super::filler::Job;
use super::freshness::Refusal;
use super::key::Key;
use super::spill::Spill;
use super::zone::Zone;
use crate::http::body::{Body, BodyError};
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of a fill that are in memory when the rest is in a file, or must be waited for.
pub const WINDOW: u64 = 1 << 20;

/// The same where fills hold more than their share of memory already.
const NARROW: u64 = 128 << 10;

/// What a piece takes beyond its bytes: where it is, who holds it, what the allocator rounds up.
const COST: u64 = 128;

/// Pieces from this size on are worth what they cost; what smaller ones cost is counted.
const SMALL: u64 = 1024;

/// How a body that was received whole was held.
pub enum Held {
    /// In memory, all of it.
    Memory,
    /// In a file that may become the entry.
    File(Draft),
    /// It may not be kept.
    Passed,
}

/// Why a body was not received whole, and what its readers are told.
pub type Broken = (FillEnd, Arc<str>);

/// Bytes of what the fills of a zone hold together. Given back when it is dropped.
pub struct Claim {
    zone: Arc<Zone>,
    bytes: u64,
}

impl Claim {
    /// Nothing yet.
    pub fn new(zone: Arc<Zone>) -> Claim {
        Claim { zone, bytes: 0 }
    }

    /// Takes more, if there is so much left.
    fn grow(&mut self, bytes: u64) -> bool {
        let grown = self.zone.reserve(bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Takes or gives back what there is to so many: a window is held in any case.
    fn set(&mut self, bytes: u64) {
        self.zone.exchange(std::mem::replace(&mut self.bytes, bytes), bytes);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.zone.release(self.bytes);
    }
}

/// A body on its way.
pub struct Pump<'a> {
    job: &'a Job,
    claim: &'a mut Claim,
    /// Where what becomes of it would be kept.
    place: &'a Key,
    length: Option<u64>,
    /// Bytes that are in the fill.
    received: u64,
    /// What came in small pieces costs so much besides.
    besides: u64,
    /// Whether others may still join.
    open: bool,
    way: Way,
}

enum Way {
    Memory,
    File(Spill),
    Pass,
}

impl<'a> Pump<'a> {
    /// A body of `length` bytes, where that is known, that would be kept at `place`.
    pub fn new(job: &'a Job, claim: &'a mut Claim, place: &'a Key, length: Option<u64>) -> Pump<'a> {
        Pump { job, claim, place, length, received: 0, besides: 0, open: true, way: Way::Memory }
    }

    /// Receives all of it.
    pub async fn run(mut self, body: &mut Body) -> Result<Held, Broken> {
        loop {
            let piece = match &mut self.way {
                Way::File(spill) if spill.is_writing() => tokio::select! {
                    biased;
                    piece = body.next() => piece,
                    wrote = spill.settle() => {
                        self.wrote(wrote);
                        continue;
                    }
                },
                _ => body.next().await,
            };
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|e: BodyError| (FillEnd::Aborted, e.to_string().into()))?;
            if !piece.is_empty() {
                self.take(piece).await?;
            }
        }
        if self.length.is_some_and(|length| length != self.received) {
            return Err((FillEnd::Aborted, "upstream prematurely closed connection".into()));
        }
        if !matches!(self.way, Way::Memory) {
            // The readers need not wait for the disk.
            self.job.fill.finish(Ok(()));
        }
        while matches!(&self.way, Way::File(spill) if spill.is_stored() && spill.written() < self.received) {
            self.flush(0).await;
        }
        Ok(match self.way {
            Way::Memory => Held::Memory,
            Way::File(spill) => spill.into_draft().map_or(Held::Passed, Held::File),
            Way::Pass => Held::Passed,
        })
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), Broken> {
        let bytes = piece.len() as u64;
        if matches!(self.way, Way::Memory) && !self.fits(bytes) {
            self.way = self.leave_memory().await;
        }
        while !self.has_room(bytes).await? {
            // Either the disk is slower than the upstream, or this is all that goes there.
            self.flush(bytes).await;
        }
        if let Way::File(spill) = &self.way {
            self.job.fill.wrote(spill.written(), self.window().saturating_sub(bytes));
        }
        let held = self.job.fill.push(piece);
        self.received += bytes;
        self.besides += cost(bytes);
        if !matches!(self.way, Way::Memory) {
            self.claim.set(self.weight(held));
        }
        self.write_on();
        Ok(())
    }

    /// Whether `bytes` more may be pushed; else what waits is to be written first.
    async fn has_room(&mut self, bytes: u64) -> Result<bool, Broken> {
        let nobody = || (FillEnd::Abandoned, "too large to be kept, and nobody reads it".into());
        let (fill, window) = (&self.job.fill, self.window());
        match &self.way {
            Way::Memory => Ok(true),
            Way::File(spill) => {
                let sum = self.received + bytes;
                if !is_wanted(spill, self.length, sum, self.job) {
                    return Err(nobody());
                }
                // What is on its way to the disk is still held.
                let waits = sum - spill.written();
                Ok(sum <= spill.most() && (waits <= window || self.received == spill.written()))
            }
            Way::Pass => {
                if !fill.room(bytes, window).await.map_err(|Abandoned| nobody())? && self.open {
                    // Its beginning is forgotten: who comes now is to ask for itself.
                    self.open = false;
                    let Job { zone, slot, .. } = self.job;
                    zone.set_apart(slot);
                    zone.leave(slot, fill);
                }
                Ok(true)
            }
        }
    }

    /// Whether memory may hold a piece of so many more bytes of it. Small pieces may cost as much as
    /// the largest body has bytes.
    fn fits(&mut self, bytes: u64) -> bool {
        let (largest, besides) = (self.job.zone.largest(), cost(bytes));
        let sum = self.received + bytes;
        let fits = sum.max(self.length.unwrap_or(0)) <= largest && self.besides + besides <= largest;
        fits && self.claim.grow(bytes + besides)
    }

    /// What so many bytes of it take in memory.
    fn weight(&self, bytes: u64) -> u64 {
        let all = u128::from(self.received + self.besides);
        // At most `COST + 1` times as much.
        (u128::from(bytes) * all).checked_div(self.received.into()).map_or(bytes, |weight| weight as u64)
    }

    async fn leave_memory(&mut self) -> Way {
        let Job { zone, fill, policy, .. } = self.job;
        match Spill::open(zone, self.place, &policy.temporary, self.length).await {
            Some(spill) => {
                if !spill.is_stored() {
                    zone.counters.refusal(Refusal::TooLarge);
                }
                fill.spill(spill.file());
                Way::File(spill)
            }
            None => {
                zone.counters.refusal(Refusal::TooLarge);
                fill.pass();
                Way::Pass
            }
        }
    }

    /// It goes on at the pace of its readers, and is not kept.
    fn pass(&mut self) {
        self.way = Way::Pass;
        self.job.fill.pass();
    }

    /// Writes what there is once it is worth it.
    fn write_on(&mut self) {
        let Way::File(spill) = &mut self.way else { return };
        let waits = self.received - spill.handed();
        if !spill.is_writing() && waits >= self.job.policy.temporary.at_once {
            spill.write(self.job.fill.pieces_from(spill.handed()));
        }
    }

    /// Writes all there is and waits for it; goes on without the file where it may not take `more`.
    async fn flush(&mut self, more: u64) {
        let Way::File(spill) = &mut self.way else { return };
        let idle = !spill.is_writing();
        if idle {
            let pieces = self.job.fill.pieces_from(spill.handed());
            if pieces.is_empty() {
                // There is nothing left to write, so what comes is too much.
                let temporary = &self.job.policy.temporary;
                let stored = spill.is_stored();
                let goes_on = spill.extend(self.received + more, temporary);
                if stored {
                    self.job.zone.counters.refusal(Refusal::TooLarge);
                }
                if !goes_on {
                    self.pass();
                }
                return;
            }
            spill.write(pieces);
        }
        let wrote = spill.settle().await;
        self.wrote(wrote);
    }

    /// A write has ended.
    fn wrote(&mut self, wrote: std::io::Result<()>) {
        let window = self.window();
        let Way::File(spill) = &mut self.way else { return };
        match wrote {
            Ok(()) => {
                let held = self.job.fill.wrote(spill.written(), window);
                self.claim.set(self.weight(held));
                self.write_on();
            }
            // What was written before is still there to be read.
            Err(_) => self.pass(),
        }
    }

    /// Bytes that may be held: fewer where they came in small pieces.
    fn window(&self) -> u64 {
        let zone = &self.job.zone;
        let window = if zone.growing() > zone.spec.bound / 2 { NARROW } else { WINDOW };
        window * self.received.max(1) / (self.received + self.besides).max(1)
    }
}

/// What a piece of so many bytes costs besides.
fn cost(bytes: u64) -> u64 {
    if bytes < SMALL { COST } else { 0 }
}

/// Whether it makes sense to go on: it is to be stored, or somebody reads it. What nobody reads and
/// nobody knows the length of may have no end.
fn is_wanted(spill: &Spill, length: Option<u64>, received: u64, job: &Job) -> bool {
    let ends = length.is_some() || received <= job.policy.temporary.most;
    spill.is_stored() && ends || job.fill.readers() > 0
}
