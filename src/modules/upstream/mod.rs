//! nginx's upstream modules: groups of servers, how one is chosen, how connections are kept.

mod directives;
mod variables;

pub use directives::{
    COMMANDS, addresses, implied, implied_group, keepalive_requests, keepalive_time, keepalive_timeout,
    resolver, resolver_timeout, server, split_host,
};
pub use variables::VARIABLES;

use crate::conf::build::Http as HttpLevels;
use crate::conf::{Builder, ConfResult};
use crate::edge::Edge;
use crate::observe::families::Families;
use crate::upstream::group::{Group, GroupConf};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// What the whole of `http` configures: the groups, `upstream` blocks first, then those that a
/// `proxy_pass` implies.
#[derive(Default)]
pub struct Http {
    /// The groups.
    pub groups: Vec<GroupConf>,
    /// What `upstream` blocks say while they are read.
    blocks: Vec<directives::Block>,
    /// The zones by name, and their sizes; 0 of one that is declared elsewhere.
    zones: Vec<(String, u64)>,
}

impl Http {
    /// The group of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|g| g.name == name)
    }
}

/// Completes what depends on all of `http`: who looks names up, which zones there are.
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    directives::finish(b)
}

/// The groups that are in use, by their configuration; one whose configuration stays keeps its state
/// over a reload.
#[derive(Default)]
pub struct Shared {
    groups: Mutex<HashMap<String, Weak<Group>>>,
}

/// The groups of a generation.
#[derive(Default)]
pub struct Runtime {
    /// In the order of the configuration.
    pub groups: Vec<Arc<Group>>,
    by_name: HashMap<String, usize>,
}

impl Runtime {
    /// Joins the configuration with what outlives it.
    pub fn build(http: &HttpLevels, shared: &Shared) -> ConfResult<Runtime> {
        let mut known = shared.groups.lock();
        known.retain(|_, group| group.strong_count() > 0);
        let mut runtime = Runtime::default();
        for conf in &http.conf.upstream.groups {
            let key = format!("{conf:?}");
            let group = known.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                let group = Arc::new(Group::new(conf.clone()));
                let is_before = |old: &Arc<Group>| {
                    conf.zone.is_some()
                        && (&old.conf.name, &old.conf.zone) == (&conf.name, &conf.zone)
                        && !old.pool.is_retired()
                };
                if let Some(old) = known.values().filter_map(Weak::upgrade).find(is_before) {
                    group.adopt(&old);
                }
                known.insert(key, Arc::downgrade(&group));
                group
            });
            runtime.by_name.insert(conf.name.clone(), runtime.groups.len());
            runtime.groups.push(group);
        }
        Ok(runtime)
    }

    /// The group of this name, which variables of a `proxy_pass` may give.
    pub fn find(&self, name: &str) -> Option<&Arc<Group>> {
        self.by_name.get(&name.to_ascii_lowercase()).map(|i| &self.groups[*i])
    }
}

/// Reports to Prometheus.
pub fn metrics(edge: &Edge, out: &mut Families) {
    for group in &edge.generation().runtime.upstream.groups {
        let name = group.conf.name.as_str();
        for peer in &group.peers().list {
            let (peer_name, peer) = (&*peer.name, &peer.metrics);
            for (class, counter) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(&peer.answers) {
                let labels = [("upstream", name), ("peer", peer_name), ("status", class)];
                out.counter(
                    "edgewater_upstream_responses_total",
                    "Answers of upstream servers by class of status.",
                    &labels,
                    counter.get(),
                );
            }
            let labels = [("upstream", name), ("peer", peer_name)];
            for (kind, counter) in
                [("connection", &peer.errors), ("timeout", &peer.timeouts), ("invalid_header", &peer.invalid)]
            {
                let labels = [("upstream", name), ("peer", peer_name), ("kind", kind)];
                out.counter(
                    "edgewater_upstream_errors_total",
                    "Attempts at upstream servers that failed, by kind.",
                    &labels,
                    counter.get(),
                );
            }
            out.counter(
                "edgewater_upstream_connects_total",
                "Connections made to upstream servers.",
                &labels,
                peer.connects.get(),
            );
            out.counter(
                "edgewater_upstream_reuses_total",
                "Requests sent on a kept connection.",
                &labels,
                peer.reuses.get(),
            );
            out.gauge(
                "edgewater_upstream_active_requests",
                "Requests under way at upstream servers.",
                &labels,
                peer.active.get() as f64,
            );
        }
        let labels = [("upstream", name)];
        out.counter(
            "edgewater_upstream_unavailable_total",
            "Requests for which no server could be asked.",
            &labels,
            group.no_live.get(),
        );
        out.gauge(
            "edgewater_upstream_idle_connections",
            "Idle connections kept.",
            &labels,
            group.pool.idle() as f64,
        );
        let (buckets, sum, count) = group.latency.read();
        out.histogram(
            "edgewater_upstream_response_seconds",
            "Time from the attempt's start to the head of the answer.",
            &labels,
            &buckets,
            sum,
            count,
        );
    }
}
