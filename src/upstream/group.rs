//! A group of peers: what is configured, what is known of each, which is asked next.
//!
//! State is shared by all workers, so that `max_conns`, `max_fails` and the weights hold for the
//! process; it is kept over a reload as long as the group's servers stay the same.

use super::balance::{self, Method};
use super::pool::Pool;
use crate::observe::metrics::{Counter, Gauge};
use parking_lot::Mutex;
use pingora_ketama::{Bucket, Continuum};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Its servers.
    pub peers: Vec<PeerConf>,
    /// How one is chosen.
    pub method: Method,
    /// How connections are kept.
    pub keepalive: KeepaliveConf,
}

/// Bounds of the histogram of response times, in seconds.
pub const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What a peer has done, for the metrics.
#[derive(Default)]
pub struct PeerMetrics {
    /// Answers by class of status, 1xx to 5xx.
    pub answers: [Counter; 5],
    /// Attempts that failed to connect, or ended early.
    pub errors: Counter,
    /// Attempts that timed out.
    pub timeouts: Counter,
    /// Answers with a head that is none.
    pub invalid: Counter,
    /// Connections made.
    pub connects: Counter,
    /// Requests sent on a kept connection.
    pub reuses: Counter,
    /// Requests under way.
    pub active: Gauge,
}

/// The times of a group's answers.
#[derive(Default)]
pub struct Latency {
    buckets: [Counter; BUCKETS.len()],
    micros: Counter,
    count: Counter,
}

impl Latency {
    /// Counts an answer whose head took `time`.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(i) = BUCKETS.iter().position(|b| seconds <= *b) {
            self.buckets[i].inc();
        }
        self.micros.add(time.as_micros() as u64);
        self.count.inc();
    }

    /// The cumulative buckets, the sum in seconds, the count.
    pub fn read(&self) -> (Vec<(f64, u64)>, f64, u64) {
        let mut total = 0;
        let buckets = BUCKETS.iter().zip(&self.buckets).map(|(bound, counter)| {
            total += counter.get();
            (*bound, total)
        });
        let buckets = buckets.collect();
        (buckets, self.micros.get() as f64 / 1e6, self.count.get())
    }
}

/// What the choice of a peer works on (nginx's `ngx_http_upstream_rr_peer_t`).
#[derive(Debug, Clone)]
pub struct PeerState {
    pub(super) current_weight: i64,
    pub(super) effective_weight: i64,
    pub(super) conns: u32,
    pub(super) fails: u32,
    /// When it last failed.
    pub(super) accessed: Option<Instant>,
    /// When it was last tried after a failure, or failed.
    pub(super) checked: Option<Instant>,
}

/// A group and what is known of its peers.
pub struct Group {
    /// As configured.
    pub conf: GroupConf,
    /// By peer.
    pub metrics: Vec<PeerMetrics>,
    /// Times of answers.
    pub latency: Latency,
    /// Requests for which no peer could be asked.
    pub no_live: Counter,
    /// Names of the peers, for `$upstream_addr`.
    pub names: Vec<Arc<str>>,
    /// Idle connections.
    pub pool: Pool,
    pub(super) ring: Option<Continuum>,
    pub(super) state: Mutex<Vec<PeerState>>,
}

impl Group {
    /// A group of which nothing is known yet.
    pub fn new(conf: GroupConf) -> Group {
        let state = conf.peers.iter().map(|p| PeerState {
            current_weight: 0,
            effective_weight: i64::from(p.weight),
            conns: 0,
            fails: 0,
            accessed: None,
            checked: None,
        });
        let state = Mutex::new(state.collect());
        let ring = matches!(conf.method, Method::ConsistentHash(_)).then(|| {
            let buckets: Vec<Bucket> = conf
                .peers
                .iter()
                .enumerate()
                .filter(|(_, p)| !p.backup)
                .map(|(i, p)| Bucket::new(ring_address(i, p), p.weight))
                .collect();
            Continuum::new(&buckets)
        });
        Group {
            metrics: conf.peers.iter().map(|_| PeerMetrics::default()).collect(),
            latency: Latency::default(),
            no_live: Counter::default(),
            names: conf.peers.iter().map(|p| Arc::from(p.addr.to_string())).collect(),
            pool: Pool::new(conf.keepalive),
            ring,
            state,
            conf,
        }
    }

