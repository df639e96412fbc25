//! Answers that are not for those who wait: who asks again, and how many at a time.

use super::*;
use CacheStatus::{Expired, Hit, Miss, Stale};

/// So many ask at once at first, and so many more for each that has its answer.
const RUSH: usize = 3;

impl Site {
    /// Starts `count` requests for `path`; returns the first's call when all the others wait for it.
    async fn crowd(&mut self, path: &str, count: u64) -> (Call, Vec<JoinHandle<Served>>) {
        let before = self.zone.counters.readers.get();
        let viewers: Vec<_> = (0..count).map(|_| self.get(path)).collect();
        let call = self.call().await;
        self.readers(before + count).await;
        (call, viewers)
    }

    /// The requests that have reached the origin when nothing moves any more.
    async fn calls(&mut self) -> Vec<Call> {
        settle().await;
        std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
    }
}

#[tokio::test]
async fn what_is_one_viewers_own_is_not_shared() {
    let mut site = Site::new();
    let (call, viewers) = site.crowd("/me", 6).await;
    call.whole(200, &[("Set-Cookie", "id=first")], "first");
    // The others ask for themselves, some at once, the rest when these have their answers.
    let mut bodies = ["0", "1", "2", "3", "4"].into_iter();
    for expected in [RUSH, 5 - RUSH] {
        let calls = site.calls().await;
        assert_eq!(calls.len(), expected);
        for call in calls {
            call.whole(200, &[("Set-Cookie", "id=other")], bodies.next().unwrap());
        }
    }
    let mut bodies = Vec::new();
    for viewer in viewers {
        let (status, _, body) = text(viewer).await;
        assert_eq!(status, Miss);
        bodies.push(body);
    }
    bodies.sort();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "first"]);
    assert_eq!(site.zone.store.held(), (0, 0));
    // Nor does a later one wait.
    let (one, two) = (site.get("/me"), site.get("/me"));
    let (a, b) = (site.call().await, site.call().await);
    // And as soon as an answer may be kept, it is, and everybody shares again.
    a.whole(200, &[], "public");
    assert_eq!(text(one).await, (Miss, 200, "public".into()));
    b.whole(200, &[("Set-Cookie", "x=y")], "private");
    assert_eq!(text(two).await, (Miss, 200, "private".into()));
    assert_eq!(text(site.get("/me")).await, (Hit, 200, "public".into()));
}

#[tokio::test]
async fn who_ask_for_themselves_become_more_as_the_origin_keeps_up() {
    let mut site = Site::new();
    let (call, viewers) = site.crowd("/me", 101).await;
    call.whole(200, &[("Set-Cookie", "id=first")], "first");
    let mut left = 100;
    for most in [3, 9, 27, 81] {
        let calls = site.calls().await;
        assert_eq!(calls.len(), left.min(most), "three times as many each time");
        left -= calls.len();
        calls.into_iter().for_each(|call| call.whole(200, &[("Set-Cookie", "a=b")], "own"));
    }
    assert_eq!(left, 0);
    for viewer in viewers {
        text(viewer).await;
    }
}

#[tokio::test]
async fn a_turn_is_passed_on_when_its_owner_leaves_or_is_failed() {
    let mut site = Site::new();
    let (call, viewers) = site.crowd("/me", 7).await;
    call.whole(200, &[("Set-Cookie", "id=first")], "first");
    let mut calls = site.calls().await;
    assert_eq!(calls.len(), RUSH);
    // One leaves, one is failed: one goes in the place of each.
    viewers[calls[0].viewer].abort();
    let fourth = site.calls().await;
    assert_eq!(fourth.len(), 1);
    calls.remove(1).whole(503, &[("Set-Cookie", "a=b")], "busy");
    let fifth = site.calls().await;
    assert_eq!(fifth.len(), 1);
}

