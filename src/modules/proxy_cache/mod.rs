//! nginx's proxy cache: what upstreams answered is kept.
//!
//! The proxy asks [`wants`]; then [`ready`], which needs no request to the upstream to be prepared;
//! then it makes a plan and gives it to [`fetch`].
//!
//! Where this is not nginx, on purpose: entries are held in memory too; times are exact, not whole
//! seconds; requests for the same key share one request to the upstream unless `proxy_cache_lock` is
//! expressly `off`, and read its answer as it arrives; when the upstream fails, those who wait are
//! told so and do not each ask again; a kept answer has a `Content-Length` even if the upstream gave
//! none; requests that take the same codings share a variant; a failure is not kept where `proxy_no_cache`
//! holds; what is no whole answer (206, 304) is not kept where nobody asked for a part.

mod debug;
mod directives;
mod invalidate;
mod metrics;
mod path;
mod predicate;
pub mod purge;
mod rfc9111;
mod seen;
mod temporary;
mod viewer;
mod zones;

pub use crate::cache::policy::IgnoreHeaders;
pub use debug::FILTER;
pub use directives::COMMANDS;
pub use invalidate::changed;
pub use metrics::metrics;
pub use seen::{Before, Seen, VARIABLES};
pub use temporary::Size;
pub use zones::{Http, Runtime, Shared};

use crate::cache::CacheStatus;
use crate::cache::freshness::Refusal;
use crate::cache::hls::Hls;
use crate::cache::key::{HEAD, Key, apart};
use crate::cache::policy::{Heuristic, Policy, Rfc9111, UseStale, Valid};
use crate::cache::serve::{self, Ask, NoCache};
use crate::cache::zone::Zone;
use crate::conf::diag::At;
use crate::conf::{Builder, ConfError, ConfResult};
use crate::http::head::{Head, Method};
use crate::http::hit::Ready;
use crate::http::request::Request;
use crate::http::template::Template;
use crate::modules::hls::Shown;
use crate::upstream::{Answer, Failure, FailureKind, Plan};
use bytes::Bytes;
use debug::Debug;
use predicate::Predicate;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

crate::settings! {
    /// What a level configures.
    pub struct Conf {
        /// `proxy_cache`: a zone's name, perhaps with variables, and where it was named; or off.
        inherit zone: Option<(Template, At)> = None,
        /// `proxy_cache_key`
        inherit key: Option<Template> = None,
        /// `proxy_cache_valid`, in order.
        inherit valid: Vec<Valid> = Vec::new(),
        /// `proxy_cache_methods`
        inherit methods: Methods = Methods { post: false },
        /// `proxy_cache_min_uses`
        inherit min_uses: u32 = 1,
        /// `proxy_cache_bypass`
        inherit bypass: Vec<Predicate> = Vec::new(),
        /// `proxy_no_cache`
        inherit no_cache: Vec<Predicate> = Vec::new(),
        /// `proxy_cache_purge`
        inherit purge: Vec<Predicate> = Vec::new(),
        /// `proxy_cache_purge_tags`
        inherit purge_tags: Vec<Template> = Vec::new(),
        /// `proxy_cache_lock`; requests share one fill unless it says `off`.
        inherit lock: Option<bool> = None,
        /// `proxy_cache_lock_timeout`
        inherit lock_timeout: Duration = Duration::from_secs(5),
        /// `proxy_cache_lock_age`
        inherit lock_age: Duration = Duration::from_secs(5),
        /// `proxy_cache_use_stale`, and whether `off` stands in it.
        inherit use_stale: (UseStale, bool) = (UseStale::default(), false),
        /// `proxy_cache_background_update`
        inherit background_update: bool = false,
        /// `proxy_cache_revalidate`
        inherit revalidate: bool = false,
        /// `proxy_cache_convert_head`: whether HEAD is fetched as GET.
        inherit convert_head: bool = true,
        /// `proxy_cache_max_range_offset`, bytes.
        inherit max_range_offset: Option<u64> = None,
        /// `proxy_ignore_headers`: for the proxy too.
        inherit ignore_headers: IgnoreHeaders = IgnoreHeaders::default(),
        /// `proxy_cache_rfc9111`
        inherit rfc9111: Rfc9111 = Rfc9111::Off,
        /// `proxy_cache_heuristic`
        inherit heuristic: Option<Heuristic> = None,
        /// `proxy_cache_targeted`: names in lower case.
        inherit targeted: Vec<Box<str>> = Vec::new(),
        /// `proxy_cache_debug`
        inherit debug: Debug = Debug::Off,
        /// `proxy_max_temp_file_size`, bytes; 0: no files.
        inherit max_temp_file_size: Size = None,
        /// `proxy_temp_file_write_size`, bytes.
        inherit temp_file_write_size: Size = None,
        /// All of this made ready for requests, when there is a zone.
        own active: Option<Arc<Active>> = None,
    }
}

