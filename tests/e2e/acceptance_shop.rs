//! A live shop: pages, an API with Socket.IO, FLV and HLS. Every promise of its configuration, each by a request.
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::support::burst::Burst;
use crate::support::client::{Client, Response, get};
use crate::support::http2::Http2;
use crate::support::origin::{Answer, Feed, Origin};
use crate::support::server::{Plan, Server, is_nginx};
use crate::support::tls::{Tls, s_client};
use crate::support::websocket::WebSocket;
use crate::support::{eventually, within};

const CONFIG: &str = include_str!("../data/acceptance/shop.conf");
const MIME: &str = include_str!("../data/acceptance/mime.types");
const NAME: &str = "shop.example";
const PLAYLIST: &str = "application/vnd.apple.mpegurl";

struct Site {
    server: Server,
    frontend: Origin,
    backend: Origin,
    media: Origin,
}

impl Site {
    async fn start() -> Self {
        Self::with_media(media().await).await
    }

    async fn with_media(media: Origin) -> Self {
        let (frontend, backend) = (frontend().await, backend().await);
        let server = plan(&frontend, &backend, &media).start().await;
        Self { server, frontend, backend, media }
    }

    async fn client(&self) -> Client {
        Client::tls(self.server.addr(8444), NAME).await
    }

    async fn http2(&self) -> Http2 {
        Http2::connect(self.server.addr(8444), NAME).await
    }

    async fn get(&self, target: &str) -> Response {
        self.client().await.get(target).await
    }
}

fn plan(frontend: &Origin, backend: &Origin, media: &Origin) -> Plan {
    Plan::new(CONFIG)
        .upstream("127.0.0.1:3000", frontend.addr())
        .upstream("127.0.0.1:3001", backend.addr())
        .upstream("127.0.0.1:8085", media.addr())
        .file("mime.types", MIME)
        .certificate()
}

async fn frontend() -> Origin {
    Origin::answering(|request| {
        let (kind, length) = match request.path() {
            "/app.css" => ("text/css", 512),
            "/short.css" => ("text/css", 511),
            "/app.js" => ("application/javascript", 2000),
            "/photo.jpg" => ("image/jpeg", 2000),
            "/error" => return Answer::status(500).body("broken"),
            _ => ("text/html", 600),
        };
        Answer::ok("x".repeat(length)).header("Content-Type", kind).header("Server", "frontend/1.0")
    })
    .await
}

async fn backend() -> Origin {
    Origin::answering(|request| match request.header("sec-websocket-key") {
        Some(_) => Answer::websocket_echo("backend"),
        None => Answer::ok(format!("{} {}", request.method, request.target)),
    })
    .await
}

/// Answers each request with its number.
async fn media() -> Origin {
    let number = std::sync::atomic::AtomicUsize::new(1);
    Origin::answering(move |request| {
        let n = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match request.path() {
            "/live/gone.ts" => Answer::status(404).body(format!("none {n}")),
            path if path.ends_with(".m3u8") => {
                Answer::ok(format!("#EXTM3U {n}\n").repeat(60)).header("Content-Type", PLAYLIST)
            }
            _ => Answer::ok(format!("segment {n}"))
                .header("Content-Type", "video/mp2t")
                .header("Accept-Ranges", "bytes"),
        }
    })
    .await
}

/// A media server whose every answer is fed by the test.
async fn fed_media() -> (Origin, mpsc::UnboundedReceiver<Feed>) {
    let (sender, feeds) = mpsc::unbounded_channel();
    let media = Origin::start(move |_| {
        let (answer, feed) = Answer::stream();
        sender.send(feed).unwrap();
        std::future::ready(answer.header("Content-Type", "video/x-flv"))
    })
    .await;
    (media, feeds)
}

#[tokio::test]
async fn the_configuration_loads() {
    let ran = plan(&frontend().await, &backend().await, &media().await).check().await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("test is successful"), "{}", ran.stderr);
}

#[tokio::test]
async fn plain_http_is_sent_to_https() {
    let site = Site::start().await;
    let mut client = Client::connect(site.server.addr(8082)).await;
    for (host, name) in [(NAME, NAME), ("Other.example:8082", "other.example")] {
        let response = client.get_with("/a%20b?c=d", &[("Host", host)]).await;
        assert_eq!(response.status, 301);
        let location = format!("https://{name}:8444/a%20b?c=d");
        assert_eq!(response.header("location"), Some(location.as_str()));
        assert_eq!(response.header("strict-transport-security"), None);
    }
}

