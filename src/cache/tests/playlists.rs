//! Playlists are known: they live by what they say, and so do their segments.

use super::super::hls::life::{Directives, Rules};
use super::super::streams::{self, Source};
use super::*;
use CacheStatus::{Expired, Hit, Miss, Revalidated, Updating};
use std::time::Duration as D;

/// What a request for `path` brings along in a location with `hls on`.
fn hls(path: &str) -> With {
    asking(path, Directives::default())
}

fn asking(path: &str, asked: Directives) -> With {
    let plain = path.split('?').next().unwrap();
    let source = Source {
        stream: crate::cache::key::hash(plain.as_bytes()),
        site: Bytes::new(),
        host: Bytes::from_static(b"h"),
        target: Bytes::copy_from_slice(path.as_bytes()),
    };
    let origin = streams::origin(b"", plain.as_bytes());
    With { hls: Some(Arc::new(Hls { rules: Rules::default(), source, asked, origin })), ..With::default() }
}

async fn pass(ms: u64) {
    tokio::time::advance(D::from_millis(ms)).await;
}

/// A live playlist of 6-second segments.
fn live(first: u64, next: u64) -> &'static str {
    let segments: String = (first..next).map(|n| format!("#EXTINF:6,\ns{n}.ts\n")).collect();
    let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:{first}\n{segments}");
    Box::leak(text.into_boxed_str())
}

const NO_CACHE: [(&str, &str); 2] = [("Cache-Control", "no-cache"), ("Expires", "0")];