/// The methods whose answers are kept, besides GET and HEAD, which always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    post: bool,
}

/// A level's cache.
#[derive(Debug)]
pub struct Active {
    zone: Named,
    /// `proxy_cache_key`; without one it is what is asked for upstream.
    key: Option<Template>,
    policy: Arc<Policy>,
}

/// How a zone is named.
#[derive(Debug)]
enum Named {
    /// By its index in [`Http`] and [`Runtime`].
    Index(usize),
    /// By a value; empty or `off` is none.
    Value(Template),
}

/// Makes every level's cache ready, once everything is inherited.
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    temporary::finish(b)?;
    zones::settle(b)?;
    for level in 0..b.levels.len() {
        let conf = &b.levels[level].conf.proxy_cache;
        let Some((name, at)) = (*conf.zone).clone() else { continue };
        let key = (*conf.key).clone();
        b.here = at.clone();
        let zone = match name.constant() {
            None => Named::Value(name),
            Some(_) => Named::Index(b.http.proxy_cache.position(&name.source).ok_or_else(|| {
                let name = &name.source;
                ConfError::new(format!("\"proxy_cache\" zone \"{name}\" is unknown"))
                    .at(&at)
                    .hint(format!("declare it in http: proxy_cache_path <path> keys_zone={name}:10m;"))
            })?),
        };
        let conf = &mut b.levels[level].conf;
        let mut policy = policy(&conf.proxy_cache, &conf.proxy);
        policy.intercepted = intercepted(conf);
        let policy = Arc::new(policy);
        conf.proxy_cache.active.0 = Some(Arc::new(Active { zone, key, policy }));
        rfc9111::pass_date(b, level);
    }
    Ok(())
}

/// The statuses of answers that a page of ours takes the place of.
fn intercepted(conf: &crate::modules::LocConf) -> Vec<u16> {
    if !*conf.proxy.intercept_errors {
        return Vec::new();
    }
    let all = conf.core.error_pages.iter().flat_map(|page| page.statuses.iter().copied());
    all.filter(|status| *status >= 300).collect()
}

fn policy(conf: &Conf, proxy: &super::proxy::Conf) -> Policy {
    let (stale, off) = &*conf.use_stale;
    let mut policy = Policy {
        valid: conf.valid.to_vec(),
        ignore: *conf.ignore_headers,
        stale: if *off { UseStale::default() } else { stale.clone() },
        background_update: *conf.background_update,
        revalidate: *conf.revalidate,
        share: *conf.lock != Some(false),
        lock_timeout: *conf.lock_timeout,
        lock_age: *conf.lock_age,
        min_uses: *conf.min_uses,
        temporary: temporary::settings(conf, proxy),
        ..Policy::default()
    };
    rfc9111::apply(conf, &mut policy);
    policy
}

/// Whether a request is the cache's matter: its location has a zone, and its method is kept.
pub fn wants(rq: &Request) -> bool {
    let conf = &rq.loc().proxy_cache;
    let kept = match rq.method {
        Method::Get | Method::Head => true,
        Method::Post => conf.methods.post,
        _ => false,
    };
    kept && has_zone(rq)
}

/// Whether the request's location has a zone.
fn has_zone(rq: &Request) -> bool {
    rq.loc().proxy_cache.active.as_ref().is_some_and(|active| match &active.zone {
        Named::Index(_) => true,
        Named::Value(name) => !matches!(&name.eval(rq)[..], b"" | b"off"),
    })
}

