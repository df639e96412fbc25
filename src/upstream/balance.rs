//! Which peer is asked: nginx's round robin, least_conn, ip_hash, hash, random.

use super::group::{PeerConf, PeerState, Selection, States, ring_address};
use crate::http::template::Template;
use bytes::Bytes;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::time::Instant;

/// How a peer is chosen.
#[derive(Clone, Debug, Default)]
pub enum Method {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// The fewest connections for its weight.
    LeastConn,
    /// By the client's address.
    IpHash,
    /// By a key.
    Hash(Template),
    /// By a key, so that few keys move when a peer comes or goes.
    ConsistentHash(Template),
    /// At random; with `two`, the less busy of two.
    Random {
        /// `two least_conn`
        two: bool,
    },
}

/// How far a choice by hash has got.
pub struct HashState {
    key: Bytes,
    client: Option<IpAddr>,
    hash: u32,
    rehash: u32,
    tries: u32,
    /// Position on the ring.
    point: Option<usize>,
}

impl HashState {
    /// Begins.
    pub fn new(key: Option<Bytes>, client: Option<IpAddr>) -> HashState {
        HashState { key: key.unwrap_or_default(), client, hash: 89, rehash: 0, tries: 0, point: None }
    }

    /// What `ip_hash` hashes: the first three octets, so that a network of clients stays together.
    fn octets(&self) -> SmallVec<[u8; 16]> {
        match self.client {
            Some(IpAddr::V4(ip)) => SmallVec::from_slice(&ip.octets()[..3]),
            Some(IpAddr::V6(ip)) => SmallVec::from_slice(&ip.octets()),
            None => SmallVec::from_slice(&[0; 3]),
        }
    }
}

/// After so many tries a hash gives way to round robin.
const MAX_TRIES: u32 = 20;

/// The next peer, counted as busy.
pub fn pick(selection: &mut Selection, now: Instant) -> Option<usize> {
    if selection.peers.list.is_empty() {
        // Its names have no addresses yet, or no more.
        return None;
    }
    let group = selection.group;
    let mut slots = group.state.lock();
    if let Method::RoundRobin = group.conf.method {
        let mut states = States { slots: &mut slots, peers: &selection.peers.list };
        let chosen = in_turn(selection, &mut states, now)?;
        return Some(occupy(chosen, &mut states, now));
    }
    let peers = selection.peers.clone();
    let mut states = States { slots: &mut slots, peers: &peers.list };
    let chosen = match &group.conf.method {
        Method::RoundRobin => None,
        Method::LeastConn => least_conn(selection, &mut states, now),
        Method::IpHash => ip_hash(selection, &mut states, now),
        Method::Hash(_) => hash(selection, &mut states, now),
        Method::ConsistentHash(_) => consistent(selection, &mut states, now),
        Method::Random { two } => random(selection, &mut states, now, *two),
    };
    let chosen = chosen.or_else(|| in_turn(selection, &mut states, now))?;
    Some(occupy(chosen, &mut states, now))
}

/// The next of those that may be asked, and of the backups when nobody else can be.
fn in_turn(selection: &Selection, states: &mut States, now: Instant) -> Option<usize> {
    match round_robin(selection, states, now, false) {
        None if selection.backups => round_robin(selection, states, now, true),
        chosen => chosen,
    }
}

/// Counts a peer as busy.
fn occupy(chosen: usize, states: &mut States, now: Instant) -> usize {
    let fail_timeout = states.peers[chosen].conf.fail_timeout;
    let state = &mut states[chosen];
    if state.checked.is_none_or(|at| now.saturating_duration_since(at) > fail_timeout) {
        state.checked = Some(now);
    }
    state.conns += 1;
    chosen
}

/// Whether a peer may be asked now.
fn eligible(selection: &Selection, i: usize, state: &PeerState, now: Instant, backup: bool) -> bool {
    let conf: &PeerConf = &selection.peers.list[i].conf;
    if selection.tried[i] || conf.down || conf.backup != backup {
        return false;
    }
    let single = selection.peers.list.len() == 1;
    let failed = conf.max_fails > 0
        && state.fails >= conf.max_fails
        && state.checked.is_some_and(|at| now.saturating_duration_since(at) <= conf.fail_timeout);
    let full = conf.max_conns > 0 && state.conns >= conf.max_conns;
    (single || !failed) && !full
}

