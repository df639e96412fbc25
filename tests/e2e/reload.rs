//! Reloads: what is open stays open, what is asked next sees the new configuration, what is broken changes nothing.
//!
//! nginx answers a reload with new processes and closes the idle connections of the old ones, so on nginx the
//! clients of this file connect again where Edgewater must keep them.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::http2::Http2;
use crate::support::metrics::Metrics;
use crate::support::origin::{Answer, Feed, Origin};
use crate::support::server::{Plan, Server, Signal, is_nginx};
use crate::support::websocket::WebSocket;

const RELOADS: usize = 20;

/// `GENERATION` is a number that grows with each reload.
const CONFIG: &str = "
    worker_processes 2;
    events { worker_connections 1024; }
    http {
        access_log off;
        upstream api { server 127.0.0.1:8000; keepalive 8; }
        server {
            listen 8080;
            listen 8443 ssl;
            http2 on;
            ssl_certificate certs/cert.pem;
            ssl_certificate_key certs/key.pem;
            keepalive_requests 1000000;
            add_header X-Generation GENERATION;

            location = /text { return 200 'generation GENERATION'; }
            location /files/ { root {prefix}; }
            location /api/ { proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ''; }
            location = /ws {
                proxy_pass http://api;
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection upgrade;
            }
            location = /live.flv { proxy_pass http://api; proxy_http_version 1.1; proxy_buffering off; }
            location = /metrics { prometheus; }
        }
    }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_reloads_under_load_break_nothing() {
    let (api, feeds) = api().await;
    let mut server = start(&api).await;
    let load = Load::start(&server, feeds).await;
    let mut old_h1 = Client::connect(server.addr(8080)).await;
    let old_h2 = Http2::connect(server.addr(8443), "localhost").await;
    assert_eq!(old_h1.get("/text").await.text(), "generation 0");
    assert_eq!(old_h2.get("/text").await.text(), "generation 0");

    for generation in 1..=RELOADS {
        reload(&mut server, generation).await;
        if !is_nginx() {
            let expected = format!("generation {generation}");
            assert_eq!(old_h1.get("/text").await.text(), expected);
            assert_eq!(old_h2.get("/text").await.text(), expected);
        }
        load.goes_on().await;
    }
    load.finish().await;

    assert_eq!((api.hits("/ws"), api.hits("/live.flv")), (1, 1));
    if !is_nginx() {
        await_reloads(&server, "success", RELOADS).await;
        await_reloads(&server, "failure", 0).await;
    }
}

#[tokio::test]
async fn a_broken_configuration_leaves_the_old_one_in_force() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let broken = [
        ("return 200 'g", "retrun 200 'g".to_string(), "retrun".to_string()),
        ("cert.pem", "no.pem".into(), "no.pem".into()),
        // Binding is tried several times before a reload fails.
        ("keepalive_requests", format!("listen {taken};\nkeepalive_requests"), taken.to_string()),
        ("location = /text {", "location = /text { {".into(), "unexpected \"{\"".into()),
    ];
    let (api, _feeds) = api().await;
    let mut server = start(&api).await;
    let good = server.read("nginx.conf").unwrap();
    let mut old = Client::connect(server.addr(8080)).await;
    for (count, (from, to, complaint)) in broken.iter().enumerate() {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1).replace("generation 0", "generation 1");
        server.write("nginx.conf", text);
        let before = server.stderr().len();
        server.signal(Signal::HUP);
        let report = report_after(&server, before, complaint).await;
        assert!(report.contains("[emerg]"), "{report}");
        assert_eq!(old.get("/text").await.text(), "generation 0", "after {to}");
        assert_eq!(get(server.addr(8080), "/text").await.text(), "generation 0", "after {to}");
        if !is_nginx() {
            await_reloads(&server, "failure", count + 1).await;
        }
    }
    reload(&mut server, 2).await;
    if !is_nginx() {
        await_reloads(&server, "success", 1).await;
        assert_eq!(old.get("/text").await.text(), "generation 2");
    }
}

