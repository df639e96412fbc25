use super::super::life::{Directives, Rules};
use super::super::playlist::parse;
use super::*;
use crate::cache::streams::Source;
use crate::http::head::{Head, Version};
use crate::http::response::Seconds;
use bytes::Bytes;

const NOW: Seconds = 1_000_000_000;

fn received<'a>(status: u16, fields: &'a Fields, asked: &'a Head) -> Received<'a> {
    Received { status, fields, asked, delay: Duration::ZERO, now: NOW }
}

fn asked() -> Head {
    Head::from_parts(b"GET", b"/", Version::Http11, std::iter::empty())
}

fn candidate(status: u16, fields: &Fields, policy: &Policy) -> Result<Candidate, Refusal> {
    super::candidate(&received(status, fields, &asked()), policy)
}

fn judge(
    hls: &Hls,
    streams: &Streams,
    status: u16,
    fields: &Fields,
    policy: &Policy,
) -> Result<Lifetime, Refusal> {
    super::judge(hls, streams, &received(status, fields, &asked()), policy).map(|verdict| verdict.lifetime)
}

fn fields(list: &[(&'static str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in list {
        fields.add_static(name, Bytes::copy_from_slice(value.as_bytes()));
    }
    fields
}

fn hls(path: &'static str) -> Hls {
    let source =
        Source { stream: 1, site: Bytes::new(), host: Bytes::from_static(b"h"), target: path.into() };
    Hls { rules: Rules::default(), source, asked: Directives::default(), origin: path.into() }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `proxy_cache_valid any 60s`, which says nothing of playlists.
fn policy() -> Policy {
    Policy { valid: vec![Valid { status: None, time: seconds(60) }], ..Policy::default() }
}

fn live() -> Facts {
    parse(b"#EXTM3U\n#EXT-X-TARGETDURATION:6\na.ts\n", b"").unwrap().facts
}

#[test]
fn what_looks_like_a_playlist() {
    let of = |path, status, kind: &str| looks_so(&hls(path), status, &fields(&[("Content-Type", kind)]));
    assert!(of("/a", 200, "application/vnd.apple.mpegurl"));
    assert!(of("/a", 200, "Application/X-mpegURL; charset=utf-8"));
    assert!(of("/a", 200, "audio/mpegurl") && of("/a", 200, "audio/x-mpegurl"));
    assert!(of("/a.m3u8", 200, "text/plain") && of("/A.M3U8", 200, ""));
    assert!(looks_so(&hls("/a.m3u8"), 200, &Fields::default()));
    assert!(!of("/a.m3u8", 200, "text/html; charset=utf-8"), "a page that tells of an error");
    assert!(!of("/a.m3u8", 404, "application/vnd.apple.mpegurl"));
    assert!(!of("/a.m3u8", 206, "application/vnd.apple.mpegurl"));
    assert!(!of("/a.ts", 200, "video/mp2t") && !of("/m3u8", 200, "text/plain") && !of("/", 200, ""));
}

#[test]
fn the_table_of_a_live_playlist() {
    use Refusal::*;
    let past = crate::http::date::http_date(NOW - 10);
    let future = crate::http::date::http_date(NOW + 100);
    let later = format!("@{}", NOW + 2);
    type Row<'a> = (&'a [(&'static str, &'a str)], Result<(u64, u64, u64), Refusal>);
    let rows: &[Row<'_>] = &[
        // proxy_cache_valid says a minute; the playlist says three seconds.
        (&[], Ok((3, 0, 0))),
        // What does not know of us is put aside.
        (&[("Cache-Control", "no-cache")], Ok((3, 0, 0))),
        (&[("Cache-Control", "max-age=0")], Ok((3, 0, 0))),
        (&[("Cache-Control", "no-cache, must-revalidate, max-age=0"), ("Pragma", "no-cache")], Ok((3, 0, 0))),
        (&[("Expires", &past)], Ok((3, 0, 0))),
        (&[("Expires", "0")], Ok((3, 0, 0))),
        (&[("Expires", "-1"), ("Cache-Control", "no-cache")], Ok((3, 0, 0))),
        (&[("Cache-Control", "max-age=x")], Ok((3, 0, 0))),
        // A time that is stated is the most, and is cut.
        (&[("Cache-Control", "max-age=1")], Ok((1, 0, 0))),
        (&[("Cache-Control", "max-age=3600")], Ok((3, 0, 0))),
        (&[("Cache-Control", "max-age=1, s-maxage=2")], Ok((2, 0, 0))),
        (&[("Expires", &future)], Ok((3, 0, 0))),
        (&[("Cache-Control", "max-age=1, stale-while-revalidate=60, stale-if-error=30")], Ok((1, 2, 30))),
        // X-Accel-Expires is meant for us.
        (&[("X-Accel-Expires", "20"), ("Cache-Control", "no-store")], Ok((20, 0, 0))),
        (&[("X-Accel-Expires", &later)], Ok((2, 0, 0))),
        (&[("X-Accel-Expires", "0")], Err(Forbidden)),
        (&[("X-Accel-Expires", "soon"), ("Cache-Control", "no-cache")], Ok((3, 0, 0))),
        // What is for one alone stays so.
        (&[("Cache-Control", "no-store")], Err(Forbidden)),
        (&[("Cache-Control", "max-age=5 , Private")], Err(Forbidden)),
        (&[("Cache-Control", "private=\"x-user\", max-age=5")], Err(Forbidden)),
        (&[("Cache-Control", "max-age=1"), ("Cache-Control", "NO-STORE")], Err(Forbidden)),
        (&[("Set-Cookie", "a=b")], Err(SetCookie)),
        (&[("Set-Cookie", "a=b"), ("X-Accel-Expires", "20")], Err(SetCookie)),
        (&[("X-Accel-Buffering", "no")], Err(Unbuffered)),
    ];
    for (list, wanted) in rows {
        let found = candidate(200, &fields(list), &policy())
            .map(|c| c.lifetime(&live(), &hls("/a.m3u8"), seconds(600)))
            .map(|l| (l.fresh.as_secs(), l.updating.as_secs(), l.error.as_secs()));
        assert_eq!(found, *wanted, "{list:?}");
        let head = judge(&hls("/a.m3u8"), &Streams::new(0), 200, &fields(list), &policy());
        assert_eq!(head.err(), wanted.err(), "{list:?}: it is keepable by its head, or it is not");
    }
}

#[test]
fn what_is_ignored_says_nothing() {
    let ignore = IgnoreHeaders {
        x_accel_expires: true,
        cache_control: true,
        expires: true,
        set_cookie: true,
        ..IgnoreHeaders::default()
    };
    let policy = Policy { ignore, ..policy() };
    for list in [
        ("Cache-Control", "no-store"),
        ("Cache-Control", "max-age=1"),
        ("X-Accel-Expires", "0"),
        ("Set-Cookie", "a=b"),
    ] {
        let found = candidate(200, &fields(&[list]), &policy).unwrap();
        assert_eq!(found.lifetime(&live(), &hls("/a.m3u8"), seconds(600)).fresh, seconds(3), "{list:?}");
    }
}

#[test]
fn what_turns_out_to_be_none_is_judged_as_ever() {
    let of = |list: &[(&'static str, &str)]| candidate(200, &fields(list), &policy()).unwrap().ordinary();
    assert_eq!(of(&[]).map(|l| l.fresh), Ok(seconds(60)));
    assert_eq!(of(&[("Cache-Control", "no-cache")]), Err(Refusal::Forbidden));
    assert_eq!(of(&[("Expires", "0")]), Err(Refusal::Expired));
    let none = candidate(200, &Fields::default(), &Policy::default()).unwrap();
    assert_eq!(none.ordinary(), Err(Refusal::NoValidity));
}

#[test]
fn that_something_is_not_there_is_forgotten_soon() {
    let streams = Streams::new(0);
    let playlist = parse(b"#EXTM3U\n#EXT-X-TARGETDURATION:6\na.ts\n", b"").unwrap();
    streams.observe(&hls("/live/x.m3u8").source, &playlist, 0);
    let judged = |path, status, list: &[(&'static str, &str)]| {
        judge(&hls(path), &streams, status, &fields(list), &policy()).map(|l| (l.fresh.as_millis(), l.error))
    };
    let no = Duration::ZERO;
    for status in [403, 404, 410] {
        assert_eq!(judged("/live/b.ts", status, &[]), Ok((1500, no)), "{status}");
        assert_eq!(judged("/live/y.m3u8", status, &[]), Ok((1500, no)), "{status}");
        assert_eq!(judged("/vod/b.ts", status, &[]), Ok((1000, no)), "{status}: no stream is known there");
    }
    assert_eq!(judged("/live/b.ts", 404, &[("X-Accel-Expires", "60")]), Ok((1500, no)));
    assert_eq!(
        judged("/live/b.ts", 404, &[("Cache-Control", "max-age=1, stale-if-error=60")]),
        Ok((1000, no))
    );
    assert_eq!(judged("/live/b.ts", 404, &[("Cache-Control", "no-cache")]), Err(Refusal::Forbidden));
    assert_eq!(judged("/live/b.ts", 500, &[]), Ok((60_000, no)));
    assert_eq!(judged("/live/b.ts", 200, &[]), Ok((60_000, no)), "a segment is an answer like any other");
}

#[test]
fn a_playlist_that_is_confirmed_lives_by_the_rule_again() {
    let of = |confirming: &[(&'static str, &str)], kept: &[(&'static str, &str)]| {
        let (confirming, asked) = (fields(confirming), asked());
        let received = received(304, &confirming, &asked);
        let lifetime = confirmed(&received, &fields(kept), &live(), &hls("/a.m3u8"), &policy(), seconds(600));
        lifetime.map(|l| l.fresh.as_secs())
    };
    assert_eq!(of(&[], &[]), Some(3));
    assert_eq!(of(&[("Cache-Control", "no-cache")], &[]), Some(3));
    assert_eq!(of(&[("Cache-Control", "max-age=2")], &[("Cache-Control", "max-age=1")]), Some(2));
    assert_eq!(of(&[], &[("Cache-Control", "max-age=1")]), Some(1));
    assert_eq!(of(&[("Cache-Control", "max-age=90")], &[]), Some(3));
    assert_eq!(of(&[("Cache-Control", "no-store")], &[]), None);
    assert_eq!(of(&[("X-Accel-Expires", "9")], &[]), Some(9));
}