fn round_robin(selection: &Selection, states: &mut States, now: Instant, backup: bool) -> Option<usize> {
    let all = |i: usize, state: &PeerState| eligible(selection, i, state, now, backup);
    smooth(selection, states, all)
}

/// Smooth weighted round robin among the peers for which `among` holds.
fn smooth(
    selection: &Selection,
    states: &mut States,
    among: impl Fn(usize, &PeerState) -> bool,
) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut total = 0;
    for i in 0..states.len() {
        if !among(i, &states[i]) {
            continue;
        }
        let weight = i64::from(selection.peers.list[i].conf.weight);
        let state = &mut states[i];
        state.current_weight += state.effective_weight;
        total += state.effective_weight;
        if state.effective_weight < weight {
            state.effective_weight += 1;
        }
        if best.is_none_or(|b| states[i].current_weight > states[b].current_weight) {
            best = Some(i);
        }
    }
    let best = best?;
    states[best].current_weight -= total;
    Some(best)
}

fn least_conn(selection: &Selection, states: &mut States, now: Instant) -> Option<usize> {
    let peers = &selection.peers.list;
    let candidates: Vec<usize> =
        (0..states.len()).filter(|i| eligible(selection, *i, &states[*i], now, false)).collect();
    // conns/weight compared without division.
    let busier = |a: usize, b: usize| {
        let left = u64::from(states[a].conns) * u64::from(peers[b].conf.weight);
        let right = u64::from(states[b].conns) * u64::from(peers[a].conf.weight);
        left.cmp(&right)
    };
    let least = candidates.iter().copied().min_by(|a, b| busier(*a, *b))?;
    let ties: Vec<usize> = candidates.iter().copied().filter(|i| busier(*i, least).is_eq()).collect();
    if ties.len() == 1 { Some(least) } else { smooth(selection, states, |i, _| ties.contains(&i)) }
}

/// The peer at a point of the line of weights.
fn by_weight(selection: &Selection, mut point: u64) -> usize {
    let peers = &selection.peers.list;
    let primary = || peers.iter().enumerate().filter(|(_, p)| !p.conf.backup);
    for (i, peer) in primary() {
        if point < u64::from(peer.conf.weight) {
            return i;
        }
        point -= u64::from(peer.conf.weight);
    }
    0
}

fn total_weight(selection: &Selection) -> u64 {
    selection.peers.list.iter().filter(|p| !p.conf.backup).map(|p| u64::from(p.conf.weight)).sum()
}

fn ip_hash(selection: &mut Selection, states: &mut States, now: Instant) -> Option<usize> {
    let total = total_weight(selection).max(1);
    while selection.hash.tries <= MAX_TRIES {
        for octet in selection.hash.octets() {
            selection.hash.hash =
                (selection.hash.hash.wrapping_mul(113).wrapping_add(u32::from(octet))) % 6271;
        }
        selection.hash.tries += 1;
        let i = by_weight(selection, u64::from(selection.hash.hash) % total);
        if eligible(selection, i, &states[i], now, false) {
            return Some(i);
        }
    }
    None
}

fn hash(selection: &mut Selection, states: &mut States, now: Instant) -> Option<usize> {
    let total = total_weight(selection).max(1);
    // The sum starts anew for each request and grows by each try.
    if selection.hash.rehash == 0 && selection.hash.tries == 0 {
        selection.hash.hash = 0;
    }
    while selection.hash.tries <= MAX_TRIES {
        let mut crc = crc32fast::Hasher::new();
        if selection.hash.rehash > 0 {
            crc.update(selection.hash.rehash.to_string().as_bytes());
        }
        crc.update(&selection.hash.key);
        let value = (crc.finalize() >> 16) & 0x7fff;
        selection.hash.hash = selection.hash.hash.wrapping_add(value);
        selection.hash.rehash += 1;
        selection.hash.tries += 1;
        let i = by_weight(selection, u64::from(selection.hash.hash) % total);
        if eligible(selection, i, &states[i], now, false) {
            return Some(i);
        }
    }
    None
}

fn consistent(selection: &mut Selection, states: &mut States, now: Instant) -> Option<usize> {
    let peers = selection.peers.clone();
    let ring = peers.ring.as_ref()?;
    let mut point = selection.hash.point.unwrap_or_else(|| ring.node_idx(&selection.hash.key));
    while selection.hash.tries <= MAX_TRIES {
        let addr = *ring.get_addr(&mut point)?;
        selection.hash.point = Some(point);
        let at_address = |i: usize, state: &PeerState| {
            ring_address(i, &peers.list[i].conf) == addr && eligible(selection, i, state, now, false)
        };
        if let Some(i) = smooth(selection, states, at_address) {
            return Some(i);
        }
        selection.hash.tries += 1;
    }
    None
}

