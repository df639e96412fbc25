//! What is stored of an answer's fields, and what a later answer changes in them (RFC 9111, 3.1, 3.2 and
//! 4.3.4).

use super::entry::{Entry, Meta, Times, Validators, pack_fields};
use super::freshness::{Received, Verdict, judge, wall};
use super::policy::{Policy, Rfc9111};
use super::vary::Vary;
use crate::http::date::{http_date, parse_http_date};
use crate::http::response::{Fields, Seconds};
use bytes::Bytes;
use tokio::time::Instant;

/// Fields that are the connection's or a proxy's with its client, and never stored (3.1).
const NOT_STORED: [&str; 6] = [
    "connection",
    "keep-alive",
    "transfer-encoding",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
];

/// So many bytes of fields a stored answer has at most after a 304, or an answer to HEAD, has added to them.
pub const LARGEST: usize = 64 << 10;

/// Fields that say how the stored body is framed and coded: a later answer does not change them (3.2).
const OF_BODY: [&str; 3] = ["content-length", "content-encoding", "content-range"];

/// The fields of an answer as they are kept and as others get them; `None` when they are all of them.
pub fn stored(fields: &Fields, verdict: &Verdict, policy: &Policy, now: Seconds) -> Option<Fields> {
    if policy.rfc9111 == Rfc9111::Off {
        return None;
    }
    let withheld = |name: &[u8]| {
        is_in(&NOT_STORED, name) || verdict.withheld.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
    };
    let dated = fields.get("date").is_some_and(|value| parse_http_date(value).is_some());
    if dated && !fields.iter().any(|(name, _)| withheld(name)) {
        return None;
    }
    let mut kept = fields.clone();
    kept.retain(|name, _| !withheld(name));
    // Who stores an answer without a date says when it came (RFC 9110, 6.6.1).
    if !dated {
        kept.put("Date", Bytes::from(http_date(now)));
    }
    Some(kept)
}

/// The stored fields of `entry` as a 304 changes them (3.2).
pub fn updated(entry: &Fields, confirmed: &Fields, now: Seconds) -> Fields {
    let passed_over = |name: &[u8]| is_in(&NOT_STORED, name) || is_in(&OF_BODY, name);
    let comes = |name: &[u8]| confirmed.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut fields = entry.clone();
    // An age was that of another answer.
    fields.retain(|name, _| !name.eq_ignore_ascii_case(b"age") && (passed_over(name) || !comes(name)));
    for (name, value) in confirmed.iter().filter(|(name, _)| !passed_over(name)) {
        fields.add(name.clone(), value.clone());
    }
    // It is as new as the 304.
    if confirmed.get("date").is_none_or(|value| parse_http_date(value).is_none()) {
        fields.put("Date", Bytes::from(http_date(now)));
    }
    fields
}

/// Whether a 304 speaks of this entry (4.3.4): not where it has a strong tag and ours is another one, or
/// none. One that has no validator answers the ones we sent.
pub fn confirms(confirmed: &Fields, entry: &Entry) -> bool {
    let strong = confirmed.get("etag").filter(|tag| !tag.starts_with(b"W/"));
    let Some(tag) = strong else { return true };
    // nginx weakens the tag of what it compresses, but not that of the 304 about it.
    entry.fields.get("etag").is_some_and(|own| own.strip_prefix(b"W/").unwrap_or(own) == tag)
}

/// What an answer to HEAD, received `now` and of this length, makes of the stored answer to GET for the same request (4.3.5):
/// it is as new as that, or, where the two are not of the same representation or its fields become too many, stale.
pub fn freshened(
    entry: &Entry,
    received: &Received<'_>,
    length: Option<u64>,
    policy: &Policy,
    now: Instant,
) -> Entry {
    let fields = updated(&entry.fields, received.fields, received.now);
    // What varies by something else now is not where requests would look for it.
    let varies_alike =
        policy.ignore.vary || Vary::of(&fields, received.asked).is_ok_and(|vary| vary == entry.vary);
    let verdict = match varies_alike && fields.size() <= LARGEST && is_same(received.fields, length, entry) {
        true => judge(&Received { fields: &fields, ..*received }, policy).ok(),
        false => None,
    };
    let Some(verdict) = verdict else {
        let Times { fresh_until, updating_until, error_until } = entry.times;
        let times =
            Times { fresh_until: fresh_until.min(now), updating_until: updating_until.min(now), error_until };
        return entry.refreshed(times);
    };
    let fields = stored(&fields, &verdict, policy, received.now).unwrap_or(fields);
    let received = u64::try_from(wall().as_millis()).unwrap_or(u64::MAX);
    let meta = Meta { received, initial_age: verdict.initial_age, ..entry.meta.clone() };
    Entry { fields: pack_fields(&fields), meta, ..entry.refreshed(Times::new(now, verdict.lifetime)) }
}

/// Whether an answer to HEAD says that the stored answer to GET is still the same (4.3.5).
fn is_same(head: &Fields, length: Option<u64>, entry: &Entry) -> bool {
    let of = |fields: &Fields| Validators {
        etag: fields.get("etag").cloned(),
        last_modified: fields.get("last-modified").cloned(),
    };
    let (new, old) = (of(head), of(&entry.fields));
    new.etag.as_ref().is_none_or(|tag| old.etag.as_ref() == Some(tag))
        && new.last_modified.as_ref().is_none_or(|at| old.last_modified.as_ref() == Some(at))
        && length.is_none_or(|length| length == entry.length)
}

fn is_in(list: &[&str], name: &[u8]) -> bool {
    list.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}
