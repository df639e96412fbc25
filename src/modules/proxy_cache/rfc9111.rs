//! Freshness by RFC 9111 where nginx does otherwise: `proxy_cache_rfc9111`, `proxy_cache_heuristic` and
//! `proxy_cache_targeted`. Without the first the cache does what nginx's does, and the others do nothing.

use super::Conf;
use crate::cache::entry::Entry;
use crate::cache::freshness::{Received, wall};
use crate::cache::key::{HEAD, Key};
use crate::cache::policy::{Heuristic, Policy, Rfc9111};
use crate::cache::purge::Mark;
use crate::cache::seen::Tier;
use crate::cache::serve::{self, Ask, Served};
use crate::cache::zone::{Found, Zone};
use crate::cache::{update, wishes};
use crate::conf::build::LevelId;
use crate::conf::values;
use crate::conf::{Builder, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::head::Head;
use crate::http::request::Request;
use crate::http::response::Fields;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The most a heuristic lifetime is unless `max` says otherwise: a day.
const MOST: Duration = Duration::from_secs(86_400);

/// Reads `proxy_cache_rfc9111 off | responses | on`.
pub fn rfc9111(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let how = match d.arg(0) {
        "off" => Rfc9111::Off,
        "responses" => Rfc9111::Responses,
        "on" => Rfc9111::On,
        other => {
            return Err(ConfError::new(format!("invalid value \"{other}\"")).hint(
                "\"off\" (as nginx), \"responses\" (what answers say), \"on\" (also what requests say)",
            ));
        }
    };
    b.loc().proxy_cache.rfc9111.set(how)
}

/// Reads `proxy_cache_heuristic off | <percent>% [max=<time>]`.
pub fn heuristic(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let invalid = |text: &str| {
        ConfError::new(format!("invalid parameter \"{text}\"")).hint(
            "\"off\", or a share of the time since the last change and the most it comes to: 10% max=1h",
        )
    };
    let heuristic = match d.args.as_slice() {
        [one] if one == "off" => None,
        [share, rest @ ..] if rest.len() < 2 => {
            let percent = share.strip_suffix('%').and_then(values::number);
            let percent = percent.filter(|n| (1..=100).contains(n)).ok_or_else(|| invalid(share))?;
            let max = match rest.first() {
                None => MOST,
                Some(max) => max.strip_prefix("max=").and_then(values::time).ok_or_else(|| invalid(max))?,
            };
            Some(Heuristic { percent, max })
        }
        list => return Err(invalid(&list.join(" "))),
    };
    b.loc().proxy_cache.heuristic.set(heuristic)
}

/// Reads `proxy_cache_targeted off | <field> …`.
pub fn targeted(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.args.iter().any(|name| name == "off") && d.args.len() > 1 {
        return Err(ConfError::new("\"off\" stands alone in \"{}\""));
    }
    let mut names: Vec<Box<str>> = Vec::new();
    for name in d.args.iter().filter(|name| *name != "off") {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err(ConfError::new(format!("invalid field name \"{name}\""))
                .hint("names of fields such as CDN-Cache-Control, the first before the others"));
        }
        let name: Box<str> = name.to_ascii_lowercase().into();
        if matches!(&*name, "cache-control" | "expires") {
            return Err(ConfError::new(format!("\"{name}\" is no targeted field"))
                .hint("it is heeded where none of the fields named here is there"));
        }
        if names.contains(&name) {
            b.note(NoteLevel::Warn, format!("duplicate value \"{name}\""));
        } else {
            names.push(name);
        }
    }
    b.loc().proxy_cache.targeted.set(names)
}

/// What these directives make of a level's policy.
pub fn apply(conf: &Conf, policy: &mut Policy) {
    policy.rfc9111 = *conf.rfc9111;
    if policy.rfc9111 == Rfc9111::Off {
        return;
    }
    policy.heuristic = *conf.heuristic;
    policy.targeted = conf.targeted.to_vec();
    // Validation is the RFC's way to learn that what is stale is still right (4.3).
    policy.revalidate = *conf.revalidate || !conf.revalidate.is_set();
}

/// What a level whose cache keeps to the RFC changes in the proxy's settings: an upstream's `Date` is sent
/// on, for it is what a client's cache counts an answer's age and `Expires` from.
pub fn pass_date(b: &mut Builder, level: LevelId) {
    let conf = &mut b.levels[level].conf;
    if *conf.proxy_cache.rfc9111 != Rfc9111::Off && !conf.proxy.pass_headers.iter().any(|n| n == "date") {
        conf.proxy.pass_headers.edit().push("date".into());
    }
}

/// Whether what a request says may make what is kept not good enough for it.
pub fn asks(policy: &Policy, asked: &Head) -> bool {
    policy.rfc9111 == Rfc9111::On && wishes::any(asked)
}

/// Of the key of an answer to HEAD that was asked for as HEAD, the key of the answer to GET; where the RFC
/// holds.
fn key_of_get(policy: &Policy, key: &Key) -> Option<Key> {
    let text = key.text.strip_suffix(HEAD).filter(|_| policy.rfc9111 != Rfc9111::Off)?;
    Some(Key::new(key.text.slice(..text.len())))
}

/// The fresh answer to GET that answers a HEAD (RFC 9110, 9.3.2), where HEAD goes upstream as such
/// (`proxy_cache_convert_head off`).
pub fn head_from_get(
    policy: &Policy,
    zone: &Zone,
    key: &Key,
    rq: &Request,
    now: Instant,
) -> Option<Arc<Entry>> {
    serve::fresh(zone, &key_of_get(policy, key)?, &rq.head, now)
}

/// What an answer to HEAD, asked for as HEAD, says of the stored answer to GET (RFC 9111, 4.3.5).
pub struct SaidByHead {
    key: Key,
    asked: Head,
    fields: Fields,
    length: Option<u64>,
}

impl SaidByHead {
    /// `None` where it says nothing: it is none that the upstream has just given.
    pub fn of(ask: &Ask, rq: &Request, served: &Served) -> Option<SaidByHead> {
        let key = key_of_get(&ask.policy, &ask.key)?;
        let answer = served.result.as_ref().ok().filter(|answer| answer.status == 200)?;
        let given = matches!(answer.source.tier, Tier::Origin | Tier::Fill);
        given.then(|| SaidByHead {
            key,
            asked: rq.head.clone(),
            fields: answer.fields.clone(),
            length: answer.length,
        })
    }

    /// Makes the stored answer as new as this one, or stale.
    pub async fn freshen(self, ask: &Ask) {
        let SaidByHead { key, asked, fields, length } = self;
        // What is purged meanwhile does not come back by this.
        let ticket = ask.zone.purges.ticket(&Mark::new(key.text.clone()));
        if let Found { slot, entry: Some(entry), .. } = ask.zone.look(&key, &asked).await
            && entry.status == 200
            && ticket.found(&entry)
        {
            let now = wall().as_secs();
            let received =
                Received { status: 200, fields: &fields, asked: &asked, delay: Duration::ZERO, now };
            let entry = update::freshened(&entry, &received, length, &ask.policy, Instant::now());
            ticket.unless_purged(|| ask.zone.keep(&slot, Arc::new(entry)));
        }
    }
}

#[cfg(test)]
#[path = "rfc9111_tests.rs"]
mod tests;
