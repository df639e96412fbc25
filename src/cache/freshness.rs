//! Whether an answer may be kept, and how long it lives. It is judged here, by nginx's reading
//! ([`nginx`]) or by RFC 9111's ([`rfc`]), as `proxy_cache_rfc9111` says. In both the answer's own
//! fields come before `proxy_cache_valid`, and among them `X-Accel-Expires` before all others.

pub use super::freshness_nginx::refreshed;
use super::policy::{Policy, Rfc9111};
use super::vary::Vary;
use super::{freshness_nginx as nginx, freshness_rfc as rfc};
use crate::http::head::Head;
use crate::http::response::{Fields, Seconds};
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
    /// `no-store`, `no-cache`, `private`, `max-age=0`, `X-Accel-Expires: 0`, or a value that is none;
    /// by RFC 9111 also an answer to `Authorization` that is not said to be for all.
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
    /// `X-Accel-Redirect`: each request is to be judged by the upstream anew.
    Redirect,
    /// Larger than the bound of one object.
    TooLarge,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; 10] = [
        Refusal::SetCookie,
        Refusal::Vary,
        Refusal::Forbidden,
        Refusal::Expired,
        Refusal::NoValidity,
        Refusal::Status,
        Refusal::NoCache,
        Refusal::Unbuffered,
        Refusal::Redirect,
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
            Refusal::Redirect => "x_accel_redirect",
            Refusal::TooLarge => "too_large",
        }
    }
}

/// An answer as it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: &'a Fields,
    /// The request that it answers.
    pub asked: &'a Head,
    /// From that request's first byte to the upstream until the answer's head was there.
    pub delay: Duration,
    /// When its head was there.
    pub now: Seconds,
}

/// What is made of an answer that may be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How long it lives, from now.
    pub lifetime: Lifetime,
    /// How old it is already (RFC 9111, 4.2.3).
    pub initial_age: Duration,
    /// Fields, in lower case, that are for the requester alone and are not kept (RFC 9111, 5.2.2.4 and
    /// 5.2.2.7).
    pub withheld: Vec<Box<str>>,
    /// Whether it is kept for its validators only: every request is to ask anew, also those that wait
    /// for it now.
    pub for_one: bool,
}

/// Judges an answer. `Vary` is not looked at here.
pub fn judge(received: &Received<'_>, policy: &Policy) -> Result<Verdict, Refusal> {
    // An intermediate answer is no answer; a 304 has no body of its own.
    if received.status < 200 || received.status == 304 {
        return Err(Refusal::Status);
    }
    let ignore = &policy.ignore;
    if !ignore.x_accel_redirect && received.fields.get("x-accel-redirect").is_some() {
        return Err(Refusal::Redirect);
    }
    if !ignore.set_cookie && received.fields.get("set-cookie").is_some() {
        return Err(Refusal::SetCookie);
    }
    if !ignore.x_accel_buffering
        && received.fields.get("x-accel-buffering").is_some_and(|v| v.eq_ignore_ascii_case(b"no"))
    {
        return Err(Refusal::Unbuffered);
    }
    match policy.rfc9111 {
        Rfc9111::Off => nginx::judge(received, policy),
        Rfc9111::Responses | Rfc9111::On => rfc::judge(received, policy),
    }
}

/// Whether nginx serves an answer like one of the cache though it turns out not to be kept: it answers
/// conditions and ranges when the head is there, and learns only then how long the answer lives and
/// what `proxy_no_cache` says. By RFC 9111 nothing is to be had of what is not kept.
pub fn passes_for_kept(received: &Received<'_>, policy: &Policy) -> bool {
    let ignore = &policy.ignore;
    policy.rfc9111 == Rfc9111::Off
        && (ignore.set_cookie || received.fields.get("set-cookie").is_none())
        && matches!(nginx::judge(received, policy), Ok(_) | Err(Refusal::NoValidity))
        && (ignore.vary || Vary::of(received.fields, received.asked).is_ok())
}

/// This machine's clock: time since 1970.
#[cfg(not(test))]
pub fn wall() -> Duration {
    crate::http::date::since_epoch()
}

/// In tests it goes with tokio's clock, which they stop and advance.
#[cfg(test)]
pub fn wall() -> Duration {
    use tokio::time::Instant;
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    let (now, epoch) = (Instant::now(), Duration::from_secs(1_700_000_000));
    // A clock that was stopped before another test began is behind.
    epoch + now.saturating_duration_since(began) - began.saturating_duration_since(now)
}

/// Digits only. More seconds than a century are a century: no sum of times overflows.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
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
