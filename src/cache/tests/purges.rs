//! Purges: what they remove, and what was on its way when they came.

use super::*;
use crate::cache::key::HEAD;
use crate::cache::purge::{Refused, What};

impl Site {
    async fn purge(&self, what: What) -> u64 {
        self.zone.purge(what).await.unwrap()
    }

    async fn purge_key(&self, key: &str) -> u64 {
        self.purge(What::from_key(Bytes::copy_from_slice(key.as_bytes()))).await
    }

    async fn purge_tags(&self, tags: &[&str]) -> u64 {
        let tags = tags.iter().map(|tag| Bytes::copy_from_slice(tag.as_bytes()));
        self.purge(What::Tags(tags.collect())).await
    }

    /// A request that the origin is asked for, and answers with `body`.
    async fn misses(&mut self, path: &str, fields: &[(&'static str, &str)], body: &'static str) {
        self.kept(path, fields, body).await;
    }

    async fn hits(&mut self, path: &str, body: &str) {
        let got = text(self.get(path)).await;
        assert_eq!(got, (CacheStatus::Hit, 200, body.to_string()), "{path}");
        assert!(!self.was_asked());
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_purged_and_no_other() {
    let mut site = Site::new();
    for path in ["/a", "/a/b", "/b", "/a*"] {
        site.kept(path, &[], "one").await;
    }
    assert_eq!(site.purge_key("/a").await, 1);
    assert_eq!(site.purge_key("/a").await, 0, "it is gone already");
    for path in ["/a/b", "/b", "/a*"] {
        site.hits(path, "one").await;
    }
    site.misses("/a", &[], "two").await;
    site.hits("/a", "two").await;
    assert_eq!(site.zone.purges.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_head_goes_with_its_key() {
    let mut site = Site::new();
    let head: &'static str = "/a\0HEAD";
    assert!(head.as_bytes().ends_with(HEAD));
    site.kept("/a", &[], "one").await;
    site.kept(head, &[], "").await;
    assert_eq!(site.purge_key("/a").await, 2);
    site.misses(head, &[], "").await;
}

#[tokio::test(start_paused = true)]
async fn variants_go_with_their_key_and_do_not_come_back() {
    let mut site = Site::new();
    let vary = [("Vary", "Accept-Encoding")];
    let with = |coding| With { fields: vec![("Accept-Encoding", coding)], ..With::default() };
    let fill = async |site: &mut Site, coding, body| {
        let request = site.get_with("/a", with(coding));
        site.call().await.whole(200, &vary, body);
        assert_eq!(text(request).await, (CacheStatus::Miss, 200, body.to_string()));
        site.idle().await;
    };
    fill(&mut site, "gzip", "gzip 1").await;
    fill(&mut site, "br", "br 1").await;
    assert_eq!(text(site.get_with("/a", with("br"))).await.0, CacheStatus::Hit);
    assert!(site.purge_key("/a").await >= 1);
    // With the new main entry the variants from before the purge could be found again.
    fill(&mut site, "gzip", "gzip 2").await;
    fill(&mut site, "br", "br 2").await;
    for (coding, body) in [("gzip", "gzip 2"), ("br", "br 2")] {
        let got = text(site.get_with("/a", with(coding))).await;
        assert_eq!(got, (CacheStatus::Hit, 200, body.to_string()));
    }
    // What replaces the main entry without a purge keeps its variants.
    tokio::time::advance(Duration::from_secs(9)).await;
    fill(&mut site, "zstd", "zstd 2").await;
    tokio::time::advance(Duration::from_secs(2)).await;
    let request = site.get_with("/a", with("gzip"));
    site.call().await.whole(200, &vary, "gzip 3");
    assert_eq!(text(request).await.0, CacheStatus::Expired);
    site.idle().await;
    assert_eq!(text(site.get_with("/a", with("zstd"))).await, (CacheStatus::Hit, 200, "zstd 2".to_string()));
}

#[tokio::test(start_paused = true)]
async fn a_variant_waits_for_the_main_entry_that_is_being_filled() {
    let mut site = Site::new();
    let vary = [("Vary", "Accept-Encoding")];
    let with = |coding| With { fields: vec![("Accept-Encoding", coding)], ..With::default() };
    let first = site.get_with("/a", with("gzip"));
    let call = site.call().await;
    let second = site.get_with("/a", with("br"));
    site.readers(2).await;
    let pieces = call.open(200, &vary, None);
    site.call().await.whole(200, &vary, "br");
    assert_eq!(text(second).await, (CacheStatus::Miss, 200, "br".to_string()));
    drop(pieces);
    assert_eq!(text(first).await.2, "");
    site.idle().await;
    for (coding, body) in [("gzip", ""), ("br", "br")] {
        assert_eq!(text(site.get_with("/a", with(coding))).await, (CacheStatus::Hit, 200, body.to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wildcard_purges_what_begins_so_of_ten_thousand() {
    let mut site = Site::new();
    let keep = |site: &Site, key: String| {
        let key = Key::new(Bytes::from(key));
        let now = tokio::time::Instant::now();
        let failure =
            Failure { status: 502, kind: FailureKind::Error, message: String::new(), attempts: Vec::new() };
        let entry =
            crate::cache::entry::Entry::failure(key.text.clone(), &failure, now, Duration::from_secs(9));
        site.zone.keep(&key, Arc::new(entry));
    };
    for n in 0..10_000 {
        keep(&site, format!("/{}/{n}", n % 10));
    }
    assert_eq!(site.purge_key("/3/*").await, 1000);
    assert_eq!(site.purge_key("/3/*").await, 0);
    assert_eq!(site.zone.store.held().0, 9000);
    assert_eq!(site.purge_key("*").await, 9000);
    assert_eq!(site.zone.store.held(), (0, 0));
    assert_eq!(site.zone.counters.evictions(crate::cache::counters::Eviction::Purged), 10_000);
    assert_eq!(site.zone.purges.pending(), 0);
    site.misses("/3/x", &[], "new").await;
}

#[tokio::test(start_paused = true)]
async fn tags_purge_what_has_them() {
    let mut site = Site::new();
    site.kept("/a", &[("Cache-Tag", "news,front")], "a").await;
    site.kept("/b", &[("Surrogate-Key", "front shop")], "b").await;
    site.kept("/c", &[("Cache-Tag", "frontier")], "c").await;
    site.kept("/front", &[], "d").await;
    assert_eq!(site.purge_tags(&["nothing", "front"]).await, 2);
    site.hits("/c", "c").await;
    site.hits("/front", "d").await;
    site.misses("/a", &[("Cache-Tag", "news")], "a 2").await;
    site.misses("/b", &[("Cache-Tag", "shop")], "b 2").await;
    // The tags are those of what is kept now.
    assert_eq!(site.purge_tags(&["front"]).await, 0);
    assert_eq!(site.purge_tags(&["news", "shop"]).await, 2);
    assert_eq!(site.zone.purges.pending(), 0);
}

/// What a purge makes of a fill for /a/b that has not got its head yet, or has: who reads it reads on,
/// who comes later does not, and it is not kept.
async fn purge_on_its_way(what: What, head_is_there: bool) {
    let mut site = Site::new();
    let tagged = [("Cache-Tag", "t")];
    let first = site.get("/a/b");
    let (mut call, mut pieces) = (Some(site.call().await), None);
    let open = |call: &mut Option<Call>| call.take().map(|call| call.open(200, &tagged, None));
    if head_is_there {
        pieces = open(&mut call);
        settle().await;
    }
    assert_eq!(site.purge(what.clone()).await, 0, "nothing is kept yet");
    let second = site.get("/a/b");
    if !head_is_there && matches!(what, What::Tags(_)) {
        // It is not known yet that the answer has the tag, so it is waited for.
        site.readers(2).await;
        settle().await;
        assert!(!site.was_asked());
        assert_eq!(site.zone.purges.pending(), 1);
    }
    let pieces = pieces.or_else(|| open(&mut call)).unwrap();
    let again = site.call().await;
    assert_eq!(site.zone.purges.pending(), 0, "nothing is left that it could mean");
    again.whole(200, &tagged, "new");
    assert_eq!(text(second).await, (CacheStatus::Miss, 200, "new".to_string()));
    until(|| site.zone.counters.filling.get() == 1).await;
    pieces.send(Ok(Bytes::from_static(b"old"))).unwrap();
    drop(pieces);
    assert_eq!(text(first).await, (CacheStatus::Miss, 200, "old".to_string()));
    site.idle().await;
    site.hits("/a/b", "new").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_neither_joined_nor_kept() {
    for what in [
        What::Key(Bytes::from_static(b"/a/b")),
        What::Prefix(Bytes::from_static(b"/a/")),
        What::Tags([Bytes::from_static(b"t")].into()),
    ] {
        for head_is_there in [false, true] {
            purge_on_its_way(what.clone(), head_is_there).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_and_not_meant_is_kept() {
    let mut site = Site::new();
    let first = site.get("/a");
    let call = site.call().await;
    site.purge_key("/b").await;
    site.purge_key("/a/*").await;
    site.purge_tags(&["other"]).await;
    assert_eq!(site.zone.purges.pending(), 1, "a tag that the answer may have");
    call.whole(200, &[("Cache-Tag", "t")], "one");
    assert_eq!(text(first).await.2, "one");
    site.idle().await;
    assert_eq!(site.zone.purges.pending(), 0);
    site.hits("/a", "one").await;
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_asked_for_before_a_purge_revives_nothing() {
    let tags = [("ETag", "\"1\""), ("Cache-Tag", "t")];
    for what in [What::Key(Bytes::from_static(b"/a")), What::Tags([Bytes::from_static(b"t")].into())] {
        let mut site = Site::new();
        site.policy.revalidate = true;
        site.kept("/a", &tags, "one").await;
        tokio::time::advance(Duration::from_secs(11)).await;
        let first = site.get("/a");
        let call = site.call().await;
        assert!(call.validators.is_some());
        assert_eq!(site.purge(what).await, 1);
        let second = site.get("/a");
        settle().await;
        call.open(304, &[], Some(0));
        assert_eq!(text(first).await, (CacheStatus::Revalidated, 200, "one".to_string()));
        // What was purged is nothing to be confirmed.
        let again = site.call().await;
        assert!(again.validators.is_none());
        again.whole(200, &tags, "two");
        assert_eq!(text(second).await, (CacheStatus::Miss, 200, "two".to_string()));
        site.idle().await;
        site.hits("/a", "two").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_entry_that_was_purged_is_not_fallen_back_on() {
    let mut site = Site::new();
    site.policy.stale.error = true;
    site.kept("/a", &[], "one").await;
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(site.purge_key("/*").await, 1);
    let request = site.get("/a");
    site.call().await.fail(502, FailureKind::Error);
    assert_eq!(failed(request).await, (CacheStatus::Miss, 502));
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_kept_is_purged_too() {
    let mut site = Site::new();
    site.policy.valid = vec![Valid { status: None, time: Duration::from_secs(10) }];
    let request = site.get("/a");
    site.call().await.fail(502, FailureKind::Error);
    assert_eq!(failed(request).await, (CacheStatus::Miss, 502));
    site.idle().await;
    let second = site.get("/a");
    assert_eq!(failed(second).await, (CacheStatus::Hit, 502));
    assert_eq!(site.purge_key("/a").await, 1);
    site.misses("/a", &[], "one").await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_reaches_a_zone_of_another_size() {
    let mut site = Site::new();
    site.kept("/a", &[], "one").await;
    site.kept("/b", &[], "one").await;
    let spec = Spec { bound: 32 * MEGABYTE, ..site.zone.spec.clone() };
    let other = Arc::new(site.zone.resized(spec));
    // A request of the old configuration purges, one of the new one asks; and the other way round.
    assert_eq!(site.purge_key("/a").await, 1);
    let old = std::mem::replace(&mut site.zone, other);
    site.misses("/a", &[], "two").await;
    assert_eq!(site.purge_key("/b*").await, 1);
    site.zone = old;
    site.misses("/b", &[], "two").await;
}

#[tokio::test(start_paused = true)]
async fn tags_that_are_not_worked_off_are_bounded() {
    let mut site = Site::new();
    // An answer whose head never comes could have any of them.
    let waiting = site.get("/a");
    let call = site.call().await;
    let long = "x".repeat(100_000);
    let mut refused = 0;
    for n in 0..100 {
        let tag = Bytes::from(format!("{n}{long}"));
        if site.zone.purges.purge(What::Tags([tag].into())).await == Err(Refused::TooMany) {
            refused += 1;
        }
    }
    assert!(refused > 50, "{refused}");
    assert!(site.zone.purges.pending() > 10);
    call.whole(200, &[], "one");
    assert_eq!(text(waiting).await.2, "one");
    site.idle().await;
    assert_eq!(site.zone.purges.pending(), 0);
    assert_eq!(site.purge_tags(&["a"]).await, 0, "there is room again");
}

/// Threads that ask, threads that purge: what is served was made after the last purge that was done
/// before it was asked for. The origin answers with the number of the purges begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_from_before_a_purge_is_served_after_it() {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    let Site { zone, policy, mut calls, origin, .. } = Site::new();
    let (begun, done) = (tokio::sync::watch::Sender::new(0), Arc::new(AtomicU64::new(0)));
    let version = begun.subscribe();
    let answering = tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let version = *version.borrow();
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                let body = Bytes::from(version.to_string());
                let pieces = call.open(200, &[("Cache-Tag", "t"), ("ETag", "x")], Some(body.len() as u64));
                tokio::task::yield_now().await;
                pieces.send(Ok(body)).unwrap();
            });
        }
    });
    let hits = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for asker in 0..8 {
        let (zone, origin, done, hits) = (zone.clone(), origin.clone(), done.clone(), hits.clone());
        let (policy, mut rounds) = (Arc::new(policy.clone()), begun.subscribe());
        tasks.push(tokio::spawn(async move {
            for turn in 0.. {
                // Some requests in each round, while the purge is under way and after it.
                if turn % 16 == 0 && rounds.changed().await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
                let least = done.load(SeqCst);
                let key = Key::new(Bytes::from_static(b"/a"));
                let ask = Ask {
                    zone: zone.clone(),
                    policy: policy.clone(),
                    key,
                    bypass: asker == 0,
                    no_cache: NoCache::No,
                    far_range: false,
                    part: false,
                    hls: None,
                };
                let head = Head::from_parts(b"GET", b"/a", Version::Http11, std::iter::empty());
                let mut viewer = FakeViewer { head, no_cache_if: None };
                let upstream = FakeUpstream { calls: origin.clone(), plain: false, viewer: asker };
                let served = serve(&ask, &mut viewer, upstream).await;
                if served.status == CacheStatus::Hit {
                    hits.fetch_add(1, SeqCst);
                }
                let body = whole(served.result.unwrap()).await.unwrap();
                let version: u64 = body.parse().unwrap();
                assert!(version >= least, "version {version} after purge {least} was done");
            }
        }));
    }
    for n in 1..=300 {
        // The origin changes, then the old is purged.
        begun.send_replace(n);
        let what = match n % 3 {
            0 => What::Key(Bytes::from_static(b"/a")),
            1 => What::Prefix(Bytes::from_static(b"/")),
            _ => What::Tags([Bytes::from_static(b"t")].into()),
        };
        zone.purges.purge(what).await.unwrap();
        done.store(n, SeqCst);
    }
    drop(begun);
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(300), task).await.unwrap().unwrap();
    }
    assert!(hits.load(SeqCst) > 0, "nobody was answered from the cache");
    until(|| zone.counters.filling.get() == 0).await;
    assert_eq!(zone.purges.pending(), 0);
    answering.abort();
}
