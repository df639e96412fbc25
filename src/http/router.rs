//! Which server and which location answer a request, by nginx's rules.

use super::regex::Regex;
use super::request::{Address, Request};
use crate::conf::build::{LevelId, Server};
use crate::conf::{At, ConfError, ConfResult};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddr {
    /// TCP.
    Inet(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddr::Inet(a) => write!(f, "{a}"),
            ListenAddr::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

/// The socket's options, from the `listen` that has them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ListenOptions {
    /// Connections that wait to be accepted.
    pub backlog: Option<u32>,
    /// `ipv6only=off`: an IPv6 wildcard that takes IPv4 too.
    pub dual_stack: bool,
    /// `reuseport` was asked for (each worker has its own socket in any case).
    pub reuseport: bool,
    /// `SO_RCVBUF`, `SO_SNDBUF` in bytes.
    pub rcvbuf: Option<usize>,
    /// See `rcvbuf`.
    pub sndbuf: Option<usize>,
    /// `so_keepalive`: idle, interval, count.
    pub keepalive: Option<(Option<u32>, Option<u32>, Option<u32>)>,
    /// `deferred`: accept when data has come.
    pub deferred: bool,
    /// `fastopen=`
    pub fastopen: Option<u32>,
}

/// One `listen` as written.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where.
    pub addr: ListenAddr,
    /// `ssl`
    pub ssl: bool,
    /// `http2`, the parameter.
    pub http2: bool,
    /// `proxy_protocol`
    pub proxy_protocol: bool,
    /// `default_server`
    pub default: bool,
    /// Socket options, when any is given here.
    pub options: Option<ListenOptions>,
    /// Where it stands.
    pub at: At,
}

/// A name of a server.
#[derive(Clone, Debug)]
pub enum ServerName {
    /// A name as it is.
    Exact(String),
    /// `*.example.org`: the value is `.example.org`.
    Head(String),
    /// `mail.*`: the value is `mail.`.
    Tail(String),
    /// `~pattern`
    Regex(Arc<Regex>),
}

/// The servers of one address, by name.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The server for a name that none has.
    pub default: usize,
    exact: HashMap<Vec<u8>, usize>,
    heads: Vec<(Vec<u8>, usize)>,
    tails: Vec<(Vec<u8>, usize)>,
    regexes: Vec<(Arc<Regex>, usize)>,
}

/// An address with its options and its servers.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Where.
    pub addr: Arc<ListenAddr>,
    /// How.
    pub options: ListenOptions,
    /// Whether TLS is spoken.
    pub ssl: bool,
    /// Whether a `listen` here has `http2`.
    pub http2: bool,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: bool,
    /// Its servers.
    pub names: Names,
    /// The servers that listen here, in file order.
    pub servers: Vec<usize>,
    /// The first `listen` that names it.
    pub at: At,
}

/// All addresses.
#[derive(Clone, Debug, Default)]
pub struct Listens {
    /// In order of first mention.
    pub bound: Vec<Bound>,
    /// Names that two servers of an address have; nginx warns and goes on.
    pub conflicts: Vec<(At, String)>,
}

impl Listens {
    /// Gathers the `listen`s of all servers.
    pub fn build(servers: &[Server]) -> ConfResult<Listens> {
        let mut listens = Listens::default();
        let mut defaults: HashMap<ListenAddr, bool> = HashMap::new();
        for (index, server) in servers.iter().enumerate() {
            let core = &server.conf.core;
            let own: Vec<Listen> = if core.listens.is_empty() {
                vec![Listen::standard(&server.at)]
            } else {
                core.listens.0.clone()
            };
            let mut seen: Vec<&ListenAddr> = Vec::new();
            for listen in &own {
                if seen.contains(&&listen.addr) {
                    return Err(ConfError::new(format!("a duplicate listen {}", listen.addr)).at(&listen.at));
                }
                seen.push(&listen.addr);
                listens.add(index, listen, &core.names, &mut defaults)?;
            }
        }
        Ok(listens)
    }