/// Whether a request that the cache [`wants`] goes upstream with another method than its own: HEAD
/// as GET.
pub fn converts_head(rq: &Request) -> bool {
    rq.method == Method::Head && *rq.loc().proxy_cache.convert_head
}

/// Whether `proxy_ignore_headers` names this field (lower case), as far as the proxy heeds it.
pub fn ignores(rq: &Request, name: &str) -> bool {
    let ignore = &rq.loc().proxy_cache.ignore_headers;
    match name {
        "x-accel-redirect" => ignore.x_accel_redirect,
        "x-accel-limit-rate" => ignore.x_accel_limit_rate,
        "x-accel-buffering" => ignore.x_accel_buffering,
        "x-accel-charset" => ignore.x_accel_charset,
        _ => false,
    }
}

/// The answer to a request that the cache [`wants`], when a fresh one is kept and nothing forbids
/// it. No plan is needed for it. Sets `rq.cache_status`.
pub fn ready(rq: &mut Request) -> Option<Result<Answer, Failure>> {
    // With a body the key may be made of it, and it is yet to be read.
    if rq.has_body || predicate::any(&rq.loc().proxy_cache.bypass, rq) {
        return None;
    }
    let (active, zone) = match place(rq) {
        Ok(place) => place,
        Err(failure) => return Some(Err(failure)),
    };
    if rfc9111::asks(&active.policy, &rq.head) {
        return None;
    }
    let (key, now) = (key(&active, rq), Instant::now());
    let entry = match serve::fresh(&zone, &key, &rq.head, now) {
        None if rq.method == Method::Head => rfc9111::head_from_get(&active.policy, &zone, &key, rq, now)?,
        found => found?,
    };
    zone.counters.request(CacheStatus::Hit);
    rq.cache_status = Some(CacheStatus::Hit);
    let answer = active.policy.answer(&entry);
    // Where the RFC is heeded an answer says how old it is.
    let repeats = rq.watch.is_on() && entry.vary.is_none() && active.policy.rfc9111 == Rfc9111::Off;
    rq.ready = Some(match repeats {
        true => Ready::Entry { zone: zone.clone(), key: key.clone(), entry: Arc::downgrade(&entry) },
        false => Ready::Unwatched,
    });
    rq.cache_seen = Seen::new(zone, key, now, &answer);
    Some(answer)
}

/// Answers a request that the cache [`wants`], from what is kept, from what another request is
/// fetching, or by sending `plan`. Sets `rq.cache_status`.
///
/// The plan is one for a request that is kept: without the client's conditions and ranges. Where
/// the answer is not to be kept after all, they are put back.
pub async fn fetch(rq: &mut Request, plan: Plan) -> Result<Answer, Failure> {
    let (active, zone) = place(rq)?;
    let conf = &rq.loc().proxy_cache;
    let key = key(&active, rq);
    let range = plan.fields.get("range").filter(|range| !range.is_empty());
    let ask = Ask {
        policy: active.policy.clone(),
        part: range.is_some_and(|range| memchr::memmem::find(&key.text, range).is_some()),
        key,
        bypass: predicate::any(&conf.bypass, rq),
        no_cache: no_cache(rq),
        far_range: far_range(rq),
        hls: hls(rq).map(Arc::new),
        zone,
    };
    let before = if debug::wanted(rq) { before(&ask, &rq.head).await } else { Before::Unknown };
    let upstream = viewer::Planned(plan);
    let served = Box::pin(serve::serve(&ask, &mut viewer::Asking(rq), upstream)).await;
    rq.cache_status = Some(served.status);
    if rq.method == Method::Head
        && let Some(said) = rfc9111::SaidByHead::of(&ask, rq, &served)
    {
        said.freshen(&ask).await;
    }
    let refused = matches!(ask.no_cache, NoCache::Yes).then(|| match *rq.loc().proxy.buffering {
        true => Refusal::NoCache,
        false => Refusal::Unbuffered,
    });
    rq.cache_seen = Seen::new(ask.zone, ask.key, Instant::now(), &served.result);
    rq.cache_seen.before = before;
    rq.cache_seen.refused_early(refused);
    served.result
}

