//! Section 3: what is stored.

use super::*;

#[tokio::test(start_paused = true)]
async fn rfc9111_3_no_store_is_not_stored() {
    table([
        row(&[("Cache-Control", "no-store")]).forwarded(),
        row(&[("Cache-Control", "max-age=60, no-store")]).forwarded(),
        row(&[("Cache-Control", "max-age=60"), ("Cache-Control", "no-store")]).forwarded(),
        row(&[("Cache-Control", "NO-STORE, max-age=60")]).forwarded(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_private_is_not_stored_by_a_shared_cache() {
    table([
        row(&[("Cache-Control", "private, max-age=60")]).forwarded(),
        row(&[("Cache-Control", "private, s-maxage=60")]).forwarded(),
        row(&[("Cache-Control", "private, public, max-age=60")]).forwarded(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_something_must_say_how_long_it_lives() {
    // A cache may keep what says nothing, as stale from the beginning; this one does not.
    table([
        row(&[]).forwarded(),
        row(&[("Cache-Control", "public")]).forwarded(),
        row(&[("Cache-Control", "max-age=60")]).served(0),
        row(&[("Cache-Control", "s-maxage=60")]).served(0),
        row(&[("Expires", "@60")]).served(0),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_any_final_status_is_stored_that_says_how_long_it_lives() {
    const CC: List = &[("Cache-Control", "max-age=60")];
    let rows = [200, 201, 203, 204, 302, 307, 404, 410, 418, 451, 500, 503, 599];
    table(rows.map(|status| row(CC).status(status).served(0))).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_a_304_that_nobody_asked_for_is_not_stored() {
    table([row(&[("Cache-Control", "max-age=60")]).status(304).forwarded()]).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_what_the_configuration_says_holds_where_the_response_says_nothing() {
    fn valid(policy: &mut Policy) {
        policy.valid = vec![Valid { status: None, time: D::from_secs(30) }];
    }
    table([
        row(&[]).with(valid).after(29).served(29),
        row(&[]).with(valid).after(30).validated(),
        row(&[]).with(valid).status(500).after(29).served(29),
        row(&[("Cache-Control", "max-age=60")]).with(valid).after(59).served(59),
        row(&[("Cache-Control", "max-age=5")]).with(valid).after(5).validated(),
        row(&[("Cache-Control", "no-store")]).with(valid).forwarded(),
        row(&[("Expires", "@5")]).with(valid).after(5).validated(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_x_accel_expires_comes_before_all_as_in_nginx() {
    table([
        row(&[("X-Accel-Expires", "9"), ("Cache-Control", "no-store")]).after(8).served(8),
        row(&[("X-Accel-Expires", "9"), ("Cache-Control", "max-age=60")]).after(9).validated(),
        row(&[("X-Accel-Expires", "0"), ("Cache-Control", "max-age=60")]).forwarded(),
        row(&[("X-Accel-Expires", "9"), ("Cache-Control", "max-age=60")])
            .with(|p| p.ignore.x_accel_expires = true)
            .after(59)
            .served(59),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_fields_that_are_ignored_say_nothing() {
    table([
        row(&[("Cache-Control", "no-store"), ("Expires", "@9")])
            .with(|p| p.ignore.cache_control = true)
            .after(8)
            .served(8),
        row(&[("Expires", "@9")]).with(|p| p.ignore.expires = true).forwarded(),
        row(&[("Set-Cookie", "a=1"), ("Cache-Control", "max-age=9")])
            .with(|p| p.ignore.set_cookie = true)
            .served(0),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_7_3_a_cookie_is_not_stored_as_in_nginx() {
    table([row(&[("Set-Cookie", "a=1"), ("Cache-Control", "max-age=60")]).forwarded()]).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_1_a_proxys_own_fields_are_not_stored() {
    let mut origin = Origin::new();
    let first = origin
        .stores(
            &[],
            200,
            &[
                ("Cache-Control", "max-age=60"),
                ("Proxy-Authenticate", "Basic"),
                ("Proxy-Authentication-Info", "x"),
                ("X-Unknown", "kept"),
            ],
        )
        .await;
    assert_eq!(first.field("proxy-authenticate").as_deref(), Some("Basic"), "its requester gets them");
    let got = origin.get(&[]).await.answered();
    assert_eq!(got.field("x-unknown").as_deref(), Some("kept"));
    assert_eq!((got.field("proxy-authenticate"), got.field("proxy-authentication-info")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_2_a_304_changes_the_stored_fields() {
    let mut origin = Origin::new();
    origin
        .stores(
            &[],
            200,
            &[
                ("Cache-Control", "max-age=5"),
                ("ETag", "\"1\""),
                ("X-Old", "stays"),
                ("X-New", "old"),
                ("X-New", "older"),
                ("Content-Encoding", "gzip"),
                ("Content-Length", "3"),
                ("Content-Type", "text/plain"),
            ],
        )
        .await;
    pass(5).await;
    const CONFIRMED: List = &[
        ("Cache-Control", "max-age=20"),
        ("ETag", "\"1\""),
        ("X-New", "new"),
        ("X-Added", "added"),
        ("Content-Type", "text/html"),
        ("Content-Encoding", "br"),
        ("Content-Length", "99"),
    ];
    let confirmed = origin.confirms(&[], CONFIRMED).await;
    assert_eq!((confirmed.status, confirmed.code), (CacheStatus::Revalidated, 200));
    pass(19).await;
    let later = origin.get(&[]).await.answered();
    assert_eq!((later.status, later.age()), (CacheStatus::Hit, Some(19)));
    for got in [confirmed, later] {
        let all: Vec<_> = got.fields.all("x-new").map(|v| v.to_vec()).collect();
        assert_eq!(all, [b"new".to_vec()]);
        for (name, value) in [
            ("x-old", "stays"),
            ("x-added", "added"),
            ("content-type", "text/html"),
            // They describe the stored body, which has not changed.
            ("content-encoding", "gzip"),
            ("content-length", "3"),
        ] {
            assert_eq!(got.field(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(got.body, "old");
    }
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_2_a_304_may_forbid_what_is_stored() {
    for forbids in ["no-store", "private"] {
        let mut origin = Origin::new();
        origin.stores(&[], 200, &[("Cache-Control", "max-age=5"), ("ETag", "\"1\"")]).await;
        pass(5).await;
        let fields: List = if forbids == "private" {
            &[("Cache-Control", "private")]
        } else {
            &[("Cache-Control", "no-store")]
        };
        let got = origin.confirms(&[], fields).await;
        assert_eq!((got.code, got.body.as_str()), (200, "old"), "its requester gets it");
        let (call, _) = origin.get(&[]).await.asked();
        assert_eq!(call.validators, None, "{forbids}: it is no longer there");
    }
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_2_a_cookie_of_a_304_is_for_its_requester() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, &[("Cache-Control", "max-age=5"), ("ETag", "\"1\"")]).await;
    pass(5).await;
    let got = origin.confirms(&[], &[("Set-Cookie", "a=1"), ("Cache-Control", "max-age=60")]).await;
    assert_eq!((got.field("set-cookie").as_deref(), got.body.as_str()), (Some("a=1"), "old"));
    let next = origin.confirms(&[], &[("Cache-Control", "max-age=60")]).await;
    assert_eq!(next.field("set-cookie"), None);
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_3_what_breaks_off_is_not_stored() {
    let mut origin = Origin::new();
    let (call, request) = origin.get(&[]).await.asked();
    let pieces = call.open(200, &[("Cache-Control", "max-age=60"), ("ETag", "\"1\"")], Some(10));
    pieces.send(Ok(Bytes::from_static(b"half"))).unwrap();
    drop(pieces);
    let answer = request.await.unwrap().result.unwrap();
    assert!(whole(answer).await.is_err(), "it must not look whole");
    origin.0.idle().await;
    let (call, _) = origin.get(&[]).await.asked();
    assert_eq!(call.validators, None);
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_3_a_206_is_not_stored_as_a_200() {
    table([row(&[("Cache-Control", "max-age=60"), ("Content-Range", "bytes 0-2/9")])
        .status(206)
        .forwarded()])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_5_what_was_authorized_is_stored_only_where_the_response_says_so() {
    const AUTH: List = &[("Authorization", "Basic eDp5")];
    let rows = [
        row(&[("Cache-Control", "max-age=60")]).asked_by(AUTH).forwarded(),
        row(&[("Expires", "@60")]).asked_by(AUTH).forwarded(),
        row(&[("Cache-Control", "max-age=60, public")]).asked_by(AUTH).served(0),
        row(&[("Cache-Control", "s-maxage=60")]).asked_by(AUTH).served(0),
        row(&[("Cache-Control", "max-age=60, must-revalidate")]).asked_by(AUTH).served(0),
        // proxy-revalidate alone does not say it.
        row(&[("Cache-Control", "max-age=60, proxy-revalidate")]).asked_by(AUTH).forwarded(),
        // What was stored for others may be used for who is authorized.
        row(&[("Cache-Control", "max-age=60")]).asks(AUTH).served(0),
    ];
    table(rows).await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_3_2_what_each_304_adds_to_has_a_bound() {
    let mut origin = Origin::new();
    origin.stores(&[], 200, &[("Cache-Control", "max-age=5"), ("ETag", "\"1\"")]).await;
    for n in 0..8 {
        pass(5).await;
        let (call, request) = origin.get(&[]).await.asked();
        if call.validators.is_none() {
            assert!(n > 5, "it went after {n}");
            return;
        }
        let name: &'static str = format!("X-{n}").leak();
        call.whole(304, &[(name, &"x".repeat(10_000))], "");
        assert_eq!(got(request).await.body, "old");
        origin.0.idle().await;
    }
    panic!("it is still there");
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_1_a_304_that_varies_by_something_else_moves_nothing() {
    let mut origin = Origin::new();
    const FIELDS: List = &[("Cache-Control", "max-age=5"), ("ETag", "\"1\""), ("Vary", "X-A")];
    origin.stores(&[("X-A", "1")], 200, FIELDS).await;
    origin.stores(&[("X-A", "2")], 200, FIELDS).await;
    pass(5).await;
    let got = origin.confirms(&[("X-A", "2")], &[("Vary", "X-B"), ("Cache-Control", "max-age=60")]).await;
    assert_eq!(got.body, "old", "its requester gets it");
    let (call, _) = origin.get(&[("X-A", "2")]).await.asked();
    assert_eq!(call.validators, None, "the variant is gone");
}
