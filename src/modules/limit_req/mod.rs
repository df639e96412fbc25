//! nginx's limit_req module: the rate of requests by key, by the leaky bucket.
//!
//! A zone is a table of keys, bounded as nginx would bound it (about 128 bytes a key), and outlives
//! a reload as long as its name, size and key stay; its rate may change.

mod account;
mod zone;

pub use super::limit_zone::declare::Zones;
use super::limit_zone::declare::{Declared, zone_missing, zone_parameter};
use super::limit_zone::names::{self, Use};
use super::limit_zone::{Alive, Named};
use crate::conf::build::Http;
use crate::conf::values::{flag, number, number_arg, one_of, parameter};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::edge::Edge;
use crate::http::io::read_into;
use crate::http::phases::{Call, Deciding, Flow, Handler, Passage, Phase};
use crate::http::request::{Downstream, Request};
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::observe::error_log::{self, Level};
use crate::observe::families::Families;
use crate::observe::request_log;
use crate::settings;
use smallvec::SmallVec;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
pub use zone::{Judgement, Results, Step, Zone, judge};

settings! {
    /// A level's limits. A level that has any has none of the outer level's.
    pub struct Conf {
        /// In order.
        inherit limits: Vec<Limit> = Vec::new(),
        /// The status of a refusal.
        inherit status: u16 = 503,
        /// The level at which refusals are logged; delays are logged one below.
        inherit log_level: Level = Level::Error,
        /// Whether limits are only counted and logged.
        inherit dry_run: bool = false,
    }
}

/// `limit_req`
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The zone, an index into [`Zones`].
    zone: usize,
    /// Thousandths of a request that may be owed.
    burst: u64,
    /// Thousandths that may be owed without a wait.
    delay: u64,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("limit_req_zone", limit_req_zone, "a zone: what is counted, how many, at which rate"),
    Command::works("limit_req", limit_req, "limits requests by a zone"),
    Command::works(
        "limit_req_status",
        |b, d| {
            let status = status_arg(d)?;
            b.loc().limit_req.status.set(status)
        },
        "the status of a refusal",
    ),
    Command::works(
        "limit_req_log_level",
        |b, d| {
            let level = level_arg(d)?;
            b.loc().limit_req.log_level.set(level)
        },
        "the level at which refusals are logged",
    ),
    Command::works(
        "limit_req_dry_run",
        |b, d| {
            let on = flag(d)?;
            b.loc().limit_req.dry_run.set(on)
        },
        "whether limits are only counted and logged",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] =
    &[Variable::new("limit_req_status", |rq, _, out| rq.limit_req.is_some_and(|status| put(out, status)))];

/// Runs in its phase.
pub const HANDLER: Handler = Handler {
    phase: Phase::Preaccess,
    wants: |loc| !loc.limit_req.limits.is_empty(),
    call: Call::Later(handle),
    pure: false,
    gate: Some(gate),
};

fn put(out: &mut Vec<u8>, status: &str) -> bool {
    out.extend_from_slice(status.as_bytes());
    true
}

fn limit_req_zone(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let key = b.template(d.arg(0))?;
    let mut zone = Declared { key, rate: 1000, ..Declared::default() };
    for arg in &d.args[1..] {
        if let Some(read) = zone_parameter(arg) {
            let (name, size) = read?;
            (zone.name, zone.size) = (name.into(), size);
        } else if let Some(text) = parameter(arg, "rate") {
            zone.rate = rate(text).ok_or_else(|| {
                ConfError::new(format!("invalid rate \"{arg}\"")).hint(
                    "a rate is a whole number by the second or the minute, as in rate=10r/s or rate=30r/m",
                )
            })?;
        } else {
            return Err(crate::conf::values::invalid_parameter(arg));
        }
    }
    if zone.name.is_empty() {
        return Err(zone_missing());
    }
    names::zone(b, &zone.name, Use::LimitReq, 0)?;
    b.http.limit_req.declare(zone)
}

/// `10r/s`, `30r/m` in thousandths a second, rounded down.
fn rate(text: &str) -> Option<u64> {
    let (digits, seconds) = match (text.strip_suffix("r/s"), text.strip_suffix("r/m")) {
        (Some(digits), _) => (digits, 1),
        (_, Some(digits)) => (digits, 60),
        _ => (text, 1),
    };
    number(digits).filter(|n| *n > 0)?.checked_mul(1000).map(|thousandths| thousandths / seconds)
}

