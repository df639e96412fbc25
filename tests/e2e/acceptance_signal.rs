//! A WebRTC signalling fleet: every promise of its configuration, each by a request that would fail without it.
use std::net::SocketAddr;

use crate::support::address::Refusing;
use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::metrics::StubStatus;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server};
use crate::support::websocket::WebSocket;

const CONFIG: &str = include_str!("../data/acceptance/signal.conf");

struct Site {
    server: Server,
    servers: Vec<Origin>,
}

impl Site {
    async fn start() -> Self {
        let servers = vec![signal("a").await, signal("b").await, signal("c").await];
        Self::with(servers).await
    }

    async fn with(servers: Vec<Origin>) -> Self {
        let addrs: Vec<_> = servers.iter().map(Origin::addr).collect();
        let server = plan(&addrs).start().await;
        Self { server, servers }
    }

    async fn client(&self) -> Client {
        Client::connect(self.server.addr(8083)).await
    }

    async fn socket(&self) -> WebSocket {
        WebSocket::open(self.client().await, "/signalhub?id=1", &[]).await
    }

    /// The numbers when only `others` connections are open beside the one that asks.
    async fn stats_beside(&self, others: u64) -> StubStatus {
        eventually(&format!("{others} other connections"), || async {
            let stats = self.stats().await;
            (stats.active == others + 1).then_some(stats)
        })
        .await
    }

    async fn stats(&self) -> StubStatus {
        StubStatus::parse(&get(self.server.addr(8404), "/stats").await.text())
    }
}

fn plan(addrs: &[SocketAddr]) -> Plan {
    Plan::new(CONFIG)
        .one_nginx_worker()
        .upstream("127.0.0.1:5001", addrs[0])
        .upstream("127.0.0.1:5002", addrs[1])
        .upstream("127.0.0.1:5003", addrs[2])
}

async fn signal(name: &'static str) -> Origin {
    Origin::answering(move |request| match request.header("sec-websocket-key") {
        Some(_) => Answer::websocket_echo(name),
        None => Answer::ok(name),
    })
    .await
}