#[tokio::test]
async fn pages_come_over_h2_from_the_frontend() {
    let site = Site::start().await;
    let http2 = site.http2().await;
    for _ in 0..5 {
        let response = http2.get("/product?id=1").await;
        assert_eq!((response.status, response.body.len()), (200, 600));
    }
    assert_eq!((site.frontend.count(), site.frontend.connections()), (5, 1));
    let request = site.frontend.last();
    assert_eq!((request.target.as_str(), request.version.as_str()), ("/product?id=1", "HTTP/1.1"));
    assert_eq!(request.header("host"), Some(NAME));
    assert_eq!(request.header("connection"), None);
    let tls = Tls::new().alpn(&["http/1.1"]);
    let mut http1 = Client::tls_with(&tls, site.server.addr(8444), NAME).await;
    assert_eq!(http1.get("/product").await.status, 200);
}

#[tokio::test]
async fn sessions_resume_without_tickets_too() {
    let site = Site::start().await;
    let args = ["-tls1_2", "-no_ticket", "-reconnect"];
    let output = s_client(site.server.addr(8444), NAME, &args, "").await;
    assert!(output.contains("Reused, TLSv1.2"), "{output}");
}

#[tokio::test]
async fn the_version_of_the_server_is_not_told() {
    let site = Site::start().await;
    for response in [site.get("/").await, get(site.server.addr(8082), "/").await] {
        let server = response.header("server").unwrap();
        assert!(!server.contains('/'), "{server}");
        assert!(["nginx", "edgewater"].contains(&server), "{server}");
    }
}

#[tokio::test]
async fn browsers_are_told_to_stay_with_https_even_in_errors() {
    let site = Site::start().await;
    let hsts = "max-age=31536000";
    let error = site.get("/error").await;
    assert_eq!(error.status, 500);
    for response in [error, site.get("/").await, site.get("/api/x").await] {
        let values: Vec<_> = response.values("strict-transport-security").collect();
        assert_eq!(values, [hsts]);
    }
    // A location with an add_header of its own inherits none.
    let playlist = site.get("/hls/a.m3u8").await;
    assert_eq!(playlist.header("strict-transport-security"), None);
    assert_eq!(playlist.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn text_of_512_bytes_and_more_is_compressed() {
    let site = Site::start().await;
    let http2 = site.http2().await;
    let gzip = [("accept-encoding", "gzip")];
    for target in ["/app.css", "/app.js", "/page", "/hls/a.m3u8"] {
        let plain = http2.get(target).await;
        assert_eq!(plain.header("content-encoding"), None);
        assert_eq!(plain.header("vary"), Some("Accept-Encoding"), "{target}");
        let packed = http2.request("GET", target, &gzip, b"").await;
        // Not the same bytes if the playlist is another by now.
        assert_eq!(packed.gunzipped().len(), plain.body.len(), "{target}");
        assert_eq!(packed.header("vary"), Some("Accept-Encoding"));
    }
    for target in ["/short.css", "/photo.jpg"] {
        let response = http2.request("GET", target, &gzip, b"").await;
        assert_eq!(response.header("content-encoding"), None, "{target}");
        assert_eq!(response.header("vary"), None, "{target}");
    }
}

#[tokio::test]
async fn a_body_may_have_ten_megabytes() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let full = vec![b'x'; 10 << 20];
    let response = client.request("POST", "/api/upload", &[], &full).await;
    assert_eq!(response.status, 200);
    assert!(site.backend.last().body == full);
    let mut client = site.client().await;
    let length = ((10 << 20) + 1).to_string();
    let headers = [("Content-Length", length.as_str())];
    client.send_request("POST", "/api/upload", &headers, b"").await;
    assert_eq!(client.response("POST").await.status, 413);
    assert_eq!(site.backend.count(), 1);
}

#[tokio::test]
async fn the_api_is_limited_by_address() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let burst = Burst::of(&mut client, 50, "/api/x").await;
    burst.assert_limit(10.0, 20, 503);
    assert_eq!(site.backend.count(), burst.admitted(503));
    // Pages are not.
    assert_eq!(Burst::of(&mut client, 50, "/x").await.admitted(503), 50);
}

