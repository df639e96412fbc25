//! What the cache reports to Prometheus, by zone.

use crate::cache::CacheStatus;
use crate::cache::counters::{DiskEviction, Eviction, FillEnd};
use crate::cache::disk::format::Damage;
use crate::cache::freshness::Refusal;
use crate::cache::purge::Kind;
use crate::cache::zone::Zone;
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
        held(zone, out);
        let gauges = [
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
        let memory = Eviction::ALL.map(|why| ("memory", why.as_str(), counters.evictions(why)));
        let disk = DiskEviction::ALL.map(|why| ("disk", why.as_str(), counters.disk.evictions(why)));
        for (tier, cause, value) in memory.into_iter().chain(disk) {
            out.counter(
                "edgewater_cache_evictions_total",
                "Answers no longer kept, by where they were and by cause.",
                &[("zone", name), ("tier", tier), ("cause", cause)],
                value,
            );
        }
        for kind in Kind::ALL {
            out.counter(
                "edgewater_cache_purges_total",
                "Purges carried out, by what was purged.",
                &[("zone", name), ("kind", kind.as_str())],
                counters.purges(kind),
            );
        }
        out.gauge(
            "edgewater_cache_purges_pending",
            "Wildcards and tags that are purged and still being removed from disk.",
            &[("zone", name)],
            zone.purges.pending() as f64,
        );
        for damage in Damage::ALL {
            out.counter(
                "edgewater_cache_damaged_total",
                "Answers on disk that were found damaged and removed, by how.",
                &[("zone", name), ("damage", damage.as_str())],
                counters.disk.damaged(damage),
            );
        }
        let disk = &counters.disk;
        let totals = [
            ("edgewater_cache_disk_reads_total", "Answers read from disk.", &disk.reads),
            ("edgewater_cache_disk_writes_total", "Answers written to disk.", &disk.writes),
            (
                "edgewater_cache_disk_dropped_total",
                "Answers not written to disk: too many were waiting, or the disk does not work.",
                &disk.dropped,
            ),
            ("edgewater_cache_disk_errors_total", "Failures to write to disk.", &disk.failures),
        ];
        for (family, help, counter) in totals {
            out.counter(family, help, &[("zone", name)], counter.get());
        }
        let spreads = [
            (
                "edgewater_cache_hit_age_seconds",
                "How long ago what was served had been received.",
                counters.ages(),
            ),
            (
                "edgewater_cache_readers_per_fill",
                "Requests that read or awaited an answer while it was received, by answer.",
                counters.readers_per_fill(),
            ),
        ];
        for (family, help, spread) in spreads {
            out.histogram(family, help, &[("zone", name)], &spread.buckets, spread.sum, spread.count);
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

/// What the zone holds, by tier.
fn held(zone: &Zone, out: &mut Families) {
    let (entries, bytes) = zone.store.held();
    let mut tiers = vec![("memory", entries, bytes, Some(zone.spec.bound))];
    if let Some(disk) = &zone.disk {
        let (entries, bytes) = disk.held();
        tiers.push(("disk", entries, bytes, disk.settings().max_size));
    }
    for (tier, entries, bytes, bound) in tiers {
        let labels = [("zone", &*zone.spec.name), ("tier", tier)];
        out.gauge("edgewater_cache_entries", "Answers kept in a cache zone.", &labels, entries as f64);
        out.gauge("edgewater_cache_bytes", "Bytes that the kept answers take.", &labels, bytes as f64);
        if let Some(bound) = bound {
            out.gauge("edgewater_cache_max_bytes", "Bytes that they may take.", &labels, bound as f64);
        }
    }
}
