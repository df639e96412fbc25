//! A group of peers: what is configured, what is known of each, which is asked next.
//!
//! State is shared by all workers, so that `max_conns`, `max_fails` and the weights hold for the
//! process; it is kept over a reload as long as the group's servers stay the same.
//!
//! The list of peers is replaced whole when a name has other addresses than before; peers that stay are the
//! same in both lists, and a request goes on with the list it began with.

use super::balance::{self, Method};
pub use super::conf::{GroupConf, KeepaliveConf, NameConf, PeerAddr, PeerConf};
use super::pool::{Connection, Pool};
use super::resolve::Found;
use crate::observe::metrics::{Counter, Gauge};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_ketama::{Bucket, Continuum};
use smallvec::SmallVec;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Deref, Index, IndexMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

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
    /// The last counts what took longer than any of the bounds.
    buckets: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

impl Latency {
    /// Counts an answer whose head took `time`.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BUCKETS.iter().position(|b| seconds <= *b).unwrap_or(BUCKETS.len());
        self.buckets[bucket].inc();
        self.micros.add(time.as_micros() as u64);
    }

    /// The cumulative buckets, the sum in seconds, the count.
    pub fn read(&self) -> (Vec<(f64, u64)>, f64, u64) {
        let mut total = 0;
        let buckets = BUCKETS.iter().zip(&self.buckets).map(|(bound, counter)| {
            total += counter.get();
            (*bound, total)
        });
        let buckets = buckets.collect();
        (buckets, self.micros.get() as f64 / 1e6, total + self.buckets[BUCKETS.len()].get())
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

impl PeerState {
    fn succeeded(&mut self) {
        if self.accessed < self.checked {
            self.fails = 0;
        }
    }
}

/// A server at an address.
pub struct Peer {
    /// As configured, or found.
    pub conf: PeerConf,
    /// Its name, for `$upstream_addr`.
    pub name: Arc<str>,
    /// What it has done.
    pub metrics: PeerMetrics,
    /// Which peer of the process's life this is; a number is never another's.
    pub id: u64,
    /// Which of the group's names has led to it.
    of: Option<usize>,
    /// Where its state is; nobody else's as long as this lives.
    slot: usize,
}

/// The peers of a group at a time.
pub struct Peers {
    /// Those of the configuration first.
    pub list: Vec<Arc<Peer>>,
    pub(super) ring: Option<Continuum>,
    tries: usize,
    backups: bool,
    /// There is one that is always asked, so that nothing is to be chosen by.
    only: bool,
}

/// The peers of a group, which only names change.
enum Listed {
    Always(Arc<Peers>),
    Now(ArcSwap<Peers>),
}

/// The peers with which a request goes on.
#[derive(Clone)]
pub(super) enum Held<'a> {
    Always(&'a Peers),
    Then(Arc<Peers>),
}

impl Deref for Held<'_> {
    type Target = Peers;
    fn deref(&self) -> &Peers {
        match self {
            Held::Always(peers) => peers,
            Held::Then(peers) => peers,
        }
    }
}

impl Peers {
    fn new(list: Vec<Arc<Peer>>, method: &Method) -> Peers {
        let ring = matches!(method, Method::ConsistentHash(_)).then(|| {
            let peers = list.iter().enumerate().filter(|(_, p)| !p.conf.backup);
            let buckets: Vec<Bucket> =
                peers.map(|(i, p)| Bucket::new(ring_address(i, &p.conf), p.conf.weight)).collect();
            Continuum::new(&buckets)
        });
        let tries = list.iter().filter(|p| !p.conf.down).count().max(1);
        let backups = list.iter().any(|p| p.conf.backup);
        let only = matches!(method, Method::RoundRobin)
            && matches!(&list[..], [one] if !one.conf.down && one.conf.max_conns == 0);
        Peers { list, ring, tries, backups, only }
    }
}

/// The states of all peers that live, of the present list or of one before.
#[derive(Default)]
pub(super) struct Slots(Vec<(PeerState, Weak<Peer>)>);

impl Slots {
    /// A peer of which nothing is known yet.
    fn add(&mut self, conf: PeerConf, of: Option<usize>) -> Arc<Peer> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let state = PeerState {
            current_weight: 0,
            effective_weight: i64::from(conf.weight),
            conns: 0,
            fails: 0,
            accessed: None,
            checked: None,
        };
        let free = self.0.iter().position(|(_, peer)| peer.strong_count() == 0);
        let slot = free.unwrap_or(self.0.len());
        let peer = Arc::new(Peer {
            name: Arc::from(conf.addr.to_string()),
            conf,
            metrics: PeerMetrics::default(),
            id: IDS.fetch_add(1, Ordering::Relaxed),
            of,
            slot,
        });
        let entry = (state, Arc::downgrade(&peer));
        match self.0.get_mut(slot) {
            Some(old) => *old = entry,
            None => self.0.push(entry),
        }
        peer
    }
}

