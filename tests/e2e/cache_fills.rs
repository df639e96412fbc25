//! What is received for the cache, and those who read it as it comes: over real sockets, before an origin
//! that sends what the test says when the test says it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::client::Client;
use crate::support::http2::{Http2, Incoming};
use crate::support::metrics::Metrics;
use crate::support::server::{Plan, Server, Signal, is_nginx};
use crate::support::{address, eventually, within};

/// Memory for one answer is 1 MB, an eighth of a zone's; what is stored on disk has 64 MB at most, or 8.
const CONFIG: &str = "
    worker_processes 2;
    user root;
    events { worker_connections 4096; }
    http {
        log_format upstream '$request $status $upstream_cache_status $upstream_status';
        access_log {prefix}/logs/access.log upstream;
        send_timeout 300s;
        proxy_cache_path {prefix}/cache keys_zone=z:1m max_size=64m;
        proxy_cache_path {prefix}/small keys_zone=small:1m max_size=8m;
        memory_cache size=16m;
        proxy_temp_path {prefix}/temp;
        server {
            listen 8080;
            listen 8443 ssl;
            http2 on;
            ssl_certificate certs/cert.pem;
            ssl_certificate_key certs/key.pem;
            proxy_cache z;
            proxy_cache_valid 200 10m;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 60s;
            proxy_cache_lock_age 60s;
            proxy_read_timeout 300s;
            location / { proxy_pass http://127.0.0.1:8000; }
            location /small/ { proxy_cache small; proxy_pass http://127.0.0.1:8000; }
            location /lean/ { proxy_cache small; proxy_max_temp_file_size 0; proxy_pass http://127.0.0.1:8000; }
            location = /metrics { proxy_cache off; prometheus; }
        }
    }";

/// More than memory may hold for one answer, and more than all sockets on its way hold together.
const LARGE: usize = 24 << 20;
const PIECE: usize = 64 << 10;

/// The bytes of a piece.
fn piece(n: usize) -> Vec<u8> {
    (0..PIECE / 8).flat_map(|i| (n * PIECE + i).to_be_bytes()).collect()
}

/// An origin that answers by the test's hand.
struct Scripted {
    addr: SocketAddr,
    asked: mpsc::UnboundedReceiver<Exchange>,
    count: Arc<AtomicUsize>,
    acceptor: JoinHandle<()>,
}

/// A request that waits for its answer.
struct Exchange {
    path: String,
    stream: TcpStream,
    chunked: bool,
}

impl Scripted {
    async fn start() -> Scripted {
        let listener = TcpListener::bind((address::fresh(), 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let acceptor = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (sender, counted) = (sender.clone(), counted.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap().to_string();
                    counted.fetch_add(1, Ordering::Relaxed);
                    // The test may be over.
                    let _ = sender.send(Exchange { path, stream, chunked: false });
                });
            }
        });
        Scripted { addr, asked, count, acceptor }
    }

    /// The next request.
    async fn asked(&mut self, path: &str) -> Exchange {
        let exchange = within("a request at the origin", self.asked.recv()).await.unwrap();
        assert_eq!(exchange.path, path);
        exchange
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Exchange {
    /// Sends the head of an answer; without a length its body is chunked.
    async fn head(&mut self, status: &str, length: Option<usize>) {
        self.chunked = length.is_none();
        let framing = match length {
            Some(length) => format!("Content-Length: {length}"),
            None => "Transfer-Encoding: chunked".into(),
        };
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{framing}\r\n\r\n");
        self.write(head.as_bytes()).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        match self.chunked {
            true => {
                let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
                self.write(&chunk).await;
            }
            false => self.write(bytes).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        within("room at the origin", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Ends the body as it should end.
    async fn end(mut self) {
        if self.chunked {
            self.write(b"0\r\n\r\n").await;
        }
        self.stream.shutdown().await.unwrap();
        let _ = self.stream.read(&mut [0; 1]).await;
    }

    /// Answers whole.
    async fn whole(mut self, status: &str, body: &[u8]) {
        self.head(status, Some(body.len())).await;
        self.send(body).await;
        self.end().await;
    }

    /// Breaks off.
    async fn die(self, reset: bool) {
        if reset {
            SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
    }
}

async fn start(origin: &Scripted) -> Server {
    Plan::new(CONFIG).certificate().upstream("127.0.0.1:8000", origin.addr).start().await
}

async fn metric(server: &Server, name: &str, labels: &[(&str, &str)]) -> u64 {
    let page = Client::connect(server.addr(8080)).await.get("/metrics").await;
    Metrics::parse(&page.text()).sum(name, labels).unwrap_or(0.0) as u64
}

/// Waits until so many requests have read or awaited fills.
async fn readers(server: &Server, count: u64) {
    eventually("readers of the fill", || async {
        (metric(server, "edgewater_cache_fill_readers_total", &[]).await >= count).then_some(())
    })
    .await;
}

/// Waits until nothing is being received.
async fn idle(server: &Server) {
    eventually("the end of the fill", || async {
        (metric(server, "edgewater_cache_fills", &[]).await == 0).then_some(())
    })
    .await;
}

/// A viewer over HTTP/1.1 or HTTP/2.
enum Viewer {
    H1(Box<Client>),
    H2(Box<Stream>),
}

struct Stream {
    incoming: Incoming,
    /// It ends with its connection.
    _connection: Http2,
}

impl Viewer {
    /// One who has the head of the answer.
    async fn watching(server: &Server, h2: bool, path: &str) -> Viewer {
        if h2 {
            let client = Http2::connect(server.addr(8443), "localhost").await;
            let incoming = client.start("GET", path, &[], b"").await.unwrap();
            assert_eq!(incoming.response.status, 200);
            return Viewer::H2(Box::new(Stream { incoming, _connection: client }));
        }
        let mut client = Client::connect_narrow(server.addr(8080)).await;
        client.send_request("GET", path, &[], b"").await;
        assert_eq!(client.head("GET").await.status, 200);
        Viewer::H1(Box::new(client))
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        match self {
            Viewer::H1(client) => client.take(length).await,
            Viewer::H2(stream) => stream.incoming.take(length).await,
        }
    }

    /// The rest of the body, or why there is none.
    async fn rest(mut self) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        loop {
            let piece = match &mut self {
                Viewer::H1(client) => client.try_piece().await.map_err(|e| e.to_string())?,
                Viewer::H2(stream) => {
                    stream.incoming.try_piece().await.map_err(|e| e.to_string())?.map(|piece| piece.to_vec())
                }
            };
            let Some(piece) = piece else { return Ok(all) };
            all.extend(piece);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_viewer_that_stops_reading_does_not_slow_the_second() {
    if is_nginx() {
        return;
    }
    for (first_h2, second_h2, length) in
        [(false, true, Some(LARGE)), (true, false, None), (false, false, None)]
    {
        let mut origin = Scripted::start().await;
        let server = start(&origin).await;
        let opening = async {
            let mut call = origin.asked("/a").await;
            call.head("200 OK", length).await;
            call.send(&piece(0)).await;
            call
        };
        let (mut first, mut call) = tokio::join!(Viewer::watching(&server, first_h2, "/a"), opening);
        assert!(first.take(PIECE).await == piece(0));
        let mut second = Viewer::watching(&server, second_h2, "/a").await;
        assert!(second.take(PIECE).await == piece(0));
        for n in 1..LARGE / PIECE {
            // The next piece is sent when the second has the one before: it waits for nobody.
            call.send(&piece(n)).await;
            assert!(second.take(PIECE).await == piece(n), "piece {n}");
            if n % 64 == 0 {
                let held = metric(&server, "edgewater_cache_fill_bytes", &[]).await;
                assert!(held <= 2 << 20, "{held} bytes are held");
            }
        }
        call.end().await;
        assert_eq!(second.rest().await.unwrap(), b"");
        // The first has lost nothing.
        let rest = first.rest().await.unwrap();
        let whole: Vec<u8> = (0..LARGE / PIECE).flat_map(piece).collect();
        assert!(rest == whole[PIECE..]);
        idle(&server).await;
        let stored = [("zone", "z"), ("end", "stored")];
        assert_eq!(metric(&server, "edgewater_cache_fills_total", &stored).await, 1);
        assert_eq!(origin.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_leaves_stops_nothing() {
    if is_nginx() {
        return;
    }
    for h2 in [false, true] {
        let mut origin = Scripted::start().await;
        let server = start(&origin).await;
        let opening = async {
            let mut call = origin.asked("/a").await;
            call.head("200 OK", None).await;
            call.send(b"one ").await;
            call
        };
        let (mut first, mut call) = tokio::join!(Viewer::watching(&server, h2, "/a"), opening);
        assert_eq!(first.take(4).await, b"one ");
        let mut second = Viewer::watching(&server, !h2, "/a").await;
        assert_eq!(second.take(4).await, b"one ");
        drop(first);
        call.send(b"two ").await;
        assert_eq!(second.take(4).await, b"two ");
        // Now nobody reads.
        drop(second);
        call.send(b"three").await;
        call.end().await;
        idle(&server).await;
        let mut late = Viewer::watching(&server, h2, "/a").await;
        assert_eq!(late.take(13).await, b"one two three");
        assert_eq!(origin.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_dies_is_an_error_to_all_and_leaves_nothing() {
    if is_nginx() {
        return;
    }
    let mut origin = Scripted::start().await;
    let server = start(&origin).await;
    let ways = [
        (false, Some(LARGE), 1),
        (false, None, 1),
        (true, Some(LARGE), 1),
        (true, None, 1),
        // What is in a file by then.
        (false, None, 64),
        (true, Some(LARGE), 64),
    ];
    for (round, (reset, length, pieces)) in ways.into_iter().enumerate() {
        let path = format!("/{round}");
        let opening = async {
            let mut call = origin.asked(&path).await;
            call.head("200 OK", length).await;
            call.send(&piece(0)).await;
            call
        };
        let (mut first, mut call) = tokio::join!(Viewer::watching(&server, false, &path), opening);
        let mut viewers =
            vec![Viewer::watching(&server, false, &path).await, Viewer::watching(&server, true, &path).await];
        for n in 1..pieces {
            call.send(&piece(n)).await;
        }
        // So that the bytes have arrived before the reset, which takes away what was not read.
        first.take(pieces * PIECE).await;
        call.die(reset).await;
        viewers.push(first);
        for viewer in viewers {
            let expected = if matches!(viewer, Viewer::H2(_)) { "stream error" } else { "closed after" };
            let error = viewer.rest().await.expect_err("a body that looks whole");
            assert!(error.contains(expected), "{error}");
        }
        idle(&server).await;
        // What the rounds before have kept may be on its way to the disk.
        let entries = async |tier| metric(&server, "edgewater_cache_entries", &[("tier", tier)]).await;
        assert_eq!(entries("memory").await, round as u64);
        assert!(entries("disk").await <= round as u64);
        // The next one begins anew.
        let client = async { Client::connect(server.addr(8080)).await.get(&path).await };
        let (answer, ()) =
            tokio::join!(client, async { origin.asked(&path).await.whole("200 OK", b"whole").await });
        assert_eq!(answer.text(), "whole");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_viewers_are_one_request() {
    if is_nginx() {
        return;
    }
    let mut origin = Scripted::start().await;
    let server = start(&origin).await;
    let mut viewers = JoinSet::new();
    for _ in 0..400 {
        let addr = server.addr(8080);
        viewers.spawn(async move { Client::connect(addr).await.get("/seg").await });
    }
    for _ in 0..6 {
        let client = Arc::new(Http2::connect(server.addr(8443), "localhost").await);
        for _ in 0..100 {
            let client = client.clone();
            viewers.spawn(async move { client.get("/seg").await });
        }
    }
    let mut call = origin.asked("/seg").await;
    readers(&server, 1000).await;
    let whole = piece(0);
    call.head("200 OK", Some(PIECE)).await;
    for part in whole.chunks(PIECE / 8) {
        call.send(part).await;
    }
    call.end().await;
    while let Some(answer) = viewers.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.status == 200 && answer.body == whole);
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_viewers_of_a_failing_upstream_are_one_request() {
    if is_nginx() {
        return;
    }
    let mut origin = Scripted::start().await;
    let server = start(&origin).await;
    let mut viewers = JoinSet::new();
    for _ in 0..10 {
        let client = Arc::new(Http2::connect(server.addr(8443), "localhost").await);
        for _ in 0..100 {
            let client = client.clone();
            viewers.spawn(async move { client.get("/seg").await });
        }
    }
    let call = origin.asked("/seg").await;
    readers(&server, 1000).await;
    call.whole("503 Service Unavailable", b"of the upstream").await;
    let mut own = 0;
    while let Some(answer) = viewers.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 503);
        own += usize::from(answer.text() == "of the upstream");
    }
    assert_eq!((own, origin.count()), (1, 1), "one has the page of the upstream, the others one of ours");
    let log = server.read("logs/access.log").unwrap();
    assert_eq!(log.matches("/seg HTTP/2.0 503 MISS 503\n").count(), 1);
    assert_eq!(log.matches("/seg HTTP/2.0 503 MISS -\n").count(), 999);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_to_be_stored_streams_in_bounded_memory() {
    if is_nginx() {
        return;
    }
    // In a file without a name as long as that may grow, or held in nothing but the window.
    for (path, length) in [("/small/a", Some(LARGE)), ("/small/a", None), ("/lean/a", None)] {
        let mut origin = Scripted::start().await;
        let server = start(&origin).await;
        let opening = async {
            let mut call = origin.asked(path).await;
            call.head("200 OK", length).await;
            call.send(&piece(0)).await;
            call
        };
        let (mut first, mut call) = tokio::join!(Viewer::watching(&server, false, path), opening);
        let mut second = Viewer::watching(&server, true, path).await;
        for n in 0..LARGE / PIECE {
            if n > 0 {
                call.send(&piece(n)).await;
            }
            let (one, two) = tokio::join!(first.take(PIECE), second.take(PIECE));
            let expected = piece(n);
            assert!(one == expected && two == expected, "piece {n}");
            if n % 64 == 0 {
                let held = metric(&server, "edgewater_cache_fill_bytes", &[]).await;
                assert!(held <= 2 << 20, "{held} bytes are held");
            }
        }
        call.end().await;
        for viewer in [first, second] {
            assert_eq!(viewer.rest().await.unwrap(), b"");
        }
        idle(&server).await;
        assert_eq!(metric(&server, "edgewater_cache_entries", &[]).await, 0);
        assert_eq!(origin.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fills_survive_a_reload_and_the_end_of_the_server() {
    if is_nginx() {
        return;
    }
    let mut origin = Scripted::start().await;
    let mut server = start(&origin).await;
    let opening = async {
        let mut call = origin.asked("/a").await;
        call.head("200 OK", None).await;
        call.send(b"one ").await;
        call
    };
    let (mut first, mut call) = tokio::join!(Viewer::watching(&server, false, "/a"), opening);
    let mut second = Viewer::watching(&server, true, "/a").await;
    server.configure(
        &format!("{CONFIG}\n# another")
            .replace("proxy_cache_valid 200 10m;", "proxy_cache_valid 200 11m; add_header X-New 1;"),
    );
    server.signal(Signal::HUP);
    let fresh = server.addr(8080);
    eventually("the new configuration", || async {
        let answer = Client::connect(fresh).await.get("/metrics").await;
        answer.header("x-new").map(|_| ())
    })
    .await;
    // Who comes after the reload reads what was begun before.
    let mut third = Viewer::watching(&server, false, "/a").await;
    for viewer in [&mut first, &mut second, &mut third] {
        assert_eq!(viewer.take(4).await, b"one ");
    }
    server.signal(Signal::QUIT);
    let addr = server.addr(8080);
    eventually("the end of the listener", || async { TcpStream::connect(addr).await.err() }).await;
    call.send(b"two").await;
    call.end().await;
    for viewer in [first, second, third] {
        assert_eq!(viewer.rest().await.unwrap(), b"two");
    }
    assert!(server.exited().await.success());
    assert_eq!(origin.count(), 1);
}

/// As the cache's own request goes on without its client, nginx logs what came of it, and not 499.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_are_logged_as_nginx_logs_them() {
    const CONFIG: &str = "
        worker_processes 1;
        user root;
        events { }
        http {
            log_format f '$uri $status $upstream_cache_status $upstream_addr $upstream_status';
            access_log {prefix}/logs/access.log f;
            proxy_cache_path {prefix}/cache keys_zone=z:1m;
            server {
                listen 8080;
                proxy_cache_valid 200 10m;
                proxy_cache_lock on;
                location /kept/ { proxy_cache z; proxy_pass http://127.0.0.1:8000; }
                location / { proxy_pass http://127.0.0.1:8000; }
            }
        }";
    let mut origin = Scripted::start().await;
    let server = Plan::new(CONFIG).upstream("127.0.0.1:8000", origin.addr).start().await;
    let logged = async |line: String| {
        eventually(&line, || async { server.read("logs/access.log")?.contains(&line).then_some(()) }).await
    };
    let asking = async |path: &str| {
        let mut client = Client::connect(server.addr(8080)).await;
        client.send_request("GET", path, &[], b"").await;
        client
    };
    let client = asking("/plain").await;
    let call = origin.asked("/plain").await;
    drop(client);
    logged(format!("/plain 499 - {} -\n", origin.addr)).await;
    drop(call);
    // The one that causes what is received for the cache, and then one that waits for it.
    let client = asking("/kept/a").await;
    let call = origin.asked("/kept/a").await;
    drop(client);
    call.whole("200 OK", b"kept").await;
    logged(format!("/kept/a 200 MISS {} 200\n", origin.addr)).await;
    let mut client = asking("/kept/c").await;
    origin.asked("/kept/c").await.whole("200 OK", b"kept").await;
    client.response("GET").await;
    let leader = asking("/kept/b").await;
    let call = origin.asked("/kept/b").await;
    drop(asking("/kept/b").await);
    // What comes after it on another connection is answered after it was seen.
    let mut other = Client::connect(server.addr(8080)).await;
    assert_eq!(other.get("/kept/c").await.text(), "kept");
    call.whole("200 OK", b"kept").await;
    drop(leader);
    logged("/kept/b 200 HIT - -\n".into()).await;
    logged(format!("/kept/b 200 MISS {} 200\n", origin.addr)).await;
}
