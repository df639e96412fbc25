//! Sections 5.2.1 and 5.4: what requests ask for, with `proxy_cache_rfc9111 on`.

use super::*;

const LONG: List = &[("Cache-Control", "max-age=60")];

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_without_on_requests_ask_in_vain() {
    let asks: [List; 6] = [
        &[("Cache-Control", "no-cache")],
        &[("Cache-Control", "no-store")],
        &[("Cache-Control", "max-age=0")],
        &[("Cache-Control", "min-fresh=99")],
        &[("Cache-Control", "only-if-cached")],
        &[("Pragma", "no-cache")],
    ];
    table(asks.map(|asks| row(LONG).with(|p| p.rfc9111 = Rfc9111::Responses).asks(asks).after(5).served(5)))
        .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_1_max_age_is_the_most_it_may_be_old() {
    table([
        row(LONG).asks(&[("Cache-Control", "max-age=5")]).after(5).served(5),
        row(LONG).asks(&[("Cache-Control", "max-age=5")]).after(6).validated(),
        row(LONG).asks(&[("Cache-Control", "max-age=0")]).after(1).validated(),
        row(&[("Cache-Control", "max-age=60"), ("Age", "10")])
            .asks(&[("Cache-Control", "max-age=5")])
            .validated(),
        // It makes nothing fresh that is stale.
        row(LONG).asks(&[("Cache-Control", "max-age=99")]).after(60).validated(),
        row(LONG).asks(&[("Cache-Control", "max-age=99, max-stale=30")]).after(60).stale(60),
        row(LONG).asks(&[("Cache-Control", "max-age=x")]).after(1).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_2_max_stale_takes_what_is_stale() {
    table([
        row(LONG).asks(&[("Cache-Control", "max-stale")]).after(60_000).stale(60_000),
        row(LONG).asks(&[("Cache-Control", "max-stale=10")]).after(70).stale(70),
        row(LONG).asks(&[("Cache-Control", "max-stale=10")]).after(71).validated(),
        row(LONG).asks(&[("Cache-Control", "max-stale=x")]).after(61).validated(),
        row(LONG).asks(&[("Cache-Control", "max-stale=10")]).after(59).served(59),
        row(LONG)
            .asks(&[("Cache-Control", "max-stale")])
            .with(|p| p.rfc9111 = Rfc9111::Responses)
            .after(61)
            .validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_3_min_fresh_is_the_least_it_must_stay_fresh() {
    table([
        row(LONG).asks(&[("Cache-Control", "min-fresh=10")]).after(50).served(50),
        row(LONG).asks(&[("Cache-Control", "min-fresh=10")]).after(51).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_4_no_cache_asks_for_validation() {
    table([
        row(LONG).asks(&[("Cache-Control", "no-cache")]).validated(),
        row(LONG).asks(&[("Cache-Control", "No-Cache")]).validated(),
        row(LONG).asks(&[("Cache-Control", "max-stale, no-cache")]).after(61).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_4_who_asks_for_no_cache_brings_the_others_a_new_one() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, &[("Cache-Control", "max-age=60"), ("ETag", "\"1\"")]).await;
    pass(30).await;
    let (call, request) = origin.get(&[("Cache-Control", "no-cache")]).await.asked();
    call.whole(200, &[("Cache-Control", "max-age=60"), ("ETag", "\"2\"")], "new");
    let first = got(request).await;
    assert_eq!((first.status, first.body.as_str()), (CacheStatus::Expired, "new"));
    origin.0.idle().await;
    let next = origin.get(&[]).await.answered();
    assert_eq!((next.body.as_str(), next.age()), ("new", Some(0)));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_4_what_was_asked_for_before_is_not_for_who_asks_for_no_cache() {
    let mut origin = Origin::new();
    let (call, first) = origin.get(&[]).await.asked();
    let (other, second) = origin.get(&[("Cache-Control", "no-cache")]).await.asked();
    call.whole(200, LONG, "first");
    other.whole(200, LONG, "second");
    assert_eq!((got(first).await.body.as_str(), got(second).await.body.as_str()), ("first", "second"));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_5_what_no_store_brings_is_not_stored() {
    table([
        row(LONG).asked_by(&[("Cache-Control", "no-store")]).forwarded(),
        // It may be answered from what is stored.
        row(LONG).asks(&[("Cache-Control", "no-store")]).after(5).served(5),
    ])
    .await;
    let mut origin = Origin::with(|p| {
        p.background_update = true;
        p.stale.updating = true;
    });
    origin.stores(&[], 200, LONG).await;
    pass(60).await;
    let (call, request) = origin.get(&[("Cache-Control", "no-store")]).await.asked();
    assert_eq!(call.validators, None);
    call.whole(200, LONG, "mine");
    assert_eq!(got(request).await.body, "mine");
    let next = origin.get(&[]).await.answered();
    assert_eq!((next.status, next.body.as_str()), (CacheStatus::Stale, "old"));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_6_no_transform_is_served_as_it_is_kept() {
    table([row(LONG).asks(&[("Cache-Control", "no-transform")]).after(5).served(5)]).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_2_1_7_only_if_cached_never_asks_the_origin() {
    const ONLY: List = &[("Cache-Control", "only-if-cached")];
    table([
        row(LONG).asks(ONLY).after(59).served(59),
        row(LONG).asks(ONLY).after(60).refused(),
        row(LONG).asks(&[("Cache-Control", "only-if-cached, max-stale")]).after(60).stale(60),
        row(LONG).asks(&[("Cache-Control", "only-if-cached, max-age=5")]).after(6).refused(),
        row(LONG).asks(&[("Cache-Control", "only-if-cached, no-cache")]).refused(),
        row(&[("Cache-Control", "no-store")]).asks(ONLY).refused(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_4_pragma_is_no_cache_where_there_is_no_cache_control() {
    table([
        row(LONG).asks(&[("Pragma", "no-cache")]).after(5).validated(),
        row(LONG).asks(&[("Pragma", "foo, no-cache")]).after(5).validated(),
        row(LONG).asks(&[("Pragma", "foo")]).after(5).served(5),
        row(LONG).asks(&[("Pragma", "no-cache"), ("Cache-Control", "max-age=30")]).after(5).served(5),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc8246_2_what_is_immutable_is_not_asked_for_by_a_reload_while_it_is_fresh() {
    const IMMUTABLE: List = &[("Cache-Control", "max-age=60, immutable")];
    table([
        row(IMMUTABLE).asks(&[("Cache-Control", "max-age=0")]).after(5).served(5),
        // A forced reload is.
        row(IMMUTABLE).asks(&[("Cache-Control", "no-cache")]).after(5).validated(),
        row(IMMUTABLE).asks(&[("Cache-Control", "max-age=0")]).after(60).validated(),
        row(IMMUTABLE).after(60).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_wants_a_new_one_does_not_get_it_kept_before_its_time() {
    let mut origin = Origin::with(|p| p.min_uses = 2);
    for kept in [false, true] {
        let (call, request) = origin.get(&[("Cache-Control", "no-cache")]).await.asked();
        assert_eq!(call.plain, !kept);
        call.whole(200, &[("Cache-Control", "max-age=60")], "new");
        got(request).await;
        origin.0.idle().await;
    }
    assert_eq!(origin.get(&[]).await.answered().status, CacheStatus::Hit);
}