fn limit_req(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut zone = None;
    let (mut burst, mut delay) = (0, 0);
    for arg in &d.args {
        let positive = |text| number(text).filter(|n| *n > 0).map(|n: u64| n.saturating_mul(1000));
        if let Some(name) = parameter(arg, "zone") {
            names::zone(b, name, Use::LimitReq, 0)?;
            zone = Some(b.http.limit_req.position(name));
        } else if let Some(text) = parameter(arg, "burst") {
            burst = positive(text).ok_or_else(|| ConfError::new(format!("invalid burst value \"{arg}\"")))?;
        } else if let Some(text) = parameter(arg, "delay") {
            delay = positive(text).ok_or_else(|| ConfError::new(format!("invalid delay value \"{arg}\"")))?;
        } else if arg == "nodelay" {
            delay = u64::MAX;
        } else {
            return Err(crate::conf::values::invalid_parameter(arg));
        }
    }
    let zone = zone.ok_or_else(zone_missing)?;
    if b.loc().limit_req.limits.iter().any(|limit| limit.zone == zone) {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    b.loc().limit_req.limits.edit().push(Limit { zone, burst, delay });
    b.later(move |b| b.http.limit_req.check(zone));
    Ok(())
}

/// The first argument as a status that is an error.
pub fn status_arg(d: &Directive) -> ConfResult<u16> {
    match number_arg(d, 0)? {
        0..400 | 600.. => Err(ConfError::new("value must be between 400 and 599")),
        status => Ok(status as u16),
    }
}

/// The first argument as a level of the log.
pub fn level_arg(d: &Directive) -> ConfResult<Level> {
    let levels = [Level::Info, Level::Notice, Level::Warn, Level::Error];
    one_of(d, &levels.map(|level| (level.as_str(), level)))
}

/// What outlives a reload.
#[derive(Default)]
pub struct Shared(Alive<Zone>);

/// What a generation uses.
#[derive(Default)]
pub struct Runtime {
    /// The zones, in the order of the configuration's.
    zones: Vec<Arc<Zone>>,
}

impl Named for Zone {
    fn name(&self) -> &str {
        &self.name
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn key(&self) -> &str {
        &self.key
    }
}

impl Runtime {
    /// Joins the configuration with what outlives it.
    pub fn build(http: &Http, shared: &Shared) -> ConfResult<Runtime> {
        Ok(Runtime { zones: shared.0.join(&http.conf.limit_req, "limit_req", Zone::new)? })
    }
}

/// What the limits say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Pass,
    /// Go on after this time.
    Delay(Duration),
    /// Answer with this status.
    Reject(u16),
}

/// Judges a request, once, by the limits of its level.
pub fn decide(rq: &mut Request) -> Verdict {
    if rq.limit_req.is_some() {
        return Verdict::Pass;
    }
    let (status, verdict) = evaluate(rq);
    rq.limit_req = status;
    verdict
}

fn evaluate(rq: &Request) -> (Option<&'static str>, Verdict) {
    let conf = &rq.loc().limit_req;
    let declared = &rq.http().conf.limit_req;
    let zones = &rq.generation().runtime.limit_req.zones;
    let mut keys = Vec::with_capacity(64);
    let mut counted: SmallVec<[(&Limit, std::ops::Range<usize>); 4]> = SmallVec::new();
    for limit in conf.limits.iter() {
        let start = keys.len();
        declared[limit.zone].key.eval_into(rq, &mut keys);
        if keys.len() - start > 65535 {
            let source = &declared[limit.zone].key.source;
            let shown = String::from_utf8_lossy(&keys[start..start + 1024]);
            let text =
                format_args!("the value of the \"{source}\" key is more than 65535 bytes: \"{shown}\"");
            request_log(rq, Level::Error, text);
            keys.truncate(start);
        }
        if keys.len() > start {
            counted.push((limit, start..keys.len()));
        }
    }
    if counted.is_empty() {
        return (None, Verdict::Pass);
    }
    let steps: SmallVec<[Step<'_>; 4]> = counted
        .into_iter()
        .map(|(limit, key)| Step {
            zone: &zones[limit.zone],
            rate: declared[limit.zone].rate,
            burst: limit.burst,
            delay: limit.delay,
            key: &keys[key],
        })
        .collect();
    let judgement = judge(&steps, now());
    report(rq, &steps, &judgement);
    count(&steps, &judgement, *conf.dry_run);
    match (judgement, *conf.dry_run) {
        (Judgement::Pass, _) => (Some("PASSED"), Verdict::Pass),
        (Judgement::Delay { .. }, true) => (Some("DELAYED_DRY_RUN"), Verdict::Pass),
        (Judgement::Delay { millis, .. }, false) => {
            (Some("DELAYED"), Verdict::Delay(Duration::from_millis(millis)))
        }
        (Judgement::Reject { .. } | Judgement::Full { .. }, true) => {
            (Some("REJECTED_DRY_RUN"), Verdict::Pass)
        }
        (Judgement::Reject { .. } | Judgement::Full { .. }, false) => {
            (Some("REJECTED"), Verdict::Reject(*conf.status))
        }
    }
}

/// Logs what is not a plain pass.
fn report(rq: &Request, steps: &[Step<'_>], judgement: &Judgement) {
    let conf = &rq.loc().limit_req;
    let dry = if *conf.dry_run { ", dry run" } else { "" };
    let name = |step: usize| steps[step].zone.name.as_str();
    match *judgement {
        Judgement::Pass => {}
        Judgement::Reject { step, excess } => request_log(
            rq,
            *conf.log_level,
            format_args!(
                "limiting requests{dry}, excess: {}.{:03} by zone \"{}\"",
                excess / 1000,
                excess % 1000,
                name(step)
            ),
        ),
        Judgement::Delay { step, excess, .. } => request_log(
            rq,
            one_below(*conf.log_level),
            format_args!(
                "delaying request{dry}, excess: {}.{:03}, by zone \"{}\"",
                excess / 1000,
                excess % 1000,
                name(step)
            ),
        ),
        Judgement::Full { step } => error_log::log(
            Level::Alert,
            format_args!("could not allocate node in limit_req zone \"{}\"", name(step)),
        ),
    }
}

fn one_below(level: Level) -> Level {
    match level {
        Level::Error => Level::Warn,
        Level::Warn => Level::Notice,
        _ => Level::Info,
    }
}

/// Counts the result in the zone that decided, and a pass in the others.
fn count(steps: &[Step<'_>], judgement: &Judgement, dry_run: bool) {
    let (decided, passes) = match *judgement {
        Judgement::Pass => (None, true),
        Judgement::Delay { step, .. } => (Some(step), true),
        Judgement::Reject { step, .. } | Judgement::Full { step } => (Some(step), false),
    };
    for (number, step) in steps.iter().enumerate() {
        let results = &step.zone.results;
        let counter = match (decided == Some(number), passes, dry_run) {
            (false, true, _) => &results.passed,
            (false, false, _) => continue,
            (true, true, false) => &results.delayed,
            (true, true, true) => &results.delayed_dry_run,
            (true, false, false) => &results.rejected,
            (true, false, true) => &results.rejected_dry_run,
        };
        counter.inc();
    }
}

/// Milliseconds since the first request, from 1.
fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    1 + START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(async move {
        match decide(rq) {
            Verdict::Pass => Flow::Continue,
            Verdict::Reject(status) => Flow::status(status),
            Verdict::Delay(time) => wait(rq, time).await,
        }
    })
}

fn gate(rq: &mut Request) -> Passage {
    match decide(rq) {
        Verdict::Pass => Passage::Free,
        Verdict::Reject(status) => Passage::Not(Box::new(Flow::status(status))),
        Verdict::Delay(time) => Passage::After(time),
    }
}

/// Waits, unless the client leaves.
async fn wait(rq: &mut Request, time: Duration) -> Flow {
    tokio::select! {
        () = tokio::time::sleep(time) => Flow::Continue,
        () = left(&mut rq.downstream) => {
            request_log(rq, Level::Info, format_args!("client prematurely closed connection"));
            rq.keepalive = false;
            Flow::respond(Response::new(499))
        }
    }
}

/// How much a client may send while it waits.
const READ_AHEAD: usize = 64 * 1024;

/// Ends when the client's connection does. An HTTP/2 stream that is reset ends the request itself.
async fn left(downstream: &mut Downstream) {
    if let Downstream::H1(h1) = downstream {
        while h1.input.len() < READ_AHEAD {
            if !matches!(read_into(&mut h1.io, &mut h1.input).await, Ok(n) if n > 0) {
                return;
            }
        }
    }
    std::future::pending().await
}

/// Reports to Prometheus.
pub fn metrics(edge: &Edge, out: &mut Families) {
    for zone in &edge.generation().runtime.limit_req.zones {
        let results = &zone.results;
        for (result, counter) in [
            ("passed", &results.passed),
            ("delayed", &results.delayed),
            ("rejected", &results.rejected),
            ("delayed_dry_run", &results.delayed_dry_run),
            ("rejected_dry_run", &results.rejected_dry_run),
        ] {
            let labels = [("zone", zone.name.as_str()), ("result", result)];
            let help = "Requests counted by limit_req, by zone and what became of them.";
            out.counter("edgewater_limit_req_total", help, &labels, counter.get());
        }
        let help = "Keys that a zone of limit_req holds.";
        let labels = [("zone", zone.name.as_str())];
        out.gauge("edgewater_limit_req_keys", help, &labels, zone.keys() as f64);
    }
}

#[cfg(test)]
mod tests;
