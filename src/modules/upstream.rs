//! nginx's upstream modules: groups of servers, how one is chosen, how connections are kept.

use crate::conf::build::Http as HttpLevels;
use crate::conf::values::{number, number_arg, time, time_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Context, Directive, NoteLevel};
use crate::edge::Edge;
use crate::http::Request;
use crate::http::request::Attempt;
use crate::http::vars::Variable;
use crate::observe::families::Families;
use crate::upstream::balance::Method;
use crate::upstream::group::{Group, GroupConf, KeepaliveConf, PeerAddr, PeerConf};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What the whole of `http` configures: the groups, `upstream` blocks first, then those that a
/// `proxy_pass` implies.
#[derive(Default)]
pub struct Http {
    /// The groups.
    pub groups: Vec<GroupConf>,
}

impl Http {
    /// The group of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|g| g.name == name)
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("upstream", upstream, "a group of servers"),
    Command::works(
        "least_conn",
        |b, _| method(b, Method::LeastConn),
        "the server with the fewest connections",
    ),
    Command::works("ip_hash", |b, _| method(b, Method::IpHash), "a server by the client's address"),
    Command::works("hash", hash, "a server by a key"),
    Command::works("random", random, "a server at random"),
    Command::works("keepalive", keepalive, "idle connections that a worker keeps"),
    Command::no_effect("zone", "the state of a group is shared by all workers in any case"),
];

fn upstream(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d.arg(0).to_ascii_lowercase();
    if b.http.upstream.find(&name).is_some() {
        return Err(ConfError::new(format!("duplicate upstream \"{}\"", d.arg(0))));
    }
    b.http.upstream.groups.push(GroupConf {
        name,
        peers: Vec::new(),
        method: Method::RoundRobin,
        keepalive: KeepaliveConf::default(),
    });
    b.upstream = b.http.upstream.groups.len() - 1;
    let (level, server) = (b.level(), b.server());
    b.enter(d, Context::UPSTREAM, level, server)?;
    let group = group(b);
    if group.peers.is_empty() {
        return Err(ConfError::new("no servers are inside upstream"));
    }
    if group.peers.iter().all(|p| p.backup) {
        return Err(ConfError::new(format!("no servers in upstream \"{}\"", d.arg(0))));
    }
    let backups = group.peers.iter().any(|p| p.backup);
    let hashed = matches!(
        group.method,
        Method::IpHash | Method::Hash(_) | Method::ConsistentHash(_) | Method::Random { .. }
    );
    if backups && hashed {
        return Err(ConfError::new("balancing method does not support parameter \"backup\""));
    }
    Ok(())
}

/// The group being read.
fn group(b: &mut Builder) -> &mut GroupConf {
    &mut b.http.upstream.groups[b.upstream]
}

fn method(b: &mut Builder, method: Method) -> ConfResult<()> {
    if !matches!(group(b).method, Method::RoundRobin) {
        b.note(NoteLevel::Warn, "load balancing method redefined");
    }
    group(b).method = method;
    Ok(())
}

fn hash(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let key = b.template(d.arg(0))?;
    match d.args.get(1).map(String::as_str) {
        None => method(b, Method::Hash(key)),
        Some("consistent") => method(b, Method::ConsistentHash(key)),
        Some(other) => Err(ConfError::new(format!("invalid parameter \"{other}\""))),
    }
}

fn random(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let two = match d.args.first().map(String::as_str) {
        None => false,
        Some("two") => true,
        Some(other) => return Err(ConfError::new(format!("invalid parameter \"{other}\""))),
    };
    match d.args.get(1).map(String::as_str) {
        None | Some("least_conn") => method(b, Method::Random { two }),
        Some(other) => Err(ConfError::new(format!("invalid parameter \"{other}\""))),
    }
}

fn keepalive(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let n = number_arg(d, 0)?;
    match d.args.get(1).map(String::as_str) {
        None | Some("local") => {}
        Some(other) => return Err(ConfError::new(format!("invalid parameter \"{other}\""))),
    }
    group(b).keepalive.connections = n as usize;
    Ok(())
}

