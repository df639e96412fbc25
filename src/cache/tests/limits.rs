//! Waiting has bounds: `proxy_cache_lock_timeout`, `proxy_cache_lock_age`, `proxy_cache_min_uses`.

use super::*;
use CacheStatus::{Hit, Miss};

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_goes_by_itself_and_its_answer_is_not_kept() {
    let mut site = Site::new();
    site.policy.lock_timeout = Duration::from_secs(5);
    site.policy.lock_age = Duration::from_secs(60);
    let first = site.get("/a");
    let call = site.call().await;
    let second = site.get("/a");
    site.readers(2).await;
    // The clock moves by itself when everybody waits; 5 seconds later the second loses patience.
    let own = site.call().await;
    assert!(own.plain, "what goes upstream uncached goes as the client sent it");
    own.whole(200, &[], "its own");
    assert_eq!(text(second).await, (Miss, 200, "its own".into()));
    assert_eq!(site.zone.counters.lock_timeouts.get(), 1);
    assert_eq!(site.zone.store.held(), (0, 0));
    call.whole(200, &[], "everybody's");
    assert_eq!(text(first).await, (Miss, 200, "everybody's".into()));
    site.idle().await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "everybody's".into()));
}

#[tokio::test(start_paused = true)]
async fn beside_a_fill_without_a_head_another_starts_after_the_lock_age() {
    let mut site = Site::new();
    let first = site.get("/a");
    let stuck = site.call().await;
    tokio::time::advance(Duration::from_secs(6)).await;
    let second = site.get("/a");
    let call = site.call().await;
    let third = site.get("/a");
    site.readers(3).await;
    call.whole(200, &[], "quick");
    assert_eq!(text(second).await, (Miss, 200, "quick".into()));
    assert_eq!(text(third).await, (Hit, 200, "quick".into()));
    stuck.whole(200, &[], "slow");
    assert_eq!(text(first).await, (Miss, 200, "slow".into()));
}

#[tokio::test(start_paused = true)]
async fn of_those_who_wait_one_asks_after_the_lock_age_and_the_others_wait_for_it() {
    let mut site = Site::new();
    let first = site.get("/a");
    let stuck = site.call().await;
    let waiting: Vec<_> = (0..10).map(|_| site.get("/a")).collect();
    site.readers(11).await;
    // The clock moves by itself when everybody waits.
    let call = site.call().await;
    site.readers(21).await;
    assert!(!site.was_asked());
    call.whole(200, &[], "quick");
    let mut misses = 0;
    for viewer in waiting {
        let (status, _, body) = text(viewer).await;
        assert_eq!(body, "quick");
        misses += usize::from(status == Miss);
    }
    assert_eq!(misses, 1);
    assert_eq!(site.zone.counters.lock_timeouts.get(), 0);
    stuck.whole(200, &[], "slow");
    assert_eq!(text(first).await, (Miss, 200, "slow".into()));
}

#[tokio::test(start_paused = true)]
async fn a_fill_whose_head_is_there_is_shared_however_long_it_takes() {
    let mut site = Site::new();
    let first = site.get("/a");
    let pieces = site.call().await.open(200, &[], None);
    first.await.unwrap().result.unwrap();
    tokio::time::advance(Duration::from_secs(3600)).await;
    let second = site.get("/a").await.unwrap();
    assert_eq!(second.status, Hit);
    drop(pieces);
    assert!(!site.was_asked());
}

#[tokio::test]
async fn an_answer_is_kept_from_the_nth_request_on() {
    let mut site = Site::new();
    site.policy.min_uses = 3;
    for body in ["1", "2"] {
        let request = site.get("/a");
        let call = site.call().await;
        assert!(call.plain);
        call.whole(200, &[], body);
        assert_eq!(text(request).await, (Miss, 200, body.into()));
        site.idle().await;
    }
    assert_eq!(site.zone.store.held(), (0, 0));
    site.kept("/a", &[], "3").await;
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "3".into()));
}

#[tokio::test]
async fn a_far_range_is_answered_from_what_is_kept_but_keeps_nothing() {
    let mut site = Site::new();
    let far = || With { far_range: true, ..With::default() };
    let request = site.get_with("/a", far());
    let call = site.call().await;
    assert!(call.plain);
    call.whole(206, &[], "part");
    assert_eq!(text(request).await, (Miss, 206, "part".into()));
    site.kept("/a", &[], "whole").await;
    assert_eq!(text(site.get_with("/a", far())).await, (Hit, 200, "whole".into()));
}
