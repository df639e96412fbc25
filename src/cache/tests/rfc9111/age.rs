//! Sections 4.2 and 5.1, 5.3: how long it is fresh and how old it is.

use super::*;
use crate::cache::policy::Heuristic;

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_fresh_is_what_is_younger_than_its_lifetime() {
    table([
        row(&[("Cache-Control", "max-age=10")]).after(9).served(9),
        row(&[("Cache-Control", "max-age=10")]).after(10).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_1_s_maxage_then_max_age_then_expires() {
    table([
        row(&[("Cache-Control", "max-age=10, s-maxage=20"), ("Expires", "@30")]).after(19).served(19),
        row(&[("Cache-Control", "max-age=10, s-maxage=20"), ("Expires", "@30")]).after(20).validated(),
        row(&[("Cache-Control", "max-age=10"), ("Expires", "@30")]).after(10).validated(),
        row(&[("Cache-Control", "max-age=30"), ("Expires", "@10")]).after(29).served(29),
        row(&[("Expires", "@10")]).after(9).served(9),
        row(&[("Expires", "@10")]).after(10).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_1_expires_counts_from_date() {
    table([
        // Both clocks are an hour ahead of ours, or behind: the lifetime is a minute.
        row(&[("Date", "@3600"), ("Expires", "@3660")]).after(59).served(59),
        row(&[("Date", "@3600"), ("Expires", "@3660")]).after(60).validated(),
        row(&[("Date", "@-3600"), ("Expires", "@-3540")]).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_1_of_several_values_the_most_restrictive_holds() {
    table([
        row(&[("Cache-Control", "max-age=30, max-age=10")]).after(10).validated(),
        row(&[("Cache-Control", "max-age=10"), ("Cache-Control", "max-age=30")]).after(10).validated(),
        row(&[("Expires", "@30"), ("Expires", "@10")]).after(10).validated(),
        row(&[("Expires", "@30"), ("Expires", "0")]).validated(),
        row(&[("Cache-Control", "max-age=10, no-cache")]).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_1_freshness_that_cannot_be_read_is_none() {
    table([
        row(&[("Cache-Control", "max-age=ten")]).validated(),
        row(&[("Cache-Control", "max-age=10.5")]).validated(),
        row(&[("Cache-Control", "max-age=-10")]).validated(),
        row(&[("Cache-Control", "max-age")]).validated(),
        row(&[("Cache-Control", "s-maxage=x, max-age=60")]).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_1_2_2_more_seconds_than_can_be_held_are_a_long_time() {
    table([row(&[("Cache-Control", "max-age=99999999999999999999")]).after(1_000_000).served(1_000_000)])
        .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_2_heuristics_hold_where_they_are_asked_for_and_nothing_else_is_said() {
    fn ten(policy: &mut Policy) {
        policy.heuristic = Some(Heuristic { percent: 10, max: D::from_secs(500) });
    }
    fn ten_and_valid(policy: &mut Policy) {
        ten(policy);
        policy.valid = vec![Valid { status: None, time: D::from_secs(7) }];
    }
    const MODIFIED: List = &[("Last-Modified", "@-1000")];
    table([
        row(MODIFIED).forwarded(),
        row(MODIFIED).with(ten).after(99).served(99),
        row(MODIFIED).with(ten).after(100).validated(),
        row(&[("Last-Modified", "@-100000")]).with(ten).after(499).served(499),
        row(&[("Last-Modified", "@-100000")]).with(ten).after(500).validated(),
        // Counted from Date.
        row(&[("Date", "@-500"), ("Last-Modified", "@-10500")]).with(ten).after(0).validated(),
        row(&[("Date", "@-50"), ("Last-Modified", "@-1050")]).with(ten).after(49).served(99),
        row(&[("Last-Modified", "@10")]).with(ten).forwarded(),
        row(&[("Last-Modified", "never")]).with(ten).forwarded(),
        row(&[]).with(ten).forwarded(),
        // What is said explicitly comes first, and so does the configuration.
        row(&[("Last-Modified", "@-1000"), ("Cache-Control", "max-age=5")]).with(ten).after(5).validated(),
        row(&[("Last-Modified", "@-1000"), ("Expires", "0")]).with(ten).validated(),
        row(MODIFIED).with(ten_and_valid).after(7).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_2_only_for_statuses_that_allow_heuristics_or_what_is_public() {
    fn ten(policy: &mut Policy) {
        policy.heuristic = Some(Heuristic { percent: 10, max: D::from_secs(500) });
    }
    const MODIFIED: List = &[("Last-Modified", "@-1000")];
    const PUBLIC: List = &[("Last-Modified", "@-1000"), ("Cache-Control", "public")];
    let allowed = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];
    table(allowed.map(|status| row(MODIFIED).with(ten).status(status).after(99).served(99))).await;
    let others = [201, 202, 302, 307, 400, 403, 500, 503];
    table(others.map(|status| row(MODIFIED).with(ten).status(status).forwarded())).await;
    table(others.map(|status| row(PUBLIC).with(ten).status(status).after(99).served(99))).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_3_the_age_it_came_with_counts() {
    table([
        row(&[("Cache-Control", "max-age=10"), ("Age", "4")]).after(5).served(9),
        row(&[("Cache-Control", "max-age=10"), ("Age", "4")]).after(6).validated(),
        row(&[("Cache-Control", "max-age=10"), ("Age", "10")]).validated(),
        row(&[("Cache-Control", "max-age=10"), ("Age", "99999999999")]).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_3_its_date_counts_and_the_greater_of_the_two() {
    table([
        row(&[("Cache-Control", "max-age=60"), ("Date", "@-30")]).after(29).served(59),
        row(&[("Cache-Control", "max-age=60"), ("Date", "@-30")]).after(30).validated(),
        row(&[("Cache-Control", "max-age=60"), ("Date", "@-30"), ("Age", "10")]).served(30),
        row(&[("Cache-Control", "max-age=60"), ("Date", "@-10"), ("Age", "30")]).served(30),
        // A clock ahead of ours makes nothing younger.
        row(&[("Cache-Control", "max-age=60"), ("Date", "@30")]).after(60).validated(),
        row(&[("Cache-Control", "max-age=60"), ("Date", "never")]).after(59).served(59),
        // One second is what a date does not tell.
        row(&[("Cache-Control", "max-age=1"), ("Date", "@-1")]).served(0),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_3_the_time_it_was_on_its_way_counts() {
    table([
        row(&[("Cache-Control", "max-age=10")]).delayed(4).after(5).served(9),
        row(&[("Cache-Control", "max-age=10")]).delayed(4).after(6).validated(),
        row(&[("Cache-Control", "max-age=10"), ("Age", "3")]).delayed(4).after(2).served(9),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_1_an_age_that_is_none_is_ignored_and_of_several_the_first_counts() {
    table([
        row(&[("Cache-Control", "max-age=10"), ("Age", "-4")]).after(9).served(9),
        row(&[("Cache-Control", "max-age=10"), ("Age", "four")]).after(9).served(9),
        row(&[("Cache-Control", "max-age=10"), ("Age", "4, 2")]).after(5).served(9),
        row(&[("Cache-Control", "max-age=10"), ("Age", "4"), ("Age", "2")]).after(5).served(9),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_1_only_what_was_not_fetched_now_has_an_age() {
    let mut origin = Origin::new();
    let first = origin.stores(&[], 200, &[("Cache-Control", "max-age=10"), ("ETag", "\"1\"")]).await;
    assert_eq!(first.age(), None);
    pass(3).await;
    assert_eq!(origin.get(&[]).await.answered().age(), Some(3));
    pass(7).await;
    assert_eq!(origin.confirms(&[], &[]).await.age(), None, "validated for this request");
    assert_eq!(origin.get(&[]).await.answered().age(), Some(0), "its age begins anew");
    // One that came through another cache has the age that this has said.
    pass(10).await;
    assert_eq!(origin.confirms(&[], &[("Age", "5")]).await.age(), Some(5));
    pass(1).await;
    assert_eq!(origin.get(&[]).await.answered().age(), Some(6));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_who_shares_a_request_under_way_gets_an_age() {
    let mut origin = Origin::new();
    let (call, first) = origin.get(&[]).await.asked();
    let second = origin.0.get("/a");
    origin.0.readers(2).await;
    call.whole(200, &[("Cache-Control", "max-age=10"), ("Age", "2")], "old");
    assert_eq!(got(first).await.age(), Some(2));
    let second = got(second).await;
    assert_eq!((second.status, second.age()), (CacheStatus::Hit, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_5_3_expires_that_is_no_date_is_past() {
    table([
        row(&[("Expires", "0")]).validated(),
        row(&[("Expires", "-1")]).validated(),
        row(&[("Expires", "")]).validated(),
        row(&[("Expires", "tomorrow")]).validated(),
        row(&[("Expires", "@-5")]).validated(),
        row(&[("Expires", "0"), ("Cache-Control", "max-age=10")]).after(9).served(9),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9110_6_6_1_what_has_no_date_gets_the_one_it_came_at() {
    let mut origin = Origin::new();
    let at = http_date(wall().as_secs());
    origin.stores(&[], 200, &[("Cache-Control", "max-age=60")]).await;
    pass(30).await;
    assert_eq!(origin.get(&[]).await.answered().field("date"), Some(at));
    let mut origin = Origin::new();
    let at = http_date(wall().as_secs() - 20);
    origin.stores(&[], 200, &[("Cache-Control", "max-age=60"), ("Date", "@-20")]).await;
    pass(30).await;
    assert_eq!(origin.get(&[]).await.answered().field("date"), Some(at));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_2_1_a_304_makes_it_as_new_as_itself() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, &[("Date", "@0"), ("Expires", "@10"), ("ETag", "\"1\"")]).await;
    pass(10).await;
    origin.confirms(&[], &[("Date", "@0"), ("Expires", "@10")]).await;
    pass(9).await;
    assert_eq!(origin.get(&[]).await.answered().age(), Some(9));
    pass(1).await;
    // Without an Expires of its own the old one is past.
    origin.confirms(&[], &[]).await;
    origin.confirms(&[], &[]).await;
}
