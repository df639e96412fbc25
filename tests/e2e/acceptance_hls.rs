//! A live HLS site: every promise of its configuration, each by a request that would fail without it.
use std::sync::Arc;

use tokio::sync::watch;

use crate::support::burst::Burst;
use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::metrics::StubStatus;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server};

const CONFIG: &str = include_str!("../data/acceptance/hls.conf");
const SEGMENT: &[u8] = b"0123456789";

async fn site() -> (Server, Origin) {
    let api = Origin::answering(|request| Answer::ok(format!("started {}", request.target))).await;
    let server = plan(&api).start().await;
    (server, api)
}

fn plan(api: &Origin) -> Plan {
    Plan::new(CONFIG)
        .upstream("127.0.0.1:5000", api.addr())
        .file("hls/live/stream_7.m3u8", "#EXTM3U\n")
        .file("hls/live/x.ts", SEGMENT)
}

#[tokio::test]
async fn the_configuration_loads() {
    let api = Origin::answering(|_| Answer::ok("")).await;
    let ran = plan(&api).check().await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("test is successful"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_playlist_that_exists_is_served_from_its_file() {
    let (server, api) = site().await;
    let response = get(server.addr(8080), "/live/stream_7.m3u8").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), "#EXTM3U\n");
    assert_eq!(response.header("content-type"), Some("application/vnd.apple.mpegurl"));
    assert_eq!(response.header("cache-control"), Some("no-cache"));
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert_eq!(api.count(), 0);
}

#[tokio::test]
async fn a_playlist_that_is_missing_starts_its_channel() {
    let (server, api) = site().await;
    let response = get(server.addr(8080), "/live/stream_42.m3u8?token=t").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), "started /channel/42/start");
    // The named location has no add_header of its own, and the one that led to it is not in force any more.
    assert_eq!(response.header("access-control-allow-origin"), None);
    assert_eq!(response.header("cache-control"), None);
    let request = api.last();
    assert_eq!(request.method, "GET");
    assert_eq!(request.version, "HTTP/1.1");
    assert_eq!(request.header("host"), Some("stream_api"));
    assert_eq!(request.header("connection"), None);
}

#[tokio::test]
async fn only_a_number_names_a_channel() {
    let (server, api) = site().await;
    for target in ["/live/stream_a.m3u8", "/live/stream_.m3u8", "/live/stream_1.m3u8x", "/live/stream_1xm3u8"]
    {
        assert_eq!(get(server.addr(8080), target).await.status, 404, "{target}");
    }
    assert_eq!(api.count(), 0);
}

