//! Connections of a whole server in this process, over unix sockets, with a client of the `h2` crate.

mod again;
mod buffers;
mod raw;

use crate::conf::build::{Config, LevelKind, load_text};
use crate::edge::listeners::Listeners;
use crate::edge::worker::{self, Handle, Order};
use crate::edge::{Edge, Generation};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::phases::{Content, Flow};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::modules::Shared;
use crate::observe::error_log::Target;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The contents of test locations, by name.
const HANDLERS: &[(&str, Content)] = &[
    ("= /echo", |rq| Box::pin(echo(rq))),
    ("= /big", |_| Box::pin(async { Flow::respond(stream(3 << 20, 3 << 20, true)) })),
    ("= /counted", |_| Box::pin(async { Flow::respond(stream(1 << 20, 1 << 20, false)) })),
    ("= /short", |_| Box::pin(async { Flow::respond(stream(100_000, 200_000, false)) })),
    ("= /broken", |_| Box::pin(async { Flow::respond(stream(100_000, 200_000, true)) })),
    ("= /never", |rq| Box::pin(never(rq))),
];

async fn echo(rq: &mut Request) -> Flow {
    let mut whole = Vec::new();
    loop {
        match rq.read_body().await {
            Ok(Some(piece)) => whole.extend_from_slice(&piece),
            Ok(None) => return Flow::respond(Response::with_body(200, "text/plain", whole)),
            Err(BodyError::TooLarge) => return Flow::status(413),
            Err(_) => return Flow::status(400),
        }
    }
}

/// A handler that waits until its client has left.
async fn never(rq: &mut Request) -> Flow {
    rq.downstream.gone().await;
    LEFT.notify_one();
    Flow::status(499)
}

static LEFT: Notify = Notify::const_new();

/// `there` bytes of a body that should have `of`; with `open` its length is not told.
fn stream(there: usize, of: usize, open: bool) -> Response {
    let body = Pieces { left: there, broken: open && there < of };
    Response {
        status: 200,
        length: (!open).then_some(of as u64),
        body: Body::Stream(Box::new(body)),
        ..Response::default()
    }
}

struct Pieces {
    left: usize,
    broken: bool,
}

impl BodyStream for Pieces {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let n = self.left.min(50_000);
        self.left -= n;
        Poll::Ready(match (n, self.broken) {
            (0, true) => Some(Err(BodyError::Upstream("gone".into()))),
            (0, false) => None,
            _ => Some(Ok(Bytes::from(vec![b'x'; n]))),
        })
    }
}

struct Site {
    directory: TempDir,
    edge: Arc<Edge>,
    worker: Handle,
}

fn config(directory: &TempDir, http: &str, server: &str) -> Config {
    let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/certs");
    let text = format!(
        "error_log stderr emerg; events {{}} http {{ {http}
            ssl_certificate {certs}/dev.pem; ssl_certificate_key {certs}/dev.key;
            server {{
                listen unix:{0}/plain http2; listen unix:{0}/tls ssl; http2 on; server_name localhost;
                {server}
                location / {{ return 200 $request; }}
                location = /tls {{ return 200 $ssl_protocol:$ssl_session_reused:$ssl_server_name; }}
                location = /echo {{ client_max_body_size 1m; }} location = /big {{ }} location = /counted {{ }}
                location = /short {{ }} location = /broken {{ }} location = /never {{ }}
            }}
            server {{
                listen unix:{0}/tls ssl; server_name refused.localhost; ssl_reject_handshake on;
            }}
        }}",
        directory.path().display()
    );
    let mut config = load_text(directory.path(), &text).unwrap();
    for level in &mut config.http.as_mut().unwrap().levels {
        if let LevelKind::Location(name) = &level.kind
            && let Some((_, handler)) = HANDLERS.iter().find(|(n, _)| n == name)
        {
            level.conf.core.content.0 = Some(*handler);
        }
    }
    config
}

impl Site {
    fn start(http: &str, server: &str) -> Site {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::default();
        let first = Generation::build(1, config(&directory, http, server), &shared, &Target::Stderr).unwrap();
        let mut listeners = Listeners::default();
        let change = listeners.prepare(&first.http.listens, 1).unwrap();
        let edge = Arc::new(Edge::new(shared, first, vec![Arc::default()]));
        let worker = worker::start(edge.clone(), 0, None).unwrap();
        for (_, addr, socket) in listeners.commit(change) {
            worker.order(Order::Listen(addr, socket));
        }
        Site { directory, edge, worker }
    }