/// `keepalive_requests` of an upstream.
pub fn keepalive_requests(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    group(b).keepalive.requests = number_arg(d, 0)?;
    Ok(())
}

/// `keepalive_time` of an upstream.
pub fn keepalive_time(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    group(b).keepalive.time = time_arg(d, 0)?;
    Ok(())
}

/// `keepalive_timeout` of an upstream.
pub fn keepalive_timeout(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    group(b).keepalive.timeout = time_arg(d, 0)?;
    Ok(())
}

/// A `server` of an upstream.
pub fn server(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut peer = PeerConf {
        addr: PeerAddr::Unix(Default::default()),
        server: d.arg(0).to_string(),
        weight: 1,
        max_conns: 0,
        max_fails: 1,
        fail_timeout: Duration::from_secs(10),
        backup: false,
        down: false,
    };
    for arg in &d.args[1..] {
        let bad = || ConfError::new(format!("invalid parameter \"{arg}\""));
        let count = |v: &str| number(v).and_then(|n| u32::try_from(n).ok()).ok_or_else(bad);
        match arg.split_once('=') {
            Some(("weight", v)) => peer.weight = count(v)?,
            Some(("max_conns", v)) => peer.max_conns = count(v)?,
            Some(("max_fails", v)) => peer.max_fails = count(v)?,
            Some(("fail_timeout", v)) => peer.fail_timeout = time(v).ok_or_else(bad)?,
            None if arg == "backup" => peer.backup = true,
            None if arg == "down" => peer.down = true,
            None if arg == "resolve" => {
                return Err(ConfError::new("the \"resolve\" parameter of \"server\" is not supported yet").hint(
                    "names of an upstream are looked up when the configuration is read; a name in a variable \
                     of proxy_pass is looked up while running, with \"resolver\"",
                ));
            }
            Some(("slow_start" | "route" | "service" | "id" | "drain", _)) => {
                return Err(ConfError::new(format!(
                    "the parameter \"{arg}\" of \"server\" is not supported yet"
                )));
            }
            _ => return Err(bad()),
        }
    }
    if peer.weight == 0 {
        return Err(ConfError::new("invalid parameter \"weight=0\""));
    }
    for addr in addresses(d.arg(0), 80)? {
        group(b).peers.push(PeerConf { addr, ..peer.clone() });
    }
    Ok(())
}

