//! Which path has which answer.

use std::time::Duration;

use super::request::Request;
use super::response::Response;
use super::server::Counts;
use super::timeline::{self, Availability};
use super::{api, clip, page, playlist, websocket};

/// What is to be done for a request.
#[derive(Debug)]
pub enum Reply {
    Whole(Response),
    /// The same, after some time.
    Later(Duration, Response),
    /// The endless FLV stream.
    Flv,
    /// A WebSocket, with the handshake's answer to the client's key.
    WebSocket(String),
}

/// Finds the answer to `request` at `now` (time since the Unix epoch).
pub fn route(request: &Request, counts: &Counts, now: Duration) -> Reply {
    let path = request.path();
    if path == "/api" || path.starts_with("/api/") {
        return api::answer(request, counts, now);
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Reply::Whole(Response::bare(405).with("Allow", "GET, HEAD"));
    }
    match path {
        "/ws" => websocket::handshake(request),
        "/live/stream.flv" if request.method == "GET" => Reply::Flv,
        "/live/stream.flv" => Reply::Whole(media("video/x-flv", "no-cache", Vec::new())),
        "/live/stream.m3u8" => Reply::Whole(media(
            "application/vnd.apple.mpegurl",
            "max-age=1",
            playlist::media_playlist(now).into_bytes(),
        )),
        _ => match path.strip_prefix("/live/").and_then(playlist::segment_number) {
            Some(n) => Reply::Whole(segment(n, now)),
            None => Reply::Whole(page::file(path).unwrap_or_else(|| Response::bare(404))),
        },
    }
}

fn segment(n: u64, now: Duration) -> Response {
    match timeline::availability(n, now) {
        Availability::Published => media("video/mp2t", "max-age=60", clip::SEGMENTS[timeline::clip_index(n)]),
        // It will be there soon: whoever remembers that it is not may do so for a moment only.
        Availability::NotYet => Response::bare(404).with("Cache-Control", "max-age=1"),
        Availability::Gone => Response::bare(404).with("Cache-Control", "max-age=60"),
    }
}

fn media(
    content_type: &'static str,
    cache_control: &'static str,
    body: impl Into<std::borrow::Cow<'static, [u8]>>,
) -> Response {
    Response::new(200, content_type, body)
        .with("Cache-Control", cache_control)
        .with("Access-Control-Allow-Origin", "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn request(method: &str, target: &str) -> Request {
        Request { method: method.to_owned(), target: target.to_owned(), minor: 1, ..Request::default() }
    }

    fn get(target: &str) -> Response {
        match route(&request("GET", target), &Counts::default(), NOW) {
            Reply::Whole(response) => response,
            other => panic!("{target}: {other:?}"),
        }
    }

    fn cache_control(response: &Response) -> &str {
        let found = response.headers.iter().find(|(n, _)| *n == "Cache-Control");
        &found.unwrap().1
    }

    #[test]
    fn every_listed_segment_is_there_with_the_clip_in_order() {
        let text = String::from_utf8(get("/live/stream.m3u8").body.into_owned()).unwrap();
        let mut listed = 0;
        for name in text.lines().filter(|line| !line.starts_with('#')) {
            let response = get(&format!("/live/{name}"));
            assert_eq!(response.status, 200, "{name}");
            assert_eq!(cache_control(&response), "max-age=60");
            let n = playlist::segment_number(name).unwrap();
            assert!(response.body == clip::SEGMENTS[(n % 12) as usize]);
            listed += 1;
        }
        assert_eq!(listed, 6);
    }

    #[test]
    fn a_segment_that_is_not_there_is_not_found() {
        let newest = timeline::newest(NOW);
        let early = get(&format!("/live/seg-{}.ts", newest + 1));
        assert_eq!((early.status, cache_control(&early)), (404, "max-age=1"));
        let late = get(&format!("/live/seg-{}.ts", newest - 30));
        assert_eq!((late.status, cache_control(&late)), (404, "max-age=60"));
        assert_eq!(get("/live/seg-x.ts").status, 404);
        assert_eq!(get("/nothing").status, 404);
    }

    #[test]
    fn the_site_is_only_read() {
        for path in ["/", "/live/stream.m3u8", "/live/stream.flv", "/ws"] {
            match route(&request("POST", path), &Counts::default(), NOW) {
                Reply::Whole(response) => assert_eq!(response.status, 405, "{path}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        assert!(matches!(route(&request("GET", "/live/stream.flv"), &Counts::default(), NOW), Reply::Flv));
    }
}