impl Site {
    /// Asks for `path`, and the origin answers so.
    async fn brings(
        &mut self,
        path: &str,
        fields: &[(&'static str, &str)],
        body: &'static str,
    ) -> CacheStatus {
        let request = self.get_with(path, hls(path));
        self.call().await.whole(200, fields, body);
        let (status, code, text) = text(request).await;
        assert_eq!((code, &*text), (200, body), "{path}");
        self.idle().await;
        status
    }

    async fn finds(&self, path: &str) -> (CacheStatus, u16, String) {
        text(self.get_with(path, hls(path))).await
    }

    /// Whether `path` is answered from what is kept.
    async fn has(&mut self, path: &str) -> bool {
        let request = self.get_with(path, hls(path));
        settle().await;
        if let Ok(call) = self.calls.try_recv() {
            call.whole(200, &[("Set-Cookie", "a=b")], "new");
            request.await.unwrap();
            self.idle().await;
            return false;
        }
        request.await.unwrap().status == Hit
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_playlist_lives_for_half_its_target_duration() {
    let mut site = Site::new();
    assert_eq!(site.brings("/live/a.m3u8", &NO_CACHE, live(0, 3)).await, Miss);
    pass(2999).await;
    assert_eq!(site.finds("/live/a.m3u8").await, (Hit, 200, live(0, 3).into()));
    pass(1).await;
    assert_eq!(site.brings("/live/a.m3u8", &[("Cache-Control", "max-age=3600")], live(1, 4)).await, Expired);
    pass(2999).await;
    assert_eq!(site.finds("/live/a.m3u8").await, (Hit, 200, live(1, 4).into()));
    pass(1).await;
    let ended = Box::leak(format!("{}#EXT-X-ENDLIST\n", live(1, 4)).into_boxed_str());
    assert_eq!(site.brings("/live/a.m3u8", &NO_CACHE, ended).await, Expired);
    // As long as the zone keeps what somebody asks for.
    pass(599_999).await;
    assert_eq!(site.finds("/live/a.m3u8").await.0, Hit);
    assert!(!site.was_asked());
}

#[tokio::test(start_paused = true)]
async fn its_lifetime_counts_from_its_head() {
    let mut site = Site::new();
    let request = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let pieces = site.call().await.open(200, &[], None);
    settle().await;
    pass(2000).await;
    pieces.send(Ok(Bytes::from_static(live(0, 3).as_bytes()))).unwrap();
    drop(pieces);
    assert_eq!(text(request).await.0, Miss);
    site.idle().await;
    pass(999).await;
    assert_eq!(site.finds("/live/a.m3u8").await.0, Hit);
    pass(1).await;
    assert_eq!(site.brings("/live/a.m3u8", &[], live(1, 4)).await, Expired);
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_meanwhile_share_it_and_nobody_sees_half_of_it() {
    let mut site = Site::new();
    let first = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let call = site.call().await;
    let second = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    site.readers(2).await;
    let pieces = call.open(200, &NO_CACHE, None);
    let (head, tail) = live(0, 3).split_at(30);
    pieces.send(Ok(Bytes::from_static(head.as_bytes()))).unwrap();
    let served = first.await.unwrap();
    let third = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let mut body = served.result.unwrap().body;
    settle().await;
    let early = tokio::select! { biased; piece = body.next() => Some(piece), () = settle() => None };
    assert!(early.is_none(), "it is not whole");
    pieces.send(Ok(Bytes::from_static(tail.as_bytes()))).unwrap();
    drop(pieces);
    assert_eq!(body.collect(1 << 20).await.unwrap().unwrap(), live(0, 3));
    assert_eq!(text(second).await, (Hit, 200, live(0, 3).into()));
    assert_eq!(text(third).await, (Hit, 200, live(0, 3).into()));
    assert!(!site.was_asked());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_playlist_is_kept_as_ever_or_not() {
    let mut site = Site::new();
    site.brings("/live/a.m3u8", &[], "not yet").await;
    pass(9_999).await;
    assert_eq!(site.finds("/live/a.m3u8").await.0, Hit, "proxy_cache_valid says 10 seconds");
    pass(1).await;
    site.brings("/live/a.m3u8", &NO_CACHE, "not yet").await;
    site.brings("/live/a.m3u8", &NO_CACHE, live(0, 3)).await;
    assert_eq!(site.finds("/live/a.m3u8").await.0, Hit);
    // A body that breaks off is none, whatever it says.
    pass(3000).await;
    let request = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let pieces = site.call().await.open(200, &[], Some(1000));
    pieces.send(Ok(Bytes::from_static(live(9, 12).as_bytes()))).unwrap();
    drop(pieces);
    assert!(whole(request.await.unwrap().result.unwrap()).await.is_err());
    site.idle().await;
    assert_eq!(site.zone.streams.counters.parsed(crate::cache::hls::playlist::Kind::Media), 1);
    let mistakes = |why| site.zone.streams.counters.mistakes(why);
    assert_eq!(mistakes(crate::cache::hls::playlist::Mistake::NotOne), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_than_a_playlist_goes_on_as_it_comes() {
    let mut site = Site::new();
    let request = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let pieces = site.call().await.open(200, &[], None);
    let mut body = request.await.unwrap().result.unwrap().body;
    pieces.send(Ok(Bytes::from_static(b"#EXTM3U\n"))).unwrap();
    pieces.send(Ok(Bytes::from(vec![b'\n'; 1 << 20]))).unwrap();
    let mut seen = 0;
    while seen < (1 << 20) + 8 {
        seen += body.next().await.unwrap().unwrap().len();
    }
    pieces.send(Ok(Bytes::from_static(b"more"))).unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "more");
    drop(pieces);
    assert!(body.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_encoder_that_begins_anew_takes_its_segments_with_it() {
    let mut site = Site::new();
    site.brings("/live/a.m3u8", &[], live(0, 3)).await;
    site.brings("/live/s0.ts", &[], "old 0").await;
    site.brings("/live/s1.ts", &[], "old 1").await;
    site.brings("/other/s1.ts", &[], "another's").await;
    pass(3000).await;
    site.brings("/live/a.m3u8", &[], live(2, 5)).await;
    assert_eq!(site.finds("/live/s0.ts").await.2, "old 0", "it left the window, and is there");
    assert_eq!(site.zone.streams.counters.demoted.get(), 2);
    pass(3000).await;
    // Whoever sees the new list finds nothing old.
    let request = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let pieces = site.call().await.open(200, &[], None);
    let mut body = request.await.unwrap().result.unwrap().body;
    pieces.send(Ok(Bytes::from_static(live(0, 1).as_bytes()))).unwrap();
    drop(pieces);
    assert_eq!(body.next().await.unwrap().unwrap(), live(0, 1));
    assert_eq!(site.brings("/live/s0.ts", &[], "new 0").await, Miss);
    assert_eq!(site.brings("/live/s1.ts", &[], "new 1").await, Miss);
    assert_eq!(site.finds("/other/s1.ts").await, (Hit, 200, "another's".into()));
    assert_eq!(site.finds("/live/s0.ts").await, (Hit, 200, "new 0".into()));
    assert_eq!(site.zone.streams.counters.rewinds.get(), 1);
    assert_eq!(site.zone.streams.counters.purged.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_segment_on_its_way_from_before_is_for_those_who_have_it_already() {
    let mut site = Site::new();
    site.brings("/live/a.m3u8", &[], live(5, 8)).await;
    let slow = site.get_with("/live/s5.ts", hls("/live/s5.ts"));
    let old = site.call().await.open(200, &[], None);
    let slow = slow.await.unwrap();
    pass(3000).await;
    let rewound = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    site.call().await.whole(200, &[], live(0, 1));
    assert_eq!(text(rewound).await.0, Expired);
    let request = site.get_with("/live/s5.ts", hls("/live/s5.ts"));
    site.call().await.whole(200, &[], "new 5");
    assert_eq!(text(request).await, (Miss, 200, "new 5".into()));
    old.send(Ok(Bytes::from_static(b"old 5"))).unwrap();
    drop(old);
    assert_eq!(whole(slow.result.unwrap()).await.unwrap(), "old 5");
    site.idle().await;
    assert_eq!(site.finds("/live/s5.ts").await, (Hit, 200, "new 5".into()));
}

#[tokio::test(start_paused = true)]
async fn a_playlist_that_is_for_one_alone_tells_of_segments_all_the_same() {
    let mut site = Site::new();
    let personal = [("Cache-Control", "no-store")];
    site.brings("/live/a.m3u8", &personal, live(7, 10)).await;
    site.brings("/live/s7.ts", &[], "old").await;
    assert_eq!(site.brings("/live/a.m3u8", &personal, live(0, 1)).await, Miss, "it is not kept");
    assert_eq!(site.brings("/live/s7.ts", &[], "new").await, Miss);
}

#[tokio::test(start_paused = true)]
async fn where_the_stream_was_is_read_from_what_is_kept() {
    let mut site = Site::new();
    // As after a start: it is kept, and nothing is known of it.
    site.kept("/live/a.m3u8", &[], live(7, 10)).await;
    site.brings("/live/s7.ts", &[], "old").await;
    pass(10_000).await;
    assert_eq!(site.brings("/live/a.m3u8", &[], live(0, 1)).await, Expired);
    assert_eq!(site.zone.streams.counters.rewinds.get(), 1);
    assert_eq!(site.brings("/live/s7.ts", &[], "new").await, Miss);
}

#[tokio::test(start_paused = true)]
async fn that_a_segment_is_not_there_is_forgotten_within_a_quarter_of_the_target_duration() {
    let mut site = Site::new();
    site.policy.stale.updating = true;
    site.policy.background_update = true;
    site.brings("/live/a.m3u8", &[], live(0, 3)).await;
    let absent = |site: &Site| site.get_with("/live/s3.ts", hls("/live/s3.ts"));
    let request = absent(&site);
    site.call().await.whole(404, &[("Cache-Control", "max-age=60, stale-while-revalidate=60")], "no");
    assert_eq!(text(request).await, (Miss, 404, "no".into()));
    site.idle().await;
    pass(1499).await;
    assert_eq!(site.finds("/live/s3.ts").await, (Hit, 404, "no".into()));
    pass(1).await;
    // Not even while it is asked for again is it told.
    let request = absent(&site);
    let call = site.call().await;
    let second = absent(&site);
    settle().await;
    call.whole(200, &[], "here");
    assert_eq!(text(request).await, (Miss, 200, "here".into()));
    assert_eq!(text(second).await, (Hit, 200, "here".into()));
}

#[tokio::test(start_paused = true)]
async fn a_playlist_that_is_confirmed_lives_for_its_time_again() {
    let mut site = Site::new();
    site.policy.revalidate = true;
    site.brings("/live/a.m3u8", &[("ETag", "\"1\""), ("Cache-Control", "no-cache")], live(0, 3)).await;
    pass(3000).await;
    let request = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    site.call().await.whole(304, &[("Cache-Control", "no-cache")], "");
    assert_eq!(text(request).await, (Revalidated, 200, live(0, 3).into()));
    site.idle().await;
    pass(2999).await;
    assert_eq!(site.finds("/live/a.m3u8").await.0, Hit);
    pass(1).await;
    assert_eq!(site.brings("/live/a.m3u8", &[], live(1, 4)).await, Expired);
}

#[tokio::test(start_paused = true)]
async fn while_a_playlist_is_updated_the_old_one_serves_where_that_is_wanted() {
    let mut site = Site::new();
    site.policy.stale.updating = true;
    site.brings("/live/a.m3u8", &[], live(0, 3)).await;
    pass(3000).await;
    let request = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let call = site.call().await;
    assert_eq!(site.finds("/live/a.m3u8").await, (Updating, 200, live(0, 3).into()));
    call.whole(200, &[], live(1, 4));
    assert_eq!(text(request).await.0, Expired);
}

#[tokio::test(start_paused = true)]
async fn the_state_that_was_waited_for_is_kept_apart_and_long() {
    const TEXT: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=3\n\
        #EXT-X-PART-INF:PART-TARGET=1\n#EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:4,\n7.mp4\n#EXT-X-PART:DURATION=1,URI=\"8.0.mp4\"\n";
    let mut site = Site::new();
    site.brings("/live/a.m3u8", &[], TEXT).await;
    let path = "/live/a.m3u8?_HLS_msn=8&_HLS_part=0";
    let with = || asking(path, Directives { number: Some(8), part: Some(0) });
    let request = site.get_with(path, with());
    site.call().await.whole(200, &NO_CACHE, TEXT);
    assert_eq!(text(request).await.0, Miss);
    site.idle().await;
    pass(500).await;
    assert_eq!(site.brings("/live/a.m3u8", &[], TEXT).await, Expired, "half a part target");
    pass(23_499).await;
    assert_eq!(text(site.get_with(path, with())).await.0, Hit);
    pass(1).await;
    let request = site.get_with(path, with());
    site.call().await.whole(200, &[], TEXT);
    assert_eq!(text(request).await.0, Expired);
    assert_eq!(site.zone.streams.known().0, 1, "it is one stream");
}

#[tokio::test(start_paused = true)]
async fn what_is_compressed_is_read_too() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(live(0, 3).as_bytes()).unwrap();
    let body = Bytes::from(encoder.finish().unwrap());
    let mut site = Site::new();
    let request = site.get_with("/live/a.m3u8", hls("/live/a.m3u8"));
    let fields = [("Content-Encoding", "gzip"), ("Cache-Control", "no-cache"), ("Vary", "Accept-Encoding")];
    site.call().await.answer(200, &fields, Some(body.len() as u64), body.clone().into());
    let answer = request.await.unwrap().result.unwrap();
    assert_eq!({ answer.body }.collect(1 << 20).await.unwrap().unwrap(), body, "it is passed on as it came");
    site.idle().await;
    assert!(site.has("/live/a.m3u8").await);
    pass(3000).await;
    assert!(!site.has("/live/a.m3u8").await);
}

#[tokio::test(start_paused = true)]
async fn of_the_variants_of_a_playlist_each_is_read_and_they_are_one_stream() {
    let mut site = Site::new();
    let vary = [("Vary", "Accept-Encoding")];
    for coding in ["gzip", "br"] {
        let with = With { fields: vec![("Accept-Encoding", coding)], ..hls("/live/a.m3u8") };
        let request = site.get_with("/live/a.m3u8", with);
        site.call().await.whole(200, &vary, live(0, 3));
        assert_eq!(text(request).await.0, Miss, "{coding}");
        site.idle().await;
    }
    assert_eq!(site.zone.streams.known().0, 1);
    pass(3000).await;
    let with = With { fields: vec![("Accept-Encoding", "gzip")], ..hls("/live/a.m3u8") };
    let request = site.get_with("/live/a.m3u8", with);
    site.call().await.whole(200, &vary, live(1, 4));
    assert_eq!(text(request).await.0, Expired);
}
