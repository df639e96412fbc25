//! Section 4.3: validation.

use super::*;

const TAGGED: List = &[("Cache-Control", "max-age=10"), ("ETag", "\"1\"")];

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_1_validators_are_those_of_what_is_stored() {
    let mut origin = Origin::new();
    const BOTH: List = &[
        ("Cache-Control", "max-age=10"),
        ("ETag", "W/\"1\""),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ];
    origin.stores(&[], 200, BOTH).await;
    pass(10).await;
    let (call, _) = origin.get(&[]).await.asked();
    let validators = call.validators.unwrap();
    assert_eq!(validators.etag.unwrap(), "W/\"1\"");
    assert_eq!(validators.last_modified.unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_3_a_full_response_takes_the_stored_ones_place() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, TAGGED).await;
    pass(10).await;
    let (call, request) = origin.get(&[]).await.asked();
    call.whole(200, &[("Cache-Control", "max-age=10"), ("ETag", "\"2\"")], "new");
    let first = got(request).await;
    assert_eq!((first.status, first.body.as_str()), (CacheStatus::Expired, "new"));
    origin.0.idle().await;
    assert_eq!(origin.get(&[]).await.answered().body, "new");
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_3_an_error_is_forwarded_unless_stale_is_allowed() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, TAGGED).await;
    pass(10).await;
    let (call, request) = origin.get(&[]).await.asked();
    call.whole(503, &[], "busy");
    assert_eq!(got(request).await.body, "busy");
    origin.0.policy.stale.statuses = vec![503];
    let (call, request) = origin.get(&[]).await.asked();
    assert!(call.validators.is_some(), "the stored one is still there");
    call.whole(503, &[], "busy");
    assert_eq!(got(request).await.body, "old");
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_4_a_304_with_another_strong_tag_updates_nothing() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, TAGGED).await;
    pass(10).await;
    let got =
        origin.confirms(&[], &[("ETag", "\"2\""), ("Cache-Control", "max-age=60"), ("X-New", "1")]).await;
    assert_eq!(
        (got.body.as_str(), got.field("x-new"), got.field("etag").as_deref()),
        ("old", None, Some("\"1\""))
    );
    assert_eq!(
        origin.confirms(&[], TAGGED).await.status,
        CacheStatus::Revalidated,
        "it was as stale as before"
    );
    origin.get(&[]).await.answered();
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_4_a_304_with_the_same_tag_a_weak_one_or_none_updates() {
    let table: [(List, List); 5] = [
        (TAGGED, &[("ETag", "\"1\"")]),
        (TAGGED, &[("ETag", "W/\"1\"")]),
        // So answers nginx behind gzip.
        (&[("Cache-Control", "max-age=10"), ("ETag", "W/\"1\"")], &[("ETag", "\"1\"")]),
        (TAGGED, &[]),
        (&[("Cache-Control", "max-age=10"), ("Last-Modified", "@-100")], &[("Last-Modified", "@-110")]),
    ];
    for (stored, confirmed) in table {
        let mut origin = Origin::new();
        origin.stores(&[], 200, stored).await;
        pass(10).await;
        origin.confirms(&[], confirmed).await;
        assert_eq!(origin.get(&[]).await.answered().status, CacheStatus::Hit, "{stored:?} {confirmed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_those_who_wait_for_a_validation_share_what_it_makes_fresh() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, TAGGED).await;
    pass(10).await;
    let (call, first) = origin.get(&[]).await.asked();
    let second = origin.0.get("/a");
    origin.0.readers(3).await;
    call.whole(304, &[], "");
    assert_eq!(got(first).await.status, CacheStatus::Revalidated);
    let second = got(second).await;
    assert_eq!((second.status, second.age()), (CacheStatus::Hit, Some(0)));
    assert!(!origin.0.was_asked());
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_5_an_answer_to_head_freshens_the_stored_get_or_makes_it_stale() {
    use crate::cache::freshness::Received;
    use crate::cache::update::freshened;
    let table: [(List, Option<u64>, bool); 8] = [
        (&[("ETag", "\"1\"")], Some(3), true),
        (&[("ETag", "\"1\"")], None, true),
        (&[], None, true),
        (&[("ETag", "\"2\"")], Some(3), false),
        (&[("Vary", "Cookie")], Some(3), false),
        (&[("Vary", "*")], None, false),
        (&[("ETag", "\"1\"")], Some(4), false),
        (&[("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")], Some(3), false),
    ];
    for (fields, length, same) in table {
        let mut origin = Origin::new();
        origin.stores(&[], 200, TAGGED).await;
        pass(5).await;
        let mut head = Fields::default();
        head.add_static("X-New", "1");
        fields.iter().for_each(|(name, value)| head.add_static(name, *value));
        let key = Key::new(Bytes::from_static(b"/a"));
        let asked = Head::from_parts(b"HEAD", b"/a", Version::Http11, std::iter::empty());
        let kept = origin.0.zone.find(&key, &asked).entry.unwrap();
        let now = wall().as_secs();
        let received = Received { status: 200, fields: &head, asked: &asked, delay: D::ZERO, now };
        let instant = tokio::time::Instant::now();
        let entry = freshened(&kept, &received, length, &origin.0.policy, instant);
        origin.0.zone.keep(&key, Arc::new(entry));
        pass(9).await;
        if same {
            let got = origin.get(&[]).await.answered();
            assert_eq!((got.age(), got.field("x-new").as_deref()), (Some(9), Some("1")), "{fields:?}");
        } else {
            let got = origin.confirms(&[], &[]).await;
            assert_eq!(got.field("x-new"), None, "{fields:?} {length:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_3_5_answers_to_head_do_not_let_what_is_stored_grow_without_end() {
    use crate::cache::freshness::{Received, wall};
    use crate::cache::update::{LARGEST, freshened};
    let mut origin = Origin::new();
    origin.stores(&[], 200, TAGGED).await;
    let key = Key::new(Bytes::from_static(b"/a"));
    let asked = Head::from_parts(b"HEAD", b"/a", Version::Http11, std::iter::empty());
    let mut kept = origin.0.zone.find(&key, &asked).entry.unwrap();
    for n in 0..100 {
        let mut fields = Fields::default();
        fields.add(format!("X-{n}"), "v".repeat(1 << 10));
        let now = wall().as_secs();
        let received = Received { status: 200, fields: &fields, asked: &asked, delay: D::ZERO, now };
        kept = Arc::new(freshened(&kept, &received, None, &origin.0.policy, tokio::time::Instant::now()));
        assert!(kept.fields.size() <= LARGEST);
    }
    assert!(kept.fields.get("x-10").is_some() && !kept.is_fresh(tokio::time::Instant::now()));
}
