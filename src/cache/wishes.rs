//! What a client asks of the cache (RFC 9111, 5.2.1), where `proxy_cache_rfc9111 on` lets it.

use super::cache_control::{CacheControl, Reach};
use super::entry::Entry;
use super::policy::{Policy, Rfc9111};
use super::stale::age;
use crate::http::head::Head;
use std::time::Duration;
use tokio::time::Instant;

/// A client's directives; none where they are not heeded.
#[derive(Debug, Default)]
pub struct Wishes(Option<CacheControl>);

/// What may be done with what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is served.
    Fresh,
    /// It is stale, and served because the client takes it so.
    Stale,
    /// It is stale.
    Not,
    /// It is not served though it may be fresh: this client wants it validated.
    Validate,
}

/// Whether a request says anything that would be heeded.
pub fn any(asked: &Head) -> bool {
    asked
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case(b"cache-control") || name.eq_ignore_ascii_case(b"pragma"))
}

impl Wishes {
    /// What the request `asked` wants.
    pub fn of(policy: &Policy, asked: &Head) -> Wishes {
        if policy.rfc9111 != Rfc9111::On || !any(asked) {
            return Wishes(None);
        }
        let mut wishes = CacheControl::parse(asked.all("cache-control"));
        // 5.4: only where there is no `Cache-Control`.
        if asked.get("cache-control").is_none() {
            let pragma = CacheControl::parse(asked.all("pragma"));
            wishes.no_cache = pragma.no_cache;
        }
        Wishes(Some(wishes))
    }

    /// 5.2.1.5: whether nothing of this exchange may be kept.
    pub fn no_store(&self) -> bool {
        self.0.as_ref().is_some_and(|wishes| wishes.no_store)
    }

    /// 5.2.1.7: whether the upstream is not to be asked.
    pub fn only_if_cached(&self) -> bool {
        self.0.as_ref().is_some_and(|wishes| wishes.only_if_cached)
    }

    /// Whether an answer that was asked for before this request does not do: 5.2.1.4.
    pub fn wants_new(&self) -> bool {
        self.0.as_ref().is_some_and(|wishes| wishes.no_cache != Reach::Nothing)
    }

    /// What may be done with `entry`.
    pub fn allow(&self, policy: &Policy, entry: &Entry, now: Instant) -> Use {
        let fresh = entry.is_fresh(now);
        let Some(wishes) = &self.0 else { return if fresh { Use::Fresh } else { Use::Not } };
        if wishes.no_cache != Reach::Nothing {
            return Use::Validate;
        }
        let seconds = |n: u32| Duration::from_secs(n.into());
        if let Some(most) = wishes.max_age
            // In whole seconds, as `Age` says it.
            && age(&entry.meta).as_secs() > most.into()
            // RFC 8246, 2: what never changes while it is fresh need not be asked for by a reload.
            && !(fresh && most == 0 && policy.directives(entry).immutable)
        {
            return Use::Validate;
        }
        if let Some(least) = wishes.min_fresh
            && entry.times.fresh_until.saturating_duration_since(now) < seconds(least)
        {
            return Use::Validate;
        }
        let overdue = now.saturating_duration_since(entry.times.fresh_until);
        if fresh {
            Use::Fresh
        } else if wishes.max_stale.is_some_and(|most| overdue <= seconds(most))
            && entry.failure.is_none()
            && !policy.directives(entry).forbids_stale()
        {
            Use::Stale
        } else {
            Use::Not
        }
    }
}
