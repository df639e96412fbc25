//! What the cache knows of streams, for Prometheus, by zone.

use crate::cache::hls::playlist::{Kind, Mistake};
use crate::edge::Edge;
use crate::observe::families::Families;

/// Reports to Prometheus.
pub fn metrics(edge: &Edge, out: &mut Families) {
    for zone in edge.generation().runtime.proxy_cache.zones() {
        let name = &*zone.spec.name;
        let counters = &zone.streams.counters;
        let (streams, resources) = zone.streams.known();
        let gauges = [
            ("edgewater_hls_streams", "Streams whose playlist is known.", streams),
            ("edgewater_hls_resources", "Segments, parts and keys that are known to be theirs.", resources),
        ];
        for (family, help, value) in gauges {
            out.gauge(family, help, &[("zone", name)], value as f64);
        }
        for kind in Kind::ALL {
            out.counter(
                "edgewater_hls_playlists_total",
                "Playlists received and read, by kind.",
                &[("zone", name), ("kind", kind.as_str())],
                counters.parsed(kind),
            );
        }
        for why in Mistake::ALL {
            out.counter(
                "edgewater_hls_mistakes_total",
                "Answers that looked like playlists and are none, by reason.",
                &[("zone", name), ("reason", why.as_str())],
                counters.mistakes(why),
            );
        }
        let totals = [
            (
                "edgewater_hls_rewinds_total",
                "Media sequences that went back: encoders that began anew.",
                &counters.rewinds,
            ),
            (
                "edgewater_hls_rewinds_limited_total",
                "Of these, those that came too soon after another to purge at once.",
                &counters.limited,
            ),
            (
                "edgewater_hls_older_total",
                "Playlists that were older than one before: an origin that lags behind another.",
                &counters.older,
            ),
            ("edgewater_hls_demoted_total", "Answers that left a live window.", &counters.demoted),
            ("edgewater_hls_purged_total", "Answers removed because of a rewind.", &counters.purged),
            (
                "edgewater_hls_absences_total",
                "Answers that something is not there, kept for a shorter time than was stated.",
                &counters.absences,
            ),
        ];
        for (family, help, counter) in totals {
            out.counter(family, help, &[("zone", name)], counter.get());
        }
    }
}
