//! nginx's reading of an answer's fields: words are searched in the text, what is not to be reused is
//! not kept, and nobody looks at how old an answer was when it came.

use super::freshness::{Lifetime, Received, Refusal, Verdict, number};
use super::policy::Policy;
use crate::http::date::parse_http_date;
use crate::http::response::{Fields, Seconds};
use std::time::Duration;

/// Judges an answer (ngx_http_upstream_process_cache_control and its like).
pub fn judge(received: &Received<'_>, policy: &Policy) -> Result<Verdict, Refusal> {
    let stated = stated(received.fields, policy, received.now)?;
    let fresh = stated.fresh.or_else(|| policy.valid(received.status)).ok_or(Refusal::NoValidity)?;
    Ok(Verdict { lifetime: stated.lasting(fresh), ..Verdict::default() })
}

/// What a 304 and the entry it confirms make of the entry's lifetime: the 304's own word, else the
/// entry's, else `proxy_cache_valid` of the entry's status. `None`: it stays as stale as it was.
pub fn refreshed(
    confirmed: &Fields,
    status: u16,
    kept: &Fields,
    policy: &Policy,
    now: Seconds,
) -> Option<Lifetime> {
    for fields in [confirmed, kept] {
        if let Ok(stated @ Stated { fresh: Some(fresh), .. }) = stated(fields, policy, now) {
            return Some(stated.lasting(fresh));
        }
    }
    let kept = stated(kept, policy, now).unwrap_or_default();
    policy.valid(status).map(|fresh| kept.lasting(fresh))
}

/// What an answer's fields state.
#[derive(Clone, Copy, Debug, Default)]
struct Stated {
    /// `Some(0)`: kept, and stale from the beginning.
    fresh: Option<Duration>,
    updating: Duration,
    error: Duration,
}

impl Stated {
    fn lasting(self, fresh: Duration) -> Lifetime {
        Lifetime { fresh, updating: self.updating, error: self.error }
    }
}

fn stated(fields: &Fields, policy: &Policy, now: Seconds) -> Result<Stated, Refusal> {
    let ignore = &policy.ignore;
    if !ignore.x_accel_expires
        && let Some(value) = fields.get("x-accel-expires")
        && let Some(fresh) = accel_expires(value, now)?
    {
        return Ok(Stated { fresh: Some(fresh), ..Stated::default() });
    }
    let mut stated = Stated::default();
    if !ignore.cache_control {
        // Each line by itself; of several, the last that says something holds.
        for line in fields.all("cache-control") {
            cache_control(line, &mut stated)?;
        }
    }
    if !ignore.expires
        && stated.fresh.is_none()
        && let Some(value) = fields.get("expires")
    {
        let at = parse_http_date(value).filter(|at| *at >= now).ok_or(Refusal::Expired)?;
        stated.fresh = Some(Duration::from_secs(at - now));
    }
    Ok(stated)
}

/// `X-Accel-Expires`: seconds, or `@` and a time; `None` when it is neither.
pub(super) fn accel_expires(value: &[u8], now: Seconds) -> Result<Option<Duration>, Refusal> {
    let (absolute, digits) = match value.strip_prefix(b"@") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let Some(n) = number(digits) else { return Ok(None) };
    if absolute {
        // The beginning of all time is how nginx writes that nothing is known.
        if n == 0 {
            return Ok(None);
        }
        return Ok(Some(Duration::from_secs(n.saturating_sub(now))));
    }
    if n == 0 {
        return Err(Refusal::Forbidden);
    }
    Ok(Some(Duration::from_secs(n)))
}

/// nginx searches the words in the text; a number that is not one prevents caching.
fn cache_control(text: &[u8], stated: &mut Stated) -> Result<(), Refusal> {
    if ["no-cache", "no-store", "private"].iter().any(|word| after(text, word).is_some()) {
        return Err(Refusal::Forbidden);
    }
    let seconds = |rest: &[u8]| {
        let end = rest.iter().position(|b| matches!(b, b',' | b';' | b' ')).unwrap_or(rest.len());
        if end == 0 { Ok(0) } else { number(&rest[..end]).ok_or(Refusal::Forbidden) }
    };
    if let Some(rest) = after(text, "s-maxage=").or_else(|| after(text, "max-age=")) {
        match seconds(rest)? {
            0 => return Err(Refusal::Forbidden),
            n => stated.fresh = Some(Duration::from_secs(n)),
        }
    }
    if let Some(rest) = after(text, "stale-while-revalidate=") {
        stated.updating = Duration::from_secs(seconds(rest)?);
        stated.error = stated.updating;
    }
    if let Some(rest) = after(text, "stale-if-error=") {
        stated.error = Duration::from_secs(seconds(rest)?);
    }
    Ok(())
}

/// What follows `word` in `text`, whatever the case.
fn after<'a>(text: &'a [u8], word: &str) -> Option<&'a [u8]> {
    let at = text.windows(word.len()).position(|w| w.eq_ignore_ascii_case(word.as_bytes()))?;
    Some(&text[at + word.len()..])
}