#[tokio::test]
async fn an_error_on_reload_names_file_and_line() {
    let (api, _feeds) = api().await;
    let server = start(&api).await;
    let text = server.read("nginx.conf").unwrap().replace("return 200", "retrun 200");
    let line = 1 + text[..text.find("retrun").unwrap()].matches('\n').count();
    server.write("nginx.conf", text);
    server.signal(Signal::HUP);
    server
        .reported(&format!("unknown directive \"retrun\" in {}/nginx.conf:{line}", server.prefix().display()))
        .await;
}

#[tokio::test]
async fn a_reload_opens_new_ports_and_closes_old_ones() {
    let (api, _feeds) = api().await;
    let mut server = start(&api).await;
    let mut on_the_old_port = Client::connect(server.addr(8080)).await;
    assert_eq!(on_the_old_port.get("/text").await.text(), "generation 0");
    let moved = configuration(1).replace("listen 8080", "listen 8081");
    server.configure(&moved);
    server.signal(Signal::HUP);
    let new_port = server.addr(8081);
    eventually("the new port", || async { TcpStream::connect(new_port).await.ok() }).await;
    assert_eq!(get(new_port, "/text").await.text(), "generation 1");
    let old_port = server.addr(8080);
    eventually("the end of the old port", || async { TcpStream::connect(old_port).await.err() }).await;
}

fn configuration(generation: usize) -> String {
    let text = CONFIG.replace("GENERATION", &generation.to_string());
    match is_nginx() {
        true => text.replace("prometheus;", "return 404;"),
        false => text,
    }
}

/// Feeds of the FLV streams that were asked for.
type Feeds = tokio::sync::mpsc::UnboundedReceiver<Feed>;

async fn api() -> (Origin, Feeds) {
    let (send_feed, feeds) = tokio::sync::mpsc::unbounded_channel();
    let api = Origin::answering(move |request| match request.path() {
        "/ws" => Answer::websocket_echo("api"),
        "/live.flv" => {
            let (answer, feed) = Answer::stream();
            // Nobody takes it where no test streams.
            let _ = send_feed.send(feed);
            answer
        }
        path => Answer::ok(format!("api {path}")),
    })
    .await;
    (api, feeds)
}

async fn start(api: &Origin) -> Server {
    Plan::new(&configuration(0))
        .certificate()
        .upstream("127.0.0.1:8000", api.addr())
        .file("files/segment.ts", segment())
        .start()
        .await
}

/// More than one write, so that a reload can come in the middle.
fn segment() -> Vec<u8> {
    (0..200_000u32).map(|number| (number % 251) as u8).collect()
}

/// Reloads, and returns when the new configuration is in force for new connections.
async fn reload(server: &mut Server, generation: usize) {
    server.configure(&configuration(generation));
    server.signal(Signal::HUP);
    await_generation(server, generation).await;
}

async fn await_generation(server: &Server, generation: usize) {
    let addr = server.addr(8080);
    let expected = format!("generation {generation}");
    eventually(&expected, || async { (get(addr, "/text").await.text() == expected).then_some(()) }).await;
}

/// What the server reports after its first `from` bytes, when `complaint` is among it and the line is complete.
async fn report_after(server: &Server, from: usize, complaint: &str) -> String {
    eventually(complaint, || async {
        let report = server.stderr()[from..].to_owned();
        let found = report.lines().any(|line| line.contains(complaint) && line.contains("[emerg]"));
        (found && report.ends_with('\n')).then_some(report)
    })
    .await
}

/// Waits until the metric says that `count` reloads ended with `result`; panics if it says that more did.
async fn await_reloads(server: &Server, result: &str, count: usize) {
    let addr = server.addr(8080);
    eventually(&format!("{count} reloads with {result}"), || async {
        let page = get(addr, "/metrics").await.text();
        let sum = Metrics::parse(&page).sum("edgewater_reloads_total", &[("result", result)]);
        let counted = sum.unwrap_or_default() as usize;
        assert!(counted <= count, "{counted} reloads with {result}");
        (counted == count).then_some(())
    })
    .await;
}

