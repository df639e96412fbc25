//! Many viewers, one request to the origin; and what is not shared.

use super::super::counters::FillEnd;
use super::*;
use CacheStatus::{Bypass, Hit, Miss};

#[tokio::test]
async fn a_thousand_viewers_cost_the_origin_one_request() {
    let mut site = Site::new();
    let viewers: Vec<_> = (0..1000).map(|_| site.get("/seg1.ts")).collect();
    let call = site.call().await;
    site.readers(1000).await;
    let pieces = call.open(200, &[("Content-Type", "video/mp2t"), ("Accept-Ranges", "bytes")], Some(9));
    for piece in ["one", "two", "six"] {
        pieces.send(Ok(Bytes::from_static(piece.as_bytes()))).unwrap();
        tokio::task::yield_now().await;
    }
    drop(pieces);
    let mut misses = 0;
    for viewer in viewers {
        let served = viewer.await.unwrap();
        let answer = served.result.unwrap();
        assert_eq!((answer.status, answer.length), (200, Some(9)));
        assert_eq!(answer.fields.get("content-type").unwrap(), "video/mp2t");
        match served.status {
            Miss => misses += 1,
            other => assert_eq!(other, Hit),
        }
        // Only the request that was sent upstream has attempts.
        assert_eq!(answer.attempts.len(), usize::from(served.status == Miss));
        assert_eq!(whole(answer).await.unwrap(), "onetwosix");
    }
    assert_eq!(misses, 1);
    site.idle().await;
    let later = site.get("/seg1.ts").await.unwrap();
    assert_eq!(later.status, Hit);
    let answer = later.result.unwrap();
    assert!(answer.ranges && answer.attempts.is_empty());
    assert_eq!(answer.reason, "OK");
    assert_eq!(whole(answer).await.unwrap(), "onetwosix");
    assert!(!site.was_asked());
    assert_eq!(site.zone.counters.requests(Hit), 1000);
    assert_eq!(site.zone.counters.fills(FillEnd::Stored), 1);
}

#[tokio::test]
async fn what_has_arrived_is_read_before_the_rest_is_there() {
    let mut site = Site::new();
    let first = site.get("/a");
    let pieces = site.call().await.open(200, &[], None);
    let mut first = first.await.unwrap().result.unwrap().body;
    pieces.send(Ok(Bytes::from_static(b"begin"))).unwrap();
    assert_eq!(first.next().await.unwrap().unwrap(), "begin");
    // One who comes in the middle begins at the beginning.
    let second = site.get("/a").await.unwrap();
    assert_eq!(second.status, Hit);
    let mut second = second.result.unwrap().body;
    assert_eq!(second.next().await.unwrap().unwrap(), "begin");
    pieces.send(Ok(Bytes::from_static(b"end"))).unwrap();
    drop(pieces);
    for body in [&mut first, &mut second] {
        assert_eq!(body.next().await.unwrap().unwrap(), "end");
        assert!(body.next().await.is_none());
    }
    assert!(!site.was_asked());
}

#[tokio::test]
async fn the_first_viewer_may_leave_before_the_head_and_in_the_body() {
    let mut site = Site::new();
    let first = site.get("/a");
    let call = site.call().await;
    let second = site.get("/a");
    site.readers(2).await;
    first.abort();
    assert!(first.await.err().unwrap().is_cancelled());
    let pieces = call.open(200, &[], None);
    pieces.send(Ok(Bytes::from_static(b"one"))).unwrap();
    let mut body = second.await.unwrap().result.unwrap().body;
    assert_eq!(body.next().await.unwrap().unwrap(), "one");
    // Now nobody reads; the fill goes on.
    drop(body);
    settle().await;
    pieces.send(Ok(Bytes::from_static(b"two"))).unwrap();
    drop(pieces);
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "onetwo".into()));
    assert!(!site.was_asked());
}

