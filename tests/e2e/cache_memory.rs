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

/// Bytes of which every clip has others.
fn clip(target: &str) -> Vec<u8> {
    let seed = target.bytes().fold(17, |seed: usize, byte| seed * 31 + usize::from(byte));
    (0..CLIP).map(|n| (n * 7 + n / 253 + seed) as u8).collect()
}

const CLIP: usize = (1 << 20) + 77;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_late_gets_what_was_sent_and_not_what_took_its_place() {
    let origin =
        Origin::answering(|request| Answer::ok(clip(request.path())).header("Accept-Ranges", "bytes")).await;
    let text = CONFIG.replace("SIZE", "16m");
    let edge = Plan::new(&text).upstream("127.0.0.1:9000", origin.addr()).start().await;
    let first = clip("/clip-0");
    assert!(get(edge.addr(8000), "/clip-0").await.body == first);
    // What these do not read waits in their sockets, all of it or as much as they take.
    let mut late = Vec::new();
    for n in 0..8 {
        let addr = edge.addr(8000);
        let mut client =
            if n % 2 == 0 { Client::connect(addr).await } else { Client::connect_narrow(addr).await };
        client.send_request("GET", "/clip-0", &[], b"").await;
        assert_eq!(client.head("GET").await.status, 200);
        late.push(client);
    }
    // Four times what there is room for.
    for n in 1..64 {
        let target = format!("/clip-{n}");
        assert!(get(edge.addr(8000), &target).await.body == clip(&target), "{n}");
    }
    let metrics = Metrics::parse(&get(edge.addr(8000), "/metrics").await.text());
    let evicted = [("zone", "z"), ("tier", "memory"), ("cause", "size")];
    assert!(metrics.sum("edgewater_cache_evictions_total", &evicted).unwrap() >= 40.0);
    for mut client in late {
        assert!(client.take(CLIP).await == first);
    }
    // Parts of what is kept, and of what comes back from disk.
    let mut client = Client::connect(edge.addr(8000)).await;
    for (target, range) in
        [("/clip-63", 5..CLIP - 3), ("/clip-0", 300_001..900_000), ("/clip-0", 4096..70_000)]
    {
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = client.get_with(target, &[("Range", &asked)]).await;
        assert!(answer.body == clip(target)[range], "{} {target} {asked}", answer.status);
    }
}

#[tokio::test]
async fn what_it_counts_is_told_and_promtool_has_nothing_to_say() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let (edge, _origin) = start("2m").await;
    fill(&edge, 0..3).await;
    fill(&edge, 1..3).await;
    let page = get(edge.addr(8000), "/metrics").await.text();
    let metrics = Metrics::parse(&page);
    let zone = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, &[&[("zone", "z")], labels].concat());
    assert_eq!(zone("edgewater_cache_requests_total", &[("status", "HIT")]), Some(2.0));
    assert_eq!(zone("edgewater_cache_hit_age_seconds_count", &[]), Some(2.0));
    assert_eq!(zone("edgewater_cache_hit_age_seconds_bucket", &[("le", "604800")]), Some(2.0));
    assert_eq!(zone("edgewater_cache_readers_per_fill_count", &[]), Some(3.0));
    assert_eq!(zone("edgewater_cache_readers_per_fill_sum", &[]), Some(3.0));
    assert_eq!(zone("edgewater_cache_entries", &[("tier", "memory")]), Some(3.0));
    assert_eq!(zone("edgewater_cache_max_bytes", &[("tier", "memory")]), Some(2_097_152.0));
    assert!(zone("edgewater_cache_bytes", &[("tier", "disk")]).is_some());
    fill(&edge, 10..30).await;
    let metrics = Metrics::parse(&get(edge.addr(8000), "/metrics").await.text());
    let evicted = [("zone", "z"), ("tier", "memory"), ("cause", "size")];
    assert!(metrics.sum("edgewater_cache_evictions_total", &evicted).unwrap() >= 12.0);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        eprintln!("skipped: promtool (package prometheus) is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.trim().is_empty(), "{text}");
}