fn random(selection: &mut Selection, states: &mut States, now: Instant, two: bool) -> Option<usize> {
    let total = total_weight(selection).max(1);
    let draw = || {
        let bytes = crate::edge::random::bytes();
        let n = u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ]);
        by_weight(selection, n % total)
    };
    let mut first = None;
    for _ in 0..=MAX_TRIES {
        let i = draw();
        if !eligible(selection, i, &states[i], now, false) {
            continue;
        }
        match first {
            None if !two => return Some(i),
            None => first = Some(i),
            Some(other) if other != i => {
                let peers = &selection.peers.list;
                let left = u64::from(states[i].conns) * u64::from(peers[other].conf.weight);
                let right = u64::from(states[other].conns) * u64::from(peers[i].conf.weight);
                return Some(if left < right { i } else { other });
            }
            Some(_) => {}
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::super::group::{Group, GroupConf, PeerAddr};
    use super::*;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    fn peer(port: u16, weight: u32) -> PeerConf {
        PeerConf {
            addr: PeerAddr::Inet(([127, 0, 0, 1], port).into()),
            server: format!("127.0.0.1:{port}"),
            weight,
            max_conns: 0,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            backup: false,
            down: false,
        }
    }

    fn group(peers: Vec<PeerConf>, method: Method) -> Arc<Group> {
        Arc::new(Group::new(GroupConf { peers, method, ..GroupConf::new("g") }))
    }

    fn order(group: &Arc<Group>, n: usize) -> Vec<usize> {
        (0..n).map(|_| group.selection(None, None).take().unwrap().index).collect()
    }

    #[test]
    fn weights_are_spread_smoothly() {
        let g = group(vec![peer(1, 5), peer(2, 1), peer(3, 1)], Method::RoundRobin);
        assert_eq!(order(&g, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_failed_peer_rests_and_a_backup_steps_in() {
        let mut backup = peer(3, 1);
        backup.backup = true;
        let g = group(vec![peer(1, 1), peer(2, 1), backup], Method::RoundRobin);
        for _ in 0..2 {
            let mut selection = g.selection(None, None);
            selection.take().unwrap().failed();
        }
        assert_eq!(order(&g, 3), [2, 2, 2]);
    }

    #[test]
    fn max_conns_counts_what_is_open() {
        let mut small = peer(1, 1);
        small.max_conns = 1;
        let g = group(vec![small], Method::RoundRobin);
        let held = g.selection(None, None).take().unwrap();
        assert!(g.selection(None, None).take().is_none());
        drop(held);
        assert!(g.selection(None, None).take().is_some());
    }

    #[test]
    fn least_conn_prefers_the_idle() {
        let g = group(vec![peer(1, 1), peer(2, 1)], Method::LeastConn);
        let a = g.selection(None, None).take().unwrap();
        let b = g.selection(None, None).take().unwrap();
        assert_ne!(a.index, b.index);
        let freed = a.index;
        drop(a);
        assert_eq!(g.selection(None, None).take().unwrap().index, freed);
    }

    #[test]
    fn a_key_stays_and_keys_spread() {
        for method in [Method::Hash(Template::literal("k")), Method::ConsistentHash(Template::literal("k"))] {
            let g = group(vec![peer(1, 1), peer(2, 1), peer(3, 1)], method);
            let of = |key: String| g.selection(Some(key.into()), None).take().unwrap().index;
            let mut seen: HashMap<usize, usize> = HashMap::new();
            for n in 0..300 {
                assert_eq!(of(format!("room{n}")), of(format!("room{n}")));
                *seen.entry(of(format!("room{n}"))).or_default() += 1;
            }
            assert!(seen.len() == 3 && seen.values().all(|n| *n > 40), "{seen:?}");
        }
    }

    #[test]
    fn a_retry_goes_elsewhere() {
        let g = group(vec![peer(1, 1), peer(2, 1)], Method::IpHash);
        let mut selection = g.selection(None, Some([10, 0, 0, 1].into()));
        let first = selection.take().unwrap().index;
        assert_ne!(selection.take().unwrap().index, first);
        assert!(selection.take().is_none());
    }
}
