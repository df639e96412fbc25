//! A chat and signalling cluster: every promise of its configuration, each by a request that would fail without it.
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::support::address::{BlackHole, Refusing};
use crate::support::burst::Burst;
use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server, Signal};
use crate::support::websocket::WebSocket;

const CONFIG: &str = include_str!("../data/acceptance/rooms.conf");

/// Of `viewer/0` to `viewer/199` from 127.0.0.1, those that nginx's split_clients sends to green.
const GREEN: [usize; 24] =
    [0, 1, 16, 24, 25, 27, 46, 48, 49, 56, 63, 71, 81, 126, 135, 142, 148, 151, 158, 168, 170, 181, 184, 195];

/// An address, an n for which `viewer/n` is sent to green from there, and the server nginx's ip_hash picks for it.
const STICKY: [(Ipv4Addr, usize, usize); 12] = [
    (Ipv4Addr::new(127, 160, 66, 190), 4, 1),
    (Ipv4Addr::new(127, 92, 204, 177), 13, 0),
    (Ipv4Addr::new(127, 242, 216, 190), 0, 1),
    (Ipv4Addr::new(127, 167, 237, 136), 9, 1),
    (Ipv4Addr::new(127, 8, 216, 120), 13, 0),
    (Ipv4Addr::new(127, 167, 14, 231), 3, 0),
    (Ipv4Addr::new(127, 41, 29, 96), 21, 1),
    (Ipv4Addr::new(127, 121, 223, 64), 5, 0),
    (Ipv4Addr::new(127, 147, 64, 4), 2, 0),
    (Ipv4Addr::new(127, 223, 197, 100), 38, 0),
    (Ipv4Addr::new(127, 41, 196, 205), 28, 0),
    (Ipv4Addr::new(127, 19, 36, 159), 28, 1),
];

/// A kind of user that no limit names.
const UNLIMITED: (&str, &str) = ("X-User-Type", "bot");
const TO_BLUE: (&str, &str) = ("User-Agent", "viewer/2");
const TO_GREEN: (&str, &str) = ("User-Agent", "viewer/1");

/// The server and its seven origins.
struct Site {
    server: Server,
    rooms: Vec<Origin>,
    blue: Vec<Origin>,
    green: Vec<Origin>,
}

impl Site {
    async fn start() -> Self {
        let rooms = rooms().await;
        let (blue, green) = (pair("blue").await, pair("green").await);
        let server = plan(&rooms, &blue, &green).start().await;
        Self { server, rooms, blue, green }
    }

    async fn client(&self) -> Client {
        Client::connect(self.server.addr(8081)).await
    }

    /// The one room server of a room.
    async fn server_of(&self, room: usize) -> String {
        let target = format!("/ws?room={room}");
        let response = self.client().await.get_with(&target, &[UNLIMITED]).await;
        response.text()
    }

    async fn log(&self) -> Vec<Value> {
        let log = self.server.read("logs/access.json").unwrap_or_default();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        log.lines().map(parse).collect()
    }
}

fn plan(rooms: &[Origin], blue: &[Origin], green: &[Origin]) -> Plan {
    Plan::new(CONFIG)
        .one_nginx_worker()
        .upstream("127.0.0.1:3101", rooms[0].addr())
        .upstream("127.0.0.1:3102", rooms[1].addr())
        .upstream("127.0.0.1:3103", rooms[2].addr())
        .upstream("127.0.0.1:3201", blue[0].addr())
        .upstream("127.0.0.1:3202", blue[1].addr())
        .upstream("127.0.0.1:3301", green[0].addr())
        .upstream("127.0.0.1:3302", green[1].addr())
}

async fn rooms() -> Vec<Origin> {
    let mut rooms = Vec::new();
    for name in ["one", "two", "three"] {
        rooms.push(
            Origin::answering(move |request| match request.header("upgrade") {
                Some("websocket") => Answer::websocket_echo(name),
                _ => Answer::ok(name),
            })
            .await,
        );
    }
    rooms
}

async fn pair(name: &'static str) -> Vec<Origin> {
    vec![
        Origin::answering(move |_| Answer::ok(format!("{name}0"))).await,
        Origin::answering(move |_| Answer::ok(format!("{name}1"))).await,
    ]
}

async fn ask(site: &Site, agent: (&str, &str)) -> Response {
    let mut client = site.client().await;
    client.get_with("/api/x", &[UNLIMITED, agent]).await
}

