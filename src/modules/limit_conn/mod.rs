//! nginx's limit_conn module: how many requests of a key may be under way at once.
//!
//! A request counts from here until its response was sent, or its tunnel ended; with HTTP/2 each
//! stream counts. A zone is bounded as nginx would bound it (about 64 bytes a key) and outlives a
//! reload as long as its name, size and key stay.

mod zone;

use super::limit_req::{level_arg, status_arg};
pub use super::limit_zone::declare::Zones;
use super::limit_zone::declare::{Declared, zone_missing, zone_parameter};
use super::limit_zone::names::{self, Use};
use super::limit_zone::{Alive, Named};
use crate::conf::build::Http;
use crate::conf::values::{flag, number};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::edge::Edge;
use crate::http::phases::{Call, Flow, Handler, Passage, Phase};
use crate::http::request::Request;
use crate::http::vars::Variable;
use crate::observe::error_log::{self, Level};
use crate::observe::families::Families;
use crate::observe::request_log;
use crate::settings;
use smallvec::SmallVec;
use std::sync::Arc;
pub use zone::{Counted, Refused, Zone};

settings! {
    /// A level's limits. A level that has any has none of the outer level's.
    pub struct Conf {
        /// In order.
        inherit limits: Vec<Limit> = Vec::new(),
        /// The status of a refusal.
        inherit status: u16 = 503,
        /// The level at which refusals are logged.
        inherit log_level: Level = Level::Error,
        /// Whether limits are only counted and logged.
        inherit dry_run: bool = false,
    }
}

/// `limit_conn`
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The zone, an index into [`Zones`].
    zone: usize,
    /// Requests of a key.
    most: u32,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("limit_conn_zone", limit_conn_zone, "a zone: what is counted, how many keys"),
    Command::works("limit_conn", limit_conn, "limits requests under way by a zone"),
    Command::works(
        "limit_conn_status",
        |b, d| {
            let status = status_arg(d)?;
            b.loc().limit_conn.status.set(status)
        },
        "the status of a refusal",
    ),
    Command::works(
        "limit_conn_log_level",
        |b, d| {
            let level = level_arg(d)?;
            b.loc().limit_conn.log_level.set(level)
        },
        "the level at which refusals are logged",
    ),
    Command::works(
        "limit_conn_dry_run",
        |b, d| {
            let on = flag(d)?;
            b.loc().limit_conn.dry_run.set(on)
        },
        "whether limits are only counted and logged",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] =
    &[Variable::new("limit_conn_status", |rq, _, out| rq.limit_conn.is_some_and(|status| put(out, status)))];

/// Runs in its phase.
pub const HANDLER: Handler = Handler {
    phase: Phase::Preaccess,
    wants: |loc| !loc.limit_conn.limits.is_empty(),
    call: Call::Now(|rq| match decide(rq) {
        None => Flow::Continue,
        Some(status) => Flow::status(status),
    }),
    pure: false,
    gate: Some(gate),
};

fn gate(rq: &mut Request) -> Passage {
    match decide(rq) {
        None => Passage::Free,
        Some(status) => Passage::Not(Box::new(Flow::status(status))),
    }
}

fn put(out: &mut Vec<u8>, status: &str) -> bool {
    out.extend_from_slice(status.as_bytes());
    true
}

fn limit_conn_zone(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let key = b.template(d.arg(0))?;
    let mut zone = Declared { key, ..Declared::default() };
    for arg in &d.args[1..] {
        let (name, size) = match zone_parameter(arg) {
            Some(read) => read?,
            None => return Err(crate::conf::values::invalid_parameter(arg)),
        };
        (zone.name, zone.size) = (name.into(), size);
    }
    if zone.name.is_empty() {
        return Err(zone_missing());
    }
    names::zone(b, &zone.name, Use::LimitConn, 0)?;
    b.http.limit_conn.declare(zone)
}