    fn add(
        &mut self,
        server: usize,
        listen: &Listen,
        names: &[ServerName],
        defaults: &mut HashMap<ListenAddr, bool>,
    ) -> ConfResult<()> {
        let position = self.bound.iter().position(|b| *b.addr == listen.addr).unwrap_or_else(|| {
            self.bound.push(Bound {
                addr: Arc::new(listen.addr.clone()),
                options: ListenOptions::default(),
                ssl: false,
                http2: false,
                proxy_protocol: false,
                names: Names { default: server, ..Names::default() },
                servers: Vec::new(),
                at: listen.at.clone(),
            });
            self.bound.len() - 1
        });
        let bound = &mut self.bound[position];
        if let Some(options) = &listen.options {
            if bound.options != ListenOptions::default() && bound.options != *options {
                return Err(
                    ConfError::new(format!("duplicate listen options for {}", listen.addr)).at(&listen.at)
                );
            }
            bound.options = options.clone();
        }
        bound.ssl |= listen.ssl;
        bound.http2 |= listen.http2;
        bound.proxy_protocol |= listen.proxy_protocol;
        bound.servers.push(server);
        if listen.default {
            if defaults.insert(listen.addr.clone(), true).is_some() {
                return Err(
                    ConfError::new(format!("a duplicate default server for {}", listen.addr)).at(&listen.at)
                );
            }
            bound.names.default = server;
        }
        for name in names {
            if let Some(conflict) = bound.names.add(name, server) {
                let message = format!("conflicting server name \"{conflict}\" on {}, ignored", listen.addr);
                self.conflicts.push((listen.at.clone(), message));
            }
        }
        Ok(())
    }

    /// The entry of an address.
    pub fn find(&self, addr: &ListenAddr) -> Option<&Bound> {
        self.bound.iter().find(|b| *b.addr == *addr)
    }
}

impl Listen {
    /// A plain one.
    pub fn new(addr: ListenAddr, at: &At) -> Listen {
        Listen {
            addr,
            ssl: false,
            http2: false,
            proxy_protocol: false,
            default: false,
            options: None,
            at: at.clone(),
        }
    }

    /// What a server without a `listen` has: port 80, or 8000 for one who may not have 80.
    fn standard(at: &At) -> Listen {
        let port = if nix::unistd::geteuid().is_root() { 80 } else { 8000 };
        let addr = ListenAddr::Inet(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port));
        Listen::new(addr, at)
    }
}

impl Names {
    /// Adds a name; returns it when another server has it already.
    fn add(&mut self, name: &ServerName, server: usize) -> Option<String> {
        let taken = match name {
            ServerName::Exact(n) => {
                let taken = self.exact.contains_key(n.as_bytes());
                self.exact.entry(n.as_bytes().to_vec()).or_insert(server);
                taken.then_some(n)
            }
            ServerName::Head(n) => insert_wildcard(&mut self.heads, n, server).then_some(n),
            ServerName::Tail(n) => insert_wildcard(&mut self.tails, n, server).then_some(n),
            ServerName::Regex(regex) => {
                self.regexes.push((regex.clone(), server));
                None
            }
        };
        taken.cloned()
    }

    /// The server for `host` (lower case, without port): exact, longest leading wildcard, longest
    /// trailing wildcard, first regular expression, default. A regular expression's named groups
    /// are written to `rq`, when there is one yet.
    pub fn find(&self, host: &[u8], rq: Option<&Request>) -> usize {
        if host.is_empty() {
            return self.exact.get(&b""[..]).copied().unwrap_or(self.default);
        }
        if let Some(server) = self.exact.get(host) {
            return *server;
        }
        // The lists are sorted longest first.
        if let Some((_, server)) = self.heads.iter().find(|(n, _)| host.len() > n.len() && host.ends_with(n))
        {
            return *server;
        }
        if let Some((_, server)) =
            self.tails.iter().find(|(n, _)| host.len() > n.len() && host.starts_with(n))
        {
            return *server;
        }
        let matches = |regex: &Regex| match rq {
            Some(rq) => regex.capture(rq, host),
            None => regex.is_match(host),
        };
        self.regexes.iter().find(|(regex, _)| matches(regex)).map_or(self.default, |(_, server)| *server)
    }
}