#[tokio::test]
async fn the_api_is_told_who_asked() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let headers = [("X-Forwarded-For", "192.0.2.9"), ("X-Real-IP", "192.0.2.9")];
    let response = client.request("PUT", "/api/cart", &headers, b"1").await;
    assert_eq!(response.text(), "PUT /api/cart");
    let request = site.backend.last();
    let all = |name| request.values(name).collect::<Vec<_>>();
    assert_eq!(all("Host"), [NAME]);
    assert_eq!(all("X-Real-IP"), ["127.0.0.1"]);
    assert_eq!(all("X-Forwarded-For"), ["192.0.2.9, 127.0.0.1"]);
    client.get("/api/again").await;
    assert_eq!(site.backend.connections(), 1);
}

#[tokio::test]
async fn socket_io_opens_a_websocket() {
    let site = Site::start().await;
    let target = "/socket.io/?EIO=4&transport=websocket";
    let mut socket = WebSocket::open(site.client().await, target, &[]).await;
    assert_eq!(socket.echo("2probe").await, "backend:2probe");
    let long = "x".repeat(100_000);
    assert_eq!(socket.echo(&long).await, format!("backend:{long}"));
    let request = site.backend.last();
    assert_eq!(request.target, target);
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert_eq!(request.header("connection"), Some("upgrade"));
    assert_eq!(request.header("host"), Some(NAME));
    socket.close().await;
    site.backend.wait_open(0).await;
}

#[tokio::test]
async fn socket_io_polls_before_it_upgrades() {
    let site = Site::start().await;
    let target = "/socket.io/?EIO=4&transport=polling";
    let response = site.http2().await.get(target).await;
    assert_eq!(response.text(), format!("GET {target}"));
    let request = site.backend.last();
    assert_eq!(request.header("connection"), Some("upgrade"));
    // $http_upgrade is empty, so the field is not sent.
    assert_eq!(request.header("upgrade"), None);
}

#[tokio::test]
async fn flv_reaches_the_viewer_as_it_is_published() {
    let (media, mut feeds) = fed_media().await;
    let site = Site::with_media(media).await;
    let mut over_h1 = site.client().await;
    over_h1.send_request("GET", "/live/live/room.flv?k=v", &[], b"").await;
    let feed_h1 = within("a viewer", feeds.recv()).await.unwrap();
    assert_eq!(site.media.last().target, "/live/room.flv?k=v");
    assert_eq!(site.media.last().header("connection"), None);
    let head = over_h1.head("GET").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("video/x-flv"));
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));

    let http2 = site.http2().await;
    // nginx 1.22 holds an h2 head back until there is a body, so the first tag is sent at once.
    let publish = async {
        let feed = within("a viewer", feeds.recv()).await.unwrap();
        feed.send("FLV\x01\x05").await;
        feed
    };
    let (over_h2, feed_h2) = tokio::join!(http2.start("GET", "/live/live/room.flv", &[], b""), publish);
    let mut over_h2 = over_h2.unwrap();
    assert_eq!(over_h2.take(5).await, b"FLV\x01\x05");

    // Each tag is sent when the one before has arrived, so it cannot have waited for more bytes.
    for tag in [&b"tag 1"[..], b"t", b"tag 3"] {
        feed_h1.send(tag).await;
        assert_eq!(over_h1.take(tag.len()).await, tag);
        feed_h2.send(tag).await;
        assert_eq!(over_h2.take(tag.len()).await, tag);
    }
    drop((feed_h1, feed_h2));
    assert_eq!(over_h1.piece().await, None);
    assert_eq!(over_h2.piece().await, None);
}

#[tokio::test]
async fn an_flv_stream_ends_at_the_origin_when_its_viewer_leaves() {
    let (media, mut feeds) = fed_media().await;
    let site = Site::with_media(media).await;
    let mut viewer = site.client().await;
    viewer.send_request("GET", "/live/live/a.flv", &[], b"").await;
    let feed = within("a viewer", feeds.recv()).await.unwrap();
    feed.send("FLV").await;
    viewer.head("GET").await;
    assert_eq!(viewer.take(3).await, b"FLV");
    drop(viewer);
    feed.closed().await;
}