fn limit_conn(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d.arg(0);
    names::zone(b, name, Use::LimitConn, 0)?;
    let zone = b.http.limit_conn.position(name);
    if b.loc().limit_conn.limits.iter().any(|limit| limit.zone == zone) {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    let most = match number(d.arg(1)) {
        None | Some(0) => {
            return Err(ConfError::new(format!("invalid number of connections \"{}\"", d.arg(1))));
        }
        Some(65536..) => return Err(ConfError::new("connection limit must be less 65536")),
        Some(most) => most as u32,
    };
    b.loc().limit_conn.limits.edit().push(Limit { zone, most });
    b.later(move |b| b.http.limit_conn.check(zone));
    Ok(())
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
        Ok(Runtime { zones: shared.0.join(&http.conf.limit_conn, "limit_conn_zone", Zone::new)? })
    }
}

/// Counts a request, once, by the limits of its level; the status when one of them refuses it.
pub fn decide(rq: &mut Request) -> Option<u16> {
    if rq.limit_conn.is_some() {
        return None;
    }
    let (status, counted, refused) = evaluate(rq);
    rq.limit_conn = status;
    rq.guards.extend(counted.into_iter().map(|guard| Box::new(guard) as Box<dyn std::any::Any + Send>));
    refused
}

type Evaluated = (Option<&'static str>, SmallVec<[Counted; 2]>, Option<u16>);

fn evaluate(rq: &Request) -> Evaluated {
    let conf = &rq.loc().limit_conn;
    let declared = &rq.http().conf.limit_conn;
    let zones = &rq.generation().runtime.limit_conn.zones;
    let mut counted: SmallVec<[Counted; 2]> = SmallVec::new();
    let mut key = Vec::with_capacity(64);
    for limit in conf.limits.iter() {
        key.clear();
        declared[limit.zone].key.eval_into(rq, &mut key);
        if key.is_empty() {
            continue;
        }
        if key.len() > 255 {
            let source = &declared[limit.zone].key.source;
            let shown = String::from_utf8_lossy(&key[..key.len().min(1024)]);
            let text = format_args!("the value of the \"{source}\" key is more than 255 bytes: \"{shown}\"");
            request_log(rq, Level::Error, text);
            continue;
        }
        let zone = &zones[limit.zone];
        match zone.enter(&key, limit.most) {
            Ok(guard) => counted.push(guard),
            // What the other zones counted of it is taken back.
            Err(refused) => return refuse(rq, zone, refused),
        }
    }
    for guard in &counted {
        guard.zone().passed.inc();
    }
    ((!counted.is_empty()).then_some("PASSED"), counted, None)
}

fn refuse(rq: &Request, zone: &Zone, refused: Refused) -> Evaluated {
    let conf = &rq.loc().limit_conn;
    let name = &zone.name;
    match refused {
        Refused::Over => {
            let dry = if *conf.dry_run { ", dry run," } else { "" };
            let text = format_args!("limiting connections{dry} by zone \"{name}\"");
            request_log(rq, *conf.log_level, text);
        }
        Refused::Full => error_log::log(
            Level::Crit,
            format_args!("ngx_slab_alloc() failed: no memory in limit_conn_zone \"{name}\""),
        ),
    }
    if *conf.dry_run {
        zone.rejected_dry_run.inc();
        return (Some("REJECTED_DRY_RUN"), SmallVec::new(), None);
    }
    zone.rejected.inc();
    (Some("REJECTED"), SmallVec::new(), Some(*conf.status))
}

/// Reports to Prometheus.
pub fn metrics(edge: &Edge, out: &mut Families) {
    for zone in &edge.generation().runtime.limit_conn.zones {
        let name = ("zone", zone.name.as_str());
        for (result, counter) in [
            ("passed", &zone.passed),
            ("rejected", &zone.rejected),
            ("rejected_dry_run", &zone.rejected_dry_run),
        ] {
            let help = "Requests counted by limit_conn, by zone and what became of them.";
            out.counter("edgewater_limit_conn_total", help, &[name, ("result", result)], counter.get());
        }
        let help = "Requests under way that a zone of limit_conn counts.";
        out.gauge("edgewater_limit_conn_current", help, &[name], zone.current.get() as f64);
        let help = "Keys that a zone of limit_conn holds.";
        out.gauge("edgewater_limit_conn_keys", help, &[name], zone.keys() as f64);
    }
}

#[cfg(test)]
mod tests;