fn insert_wildcard(list: &mut Vec<(Vec<u8>, usize)>, name: &str, server: usize) -> bool {
    let name = name.as_bytes();
    if list.iter().any(|(n, _)| n == name) {
        return true;
    }
    let at = list.partition_point(|(n, _)| n.len() >= name.len());
    list.insert(at, (name.to_vec(), server));
    false
}

/// How a location is matched.
#[derive(Clone, Debug)]
pub enum Match {
    /// `= /x`
    Exact(Vec<u8>),
    /// `/x`, or `^~ /x` with `final_`.
    Prefix {
        /// The prefix.
        path: Vec<u8>,
        /// `^~`: no regular expression is tried after it.
        no_regex: bool,
    },
    /// `~ x`, `~* x`
    Regex(Arc<Regex>),
    /// `@x`
    Named(Vec<u8>),
}

/// A location found while reading.
#[derive(Clone, Debug)]
pub struct Found {
    /// How it is matched.
    pub by: Match,
    /// Its level.
    pub level: LevelId,
    /// Whether `/x` is answered by a redirect to this `/x/` (it has a proxy).
    pub auto_redirect: bool,
}

/// The locations of one level, ready to be searched.
#[derive(Debug, Default)]
pub struct Locations {
    exact: HashMap<Vec<u8>, LevelId>,
    /// Sorted by path. Each knows the longest other one that is a prefix of it, so that a search is
    /// one bisection and a short walk.
    prefixes: Vec<Prefix>,
    regexes: Vec<(Arc<Regex>, LevelId)>,
    named: HashMap<Vec<u8>, LevelId>,
}

#[derive(Debug)]
struct Prefix {
    path: Vec<u8>,
    level: LevelId,
    no_regex: bool,
    auto_redirect: bool,
    parent: Option<usize>,
}

/// Where a search ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Located {
    /// At this level.
    Level(LevelId),
    /// At a location whose slash the client left out: redirect to the path with it.
    AddSlash,
    /// Nowhere.
    Nowhere,
}

enum Static {
    Exact(LevelId),
    Prefix(usize),
    AddSlash,
    Nothing,
}

impl Locations {
    /// Prepares the locations of a level for searching.
    pub fn build(found: Vec<Found>) -> Locations {
        let mut locations = Locations::default();
        for location in found {
            match location.by {
                Match::Exact(path) => {
                    locations.exact.insert(path, location.level);
                }
                Match::Named(name) => {
                    locations.named.insert(name, location.level);
                }
                Match::Regex(regex) => locations.regexes.push((regex, location.level)),
                Match::Prefix { path, no_regex } => locations.prefixes.push(Prefix {
                    path,
                    level: location.level,
                    no_regex,
                    auto_redirect: location.auto_redirect,
                    parent: None,
                }),
            }
        }
        locations.prefixes.sort_by(|a, b| a.path.cmp(&b.path));
        let mut open: Vec<usize> = Vec::new();
        for at in 0..locations.prefixes.len() {
            while let Some(top) = open.last() {
                if locations.prefixes[at].path.starts_with(&locations.prefixes[*top].path) {
                    break;
                }
                open.pop();
            }
            locations.prefixes[at].parent = open.last().copied();
            open.push(at);
        }
        locations
    }

    /// Whether there are any that a path can reach.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty()
    }

    /// The level of `@name`.
    pub fn named(&self, name: &[u8]) -> Option<LevelId> {
        self.named.get(name).copied()
    }

    /// Whether there are named locations.
    pub fn has_named(&self) -> bool {
        !self.named.is_empty()
    }

    fn find_static(&self, path: &[u8]) -> Static {
        if let Some(level) = self.exact.get(path) {
            return Static::Exact(*level);
        }
        let mut at = self.prefixes.partition_point(|p| p.path.as_slice() <= path).checked_sub(1);
        while let Some(i) = at {
            if path.starts_with(&self.prefixes[i].path) {
                break;
            }
            at = self.prefixes[i].parent;
        }
        // `/x` with a location `/x/` that asks for it; an equal prefix location `/x` comes first.
        let same = at.is_some_and(|i| self.prefixes[i].path.len() == path.len());
        if !same {
            let mut slashed = path.to_vec();
            slashed.push(b'/');
            if let Ok(i) = self.prefixes.binary_search_by(|p| p.path.as_slice().cmp(&slashed))
                && self.prefixes[i].auto_redirect
            {
                return Static::AddSlash;
            }
        }
        at.map_or(Static::Nothing, Static::Prefix)
    }
}

