//! What is listened on, and which server answers there, by nginx's rules.

use super::regex::Regex;
use super::regexes::Regexes;
use super::request::{Address, Request};
use crate::conf::build::Server;
use crate::conf::{At, ConfError, ConfResult};
use crate::modules::map::{self, Rejected};
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
    /// Multipath TCP in place of TCP.
    pub multipath: bool,
    /// `SO_RCVBUF`, `SO_SNDBUF` in bytes.
    pub rcvbuf: Option<usize>,
    /// See `rcvbuf`.
    pub sndbuf: Option<usize>,
    /// `so_keepalive`: off, or on with seconds idle, seconds between probes, and their number; 0 is
    /// the kernel's.
    pub keepalive: Option<Option<(u32, u32, u32)>>,
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
    /// A name in lower case, which may be a wildcard: `example.org`, `*.example.org`, `.example.org`,
    /// `mail.*`.
    Text(String),
    /// `~pattern`
    Regex(Arc<Regex>),
}

/// The servers of one address, by name.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The server for a name that none has.
    pub default: usize,
    table: map::Names<usize>,
    regexes: Regexes<usize>,
}

/// An address with its options and its servers.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Where.
    pub addr: Arc<ListenAddr>,
    /// How.
    pub options: ListenOptions,
    /// Whether a `listen` said how: only one may.
    options_set: bool,
    protocols: Protocols,
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

/// Which of `ssl`, `http2` and `proxy_protocol` an address's `listen`s gave, to warn of ones that differ
/// as nginx does: a `listen` that adds or leaves out is told of once something else was said before.
#[derive(Clone, Copy, Debug, Default)]
struct Protocols {
    all: u8,
    /// What the ones that were compared had.
    settled: Option<u8>,
    changed: bool,
}

impl Protocols {
    fn of(listen: &Listen) -> u8 {
        u8::from(listen.proxy_protocol) | u8::from(listen.ssl) << 1 | u8::from(listen.http2) << 2
    }

    fn first(listen: &Listen) -> Protocols {
        Protocols { all: Protocols::of(listen), settled: None, changed: false }
    }

    /// Takes another `listen` of the address; whether it deserves the warning. `others_set` is whether
    /// one before had socket options.
    fn redefines(&mut self, listen: &Listen, others_set: bool) -> bool {
        let (new, old, set) = (Protocols::of(listen), self.all, listen.options.is_some());
        let differs = self.settled.is_some_and(|settled| settled != new);
        self.all |= new;
        if new & !old != 0 {
            let warns = others_set && !set || self.changed || old & !new != 0;
            (self.settled, self.changed) = (Some(old), true);
            warns
        } else if old & !new != 0 {
            (self.settled, self.changed) = (Some(new), true);
            set || differs
        } else {
            let warns = set && self.changed || differs;
            self.settled = Some(new);
            warns
        }
    }
}

