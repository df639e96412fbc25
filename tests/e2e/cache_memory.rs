//! The memory of the cache: what it says it takes is what the process takes; what it lets go is used again.

use crate::support::client::{Client, get};
use crate::support::metrics::Metrics;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server};

const CONFIG: &str = "
    worker_processes 2;
    events { }
    http {
        access_log off;
        keepalive_requests 1000000;
        memory_cache size=SIZE;
        proxy_cache_path {prefix}/cache keys_zone=z:16m;
        upstream origin { server 127.0.0.1:9000; keepalive 8; }
        server {
            listen 8000;
            location / {
                proxy_pass http://origin;
                proxy_http_version 1.1;
                proxy_set_header Connection '';
                proxy_cache z;
                proxy_cache_valid 200 1h;
            }
            location /none/ { proxy_pass http://origin; }
            location = /metrics { prometheus; }
        }
    }";

const SEGMENT: usize = 200 << 10;

async fn start(size: &str) -> (Server, Origin) {
    let segment = |_: &_| Answer::ok(vec![7; SEGMENT]).header("ETag", "\"5f1e-200\"");
    let origin = Origin::answering(segment).await;
    let text = CONFIG.replace("SIZE", size);
    let edge = Plan::new(&text).upstream("127.0.0.1:9000", origin.addr()).start().await;
    (edge, origin)
}

/// Bytes of memory that the process has and that are no file's.
fn resident(edge: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", edge.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

async fn accounted(edge: &Server) -> u64 {
    let page = get(edge.addr(8000), "/metrics").await;
    let metrics = Metrics::parse(&page.text());
    metrics.sum("edgewater_cache_bytes", &[("zone", "z"), ("tier", "memory")]).unwrap() as u64
}

/// Asks for so many segments of new names, over as many connections as bring both workers work.
async fn fill(edge: &Server, segments: std::ops::Range<usize>) {
    for start in segments.clone().step_by(64) {
        let mut client = Client::connect(edge.addr(8000)).await;
        for n in start..segments.end.min(start + 64) {
            let answer = client.get(&format!("/live/segment-{n}.ts")).await;
            assert_eq!((answer.status, answer.body.len()), (200, SEGMENT));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_says_it_takes_is_what_it_takes() {
    let (edge, _origin) = start("600m").await;
    for n in 0..20 {
        get(edge.addr(8000), &format!("/none/{n}")).await;
    }
    let (before, said_before) = (resident(&edge), accounted(&edge).await);
    fill(&edge, 0..2560).await;
    let (taken, said) = (resident(&edge) - before, accounted(&edge).await - said_before);
    assert!(said >= 500 << 20);
    assert!(said.abs_diff(taken) <= said / 10, "{taken} bytes were taken, {said} are said to be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_let_go_is_used_again() {
    let (edge, _origin) = start("128m").await;
    let bound = (128 << 20) / SEGMENT;
    fill(&edge, 0..bound).await;
    let full = resident(&edge);
    // Three times the bound.
    fill(&edge, bound..3 * bound).await;
    let (after, said) = (resident(&edge), accounted(&edge).await);
    assert!(said <= 128 << 20 && said > 126 << 20, "{said}");
    assert!(after <= full + full / 10, "{full} bytes were taken when it was full, {after} now");
}
