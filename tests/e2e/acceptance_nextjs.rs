//! A Next.js site behind one TLS and HTTP/2 edge: every promise of its configuration, each by a request.
use std::sync::Arc;

use futures_util::future::join_all;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use tokio::sync::watch;

use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server, is_nginx};
use crate::support::tls::{Tls, s_client};
use crate::support::{certificate, eventually, within};

const CONFIG: &str = include_str!("../data/acceptance/nextjs.conf");
const NAME: &str = "shop.example";

async fn site() -> (Server, Origin) {
    let app = Origin::answering(|request| {
        let (kind, body) = match request.path() {
            "/data.json" => ("application/json; charset=utf-8", "{\"a\":1}\n".repeat(100)),
            "/small.json" => ("application/json", "{\"tiny\": \"19 byt\"}".into()),
            "/picture.png" => ("image/png", "pixels ".repeat(100)),
            "/app.js" => ("application/javascript", "let x;\n".repeat(100)),
            "/plain" => ("text/plain", "words ".repeat(100)),
            // Compressed without being named in gzip_types.
            "/index" => ("text/html", "<p>".repeat(100)),
            "/style.css" => ("text/css", "a{}\n".repeat(100)),
            "/missing" | "/_next/static/missing.js" => return Answer::status(404).body("none"),
            "/big-head" => {
                return Answer::ok("").header("X-Long", &"x".repeat(5000));
            }
            _ => ("text/html", format!("<p>page {}</p>\n", request.target)),
        };
        Answer::ok(body).header("Content-Type", kind)
    })
    .await;
    let server = plan(&app).start().await;
    (server, app)
}

fn plan(app: &Origin) -> Plan {
    Plan::new(CONFIG).upstream("127.0.0.1:3000", app.addr()).certificate()
}

#[tokio::test]
async fn the_configuration_loads() {
    let app = Origin::answering(|_| Answer::ok("")).await;
    let ran = plan(&app).check().await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("test is successful"), "{}", ran.stderr);
}

#[tokio::test]
async fn tls_1_3_and_1_2_with_the_configured_certificate() {
    let (server, _app) = site().await;
    for (version, agreed) in [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)] {
        let tls = Tls::with(&[version], |_| true);
        let mut client = Client::tls_with(&tls, server.addr(8443), NAME).await;
        assert_eq!(client.get("/").await.text(), "<p>page /</p>\n");
        let tls = client.tls.unwrap();
        assert_eq!(tls.version, agreed);
        let pem = &certificate::shared().certificate;
        use rustls_pki_types::pem::PemObject;
        let der = rustls_pki_types::CertificateDer::from_pem_slice(pem).unwrap();
        assert_eq!(tls.certificate, der.to_vec());
    }
}

#[tokio::test]
async fn an_older_tls_is_refused() {
    let (server, _app) = site().await;
    let all_ciphers = "ALL:@SECLEVEL=0";
    let output = s_client(server.addr(8443), NAME, &["-tls1_1", "-cipher", all_ciphers], "").await;
    assert!(output.contains("Cipher is (NONE)"), "{output}");
    let output = s_client(server.addr(8443), NAME, &["-tls1_2", "-cipher", all_ciphers], "").await;
    assert!(output.contains("Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"), "{output}");
}

#[tokio::test]
async fn tls_1_2_has_the_configured_ciphers_only() {
    let (server, _app) = site().await;
    let addr = server.addr(8443);
    let wanted = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let client = Client::tls_with(&Tls::with(&[&TLS12], |_| true), addr, NAME).await;
    assert_eq!(client.tls.unwrap().suite, wanted);
    let others = Tls::with(&[&TLS12], |suite| suite != wanted);
    others.try_connect(addr, NAME).await.unwrap_err();
    // The list is of TLS 1.2; it takes nothing from 1.3.
    let chacha = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    let only_chacha = Tls::with(&[&TLS13], |suite| suite == chacha);
    let client = Client::tls_with(&only_chacha, addr, NAME).await;
    assert_eq!(client.tls.unwrap().suite, chacha);
}

#[tokio::test]
async fn sessions_resume_from_the_shared_cache_without_tickets() {
    let (server, _app) = site().await;
    for version in [&TLS12, &TLS13] {
        let tls = Tls::with(&[version], |_| true);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut client = Client::tls_with(&tls, server.addr(8443), NAME).await;
            // In TLS 1.3 the session comes after the handshake, before or with the answer.
            client.get("/").await;
            assert_eq!(client.tls.unwrap().kind, expected, "{version:?}");
        }
    }
    let output = s_client(server.addr(8443), NAME, &["-tls1_2"], "").await;
    assert!(output.contains("Session-ID: "), "{output}");
    assert!(!output.contains("TLS session ticket"), "{output}");
}

