//! What the cache reports to Prometheus, by zone.

use crate::cache::CacheStatus;
use crate::cache::counters::{Eviction, FillEnd};
use crate::cache::freshness::Refusal;
use crate::edge::Edge;
use crate::observe::families::Families;

/// Reports to Prometheus.
pub fn metrics(edge: &Edge, out: &mut Families) {
    for zone in edge.generation().runtime.proxy_cache.zones() {
        let name = &*zone.spec.name;
        let counters = &zone.counters;
        for status in CacheStatus::ALL {
            out.counter(
                "edgewater_cache_requests_total",
                "Requests answered through a cache zone, by how the cache answered.",
                &[("zone", name), ("status", status.as_str())],
                counters.requests(status),
            );
        }
        let (entries, bytes) = zone.store.held();
        let gauges = [
            ("edgewater_cache_entries", "Answers kept in a cache zone.", entries as f64),
            ("edgewater_cache_bytes", "Bytes that the kept answers take.", bytes as f64),
            ("edgewater_cache_max_bytes", "Bytes that they may take.", zone.spec.bound as f64),
            ("edgewater_cache_fills", "Answers being received.", counters.filling.get() as f64),
            ("edgewater_cache_fill_bytes", "Bytes of answers being received.", zone.growing() as f64),
        ];
        for (family, help, value) in gauges {
            out.gauge(family, help, &[("zone", name)], value);
        }
        for end in FillEnd::ALL {
            out.counter(
                "edgewater_cache_fills_total",
                "Requests to upstreams on behalf of a cache zone, by how they ended.",
                &[("zone", name), ("end", end.as_str())],
                counters.fills(end),
            );
        }
        out.counter(
            "edgewater_cache_fill_readers_total",
            "Requests that read or awaited such an answer; divided by the fills, how many one served.",
            &[("zone", name)],
            counters.readers.get(),
        );
        out.counter(
            "edgewater_cache_lock_timeouts_total",
            "Requests that went upstream because another's answer took too long.",
            &[("zone", name)],
            counters.lock_timeouts.get(),
        );
        for cause in Eviction::ALL {
            out.counter(
                "edgewater_cache_evictions_total",
                "Answers no longer kept, by cause.",
                &[("zone", name), ("cause", cause.as_str())],
                counters.evictions(cause),
            );
        }
        for reason in Refusal::ALL {
            out.counter(
                "edgewater_cache_uncacheable_total",
                "Answers that were not kept, by reason.",
                &[("zone", name), ("reason", reason.as_str())],
                counters.refusals(reason),
            );
        }
    }
}