/// All addresses.
#[derive(Clone, Debug, Default)]
pub struct Listens {
    /// In order of first mention.
    pub bound: Vec<Bound>,
    /// What `listen`s and names say against each other; nginx warns and goes on.
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
                listens.add(index, listen, &mut defaults)?;
            }
        }
        for position in 0..listens.bound.len() {
            listens.add_names(position, servers)?;
        }
        Ok(listens)
    }

    fn add(
        &mut self,
        server: usize,
        listen: &Listen,
        defaults: &mut HashMap<ListenAddr, bool>,
    ) -> ConfResult<()> {
        let known = self.bound.iter().position(|b| *b.addr == listen.addr);
        let position = known.unwrap_or_else(|| {
            self.bound.push(Bound {
                addr: Arc::new(listen.addr.clone()),
                options: ListenOptions::default(),
                options_set: false,
                protocols: Protocols::first(listen),
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
            if bound.options_set {
                return Err(
                    ConfError::new(format!("duplicate listen options for {}", listen.addr)).at(&listen.at)
                );
            }
            bound.options = options.clone();
        }
        if known.is_some() && bound.protocols.redefines(listen, bound.options_set) {
            let message = format!("protocol options redefined for {}", listen.addr);
            self.conflicts.push((listen.at.clone(), message));
        }
        bound.options_set |= listen.options.is_some();
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
        Ok(())
    }

    /// Fills the table of names of an address. Names choose among several servers: where there is one,
    /// nobody looks at them but for what a pattern captures.
    fn add_names(&mut self, position: usize, servers: &[Server]) -> ConfResult<()> {
        let bound = &mut self.bound[position];
        let captures = |name: &ServerName| matches!(name, ServerName::Regex(regex) if regex.has_groups());
        if let [server] = bound.servers[..]
            && !servers[server].conf.core.names.iter().any(captures)
        {
            return Ok(());
        }
        let mut regexes = Vec::new();
        for server in bound.servers.clone() {
            let conf = &servers[server].conf.core;
            let at = conf.listens.iter().find(|l| l.addr == *bound.addr).map_or(&bound.at, |l| &l.at).clone();
            // A server without names is the one for requests without a host.
            let nameless = [ServerName::Text(String::new())];
            let names = if conf.names.is_empty() { &nameless[..] } else { &conf.names };
            for name in names {
                let added = match name {
                    ServerName::Text(text) => bound.names.table.add(text, server, true),
                    ServerName::Regex(regex) => {
                        regexes.push((regex.clone(), server));
                        Ok(())
                    }
                };
                match added {
                    Ok(()) => {}
                    Err(Rejected::Conflict(name)) => {
                        let message =
                            format!("conflicting server name \"{name}\" on {}, ignored", bound.addr);
                        self.conflicts.push((at.clone(), message));
                    }
                    Err(Rejected::Invalid(name)) => {
                        let message = format!("invalid server name or wildcard \"{name}\" on {}", bound.addr);
                        return Err(ConfError::new(message).at(&at));
                    }
                }
            }
        }
        bound.names.regexes = Regexes::new(regexes);
        Ok(())
    }

    /// The entry of an address.
    pub fn find(&self, addr: &ListenAddr) -> Option<&Bound> {
        // Nearly always it is the very one, which is seen at once.
        self.bound.iter().find(|b| std::ptr::eq(&*b.addr, addr) || *b.addr == *addr)
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
    /// The server for `host` (lower case, without port): exact, longest leading wildcard, longest
    /// trailing wildcard, first regular expression, default. A regular expression's named groups
    /// are written to `rq`, when there is one yet.
    pub fn find(&self, host: &[u8], rq: Option<&Request>) -> usize {
        self.find_named(host, rq).unwrap_or(self.default)
    }

    /// The server that has a name for `host`; none where only the default is left.
    pub fn find_named(&self, host: &[u8], rq: Option<&Request>) -> Option<usize> {
        if let Some(server) = self.table.find(host) {
            return Some(*server);
        }
        if host.is_empty() {
            return None;
        }
        let found = match rq {
            Some(rq) => self.regexes.capture(rq, host),
            None => self.regexes.find(host),
        };
        found.copied()
    }
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

    #[test]
    fn names_in_nginxs_order() {
        let mut names = Names { default: 9, ..Names::default() };
        for (i, name) in
            ["a.example.org", "*.example.org", "*.b.example.org", "www.*", ".x.org"].iter().enumerate()
        {
            names.table.add(name, i, true).unwrap();
        }
        let find = |host: &str| names.find(host.as_bytes(), None);
        for (host, want) in [
            ("a.example.org", 0),
            ("x.example.org", 1),
            ("x.y.example.org", 1),
            ("x.b.example.org", 2),
            ("www.net", 3),
            ("x.org", 4),
            ("y.x.org", 4),
            ("example.org", 9),
            ("", 9),
        ] {
            assert_eq!(find(host), want, "{host}");
        }
        // The whole of a name is left out, not the half of it that is new.
        assert!(names.table.add(".a.example.org", 7, true).is_err());
        assert_eq!(names.find(b"z.a.example.org", None), 1);
    }
}
