//! What is stale: when it is served, who updates it, what confirms it.

use super::super::counters::FillEnd;
use super::*;
use CacheStatus::{Expired, Hit, Miss, Revalidated, Stale, Updating};
use std::time::Duration as D;

async fn pass(seconds: u64) {
    tokio::time::advance(D::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn it_lives_as_long_as_it_lives() {
    let mut site = Site::new();
    site.kept("/a", &[("Cache-Control", "max-age=3")], "old").await;
    tokio::time::advance(D::from_millis(2999)).await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "old".into()));
    tokio::time::advance(D::from_millis(1)).await;
    let request = site.get("/a");
    let call = site.call().await;
    assert_eq!(call.validators, None, "only proxy_cache_revalidate sends them");
    call.whole(200, &[], "new");
    assert_eq!(text(request).await, (Expired, 200, "new".into()));
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "new".into()));
}

#[tokio::test(start_paused = true)]
async fn many_who_find_it_expired_share_the_new_one() {
    let mut site = Site::new();
    site.kept("/a", &[], "old").await;
    pass(10).await;
    let viewers: Vec<_> = (0..100).map(|_| site.get("/a")).collect();
    let call = site.call().await;
    site.readers(101).await;
    call.whole(200, &[], "new");
    let mut expired = 0;
    for viewer in viewers {
        let (status, _, body) = text(viewer).await;
        assert_eq!(body, "new");
        expired += usize::from(status == Expired);
        assert!(matches!(status, Expired | Hit));
    }
    assert_eq!(expired, 1);
    assert!(!site.was_asked());
}

#[tokio::test(start_paused = true)]
async fn when_the_upstream_fails_only_what_is_named_calls_for_the_old_one() {
    use FailureKind::*;
    let table = [
        (Error, "error", 502),
        (NoLiveUpstreams, "error", 502),
        (Timeout, "timeout", 504),
        (InvalidHeader, "invalid_header", 502),
    ];
    for (kind, word, status) in table {
        let mut site = Site::new();
        site.kept("/a", &[], "old").await;
        pass(10).await;
        let request = site.get("/a");
        site.call().await.fail(status, kind);
        assert_eq!(failed(request).await, (Expired, status), "{word} is not on");
        match word {
            "error" => site.policy.stale.error = true,
            "timeout" => site.policy.stale.timeout = true,
            _ => site.policy.stale.invalid_header = true,
        }
        // Those who wait fall back as well as the one who asked.
        let (one, two) = (site.get("/a"), site.get("/a"));
        let call = site.call().await;
        site.readers(4).await;
        call.fail(status, kind);
        assert_eq!(text(one).await, (Stale, 200, "old".into()), "{word}");
        assert_eq!(text(two).await, (Stale, 200, "old".into()), "{word}");
        assert!(!site.was_asked());
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_page_of_the_upstream_calls_for_the_old_one_where_its_status_is_named() {
    let mut site = Site::new();
    site.policy.valid.push(Valid { status: None, time: D::from_secs(60) });
    site.policy.stale.statuses = vec![500];
    site.kept("/a", &[], "old").await;
    pass(10).await;
    let request = site.get("/a");
    site.call().await.whole(500, &[], "oops");
    let served = request.await.unwrap();
    assert_eq!(served.status, Stale);
    let answer = served.result.unwrap();
    assert_eq!(answer.attempts[0].status, 500, "the log shows what the upstream said");
    assert_eq!(whole(answer).await.unwrap(), "old");
    site.idle().await;
    // The error did not take the old one's place.
    let request = site.get("/a");
    site.call().await.whole(503, &[], "busy");
    assert_eq!(text(request).await, (Expired, 503, "busy".into()));
}

#[tokio::test(start_paused = true)]
async fn while_somebody_updates_it_the_others_get_the_old_one() {
    let mut site = Site::new();
    site.policy.stale.updating = true;
    site.kept("/a", &[], "old").await;
    pass(10).await;
    let first = site.get("/a");
    let call = site.call().await;
    assert_eq!(text(site.get("/a")).await, (Updating, 200, "old".into()));
    call.whole(200, &[], "new");
    assert_eq!(text(first).await, (Expired, 200, "new".into()));
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "new".into()));
}