#[tokio::test]
async fn the_configuration_loads() {
    let ran = plan(&rooms().await, &pair("blue").await, &pair("green").await).check().await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("test is successful"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_websocket_reaches_its_room() {
    let site = Site::start().await;
    let client = site.client().await;
    let mut socket = WebSocket::open(client, "/ws?room=a", &[("Host", "Chat.example:81")]).await;
    let reply = socket.echo("hello").await;
    let origin = site.rooms.iter().find(|origin| origin.count() == 1).unwrap();
    assert!(["one:hello", "two:hello", "three:hello"].contains(&reply.as_str()));
    let request = origin.last();
    assert_eq!(request.target, "/ws?room=a");
    assert_eq!(request.version, "HTTP/1.1");
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert_eq!(request.header("connection"), Some("upgrade"));
    assert_eq!(request.header("host"), Some("chat.example"));
    socket.close().await;
    origin.wait_open(0).await;
}

#[tokio::test]
async fn a_request_that_is_no_websocket_closes_its_connection_to_the_room() {
    let site = Site::start().await;
    site.server_of(1).await;
    let request = site.rooms.iter().find_map(|o| o.requests().pop()).unwrap();
    assert_eq!(request.header("connection"), Some("close"));
    assert_eq!(request.header("upgrade"), None);
}

#[tokio::test]
async fn a_room_has_one_server_and_all_servers_have_rooms() {
    let site = Site::start().await;
    let mut used = BTreeMap::new();
    for room in 0..60 {
        let server = site.server_of(room).await;
        assert_eq!(site.server_of(room).await, server);
        *used.entry(server).or_insert(0) += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
    assert!(used.values().all(|&rooms| rooms >= 5), "{used:?}");
}

#[tokio::test]
async fn when_a_server_is_taken_out_only_its_rooms_move() {
    let mut site = Site::start().await;
    let mut before = Vec::new();
    for room in 0..60 {
        before.push(site.server_of(room).await);
    }
    let taken = "server 127.0.0.1:3103";
    site.server.configure(&CONFIG.replace(taken, &format!("# {taken}")));
    site.server.signal(Signal::HUP);
    let after = eventually("the reload", || async {
        let mut now = Vec::new();
        for room in 0..60 {
            now.push(site.server_of(room).await);
        }
        (!now.contains(&"three".into())).then_some(now)
    })
    .await;
    for (room, (before, after)) in before.iter().zip(&after).enumerate() {
        if before != "three" {
            assert_eq!(after, before, "room {room}");
        }
    }
}

#[tokio::test]
async fn a_dead_server_of_a_room_is_replaced() {
    let site = Site::start().await;
    let room = 7;
    let name = site.server_of(room).await;
    let mut site = site;
    let index = ["one", "two", "three"].iter().position(|n| *n == name).unwrap();
    site.rooms.remove(index).stop().await;
    let target = format!("/ws?room={room}");
    let response = site.client().await.get_with(&target, &[UNLIMITED]).await;
    assert_eq!(response.status, 200);
    assert_ne!(response.text(), name);
}

#[tokio::test]
async fn a_server_of_a_room_that_failed_three_times_is_left_alone() {
    let mut broken = rooms().await;
    broken[1] = Origin::answering(|_| Answer::raw("")).await;
    let (blue, green) = (pair("blue").await, pair("green").await);
    let server = plan(&broken, &blue, &green).start().await;
    let mut client = Client::connect(server.addr(8081)).await;
    for room in 0..60 {
        let target = format!("/ws?room={room}");
        let response = client.get_with(&target, &[UNLIMITED]).await;
        assert!(["one", "three"].contains(&response.text().as_str()));
    }
    assert_eq!(broken[1].count(), 3);
}

#[tokio::test]
async fn an_anonymous_user_has_one_websocket() {
    let site = Site::start().await;
    let first = WebSocket::open(site.client().await, "/ws?room=1", &[]).await;
    let refused = WebSocket::try_open(site.client().await, "/ws?room=2", &[]).await;
    assert_eq!(refused.err().unwrap().status, 429);
    let elsewhere = Client::connect_from([127, 0, 0, 2], site.server.addr(8081)).await;
    let mut second = WebSocket::open(elsewhere, "/ws?room=2", &[]).await;
    assert!(second.echo("x").await.ends_with(":x"));
    // Registered users are not counted by address.
    for _ in 0..3 {
        let premium = [("X-User-Type", "premium"), ("Authorization", "p")];
        WebSocket::open(site.client().await, "/ws?room=1", &premium).await;
    }
    first.close().await;
    eventually("room for one more", || async {
        let client = site.client().await;
        WebSocket::try_open(client, "/ws?room=1", &[]).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_free_user_has_three_websockets() {
    let site = Site::start().await;
    let user = |name| [("X-User-Type", "free"), ("Authorization", name)];
    let mut open = Vec::new();
    for room in ["/ws?room=1", "/ws?room=2", "/ws?room=3"] {
        open.push(WebSocket::open(site.client().await, room, &user("a")).await);
    }
    let refused = WebSocket::try_open(site.client().await, "/ws?room=4", &user("a")).await;
    assert_eq!(refused.err().unwrap().status, 429);
    let mut other = WebSocket::open(site.client().await, "/ws?room=4", &user("b")).await;
    assert!(other.echo("x").await.ends_with(":x"));
    for socket in &mut open {
        assert!(socket.echo("still here").await.ends_with(":still here"));
    }
}

#[tokio::test]
async fn each_kind_of_user_has_its_limit() {
    let site = Site::start().await;
    let mut client = site.client().await;
    for (kind, rate, burst) in [("streamer", 50.0, 100), ("premium", 10.0, 20), ("free", 5.0, 10)] {
        for user in ["a", "b"] {
            let headers = [("X-User-Type", kind), ("Authorization", user), TO_BLUE];
            let sent = burst + 30;
            let all = Burst::with(&mut client, sent, &headers, |n| format!("/api/{n}")).await;
            all.assert_limit(rate, burst, 429);
            assert!(all.statuses.iter().all(|status| [200, 429].contains(status)));
        }
    }
    let anonymous = Burst::of(&mut client, 20, "/api/x").await;
    anonymous.assert_limit(2.0, 4, 429);
    let mut elsewhere = Client::connect_from([127, 0, 0, 2], site.server.addr(8081)).await;
    let anonymous = Burst::of(&mut elsewhere, 20, "/api/x").await;
    anonymous.assert_limit(2.0, 4, 429);
    // A key that is empty is not counted.
    let unknown = Burst::with(&mut client, 150, &[UNLIMITED], |_| "/api/x".into()).await;
    assert_eq!(unknown.admitted(429), 150);
}

#[tokio::test]
async fn a_tenth_of_the_users_sees_the_release_and_always_the_same() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let mut green = Vec::new();
    for n in 0..200 {
        let agent = format!("viewer/{n}");
        let headers = [UNLIMITED, ("User-Agent", agent.as_str())];
        let response = client.get_with("/api/x", &headers).await;
        if response.text().starts_with("green") {
            green.push(n);
        }
    }
    assert_eq!(green, GREEN);
}

#[tokio::test]
async fn a_user_of_the_release_stays_with_one_server() {
    let site = Site::start().await;
    for (address, agent, server) in STICKY {
        let mut client = Client::connect_from(address, site.server.addr(8081)).await;
        let agent = format!("viewer/{agent}");
        let headers = [UNLIMITED, ("User-Agent", agent.as_str())];
        for _ in 0..3 {
            let response = client.get_with("/api/x", &headers).await;
            assert_eq!(response.text(), format!("green{server}"), "{address}");
        }
    }
}

#[tokio::test]
async fn the_backup_is_idle_while_the_first_server_works() {
    let site = Site::start().await;
    let mut client = site.client().await;
    for _ in 0..20 {
        let response = client.get_with("/api/x", &[UNLIMITED, TO_BLUE]).await;
        assert_eq!(response.text(), "blue0");
    }
    assert_eq!((site.blue[0].count(), site.blue[1].count()), (20, 0));
    assert_eq!(site.blue[0].connections(), 1, "the connection is kept");
    let request = site.blue[0].last();
    assert_eq!(request.version, "HTTP/1.1");
    assert_eq!(request.header("connection"), None);
    assert_eq!(request.header("host"), Some("api_blue"));
}

#[tokio::test]
async fn the_backup_works_when_the_first_server_is_dead() {
    let refusing = Refusing::new();
    let (rooms, blue, green) = (rooms().await, pair("blue").await, pair("green").await);
    let server = plan(&rooms, &blue, &green)
        .swap(&blue[0].addr().to_string(), &refusing.addr().to_string())
        .start()
        .await;
    let mut client = Client::connect(server.addr(8081)).await;
    for _ in 0..5 {
        let response = client.get_with("/api/x", &[UNLIMITED, TO_BLUE]).await;
        assert_eq!((response.status, response.text().as_str()), (200, "blue1"));
    }
}

/// A server that neither accepts nor refuses is given up after proxy_connect_timeout; nginx's default is a minute.
#[tokio::test]
async fn the_backup_works_when_the_first_server_does_not_answer() {
    let silent = BlackHole::new().await;
    let (rooms, blue, green) = (rooms().await, pair("blue").await, pair("green").await);
    let server = plan(&rooms, &blue, &green)
        .swap(&blue[0].addr().to_string(), &silent.addr().to_string())
        .start()
        .await;
    let mut client = Client::connect(server.addr(8081)).await;
    let response = client.get_with("/api/x", &[UNLIMITED, TO_BLUE]).await;
    assert_eq!((response.status, response.text().as_str()), (200, "blue1"));
}

#[tokio::test]
async fn a_server_takes_eight_hundred_requests_at_once() {
    let open = Arc::new(watch::Sender::new(false));
    let gate = open.clone();
    let first = Origin::start(move |_| {
        let mut gate = gate.subscribe();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Answer::ok("blue0")
        }
    })
    .await;
    let (rooms, mut blue, green) = (rooms().await, pair("blue").await, pair("green").await);
    blue[0] = first;
    let server = plan(&rooms, &blue, &green).start().await;
    let headers = [UNLIMITED, TO_BLUE];
    let mut waiting = Vec::new();
    for _ in 0..800 {
        let mut client = Client::connect(server.addr(8081)).await;
        client.send_request("GET", "/api/x", &headers, b"").await;
        waiting.push(client);
    }
    blue[0].arrived(800).await;
    let mut client = Client::connect(server.addr(8081)).await;
    for _ in 0..3 {
        let response = client.get_with("/api/x", &headers).await;
        assert_eq!((response.status, response.text().as_str()), (200, "blue1"));
    }
    open.send_replace(true);
    for client in &mut waiting {
        assert_eq!(client.response("GET").await.text(), "blue0");
    }
    assert_eq!((blue[0].count(), blue[1].count()), (800, 3));
    let response = client.get_with("/api/x", &headers).await;
    assert_eq!(response.text(), "blue0", "there is room again");
}

#[tokio::test]
async fn a_failed_request_is_repeated_once_even_a_post() {
    for failure in [502, 503] {
        let failing = Origin::answering(move |_| Answer::status(failure)).await;
        let (rooms, mut blue, green) = (rooms().await, pair("blue").await, pair("green").await);
        blue[0] = failing;
        let server = plan(&rooms, &blue, &green).start().await;
        let mut client = Client::connect(server.addr(8081)).await;
        let headers = [UNLIMITED, TO_BLUE];
        let response = client.request("POST", "/api/buy?n=1", &headers, b"one pen").await;
        assert_eq!((response.status, response.text().as_str()), (200, "blue1"));
        for origin in &blue {
            assert_eq!(origin.count(), 1);
            let request = origin.last();
            assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/api/buy?n=1"));
            assert_eq!(request.body, b"one pen");
        }
    }
}

#[tokio::test]
async fn a_post_whose_connection_breaks_is_repeated() {
    let failing = Origin::answering(|_| Answer::raw("")).await;
    let (rooms, mut blue, green) = (rooms().await, pair("blue").await, pair("green").await);
    blue[0] = failing;
    let server = plan(&rooms, &blue, &green).start().await;
    let mut client = Client::connect(server.addr(8081)).await;
    let headers = [UNLIMITED, TO_BLUE];
    let response = client.request("POST", "/api/x", &headers, b"body").await;
    assert_eq!((response.status, response.text().as_str()), (200, "blue1"));
    assert_eq!((blue[0].count(), blue[1].count()), (1, 1));
}

#[tokio::test]
async fn when_both_servers_fail_the_user_sees_the_failure() {
    let mut failing = Vec::new();
    for _ in 0..2 {
        failing.push(Origin::answering(|_| Answer::status(502)).await);
    }
    let (rooms, blue) = (rooms().await, pair("blue").await);
    let server = plan(&rooms, &blue, &failing).start().await;
    let mut client = Client::connect(server.addr(8081)).await;
    let response = client.get_with("/api/x", &[UNLIMITED, TO_GREEN]).await;
    assert_eq!(response.status, 502);
    assert_eq!((failing[0].count(), failing[1].count()), (1, 1));
}

#[tokio::test]
async fn other_errors_are_not_repeated() {
    for status in [404, 500, 504] {
        let failing = Origin::answering(move |_| Answer::status(status)).await;
        let (rooms, mut blue, green) = (rooms().await, pair("blue").await, pair("green").await);
        blue[0] = failing;
        let server = plan(&rooms, &blue, &green).start().await;
        let mut client = Client::connect(server.addr(8081)).await;
        let response = client.get_with("/api/x", &[UNLIMITED, TO_BLUE]).await;
        assert_eq!(response.status, status);
        assert_eq!(blue[1].count(), 0);
    }
}

#[tokio::test]
async fn health_needs_no_upstream_and_no_log() {
    let site = Site::start().await;
    let response = get(site.server.addr(8081), "/health").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), r#"{"status":"healthy"}"#);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(get(site.server.addr(8081), "/health/x").await.status, 404);
    site.server.signal(Signal::QUIT);
    site.server.exited().await;
    let log = site.log().await;
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0]["request"], "GET /health/x HTTP/1.1");
}

#[tokio::test]
async fn the_log_is_json_whatever_is_requested() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let odd = "/api/\"quoted\"\\\u{e4}?q=\"";
    let response = client.get_with(odd, &[UNLIMITED, TO_BLUE]).await;
    assert_eq!(response.status, 200);
    client.get_with("/nowhere", &[UNLIMITED]).await;
    // Without a further request: the lines are held back for a second at most.
    let log = eventually("the log to be written", || async {
        let lines = site.log().await;
        (lines.len() == 2).then_some(lines)
    })
    .await;
    let [asked, missing] = log.as_slice() else { panic!("{log:?}") };
    let fields: BTreeSet<_> = asked.as_object().unwrap().keys().cloned().collect();
    let expected = ["addr", "bytes", "request", "status", "time", "took", "upstream", "upstream_took"];
    assert_eq!(fields, expected.map(String::from).into());
    let time = asked["time"].as_str().unwrap();
    let iso = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$").unwrap();
    assert!(iso.is_match(time), "{time}");
    assert_eq!(asked["addr"], "127.0.0.1");
    assert_eq!(asked["request"], format!("GET {odd} HTTP/1.1"));
    assert_eq!((&asked["status"], &asked["bytes"]), (&200.into(), &5.into()));
    assert!(asked["took"].is_number());
    assert_eq!(asked["upstream"], site.blue[0].addr().to_string());
    let took = asked["upstream_took"].as_str().unwrap();
    assert!(took.parse::<f64>().is_ok(), "{took}");
    assert_eq!(missing["status"], 404);
    assert_eq!((&missing["upstream"], &missing["upstream_took"]), (&"".into(), &"".into()));
}