/// nginx takes early data, which may be replayed. Edgewater offers none, and says so when it reads `ssl_early_data`:
/// who would send some resumes the session and asks after the handshake.
#[tokio::test]
async fn a_client_with_early_data_is_answered() {
    let (server, app) = site().await;
    let (addr, session) = (server.addr(8443), server.prefix().join("session"));
    let session = session.to_str().unwrap();
    let request = |target: &str, then: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {NAME}\r\nConnection: {then}\r\n\r\n")
    };
    let args = ["-ign_eof", "-sess_out", session];
    s_client(addr, NAME, &args, &request("/first", "close")).await;
    server.write("early", request("/early", "keep-alive"));
    let early = server.prefix().join("early");
    let early = early.to_str().unwrap();
    let args = ["-ign_eof", "-sess_in", session, "-early_data", early];
    let output = s_client(addr, NAME, &args, &request("/late", "close")).await;
    assert!(output.contains("Reused, TLSv1.3"), "{output}");
    assert!(output.contains("<p>page /late</p>"), "{output}");
    let said = match is_nginx() {
        true => "Early data was accepted",
        false => "Early data was not sent",
    };
    assert!(output.contains(said), "{output}");
    assert_eq!(app.hits("/early"), usize::from(is_nginx()));
}

#[tokio::test]
async fn alpn_prefers_h2_and_keeps_http_1_1() {
    let (server, _app) = site().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    assert_eq!(http2.get("/a?b=c").await.text(), "<p>page /a?b=c</p>\n");
    let tls = Tls::new().alpn(&["http/1.1"]);
    let mut client = Client::tls_with(&tls, server.addr(8443), NAME).await;
    assert_eq!(client.tls.as_ref().unwrap().alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(client.get("/a").await.status, 200);
    let mut no_alpn = Client::tls(server.addr(8443), NAME).await;
    assert_eq!(no_alpn.get("/a").await.status, 200);
}

#[tokio::test]
async fn the_app_is_told_who_asked_and_how() {
    let (server, app) = site().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    let headers = [("x-forwarded-for", "192.0.2.1"), ("cookie", "a=b")];
    http2.request("POST", "/api?x=1", &headers, b"form").await;
    let request = app.last();
    assert_eq!(
        (request.method.as_str(), request.target.as_str(), request.version.as_str()),
        ("POST", "/api?x=1", "HTTP/1.1")
    );
    let all = |name| request.values(name).collect::<Vec<_>>();
    assert_eq!(all("Host"), [NAME]);
    assert_eq!(all("X-Real-IP"), ["127.0.0.1"]);
    assert_eq!(all("X-Forwarded-For"), ["192.0.2.1, 127.0.0.1"]);
    assert_eq!(all("X-Forwarded-Proto"), ["https"]);
    assert_eq!(all("Cookie"), ["a=b"]);
    assert_eq!(all("Connection"), [""; 0]);
    assert_eq!(request.body, b"form");

    let mut client = Client::tls(server.addr(8443), NAME).await;
    let headers = [("Host", "Shop.Example:8443"), ("X-Forwarded-Proto", "http")];
    client.get_with("/", &headers).await;
    let request = app.last();
    let all = |name| request.values(name).collect::<Vec<_>>();
    // $host is in lower case and without the port.
    assert_eq!(all("Host"), ["shop.example"]);
    assert_eq!(all("X-Forwarded-For"), ["127.0.0.1"]);
    assert_eq!(all("X-Forwarded-Proto"), ["https"]);
}

#[tokio::test]
async fn viewers_share_few_connections_to_the_app() {
    let (server, app) = site().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    for n in 0..30 {
        assert_eq!(http2.get(&format!("/{n}")).await.status, 200);
    }
    assert_eq!((app.count(), app.connections()), (30, 1));
}

/// An app that answers the requests of a round, which is their path, when the gate has been set to it.
async fn gated_app() -> (Origin, Arc<watch::Sender<u32>>) {
    let open = Arc::new(watch::Sender::new(0));
    let gate = open.clone();
    let app = Origin::start(move |request| {
        let mut gate = gate.subscribe();
        async move {
            let round: u32 = request.target[1..].parse().unwrap();
            gate.wait_for(|&passed| passed >= round).await.unwrap();
            Answer::ok("")
        }
    })
    .await;
    (app, open)
}

#[tokio::test]
async fn a_hundred_connections_to_the_app_are_used_again() {
    let (app, gate) = gated_app().await;
    let server = plan(&app).start().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    for round in 1..=2_u32 {
        let target = format!("/{round}");
        let requests = (0..100).map(|_| http2.get(&target));
        let release = async {
            app.arrived(100 * round as usize).await;
            gate.send_replace(round);
        };
        let (answers, ()) = tokio::join!(join_all(requests), release);
        assert!(answers.iter().all(|answer| answer.status == 200));
    }
    assert_eq!((app.count(), app.connections()), (200, 100));
}

#[tokio::test]
async fn of_many_connections_to_the_app_256_are_kept() {
    let (app, gate) = gated_app().await;
    let server = plan(&app).one_worker().start().await;
    let mut viewers = Vec::new();
    for _ in 0..6 {
        viewers.push(Http2::connect(server.addr(8443), NAME).await);
    }
    let requests = viewers.iter().flat_map(|viewer| (0..100).map(|_| viewer.get("/1")));
    let release = async {
        app.arrived(600).await;
        gate.send_replace(1);
    };
    let (answers, ()) = tokio::join!(join_all(requests), release);
    assert!(answers.iter().all(|answer| answer.status == 200));
    eventually("the connections that are too many to close", || async { (app.open() <= 256).then_some(()) })
        .await;
    assert_eq!(app.open(), 256);
}

#[tokio::test]
async fn text_is_compressed_for_who_takes_it() {
    let (server, _app) = site().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    let mut http1 = Client::tls(server.addr(8443), NAME).await;
    let gzip = [("accept-encoding", "gzip, br")];
    for target in ["/data.json", "/app.js", "/plain", "/style.css", "/index"] {
        let plain = http2.get(target).await;
        assert_eq!(plain.header("content-encoding"), None, "{target}");
        let packed = http2.request("GET", target, &gzip, b"").await;
        assert_eq!(packed.gunzipped(), plain.body, "{target}");
        assert_eq!(packed.header("content-type"), plain.header("content-type"));
        assert_eq!(packed.header("content-length"), None);
        let packed = http1.get_with(target, &gzip).await;
        assert_eq!(packed.gunzipped(), plain.body, "{target}");
    }
    for target in ["/small.json", "/picture.png"] {
        let response = http2.request("GET", target, &gzip, b"").await;
        assert_eq!(response.header("content-encoding"), None, "{target}");
        assert!(response.header("content-length").is_some());
    }
}

#[tokio::test]
async fn static_files_of_a_build_never_change() {
    let (server, app) = site().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    let target = "/_next/static/chunk.js";
    for _ in 0..2 {
        let response = http2.get(target).await;
        assert_eq!(response.header("cache-control"), Some("public, immutable, max-age=31536000"));
    }
    // proxy_cache_valid without proxy_cache keeps nothing.
    assert_eq!(app.hits(target), 2);
    let request = app.last();
    // None of the other location's proxy_set_header is in force here.
    assert_eq!(request.header("host"), Some("nextjs"));
    assert_eq!(request.header("x-real-ip"), None);
    assert_eq!(request.header("x-forwarded-proto"), None);
    // nginx 1.31 speaks HTTP/1.1 to an upstream and keeps the connection where nothing is said; 1.22 spoke 1.0.
    if !is_nginx() {
        assert_eq!(request.version, "HTTP/1.1");
        assert_eq!(request.header("connection"), None);
    }
    let missing = http2.get("/_next/static/missing.js").await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.header("cache-control"), None);
    let page = http2.get("/").await;
    assert_eq!(page.header("cache-control"), None);
}