/// One origin that answers as told among two that work. Least_conn starts with the first.
async fn first_answers(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Vec<Origin> {
    let first = Origin::answering(move |_| answer()).await;
    vec![first, signal("b").await, signal("c").await]
}

#[tokio::test]
async fn the_configuration_loads() {
    let refusing = Refusing::new().addr();
    let ran = plan(&[refusing, refusing, refusing]).check().await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("test is successful"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_websocket_reaches_a_server() {
    let site = Site::start().await;
    let headers = [("Host", "Signal.example:8083"), ("Origin", "https://app.example")];
    let client = site.client().await;
    let mut socket = WebSocket::open(client, "/signalhub/negotiate?id=1", &headers).await;
    let reply = socket.echo("offer").await;
    assert!(reply.ends_with(":offer"), "{reply}");
    let server = site.servers.iter().find(|server| server.count() == 1).unwrap();
    let request = server.last();
    assert_eq!(request.target, "/signalhub/negotiate?id=1");
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert_eq!(request.header("connection"), Some("upgrade"));
    assert_eq!(request.header("host"), Some("signal.example"));
    assert_eq!(request.header("origin"), Some("https://app.example"));
    socket.close().await;
    server.wait_open(0).await;
}

#[tokio::test]
async fn a_websocket_ends_on_both_sides_when_its_server_dies() {
    let site = Site::start().await;
    let mut socket = site.socket().await;
    let name = socket.echo("x").await;
    for server in site.servers {
        server.stop().await;
    }
    assert_eq!(name.len(), 3);
    assert!(socket.message().await.is_none());
}

#[tokio::test]
async fn plain_requests_to_the_hub_keep_their_connection() {
    let site = Site::start().await;
    let mut client = site.client().await;
    for _ in 0..9 {
        assert_eq!(client.get("/signalhub/negotiate").await.status, 200);
    }
    let connections: usize = site.servers.iter().map(Origin::connections).sum();
    assert_eq!(connections, 3);
    for server in &site.servers {
        let request = server.last();
        assert_eq!(request.version, "HTTP/1.1");
        assert_eq!(request.header("connection"), None);
        assert_eq!(request.header("upgrade"), None);
    }
}

#[tokio::test]
async fn the_system_watches_over_idle_connections_to_the_servers() {
    let site = Site::start().await;
    let mut socket = site.socket().await;
    socket.echo("x").await;
    let server = site.servers.iter().find(|server| server.count() == 1).unwrap();
    eventually("a keep-alive timer on the connection", || async {
        let timer = timer_of_connection_to(server.addr());
        timer.contains("02:").then_some(())
    })
    .await;
    assert!(timer_of_connection_to(site.server.addr(8083)).contains("00:"));
}

/// The timer field of /proc/net/tcp, for a connection to `addr`: `02:` is the keep-alive timer, `00:` none.
fn timer_of_connection_to(addr: SocketAddr) -> String {
    let SocketAddr::V4(addr) = addr else { panic!("{addr} is in another table") };
    let ip = u32::from_ne_bytes(addr.ip().octets());
    let remote = format!("{ip:08X}:{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields[2] == remote && fields[3] == "01")
        .map_or_else(String::new, |fields| fields[5].to_string())
}

#[tokio::test]
async fn sockets_go_where_the_fewest_are() {
    let site = Site::start().await;
    let mut sockets: Vec<(String, WebSocket)> = Vec::new();
    for _ in 0..12 {
        let mut socket = site.socket().await;
        sockets.push((socket.echo("").await, socket));
    }
    for server in &site.servers {
        assert_eq!(server.open(), 4);
    }
    // All those of one server leave; taking turns would give it a third of the next.
    let (leaving, staying): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|(name, _)| name == "b:");
    for (_, socket) in leaving {
        socket.close().await;
    }
    site.servers[1].wait_open(0).await;
    site.stats_beside(staying.len() as u64).await;
    let mut sockets = staying;
    for _ in 0..4 {
        let mut socket = site.socket().await;
        let name = socket.echo("").await;
        assert_eq!(name, "b:");
        sockets.push((name, socket));
    }
    for server in &site.servers {
        assert_eq!(server.open(), 4);
    }
}

#[tokio::test]
async fn dead_servers_are_passed_over() {
    let (one, two) = (Refusing::new(), Refusing::new());
    let alive = signal("c").await;
    let server = plan(&[one.addr(), two.addr(), alive.addr()]).start().await;
    let mut client = Client::connect(server.addr(8083)).await;
    for _ in 0..12 {
        assert_eq!(client.get("/x").await.text(), "c");
        let socket = Client::connect(server.addr(8083)).await;
        let mut socket = WebSocket::open(socket, "/signalhub", &[]).await;
        assert_eq!(socket.echo("x").await, "c:x");
    }
}

#[tokio::test]
async fn a_server_that_failed_twice_is_left_alone() {
    let hang_up = || Origin::answering(|_| Answer::raw(""));
    let servers = vec![hang_up().await, hang_up().await, signal("c").await];
    let site = Site::with(servers).await;
    let mut client = site.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/x").await.text(), "c");
    }
    // For fail_timeout, five seconds.
    let asked: Vec<_> = site.servers.iter().map(Origin::count).collect();
    assert_eq!(asked, [2, 2, 20]);
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let site = Site::start().await;
    let mut servers = site.servers.into_iter();
    let first = servers.next().unwrap();
    let addr = first.addr();
    first.stop().await;
    let mut client = Client::connect(site.server.addr(8083)).await;
    for _ in 0..12 {
        assert_eq!(client.get("/x").await.status, 200);
    }
    let back = Origin::start_at(addr, |_| std::future::ready(Answer::ok("back"))).await;
    // When fail_timeout, five seconds, has passed.
    eventually("the server that is back", || async {
        let response = get(site.server.addr(8083), "/x").await;
        assert_eq!(response.status, 200);
        (response.text() == "back").then_some(())
    })
    .await;
    assert!(back.count() > 0);
}

#[tokio::test]
async fn when_all_servers_are_dead_it_says_so() {
    let refusing = Refusing::new().addr();
    let held = Refusing::new();
    let server = plan(&[held.addr(), held.addr(), held.addr()]).start().await;
    assert_eq!(get(server.addr(8083), "/x").await.status, 502);
    let client = Client::connect(server.addr(8083)).await;
    let refused = WebSocket::try_open(client, "/signalhub", &[]).await;
    assert_eq!(refused.err().unwrap().status, 502);
    assert_ne!(refusing, held.addr());
}

#[tokio::test]
async fn a_request_that_one_server_fails_goes_to_the_next() {
    for status in [500, 502, 503] {
        let site = Site::with(first_answers(move || Answer::status(status)).await).await;
        let mut client = site.client().await;
        for _ in 0..6 {
            assert_eq!(client.get("/x").await.status, 200, "after {status}");
        }
        assert!(site.servers[0].count() > 0);
        let request = site.servers[1].last();
        assert_eq!(request.version, "HTTP/1.1");
        assert_eq!(request.header("connection"), None);
    }
}

#[tokio::test]
async fn what_is_not_http_goes_to_the_next() {
    let invalid = "HTTP/1.1 200 OK\r\nBad\0Field: x\r\n\r\n";
    // The last is an error rather than an invalid header.
    for garbage in [invalid, "HTTP/1.1 200 OK\r\nContent-", ""] {
        let site = Site::with(first_answers(move || Answer::raw(garbage)).await).await;
        let mut client = site.client().await;
        for _ in 0..6 {
            let response = client.get("/x").await;
            assert_eq!((response.status, response.body.len()), (200, 1), "{garbage:?}");
        }
        assert!(site.servers[0].count() > 0);
    }
}

#[tokio::test]
async fn other_errors_are_the_answer() {
    for status in [404, 504] {
        let site = Site::with(first_answers(move || Answer::status(status)).await).await;
        let mut client = site.client().await;
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(client.get("/x").await.status);
        }
        seen.sort();
        assert_eq!(seen, [200, 200, status]);
    }
}

#[tokio::test]
async fn a_post_is_not_sent_twice() {
    let site = Site::with(first_answers(|| Answer::status(503)).await).await;
    let mut client = site.client().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(client.request("POST", "/x", &[], b"once").await.status);
    }
    seen.sort();
    assert_eq!(seen, [200, 200, 503]);
    let all: usize = site.servers.iter().map(Origin::count).sum();
    assert_eq!(all, 3);
}

