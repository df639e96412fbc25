//! Idle connections to upstream servers, kept by each worker for itself.
//!
//! An idle connection costs neither a task nor a buffer. Whether it still lives is seen when it is
//! taken, by a read that does not wait; those that are too old go when another comes or is taken.

use super::group::KeepaliveConf;
use super::socket::Socket;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A connection to an upstream server.
pub struct Connection {
    /// The stream.
    pub stream: Socket,
    /// Requests it has carried.
    pub requests: u64,
    /// When it was made.
    pub born: Instant,
}

struct Idle {
    connection: Connection,
    /// Its [`super::group::Peer::id`].
    peer: u64,
    /// What else must be equal for a connection to be used again (TLS name and verification).
    kind: u64,
    since: Instant,
}

/// Workers with a pool of their own; any beyond keep no connections. A slot is a few words.
const MAX_WORKERS: usize = 64;

/// The idle connections of a group, by worker.
pub struct Pool {
    conf: KeepaliveConf,
    workers: Vec<Mutex<VecDeque<Idle>>>,
    /// No configuration has the group any more.
    retired: AtomicBool,
}

impl Pool {
    /// An empty pool.
    pub fn new(conf: KeepaliveConf) -> Pool {
        let workers = (0..MAX_WORKERS).map(|_| Mutex::default()).collect();
        Pool { conf, workers, retired: AtomicBool::new(false) }
    }

    /// A connection to `peer` that is alive, the one used last first, as nginx takes them.
    pub fn take(&self, worker: usize, peer: u64, kind: u64, now: Instant) -> Option<Connection> {
        let slot = self.workers.get(worker)?;
        loop {
            // A worker's slot is its own; the lock is never waited for.
            let mut idle = slot.lock();
            let found = idle.iter().rposition(|i| i.peer == peer && i.kind == kind)?;
            let mut taken = idle.remove(found)?;
            drop(idle);
            let age = |of: Instant| now.saturating_duration_since(of);
            let fresh = age(taken.since) < self.conf.timeout && age(taken.connection.born) < self.conf.time;
            if fresh && taken.connection.stream.is_quiet() {
                return Some(taken.connection);
            }
        }
    }

    /// Keeps a connection for another request, when it may carry one and there is room.
    pub fn keep(&self, worker: usize, peer: u64, kind: u64, connection: Connection, now: Instant) {
        let Some(slot) = self.workers.get(worker) else { return };
        let age = |of: Instant| now.saturating_duration_since(of);
        let over = connection.requests >= self.conf.requests || age(connection.born) >= self.conf.time;
        if over || self.conf.connections == 0 || self.retired.load(Ordering::Relaxed) {
            return;
        }
        let mut idle = slot.lock();
        let timeout = self.conf.timeout;
        while idle.front().is_some_and(|i| age(i.since) >= timeout) || idle.len() >= self.conf.connections {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, peer, kind, since: now });
    }

    /// Closes what has been idle too long or was closed by the other side.
    pub fn sweep(&self, worker: usize) {
        let Some(slot) = self.workers.get(worker) else { return };
        let timeout = self.conf.timeout;
        slot.lock().retain_mut(|i| i.since.elapsed() < timeout && i.connection.stream.is_quiet());
    }

    /// Says whether the group is out of the configuration. Then all are closed and none is kept:
    /// requests of an old generation may go on for hours, and nobody sees to what idles here.
    pub fn retire(&self, retired: bool) {
        if self.retired.swap(retired, Ordering::Relaxed) != retired && retired {
            for slot in &self.workers {
                slot.lock().clear();
            }
        }
    }

    /// Closes the connections to peers that have left.
    pub fn forget(&self, gone: &[u64]) {
        if !gone.is_empty() {
            for slot in &self.workers {
                slot.lock().retain(|idle| !gone.contains(&idle.peer));
            }
        }
    }

    /// Whether no configuration has the group any more.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// How many are idle, in all workers.
    pub fn idle(&self) -> usize {
        self.workers.iter().map(|w| w.lock().len()).sum()
    }
}
