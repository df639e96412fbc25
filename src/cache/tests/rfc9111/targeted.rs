//! RFC 9213: fields for one kind of cache.

use super::*;

fn cdn(policy: &mut Policy) {
    policy.targeted = vec!["edge-cache-control".into(), "cdn-cache-control".into()];
}

#[tokio::test(start_paused = true)]
async fn rfc9213_2_2_the_first_targeted_field_holds_in_place_of_cache_control_and_expires() {
    table([
        row(&[("CDN-Cache-Control", "max-age=20"), ("Cache-Control", "max-age=10")])
            .with(cdn)
            .after(19)
            .served(19),
        row(&[("CDN-Cache-Control", "max-age=10"), ("Cache-Control", "max-age=20")])
            .with(cdn)
            .after(10)
            .validated(),
        row(&[("CDN-Cache-Control", "max-age=20"), ("Cache-Control", "no-store")])
            .with(cdn)
            .after(19)
            .served(19),
        row(&[("CDN-Cache-Control", "no-store"), ("Cache-Control", "max-age=60")]).with(cdn).forwarded(),
        row(&[("CDN-Cache-Control", "public"), ("Expires", "@60")]).with(cdn).forwarded(),
        row(&[("CDN-Cache-Control", "max-age=20"), ("Edge-Cache-Control", "max-age=10")])
            .with(cdn)
            .after(10)
            .validated(),
        // Who does not list it does not heed it.
        row(&[("CDN-Cache-Control", "max-age=20"), ("Cache-Control", "max-age=10")]).after(10).validated(),
        row(&[("CDN-Cache-Control", "max-age=20")]).forwarded(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9213_2_2_what_is_empty_or_malformed_is_ignored() {
    table([
        row(&[("CDN-Cache-Control", ""), ("Cache-Control", "max-age=10")]).with(cdn).after(9).served(9),
        row(&[("CDN-Cache-Control", "max-age=99,"), ("Cache-Control", "max-age=10")])
            .with(cdn)
            .after(10)
            .validated(),
        row(&[("CDN-Cache-Control", "Max-Age=99"), ("Cache-Control", "max-age=10")])
            .with(cdn)
            .after(10)
            .validated(),
        row(&[("Edge-Cache-Control", "&"), ("CDN-Cache-Control", "max-age=20")])
            .with(cdn)
            .after(19)
            .served(19),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9213_2_1_values_of_another_type_are_not_consumed() {
    table([
        row(&[("CDN-Cache-Control", "max-age=\"20\""), ("Cache-Control", "max-age=60")])
            .with(cdn)
            .forwarded(),
        row(&[("CDN-Cache-Control", "max-age=2.5, s-maxage=9"), ("Cache-Control", "max-age=60")])
            .with(cdn)
            .after(9)
            .validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9213_2_1_directives_have_the_meaning_they_have_in_cache_control() {
    table([
        row(&[("CDN-Cache-Control", "max-age=10, must-revalidate")])
            .with(|p| {
                cdn(p);
                p.stale.updating = true;
            })
            .after(10)
            .validated(),
        row(&[("CDN-Cache-Control", "no-cache, max-age=60")]).with(cdn).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9213_3_1_the_field_is_sent_on() {
    let mut origin = Origin::with(cdn);
    origin.stores(&[], 200, &[("CDN-Cache-Control", "max-age=20")]).await;
    let got = origin.get(&[]).await.answered();
    assert_eq!(got.field("cdn-cache-control").as_deref(), Some("max-age=20"));
}
