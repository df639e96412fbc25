//! The directives of upstreams.

use super::super::limit_zone::declare::{PAGE, zone_size};
use super::super::limit_zone::names::{self, Use};
use crate::conf::diag::At;
use crate::conf::values::{number, number_arg, time, time_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Context, Directive, NoteLevel};
use crate::upstream::balance::Method;
use crate::upstream::group::{GroupConf, NameConf, PeerAddr, PeerConf};
use crate::upstream::resolve::Resolver;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

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
    Command::works("zone", zone, "names the group's state, which all workers share in any case"),
];

fn upstream(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d.arg(0).to_ascii_lowercase();
    if b.http.upstream.find(&name).is_some() {
        return Err(ConfError::new(format!("duplicate upstream \"{}\"", d.arg(0))));
    }
    b.http.upstream.groups.push(GroupConf::new(name));
    b.upstream = b.http.upstream.groups.len() - 1;
    b.http.upstream.blocks.push(Block {
        group: b.upstream,
        at: b.here.clone(),
        seen: Vec::new(),
        resolver: None,
        timeout: None,
    });
    let (level, server) = (b.level(), b.server());
    b.enter(d, Context::UPSTREAM, level, server)?;
    let group = group(b);
    let servers = || group.peers.iter().chain(group.names.iter().map(|name| &name.template));
    if servers().next().is_none() {
        return Err(ConfError::new("no servers are inside upstream"));
    }
    if servers().all(|p| p.backup) {
        return Err(ConfError::new(format!("no servers in upstream \"{}\"", d.arg(0))));
    }
    let backups = servers().any(|p| p.backup);
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
    once(b, d)?;
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
    once(b, d)?;
    group(b).keepalive.requests = number_arg(d, 0)?;
    Ok(())
}

/// `keepalive_time` of an upstream.
pub fn keepalive_time(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    once(b, d)?;
    group(b).keepalive.time = time_arg(d, 0)?;
    Ok(())
}

/// `keepalive_timeout` of an upstream.
pub fn keepalive_timeout(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    once(b, d)?;
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
    let (mut resolves, mut service) = (false, None);
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
            None if arg == "resolve" => resolves = true,
            Some(("service", "")) => return Err(ConfError::new("service is empty")),
            Some(("service", v)) => service = Some(v),
            // nginx has `route` since 1.29.6, with `sticky`; the others are of its commercial version.
            Some(("slow_start" | "route" | "id", _)) => return Err(bad().hint(MISSING)),
            None if arg == "drain" => return Err(bad().hint(MISSING)),
            _ => return Err(bad()),
        }
    }
    if peer.weight == 0 {
        return Err(ConfError::new("invalid parameter \"weight=0\""));
    }
    let text = d.arg(0);
    if service.is_some() && !resolves {
        return Err(ConfError::new(format!(
            "service upstream server \"{text}\" requires \"resolve\" parameter"
        )));
    }
    if resolves && let Some(name) = name(text, service, &peer)? {
        group(b).names.push(name);
        return Ok(());
    }
    for addr in addresses(text, 80)? {
        group(b).peers.push(PeerConf { addr, ..peer.clone() });
    }
    Ok(())
}

const MISSING: &str = "it is for session persistence or of nginx's commercial version";

/// The name that a server stands for; `None` when it is an address.
fn name(text: &str, service: Option<&str>, peer: &PeerConf) -> ConfResult<Option<NameConf>> {
    let wrong = |what: &str| ConfError::new(format!("service upstream server \"{text}\" {what}"));
    let literal = text.starts_with("unix:");
    let (host, port) = if literal { (text, 0) } else { host_and_port(text, 80)? };
    if literal || host.parse::<IpAddr>().is_ok() {
        return if service.is_some() { Err(wrong("requires domain name")) } else { Ok(None) };
    }
    if service.is_some() && host.len() != text.len() {
        return Err(wrong("may not have port"));
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let service = service.map(|service| {
        // One label is a service's short name; more are labels as they stand.
        if service.contains('.') { format!("{service}.{host}") } else { format!("_{service}._tcp.{host}") }
    });
    let template = peer.clone();
    Ok(Some(NameConf { host, port, service, template, resolver: None, timeout: Duration::ZERO }))
}

/// The addresses of a server as written: `host`, `host:port`, `unix:path`.
pub fn addresses(text: &str, default_port: u16) -> ConfResult<Vec<PeerAddr>> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(vec![PeerAddr::Unix(path.into())]);
    }
    let (host, port) = host_and_port(text, default_port)?;
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