/// Clients that never rest, each with a count of what it has done.
struct Load {
    clients: JoinSet<()>,
    counts: Vec<(&'static str, Arc<AtomicUsize>)>,
    ends: Arc<AtomicBool>,
}

impl Load {
    /// Several HTTP/1.1 and HTTP/2 connections, one WebSocket and one FLV stream.
    async fn start(server: &Server, mut feeds: Feeds) -> Load {
        let mut load = Load { clients: JoinSet::new(), counts: Vec::new(), ends: Arc::default() };
        let (plain, tls) = (server.addr(8080), server.addr(8443));
        for _ in 0..4 {
            let task = load.task("HTTP/1.1");
            load.clients.spawn(async move {
                let mut client = Client::connect(plain).await;
                let mut latest = 0;
                while task.on() {
                    for target in TARGETS {
                        let answer = match try_get(&mut client, target).await {
                            Err(_) if is_nginx() => {
                                client = Client::connect(plain).await;
                                try_get(&mut client, target).await.unwrap()
                            }
                            answer => answer.unwrap(),
                        };
                        check(target, &answer, &mut latest);
                    }
                }
                assert!(is_nginx() || latest == RELOADS);
            });
        }
        for _ in 0..2 {
            let task = load.task("HTTP/2");
            load.clients.spawn(async move {
                let mut client = Http2::connect(tls, "localhost").await;
                let mut latest = 0;
                while task.on() {
                    for target in TARGETS {
                        let answer = match client.try_request("GET", target, &[], b"").await {
                            Err(_) if is_nginx() => {
                                client = Http2::connect(tls, "localhost").await;
                                client.get(target).await
                            }
                            answer => answer.unwrap(),
                        };
                        check(target, &answer, &mut latest);
                    }
                }
                assert!(is_nginx() || latest == RELOADS);
            });
        }
        let mut socket = WebSocket::open(Client::connect(plain).await, "/ws", &[]).await;
        let task = load.task("WebSocket");
        load.clients.spawn(async move {
            while task.on() {
                let message = format!("message {}", task.count());
                assert_eq!(socket.echo(&message).await, format!("api:{message}"));
            }
            socket.close().await;
        });
        let mut viewer = Client::connect(plain).await;
        viewer.send_request("GET", "/live.flv", &[], b"").await;
        let feed = feeds.recv().await.expect("the stream reaches the origin");
        assert_eq!(viewer.head("GET").await.status, 200);
        let task = load.task("FLV");
        load.clients.spawn(async move {
            while task.on() {
                let tag = format!("tag {:08}", task.count()).into_bytes();
                feed.send(tag.clone()).await;
                assert_eq!(viewer.take(tag.len()).await, tag);
            }
            drop(feed);
            assert_eq!(viewer.piece().await, None);
        });
        load
    }

    fn task(&mut self, name: &'static str) -> Task {
        let count = Arc::<AtomicUsize>::default();
        self.counts.push((name, count.clone()));
        Task { count, ends: self.ends.clone() }
    }

    /// Waits until each client has completed two more rounds, so that one of them began after this was called.
    async fn goes_on(&self) {
        for (name, count) in &self.counts {
            let now = count.load(Ordering::Relaxed);
            eventually(&format!("progress of {name}"), || async {
                (count.load(Ordering::Relaxed) >= now + 2).then_some(())
            })
            .await;
        }
    }

    /// Lets each client end its round. Panics if one of them met trouble.
    async fn finish(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
    }
}

/// What a client of the load shares with the test.
struct Task {
    count: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
}

impl Task {
    /// Whether to begin another round.
    fn on(&self) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        !self.ends.load(Ordering::Relaxed)
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

const TARGETS: [&str; 3] = ["/text", "/files/segment.ts", "/api/rooms"];

async fn try_get(client: &mut Client, target: &str) -> std::io::Result<Response> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.try_send(request.as_bytes()).await?;
    client.try_response("GET").await
}

/// The answer is whole and of one generation, and that generation is not older than what this client saw before.
fn check(target: &str, answer: &Response, latest: &mut usize) {
    assert_eq!(answer.status, 200, "{target}");
    let generation = answer.header("x-generation").expect("a generation").parse().unwrap();
    // With nginx an old process may accept a last connection after a new one has.
    assert!(is_nginx() || generation >= *latest, "{generation} after {latest}");
    *latest = generation;
    match target {
        "/text" => assert_eq!(answer.text(), format!("generation {generation}")),
        "/files/segment.ts" => assert!(answer.body == segment(), "{} bytes", answer.body.len()),
        _ => assert_eq!(answer.text(), "api /api/rooms"),
    }
}