/// The states of a list's peers, by their place in it.
pub(super) struct States<'a> {
    pub slots: &'a mut Slots,
    pub peers: &'a [Arc<Peer>],
}

impl States<'_> {
    pub fn len(&self) -> usize {
        self.peers.len()
    }
}

impl Index<usize> for States<'_> {
    type Output = PeerState;
    fn index(&self, i: usize) -> &PeerState {
        &self.slots.0[self.peers[i].slot].0
    }
}

impl IndexMut<usize> for States<'_> {
    fn index_mut(&mut self, i: usize) -> &mut PeerState {
        &mut self.slots.0[self.peers[i].slot].0
    }
}

/// A group and what is known of its peers.
pub struct Group {
    /// As configured.
    pub conf: GroupConf,
    /// Times of answers.
    pub latency: Latency,
    /// Requests for which no peer could be asked.
    pub no_live: Counter,
    /// Idle connections.
    pub pool: Pool,
    peers: Listed,
    pub(super) state: Mutex<Slots>,
}

impl Group {
    /// A group of which nothing is known yet. Its names have no addresses.
    pub fn new(conf: GroupConf) -> Group {
        let mut slots = Slots::default();
        let list = conf.peers.iter().map(|p| slots.add(p.clone(), None)).collect();
        let peers = Peers::new(list, &conf.method);
        Group {
            latency: Latency::default(),
            no_live: Counter::default(),
            pool: Pool::new(conf.keepalive),
            peers: match conf.names.is_empty() {
                true => Listed::Always(Arc::new(peers)),
                false => Listed::Now(ArcSwap::from_pointee(peers)),
            },
            state: Mutex::new(slots),
            conf,
        }
    }

    /// Its peers at this time.
    pub fn peers(&self) -> Arc<Peers> {
        match &self.peers {
            Listed::Always(peers) => peers.clone(),
            Listed::Now(peers) => peers.load_full(),
        }
    }

    fn held(&self) -> Held<'_> {
        match &self.peers {
            Listed::Always(peers) => Held::Always(peers),
            Listed::Now(peers) => Held::Then(peers.load_full()),
        }
    }

    /// Sets what a name, an index into those of the configuration, has been found to have. Peers that stay keep
    /// their state and connections. Whether anything changed.
    pub fn update(&self, name: usize, found: &[Found]) -> bool {
        let (Some(conf), Listed::Now(listed)) = (self.conf.names.get(name), &self.peers) else {
            return false;
        };
        let mut wanted: Vec<PeerConf> = Vec::new();
        for peer in found.iter().map(|found| conf.peer(found)) {
            if !wanted.iter().any(|known| known.addr == peer.addr) {
                wanted.push(peer);
            }
        }
        // Whoever else has found something waits here, and sees this change.
        let mut slots = self.state.lock();
        let before = listed.load_full();
        let (mut list, mut gone) = (Vec::new(), Vec::new());
        for peer in &before.list {
            let at = wanted.iter().position(|conf| *conf == peer.conf);
            match at {
                _ if peer.of != Some(name) => list.push(peer.clone()),
                Some(at) => {
                    wanted.swap_remove(at);
                    list.push(peer.clone());
                }
                None => gone.push(peer.id),
            }
        }
        if wanted.is_empty() && gone.is_empty() {
            return false;
        }
        wanted.sort_by(|a, b| a.addr.cmp(&b.addr));
        list.extend(wanted.into_iter().map(|conf| slots.add(conf, Some(name))));
        listed.store(Arc::new(Peers::new(list, &self.conf.method)));
        drop(slots);
        self.pool.forget(&gone);
        true
    }

    /// Takes over what an older group knows of the names that both have, so that a reload does not begin without
    /// addresses.
    pub fn adopt(&self, old: &Group) {
        for (name, conf) in self.conf.names.iter().enumerate() {
            let Some(known) = old.conf.names.iter().position(|known| known.is_same(conf)) else { continue };
            let peers = old.peers();
            let found: Vec<Found> = peers
                .list
                .iter()
                .filter(|peer| peer.of == Some(known))
                .filter_map(|peer| Found::of(&peer.conf, conf.service.is_some()))
                .collect();
            self.update(name, &found);
        }
    }

    /// How many peers there is room for.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.state.lock().0.len()
    }

    /// Begins the choosing for one request. `key` is the value of `hash`, `client` the address for
    /// `ip_hash`.
    pub fn selection(self: &Arc<Self>, key: Option<bytes::Bytes>, client: Option<IpAddr>) -> Selection<'_> {
        let peers = self.held();
        Selection {
            group: self,
            tried: SmallVec::from_elem(false, peers.list.len()),
            tries: peers.tries,
            backups: peers.backups,
            peers,
            hash: balance::HashState::new(key, client),
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
pub struct Selection<'a> {
    /// The group.
    pub group: &'a Arc<Group>,
    /// Its peers when the request began.
    pub(super) peers: Held<'a>,
    pub(super) tried: SmallVec<[bool; 16]>,
    /// Attempts left.
    pub tries: usize,
    pub(super) backups: bool,
    pub(super) hash: balance::HashState,
}

