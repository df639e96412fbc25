//! Signals other than a reload of the configuration's text: new certificates, reopened logs, and the two ways to end.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;

use crate::support::certificate::{self, Pem};
use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::http2::Http2;
use crate::support::origin::{Answer, Feed, Origin};
use crate::support::server::{Plan, Server, Signal, is_nginx};
use crate::support::tls::Tls;

const CONFIG: &str = "
    worker_processes 2;
    events {}
    http {
        access_log logs/access.log;
        error_log logs/error.log;
        server {
            listen 8080;
            listen 8443 ssl;
            http2 on;
            ssl_certificate certs/cert.pem;
            ssl_certificate_key certs/key.pem;
            root {prefix};
            location = /text { return 200 text; }
            location = /slow { proxy_pass http://127.0.0.1:8000; proxy_http_version 1.1; proxy_buffering off; }
        }
    }";

#[tokio::test]
async fn new_handshakes_see_a_new_certificate() {
    let (old, new) = (certificate::for_names(&["localhost"]), certificate::for_names(&["localhost"]));
    let (server, _feeds, _api) = start(&old).await;
    let addr = server.addr(8443);
    let connection = Http2::connect(addr, "localhost").await;
    assert_eq!(connection.tls.certificate, der(&old));

    write_pair(&server, &new);
    let (_, agreed) = Tls::new().connect(addr, "localhost").await;
    assert_eq!(agreed.certificate, der(&old), "before it is told");

    server.signal(Signal::HUP);
    eventually("the new certificate", || async {
        let (_, agreed) = Tls::new().connect(addr, "localhost").await;
        (agreed.certificate == der(&new)).then_some(())
    })
    .await;
    if !is_nginx() {
        assert_eq!(connection.get("/text").await.text(), "text");
    }
}

#[tokio::test]
async fn a_key_that_does_not_fit_changes_nothing() {
    let (old, new) = (certificate::for_names(&["localhost"]), certificate::for_names(&["localhost"]));
    let (server, _feeds, _api) = start(&old).await;
    server.write("certs/cert.pem", &new.certificate);
    server.signal(Signal::HUP);
    eventually("the error", || async {
        let log = server.read("logs/error.log").unwrap_or_default() + &server.stderr();
        log.lines().any(|line| line.contains("[emerg]") && line.contains(".pem")).then_some(())
    })
    .await;
    let (_, agreed) = Tls::new().connect(server.addr(8443), "localhost").await;
    assert_eq!(agreed.certificate, der(&old));
}

#[tokio::test]
async fn usr1_reopens_the_logs() {
    let (server, _feeds, _api) = start(certificate::shared()).await;
    let addr = server.addr(8080);
    let logged = async |name: &str, text: &str| {
        eventually(&format!("{text} in {name}"), || async {
            server.read(name).is_some_and(|log| log.contains(text)).then_some(())
        })
        .await;
    };
    for name in ["access", "error"] {
        let at = |suffix: &str| server.prefix().join(format!("logs/{name}.log{suffix}"));
        std::fs::rename(at(""), at(".1")).unwrap();
    }
    // A file keeps its writer under its new name until the writer is told.
    get(addr, "/first").await;
    logged("logs/access.log.1", "GET /first ").await;
    logged("logs/error.log.1", "/first").await;

    server.signal(Signal::USR1);
    eventually("new files", || async {
        let both = server.read("logs/access.log").and(server.read("logs/error.log"));
        both.map(|_| ())
    })
    .await;
    // Each worker takes its turn to reopen.
    eventually("a request in the new files", || async {
        get(addr, "/second").await;
        let wrote = |name: &str| server.read(name).is_some_and(|log| log.contains("/second"));
        (wrote("logs/access.log") && wrote("logs/error.log")).then_some(())
    })
    .await;
    assert!(!server.read("logs/access.log").unwrap().contains("/first"));
}

#[tokio::test]
async fn quit_lets_answers_in_progress_end() {
    let (server, mut feeds, _api) = start(certificate::shared()).await;
    let addr = server.addr(8080);
    let mut idle = Client::connect(addr).await;
    assert_eq!(idle.get("/text").await.text(), "text");
    let mut h1 = Client::connect(addr).await;
    h1.send_request("GET", "/slow", &[], b"").await;
    let h1_feed = feeds.recv().await.unwrap();
    h1_feed.send("first,").await;
    assert_eq!(h1.head("GET").await.status, 200);
    assert_eq!(h1.take(6).await, b"first,");
    let h2 = Http2::connect(server.addr(8443), "localhost").await;
    let first = async {
        let feed = feeds.recv().await.unwrap();
        feed.send("first,").await;
        feed
    };
    let (stream, h2_feed) = tokio::join!(h2.start("GET", "/slow", &[], b""), first);
    let mut stream = stream.unwrap();
    assert_eq!(stream.take(6).await, b"first,");

    server.signal(Signal::QUIT);
    eventually("new connections are refused", || async { TcpStream::connect(addr).await.err() }).await;
    idle.closed().await;
    for feed in [h1_feed, h2_feed] {
        feed.send("last").await;
    }
    assert_eq!(h1.take(4).await, b"last");
    assert_eq!(h1.piece().await, None);
    assert_eq!(stream.take(4).await, b"last");
    // The end may come in a frame of its own, with nothing in it.
    assert!(stream.piece().await.is_none_or(|rest| rest.is_empty()));
    assert_eq!(server.exited().await.code(), Some(0));
    assert_eq!(server.read("server.pid"), None);
}

#[tokio::test]
async fn term_and_int_end_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let (server, mut feeds, _api) = start(certificate::shared()).await;
        let mut client = Client::connect(server.addr(8080)).await;
        client.send_request("GET", "/slow", &[], b"").await;
        // Held, so that the answer could go on for ever.
        let _feed = feeds.recv().await.unwrap();
        assert_eq!(client.head("GET").await.status, 200);
        server.signal(signal);
        assert_eq!(server.exited().await.code(), Some(0));
        // A body cut short must not look whole.
        assert!(client.try_piece().await.is_err());
        assert_eq!(server.read("server.pid"), None);
    }
}

/// Feeds of the slow answers that were asked for.
type Feeds = tokio::sync::mpsc::UnboundedReceiver<Feed>;

async fn start(pair: &Pem) -> (Server, Feeds, Origin) {
    let (send_feed, feeds) = tokio::sync::mpsc::unbounded_channel();
    let api = Origin::answering(move |_| {
        let (answer, feed) = Answer::stream();
        send_feed.send(feed).expect("the test holds the receiver");
        answer
    })
    .await;
    let server = Plan::new(CONFIG)
        .file("certs/cert.pem", pair.certificate.clone())
        .file("certs/key.pem", pair.key.clone())
        .upstream("127.0.0.1:8000", api.addr())
        .start()
        .await;
    (server, feeds, api)
}

fn write_pair(server: &Server, pair: &Pem) {
    server.write("certs/cert.pem", &pair.certificate);
    server.write("certs/key.pem", &pair.key);
}

fn der(pair: &Pem) -> Vec<u8> {
    CertificateDer::from_pem_slice(&pair.certificate).unwrap().to_vec()
}
