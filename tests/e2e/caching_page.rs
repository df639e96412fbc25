//! The recipes of docs/caching.md do what the page says of them: each is taken from the page and run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::{Client, Response};
use crate::support::origin::{Answer, Origin, Request};
use crate::support::server::{Plan, Server};

/// The configuration under this heading, with its one origin in the place of all that it names.
fn recipe(heading: &str, origin: &Origin) -> Plan {
    let page = include_str!("../../docs/caching.md");
    let (_, section) = page.split_once(&format!("\n### {heading}\n")).expect("the heading is on the page");
    let (_, block) = section.split_once("```nginx\n").expect("a configuration below the heading");
    let (text, _) = block.split_once("```").expect("its end");
    let address = regex::Regex::new(r"10\.0\.0\.10(:\d+)?").unwrap();
    let text = address.replace_all(text, origin.addr().to_string());
    Plan::new(&text.replace("/var/cache/nginx", "{prefix}").replace("/etc/nginx/", "")).certificate()
}

async fn get(edge: &Server, target: &str, fields: &[(&str, &str)]) -> Response {
    Client::connect(edge.addr(80)).await.get_with(target, fields).await
}

/// Answers until it is told to fail, then with 503.
async fn failing_origin() -> (Origin, Arc<AtomicBool>) {
    let down = Arc::<AtomicBool>::default();
    let seen = down.clone();
    let origin = Origin::answering(move |request| match seen.load(Ordering::Relaxed) {
        true => Answer::status(503),
        false => Answer::ok(format!("at {}", request.target)).header("Set-Cookie", "visit=1"),
    });
    (origin.await, down)
}

const PLAYLIST: &str =
    "#EXTM3U\n#EXT-X-TARGETDURATION:600\n#EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:600,\n7.ts\n#EXTINF:600,\n8.ts\n";

#[tokio::test]
async fn viewers_of_a_live_stream_share_what_the_origin_is_asked_for() {
    let origin = Origin::answering(|request| match request.path() {
        "/live/tv.m3u8" => Answer::ok(PLAYLIST),
        "/live/8.ts" => Answer::ok("segment"),
        _ => Answer::status(404),
    })
    .await;
    let edge = recipe("Live HLS", &origin).start().await;
    for viewer in 1..=3 {
        let query = format!("?token={viewer}&session_id=s{viewer}&_={viewer}");
        assert_eq!(get(&edge, &format!("/live/tv.m3u8{query}"), &[]).await.body, PLAYLIST.as_bytes());
        assert_eq!(get(&edge, &format!("/live/8.ts{query}"), &[]).await.body, b"segment");
    }
    assert_eq!((origin.hits("/live/tv.m3u8"), origin.hits("/live/8.ts")), (1, 1));
}