/// The addresses of a server as written: `host`, `host:port`, `unix:path`.
pub fn addresses(text: &str, default_port: u16) -> ConfResult<Vec<PeerAddr>> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(vec![PeerAddr::Unix(path.into())]);
    }
    let (host, port) = split_host(text, default_port)
        .ok_or_else(|| ConfError::new(format!("invalid host in upstream \"{text}\"")))?;
    let missing = || {
        ConfError::new(format!("host not found in upstream \"{text}\"")).hint(
            "the name is looked up when the configuration is read; is it right, and reachable from here?",
        )
    };
    let found = (host, port).to_socket_addrs().map_err(|_| missing())?;
    let mut addrs: Vec<PeerAddr> = Vec::new();
    for addr in found.map(PeerAddr::Inet) {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() { Err(missing()) } else { Ok(addrs) }
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6]:port`; brackets are taken off.
pub fn split_host(text: &str, default_port: u16) -> Option<(&str, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => default_port,
        Some(port) => number(port).and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0)?,
    };
    (!host.is_empty()).then_some((host, port))
}

/// Adds the group that a `proxy_pass` to a host implies, or finds the one of that name.
pub fn implied(b: &mut Builder, authority: &str, default_port: u16) -> ConfResult<usize> {
    let name = authority.to_ascii_lowercase();
    if let Some(found) = b.http.upstream.find(&name) {
        return Ok(found);
    }
    let addrs = addresses(authority, default_port)?;
    // Two schemes may imply the same host with different ports.
    let unique = if authority.contains(':') { name } else { format!("{name}:{default_port}") };
    if let Some(found) = b.http.upstream.find(&unique) {
        return Ok(found);
    }
    b.http.upstream.groups.push(implied_group(unique, authority, addrs));
    Ok(b.http.upstream.groups.len() - 1)
}

/// A group of addresses without parameters.
pub fn implied_group(name: String, server: &str, addrs: Vec<PeerAddr>) -> GroupConf {
    let peers = addrs.into_iter().map(|addr| PeerConf {
        addr,
        server: server.to_string(),
        weight: 1,
        max_conns: 0,
        max_fails: 1,
        fail_timeout: Duration::from_secs(10),
        backup: false,
        down: false,
    });
    GroupConf {
        name,
        peers: peers.collect(),
        method: Method::RoundRobin,
        keepalive: KeepaliveConf::default(),
    }
}

/// Nothing is left to complete: the groups are joined with their state for each generation.
pub fn finish(_: &mut Builder) -> ConfResult<()> {
    Ok(())
}

/// The groups that are in use, by their configuration; one whose configuration stays keeps its state
/// over a reload.
#[derive(Default)]
pub struct Shared {
    groups: Mutex<HashMap<String, Weak<Group>>>,
}

/// The groups of a generation.
#[derive(Default)]
pub struct Runtime {
    /// In the order of the configuration.
    pub groups: Vec<Arc<Group>>,
    by_name: HashMap<String, usize>,
}

impl Runtime {
    /// Joins the configuration with what outlives it.
    pub fn build(http: &HttpLevels, shared: &Shared) -> ConfResult<Runtime> {
        let mut known = shared.groups.lock();
        known.retain(|_, group| group.strong_count() > 0);
        let mut runtime = Runtime::default();
        for conf in &http.conf.upstream.groups {
            let key = format!("{conf:?}");
            let group = known.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                let group = Arc::new(Group::new(conf.clone()));
                known.insert(key, Arc::downgrade(&group));
                group
            });
            runtime.by_name.insert(conf.name.clone(), runtime.groups.len());
            runtime.groups.push(group);
        }
        Ok(runtime)
    }

    /// The group of this name, which variables of a `proxy_pass` may give.
    pub fn find(&self, name: &str) -> Option<&Arc<Group>> {
        self.by_name.get(&name.to_ascii_lowercase()).map(|i| &self.groups[*i])
    }
}

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("upstream_addr", |rq, _, out| {
        each(rq, out, |a, out| out.extend_from_slice(a.peer.as_bytes()))
    }),
    Variable::new("upstream_status", |rq, _, out| {
        each(rq, out, |a, out| match a.status {
            0 => out.push(b'-'),
            status => out.extend_from_slice(format!("{status}").as_bytes()),
        })
    }),
    Variable::new("upstream_response_time", |rq, _, out| {
        each(rq, out, |a, out| match a.end.micros.load(Ordering::Relaxed) {
            0 => out.push(b'-'),
            micros => seconds(out, Duration::from_micros(micros)),
        })
    }),
    Variable::new("upstream_connect_time", |rq, _, out| each(rq, out, |a, out| time_or_dash(out, a.connect))),
    Variable::new("upstream_header_time", |rq, _, out| each(rq, out, |a, out| time_or_dash(out, a.header))),
    Variable::new("upstream_response_length", |rq, _, out| {
        each(rq, out, |a, out| {
            out.extend_from_slice(a.end.received.load(Ordering::Relaxed).to_string().as_bytes())
        })
    }),
    Variable::new("upstream_bytes_received", |rq, _, out| {
        each(rq, out, |a, out| {
            let total = a.end.received.load(Ordering::Relaxed) + a.head_size;
            out.extend_from_slice(total.to_string().as_bytes());
        })
    }),
    Variable::new("upstream_bytes_sent", |rq, _, out| {
        each(rq, out, |a, out| out.extend_from_slice(a.bytes_sent.to_string().as_bytes()))
    }),
    Variable::new("upstream_cache_status", |rq, _, out| match rq.cache_status {
        Some(status) => {
            out.extend_from_slice(status.as_str().as_bytes());
            true
        }
        None => false,
    }),
    Variable::prefix("upstream_trailer_", |rq, name, out| {
        let fields = rq.attempts.last().and_then(|attempt| attempt.end.trailers.get());
        fields.is_some_and(|fields| crate::modules::headers::joined(fields, name, out))
    }),
    Variable::prefix("upstream_http_", |rq, name, out| {
        let Some(fields) = &rq.upstream_fields else { return false };
        let name = name.replace('_', "-");
        let mut found = false;
        for value in fields.all(&name) {
            if found {
                out.extend_from_slice(b", ");
            }
            found = true;
            out.extend_from_slice(value);
        }
        found
    }),
    Variable::prefix("upstream_cookie_", |rq, name, out| {
        let Some(fields) = &rq.upstream_fields else { return false };
        for cookie in fields.all("set-cookie") {
            let end = memchr::memchr(b';', cookie).unwrap_or(cookie.len());
            if let Some(at) = memchr::memchr(b'=', &cookie[..end])
                && cookie[..at].eq_ignore_ascii_case(name.as_bytes())
            {
                out.extend_from_slice(&cookie[at + 1..end]);
                return true;
            }
        }
        false
    }),
];

/// One value for each attempt, separated as nginx separates them; false when there was none.
fn each(rq: &Request, out: &mut Vec<u8>, write: impl Fn(&Attempt, &mut Vec<u8>)) -> bool {
    for (i, attempt) in rq.attempts.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(if attempt.another { b" : " } else { b", " });
        }
        write(attempt, out);
    }
    !rq.attempts.is_empty()
}

fn seconds(out: &mut Vec<u8>, time: Duration) {
    out.extend_from_slice(format!("{}.{:03}", time.as_secs(), time.subsec_millis()).as_bytes());
}

fn time_or_dash(out: &mut Vec<u8>, time: Option<Duration>) {
    match time {
        Some(time) => seconds(out, time),
        None => out.push(b'-'),
    }
}

/// Reports to Prometheus.
pub fn metrics(edge: &Edge, out: &mut Families) {
    for group in &edge.generation().runtime.upstream.groups {
        let name = group.conf.name.as_str();
        for (i, peer) in group.metrics.iter().enumerate() {
            let peer_name = &*group.names[i];
            for (class, counter) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(&peer.answers) {
                let labels = [("upstream", name), ("peer", peer_name), ("status", class)];
                out.counter(
                    "edgewater_upstream_responses_total",
                    "Answers of upstream servers by class of status.",
                    &labels,
                    counter.get(),
                );
            }
            let labels = [("upstream", name), ("peer", peer_name)];
            for (kind, counter) in
                [("connection", &peer.errors), ("timeout", &peer.timeouts), ("invalid_header", &peer.invalid)]
            {
                let labels = [("upstream", name), ("peer", peer_name), ("kind", kind)];
                out.counter(
                    "edgewater_upstream_errors_total",
                    "Attempts at upstream servers that failed, by kind.",
                    &labels,
                    counter.get(),
                );
            }
            out.counter(
                "edgewater_upstream_connects_total",
                "Connections made to upstream servers.",
                &labels,
                peer.connects.get(),
            );
            out.counter(
                "edgewater_upstream_reuses_total",
                "Requests sent on a kept connection.",
                &labels,
                peer.reuses.get(),
            );
            out.gauge(
                "edgewater_upstream_active_requests",
                "Requests under way at upstream servers.",
                &labels,
                peer.active.get() as f64,
            );
        }
        let labels = [("upstream", name)];
        out.counter(
            "edgewater_upstream_unavailable_total",
            "Requests for which no server could be asked.",
            &labels,
            group.no_live.get(),
        );
        out.gauge(
            "edgewater_upstream_idle_connections",
            "Idle connections kept.",
            &labels,
            group.pool.idle() as f64,
        );
        let (buckets, sum, count) = group.latency.read();
        out.histogram(
            "edgewater_upstream_response_seconds",
            "Time from the attempt's start to the head of the answer.",
            &labels,
            &buckets,
            sum,
            count,
        );
    }
}
