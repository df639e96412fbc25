//! What a request saw of the cache, and the variables that tell it in logs.
//!
//! A hit costs no more than to keep what was at hand; the rest is worked out when a variable is read.

use crate::cache::freshness::Refusal;
use crate::cache::key::Key;
use crate::cache::seen::{Source, Tier};
use crate::cache::zone::Zone;
use crate::http::date;
use crate::http::vars::Variable;
use crate::upstream::{Answer, Failure};
use bytes::Bytes;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What a request saw of the cache, beside `rq.cache_status`.
#[derive(Clone, Default)]
pub struct Seen {
    /// The zone it was looked for in; `None` where the cache had no part.
    pub zone: Option<Arc<Zone>>,
    /// The key it was looked for under.
    pub key: Bytes,
    /// Where the answer comes from; `None` where there is none.
    pub source: Option<Source>,
    /// What was there before it was answered.
    pub before: Before,
    /// When that was known.
    at: Option<Instant>,
}

/// What was there before a request was answered; looked for only where it is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Before {
    /// Nobody looked, or there was nothing, or what is stale.
    #[default]
    Unknown,
    /// What is fresh.
    Fresh,
    /// Another variant, and not this one.
    OtherVariant,
}

impl Seen {
    /// What came of looking for `key` in `zone`, `now`.
    pub fn new(zone: Arc<Zone>, key: Key, now: Instant, result: &Result<Answer, Failure>) -> Seen {
        let source = result.as_ref().ok().map(|answer| answer.source);
        Seen { zone: Some(zone), key: key.text, source, before: Before::Unknown, at: Some(now) }
    }

    /// Notes why an answer was not kept, where that was clear before it came.
    pub fn refused_early(&mut self, why: Option<Refusal>) {
        if let Some(source) = &mut self.source
            && source.tier == Tier::Origin
        {
            source.refusal = source.refusal.or(why);
        }
    }

    /// How long the answer was to stay fresh when it was given; negative where it was stale. In
    /// milliseconds; `None` where it is not kept.
    pub fn ttl(&self) -> Option<i64> {
        let (at, until) = (self.at?, self.source?.fresh_until?);
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Some(if until >= at { millis(until - at) } else { -millis(at - until) })
    }

    /// How long ago the upstream had given the answer, when it was given to this request. In
    /// milliseconds; `None` where it is not known.
    pub fn age(&self) -> Option<u64> {
        let (at, source) = (self.at?, self.source?);
        // The one clock says when it was received, the other how long ago the request was answered.
        let now = date::since_epoch().as_millis() as u64;
        let resident = (source.received > 0).then(|| now.saturating_sub(source.received))?;
        let since = at.elapsed().as_millis() as u64;
        Some(resident.saturating_sub(since).saturating_add(source.initial_age.as_millis() as u64))
    }
}

/// The variables. They are ours; in a log they are `-` where the cache had no part.
pub const VARIABLES: &[Variable] = &[
    Variable::own("cache_zone", |rq, _, out| match &rq.cache_seen.zone {
        Some(zone) => write(out, zone.spec.name.as_bytes()),
        None => false,
    }),
    Variable::own("cache_key", |rq, _, out| rq.cache_seen.zone.is_some() && write(out, &rq.cache_seen.key)),
    Variable::own("cache_tier", |rq, _, out| match rq.cache_seen.source {
        Some(source) => write(out, source.tier.as_str().as_bytes()),
        None => false,
    }),
    Variable::own("cache_uncacheable", |rq, _, out| match rq.cache_seen.source {
        Some(Source { refusal: Some(why), .. }) => write(out, why.as_str().as_bytes()),
        _ => false,
    }),
    Variable::own("cache_ttl", |rq, _, out| match rq.cache_seen.ttl() {
        Some(millis) => {
            let sign = if millis < 0 { "-" } else { "" };
            seconds(out, sign, millis.unsigned_abs())
        }
        None => false,
    }),
    Variable::own("cache_age", |rq, _, out| {
        rq.cache_seen.age().is_some_and(|millis| seconds(out, "", millis))
    }),
    Variable::own("cache_readers", |rq, _, out| match rq.cache_seen.source {
        Some(Source { tier: Tier::Fill, readers, .. }) => write!(out, "{readers}").is_ok(),
        _ => false,
    }),
];

