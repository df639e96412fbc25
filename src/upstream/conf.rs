//! What is configured of groups of servers.

use super::balance::Method;
use super::resolve::{Found, Resolver};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerAddr {
    /// TCP.
    Inet(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeerAddr::Inet(a) => write!(f, "{a}"),
            PeerAddr::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

/// A `server` of an upstream; a name with several addresses is several peers.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConf {
    /// Where.
    pub addr: PeerAddr,
    /// The server as written, for hashing.
    pub server: String,
    /// `weight=`
    pub weight: u32,
    /// `max_conns=`; 0 is no bound.
    pub max_conns: u32,
    /// `max_fails=`; 0 never counts it as failed.
    pub max_fails: u32,
    /// `fail_timeout=`
    pub fail_timeout: Duration,
    /// `backup`
    pub backup: bool,
    /// `down`
    pub down: bool,
}

/// A `server NAME resolve` of an upstream: as many peers as the name has addresses.
#[derive(Clone, Debug)]
pub struct NameConf {
    /// The name, in lower case.
    pub host: String,
    /// The port; of a service each answer has its own.
    pub port: u16,
    /// `service=`: the name of SRV records that is asked for, whole.
    pub service: Option<String>,
    /// What each of its peers is, but for the address.
    pub template: PeerConf,
    /// Who is asked; known once all of the configuration is.
    pub resolver: Option<Arc<Resolver>>,
    /// How long a look-up may take.
    pub timeout: Duration,
}

impl NameConf {
    /// Whether another generation's name has the same addresses.
    pub fn is_same(&self, other: &NameConf) -> bool {
        (&self.host, self.port, &self.service) == (&other.host, other.port, &other.service)
    }

    /// The peer at an address that was found.
    pub fn peer(&self, found: &Found) -> PeerConf {
        let weight = if self.template.weight == 1 { found.weight.unwrap_or(1) } else { self.template.weight };
        PeerConf {
            addr: PeerAddr::Inet(SocketAddr::new(found.ip, found.port.unwrap_or(self.port))),
            weight,
            backup: self.template.backup || found.later,
            ..self.template.clone()
        }
    }
}

/// `keepalive` and its companions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeepaliveConf {
    /// Idle connections a worker keeps; 0 keeps none.
    pub connections: usize,
    /// Requests of a connection.
    pub requests: u64,
    /// How long one may be idle.
    pub timeout: Duration,
    /// How long one may be used.
    pub time: Duration,
}

impl Default for KeepaliveConf {
    /// nginx keeps connections by default since 1.29.7.
    fn default() -> Self {
        KeepaliveConf {
            connections: 32,
            requests: 1000,
            timeout: Duration::from_secs(60),
            time: Duration::from_secs(3600),
        }
    }
}

/// A group as configured.
#[derive(Clone, Debug)]
pub struct GroupConf {
    /// Its name; for an implicit group, host and port.
    pub name: String,
    /// Its servers with addresses that do not change.
    pub peers: Vec<PeerConf>,
    /// Its servers whose names are looked up while running.
    pub names: Vec<NameConf>,
    /// The name of its `zone`.
    pub zone: Option<String>,
    /// How one is chosen.
    pub method: Method,
    /// How connections are kept.
    pub keepalive: KeepaliveConf,
}

impl GroupConf {
    /// A group without servers.
    pub fn new(name: impl Into<String>) -> GroupConf {
        GroupConf {
            name: name.into(),
            peers: Vec::new(),
            names: Vec::new(),
            zone: None,
            method: Method::RoundRobin,
            keepalive: KeepaliveConf::default(),
        }
    }
}