fn host_and_port(text: &str, default_port: u16) -> ConfResult<(&str, u16)> {
    split_host(text, default_port).ok_or_else(|| {
        let what = match text.split_once(':') {
            Some(("", _)) => "no host",
            Some((_, _)) if !text.starts_with('[') => "invalid port",
            _ => "invalid host",
        };
        ConfError::new(format!("{what} in upstream \"{text}\""))
    })
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
    GroupConf { peers: peers.collect(), ..GroupConf::new(name) }
}

/// `zone name [size]`.
fn zone(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d.arg(0);
    if name.is_empty() {
        return Err(ConfError::new("invalid zone name \"\""));
    }
    let mut size = 0;
    if let Some(text) = d.args.get(1) {
        size = zone_size(text).ok_or_else(|| ConfError::new(format!("invalid zone size \"{text}\"")))?;
        if size < 8 * PAGE {
            return Err(
                ConfError::new(format!("zone \"{name}\" is too small")).hint("a zone has at least 32k")
            );
        }
    }
    names::zone(b, name, Use::Upstream, 0)?;
    let zones = &mut b.http.upstream.zones;
    match zones.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) if *known == 0 => *known = size,
        Some((_, known)) if size > 0 && *known != size => {
            return Err(ConfError::new(format!(
                "the size {size} of shared memory zone \"{name}\" conflicts with already declared size {known}"
            )));
        }
        Some(_) => {}
        None => zones.push((name.to_string(), size)),
    }
    group(b).zone = Some(name.to_string());
    Ok(())
}

/// What an `upstream` block says of its names.
pub(super) struct Block {
    group: usize,
    at: At,
    /// The directives that may stand once.
    seen: Vec<String>,
    resolver: Option<Arc<Resolver>>,
    timeout: Option<Duration>,
}

/// An error for a directive that its block has already.
fn once(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let seen = &mut block(b).seen;
    if seen.contains(&d.name) {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    seen.push(d.name.clone());
    Ok(())
}

fn block(b: &mut Builder) -> &mut Block {
    // Every block is noted as it begins, and they do not nest.
    let last = b.http.upstream.blocks.len() - 1;
    &mut b.http.upstream.blocks[last]
}

/// `resolver` of an upstream.
pub fn resolver(b: &mut Builder, resolver: Resolver) -> ConfResult<()> {
    if block(b).resolver.replace(Arc::new(resolver)).is_some() {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    Ok(())
}

/// `resolver_timeout` of an upstream.
pub fn resolver_timeout(b: &mut Builder, timeout: Duration) -> ConfResult<()> {
    if block(b).timeout.replace(timeout).is_some() {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    Ok(())
}

/// Completes what depends on all of `http`: who looks names up, which zones there are.
pub(super) fn finish(b: &mut Builder) -> ConfResult<()> {
    for block in std::mem::take(&mut b.http.upstream.blocks) {
        let outer = &b.levels[0].conf.resolver;
        let resolver = block.resolver.or_else(|| (*outer.resolver).clone());
        let timeout = block.timeout.unwrap_or(*outer.timeout);
        let group = &mut b.http.upstream.groups[block.group];
        if group.names.is_empty() {
            continue;
        }
        if group.zone.is_none() {
            let message = format!("resolving names at run time requires upstream \"{}\"", group.name);
            return Err(ConfError::new(format!("{message} to be in shared memory"))
                .at(&block.at)
                .hint("give it a zone, as in: zone backend 64k;"));
        }
        if resolver.is_none() {
            let name = &group.name;
            return Err(ConfError::new(format!(
                "no resolver defined to resolve names at run time in upstream \"{name}\""
            ))
            .at(&block.at)
            .hint("name the servers to ask, as in: resolver 127.0.0.53;"));
        }
        for name in &mut group.names {
            (name.resolver, name.timeout) = (resolver.clone(), timeout);
        }
    }
    match b.http.upstream.zones.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(ConfError::new(format!("zero size shared memory zone \"{name}\""))),
        None => Ok(()),
    }
}