    fn reload(&self, http: &str, server: &str) {
        let config = config(&self.directory, http, server);
        let number = self.edge.generation_number() + 1;
        self.edge.swap(Generation::build(number, config, &self.edge.shared, &Target::Stderr).unwrap());
    }

    async fn socket(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.directory.path().join(name)).await.unwrap()
    }

    async fn client(&self) -> Client {
        Client::over(self.socket("plain").await, 65_535).await
    }

    async fn tls(
        &self,
        config: &Arc<ClientConfig>,
        name: &'static str,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<UnixStream>> {
        let name = ServerName::try_from(name).unwrap();
        tokio_rustls::TlsConnector::from(config.clone()).connect(name, self.socket("tls").await).await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.worker.order(Order::Quit);
    }
}

struct Client {
    sender: SendRequest<Bytes>,
    end: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, window: u32) -> Client {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_max_send_streams(200);
        let (sender, connection) = builder.handshake(io).await.unwrap();
        Client { sender, end: tokio::spawn(connection) }
    }

    async fn send(&self, method: &str, path: &str, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let request = http::Request::builder().method(method).uri(format!("http://localhost{path}"));
        let request = request.version(http::Version::HTTP_2).body(()).unwrap();
        let mut sender = self.sender.clone().ready().await.unwrap();
        sender.send_request(request, end).unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let response = self.send("GET", path, true).await.0.await.unwrap();
        let status = response.status().as_u16();
        (status, read(response.into_body()).await.unwrap())
    }
}

async fn read(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

#[tokio::test]
async fn many_requests_side_by_side() {
    let site = Site::start("", "");
    let client = Arc::new(site.client().await);
    let mut all = tokio::task::JoinSet::new();
    for n in 0..100 {
        let client = client.clone();
        all.spawn(async move { (n, client.get(&format!("/{n}")).await) });
    }
    while let Some(done) = all.join_next().await {
        let (n, (status, body)) = done.unwrap();
        assert_eq!((status, body), (200, format!("GET /{n} HTTP/2.0").into_bytes()));
    }
    assert_eq!(site.edge.workers[0].connections.requests.get(), 100);
}

#[tokio::test]
async fn a_stream_that_waits_for_its_window_holds_up_no_other() {
    let site = Site::start("", "");
    let client = Client::over(site.socket("plain").await, 1000).await;
    let stuck = client.send("GET", "/big", true).await.0.await.unwrap();
    assert_eq!(client.get("/x").await.0, 200);
    assert_eq!(read(stuck.into_body()).await.unwrap().len(), 3 << 20);
}

#[tokio::test]
async fn bodies_both_ways_are_whole() {
    let site = Site::start("", "");
    let client = site.client().await;
    assert_eq!(client.get("/counted").await.1.len(), 1 << 20);
    let (answer, mut upload) = client.send("POST", "/echo", false).await;
    let sent: Vec<u8> = (0..400_000u32).map(|n| n as u8).collect();
    for part in sent.chunks(7000) {
        upload.reserve_capacity(part.len());
        while upload.capacity() < part.len() {
            std::future::poll_fn(|cx| upload.poll_capacity(cx)).await.unwrap().unwrap();
        }
        upload.send_data(Bytes::copy_from_slice(part), false).unwrap();
    }
    upload.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read(answer.await.unwrap().into_body()).await.unwrap(), sent);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_taken_for_whole() {
    let site = Site::start("", "");
    let client = site.client().await;
    for path in ["/short", "/broken"] {
        let response = client.send("GET", path, true).await.0.await;
        let body = match response {
            Ok(response) => read(response.into_body()).await,
            Err(e) => Err(e),
        };
        assert_eq!(body.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR), "{path}");
    }
    assert_eq!(client.get("/x").await.0, 200);
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_at_fault() {
    let site = Site::start("send_timeout 200ms;", "");
    let client = site.client().await;
    let stuck = client.send("GET", "/big", true).await.0.await.unwrap();
    let mut body = stuck.into_body();
    // What is taken is not given back.
    let end = loop {
        match body.data().await {
            Some(Ok(_)) => {}
            Some(Err(e)) => break e,
            None => panic!("all of it came"),
        }
    };
    assert_eq!(end.reason(), Some(Reason::PROTOCOL_ERROR));
}

#[tokio::test]
async fn a_request_is_answered_when_it_has_ended() {
    let site = Site::start("", "");
    let client = site.client().await;
    let (mut answer, mut upload) = client.send("POST", "/", false).await;
    assert_eq!(client.get("/x").await.0, 200);
    let early = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut answer).poll(cx).is_ready())).await;
    assert!(!early);
    upload.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_at_once() {
    let site = Site::start("", "");
    let client = site.client().await;
    let request = http::Request::post("http://localhost/echo").header("content-length", "2000000");
    let request = request.version(http::Version::HTTP_2).body(()).unwrap();
    let mut sender = client.sender.clone().ready().await.unwrap();
    let (answer, _upload) = sender.send_request(request, false).unwrap();
    assert_eq!(answer.await.unwrap().status(), 413);
}

