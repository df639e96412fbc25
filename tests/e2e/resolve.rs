//! `server NAME resolve`: peers follow what a name server says.

use std::net::{IpAddr, SocketAddr};

use crate::support::address::{free_ports, fresh};
use crate::support::client::{Client, get};
use crate::support::dns::Dns;
use crate::support::eventually;
use crate::support::metrics::Metrics;
use crate::support::origin::{Answer, Feed, Origin};
use crate::support::server::{Plan, Server, Signal, is_nginx};

const CONFIG: &str = "
    worker_processes 2;
    events { worker_connections 1024; }
    http {
        access_log off;
        resolver RESOLVER ipv6=off;
        resolver_timeout 1s;
        upstream app { zone app 64k; server app.test:PORT resolve; keepalive 8; }
        server {
            listen 8080;
            location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ''; }
            location = /stream { proxy_pass http://app; proxy_buffering off; }
            location = /metrics { prometheus; }
        }
    }";

/// Two servers at one port, each says which it is; and what is sent on with `/stream`.
async fn origins() -> ([Origin; 2], tokio::sync::mpsc::UnboundedReceiver<Feed>) {
    let (feeds, received) = tokio::sync::mpsc::unbounded_channel();
    let (a, b) = (fresh(), fresh());
    // Free on the one is all but certainly free on the other, which nobody else uses.
    let port = free_ports(IpAddr::V4(a), 1)[0];
    let start = |ip, name: &'static str| {
        let feeds = feeds.clone();
        Origin::start_at(SocketAddr::new(IpAddr::V4(ip), port), move |request| {
            let answer = match request.path() {
                "/stream" => {
                    let (answer, feed) = Answer::stream();
                    let _ = feeds.send(feed);
                    answer
                }
                _ => Answer::ok(name),
            };
            async move { answer }
        })
    };
    ([start(a, "a").await, start(b, "b").await], received)
}

fn ip(origin: &Origin) -> std::net::Ipv4Addr {
    match origin.addr().ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => unreachable!("origins have addresses of 127.0.0.0/8"),
    }
}

fn config(dns: &Dns, origin: &Origin) -> String {
    CONFIG.replace("RESOLVER", &dns.addr().to_string()).replace("PORT", &origin.addr().port().to_string())
}

/// Waits until all of several requests get the answer.
async fn answers(server: &Server, status: u16, bodies: &[&str]) {
    eventually("the answers of other servers", || async {
        let mut seen = Vec::new();
        for _ in 0..6 {
            let response = get(server.addr(8080), "/").await;
            if response.status != status {
                return None;
            }
            seen.push(if status == 200 { response.text() } else { String::new() });
        }
        seen.sort();
        seen.dedup();
        (seen == bodies).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_follow_their_name_and_connections_stay() {
    if is_nginx() {
        return;
    }
    let dns = Dns::start().await;
    let ([a, b], mut feeds) = origins().await;
    let server = Plan::new(&config(&dns, &a)).start().await;
    answers(&server, 502, &[""]).await;
    server.reported("app.test could not be resolved (3: Host not found)").await;

    dns.set("app.test", &[ip(&a)]);
    answers(&server, 200, &["a"]).await;
    let mut viewer = Client::connect(server.addr(8080)).await;
    viewer.send_request("GET", "/stream", &[], b"").await;
    let feed = feeds.recv().await.unwrap();
    feed.send("first").await;
    assert_eq!(viewer.head("GET").await.status, 200);
    assert_eq!(viewer.take(5).await, b"first");

    dns.set("app.test", &[ip(&a), ip(&b)]);
    answers(&server, 200, &["a", "b"]).await;
    dns.set("app.test", &[ip(&b)]);
    answers(&server, 200, &["b"]).await;
    // The idle connections to who left are closed; what is under way goes on.
    a.wait_open(1).await;
    feed.send("after").await;
    assert_eq!(viewer.take(5).await, b"after");
    let page = get(server.addr(8080), "/metrics").await.text();
    let metrics = Metrics::parse(&page);
    let answered = |peer: &Origin| {
        let peer = peer.addr().to_string();
        metrics.sum("edgewater_upstream_responses_total", &[("upstream", "app"), ("peer", &peer)])
    };
    assert!(answered(&b).unwrap() > 0.0);
    assert_eq!(answered(&a).unwrap_or_default(), 0.0, "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_outlive_a_reload_and_a_dead_name_server() {
    if is_nginx() {
        return;
    }
    let dns = Dns::start().await;
    let ([a, b], _feeds) = origins().await;
    dns.set("app.test", &[ip(&a)]);
    let text = config(&dns, &a);
    let mut server = Plan::new(&text).start().await;
    answers(&server, 200, &["a"]).await;
    drop(dns);
    // Other servers beside the name: the group is another, the name's addresses are those that were known.
    let more = format!("server {}; keepalive 4;", b.addr());
    server.configure(&text.replace("keepalive 8;", &more));
    server.signal(Signal::HUP);
    answers(&server, 200, &["a", "b"]).await;
}