#[tokio::test]
async fn a_held_playlist_is_one_request_for_all_who_wait() {
    let (release, held) = tokio::sync::watch::channel(false);
    let origin = Origin::start(move |_| {
        let mut held = held.clone();
        async move {
            held.wait_for(|released| *released).await.unwrap();
            Answer::ok(PLAYLIST)
        }
    })
    .await;
    let edge = recipe("Low-latency HLS", &origin).start().await;
    let mut viewers = Vec::new();
    for viewer in 1..=3 {
        let mut client = Client::tls(edge.addr(443), "localhost").await;
        let target = format!("/live/tv.m3u8?_HLS_msn=8&token={viewer}");
        client.send_request("GET", &target, &[], b"").await;
        viewers.push(client);
    }
    origin.arrived(1).await;
    release.send(true).unwrap();
    for mut client in viewers {
        assert_eq!(client.response("GET").await.body, PLAYLIST.as_bytes());
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_cms_purges_by_tag_by_key_and_by_wildcard() {
    let origin = Origin::answering(|request| {
        Answer::ok(request.target.clone()).header("Cache-Tag", "article-42, home").header("X-Page", "1")
    })
    .await;
    let edge = recipe("Purging from a CMS", &origin).start().await;
    let purge = async |target: &str, fields: &[(&str, &str)]| {
        Client::connect(edge.addr(8081)).await.get_with(target, fields).await.status
    };
    for (count, (target, fields)) in
        [("/", &[("Cache-Tag", "article-42")][..]), ("/news/today", &[]), ("/news/*", &[])]
            .into_iter()
            .enumerate()
    {
        for _ in 0..2 {
            let page = get(&edge, "/news/today", &[]).await;
            assert_eq!(page.body, b"/news/today");
            assert!(!page.head.contains("Cache-Tag"), "{}", page.head);
        }
        assert_eq!(origin.hits("/news/today"), count + 1, "before {target}");
        assert_eq!(purge(target, fields).await, 204, "{target}");
    }
    assert_eq!(purge("/news/tomorrow", &[]).await, 404);
    assert_eq!(purge("/", &[("Cache-Tag", "article-43")]).await, 204);
}

#[tokio::test]
async fn vod_is_fetched_and_kept_in_slices() {
    const SLICE: usize = 1 << 20;
    let film: Arc<Vec<u8>> = Arc::new((0..5 * SLICE / 2).map(|i| (i % 251) as u8).collect());
    let source = film.clone();
    let origin = Origin::answering(move |request: &Request| {
        let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let (start, end) = range.expect("each request is for a slice");
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
        let end = end.min(source.len() - 1);
        Answer::status(206)
            .header("Content-Range", &format!("bytes {start}-{end}/{}", source.len()))
            .header("Accept-Ranges", "bytes")
            .header("ETag", "\"film\"")
            .body(&source[start..=end])
    })
    .await;
    let edge = recipe("VOD with slices", &origin).start().await;
    let range = format!("bytes={}-{}", SLICE - 10, SLICE + 9);
    for _ in 0..2 {
        let part = get(&edge, "/vod/film.mp4", &[("Range", &range)]).await;
        assert_eq!((part.status, &part.body[..]), (206, &film[SLICE - 10..SLICE + 10]));
    }
    assert_eq!(origin.count(), 2, "each of the two slices is fetched once");
    let whole = get(&edge, "/vod/film.mp4", &[]).await;
    assert_eq!((whole.status, whole.body == *film), (200, true));
    assert_eq!(origin.count(), 3, "only the last slice was missing");
}

#[tokio::test]
async fn a_static_site_is_there_while_the_application_is_down() {
    let (origin, down) = failing_origin().await;
    let edge = recipe("A static site in front of an application", &origin).start().await;
    let script = get(&edge, "/assets/app.1.js", &[]).await;
    assert!(!script.head.to_ascii_lowercase().contains("set-cookie"), "{}", script.head);
    assert_eq!(get(&edge, "/assets/app.1.js", &[]).await.status, 200);
    assert_eq!(origin.hits("/assets/app.1.js"), 1);
    // Who is logged in is answered by the application, and nobody else gets that answer.
    let session = [("Cookie", "session=a")];
    for count in 1..=2 {
        assert_eq!(get(&edge, "/page", &session).await.status, 200);
        assert_eq!(origin.hits("/page"), count);
    }
    down.store(true, Ordering::Relaxed);
    assert_eq!(get(&edge, "/assets/app.1.js", &[]).await.body, b"at /assets/app.1.js");
    assert_eq!(get(&edge, "/page", &session).await.status, 503);
    assert_eq!(get(&edge, "/page", &[]).await.status, 503, "what a session got is not kept");
}

#[tokio::test]
async fn an_api_is_asked_once_and_its_last_answer_outlives_it() {
    let (origin, down) = failing_origin().await;
    let edge = recipe("An API for a second", &origin).start().await;
    let score = get(&edge, "/api/public/score", &[]).await;
    assert_eq!((score.status, &score.body[..]), (200, &b"at /api/public/score"[..]));
    down.store(true, Ordering::Relaxed);
    // Whether the second is over by now or not, and whatever the update in the background comes to.
    for _ in 0..3 {
        assert_eq!(get(&edge, "/api/public/score", &[]).await.body, b"at /api/public/score");
    }
    assert_eq!(get(&edge, "/api/private", &[]).await.status, 503, "the rest is not cached");
}
