//! RFC 9111's reading of an answer's fields, for a shared cache: what may be stored (section 3), how
//! long it is fresh (4.2.1), how old it is when it comes (4.2.3).
//!
//! Two rules of nginx come before it, as they do in nginx: `X-Accel-Expires` before every other field,
//! and `proxy_cache_valid` where no field says anything.

use super::cache_control::{CacheControl, Reach, first_number};
use super::freshness::{Lifetime, Received, Refusal, Verdict};
use super::freshness_nginx::accel_expires;
use super::policy::Policy;
use crate::http::date::parse_http_date;
use crate::http::response::Fields;
use std::time::Duration;

/// Statuses that may be kept without a word about how long (RFC 9110, 15.1).
const HEURISTIC: [u16; 12] = [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501];

/// Statuses whose meaning for a cache is known (RFC 9110, 15): `must-understand` asks for it.
fn understands(status: u16) -> bool {
    matches!(status, 200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

/// A targeted field, as it was chosen.
struct Stated {
    directives: CacheControl,
    /// Whether it was a targeted one: then `Expires` does not count.
    targeted: bool,
}

/// The directives that hold for a response: of the first targeted field that is valid (RFC 9213, 2.2),
/// else of `Cache-Control`, unless the configuration has them ignored.
fn stated(fields: &Fields, policy: &Policy) -> Stated {
    for name in &policy.targeted {
        if let Some(directives) = CacheControl::parse_targeted(fields.all(name).map(|v| &v[..])) {
            return Stated { directives, targeted: true };
        }
    }
    let directives = match policy.ignore.cache_control {
        true => CacheControl::default(),
        false => CacheControl::parse(fields.all("cache-control").map(|v| &v[..])),
    };
    Stated { directives, targeted: false }
}

/// The directives that hold for what is kept; none where `X-Accel-Expires` came before them.
pub fn directives(fields: &Fields, policy: &Policy) -> CacheControl {
    let accel = fields.get("x-accel-expires").filter(|_| !policy.ignore.x_accel_expires);
    match accel.map(|value| accel_expires(value, 0)) {
        Some(Ok(Some(_))) => CacheControl::default(),
        _ => stated(fields, policy).directives,
    }
}

/// Judges an answer.
pub fn judge(received: &Received<'_>, policy: &Policy) -> Result<Verdict, Refusal> {
    let Received { status, fields, now, .. } = *received;
    if !policy.ignore.x_accel_expires
        && let Some(value) = fields.get("x-accel-expires")
        && let Some(fresh) = accel_expires(value, now)?
    {
        return Ok(Verdict { lifetime: Lifetime { fresh, ..Lifetime::default() }, ..Verdict::default() });
    }
    let Stated { directives, targeted } = stated(fields, policy);
    may_be_stored(received, &directives)?;
    let expires = lifetime_by_expires(received).filter(|_| !targeted && !policy.ignore.expires);
    let explicit = directives.lifetime().or(expires);
    let by_default = || policy.valid(status).or_else(|| heuristic(received, &directives, policy));
    let validates_each = directives.no_cache == Reach::Whole;
    let lifetime = match explicit.or_else(by_default) {
        Some(lifetime) => lifetime,
        // Without a lifetime it is kept only where it says that it is to be validated each time.
        None if validates_each && HEURISTIC.contains(&status) => Duration::ZERO,
        None => return Err(Refusal::NoValidity),
    };
    let initial_age = initial_age(received);
    let lifetime = match validates_each {
        true => Lifetime::default(),
        false => remaining(lifetime, initial_age, &directives),
    };
    let for_one = lifetime.fresh.is_zero() && lifetime.updating.is_zero();
    // What is stale from the beginning is of use where it can be validated, or served when that fails.
    let validates = status == 200 && (fields.get("etag").is_some() || fields.get("last-modified").is_some());
    if for_one && !validates && lifetime.error.is_zero() {
        return Err(if explicit.is_none() || validates_each { Refusal::Forbidden } else { Refusal::Expired });
    }
    let withheld = [directives.no_cache.fields(), directives.private.fields()].concat();
    Ok(Verdict { lifetime, initial_age, withheld, for_one })
}

/// Section 3: what forbids a shared cache to store it.
fn may_be_stored(received: &Received<'_>, directives: &CacheControl) -> Result<(), Refusal> {
    // 5.2.2.3: who understands the status passes over `no-store`; who does not must not store it.
    let no_store = match directives.must_understand {
        true => !understands(received.status),
        false => directives.no_store,
    };
    if no_store || directives.private == Reach::Whole {
        return Err(Refusal::Forbidden);
    }
    // 3.5
    let for_all = directives.must_revalidate || directives.public || directives.s_maxage.is_some();
    if received.asked.get("authorization").is_some() && !for_all {
        return Err(Refusal::Forbidden);
    }
    Ok(())
}

/// `Expires` less `Date`; what is no date, `0` above all, is past (5.3). Of several the earliest.
fn lifetime_by_expires(received: &Received<'_>) -> Option<Duration> {
    let date = date(received);
    let lifetimes = received.fields.all("expires").map(|value| {
        let until = parse_http_date(value).map_or(0, |at| at.saturating_sub(date));
        Duration::from_secs(until.min(1 << 31))
    });
    lifetimes.min()
}

/// 4.2.2
fn heuristic(received: &Received<'_>, directives: &CacheControl, policy: &Policy) -> Option<Duration> {
    let heuristic = policy.heuristic?;
    if !HEURISTIC.contains(&received.status) && !directives.public {
        return None;
    }
    let changed = parse_http_date(received.fields.get("last-modified")?)?;
    let since = date(received).checked_sub(changed)?;
    let lifetime = Duration::from_secs(since.saturating_mul(heuristic.percent) / 100).min(heuristic.max);
    (!lifetime.is_zero()).then_some(lifetime)
}

/// When it was made: its `Date`, or when it came.
fn date(received: &Received<'_>) -> u64 {
    received.fields.get("date").and_then(|value| parse_http_date(value)).unwrap_or(received.now)
}

/// How old it is when it comes: corrected_initial_age of 4.2.3.
fn initial_age(received: &Received<'_>) -> Duration {
    // One second is what `Date`, cut to whole ones, does not tell: it would make what lives for one
    // second stale at each turn of the clock.
    let apparent = received.now.saturating_sub(date(received));
    let apparent = if apparent > 1 { apparent } else { 0 };
    let stated = received.fields.get("age").and_then(|value| first_number(value)).unwrap_or(0);
    // response_delay counts: for so long it may have been on its way.
    let corrected = Duration::from_secs(stated.into()) + received.delay;
    corrected.max(Duration::from_secs(apparent.min(1 << 31)))
}

/// What is left of a lifetime, and of the times after it in which it may be served stale.
fn remaining(lifetime: Duration, age: Duration, directives: &CacheControl) -> Lifetime {
    let fresh = lifetime.saturating_sub(age);
    if directives.forbids_stale() {
        return Lifetime { fresh, ..Lifetime::default() };
    }
    let overdue = age.saturating_sub(lifetime);
    let after =
        |seconds: Option<u32>| Duration::from_secs(seconds.unwrap_or(0).into()).saturating_sub(overdue);
    let updating = after(directives.stale_while_revalidate);
    Lifetime { fresh, updating, error: after(directives.stale_if_error) }
}