#[tokio::test]
async fn an_flv_stream_that_breaks_does_not_look_whole() {
    let (media, mut feeds) = fed_media().await;
    let site = Site::with_media(media).await;
    let mut viewer = site.client().await;
    viewer.send_request("GET", "/live/live/a.flv", &[], b"").await;
    let feed = within("a viewer", feeds.recv()).await.unwrap();
    feed.send("FLV").await;
    viewer.head("GET").await;
    viewer.take(3).await;
    feed.abort().await;
    assert!(viewer.try_piece().await.is_err());
}

#[tokio::test]
async fn a_published_stream_reaches_the_media_server_as_it_is_sent() {
    let media = Origin::start_early(|_| std::future::ready(Answer::ok("published"))).await;
    let site = Site::with_media(media).await;
    let mut publisher = site.client().await;
    let chunked = [("Transfer-Encoding", "chunked")];
    publisher.send_request("POST", "/live/live/in.flv", &chunked, b"").await;
    // Each part is sent when the one before has arrived, so the request was not held back.
    for part in 1..=3 {
        publisher.send(b"5\r\nhello\r\n").await;
        site.media.uploaded(part * 5).await;
    }
    publisher.send(b"0\r\n\r\n").await;
    assert_eq!(publisher.response("POST").await.text(), "published");
    assert_eq!(site.media.last().target, "/live/in.flv");
}

#[tokio::test]
async fn a_segment_is_fetched_once() {
    let site = Site::start().await;
    let mut client = site.client().await;
    for expected in ["MISS", "HIT", "HIT"] {
        let response = client.get("/hls/room/1.ts").await;
        assert_eq!(response.header("x-cache-status"), Some(expected));
        assert_eq!((response.status, response.text().as_str()), (200, "segment 1"));
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
        assert_eq!(response.header("content-type"), Some("video/mp2t"));
    }
    // The key is the path without the query, for every viewer and protocol.
    let http2 = site.http2().await;
    let response = http2.get("/hls/room/1.ts?token=other").await;
    assert_eq!(response.header("x-cache-status"), Some("HIT"));
    assert_eq!(site.media.hits("/live/room/1.ts"), 1);
    let other = http2.get("/hls/room/2.ts").await;
    assert_eq!(other.header("x-cache-status"), Some("MISS"));
    let part = http2.request("GET", "/hls/room/1.ts", &[("range", "bytes=2-4")], b"").await;
    assert_eq!((part.status, part.text().as_str()), (206, "gme"));
    assert_eq!(site.media.count(), 2);
}

#[tokio::test]
async fn viewers_who_come_together_cause_one_request() {
    let open = Arc::new(watch::Sender::new(false));
    let gate = open.clone();
    let media = Origin::start(move |request| {
        let mut gate = gate.subscribe();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Answer::ok(format!("body of {}", request.target))
        }
    })
    .await;
    let site = Site::with_media(media).await;
    for (round, name) in ["a.ts", "b.m3u8"].into_iter().enumerate() {
        open.send_replace(false);
        let target = format!("/hls/{name}");
        let mut viewers = Vec::new();
        for _ in 0..20 {
            let mut viewer = site.client().await;
            viewer.send_request("GET", &target, &[], b"").await;
            viewers.push(viewer);
        }
        site.media.arrived(round + 1).await;
        // By now the viewers have been read too: this goes through the same workers, after them.
        for _ in 0..10 {
            site.get("/").await;
        }
        open.send_replace(true);
        for viewer in &mut viewers {
            let response = viewer.response("GET").await;
            assert_eq!(response.text(), format!("body of /live/{name}"));
        }
        assert_eq!(site.media.hits(&format!("/live/{name}")), 1);
    }
}