#[tokio::test(start_paused = true)]
async fn in_the_background_nobody_waits_for_the_update() {
    let mut site = Site::new();
    site.policy.stale.updating = true;
    site.policy.background_update = true;
    site.kept("/a", &[], "old").await;
    pass(10).await;
    let first = site.get("/a").await.unwrap();
    assert_eq!(first.status, Stale);
    let answer = first.result.unwrap();
    assert!(answer.attempts.is_empty());
    assert_eq!(whole(answer).await.unwrap(), "old");
    assert_eq!(text(site.get("/a")).await, (Updating, 200, "old".into()));
    site.call().await.whole(200, &[], "new");
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "new".into()));
    // An update that fails changes nothing; the next request tries again.
    pass(10).await;
    assert_eq!(text(site.get("/a")).await, (Stale, 200, "new".into()));
    site.call().await.fail(502, FailureKind::Error);
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Stale, 200, "new".into()));
    site.call().await.whole(200, &[], "newer");
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "newer".into()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_itself_allow_to_be_served_stale() {
    let mut site = Site::new();
    site.policy.background_update = true;
    let cc = "max-age=1, stale-while-revalidate=4, stale-if-error=30";
    site.kept("/a", &[("Cache-Control", cc)], "old").await;
    pass(2).await;
    assert_eq!(text(site.get("/a")).await, (Stale, 200, "old".into()));
    site.call().await.fail(502, FailureKind::Error);
    site.idle().await;
    // Past the first time, but not the second: the upstream is awaited, and its failure covered.
    pass(5).await;
    let request = site.get("/a");
    site.call().await.fail(504, FailureKind::Timeout);
    assert_eq!(text(request).await, (Stale, 200, "old".into()));
    site.idle().await;
    pass(30).await;
    let request = site.get("/a");
    site.call().await.fail(504, FailureKind::Timeout);
    assert_eq!(failed(request).await, (Expired, 504));
}

#[tokio::test(start_paused = true)]
async fn a_304_makes_it_fresh_again() {
    let mut site = Site::new();
    site.policy.revalidate = true;
    let fields = [("ETag", "\"v1\""), ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")];
    site.kept("/a", &fields, "old").await;
    pass(10).await;
    let first = site.get("/a");
    let second = site.get("/a");
    let call = site.call().await;
    let validators = call.validators.clone().unwrap();
    assert_eq!(validators.etag.unwrap(), "\"v1\"");
    assert_eq!(validators.last_modified.unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    site.readers(3).await;
    call.whole(304, &[("Cache-Control", "max-age=20")], "");
    let served = first.await.unwrap();
    assert_eq!(served.status, Revalidated);
    let answer = served.result.unwrap();
    assert_eq!((answer.status, answer.attempts[0].status), (200, 304));
    assert_eq!(whole(answer).await.unwrap(), "old");
    assert_eq!(text(second).await, (Hit, 200, "old".into()));
    pass(19).await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "old".into()));
    pass(1).await;
    let changed = site.get("/a");
    site.call().await.whole(200, &[("ETag", "\"v2\"")], "new");
    assert_eq!(text(changed).await, (Expired, 200, "new".into()));
    assert_eq!(site.zone.counters.fills(FillEnd::Refreshed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_304_that_nobody_asked_for_is_not_kept() {
    let mut site = Site::new();
    let request = site.get("/a");
    site.call().await.whole(304, &[("Cache-Control", "max-age=20")], "");
    assert_eq!(text(request).await, (Miss, 304, String::new()));
    assert_eq!(site.zone.store.held(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_update_that_may_not_be_kept_leaves_the_old_one() {
    let mut site = Site::new();
    site.kept("/a", &[], "old").await;
    pass(10).await;
    let request = site.get("/a");
    site.call().await.whole(200, &[("Set-Cookie", "a=1")], "mine");
    assert_eq!(text(request).await, (Expired, 200, "mine".into()));
    site.idle().await;
    site.policy.stale.error = true;
    let request = site.get("/a");
    site.call().await.fail(502, FailureKind::Error);
    assert_eq!(text(request).await, (Stale, 200, "old".into()));
}