#[tokio::test]
async fn who_waits_for_its_turn_reads_what_turns_out_to_be_for_all() {
    let mut site = Site::new();
    let (call, viewers) = site.crowd("/a", 6).await;
    call.whole(200, &[("Set-Cookie", "id=first")], "first");
    let mut calls = site.calls().await;
    assert_eq!(calls.len(), RUSH);
    let asked: Vec<_> = calls.iter().map(|call| call.viewer).collect();
    let pieces = calls.remove(0).open(200, &[], None);
    assert!(site.calls().await.is_empty(), "the two others read what the fourth is receiving");
    pieces.send(Ok(Bytes::from_static(b"public"))).unwrap();
    drop(pieces);
    for call in calls {
        call.whole(200, &[("Set-Cookie", "id=other")], "own");
    }
    for (_, viewer) in viewers.into_iter().enumerate().skip(1).filter(|(n, _)| !asked.contains(n)) {
        assert_eq!(text(viewer).await, (Hit, 200, "public".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_is_awaited_no_longer_than_another_fill() {
    let mut site = Site::new();
    site.policy.lock_timeout = Duration::from_secs(5);
    let (call, viewers) = site.crowd("/me", 6).await;
    call.whole(200, &[("Set-Cookie", "id=first")], "first");
    let stuck = site.calls().await;
    assert_eq!(stuck.len(), RUSH);
    tokio::time::advance(Duration::from_secs(5)).await;
    let calls = site.calls().await;
    assert!(calls.len() == 2 && calls.iter().all(|call| call.plain));
    assert_eq!(site.zone.counters.lock_timeouts.get(), 2);
    drop((stuck, viewers));
}

#[tokio::test]
async fn those_who_wait_are_told_that_the_upstream_fails_and_do_not_ask() {
    for status in [500, 502, 503, 504] {
        let mut site = Site::new();
        let (call, mut viewers) = site.crowd("/a", 1000).await;
        call.whole(status, &[("Cache-Control", "no-store")], "a page");
        assert_eq!(text(viewers.remove(0)).await, (Miss, status, "a page".into()));
        for viewer in viewers {
            // The status, and nothing of what the first was sent.
            assert_eq!(failed(viewer).await, (Miss, status));
        }
        assert!(!site.was_asked());
        // It is not kept. And later ones share again: one at a time asks a server that fails.
        let (call, viewers) = site.crowd("/a", 10).await;
        call.whole(200, &[], "up");
        for viewer in viewers {
            assert_eq!(text(viewer).await.2, "up");
        }
        assert!(!site.was_asked());
    }
}

#[tokio::test]
async fn a_failure_that_is_one_viewers_own_is_not_told_and_the_next_asks() {
    let own: [&[(&str, &str)]; 3] =
        [&[("Set-Cookie", "id=1")], &[("Cache-Control", "max-age=0, Private")], &[("Vary", "*")]];
    for fields in own {
        let mut site = Site::new();
        let (call, mut viewers) = site.crowd("/a", 20).await;
        call.whole(503, fields, "yours");
        assert_eq!(text(viewers.remove(0)).await, (Miss, 503, "yours".into()));
        for _ in 0..9 {
            let mut calls = site.calls().await;
            assert_eq!(calls.len(), 1, "one after the other");
            calls.remove(0).whole(503, fields, "yours");
        }
        site.call().await.whole(200, &[], "everybody's");
        let mut bodies = Vec::new();
        for viewer in viewers {
            bodies.push(text(viewer).await.2);
        }
        assert_eq!(bodies.iter().filter(|body| *body == "yours").count(), 9);
        assert_eq!(bodies.iter().filter(|body| *body == "everybody's").count(), 10);
    }
}

#[tokio::test]
async fn a_failure_of_a_request_that_names_its_user_or_of_another_variant_is_not_told() {
    let asked = |name, value| With { fields: vec![(name, value)], ..With::default() };
    let mut site = Site::new();
    let first = site.get_with("/a", asked("Authorization", "Basic x"));
    let call = site.call().await;
    let second = site.get("/a");
    site.readers(2).await;
    call.whole(503, &[], "yours");
    assert_eq!(text(first).await.1, 503);
    site.call().await.whole(200, &[], "all's");
    assert_eq!(text(second).await, (Miss, 200, "all's".into()));

    let first = site.get_with("/b", asked("Accept-Language", "de"));
    let call = site.call().await;
    let (same, other) = (
        site.get_with("/b", asked("Accept-Language", "de")),
        site.get_with("/b", asked("Accept-Language", "en")),
    );
    site.readers(5).await;
    call.whole(503, &[("Vary", "Accept-Language")], "kaputt");
    assert_eq!(text(first).await.1, 503);
    assert_eq!(failed(same).await, (Miss, 503));
    site.call().await.whole(200, &[], "fine");
    assert_eq!(text(other).await, (Miss, 200, "fine".into()));
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_better_than_anothers_failure() {
    let mut site = Site::new();
    site.policy.stale.statuses = vec![503];
    site.kept("/a", &[], "old").await;
    tokio::time::advance(Duration::from_secs(11)).await;
    let (call, viewers) = site.crowd("/a", 3).await;
    call.whole(503, &[], "busy");
    for viewer in viewers {
        assert_eq!(text(viewer).await, (Stale, 200, "old".into()));
    }
    // Where it is not to be used, the failure is told.
    site.policy.stale.statuses.clear();
    let (call, mut viewers) = site.crowd("/a", 3).await;
    call.whole(503, &[], "busy");
    assert_eq!(text(viewers.remove(0)).await, (Expired, 503, "busy".into()));
    assert_eq!(failed(viewers.remove(0)).await, (Expired, 503));
}

#[tokio::test]
async fn with_the_lock_off_each_asks_for_itself() {
    let mut site = Site::new();
    site.policy.share = false;
    let viewers: Vec<_> = (0..5).map(|_| site.get("/a")).collect();
    let calls = site.calls().await;
    assert_eq!(calls.len(), 5);
    // Even while the body of one is on its way.
    let mut open = Vec::new();
    for call in calls {
        open.push(call.open(200, &[], None));
    }
    let late = site.get("/a");
    site.call().await.whole(200, &[], "late");
    assert_eq!(text(late).await, (Miss, 200, "late".into()));
    for pieces in open {
        pieces.send(Ok(Bytes::from_static(b"own"))).unwrap();
    }
    for viewer in viewers {
        assert_eq!(text(viewer).await, (Miss, 200, "own".into()));
    }
    // Each is kept when it is whole; the last stays.
    assert_eq!(text(site.get("/a")).await, (Hit, 200, "own".into()));
}

#[tokio::test(start_paused = true)]
async fn with_the_lock_off_what_is_stale_is_still_updated_by_one() {
    let mut site = Site::new();
    site.policy.share = false;
    site.policy.stale.updating = true;
    site.kept("/a", &[], "old").await;
    tokio::time::advance(Duration::from_secs(11)).await;
    let first = site.get("/a");
    let call = site.call().await;
    assert_eq!(text(site.get("/a")).await, (CacheStatus::Updating, 200, "old".into()));
    call.whole(200, &[], "new");
    assert_eq!(text(first).await, (Expired, 200, "new".into()));
    // Without `updating` each asks, as nginx has it.
    site.idle().await;
    site.policy.stale.updating = false;
    tokio::time::advance(Duration::from_secs(11)).await;
    let viewers = [site.get("/a"), site.get("/a"), site.get("/a")];
    let calls = site.calls().await;
    assert_eq!(calls.len(), 3);
    calls.into_iter().for_each(|call| call.whole(200, &[], "newer"));
    for viewer in viewers {
        assert_eq!(text(viewer).await, (Expired, 200, "newer".into()));
    }
}