    /// Begins the choosing for one request. `key` is the value of `hash`, `client` the address for
    /// `ip_hash`.
    pub fn selection(self: &Arc<Self>, key: Option<bytes::Bytes>, client: Option<IpAddr>) -> Selection {
        let backups = self.conf.peers.iter().any(|p| p.backup);
        Selection {
            group: self.clone(),
            tried: vec![false; self.conf.peers.len()],
            tries: self.conf.peers.iter().filter(|p| !p.down).count().max(1),
            backups,
            hash: balance::HashState::new(&self.conf.method, key, client),
        }
    }
}

/// Unix sockets have no address on the ring; each gets one that no server can have.
pub(super) fn ring_address(index: usize, peer: &PeerConf) -> SocketAddr {
    match &peer.addr {
        PeerAddr::Inet(addr) => *addr,
        PeerAddr::Unix(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), index as u16),
    }
}

/// The choosing of peers for one request.
pub struct Selection {
    /// The group.
    pub group: Arc<Group>,
    pub(super) tried: Vec<bool>,
    /// Attempts left.
    pub tries: usize,
    pub(super) backups: bool,
    pub(super) hash: balance::HashState,
}

impl Selection {
    /// The next peer, taken; `None` when there is none to ask.
    pub fn take(&mut self) -> Option<Taken> {
        let index = balance::pick(self)?;
        self.tried[index] = true;
        self.group.metrics[index].active.add(1);
        Some(Taken { group: self.group.clone(), index, released: false })
    }
}

/// A peer that is being asked. It counts as busy until dropped.
pub struct Taken {
    /// Its group.
    pub group: Arc<Group>,
    /// Its index.
    pub index: usize,
    released: bool,
}

impl Taken {
    /// Its configuration.
    pub fn conf(&self) -> &PeerConf {
        &self.group.conf.peers[self.index]
    }

    /// Its name.
    pub fn name(&self) -> Arc<str> {
        self.group.names[self.index].clone()
    }

    /// Its counters.
    pub fn metrics(&self) -> &PeerMetrics {
        &self.group.metrics[self.index]
    }

    /// It failed (ngx_http_upstream_free_round_robin_peer with NGX_PEER_FAILED).
    pub fn failed(&mut self) {
        let conf = &self.group.conf.peers[self.index];
        let single = self.group.conf.peers.len() == 1;
        let mut states = self.group.state.lock();
        let state = &mut states[self.index];
        // A group of one is asked whatever happened before.
        if !single {
            let now = Instant::now();
            state.fails += 1;
            (state.accessed, state.checked) = (Some(now), Some(now));
            if conf.max_fails > 0 {
                let cost = i64::from(conf.weight) / i64::from(conf.max_fails);
                state.effective_weight = (state.effective_weight - cost).max(0);
                if state.fails == conf.max_fails {
                    let name = &self.group.names[self.index];
                    crate::observe::error_log::log(
                        crate::observe::error_log::Level::Warn,
                        format_args!(
                            "upstream server temporarily disabled: {name} of \"{}\"",
                            self.group.conf.name
                        ),
                    );
                }
            }
        }
    }

    /// It answered: what was held against it is forgotten if it was tried since.
    pub fn succeeded(&mut self) {
        let mut states = self.group.state.lock();
        let state = &mut states[self.index];
        if state.accessed < state.checked {
            state.fails = 0;
        }
    }

    fn release(&mut self) {
        if !std::mem::replace(&mut self.released, true) {
            let mut states = self.group.state.lock();
            states[self.index].conns = states[self.index].conns.saturating_sub(1);
            drop(states);
            self.group.metrics[self.index].active.add(-1);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.release();
    }
}