#[tokio::test]
async fn requests_to_the_api_share_a_connection() {
    let (server, api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    for channel in 100..110 {
        let target = format!("/live/stream_{channel}.m3u8");
        assert_eq!(client.get(&target).await.status, 200);
    }
    assert_eq!((api.count(), api.connections()), (10, 1));
}

#[tokio::test]
async fn a_segment_is_served_with_its_type_and_for_any_page() {
    let (server, _api) = site().await;
    let response = get(server.addr(8080), "/live/x.ts").await;
    assert_eq!((response.status, response.body.as_slice()), (200, SEGMENT));
    assert_eq!(response.header("content-type"), Some("video/mp2t"));
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert_eq!(response.header("cache-control"), None);
    assert_eq!(response.header("accept-ranges"), Some("bytes"));
}

#[tokio::test]
async fn a_segment_that_is_missing_is_404_without_the_header() {
    let (server, api) = site().await;
    let response = get(server.addr(8080), "/live/gone.ts").await;
    assert_eq!(response.status, 404);
    // add_header without `always` leaves errors alone.
    assert_eq!(response.header("access-control-allow-origin"), None);
    assert_eq!(api.count(), 0);
}

#[tokio::test]
async fn types_are_those_of_the_configuration() {
    let api = Origin::answering(|_| Answer::ok("")).await;
    let server = plan(&api)
        .file("hls/a.mp4", "")
        .file("hls/a.m4s", "")
        .file("hls/a.HTML", "")
        .file("hls/a.css", "")
        .start()
        .await;
    let mut client = Client::connect(server.addr(8080)).await;
    for (target, kind) in [
        ("/a.mp4", "video/mp4"),
        ("/a.m4s", "video/mp4"),
        ("/a.HTML", "text/html"),
        // Not in `types`: the default_type.
        ("/a.css", "text/plain"),
    ] {
        let response = client.get(target).await;
        assert_eq!(response.header("content-type"), Some(kind), "{target}");
    }
}

#[tokio::test]
async fn segments_answer_conditions_and_ranges() {
    let (server, _api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    let whole = client.get("/live/x.ts").await;
    let etag = whole.header("etag").unwrap().to_string();
    let modified = whole.header("last-modified").unwrap().to_string();
    let file = std::fs::metadata(server.prefix().join("hls/live/x.ts")).unwrap();
    let mtime = file.modified().unwrap();
    let seconds = mtime.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(etag, format!("\"{:x}-{:x}\"", seconds.as_secs(), file.len()));
    assert_eq!(modified, httpdate::fmt_http_date(mtime));

    for condition in
        [("If-None-Match", etag.as_str()), ("If-None-Match", "*"), ("If-Modified-Since", modified.as_str())]
    {
        let response = client.get_with("/live/x.ts", &[condition]).await;
        assert_eq!((response.status, response.body.len()), (304, 0), "{condition:?}");
        assert_eq!(response.header("etag"), Some(etag.as_str()));
    }
    for condition in [("If-Match", "\"other\""), ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")] {
        // nginx 1.22 drops the connection after a 412, unannounced.
        let mut client = Client::connect(server.addr(8080)).await;
        let response = client.get_with("/live/x.ts", &[condition]).await;
        assert_eq!(response.status, 412, "{condition:?}");
    }
    for (range, status, content_range, body) in [
        ("bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=-3", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=5-99", 206, Some("bytes 5-9/10"), "56789"),
        ("lines=1-2", 200, None, "0123456789"),
    ] {
        let response = client.get_with("/live/x.ts", &[("Range", range)]).await;
        assert_eq!(response.status, status, "{range}");
        assert_eq!(response.header("content-range"), content_range);
        assert_eq!(response.text(), body);
    }
    let beyond = client.get_with("/live/x.ts", &[("Range", "bytes=10-")]).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), Some("bytes */10"));
    let changed = [("Range", "bytes=2-4"), ("If-Range", "\"other\"")];
    assert_eq!(client.get_with("/live/x.ts", &changed).await.status, 200);
    let same = [("Range", "bytes=2-4"), ("If-Range", etag.as_str())];
    assert_eq!(client.get_with("/live/x.ts", &same).await.status, 206);
}

#[tokio::test]
async fn a_file_past_the_directio_size_comes_whole_and_in_parts() {
    let api = Origin::answering(|_| Answer::ok("")).await;
    let big: Vec<u8> = (0..5_000_001_u32).map(|n| (n / 251) as u8).collect();
    let server = plan(&api).file("hls/live/big.ts", big.clone()).start().await;
    let mut client = Client::connect(server.addr(8080)).await;
    assert!(client.get("/live/big.ts").await.body == big);
    let part = client.get_with("/live/big.ts", &[("Range", "bytes=4194301-4999999")]).await;
    assert_eq!(part.status, 206);
    assert!(part.body == big[4_194_301..5_000_000]);
}

#[tokio::test]
async fn segments_are_limited_by_address() {
    let (server, _api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    let burst = Burst::of(&mut client, 90, "/live/x.ts").await;
    burst.assert_limit(30.0, 50, 503);
    let mut other = Client::connect_from([127, 0, 0, 2], server.addr(8080)).await;
    assert_eq!(other.get("/live/x.ts").await.status, 200);
}

#[tokio::test]
async fn playlists_are_limited_by_token() {
    let (server, _api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    let burst = Burst::of(&mut client, 30, "/live/stream_7.m3u8?token=a").await;
    burst.assert_limit(5.0, 10, 503);
    // Another token has its own count, and the same token has one count for every address.
    let other = client.get("/live/stream_7.m3u8?token=b").await;
    assert_eq!(other.status, 200);
    let mut elsewhere = Client::connect_from([127, 0, 0, 2], server.addr(8080)).await;
    let rest = Burst::of(&mut elsewhere, 20, "/live/stream_7.m3u8?token=a").await;
    assert!(rest.admitted(503) < 11, "{rest:?}");
}

#[tokio::test]
async fn playlists_without_a_token_are_limited_by_address() {
    let (server, _api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    let burst = Burst::of(&mut client, 30, "/live/stream_7.m3u8").await;
    burst.assert_limit(5.0, 10, 503);
    let mut other = Client::connect_from([127, 0, 0, 2], server.addr(8080)).await;
    assert_eq!(other.get("/live/stream_7.m3u8").await.status, 200);
}

#[tokio::test]
async fn playlists_of_many_tokens_are_limited_by_address() {
    let (server, _api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    let burst = Burst::with(&mut client, 80, &[], |n| format!("/live/stream_7.m3u8?token={n}")).await;
    burst.assert_limit(30.0, 50, 503);
}

/// A request is limited once: the limit of the location that a `try_files` leads to is not asked again.
#[tokio::test]
async fn starting_channels_is_limited_where_the_playlist_is() {
    let (server, api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    let burst =
        Burst::with(&mut client, 80, &[], |n| format!("/live/stream_{}.m3u8?token={n}", 100 + n)).await;
    burst.assert_limit(30.0, 50, 503);
    assert_eq!(api.count(), burst.admitted(503));
}

#[tokio::test]
async fn an_address_has_fifty_connections_at_most() {
    let api = Origin::answering(|_| Answer::ok("")).await;
    let server = plan(&api).start().await;
    // More than all the buffers between here and there hold.
    let big = std::fs::File::create(server.prefix().join("hls/live/big.ts")).unwrap();
    big.set_len(64 << 20).unwrap();
    let mut viewers = Vec::new();
    for _ in 0..50 {
        let mut viewer = Client::connect_narrow(server.addr(8080)).await;
        viewer.send_request("GET", "/live/big.ts", &[], b"").await;
        assert_eq!(viewer.head("GET").await.status, 200);
        viewers.push(viewer);
    }
    assert_eq!(get(server.addr(8080), "/live/x.ts").await.status, 503);
    let playlist = get(server.addr(8080), "/live/stream_7.m3u8").await;
    assert_eq!(playlist.status, 503, "both locations count in one zone");
    server.reported("conn_limit").await;
    let mut other = Client::connect_from([127, 0, 0, 2], server.addr(8080)).await;
    assert_eq!(other.get("/live/x.ts").await.status, 200);

    viewers.pop();
    eventually("room for one more", || async {
        let response = get(server.addr(8080), "/live/x.ts").await;
        (response.status == 200).then_some(())
    })
    .await;
}

/// Where the playlist is missing, the wait for the channel to start counts.
#[tokio::test]
async fn an_address_has_fifty_playlists_at_most() {
    let open = Arc::new(watch::Sender::new(false));
    let gate = open.clone();
    let api = Origin::start(move |_| {
        let mut gate = gate.subscribe();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Answer::ok("started")
        }
    })
    .await;
    let server = plan(&api).start().await;
    let mut viewers = Vec::new();
    for n in 0..50 {
        let mut viewer = Client::connect(server.addr(8080)).await;
        let target = format!("/live/stream_9.m3u8?token={n}");
        viewer.send_request("GET", &target, &[], b"").await;
        viewers.push(viewer);
    }
    api.arrived(50).await;
    let refused = get(server.addr(8080), "/live/stream_9.m3u8?token=50").await;
    assert_eq!(refused.status, 503);
    open.send_replace(true);
    for viewer in &mut viewers {
        assert_eq!(viewer.response("GET").await.text(), "started");
    }
    assert_eq!(api.count(), 50);
}

#[tokio::test]
async fn more_than_a_thousand_viewers_at_once() {
    let (server, _api) = site().await;
    let connects = (0..1500).map(|_| Client::connect(server.addr(8080)));
    let mut viewers = futures_util::future::join_all(connects).await;
    for viewer in &mut viewers {
        assert_eq!(viewer.get("/x.html").await.status, 404);
    }
    for viewer in &mut viewers {
        assert_eq!(viewer.get("/x.html").await.status, 404, "it is kept open");
    }
}

#[tokio::test]
async fn a_file_used_once_is_not_kept_open() {
    let (server, _api) = site().await;
    server.write("hls/once.ts", SEGMENT);
    // Not below /live/, where try_files uses the file a second time.
    let mut client = Client::connect(server.addr(8080)).await;
    assert_eq!(client.get("/once.ts").await.status, 200);
    std::fs::remove_file(server.prefix().join("hls/once.ts")).unwrap();
    assert_eq!(client.get("/once.ts").await.status, 404);
}

#[tokio::test]
async fn a_file_in_use_stays_open() {
    let (server, _api) = site().await;
    // nginx keeps open files for each worker: one connection, one worker.
    let mut client = Client::connect(server.addr(8080)).await;
    for _ in 0..3 {
        assert_eq!(client.get("/live/x.ts").await.status, 200);
    }
    std::fs::remove_file(server.prefix().join("hls/live/x.ts")).unwrap();
    let response = client.get("/live/x.ts").await;
    assert_eq!((response.status, response.body.as_slice()), (200, SEGMENT));
}

#[tokio::test]
async fn a_file_that_was_missing_stays_missing_while_the_error_is_kept() {
    let (server, _api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    for _ in 0..3 {
        assert_eq!(client.get("/live/late.ts").await.status, 404);
    }
    server.write("hls/live/late.ts", SEGMENT);
    assert_eq!(client.get("/live/late.ts").await.status, 404);
}

/// Asks for the status page until `client` is the only connection and the second; the page, how often it was asked for.
async fn only_connection(client: &mut Client) -> (StubStatus, u64) {
    for asked in 1..1000 {
        let page = StubStatus::parse(&client.get("/nginx_status").await.text());
        // Starting the server took a connection, which may not be gone at once.
        if (page.active, page.accepts) == (1, 2) {
            return (page, asked);
        }
    }
    panic!("it does not come to rest");
}

#[tokio::test]
async fn the_status_page_is_for_this_machine() {
    let (server, _api) = site().await;
    let mut client = Client::connect(server.addr(8080)).await;
    let page = client.get("/nginx_status").await;
    assert_eq!(page.header("content-type"), Some("text/plain"));
    let before = StubStatus::parse(&page.text());
    for _ in 0..4 {
        client.get("/live/x.ts").await;
    }
    let (page, requests) = only_connection(&mut client).await;
    assert_eq!((page.reading, page.writing, page.waiting), (0, 1, 0));
    assert_eq!(page.requests, before.requests + 4 + requests);
    assert_eq!(page.handled, 2);

    let log = eventually("the log", || async {
        server.read("logs/access.log").filter(|log| log.matches("x.ts").count() == 4)
    })
    .await;
    assert!(!log.contains("nginx_status"), "{log}");

    let mut stranger = Client::connect_from([127, 0, 0, 2], server.addr(8080)).await;
    assert_eq!(stranger.get("/nginx_status").await.status, 403);
}