#[tokio::test]
async fn heads_alone() {
    let site = Site::start("", "location = /204 { return 204; } location = /444 { return 444; }");
    let client = site.client().await;
    let head = client.send("HEAD", "/", true).await.0.await.unwrap();
    assert_eq!(head.headers()["content-length"], "15");
    assert!(head.headers().contains_key("date"));
    assert!(head.into_body().is_end_stream());
    let none = client.send("GET", "/204", true).await.0.await.unwrap();
    assert!(!none.headers().contains_key("content-length"));
    assert!(none.into_body().is_end_stream());
    assert!(client.send("GET", "/444", true).await.0.await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let site = Site::start("", "");
    let client = site.client().await;
    let (answer, mut stream) = client.send("GET", "/never", true).await;
    assert_eq!(client.get("/x").await.0, 200);
    stream.send_reset(Reason::CANCEL);
    drop(answer);
    LEFT.notified().await;
}

#[tokio::test]
async fn who_takes_back_what_he_asks_for_is_sent_away() {
    let site = Site::start("", "");
    let client = site.client().await;
    let mut sender = client.sender.clone();
    for _ in 0..100_000 {
        let request = http::Request::get("http://localhost/big").version(http::Version::HTTP_2);
        let Ok(ready) = sender.ready().await else { break };
        sender = ready;
        let Ok((_, mut stream)) = sender.send_request(request.body(()).unwrap(), true) else { break };
        stream.send_reset(Reason::CANCEL);
        tokio::task::yield_now().await;
    }
    let end = client.end.await.unwrap().unwrap_err();
    assert_eq!(end.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{end:?}");
}

#[tokio::test]
async fn a_connection_ends_when_idle_or_spent_or_told() {
    let idle = Site::start("keepalive_timeout 50ms;", "");
    let client = idle.client().await;
    assert_eq!(client.get("/x").await.0, 200);
    client.end.await.unwrap().unwrap();

    let spent = Site::start("keepalive_requests 2;", "");
    let client = spent.client().await;
    assert_eq!(client.get("/x").await.0, 200);
    assert_eq!(client.get("/x").await.0, 200);
    client.end.await.unwrap().unwrap();

    let told = Site::start("", "");
    let client = told.client().await;
    assert_eq!(client.get("/x").await.0, 200);
    // One that has connected and said nothing holds up the end no more than an idle one.
    let _silent = told.socket("tls").await;
    told.worker.order(Order::Quit);
    client.end.await.unwrap().unwrap();
    while !told.worker.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_open_connection_sees_the_next_configuration() {
    let site = Site::start("", "");
    let client = site.client().await;
    assert_eq!(client.get("/gone").await.0, 200);
    site.reload("", "location = /gone { return 410; }");
    assert_eq!(client.get("/gone").await.0, 410);
}

fn trusting() -> ClientConfig {
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/dev.pem");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
    let provider = Arc::new(crate::tls::config::standard_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

#[tokio::test]
async fn a_session_resumes_over_a_reload() {
    let site = Site::start("", "");
    let config = Arc::new(trusting());
    for (expected, round) in [(".", 0), ("r", 1), ("r", 2)] {
        let tls = site.tls(&config, "localhost").await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let client = Client::over(tls, 65_535).await;
        let want = format!("TLSv1.3:{expected}:localhost");
        assert_eq!(client.get("/tls").await.1, want.into_bytes(), "round {round}");
        site.reload("", "");
    }
    let counters = &site.edge.workers[0].connections;
    assert_eq!((counters.handshakes.get(), counters.handshakes_resumed.get()), (1, 2));
}

#[tokio::test]
async fn a_server_that_rejects_says_so_and_it_is_counted() {
    let site = Site::start("", "");
    let refused = site.tls(&Arc::new(trusting()), "refused.localhost").await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    let mut no_common = trusting();
    no_common.alpn_protocols = vec![b"spdy".to_vec()];
    assert!(site.tls(&Arc::new(no_common), "localhost").await.is_err());
    // It is counted once the client has been told.
    let failed = &site.edge.workers[0].connections.handshakes_failed;
    let counted = async {
        while failed.get() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), counted).await.unwrap();
}
