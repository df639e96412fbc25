//! Section 5.2.2: what responses say.

use super::*;

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_1_max_age() {
    table([
        row(&[("Cache-Control", "max-age=10")]).after(9).served(9),
        row(&[("Cache-Control", "max-age=10")]).after(10).validated(),
        row(&[("Cache-Control", "max-age=0")]).validated(),
        row(&[("Cache-Control", "MAX-AGE=\"10\"")]).after(9).served(9),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_1_stale_from_the_beginning_it_is_kept_for_its_validators_only() {
    table([
        row(&[("Cache-Control", "max-age=0"), ("ETag", "\"1\"")]).validated(),
        row(&[("Cache-Control", "max-age=0"), ("ETag", "\"1\"")]).with(|p| p.revalidate = false).came(
            // Kept, but without validation of no use.
            Came::Forwarded(CacheStatus::Expired),
        ),
    ])
    .await;
    let mut origin = Origin::new();
    origin.stores(&[], 200, &[("Cache-Control", "max-age=0")]).await;
    let (call, _) = origin.get(&[]).await.asked();
    assert_eq!(call.validators, None, "without a validator there is nothing to keep it for");
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_2_must_revalidate_is_never_served_stale() {
    fn lenient(policy: &mut Policy) {
        policy.stale.updating = true;
        policy.background_update = true;
        policy.stale.error = true;
        policy.stale.statuses = vec![500];
    }
    table([
        row(&[("Cache-Control", "max-age=10, must-revalidate")]).with(lenient).after(9).served(9),
        row(&[("Cache-Control", "max-age=10, must-revalidate")]).with(lenient).after(10).validated(),
        row(&[("Cache-Control", "max-age=10, must-revalidate, stale-while-revalidate=60")])
            .with(lenient)
            .after(10)
            .validated(),
        row(&[("Cache-Control", "max-age=10, must-revalidate")])
            .asks(&[("Cache-Control", "max-stale")])
            .after(10)
            .validated(),
    ])
    .await;
    let mut origin = Origin::with(lenient);
    origin.stores(&[], 200, &[("Cache-Control", "max-age=10, must-revalidate, stale-if-error=60")]).await;
    pass(10).await;
    let (call, request) = origin.get(&[]).await.asked();
    call.fail(502, FailureKind::Error);
    assert_eq!(got(request).await.code, 502, "an error, and not the old one");
    let (call, request) = origin.get(&[]).await.asked();
    call.whole(500, &[], "oops");
    assert_eq!(got(request).await.body, "oops");
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_3_must_understand_passes_over_no_store_where_the_status_is_understood() {
    const UNDERSTAND: List = &[("Cache-Control", "must-understand, no-store, max-age=60")];
    table([
        row(UNDERSTAND).served(0),
        row(UNDERSTAND).status(404).served(0),
        row(UNDERSTAND).status(599).forwarded(),
        row(UNDERSTAND).status(299).forwarded(),
        row(&[("Cache-Control", "must-understand, max-age=60")]).status(299).forwarded(),
        row(&[("Cache-Control", "no-store, max-age=60")]).forwarded(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_4_no_cache_is_validated_each_time() {
    table([
        row(&[("Cache-Control", "no-cache")]).validated(),
        row(&[("Cache-Control", "no-cache, max-age=60")]).validated(),
        row(&[("Cache-Control", "no-cache, max-age=60, stale-while-revalidate=60")]).validated(),
        row(&[("Cache-Control", "no-cache, max-age=60")])
            .with(|p| p.stale.updating = true)
            .asks(&[("Cache-Control", "max-stale")])
            .validated(),
        // Of a status that says nothing about caching it is not kept.
        row(&[("Cache-Control", "no-cache")]).status(500).forwarded(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_4_no_cache_is_validated_for_each_of_many_at_once() {
    let mut origin = Origin::new();
    let (call, first) = origin.get(&[]).await.asked();
    let second = origin.0.get("/a");
    origin.0.readers(2).await;
    const FIELDS: [(&str, &str); 2] = [("Cache-Control", "no-cache"), ("ETag", "\"1\"")];
    call.whole(200, &FIELDS, "first");
    assert_eq!(got(first).await.body, "first");
    // The first one's answer is not for the second, which asks itself.
    origin.0.call().await.whole(200, &FIELDS, "second");
    assert_eq!(got(second).await.body, "second");
    origin.0.idle().await;
    let (third, fourth) = (origin.0.get("/a"), origin.0.get("/a"));
    for _ in 0..2 {
        let call = origin.0.call().await;
        assert!(call.validators.is_some());
        call.whole(304, &[], "");
    }
    assert_eq!(
        (got(third).await.status, got(fourth).await.status),
        (CacheStatus::Revalidated, CacheStatus::Revalidated)
    );
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_4_fields_that_no_cache_names_are_used_only_after_validation() {
    let mut origin = Origin::new();
    const FIELDS: List = &[
        ("Cache-Control", "max-age=10, no-cache=\"X-Mine, x-other\""),
        ("X-Mine", "1"),
        ("X-Other", "2"),
        ("ETag", "\"1\""),
    ];
    let first = origin.stores(&[], 200, FIELDS).await;
    assert_eq!(first.field("x-mine").as_deref(), Some("1"), "its requester gets them");
    let second = origin.get(&[]).await.answered();
    assert_eq!((second.field("x-mine"), second.field("x-other")), (None, None));
    pass(10).await;
    let third = origin.confirms(&[], &[("X-Mine", "3")]).await;
    assert_eq!(third.field("x-mine").as_deref(), Some("3"), "the one who asked gets what the 304 has");
    assert_eq!(origin.get(&[]).await.answered().field("x-mine"), None);
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_5_no_store() {
    table([row(&[("Cache-Control", "no-store")]).forwarded()]).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_6_no_transform_does_not_concern_storing() {
    table([row(&[("Cache-Control", "no-transform, max-age=10")]).after(9).served(9)]).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_7_fields_that_private_names_are_not_stored() {
    let mut origin = Origin::new();
    let (call, first) = origin.get(&[]).await.asked();
    let shares = origin.0.get("/a");
    origin.0.readers(2).await;
    call.whole(200, &[("Cache-Control", "max-age=10, private=\"X-Mine\""), ("X-Mine", "1")], "old");
    assert_eq!(got(first).await.field("x-mine").as_deref(), Some("1"), "its requester gets it");
    assert_eq!(got(shares).await.field("x-mine"), None, "nobody else does");
    origin.0.idle().await;
    assert_eq!(origin.get(&[]).await.answered().field("x-mine"), None);
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_8_proxy_revalidate_is_never_served_stale() {
    table([
        row(&[("Cache-Control", "max-age=10, proxy-revalidate")]).after(9).served(9),
        row(&[("Cache-Control", "max-age=10, proxy-revalidate")])
            .with(|p| p.stale.updating = true)
            .asks(&[("Cache-Control", "max-stale")])
            .after(10)
            .validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_9_public_lets_be_stored_what_was_authorized() {
    const AUTH: List = &[("Authorization", "Basic eDp5")];
    table([row(&[("Cache-Control", "public, max-age=60")]).asked_by(AUTH).served(0)]).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_10_s_maxage_overrides_max_age() {
    table([
        row(&[("Cache-Control", "max-age=10, s-maxage=20")]).after(19).served(19),
        row(&[("Cache-Control", "max-age=20, s-maxage=10")]).after(10).validated(),
        row(&[("Cache-Control", "s-maxage=0, max-age=60")]).validated(),
        row(&[("Cache-Control", "s-maxage=10"), ("Expires", "@60")]).after(10).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_2_10_s_maxage_means_proxy_revalidate() {
    table([
        row(&[("Cache-Control", "s-maxage=10, stale-while-revalidate=60")]).after(10).validated(),
        row(&[("Cache-Control", "s-maxage=10")]).with(|p| p.stale.updating = true).after(10).validated(),
        row(&[("Cache-Control", "s-maxage=10")])
            .asks(&[("Cache-Control", "max-stale")])
            .after(10)
            .validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_3_what_is_not_known_is_passed_over() {
    table([
        row(&[("Cache-Control", "max-age=10, community=\"UCI, no-store\"")]).after(9).served(9),
        row(&[("Cache-Control", "x-max-age=99, max-age=10")]).after(10).validated(),
        row(&[("Cache-Control", ",, ,max-age=10,;")]).after(9).served(9),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_4_pragma_means_nothing_in_a_response() {
    table([row(&[("Cache-Control", "max-age=10"), ("Pragma", "no-cache")]).after(9).served(9)]).await;
}