fn write(out: &mut Vec<u8>, text: &[u8]) -> bool {
    out.extend_from_slice(text);
    true
}

/// As `$request_time`.
fn seconds(out: &mut Vec<u8>, sign: &str, millis: u64) -> bool {
    write!(out, "{sign}{}.{:03}", millis / 1000, millis % 1000).is_ok()
}

#[cfg(test)]
mod tests {
    use crate::observe::testing::Running;

    const FORMAT: &str = "log_format seen '$uri $upstream_cache_status $cache_zone $cache_tier $cache_ttl \
         $cache_age $cache_readers $cache_uncacheable $cache_key';";

    /// The lines of the log, each field but those that tell a time as it is.
    fn logged(targets: &[&str]) -> Vec<String> {
        let running = Running::start(&format!(
            "proxy_cache_path c keys_zone=z:1m; {FORMAT}
             server {{
                 listen LISTEN;
                 location /origin/ {{ access_log off; return 200 text; }}
                 location /origin/cookie {{ access_log off; add_header Set-Cookie a=b; return 200 text; }}
                 access_log seen.log seen;
                 proxy_cache z;
                 proxy_cache_key $uri;
                 proxy_cache_valid 200 10s;
                 location / {{ proxy_pass http://LISTEN/origin/; }}
                 location /none/ {{ proxy_cache off; proxy_pass http://LISTEN/origin/; }}
                 location /long/ {{ proxy_no_cache 1; proxy_pass http://LISTEN/origin/; }}
                 location /gone/ {{ proxy_pass http://127.0.0.1:1; }}
             }}",
        ));
        for target in targets {
            running.get(target, "");
        }
        running.lines("seen.log", targets.len())
    }

    #[test]
    fn what_the_variables_say() {
        let lines = logged(&["/a", "/a", "/cookie", "/none/", "/long/"]);
        let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
        for (words, (name, plain)) in words.iter().zip([
            ("/a MISS z fill", "1 - /a"),
            ("/a HIT z memory", "- - /a"),
            ("/cookie MISS z origin", "- set_cookie /cookie"),
            ("/none/ - - -", "- - -"),
            ("/long/ MISS z origin", "- no_cache /long/"),
        ]) {
            assert_eq!(words[..4].join(" "), name);
            assert_eq!(words[6..].join(" "), plain, "{name}");
        }
        for kept in &words[..2] {
            let ttl: f64 = kept[4].parse().unwrap();
            assert!(ttl > 0.0 && ttl <= 10.0, "{ttl}");
            assert_eq!(kept[4].split_once('.').unwrap().1.len(), 3, "{ttl}");
        }
        assert!(words[2..].iter().all(|w| w[4] == "-"), "{lines:?}");
    }

    #[test]
    fn the_page_on_caching_names_every_variable_and_every_reason() {
        let page = include_str!("../../../docs/caching.md");
        for variable in super::VARIABLES {
            assert!(page.contains(&format!("| `${}` |", variable.name)), "{}", variable.name);
        }
        for why in crate::cache::freshness::Refusal::ALL {
            assert!(page.contains(&format!("| `detail={}` |", why.as_str())), "{why:?}");
        }
    }

    #[test]
    fn of_a_failure_there_is_a_key_and_no_tier() {
        let lines = logged(&["/gone/x"]);
        assert_eq!(lines[0], "/gone/x MISS z - - - - - /gone/x");
    }

    #[test]
    fn a_configuration_that_has_variables_of_these_names_keeps_its_own() {
        let running = Running::start(
            "map $uri $cache_ttl { default mapped; }
             log_format seen '$cache_key $cache_ttl $cache_zone';
             server {
                 listen LISTEN; access_log seen.log seen;
                 location ~ ^/(?<cache_zone>.*) { set $cache_key mine; return 204; }
             }",
        );
        running.get("/x", "");
        assert_eq!(running.lines("seen.log", 1), ["mine mapped x"]);
    }
}