/// The location for `rq.uri`, from `level` inwards (ngx_http_core_find_location).
pub fn locate(rq: &Request, level: LevelId) -> Located {
    match descend(rq, level) {
        Outcome::Final(located) => located,
        Outcome::Open(level) => Located::Level(level),
        Outcome::None => Located::Nowhere,
    }
}

enum Outcome {
    /// An exact match, a regular expression or a redirect: the search is over.
    Final(Located),
    /// A prefix: an outer level's regular expressions may still win.
    Open(LevelId),
    /// Nothing here.
    None,
}

fn descend(rq: &Request, level: LevelId) -> Outcome {
    let locations = &rq.http().levels[level].conf.core.locations;
    if locations.is_empty() {
        return Outcome::None;
    }
    let mut best = Outcome::None;
    let mut no_regex = false;
    match locations.find_static(&rq.uri) {
        Static::Exact(level) => return Outcome::Final(Located::Level(level)),
        Static::AddSlash => return Outcome::Final(Located::AddSlash),
        Static::Prefix(i) => {
            let prefix = &locations.prefixes[i];
            no_regex = prefix.no_regex;
            match descend(rq, prefix.level) {
                Outcome::Final(located) => return Outcome::Final(located),
                Outcome::Open(inner) => best = Outcome::Open(inner),
                Outcome::None => best = Outcome::Open(prefix.level),
            }
        }
        Static::Nothing => {}
    }
    if !no_regex {
        for (regex, level) in &locations.regexes {
            if regex.capture(rq, &rq.uri) {
                let inner = match descend(rq, *level) {
                    Outcome::Final(located) => located,
                    Outcome::Open(inner) => Located::Level(inner),
                    Outcome::None => Located::Level(*level),
                };
                return Outcome::Final(inner);
            }
        }
    }
    best
}

/// The address by which a client reached us, as text, for messages.
pub fn address_text(address: &Address) -> String {
    match address {
        Address::Inet(a) => a.to_string(),
        Address::Unix(p) => format!("unix:{p}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(path: &str, level: LevelId) -> Found {
        let by = Match::Prefix { path: path.as_bytes().to_vec(), no_regex: false };
        Found { by, level, auto_redirect: path.ends_with('/') }
    }

    #[test]
    fn the_longest_prefix_wins_and_a_missing_slash_is_seen() {
        let locations =
            Locations::build(vec![prefix("/", 1), prefix("/ab", 2), prefix("/abc/d", 3), prefix("/x/", 4)]);
        let at = |path: &str| match locations.find_static(path.as_bytes()) {
            Static::Prefix(i) => locations.prefixes[i].level as i32,
            Static::AddSlash => -1,
            Static::Exact(_) | Static::Nothing => -2,
        };
        assert_eq!(at("/"), 1);
        assert_eq!(at("/abz"), 2);
        assert_eq!(at("/abc/"), 2);
        assert_eq!(at("/abc/de"), 3);
        assert_eq!(at("/x/y"), 4);
        assert_eq!(at("/x"), -1);
        assert_eq!(at("/zz"), 1);
    }

    #[test]
    fn names_in_nginxs_order() {
        let mut names = Names { default: 9, ..Names::default() };
        names.add(&ServerName::Exact("a.example.org".into()), 1);
        names.add(&ServerName::Head(".example.org".into()), 2);
        names.add(&ServerName::Head(".b.example.org".into()), 3);
        names.add(&ServerName::Tail("www.".into()), 4);
        let find = |host: &str| names.find(host.as_bytes(), None);
        assert_eq!(find("a.example.org"), 1);
        assert_eq!(find("x.example.org"), 2);
        assert_eq!(find("x.b.example.org"), 3);
        assert_eq!(find("www.net"), 4);
        assert_eq!(find("example.org"), 9);
    }
}