#[tokio::test]
async fn the_log_names_every_server_that_was_asked() {
    let failing = Origin::answering(|_| Answer::status(503)).await;
    let (rooms, mut blue, green) = (rooms().await, pair("blue").await, pair("green").await);
    blue[0] = failing;
    let server = plan(&rooms, &blue, &green).start().await;
    let site = Site { server, rooms, blue, green };
    assert_eq!(ask(&site, TO_BLUE).await.status, 200);
    site.server.signal(Signal::QUIT);
    site.server.exited().await;
    let log = site.log().await;
    let both = format!("{}, {}", site.blue[0].addr(), site.blue[1].addr());
    assert_eq!(log[0]["upstream"], both);
    assert_eq!(log[0]["upstream_took"].as_str().unwrap().split(", ").count(), 2);
}

#[tokio::test]
async fn what_is_held_back_of_the_log_is_written_at_the_end() {
    let site = Site::start().await;
    for _ in 0..3 {
        assert_eq!(ask(&site, TO_GREEN).await.status, 200);
    }
    assert_eq!(site.green.iter().map(Origin::count).sum::<usize>(), 3);
    site.server.signal(Signal::QUIT);
    assert_eq!(site.server.exited().await.code(), Some(0));
    assert_eq!(site.log().await.len(), 3);
}