#[tokio::test]
async fn a_slow_reader_slows_nobody_and_still_gets_it_all() {
    let mut site = Site::new();
    let slow = site.get("/a");
    let pieces = site.call().await.open(200, &[], None);
    let slow = slow.await.unwrap().result.unwrap();
    let quick = site.get("/a");
    let all: String = (0..200).map(|n| format!("<{n}>")).collect();
    for n in 0..200 {
        pieces.send(Ok(Bytes::from(format!("<{n}>")))).unwrap();
    }
    drop(pieces);
    assert_eq!(text(quick).await, (Hit, 200, all.clone()));
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, all.clone()));
    assert_eq!(whole(slow).await.unwrap(), all);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_to_everybody_and_not_kept() {
    let mut site = Site::new();
    let viewers: Vec<_> = (0..10).map(|_| site.get("/a")).collect();
    let call = site.call().await;
    site.readers(10).await;
    let pieces = call.open(200, &[], None);
    pieces.send(Ok(Bytes::from_static(b"half"))).unwrap();
    pieces.send(Err(BodyError::Upstream("reset".into()))).unwrap();
    drop(pieces);
    for viewer in viewers {
        let mut body = viewer.await.unwrap().result.unwrap().body;
        assert_eq!(body.next().await.unwrap().unwrap(), "half");
        assert!(body.next().await.unwrap().is_err());
        // However often one asks: it never looks like the end.
        assert!(body.next().await.unwrap().is_err());
    }
    assert_eq!(site.zone.counters.fills(FillEnd::Aborted), 1);
    assert_eq!(site.zone.filling(), 0);
    let again = site.get("/a");
    site.call().await.whole(200, &[], "whole");
    assert_eq!(text(again).await, (Miss, 200, "whole".into()));
}

#[tokio::test]
async fn a_body_shorter_than_it_said_is_an_error_too() {
    let mut site = Site::new();
    let first = site.get("/a");
    let pieces = site.call().await.open(200, &[], Some(10));
    pieces.send(Ok(Bytes::from_static(b"short"))).unwrap();
    drop(pieces);
    assert!(whole(first.await.unwrap().result.unwrap()).await.is_err());
    site.idle().await;
    assert_eq!(site.zone.store.held(), (0, 0));
}

#[tokio::test]
async fn a_failure_is_shared_and_not_kept() {
    let mut site = Site::new();
    let viewers: Vec<_> = (0..5).map(|_| site.get("/a")).collect();
    let call = site.call().await;
    site.readers(5).await;
    call.fail(504, FailureKind::Timeout);
    for viewer in viewers {
        assert_eq!(failed(viewer).await, (Miss, 504));
    }
    assert!(!site.was_asked());
    let again = site.get("/a");
    site.call().await.whole(200, &[], "up");
    assert_eq!(text(again).await, (Miss, 200, "up".into()));
}

#[tokio::test]
async fn a_failure_is_kept_where_the_configuration_says_so() {
    let mut site = Site::new();
    site.policy.valid.push(Valid { status: Some(502), time: Duration::from_secs(5) });
    let first = site.get("/a");
    site.call().await.fail(502, FailureKind::Error);
    assert_eq!(failed(first).await, (Miss, 502));
    assert_eq!(failed(site.get("/a")).await, (Hit, 502));
    assert!(!site.was_asked());
}

#[tokio::test]
async fn a_growing_answer_that_was_its_requesters_own_is_shared_once_it_may_be() {
    let mut site = Site::new();
    let first = site.get("/a");
    site.call().await.whole(200, &[("Set-Cookie", "a=b")], "mine");
    assert_eq!(text(first).await, (Miss, 200, "mine".into()));
    site.idle().await;
    // The key is apart now: this request is nobody's to wait for …
    let second = site.get("/a");
    let pieces = site.call().await.open(200, &[], None);
    let mut body = second.await.unwrap().result.unwrap().body;
    pieces.send(Ok(Bytes::from_static(b"x"))).unwrap();
    body.next().await.unwrap().unwrap();
    // … until its answer is seen to be one that is kept.
    let third = site.get("/a").await.unwrap();
    assert_eq!(third.status, Hit);
    drop(pieces);
    assert_eq!(whole(third.result.unwrap()).await.unwrap(), "x");
    assert!(!site.was_asked());
}

#[tokio::test]
async fn the_failure_of_who_bypasses_is_nobody_elses() {
    let mut site = Site::new();
    site.policy.valid.push(Valid { status: None, time: Duration::from_secs(10) });
    site.kept("/a", &[], "kept").await;
    for path in ["/a", "/b"] {
        let request = site.get_with(path, With { bypass: true, ..With::default() });
        site.call().await.fail(504, FailureKind::Timeout);
        assert_eq!(failed(request).await, (CacheStatus::Bypass, 504));
        site.idle().await;
    }
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "kept".into()));
    let request = site.get("/b");
    site.call().await.whole(200, &[], "b");
    assert_eq!(text(request).await, (Miss, 200, "b".into()));
}

