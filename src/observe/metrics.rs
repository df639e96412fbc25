//! Counters: each worker has its own, and they are summed when somebody asks.

use crate::conf::build::Http;
use crate::edge::{Local, turn};
use crate::http::Request;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Default, Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Numbers that one thread alone counts and any thread reads. Adding is a load and a store, without the locked
/// instruction that costs as much as twenty others and of which a request had a dozen; of two threads that added at
/// once, one would count for nothing.
pub mod own {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    /// A number that only grows.
    #[derive(Default, Debug)]
    pub struct Counter(AtomicU64);

    impl Counter {
        /// One more.
        pub fn inc(&self) {
            self.add(1);
        }

        /// `n` more.
        pub fn add(&self, n: u64) {
            self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
        }

        /// How many.
        pub fn get(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A number that rises and falls.
    #[derive(Default, Debug)]
    pub struct Gauge(AtomicI64);

    impl Gauge {
        /// Adds `n`, which may be negative.
        pub fn add(&self, n: i64) {
            self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
        }

        /// Its value.
        pub fn get(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }
    }
}

/// What a worker counts of its connections; none but the worker itself counts here.
#[derive(Default, Debug)]
pub struct Connections {
    /// Accepted.
    pub accepted: own::Counter,
    /// Handled: accepted and not refused for want of `worker_connections`.
    pub handled: own::Counter,
    /// Requests.
    pub requests: own::Counter,
    /// Of these, answered by the hit path.
    pub hits: own::Counter,
    /// Open.
    pub active: own::Gauge,
    /// Of these, reading a head.
    pub reading: own::Gauge,
    /// Of these, answering.
    pub writing: own::Gauge,
    /// Of these, idle between requests.
    pub waiting: own::Gauge,
    /// Full handshakes.
    pub handshakes: own::Counter,
    /// Resumed handshakes.
    pub handshakes_resumed: own::Counter,
    /// Handshakes that failed.
    pub handshakes_failed: own::Counter,
}

/// What a worker counts.
#[derive(Default, Debug)]
pub struct WorkerMetrics {
    /// Of connections.
    pub connections: Connections,
    /// Of requests. The lock is taken for a reload and a scrape.
    servers: Mutex<Servers>,
}

/// Upper bounds of the buckets of request durations, in milliseconds. Above the last stand what is
/// streamed: WebSockets, FLV, long polls.
pub const DURATIONS_MS: [u64; 13] = [1, 3, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// The most servers that have figures of their own; requests of more are counted under
/// [`OTHER_SERVERS`]. Names come from the configuration, over all its reloads.
const MOST_SERVERS: usize = 1000;
/// The name for servers beyond the bound.
pub const OTHER_SERVERS: &str = "_other";

/// Durations of requests.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// For each bound those above the previous and at or below it, then those above all.
    counts: [u64; DURATIONS_MS.len() + 1],
    /// In microseconds.
    sum: u64,
}

impl Histogram {
    /// Adds another's figures.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Each bound in seconds with how many were at or below it.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let running = self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        DURATIONS_MS.iter().map(|ms| *ms as f64 / 1000.0).zip(running).collect()
    }

    /// All durations together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum as f64 / 1e6
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What is counted of a server's requests.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct ServerMetrics {
    /// By class of status, from `1xx` to `5xx`.
    pub classes: [u64; 5],
    /// Bytes of heads and bodies received.
    pub received: u64,
    /// Bytes of heads and bodies sent.
    pub sent: u64,
    /// From a request's first byte to its end.
    pub durations: Histogram,
}

impl ServerMetrics {
    fn merge(&mut self, other: &ServerMetrics) {
        for (count, more) in self.classes.iter_mut().zip(other.classes) {
            *count += more;
        }
        self.received += other.received;
        self.sent += other.sent;
        self.durations.merge(&other.durations);
    }
}

/// A server's figures as one worker counts them.
#[derive(Default, Debug)]
pub struct ServerCounters {
    classes: [own::Counter; 5],
    received: own::Counter,
    sent: own::Counter,
    /// As in [`Histogram`].
    durations: [own::Counter; DURATIONS_MS.len() + 1],
    micros: own::Counter,
}

impl ServerCounters {
    fn count(&self, status: u16, received: u64, sent: u64, time: Duration) {
        // No status at all is a request without an answer, which nginx would log as 4xx.
        let class = if status < 100 { 4 } else { (status / 100).min(5) };
        self.classes[usize::from(class) - 1].inc();
        self.received.add(received);
        self.sent.add(sent);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.durations[DURATIONS_MS.partition_point(|bound| bound * 1000 < micros)].inc();
        self.micros.add(micros);
    }

    fn read(&self) -> ServerMetrics {
        ServerMetrics {
            classes: self.classes.each_ref().map(own::Counter::get),
            received: self.received.get(),
            sent: self.sent.get(),
            durations: Histogram {
                counts: self.durations.each_ref().map(own::Counter::get),
                sum: self.micros.get(),
            },
        }
    }
}

/// A worker's figures by server. They are kept by name, for a server is the same after a reload.
#[derive(Default, Debug)]
struct Servers(HashMap<Arc<str>, Arc<ServerCounters>>);

impl Servers {
    fn named(&mut self, name: &str) -> Arc<ServerCounters> {
        let name = if name.is_empty() { "_" } else { name };
        if let Some(figures) = self.0.get(name) {
            return figures.clone();
        }
        if self.0.len() >= MOST_SERVERS && name != OTHER_SERVERS {
            return self.named(OTHER_SERVERS);
        }
        self.0.entry(Arc::from(name)).or_default().clone()
    }
}

impl WorkerMetrics {
    /// Where the worker counts the requests to each of these servers, by their index.
    pub fn of_servers(&self, http: &Http) -> Vec<Arc<ServerCounters>> {
        let mut servers = self.servers.lock();
        http.servers.iter().map(|server| servers.named(&server.conf.core.name)).collect()
    }

