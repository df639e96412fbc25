use super::*;
use crate::cache::policy::{IgnoreHeaders, Valid};
use crate::http::head::Version;
use bytes::Bytes;
use proptest::prelude::*;

const NOW: Seconds = 1_700_000_000;

fn fields(list: &[(&'static str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in list {
        fields.add_static(name, Bytes::copy_from_slice(value.as_bytes()));
    }
    fields
}

fn date(offset: i64) -> String {
    crate::http::date::http_date(NOW.checked_add_signed(offset).unwrap())
}

/// `proxy_cache_valid 200 60s; proxy_cache_valid 404 0; proxy_cache_valid any 1s;`
fn policy() -> Policy {
    let valid = |status, seconds| Valid { status, time: Duration::from_secs(seconds) };
    Policy { valid: vec![valid(Some(200), 60), valid(Some(404), 0), valid(None, 1)], ..Policy::default() }
}

fn judge_by(policy: &Policy, status: u16, fields: &Fields) -> Result<Lifetime, Refusal> {
    let asked = Head::from_parts(b"GET", b"/", Version::Http11, std::iter::empty());
    let received = Received { status, fields, asked: &asked, delay: Duration::ZERO, now: NOW };
    judge(&received, policy).map(|verdict| verdict.lifetime)
}

/// Fresh, updating and error seconds, or the refusal.
fn judged(status: u16, list: &[(&'static str, &str)]) -> Result<(u64, u64, u64), Refusal> {
    judge_by(&policy(), status, &fields(list))
        .map(|l| (l.fresh.as_secs(), l.updating.as_secs(), l.error.as_secs()))
}

#[test]
fn the_table() {
    use Refusal::*;
    let past = date(-10);
    let future = date(100);
    let this_second = date(0);
    let at_past = format!("@{}", NOW - 5);
    let at_future = format!("@{}", NOW + 5);
    type Row<'a> = (u16, &'a [(&'static str, &'a str)], Result<(u64, u64, u64), Refusal>);
    let rows: &[Row<'_>] = &[
        // Nothing said: proxy_cache_valid, the first that fits, and 0 is never.
        (200, &[], Ok((60, 0, 0))),
        (404, &[], Err(NoValidity)),
        (500, &[], Ok((1, 0, 0))),
        (206, &[], Ok((1, 0, 0))),
        (304, &[], Err(Status)),
        (101, &[], Err(Status)),
        // Cache-Control.
        (200, &[("Cache-Control", "max-age=5")], Ok((5, 0, 0))),
        (404, &[("Cache-Control", "MAX-AGE=5")], Ok((5, 0, 0))),
        (200, &[("Cache-Control", "max-age=5, s-maxage=7")], Ok((7, 0, 0))),
        (200, &[("Cache-Control", "max-age=5"), ("Cache-Control", "s-maxage=7")], Ok((7, 0, 0))),
        (200, &[("Cache-Control", "public")], Ok((60, 0, 0))),
        (200, &[("Cache-Control", "no-cache")], Err(Forbidden)),
        (200, &[("Cache-Control", "No-Store, max-age=5")], Err(Forbidden)),
        (200, &[("Cache-Control", "private, max-age=5")], Err(Forbidden)),
        (200, &[("Cache-Control", "max-age=0")], Err(Forbidden)),
        (200, &[("Cache-Control", "max-age=x")], Err(Forbidden)),
        (200, &[("Cache-Control", "max-age=")], Err(Forbidden)),
        (200, &[("Cache-Control", "max-age=-1")], Err(Forbidden)),
        (200, &[("Cache-Control", "max-age=5, stale-while-revalidate=9")], Ok((5, 9, 9))),
        (200, &[("Cache-Control", "max-age=5, stale-if-error=8")], Ok((5, 0, 8))),
        (200, &[("Cache-Control", "max-age=5, stale-while-revalidate=9, stale-if-error=8")], Ok((5, 9, 8))),
        (200, &[("Cache-Control", "stale-while-revalidate=9")], Ok((60, 9, 9))),
        (200, &[("Cache-Control", "max-age=5, stale-if-error=y")], Err(Forbidden)),
        // Expires, and after Cache-Control.
        (200, &[("Expires", &future)], Ok((100, 0, 0))),
        (200, &[("Expires", &this_second)], Ok((0, 0, 0))),
        (200, &[("Expires", &past)], Err(Expired)),
        (200, &[("Expires", "0")], Err(Expired)),
        (200, &[("Expires", &past), ("Cache-Control", "max-age=5")], Ok((5, 0, 0))),
        (200, &[("Expires", &future), ("Cache-Control", "max-age=5")], Ok((5, 0, 0))),
        (200, &[("Expires", &future), ("Cache-Control", "no-cache")], Err(Forbidden)),
        (200, &[("Expires", &future), ("Cache-Control", "public")], Ok((100, 0, 0))),
        // X-Accel-Expires before both, wherever it stands.
        (200, &[("Cache-Control", "no-store"), ("X-Accel-Expires", "3")], Ok((3, 0, 0))),
        (200, &[("X-Accel-Expires", "3"), ("Cache-Control", "max-age=5"), ("Expires", &past)], Ok((3, 0, 0))),
        (200, &[("X-Accel-Expires", "0"), ("Cache-Control", "max-age=5")], Err(Forbidden)),
        (200, &[("X-Accel-Expires", "soon"), ("Cache-Control", "max-age=5")], Ok((5, 0, 0))),
        (200, &[("X-Accel-Expires", &at_future)], Ok((5, 0, 0))),
        (200, &[("X-Accel-Expires", &at_past)], Ok((0, 0, 0))),
        // What prevents it whatever they say.
        (200, &[("Set-Cookie", "a=1"), ("X-Accel-Expires", "3")], Err(SetCookie)),
        (200, &[("X-Accel-Buffering", "no"), ("X-Accel-Expires", "3")], Err(Unbuffered)),
        (200, &[("X-Accel-Buffering", "yes")], Ok((60, 0, 0))),
    ];
    for (status, list, wanted) in rows {
        assert_eq!(judged(*status, list), *wanted, "{status} {list:?}");
    }
}

#[test]
fn what_is_ignored_says_nothing() {
    let all = IgnoreHeaders {
        x_accel_expires: true,
        x_accel_buffering: true,
        expires: true,
        cache_control: true,
        set_cookie: true,
        ..IgnoreHeaders::default()
    };
    let policy = Policy { ignore: all, ..policy() };
    let past = date(-10);
    for list in [
        ("Set-Cookie", "a=1"),
        ("X-Accel-Expires", "0"),
        ("X-Accel-Buffering", "no"),
        ("Cache-Control", "no-store"),
        ("Expires", past.as_str()),
    ] {
        let lifetime = judge_by(&policy, 200, &fields(&[list])).unwrap();
        assert_eq!(lifetime.fresh, Duration::from_secs(60), "{list:?}");
    }
}

#[test]
fn a_confirmed_entry_lives_by_the_304_then_by_itself_then_by_the_configuration() {
    let refreshed = |confirmed: &[(&'static str, &str)], kept: &[(&'static str, &str)], status| {
        refreshed(&fields(confirmed), status, &fields(kept), &policy(), NOW).map(|l| l.fresh.as_secs())
    };
    assert_eq!(refreshed(&[("Cache-Control", "max-age=9")], &[("Cache-Control", "max-age=5")], 200), Some(9));
    assert_eq!(refreshed(&[], &[("Cache-Control", "max-age=5")], 200), Some(5));
    assert_eq!(refreshed(&[], &[], 200), Some(60));
    assert_eq!(refreshed(&[], &[], 404), None);
    let past = date(-10);
    assert_eq!(refreshed(&[], &[("Expires", &past)], 200), Some(60));
}

proptest! {
    #[test]
    fn no_field_panics_or_lives_for_ever(cc in ".{0,60}", xae in ".{0,20}", expires in ".{0,40}") {
        let list = fields(&[("Cache-Control", &cc), ("X-Accel-Expires", &xae), ("Expires", &expires)]);
        if let Ok(lifetime) = judge_by(&policy(), 200, &list) {
            prop_assert!(lifetime.fresh <= Duration::from_secs(101 * 365 * 86_400));
        }
    }

    #[test]
    fn max_age_is_what_it_says(n in 1u64..100_000_000, other in 1u64..1000) {
        let text = format!("public, max-age={n}, stale-if-error={other}");
        prop_assert_eq!(judged(200, &[("Cache-Control", &text)]), Ok((n, 0, other)));
    }
}
