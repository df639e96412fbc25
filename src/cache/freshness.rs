//! How long an answer lives: nginx's rules, by which the answer's own fields come before
//! `proxy_cache_valid`, and among them `X-Accel-Expires` before `Cache-Control` before `Expires`.

use super::policy::Policy;
use crate::http::date::parse_http_date;
use crate::http::response::{Fields, Seconds};
use bytes::Bytes;
use std::time::Duration;

/// How long an answer lives, from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Fresh for so long.
    pub fresh: Duration,
    /// And then servable for so long while it is updated (`stale-while-revalidate`).
    pub updating: Duration,
    /// Or for so long when the upstream fails (`stale-if-error`).
    pub error: Duration,
}

/// Why an answer is not kept; the words are the `reason` label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `Set-Cookie`
    SetCookie,
    /// `Vary: *`, or too long a `Vary`.
    Vary,
    /// `no-store`, `no-cache`, `private`, `max-age=0`, `X-Accel-Expires: 0`, or a value that is none.
    Forbidden,
    /// `Expires` in the past.
    Expired,
    /// Nothing says how long it would live.
    NoValidity,
    /// A status that is never kept: 1xx, 304; 206 where the key does not name the range.
    Status,
    /// `proxy_no_cache`
    NoCache,
    /// `X-Accel-Buffering: no`
    Unbuffered,
    /// Larger than the bound of one object.
    TooLarge,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; 9] = [
        Refusal::SetCookie,
        Refusal::Vary,
        Refusal::Forbidden,
        Refusal::Expired,
        Refusal::NoValidity,
        Refusal::Status,
        Refusal::NoCache,
        Refusal::Unbuffered,
        Refusal::TooLarge,
    ];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::SetCookie => "set_cookie",
            Refusal::Vary => "vary",
            Refusal::Forbidden => "forbidden",
            Refusal::Expired => "expired",
            Refusal::NoValidity => "no_validity",
            Refusal::Status => "status",
            Refusal::NoCache => "no_cache",
            Refusal::Unbuffered => "unbuffered",
            Refusal::TooLarge => "too_large",
        }
    }
}

/// Judges an answer received at `now`. `Vary` is not looked at here.
pub fn judge(status: u16, fields: &Fields, policy: &Policy, now: Seconds) -> Result<Lifetime, Refusal> {
    // An intermediate answer is no answer; a 304 has no body of its own.
    if status < 200 || status == 304 {
        return Err(Refusal::Status);
    }
    let ignore = &policy.ignore;
    if !ignore.set_cookie && fields.get("set-cookie").is_some() {
        return Err(Refusal::SetCookie);
    }
    if !ignore.x_accel_buffering
        && fields.get("x-accel-buffering").is_some_and(|v| v.eq_ignore_ascii_case(b"no"))
    {
        return Err(Refusal::Unbuffered);
    }
    let stated = stated(fields, policy, now)?;
    let fresh = stated.fresh.or_else(|| policy.valid(status)).ok_or(Refusal::NoValidity)?;
    Ok(stated.lasting(fresh))
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
        cache_control(&joined(fields, "cache-control"), &mut stated)?;
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
fn accel_expires(value: &[u8], now: Seconds) -> Result<Option<Duration>, Refusal> {
    let (absolute, digits) = match value.strip_prefix(b"@") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let Some(n) = number(digits) else { return Ok(None) };
    if absolute {
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

fn joined(fields: &Fields, name: &str) -> Bytes {
    let mut all = fields.all(name);
    let Some(first) = all.next() else { return Bytes::new() };
    let mut rest = all.peekable();
    if rest.peek().is_none() {
        return first.clone();
    }
    let mut text = first.to_vec();
    for value in rest {
        text.extend_from_slice(b", ");
        text.extend_from_slice(value);
    }
    text.into()
}

/// What follows `word` in `text`, whatever the case.
fn after<'a>(text: &'a [u8], word: &str) -> Option<&'a [u8]> {
    let at = text.windows(word.len()).position(|w| w.eq_ignore_ascii_case(word.as_bytes()))?;
    Some(&text[at + word.len()..])
}

/// Digits only. More seconds than a century are a century: no sum of times overflows.
fn number(digits: &[u8]) -> Option<u64> {
    const CENTURY: u64 = 100 * 365 * 86_400;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(digits).ok()?;
    Some(text.parse::<u64>().unwrap_or(u64::MAX).min(CENTURY))
}

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