/// Only `/` names what else counts as a failure; the default is an error or a time-out.
#[tokio::test]
async fn the_hub_passes_errors_on() {
    let site = Site::with(first_answers(|| Answer::status(503)).await).await;
    let mut client = site.client().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(client.get("/signalhub").await.status);
    }
    seen.sort();
    assert_eq!(seen, [200, 200, 503]);
}

#[tokio::test]
async fn sixteen_idle_connections_are_kept() {
    let open = std::sync::Arc::new(tokio::sync::watch::Sender::new(0));
    let mut servers = Vec::new();
    for _ in 0..3 {
        let gate = open.clone();
        servers.push(
            Origin::start(move |request| {
                let mut gate = gate.subscribe();
                async move {
                    let round: u32 = request.target[1..].parse().unwrap();
                    gate.wait_for(|&passed| passed >= round).await.unwrap();
                    Answer::ok("")
                }
            })
            .await,
        );
    }
    let addrs: Vec<_> = servers.iter().map(Origin::addr).collect();
    let server = plan(&addrs).one_worker().start().await;
    let site = Site { server, servers };
    let mut clients = Vec::new();
    for _ in 0..15 {
        clients.push(site.client().await);
    }
    for round in 1..=2_u32 {
        for client in &mut clients {
            let target = format!("/{round}");
            client.send_request("GET", &target, &[], b"").await;
        }
        for server in &site.servers {
            server.arrived(5 * round as usize).await;
        }
        open.send_replace(round);
        for client in &mut clients {
            assert_eq!(client.response("GET").await.status, 200);
        }
    }
    for server in &site.servers {
        assert_eq!((server.count(), server.connections()), (10, 5));
    }
}