    /// Adds this worker's figures of requests to `all`.
    pub fn add_servers(&self, all: &mut BTreeMap<Arc<str>, ServerMetrics>) {
        for (name, figures) in &self.servers.lock().0 {
            all.entry(name.clone()).or_default().merge(&figures.read());
        }
    }
}

/// Counts a finished request.
pub fn request_done(rq: &Request) {
    count(&rq.local, rq.server, rq.sent.status, rq.length, rq.sent.bytes, turn::since(rq.started));
}

/// Counts a request to a server, an index into `http().servers`: its status, bytes received and sent, how long it
/// took.
pub fn count(local: &Local, server: usize, status: u16, received: u64, sent: u64, time: Duration) {
    // There is one for each server.
    if let Some(figures) = local.figures.get(server) {
        figures.count(status, received, sent, time);
    }
}

/// The connection counters of all workers, summed.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Totals {
    pub accepted: u64,
    pub handled: u64,
    pub requests: u64,
    pub hits: u64,
    pub active: u64,
    pub reading: u64,
    pub writing: u64,
    pub waiting: u64,
    pub handshakes: u64,
    pub handshakes_resumed: u64,
    pub handshakes_failed: u64,
}

impl Totals {
    /// Sums over workers. A gauge is never shown below zero: the counters of a connection that ends
    /// meanwhile are read one after another.
    pub fn of(workers: &[Arc<WorkerMetrics>]) -> Totals {
        let count = |which: fn(&Connections) -> &own::Counter| {
            workers.iter().map(|w| which(&w.connections).get()).sum::<u64>()
        };
        let gauge = |which: fn(&Connections) -> &own::Gauge| {
            workers.iter().map(|w| which(&w.connections).get()).sum::<i64>().max(0) as u64
        };
        Totals {
            accepted: count(|c| &c.accepted),
            handled: count(|c| &c.handled),
            requests: count(|c| &c.requests),
            hits: count(|c| &c.hits),
            active: gauge(|c| &c.active),
            reading: gauge(|c| &c.reading),
            writing: gauge(|c| &c.writing),
            waiting: gauge(|c| &c.waiting),
            handshakes: count(|c| &c.handshakes),
            handshakes_resumed: count(|c| &c.handshakes_resumed),
            handshakes_failed: count(|c| &c.handshakes_failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_histogram_counts_as_a_sorted_list_does(micros in prop::collection::vec(0u64..20_000_000, 0..50)) {
            let parts = <[ServerCounters; 2]>::default();
            for (i, us) in micros.iter().enumerate() {
                parts[usize::from(i % 3 == 0)].count(200, 0, 0, Duration::from_micros(*us));
            }
            let [mut first, second] = parts.map(|part| part.read().durations);
            first.merge(&second);
            prop_assert_eq!(first.count(), micros.len() as u64);
            prop_assert!((first.sum() - micros.iter().sum::<u64>() as f64 / 1e6).abs() < 1e-9);
            for (bound, count) in first.cumulative() {
                let below = micros.iter().filter(|us| **us as f64 / 1e6 <= bound).count();
                prop_assert_eq!(count, below as u64, "at {}", bound);
            }
        }
    }

    #[test]
    fn a_duration_at_a_bound_is_within_it() {
        let figures = ServerCounters::default();
        for micros in [5_000, 5_001, 86_400_000_000] {
            figures.count(200, 0, 0, Duration::from_micros(micros));
        }
        let h = figures.read().durations;
        let cumulative = h.cumulative();
        assert_eq!(cumulative[1], (0.003, 0));
        assert_eq!(cumulative[2], (0.005, 1));
        assert_eq!(cumulative[3], (0.01, 2));
        assert_eq!((cumulative[12], h.count()), ((10.0, 2), 3));
    }

    #[test]
    fn statuses_by_class() {
        let figures = ServerCounters::default();
        for status in [101, 200, 206, 302, 404, 444, 0, 9, 503, 599] {
            figures.count(status, 10, 100, Duration::ZERO);
        }
        let figures = figures.read();
        assert_eq!(figures.classes, [1, 2, 1, 4, 2]);
        assert_eq!((figures.received, figures.sent), (100, 1000));
    }

    #[test]
    fn servers_are_bounded() {
        let mut servers = Servers::default();
        for n in 0..MOST_SERVERS + 10 {
            servers.named(&format!("s{n}")).received.inc();
        }
        servers.named("").received.inc();
        servers.named("s5").received.inc();
        assert_eq!(servers.0.len(), MOST_SERVERS + 1);
        assert_eq!(servers.named(OTHER_SERVERS).received.get(), 11);
        assert_eq!(servers.named("s5").received.get(), 2);
    }

    #[test]
    fn workers_are_summed() {
        let workers = [Arc::new(WorkerMetrics::default()), Arc::new(WorkerMetrics::default())];
        for worker in &workers {
            worker.connections.accepted.add(2);
            worker.connections.active.add(1);
            worker.servers.lock().named("a").sent.add(5);
        }
        workers[0].servers.lock().named("b").sent.inc();
        workers[1].connections.reading.add(-1);
        let totals = Totals::of(&workers);
        assert_eq!((totals.accepted, totals.active, totals.reading), (4, 2, 0));
        let mut all = BTreeMap::new();
        workers.iter().for_each(|w| w.add_servers(&mut all));
        let sent: Vec<_> = all.iter().map(|(name, m)| (&**name, m.sent)).collect();
        assert_eq!(sent, [("a", 10), ("b", 1)]);
    }
}
