//! Answers that are given again are the same as those of the full way.

use super::{Client, Site, read};
use crate::http::h2::hits::REPEATED;
use http::header::{DATE, HeaderMap};
use std::sync::atomic::Ordering;

async fn ask(client: &Client, path: &str, language: &str) -> (HeaderMap, Vec<u8>) {
    let request = http::Request::get(format!("http://localhost{path}")).version(http::Version::HTTP_2);
    let request = request.header("accept-language", language).body(()).unwrap();
    let mut sender = client.sender.clone().ready().await.unwrap();
    let response = sender.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut fields = response.headers().clone();
    assert!(fields.remove(DATE).is_some());
    (fields, read(response.into_body()).await.unwrap())
}

#[tokio::test]
async fn an_answer_given_again_is_the_same() {
    let http = "open_file_cache max=100; log_format all '$request $status $body_bytes_sent $bytes_sent $request_length';";
    let server = "access_log access all; location /site/ { root .; add_header X-Y $http_accept_language; }";
    let site = Site::start(http, server);
    let directory = site.directory.path();
    std::fs::create_dir(directory.join("site")).unwrap();
    let files = [("empty", 0), ("small", 300), ("piece", 16_000), ("large", 200_000)];
    for (name, size) in files {
        std::fs::write(directory.join("site").join(name), vec![b'x'; size]).unwrap();
    }
    let client = site.client().await;
    let before = REPEATED.load(Ordering::Relaxed);
    for (name, size) in files {
        let path = format!("/site/{name}");
        for language in ["de", "en"] {
            let (fields, body) = ask(&client, &path, language).await;
            assert_eq!(body.len(), size);
            assert_eq!(fields["x-y"], language);
            for _ in 0..5 {
                assert_eq!(ask(&client, &path, language).await, (fields.clone(), body.clone()));
            }
        }
    }
    assert!(REPEATED.load(Ordering::Relaxed) - before >= 4 * 3);
    // Of one path the log says the same whichever way it was answered.
    drop(client);
    let log = loop {
        let log = std::fs::read_to_string(directory.join("access")).unwrap_or_default();
        if log.lines().count() == files.len() * 12 {
            break log;
        }
        tokio::task::yield_now().await;
    };
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), files.len(), "{lines:#?}");
}

#[tokio::test]
async fn who_is_limited_is_so_again() {
    let http = "open_file_cache max=100; limit_req_zone $uri zone=few:1m rate=1r/m;
        limit_req_zone $uri zone=slow:1m rate=200r/s;";
    let server = "location /few/ { alias ./; limit_req zone=few burst=5 nodelay; }
        location /slow/ { alias ./; limit_req zone=slow burst=50; }";
    let site = Site::start(http, server);
    for (name, size) in [("empty", 0), ("small", 300)] {
        std::fs::write(site.directory.path().join(name), vec![b'x'; size]).unwrap();
    }
    let client = site.client().await;
    let mut statuses = Vec::new();
    for _ in 0..9 {
        statuses.push(client.get("/few/small").await.0);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 503, 503, 503]);
    for (name, size) in [("empty", 0), ("small", 300)] {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..9 {
            let answer = client.send("GET", &format!("/slow/{name}"), true).await.0;
            all.spawn(async move { read(answer.await.unwrap().into_body()).await.unwrap().len() });
        }
        assert_eq!(all.join_all().await, [size; 9]);
    }
}