#[tokio::test]
async fn a_missing_segment_is_remembered_for_a_moment() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let request = format!("GET /hls/gone.ts HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    client.send(request.repeat(3).as_bytes()).await;
    for expected in ["MISS", "HIT", "HIT"] {
        let response = client.response("GET").await;
        assert_eq!((response.status, response.text().as_str()), (404, "none 1"));
        assert_eq!(response.header("x-cache-status"), Some(expected));
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    }
    eventually("the 404 to expire", || async {
        let response = site.get("/hls/gone.ts").await;
        let status = response.header("x-cache-status").unwrap();
        assert!(["HIT", "EXPIRED"].contains(&status), "{status}");
        (status == "EXPIRED").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_playlist_is_kept_for_a_second() {
    let site = Site::start().await;
    let mut client = site.client().await;
    // The key is the path without the query.
    let request = |n| format!("GET /hls/a.m3u8?viewer={n} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    client.send((request(1) + &request(2)).as_bytes()).await;
    for expected in ["MISS", "HIT"] {
        let response = client.response("GET").await;
        assert_eq!(response.header("x-cache-status"), Some(expected));
        assert_eq!(response.header("content-type"), Some(PLAYLIST));
        assert!(response.text().starts_with("#EXTM3U 1\n"));
    }
    eventually("the playlist to expire", || async {
        let response = site.get("/hls/a.m3u8?viewer=3").await;
        match response.header("x-cache-status").unwrap() {
            "HIT" => None,
            "EXPIRED" => {
                assert!(response.text().starts_with("#EXTM3U 2\n"));
                Some(())
            }
            other => panic!("{other}"),
        }
    })
    .await;
}

#[tokio::test]
async fn an_old_playlist_is_better_than_none() {
    let site = Site::start().await;
    let fresh = site.get("/hls/a.m3u8").await;
    site.media.stop().await;
    let stale = eventually("a stale playlist", || async {
        let response = Client::tls(site.server.addr(8444), NAME).await.get("/hls/a.m3u8").await;
        assert_eq!(response.status, 200);
        (response.header("x-cache-status") == Some("STALE")).then_some(response)
    })
    .await;
    assert_eq!(stale.body, fresh.body);
    // Of what was never fetched there is nothing old.
    let mut client = Client::tls(site.server.addr(8444), NAME).await;
    assert_eq!(client.get("/hls/b.m3u8").await.status, 502);
    assert_eq!(client.get("/hls/1.ts").await.status, 502);
}

#[tokio::test]
async fn while_one_viewer_renews_a_playlist_the_others_have_the_old_one() {
    let open = Arc::new(watch::Sender::new(true));
    let gate = open.clone();
    let media = Origin::start(move |_| {
        let mut gate = gate.subscribe();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Answer::ok("#EXTM3U\n")
        }
    })
    .await;
    let site = Site::with_media(media).await;
    site.get("/hls/a.m3u8").await;
    open.send_replace(false);
    // Until it expires these are hits. Then one waits for the origin, on which the gate is closed.
    let mut renewing = eventually("an update under way", || async {
        let mut viewer = site.client().await;
        viewer.send_request("GET", "/hls/a.m3u8", &[], b"").await;
        tokio::select! {
            response = viewer.response("GET") => {
                assert_eq!(response.header("x-cache-status"), Some("HIT"));
                None
            }
            () = site.media.arrived(2) => Some(viewer),
        }
    })
    .await;
    // The next are not made to wait.
    let response = site.get("/hls/a.m3u8").await;
    assert_eq!(response.header("x-cache-status"), Some("UPDATING"));
    assert_eq!(response.text(), "#EXTM3U\n");
    assert_eq!(site.media.count(), 2);
    open.send_replace(true);
    let response = renewing.response("GET").await;
    assert_eq!(response.header("x-cache-status"), Some("EXPIRED"));
}

#[tokio::test]
async fn errors_are_not_kept_except_where_it_is_said() {
    let media = Origin::answering(|_| Answer::status(500).body("broken")).await;
    let site = Site::with_media(media).await;
    let mut client = site.client().await;
    for target in ["/hls/a.ts", "/hls/a.m3u8"] {
        for _ in 0..2 {
            let response = client.get(target).await;
            assert_eq!(response.status, 500);
            assert_eq!(response.header("x-cache-status"), Some("MISS"));
        }
    }
    assert_eq!(site.media.count(), 4);
}

#[tokio::test]
async fn only_playlists_and_segments_are_hls() {
    let site = Site::start().await;
    for target in ["/hls/.ts", "/hls/a.mp4", "/x/hls/a.ts"] {
        assert_eq!(site.get(target).await.status, 200);
        assert_eq!(site.frontend.last().target, target);
    }
    assert_eq!(site.media.count(), 0);
    let version = site.frontend.last().version;
    assert_eq!(version, "HTTP/1.1");
    site.get("/hls/a.ts").await;
    // Nothing is said of the protocol here: nginx 1.31 speaks HTTP/1.1, 1.22 spoke 1.0.
    if !is_nginx() {
        assert_eq!(site.media.last().version, "HTTP/1.1");
    }
}