#[tokio::test]
async fn bypass_asks_and_keeps_unless_no_cache_says_not_to() {
    let mut site = Site::new();
    site.kept("/a", &[], "old").await;
    let bypass = || With { bypass: true, ..With::default() };
    let request = site.get_with("/a", bypass());
    site.call().await.whole(200, &[], "new");
    assert_eq!(text(request).await, (Bypass, 200, "new".into()));
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "new".into()));
    let request = site.get_with("/a", With { no_cache: Some(NoCache::Yes), ..bypass() });
    site.call().await.whole(200, &[], "newest");
    assert_eq!(text(request).await, (Bypass, 200, "newest".into()));
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "new".into()));
}

#[tokio::test]
async fn no_cache_may_depend_on_the_answer() {
    let mut site = Site::new();
    let depends =
        || With { no_cache: Some(NoCache::Depends), no_cache_if: Some("x-private"), ..With::default() };
    let request = site.get_with("/a", depends());
    site.call().await.whole(200, &[("X-Private", "1")], "mine");
    assert_eq!(text(request).await, (Miss, 200, "mine".into()));
    site.idle().await;
    assert_eq!(site.zone.store.held(), (0, 0));
    let request = site.get_with("/a", depends());
    site.call().await.whole(200, &[], "ours");
    assert_eq!(text(request).await, (Miss, 200, "ours".into()));
    site.idle().await;
    assert_eq!(text(site.get_with("/a", depends())).await, (Hit, 200, "ours".into()));
    // With the requester gone nobody can tell, so it is not kept.
    let request = site.get_with("/b", depends());
    let call = site.call().await;
    request.abort();
    assert!(request.await.err().unwrap().is_cancelled());
    call.whole(200, &[], "unknown");
    site.idle().await;
    assert_eq!(site.zone.store.held().0, 1);
}

#[tokio::test]
async fn a_filler_that_falls_leaves_nobody_waiting() {
    let mut site = Site::new();
    let first = site.get("/a");
    let call = site.call().await;
    let others = [site.get("/a"), site.get("/a")];
    site.readers(3).await;
    drop(call);
    assert_eq!(failed(first).await, (Miss, 502));
    // It was not the upstream that failed, so the others ask it themselves.
    for _ in 0..2 {
        site.call().await.whole(200, &[], "up");
    }
    for other in others {
        assert_eq!(text(other).await, (Miss, 200, "up".into()));
    }
    site.idle().await;
    assert_eq!(site.zone.filling(), 0);
}

/// Counts those who read.
#[derive(Default)]
struct Held(std::sync::atomic::AtomicI64);

impl super::super::fill::Home for Held {
    fn hold(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn release(&self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_fillers_home_is_held_while_somebody_reads() {
    let home = Arc::new(Held::default());
    let held = || home.0.load(std::sync::atomic::Ordering::Relaxed);
    let fill = super::super::fill::Fill::new(Bytes::new(), Some(home.clone()));
    let (one, two) = (fill.join().unwrap(), fill.join().unwrap().with_parts());
    let part = two.part(0..1).unwrap();
    assert_eq!(held(), 3);
    drop((one, two));
    assert_eq!(held(), 1);
    drop(part);
    assert_eq!(held(), 0);
}

#[tokio::test]
async fn the_answer_to_head_is_kept_with_the_length_it_states() {
    let mut site = Site::new();
    for (path, length) in
        [("/a\0HEAD", Some(100)), ("/b\0HEAD", None), ("/c\0HEAD", Some(0)), ("/d\0HEAD", Some(1 << 40))]
    {
        let first = site.get(path);
        site.call().await.answer(200, &[("X-A", "1")], length, Body::Empty);
        for (request, status) in [(first, Miss), (site.get(path), Hit)] {
            let served = request.await.unwrap();
            let answer = served.result.unwrap();
            assert_eq!((served.status, answer.length), (status, length), "{path:?}");
            assert!(answer.fields.get("content-length").is_none(), "the length stands beside the fields");
            assert_eq!(whole(answer).await.unwrap(), "");
            site.idle().await;
        }
        assert!(!site.was_asked());
    }
}
