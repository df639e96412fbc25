//! `proxy_cache_debug`: the fields by which the cache says how it answered, for those who are to see them.

use crate::support::client::{Client, Response};
use crate::support::eventually;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server};

const CONFIG: &str = "
    events { }
    http {
        access_log off;
        proxy_cache_path {prefix}/cache keys_zone=z:1m;
        proxy_cache_key $uri;
        proxy_cache_valid 200 1h;
        proxy_cache_debug 127.0.0.2 10.0.0.0/8;
        server {
            listen 8000;
            proxy_cache z;
            set_real_ip_from 127.0.0.3;
            location / { proxy_pass http://127.0.0.1:9000; }
            location /off/ { proxy_cache_debug off; proxy_pass http://127.0.0.1:9000; }
            location /all/ { proxy_cache_debug all; proxy_pass http://127.0.0.1:9000; }
            location /rfc/ { proxy_cache_rfc9111 on; proxy_pass http://127.0.0.1:9000; }
            location /none/ { proxy_cache off; proxy_pass http://127.0.0.1:9000; }
            location /local/ { return 200 here; }
        }
    }";

async fn start() -> (Server, Origin) {
    let origin = Origin::answering(|request| match request.path() {
        "/cookie" => Answer::ok("text").header("Set-Cookie", "a=b"),
        "/cached" => Answer::ok("text").header("Cache-Status", "Behind; hit"),
        "/vary" => Answer::ok("text").header("Vary", "X-Kind"),
        _ => Answer::ok("text"),
    })
    .await;
    let edge = Plan::new(CONFIG).upstream("127.0.0.1:9000", origin.addr()).start().await;
    (edge, origin)
}

async fn ask(edge: &Server, from: [u8; 4], method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
    Client::connect_from(from, edge.addr(8000)).await.request(method, target, fields, b"").await
}

/// What of an answer is about the cache: the values of `Cache-Status` and of `X-Cache`.
fn told(answer: &Response) -> (Vec<&str>, Vec<&str>) {
    let all = |name: &str| {
        let fields = answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    };
    (all("cache-status"), all("x-cache"))
}

/// The single `Cache-Status` and `X-Cache`, without the time left, which must be in the hour.
fn without_ttl(answer: &Response) -> (String, String) {
    let (status, cache) = told(answer);
    assert_eq!((status.len(), cache.len()), (1, 1), "{}", answer.head);
    let (times, others): (Vec<&str>, Vec<&str>) = status[0].split(';').partition(|p| p.starts_with("ttl="));
    for time in times {
        let seconds: u64 = time["ttl=".len()..].parse().unwrap();
        assert!((3500..=3600).contains(&seconds), "{time}");
    }
    (others.join(";"), cache[0].to_string())
}

/// Asks until the answer is one that is kept: a client may have a body before the cache has put it away.
async fn kept(edge: &Server, target: &str) -> Response {
    eventually("an answer from memory", async || {
        let answer = ask(edge, [127, 0, 0, 2], "GET", target, &[]).await;
        told(&answer).0.iter().any(|status| status.contains("detail=memory")).then_some(answer)
    })
    .await
}

fn pair(status: &str, cache: &str) -> (String, String) {
    (format!("Edgewater;{status}"), cache.to_string())
}

#[tokio::test]
async fn only_those_who_are_named_see_the_fields() {
    let (edge, _origin) = start().await;
    let (nobody, somebody) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    assert_eq!(told(&ask(&edge, nobody, "GET", "/a", &[]).await), (vec![], vec![]));
    let answer = kept(&edge, "/a").await;
    assert_eq!(without_ttl(&answer), pair("hit;key=\"/a\";detail=memory", "HIT"));
    assert_eq!(told(&ask(&edge, somebody, "GET", "/off/a", &[]).await), (vec![], vec![]));
    assert_eq!(told(&ask(&edge, nobody, "GET", "/all/a", &[]).await).1, ["MISS"]);
    // The address is the one that a trusted proxy tells.
    let proxy = [127, 0, 0, 3];
    assert_eq!(told(&ask(&edge, proxy, "GET", "/a", &[("X-Real-IP", "10.1.2.3")]).await).1, ["HIT"]);
    assert_eq!(told(&ask(&edge, proxy, "GET", "/a", &[("X-Real-IP", "127.0.0.1")]).await).1, [""; 0]);
    // One that is not trusted tells nothing.
    assert_eq!(told(&ask(&edge, nobody, "GET", "/a", &[("X-Real-IP", "10.1.2.3")]).await).1, [""; 0]);
}

#[tokio::test]
async fn what_is_read_from_the_disk_is_told_from_what_is_in_memory() {
    let origin = Origin::answering(|_| Answer::ok(vec![b'x'; 60_000])).await;
    let text = CONFIG.replace("proxy_cache_key", "memory_cache size=64k; proxy_cache_key");
    let edge = Plan::new(&text).upstream("127.0.0.1:9000", origin.addr()).start().await;
    let answer = eventually("an answer from the disk", async || {
        let answer = ask(&edge, [127, 0, 0, 2], "GET", "/large", &[]).await;
        assert_eq!(answer.body.len(), 60_000);
        told(&answer).0.iter().any(|status| status.contains("detail=disk")).then_some(answer)
    })
    .await;
    assert_eq!(without_ttl(&answer), pair("hit;key=\"/large\";detail=disk", "HIT"));
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn what_is_too_large_to_be_kept_is_told() {
    let origin = Origin::answering(|_| Answer::ok(vec![b'x'; 60_000])).await;
    let text = CONFIG.replace("keys_zone=z:1m", "keys_zone=z:1m max_size=50k");
    let edge = Plan::new(&text).upstream("127.0.0.1:9000", origin.addr()).start().await;
    let answer = ask(&edge, [127, 0, 0, 2], "GET", "/large", &[]).await;
    let wanted = "Edgewater;fwd=uri-miss;fwd-status=200;key=\"/large\";detail=too_large";
    assert_eq!((told(&answer), answer.body.len()), ((vec![wanted], vec!["MISS"]), 60_000));
}

#[tokio::test]
async fn what_is_said_of_each_way_through_the_cache() {
    let (edge, _origin) = start().await;
    let get = async |target: &str, fields: &[(&str, &str)]| {
        without_ttl(&ask(&edge, [127, 0, 0, 2], "GET", target, fields).await)
    };
    let miss = "fwd=uri-miss;fwd-status=200";
    assert_eq!(get("/b", &[]).await, pair(&format!("{miss};stored;key=\"/b\";detail=fill"), "MISS"));
    assert_eq!(get("/cookie", &[]).await, pair(&format!("{miss};key=\"/cookie\";detail=set_cookie"), "MISS"));
    kept(&edge, "/vary").await;
    let other = "fwd=vary-miss;fwd-status=200;stored;key=\"/vary\";detail=fill";
    assert_eq!(get("/vary", &[("X-Kind", "2")]).await, pair(other, "MISS"));
    kept(&edge, "/rfc/").await;
    let again = "fwd=request;fwd-status=200;stored;key=\"/rfc/\";detail=fill";
    assert_eq!(get("/rfc/", &[("Cache-Control", "no-cache")]).await, pair(again, "EXPIRED"));
    let posted = ask(&edge, [127, 0, 0, 2], "POST", "/b", &[("Content-Length", "0")]).await;
    assert_eq!(without_ttl(&posted), pair("fwd=method;fwd-status=200", "MISS"));
    // Where there is no cache nothing is said of it.
    for target in ["/none/", "/local/"] {
        assert_eq!(told(&ask(&edge, [127, 0, 0, 2], "GET", target, &[]).await), (vec![], vec![]), "{target}");
    }
    // What a cache behind says stays, before ours.
    let chained = ask(&edge, [127, 0, 0, 2], "GET", "/cached", &[]).await;
    assert_eq!(told(&chained).0.len(), 2, "{}", chained.head);
    assert_eq!(told(&chained).0[0], "Behind; hit");
    // A range that cannot be met is told once.
    let refused = ask(&edge, [127, 0, 0, 2], "GET", "/b", &[("Range", "bytes=99-")]).await;
    assert_eq!(told(&refused).1.len(), 1, "{}", refused.head);
}
