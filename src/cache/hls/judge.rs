//! What an answer's head comes to where playlists are known.
//!
//! Of what looks like a playlist, origins commonly say that it must not be kept at all (`no-cache`, `max-age=0`,
//! an `Expires` in the past), for they do not know caches that read it. That is put aside for what the playlist
//! says. What forbids to keep it for others than who asked is heeded as ever: `no-store`, `private`,
//! `Set-Cookie`; and `X-Accel-Expires`, which is meant for us, holds as it stands.

use super::playlist::Facts;
use super::{Hls, life, says_absent};
use crate::cache::cache_control::{CacheControl, Reach};
use crate::cache::freshness::{self, Lifetime, Received, Refusal, Verdict};
use crate::cache::freshness_rfc;
use crate::cache::policy::{IgnoreHeaders, Policy, Rfc9111, Valid};
use crate::cache::streams::Streams;
use crate::http::response::Fields;
use std::time::Duration;

/// Content types of playlists.
const TYPES: [&[u8]; 4] =
    [b"application/vnd.apple.mpegurl", b"application/x-mpegurl", b"audio/mpegurl", b"audio/x-mpegurl"];

/// Content types of what is no playlist, whatever it is called: pages that tell of errors.
const OTHERS: [&[u8]; 2] = [b"text/html", b"application/json"];

/// Stands for a lifetime that nothing has stated.
const UNSTATED: Duration = Duration::from_nanos(86_399_999_999_999);

/// What looks like a playlist and may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What `X-Accel-Expires` says: it holds.
    accel: Option<Lifetime>,
    /// What else the answer states.
    stated: Option<Lifetime>,
    /// What holds if it turns out to be no playlist.
    ordinary: Result<Verdict, Refusal>,
}

/// Whether an answer looks like a playlist.
pub fn looks_so(hls: &Hls, status: u16, fields: &Fields) -> bool {
    if status != 200 {
        return false;
    }
    let is = |list: &[&[u8]]| {
        let kind =
            fields.get("content-type").map_or(&[][..], |v| v.split(|b| *b == b';').next().unwrap_or(&[]));
        list.iter().any(|other| kind.trim_ascii().eq_ignore_ascii_case(other))
    };
    is(&TYPES) || (hls.is_named_so() && !is(&OTHERS))
}

/// Judges an answer by its head. For what looks like a playlist the lifetime is the one it has while it is
/// received.
pub fn judge(
    hls: &Hls,
    streams: &Streams,
    received: &Received<'_>,
    policy: &Policy,
) -> Result<Verdict, Refusal> {
    if looks_so(hls, received.status, received.fields) {
        let candidate = candidate(received, policy)?;
        let lifetime = candidate.meanwhile(hls);
        let ordinary = candidate.ordinary.unwrap_or_default();
        return Ok(Verdict { lifetime, for_one: false, ..ordinary });
    }
    let verdict = freshness::judge(received, policy)?;
    if !says_absent(received.status) {
        return Ok(verdict);
    }
    let most = streams.absence(&hls.origin);
    let lifetime = Lifetime { fresh: verdict.lifetime.fresh.min(most), ..Lifetime::default() };
    if lifetime != verdict.lifetime {
        streams.counters.absences.inc();
    }
    Ok(Verdict { lifetime, ..verdict })
}

/// Judges an answer that looks like a playlist.
pub fn candidate(received: &Received<'_>, policy: &Policy) -> Result<Candidate, Refusal> {
    let unstated = Valid { status: None, time: UNSTATED };
    let ignore = IgnoreHeaders { cache_control: true, expires: true, ..policy.ignore };
    let ours = Policy { ignore, valid: vec![unstated], rfc9111: Rfc9111::Off, ..policy.clone() };
    let accel = freshness::judge(received, &ours)?.lifetime;
    let accel = (accel.fresh != UNSTATED).then_some(accel);
    if accel.is_none() && is_personal(received, policy) {
        return Err(Refusal::Forbidden);
    }
    let origins = Policy { valid: Vec::new(), heuristic: None, ..policy.clone() };
    Ok(Candidate {
        accel,
        stated: freshness::judge(received, &origins).ok().map(|verdict| verdict.lifetime),
        ordinary: freshness::judge(received, policy),
    })
}

/// What a 304 (`received`) and the playlist it confirms make of its lifetime; `None` where it forbids to keep it.
pub fn confirmed(
    received: &Received<'_>,
    kept: &Fields,
    facts: &Facts,
    hls: &Hls,
    policy: &Policy,
    inactive: Duration,
) -> Option<Lifetime> {
    let of = |fields| candidate(&Received { status: 200, fields, ..*received }, policy).ok();
    let new = of(received.fields)?;
    let says = new.accel.is_some() || new.stated.is_some();
    let holds = if says { new } else { of(kept).unwrap_or(new) };
    Some(holds.lifetime(facts, hls, inactive))
}

impl Candidate {
    /// How long the playlist lives that it turned out to be.
    pub fn lifetime(&self, facts: &Facts, hls: &Hls, inactive: Duration) -> Lifetime {
        if let Some(accel) = self.accel {
            return accel;
        }
        let rule = life::of(facts, hls.asked, &hls.rules, inactive);
        let stated = self.stated.unwrap_or_default();
        let fresh = life::with_stated(facts, rule, Some(stated.fresh));
        // While it is updated an older one serves no longer than the rule either.
        Lifetime { fresh, updating: stated.updating.min(rule - fresh.min(rule)), error: stated.error }
    }

    /// What holds for it if it is no playlist.
    pub fn ordinary(&self) -> Result<Lifetime, Refusal> {
        self.ordinary.as_ref().map(|verdict| verdict.lifetime).map_err(|refusal| *refusal)
    }

    /// What is told of it to those who ask while it is received.
    fn meanwhile(&self, hls: &Hls) -> Lifetime {
        let rule = match hls.rules.live {
            life::Live::Time(time) => time,
            life::Live::Percent(_) => Duration::from_secs(1),
        };
        self.accel.or(self.stated).unwrap_or(Lifetime { fresh: rule, ..Lifetime::default() })
    }
}

/// Whether the answer says that nobody but who asked may have it.
fn is_personal(received: &Received<'_>, policy: &Policy) -> bool {
    let Received { fields, asked, .. } = received;
    let directives = match policy.rfc9111 {
        Rfc9111::Off if policy.ignore.cache_control => return false,
        Rfc9111::Off => CacheControl::parse(fields.all("cache-control").map(|v| &v[..])),
        Rfc9111::Responses | Rfc9111::On => freshness_rfc::directives(fields, policy),
    };
    let for_all = directives.must_revalidate || directives.public || directives.s_maxage.is_some();
    let authorized = policy.rfc9111 != Rfc9111::Off && asked.get("authorization").is_some();
    directives.no_store || directives.private != Reach::Nothing || (authorized && !for_all)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
