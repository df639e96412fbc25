//! Purging over real sockets: several workers, memory and disk, killed right after the answer.

use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server, Signal};

const CONFIG: &str = "
    worker_processes 3;
    error_log stderr notice;
    events { }
    http {
        access_log off;
        proxy_cache_path {prefix}/cache levels=1:2 keys_zone=z:1m;
        map $request_method $purge { PURGE 1; default 0; }
        map $request_method $part { volatile; PURGE \"\"; default $slice_range; }
        server {
            listen 8000;
            proxy_cache z;
            proxy_cache_key $uri;
            proxy_cache_valid 200 1h;
            proxy_cache_purge $purge;
            proxy_cache_purge_tags $http_cache_tag;
            add_header X-Cache $upstream_cache_status;
            location / { proxy_pass http://127.0.0.1:9000; }
            location /slices/ {
                slice 4;
                proxy_cache_key $uri$part;
                proxy_cache_valid 206 1h;
                proxy_set_header Range $slice_range;
                proxy_pass http://127.0.0.1:9000;
            }
            location /closed/ { deny all; proxy_pass http://127.0.0.1:9000; }
        }
    }";

async fn start() -> (Server, Origin) {
    let origin = Origin::answering(|request| {
        if let Some(range) = request.header("range").filter(|_| request.path().starts_with("/slices/")) {
            let start =
                range.trim_start_matches("bytes=").split('-').next().unwrap().parse::<usize>().unwrap();
            let range = format!("bytes {start}-{}/8", start + 3);
            return Answer::status(206).header("Content-Range", &range).body(&b"abcdefgh"[start..start + 4]);
        }
        Answer::ok(format!("text of {}", request.path())).header("Cache-Tag", "site,page")
    })
    .await;
    (Plan::new(CONFIG).upstream("127.0.0.1:9000", origin.addr()).start().await, origin)
}

fn cache(answer: &Response) -> &str {
    answer.header("x-cache").unwrap_or("none")
}

/// Asks until the answer is kept: a client may have it before the cache has put it away.
async fn fill(edge: &Server, target: &str) {
    eventually("a hit", async || Some(get(edge.addr(8000), target).await).filter(|a| cache(a) == "HIT"))
        .await;
}

async fn purge(edge: &Server, target: &str, tags: &[(&str, &str)]) -> u16 {
    let mut client = Client::connect(edge.addr(8000)).await;
    client.request("PURGE", target, tags, b"").await.status
}

#[tokio::test]
async fn what_is_purged_is_a_miss_on_every_worker_and_after_a_crash() {
    let (mut edge, origin) = start().await;
    let tag = [("Cache-Tag", "none page")];
    for (target, fields, status) in [("/a", &[][..], 204), ("/a*", &[], 204), ("/", &tag[..], 204)] {
        for crash in [false, true] {
            fill(&edge, "/a").await;
            fill(&edge, "/other").await;
            assert_eq!(purge(&edge, target, fields).await, status, "{target}");
            let before = origin.hits("/a");
            if crash {
                edge.restart(Signal::KILL).await;
            }
            assert_eq!(cache(&get(edge.addr(8000), "/a").await), "MISS", "{target} {crash}");
            // Connections go to any of the workers.
            for _ in 0..10 {
                assert_eq!(get(edge.addr(8000), "/a").await.text(), "text of /a");
            }
            assert!(origin.hits("/a") > before);
            if fields.is_empty() && !crash {
                assert_eq!(cache(&get(edge.addr(8000), "/other").await), "HIT", "{target}");
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_purged_is_told() {
    let (edge, origin) = start().await;
    assert_eq!(purge(&edge, "/nothing", &[]).await, 404);
    assert_eq!(purge(&edge, "/nothing*", &[]).await, 204);
    assert_eq!(purge(&edge, "/", &[("Cache-Tag", " , ")]).await, 400);
    assert_eq!(purge(&edge, "/closed/a", &[]).await, 403);
    assert_eq!(origin.count(), 0, "no purge goes upstream");
}

#[tokio::test]
async fn a_wildcard_covers_all_slices_where_its_key_ends_with_it() {
    let (edge, origin) = start().await;
    let whole = async || assert_eq!(get(edge.addr(8000), "/slices/a").await.text(), "abcdefgh");
    eventually("both slices are kept", async || {
        let before = origin.count();
        whole().await;
        Some(()).filter(|()| origin.count() == before)
    })
    .await;
    assert_eq!(purge(&edge, "/slices/a", &[]).await, 404, "no key is without a range");
    let before = origin.count();
    assert_eq!(purge(&edge, "/slices/a*", &[]).await, 204);
    whole().await;
    assert_eq!(origin.count(), before + 2);
}