#[tokio::test]
async fn errors_of_the_app_are_passed_on() {
    let (server, _app) = site().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    let response = http2.get("/missing").await;
    assert_eq!((response.status, response.text().as_str()), (404, "none"));
}

#[tokio::test]
async fn a_head_larger_than_proxy_buffer_size_is_refused() {
    let (server, _app) = site().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    assert_eq!(http2.get("/big-head").await.status, 502);
}

#[tokio::test]
async fn a_slow_viewer_does_not_hold_the_app() {
    let (sender, mut feeds) = tokio::sync::mpsc::unbounded_channel();
    let app = Origin::start(move |_| {
        let (answer, feed) = Answer::stream();
        sender.send(feed).unwrap();
        std::future::ready(answer)
    })
    .await;
    let server = plan(&app).start().await;
    let http2 = Http2::connect(server.addr(8443), NAME).await;
    let publish = async {
        let feed = within("a request", feeds.recv()).await.unwrap();
        for n in 0..20_u8 {
            feed.send(vec![n; 1 << 20]).await;
        }
    };
    // The viewer takes the head, and nothing of the body before the app is done.
    let (viewer, ()) = tokio::join!(http2.start("GET", "/film", &[], b""), publish);
    let mut viewer = viewer.unwrap();
    for n in 0..20_u8 {
        assert!(viewer.take(1 << 20).await.iter().all(|&byte| byte == n));
    }
    assert_eq!(viewer.piece().await, None);
}
