//! Section 4.1: which stored response is for which request.

use super::*;

fn by(vary: &'static str) -> Row {
    match vary {
        "*" => row(&[("Cache-Control", "max-age=60"), ("Vary", "*")]),
        "accept-language" => row(&[("Cache-Control", "max-age=60"), ("Vary", "Accept-Language")]),
        "two" => row(&[("Cache-Control", "max-age=60"), ("Vary", "X-A"), ("Vary", "X-B")]),
        _ => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_1_a_star_matches_no_request() {
    table([by("*").forwarded(), row(&[("Cache-Control", "max-age=60"), ("Vary", "Accept, *")]).forwarded()])
        .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_1_the_named_fields_of_both_requests_must_match() {
    const GERMAN: List = &[("Accept-Language", "de")];
    table([
        by("accept-language").asked_by(GERMAN).asks(GERMAN).served(0),
        by("accept-language").asked_by(GERMAN).asks(&[("Accept-Language", "en")]).forwarded(),
        by("accept-language").asked_by(GERMAN).forwarded(),
        by("accept-language").asks(GERMAN).forwarded(),
        by("accept-language").asks(&[("X-Other", "1")]).served(0),
        // Blanks, several lines, and where a field's values have no case, that.
        by("accept-language")
            .asked_by(&[("Accept-Language", "de, en")])
            .asks(&[("Accept-Language", "DE"), ("Accept-Language", "\ten")])
            .served(0),
        by("two").asked_by(&[("X-A", "1"), ("X-B", "2")]).asks(&[("X-B", "2"), ("X-A", "1")]).served(0),
        by("two").asked_by(&[("X-A", "1"), ("X-B", "2")]).asks(&[("X-A", "1")]).forwarded(),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn rfc9111_4_1_several_variants_are_stored_side_by_side() {
    let mut origin = Origin::new();
    const FIELDS: [(&str, &str); 2] = [("Cache-Control", "max-age=60"), ("Vary", "Accept-Language")];
    const ASKS: [(List, &str); 2] =
        [(&[("Accept-Language", "de")], "de"), (&[("Accept-Language", "en")], "en")];
    for (asks, body) in ASKS {
        let (call, request) = origin.get(asks).await.asked();
        call.whole(200, &FIELDS, body);
        got(request).await;
        origin.0.idle().await;
    }
    for (asks, body) in ASKS {
        assert_eq!(origin.get(asks).await.answered().body, body);
    }
}
