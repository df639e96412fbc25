//! A live HLS site: every promise of its configuration, each by a request.
use crate::support::client::{Client, get};
use crate::support::metrics::StubStatus;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server};

const CONFIG: &str = include_str!("../data/acceptance/hls.conf");

async fn site() -> (Server, Origin) {
    let api = Origin::answering(|request| Answer::ok(format!("started {}", request.target))).await;
    let server = Plan::new(CONFIG)
        .upstream("127.0.0.1:5000", api.addr())
        .file("hls/live/stream_7.m3u8", "#EXTM3U\n")
        .start()
        .await;
    (server, api)
}

#[tokio::test]
async fn a_playlist_that_exists_is_served_from_its_file() {
    let (server, api) = site().await;
    let response = get(server.addr(8080), "/live/stream_7.m3u8").await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "#EXTM3U\n")
    );
    assert_eq!(api.count(), 0);
}

#[tokio::test]
async fn the_status_page() {
    let (server, _api) = site().await;
    let page = get(server.addr(8080), "/nginx_status").await;
    assert_eq!(StubStatus::parse(&page.text()).active, 1);
    let mut stranger = Client::connect_from([127, 0, 0, 2], server.addr(8080)).await;
    assert_eq!(stranger.get("/nginx_status").await.status, 403);
}
