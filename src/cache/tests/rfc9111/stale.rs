//! Section 4.2.4 and RFC 5861: when what is stale is served.

use super::*;
use CacheStatus::{Expired, Hit, Revalidated, Stale, Updating};

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_4_stale_is_not_served_unless_something_allows_it() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, &[("Cache-Control", "max-age=10")]).await;
    pass(10).await;
    let (call, request) = origin.get(&[]).await.asked();
    call.fail(504, FailureKind::Timeout);
    let got = got(request).await;
    assert_eq!((got.status, got.code), (Expired, 504));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_4_the_configuration_may_allow_it() {
    let mut origin = Origin::with(|p| p.stale.timeout = true);
    origin.stores(&[], 200, &[("Cache-Control", "max-age=10")]).await;
    pass(12).await;
    let (call, request) = origin.get(&[]).await.asked();
    call.fail(504, FailureKind::Timeout);
    let got = got(request).await;
    assert_eq!((got.status, got.age(), got.body.as_str()), (Stale, Some(12), "old"));
}

#[tokio::test(start_paused = true)]
async fn rfc5861_3_stale_while_revalidate_is_served_while_it_is_updated() {
    let mut origin = Origin::with(|p| p.background_update = true);
    origin
        .stores(&[], 200, &[("Cache-Control", "max-age=10, stale-while-revalidate=5"), ("ETag", "\"1\"")])
        .await;
    pass(14).await;
    let first = origin.get(&[]).await.answered();
    assert_eq!((first.status, first.age()), (Stale, Some(14)));
    let call = origin.0.call().await;
    let second = origin.get(&[]).await.answered();
    assert_eq!((second.status, second.age()), (Updating, Some(14)));
    call.whole(304, &[], "");
    origin.0.idle().await;
    assert_eq!(origin.get(&[]).await.answered().status, Hit);
    // Past that time it is validated first.
    pass(15).await;
    assert_eq!(origin.confirms(&[], &[]).await.status, Revalidated);
}

#[tokio::test(start_paused = true)]
async fn rfc5861_3_the_time_counts_from_when_it_got_stale() {
    let mut origin = Origin::with(|p| p.background_update = true);
    const FIELDS: List =
        &[("Cache-Control", "max-age=10, stale-while-revalidate=5"), ("Age", "12"), ("ETag", "\"1\"")];
    origin.stores(&[], 200, FIELDS).await;
    pass(2).await;
    assert_eq!(origin.get(&[]).await.answered().status, Stale);
    origin.0.call().await.whole(304, &[("Age", "14")], "");
    origin.0.idle().await;
    pass(1).await;
    let (call, _) = origin.get(&[]).await.asked();
    assert!(call.validators.is_some());
}

#[tokio::test(start_paused = true)]
async fn rfc5861_4_stale_if_error_covers_failures_and_the_errors_it_names() {
    for status in [500, 502, 503, 504] {
        let mut origin = Origin::new();
        origin.stores(&[], 200, &[("Cache-Control", "max-age=10, stale-if-error=20")]).await;
        pass(29).await;
        let (call, request) = origin.get(&[]).await.asked();
        call.whole(status, &[], "oops");
        let first = got(request).await;
        assert_eq!((first.status, first.age(), first.body.as_str()), (Stale, Some(29), "old"), "{status}");
        let (call, request) = origin.get(&[]).await.asked();
        call.fail(502, FailureKind::Error);
        assert_eq!(got(request).await.status, Stale);
        pass(1).await;
        let (call, request) = origin.get(&[]).await.asked();
        call.whole(status, &[], "oops");
        assert_eq!(got(request).await.body, "oops", "{status}: its time is over");
    }
    let mut origin = Origin::new();
    origin.stores(&[], 200, &[("Cache-Control", "max-age=10, stale-if-error=20")]).await;
    pass(11).await;
    let (call, request) = origin.get(&[]).await.asked();
    call.whole(404, &[], "gone");
    assert_eq!(got(request).await.body, "gone", "that is no error of the server");
}
