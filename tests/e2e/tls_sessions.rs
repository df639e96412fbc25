//! Sessions of clients that come back: on any worker, after a reload, on another host with the same keys.

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{Plan, Server, Signal};
use crate::support::tls::Tls;

/// `SESSIONS` is how they are kept; `GENERATION` tells one configuration from the next.
const CONFIG: &str = "
    worker_processes 4;
    events { worker_connections 256; }
    http {
        access_log off;
        ssl_certificate certs/cert.pem;
        ssl_certificate_key certs/key.pem;
        SESSIONS
        server { listen 8443 ssl; server_name localhost; location / { return 200 '$ssl_session_reused GENERATION'; } }
    }";

/// Connections of one client: the kernel chooses the worker by their ports.
const CONNECTIONS: usize = 12;

fn text(sessions: &str, generation: &str) -> String {
    CONFIG.replace("SESSIONS", sessions).replace("GENERATION", generation)
}

async fn start(sessions: &str) -> Server {
    Plan::new(&text(sessions, "1")).certificate().start().await
}

/// One connection, and what the server says of it.
async fn visit(tls: &Tls, server: &Server) -> (HandshakeKind, String) {
    let mut client = Client::tls_with(tls, server.addr(8443), "localhost").await;
    let said = client.get("/").await.text();
    (client.tls.unwrap().kind, said)
}

/// Whether the next connection resumes, as both sides see it.
async fn resumes(tls: &Tls, server: &Server) -> bool {
    let (kind, said) = visit(tls, server).await;
    assert_eq!(kind == HandshakeKind::Resumed, said.starts_with("r "), "{kind:?} {said}");
    kind == HandshakeKind::Resumed
}

#[tokio::test]
async fn a_session_is_resumed_on_any_worker_and_after_a_reload() {
    for sessions in ["", "ssl_session_tickets off; ssl_session_cache shared:sessions:1m;"] {
        let mut server = start(sessions).await;
        for version in [&TLS12, &TLS13] {
            let tls = Tls::with(&[version], |_| true);
            assert!(!resumes(&tls, &server).await);
            for n in 0..CONNECTIONS {
                assert!(resumes(&tls, &server).await, "{sessions} {version:?} {n}");
            }
        }
        let tls = Tls::with(&[&TLS13], |_| true);
        visit(&tls, &server).await;
        server.configure(&text(sessions, "2"));
        server.signal(Signal::HUP);
        let other = Tls::new();
        eventually("the reload", || async { visit(&other, &server).await.1.ends_with('2').then_some(()) })
            .await;
        for n in 0..CONNECTIONS {
            assert!(resumes(&tls, &server).await, "{sessions} {n}");
        }
    }
}

#[tokio::test]
async fn keys_from_a_file_are_shared_by_hosts() {
    let keyed = |file: &str, byte: u8| {
        let plan = Plan::new(&text(&format!("ssl_session_ticket_key {file};"), "1"));
        plan.certificate().file(file, vec![byte; 80])
    };
    // The second host has the first one's key as an older one.
    let (first, other) = (keyed("one.key", 1).start().await, keyed("one.key", 2).start().await);
    let files = "ssl_session_ticket_key two.key; ssl_session_ticket_key one.key;";
    let second = Plan::new(&text(files, "1")).certificate();
    let second = second.file("two.key", vec![2; 80]).file("one.key", vec![1; 80]).start().await;
    for version in [&TLS12, &TLS13] {
        let tls = Tls::with(&[version], |_| true);
        assert!(!resumes(&tls, &first).await);
        assert!(resumes(&tls, &second).await, "{version:?}");
        // What it gave is sealed with its newer key, which the third host has and the first has not.
        assert!(resumes(&tls, &other).await, "{version:?}");
        assert!(!resumes(&tls, &first).await, "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_resumes_gets_a_new_ticket_each_time() {
    let server = start("").await;
    // A client of TLS 1.3 uses a ticket once.
    let tls = Tls::with(&[&TLS13], |_| true);
    let mut resumed = 0;
    for _ in 0..8 {
        resumed += usize::from(resumes(&tls, &server).await);
    }
    assert_eq!(resumed, 7);
}
