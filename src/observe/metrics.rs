//! Counters: each worker has its own, and they are summed when somebody asks.

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

/// What a worker counts of its connections.
#[derive(Default, Debug)]
pub struct Connections {
    /// Accepted.
    pub accepted: Counter,
    /// Handled: accepted and not refused for want of `worker_connections`.
    pub handled: Counter,
    /// Requests.
    pub requests: Counter,
    /// Open.
    pub active: Gauge,
    /// Of these, reading a head.
    pub reading: Gauge,
    /// Of these, answering.
    pub writing: Gauge,
    /// Of these, idle between requests.
    pub waiting: Gauge,
    /// Full handshakes.
    pub handshakes: Counter,
    /// Resumed handshakes.
    pub handshakes_resumed: Counter,
    /// Handshakes that failed.
    pub handshakes_failed: Counter,
}

/// What a worker counts.
#[derive(Default, Debug)]
pub struct WorkerMetrics {
    /// Of connections.
    pub connections: Connections,
}

/// Counts a finished request.
pub fn request_done(_: &crate::http::Request) {}
