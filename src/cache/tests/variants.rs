//! `Vary` through the whole way.

use super::*;
use CacheStatus::{Hit, Miss};

const VARY: (&str, &str) = ("Vary", "Accept-Encoding");

fn accepts(encoding: &'static str) -> With {
    With { fields: vec![("Accept-Encoding", encoding)], ..With::default() }
}

#[tokio::test]
async fn each_variant_is_kept_by_itself() {
    let mut site = Site::new();
    for (encoding, body) in [("gzip", "G"), ("br", "B"), ("zstd", "Z")] {
        let request = site.get_with("/a", accepts(encoding));
        site.call().await.whole(200, &[VARY], body);
        assert_eq!(text(request).await, (Miss, 200, body.into()));
        site.idle().await;
    }
    for (encoding, body) in [("br", "B"), ("gzip", "G"), ("zstd", "Z")] {
        assert_eq!(text(site.get_with("/a", accepts(encoding))).await, (Hit, 200, body.into()));
    }
    assert!(!site.was_asked());
}

#[tokio::test]
async fn who_waits_for_a_fill_that_turns_out_another_variant_asks_anew() {
    let mut site = Site::new();
    let gzip = site.get_with("/a", accepts("gzip"));
    let call = site.call().await;
    let others: Vec<_> = (0..3).map(|_| site.get_with("/a", accepts("br"))).collect();
    let same = site.get_with("/a", accepts("gzip"));
    site.readers(5).await;
    call.whole(200, &[VARY], "G");
    assert_eq!(text(gzip).await, (Miss, 200, "G".into()));
    assert_eq!(text(same).await, (Hit, 200, "G".into()));
    // One of the others asks; the rest share its answer.
    site.call().await.whole(200, &[VARY], "B");
    let mut misses = 0;
    for other in others {
        let (status, _, body) = text(other).await;
        assert_eq!(body, "B");
        misses += usize::from(status == Miss);
    }
    assert_eq!(misses, 1);
    assert!(!site.was_asked());
}

#[tokio::test]
async fn a_variant_that_varies_by_something_else_becomes_the_main_entry() {
    let mut site = Site::new();
    let gzip = site.get_with("/a", accepts("gzip"));
    site.call().await.whole(200, &[VARY], "G");
    text(gzip).await;
    site.idle().await;
    let br = site.get_with("/a", accepts("br"));
    site.call().await.whole(200, &[("Vary", "Cookie")], "anything");
    text(br).await;
    site.idle().await;
    assert_eq!(text(site.get_with("/a", accepts("gzip"))).await, (Hit, 200, "anything".into()));
}

#[tokio::test]
async fn vary_may_be_ignored() {
    let mut site = Site::new();
    site.policy.ignore.vary = true;
    site.kept("/a", &[("Vary", "*")], "one for all").await;
    assert_eq!(text(site.get_with("/a", accepts("br"))).await, (Hit, 200, "one for all".into()));
}

#[tokio::test]
async fn a_client_that_makes_up_variants_pushes_out_its_own() {
    let mut site = Site::new();
    site.kept("/other", &[("Vary", "X-Kind")], "other").await;
    let names: Vec<&'static str> = (0..300).map(|n| &*format!("{n}").leak()).collect();
    for name in &names {
        let request = site.get_with("/a", With { fields: vec![("X-Kind", name)], ..With::default() });
        site.call().await.whole(200, &[("Vary", "X-Kind")], "made up");
        text(request).await;
        site.idle().await;
    }
    let (entries, _) = site.zone.store.held();
    assert_eq!(entries, 2 + 256, "the main one, and the newest of its variants");
    let newest = With { fields: vec![("X-Kind", names[299])], ..With::default() };
    assert_eq!(text(site.get_with("/a", newest)).await.0, Hit);
    assert_eq!(text(site.get("/other")).await, (Hit, 200, "other".into()));
}

#[tokio::test]
async fn a_variant_of_a_main_entry_that_is_gone_is_asked_for_once() {
    let mut site = Site::new();
    for (encoding, body) in [("gzip", "G"), ("br", "old")] {
        let request = site.get_with("/a", accepts(encoding));
        site.call().await.whole(200, &[VARY], body);
        text(request).await;
        site.idle().await;
    }
    // Evicted; another takes its place, and what the variant is one of nobody knows.
    site.zone.store.remove(Key::new(Bytes::from_static(b"/a")).hash);
    let gzip = site.get_with("/a", accepts("gzip"));
    site.call().await.whole(200, &[VARY], "G");
    text(gzip).await;
    site.idle().await;
    let requests: Vec<_> = (0..4).map(|_| site.get_with("/a", accepts("br"))).collect();
    let call = site.call().await;
    settle().await;
    assert!(!site.was_asked(), "they share one");
    call.whole(200, &[VARY], "B");
    for request in requests {
        assert_eq!(text(request).await.2, "B");
    }
}
