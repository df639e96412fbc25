//! What the edge itself reports: connections, requests, handshakes, reloads.

use crate::edge::Edge;
use crate::observe::families::Families;
use crate::observe::metrics::Totals;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Reports it all.
pub fn report(edge: &Edge, families: &mut Families) {
    connections(&Totals::of(&edge.workers), families);
    servers(edge, families);
    configuration(edge, families);
    families.gauge(
        "edgewater_build_info",
        "Always 1; the version of Edgewater and of the compiler that built it.",
        &[("version", env!("CARGO_PKG_VERSION")), ("rustc", env!("EDGEWATER_RUSTC"))],
        1.0,
    );
}

fn connections(totals: &Totals, families: &mut Families) {
    families.counter(
        "edgewater_connections_accepted_total",
        "Client connections accepted.",
        &[],
        totals.accepted,
    );
    families.counter(
        "edgewater_connections_handled_total",
        "Client connections accepted and not closed for want of worker_connections.",
        &[],
        totals.handled,
    );
    families.counter(
        "edgewater_hit_path_requests_total",
        "Requests that were answered again from memory without running the phases.",
        &[],
        totals.hits,
    );
    let gauges = [
        ("edgewater_connections_active", "Client connections that are open.", totals.active),
        ("edgewater_connections_reading", "Client connections whose request is being read.", totals.reading),
        ("edgewater_connections_writing", "Client connections that are being answered.", totals.writing),
        ("edgewater_connections_waiting", "Client connections that are idle.", totals.waiting),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help, &[], value as f64);
    }
    let handshakes = [
        ("full", totals.handshakes),
        ("resumed", totals.handshakes_resumed),
        ("failed", totals.handshakes_failed),
    ];
    for (result, count) in handshakes {
        families.counter(
            "edgewater_tls_handshakes_total",
            "TLS handshakes with clients, by how they ended.",
            &[("result", result)],
            count,
        );
    }
}

fn servers(edge: &Edge, families: &mut Families) {
    let mut servers = BTreeMap::new();
    // The servers in force are there from the start, so that a rate has a beginning.
    for server in &edge.generation().http.servers {
        let name = server.conf.core.name.as_str();
        servers.entry(if name.is_empty() { "_" } else { name }.into()).or_default();
    }
    edge.workers.iter().for_each(|worker| worker.add_servers(&mut servers));
    for (name, figures) in &servers {
        for (class, count) in CLASSES.iter().zip(figures.classes) {
            families.counter(
                "edgewater_http_requests_total",
                "Requests answered, by server and class of status.",
                &[("server", name), ("status", class)],
                count,
            );
        }
        families.counter(
            "edgewater_http_received_bytes_total",
            "Bytes of requests, heads and bodies.",
            &[("server", name)],
            figures.received,
        );
        families.counter(
            "edgewater_http_sent_bytes_total",
            "Bytes of responses, heads and bodies.",
            &[("server", name)],
            figures.sent,
        );
        families.histogram(
            "edgewater_http_request_duration_seconds",
            "Time from a request's first byte to the end of its response.",
            &[("server", name)],
            &figures.durations.cumulative(),
            figures.durations.sum(),
            figures.durations.count(),
        );
    }
}

fn configuration(edge: &Edge, families: &mut Families) {
    for (result, count) in [("success", edge.reloads.get()), ("failure", edge.reloads_failed.get())] {
        families.counter(
            "edgewater_reloads_total",
            "Reloads of the configuration, by how they ended.",
            &[("result", result)],
            count,
        );
    }
    families.gauge(
        "edgewater_config_last_reload_successful",
        "1 if the last attempt to load the configuration worked, 0 if an older one is in force.",
        &[],
        if edge.reload_failed.load(Ordering::Relaxed) { 0.0 } else { 1.0 },
    );
    families.gauge(
        "edgewater_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was loaded, in seconds since 1970.",
        &[],
        since_1970(*edge.loaded.lock()),
    );
    families.gauge(
        "edgewater_config_generation",
        "Number of the configuration in force; the first is 1.",
        &[],
        edge.generation_number() as f64,
    );
}

/// Seconds since 1970.
pub fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
