//! When what is stale is served all the same: because the configuration or the answer allows it, and
//! never where RFC 9111 holds and the answer forbids it (4.2.4).

use super::cache_control::{CacheControl, Reach};
use super::entry::{Entry, Meta};
use super::freshness::wall;
use super::freshness_rfc::directives;
use super::policy::{Policy, Rfc9111};
use crate::upstream::{Answer, Failure, FailureKind};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

/// Statuses that `stale-if-error` speaks of (RFC 5861, 4).
const ERRORS: [u16; 4] = [500, 502, 503, 504];

impl Policy {
    /// What is kept, as it is served. By RFC 9111 it says how old it is.
    pub fn answer(&self, entry: &Entry) -> Result<Answer, Failure> {
        match self.rfc9111 {
            Rfc9111::Off => entry.answer(),
            Rfc9111::Responses | Rfc9111::On => entry.answer().map(|answer| aged(answer, &entry.meta)),
        }
    }

    /// An answer that another request has brought, as it is served.
    pub fn shared(&self, answer: Answer, meta: &Meta) -> Answer {
        match self.rfc9111 {
            Rfc9111::Off => answer,
            Rfc9111::Responses | Rfc9111::On => aged(answer, meta),
        }
    }

    /// The directives of what is kept, where RFC 9111 holds.
    pub fn directives(&self, entry: &Entry) -> CacheControl {
        match self.rfc9111 {
            Rfc9111::Off => CacheControl::default(),
            Rfc9111::Responses | Rfc9111::On => directives(&entry.fields, self),
        }
    }

    /// Whether stale `entry` is served while it is updated.
    pub fn serves_while_updating(&self, entry: &Entry, now: Instant) -> bool {
        (self.stale.updating || now < entry.times.updating_until) && !self.forbids_stale(entry)
    }

    /// Whether stale `entry` is served in place of an answer of this status.
    pub fn serves_on_status(&self, entry: &Entry, status: u16, now: Instant) -> bool {
        let stated =
            self.rfc9111 != Rfc9111::Off && now < entry.times.error_until && ERRORS.contains(&status);
        (stated || self.stale.on_status(status)) && !self.forbids_stale(entry)
    }

    /// Whether stale `entry` is served in place of a failure.
    pub fn serves_on_failure(&self, entry: &Entry, kind: FailureKind, now: Instant) -> bool {
        let upstream = !matches!(kind, FailureKind::Client | FailureKind::Internal);
        let stated = now < entry.times.error_until && upstream;
        (stated || self.stale.on_failure(kind)) && !self.forbids_stale(entry)
    }

    /// Whether each request is to ask about `entry` for itself: what is fresh for nobody cannot be
    /// fetched for another (RFC 9111, 4).
    pub fn is_for_one(&self, entry: &Entry) -> bool {
        if self.rfc9111 == Rfc9111::Off {
            return false;
        }
        let directives = directives(&entry.fields, self);
        directives.no_cache == Reach::Whole
            || directives.lifetime().is_some_and(|lifetime| lifetime.is_zero())
                && entry.times.updating_until == entry.times.fresh_until
    }

    fn forbids_stale(&self, entry: &Entry) -> bool {
        self.rfc9111 != Rfc9111::Off && directives(&entry.fields, self).forbids_stale()
    }
}

/// How old it is (current_age of RFC 9111, 4.2.3).
pub fn age(meta: &Meta) -> Duration {
    let resident = wall().saturating_sub(Duration::from_millis(meta.received));
    meta.initial_age + resident
}

fn aged(mut answer: Answer, meta: &Meta) -> Answer {
    answer.fields.put("Age", Bytes::from(age(meta).as_secs().to_string()));
    answer
}