/// What is there before a request is answered.
async fn before(ask: &Ask, asked: &Head) -> Before {
    let found = ask.zone.look(&ask.key, asked).await;
    match found.entry {
        Some(entry) if entry.is_fresh(Instant::now()) => Before::Fresh,
        None if found.slot.variant.is_some() => Before::OtherVariant,
        _ => Before::Unknown,
    }
}

fn place(rq: &Request) -> Result<(Arc<Active>, Arc<Zone>), Failure> {
    let failure = |message: String| {
        crate::observe::request_error(rq, format_args!("{message}"));
        Failure { status: 500, kind: FailureKind::Internal, message, attempts: Vec::new() }
    };
    let Some(active) = rq.loc().proxy_cache.active.as_ref() else {
        return Err(failure("no cache is configured".into()));
    };
    let runtime = &rq.generation().runtime.proxy_cache;
    let zone = match &active.zone {
        Named::Index(index) => runtime.zone(*index).ok_or_else(|| failure("the cache is gone".into())),
        Named::Value(name) => {
            let name = name.eval(rq);
            let name = String::from_utf8_lossy(&name);
            runtime.zone_named(&name).ok_or_else(|| failure(format!("cache \"{name}\" not found")))
        }
    };
    Ok((active.clone(), zone?))
}

fn key(active: &Active, rq: &Request) -> Key {
    if *rq.loc().hls.on {
        return crate::modules::hls::key(rq, |shown| key_text(active, rq, shown));
    }
    Key::new(key_text(active, rq, None))
}

/// What a request brings along where playlists are known (`hls`).
pub fn hls(rq: &Request) -> Option<Hls> {
    if !*rq.loc().hls.on {
        return None;
    }
    let active = rq.loc().proxy_cache.active.as_ref()?;
    Some(crate::modules::hls::of(rq, &key(active, rq), |shown| key_text(active, rq, shown)))
}

fn key_text(active: &Active, rq: &Request, shown: Shown<'_>) -> Bytes {
    // An answer to HEAD that was asked for as HEAD has no body for anybody else.
    let head = if rq.method == Method::Head && !converts_head(rq) { HEAD } else { b"" };
    match (&active.key, &rq.proxy_target) {
        (Some(key), _) if head.is_empty() => apart(key.eval(rq)),
        (Some(key), _) => [&apart(key.eval(rq)), head].concat().into(),
        // ngx_http_proxy_create_key: the URL as it goes upstream, however the client has put it.
        (None, Some(target)) => {
            let scheme = if target.tls { &b"https://"[..] } else { b"http://" };
            let uri = shown.and_then(|shown| shown(&target.uri)).unwrap_or_else(|| target.uri.clone());
            [scheme, &target.authority, &uri, head].concat().into()
        }
        // The proxy knows its target before it asks for a key.
        (None, None) => Bytes::new(),
    }
}

/// What is known of `proxy_no_cache` before there is an answer. What is not buffered is not kept.
fn no_cache(rq: &Request) -> NoCache {
    if !*rq.loc().proxy.buffering {
        return NoCache::Yes;
    }
    let (late, early): (Vec<&Predicate>, Vec<&Predicate>) =
        rq.loc().proxy_cache.no_cache.iter().partition(|p| p.depends_on_answer(rq));
    if early.iter().any(|p| p.holds(rq)) {
        NoCache::Yes
    } else if late.is_empty() {
        NoCache::No
    } else {
        NoCache::Depends
    }
}

/// Whether the range asked for begins beyond `proxy_cache_max_range_offset`, as nginx reads it.
fn far_range(rq: &Request) -> bool {
    let Some(most) = *rq.loc().proxy_cache.max_range_offset else { return false };
    let Some(range) = rq.head.get("range") else { return false };
    begins_beyond(range, most)
}

fn begins_beyond(range: &[u8], most: u64) -> bool {
    if most == 0 {
        return true;
    }
    let Some((unit, rest)) = range.split_at_checked(6) else { return false };
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return false;
    }
    let rest = rest.trim_ascii_start();
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let start = std::str::from_utf8(&rest[..digits]).ok().and_then(|t| t.parse::<u64>().ok());
    // Without a start it is counted from the end, wherever that is. What is no number is no range.
    rest.first() == Some(&b'-') || start.is_some_and(|start| start >= most)
}

#[cfg(test)]
mod tests;