impl Selection<'_> {
    /// The next peer, taken; `None` when there is none to ask.
    pub fn take(&mut self) -> Option<Taken> {
        self.take_at(Instant::now())
    }

    /// The same, for who knows what time it is.
    pub fn take_at(&mut self, now: Instant) -> Option<Taken> {
        let only = self.peers.only;
        let index =
            if !only { balance::pick(self, now)? } else { self.tried.iter().position(|tried| !tried)? };
        self.tried[index] = true;
        let peer = self.peers.list[index].clone();
        peer.metrics.active.add(1);
        let single = self.peers.list.len() == 1;
        Some(Taken { group: self.group.clone(), peer, index, single, counted: !only, released: false })
    }
}

/// A peer that is being asked. It counts as busy until dropped.
pub struct Taken {
    /// Its group.
    pub group: Arc<Group>,
    /// The peer.
    pub peer: Arc<Peer>,
    /// Its place in the list of the selection.
    pub index: usize,
    single: bool,
    /// Whether its state is heeded, and so kept.
    counted: bool,
    released: bool,
}

impl Taken {
    /// Its configuration.
    pub fn conf(&self) -> &PeerConf {
        &self.peer.conf
    }

    /// Its name.
    pub fn name(&self) -> Arc<str> {
        self.peer.name.clone()
    }

    /// Its counters.
    pub fn metrics(&self) -> &PeerMetrics {
        &self.peer.metrics
    }

    /// Keeps a connection to it for another request, unless it has left the group.
    pub fn keep(&self, worker: usize, kind: u64, connection: Connection, now: Instant) {
        // For a group without names nothing is looked for.
        if self.peer.of.is_none() || self.group.held().list.iter().any(|p| p.id == self.peer.id) {
            self.group.pool.keep(worker, self.peer.id, kind, connection, now);
        }
    }

    /// It failed (ngx_http_upstream_free_round_robin_peer with NGX_PEER_FAILED).
    pub fn failed(&mut self) {
        // A group of one is asked whatever happened before.
        if self.single {
            return;
        }
        let conf = &self.peer.conf;
        let mut slots = self.group.state.lock();
        let state = &mut slots.0[self.peer.slot].0;
        let now = Instant::now();
        state.fails += 1;
        (state.accessed, state.checked) = (Some(now), Some(now));
        if conf.max_fails > 0 {
            let cost = i64::from(conf.weight) / i64::from(conf.max_fails);
            state.effective_weight = (state.effective_weight - cost).max(0);
            if state.fails == conf.max_fails {
                let (name, group) = (&self.peer.name, &self.group.conf.name);
                crate::observe::error_log::log(
                    crate::observe::error_log::Level::Warn,
                    format_args!("upstream server temporarily disabled: {name} of \"{group}\""),
                );
            }
        }
    }

    /// It answered: what was held against it is forgotten if it was tried since.
    pub fn succeeded(&self) {
        self.change(PeerState::succeeded);
    }

    /// It answered, and nothing more is asked of it.
    pub fn done(mut self) {
        self.release(PeerState::succeeded);
    }

    fn change(&self, change: impl FnOnce(&mut PeerState)) {
        if self.counted {
            change(&mut self.group.state.lock().0[self.peer.slot].0);
        }
    }

    fn release(&mut self, first: impl FnOnce(&mut PeerState)) {
        if !std::mem::replace(&mut self.released, true) {
            self.change(|state| {
                first(state);
                state.conns = state.conns.saturating_sub(1);
            });
            self.peer.metrics.active.add(-1);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.release(|_| {});
    }
}