#[tokio::test]
async fn five_hundred_idle_sockets_stay_open_and_are_counted() {
    let site = Site::start().await;
    let before = site.stats_beside(0).await;
    assert_eq!((before.reading, before.writing, before.waiting), (0, 1, 0));
    let mut sockets = Vec::new();
    for _ in 0..500 {
        sockets.push(site.socket().await);
    }
    let stats = site.stats_beside(500).await;
    assert_eq!((stats.reading, stats.writing, stats.waiting), (0, 501, 0));
    assert!(stats.requests > before.requests + 500);
    // Each request had a connection; and starting the server took one to each port.
    eventually("all connections to be counted", || async {
        let stats = site.stats().await;
        assert_eq!(stats.handled, stats.accepts);
        (stats.accepts == stats.requests + 2).then_some(())
    })
    .await;
    for server in &site.servers {
        let open = server.open();
        assert!((166..=167).contains(&open), "{open}");
    }
    for (n, socket) in sockets.iter_mut().enumerate() {
        let reply = socket.echo(&n.to_string()).await;
        assert_eq!(reply.split(':').nth(1), Some(n.to_string().as_str()));
    }
    drop(sockets);
    for server in &site.servers {
        server.wait_open(0).await;
    }
    eventually("them to be gone from the count", || async { (site.stats().await.active == 1).then_some(()) })
        .await;
}

#[tokio::test]
async fn stats_are_in_the_format_that_is_scraped() {
    let site = Site::start().await;
    let mut idle = site.client().await;
    idle.get("/x").await;
    let mut client = Client::connect(site.server.addr(8404)).await;
    let first = client.get("/stats").await;
    assert_eq!(first.header("content-type"), Some("text/plain"));
    let mut first = StubStatus::parse(&first.text());
    // Starting the server took a connection to each port, which may not be gone at once.
    while (first.active, first.waiting, first.accepts) != (2, 1, 4) {
        assert!(first.requests < 1000, "{first:?}");
        first = StubStatus::parse(&client.get("/stats").await.text());
    }
    assert_eq!((first.reading, first.writing, first.handled), (0, 1, 4));
    let second = StubStatus::parse(&client.get("/stats").await.text());
    assert_eq!((second.requests, second.accepts), (first.requests + 1, first.accepts));
    // The page is on its own port only.
    assert_eq!(client.get("/other").await.status, 404);
    assert_eq!(get(site.server.addr(8083), "/stats").await.text().len(), 1);
}

#[tokio::test]
async fn many_clients_may_knock_at_once() {
    let servers = vec![signal("a").await, signal("b").await, signal("c").await];
    let addrs: Vec<_> = servers.iter().map(Origin::addr).collect();
    let server = plan(&addrs).one_worker().start().await;
    let site = Site { server, servers };
    let connects = (0..1000).map(|_| site.client());
    let mut clients = futures_util::future::join_all(connects).await;
    for client in &mut clients {
        client.send_request("GET", "/x", &[], b"").await;
    }
    for client in &mut clients {
        assert_eq!(client.response("GET").await.status, 200);
    }
    // When the load is over the worker keeps as many connections as `keepalive` says.
    eventually("the connections that are too many to close", || async {
        let kept: usize = site.servers.iter().map(Origin::open).sum();
        (1..=16).contains(&kept).then_some(())
    })
    .await;
}
