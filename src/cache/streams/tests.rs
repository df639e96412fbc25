use super::super::hls::playlist::parse;
use super::*;

/// The zone's last fill, all the time.
const SEQUENCE: u64 = 7;

/// A stream at `/live/a.m3u8`.
struct Channel {
    streams: Streams,
    source: Source,
}

impl Channel {
    fn new() -> Channel {
        Channel { streams: Streams::new(0), source: source("/live/a.m3u8") }
    }

    /// A version with the segments `first..next` of two seconds, named by their numbers.
    fn lists(&self, first: u64, next: u64) -> Effect {
        self.says(&text(first, next, "s"))
    }

    fn says(&self, text: &str) -> Effect {
        self.streams.observe(&self.source, &parse(text.as_bytes(), b"").unwrap(), SEQUENCE)
    }

    /// An entry is kept for this path.
    fn keeps(&self, path: &str) {
        self.streams.register(path.as_bytes(), &key(path));
    }

    fn rewinds(&self) -> u64 {
        self.streams.counters.rewinds.get()
    }
}

fn source(target: &'static str) -> Source {
    let stream = key::hash(target.as_bytes());
    Source { stream, site: Bytes::new(), host: Bytes::from_static(b"h"), target: target.into() }
}

fn key(path: &str) -> Key {
    Key::new(Bytes::copy_from_slice(path.as_bytes()))
}

fn text(first: u64, next: u64, name: &str) -> String {
    let segments: String = (first..next).map(|n| format!("#EXTINF:2,\n{name}{n}.ts\n")).collect();
    format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n{segments}")
}

fn left(effect: &Effect) -> Vec<String> {
    let mut names: Vec<_> = effect.left.iter().map(|k| String::from_utf8(k.text.to_vec()).unwrap()).collect();
    names.sort();
    names
}

fn purged(effect: &Effect) -> Vec<String> {
    let keys = effect.purge.iter().flat_map(|purge| &purge.keys);
    let mut names: Vec<_> = keys.map(|k| String::from_utf8(k.text.to_vec()).unwrap()).collect();
    names.sort();
    names
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_leaves_the_window_is_told_once() {
    let channel = Channel::new();
    assert_eq!(left(&channel.lists(0, 3)), [""; 0]);
    channel.keeps("/live/s0.ts");
    channel.keeps("/live/s1.ts");
    channel.keeps("/live/s2.ts");
    assert_eq!(left(&channel.lists(1, 4)), ["/live/s0.ts"]);
    assert_eq!(left(&channel.lists(1, 4)), [""; 0]);
    assert_eq!(left(&channel.lists(3, 6)), ["/live/s1.ts", "/live/s2.ts"]);
}

#[tokio::test(start_paused = true)]
async fn what_another_playlist_lists_has_not_left() {
    let channel = Channel::new();
    let dvr = |first, next| {
        channel.streams.observe(
            &source("/live/dvr.m3u8"),
            &parse(text(first, next, "s").as_bytes(), b"").unwrap(),
            SEQUENCE,
        )
    };
    channel.lists(0, 3);
    dvr(0, 3);
    channel.keeps("/live/s0.ts");
    assert_eq!(left(&channel.lists(1, 4)), [""; 0], "the other has it");
    assert_eq!(left(&dvr(1, 4)), ["/live/s0.ts"], "now nobody has");
    channel.keeps("/live/s1.ts");
    pass(60).await;
    assert_eq!(left(&channel.lists(2, 5)), ["/live/s1.ts"], "nobody looks at the other any more");
}

#[tokio::test(start_paused = true)]
async fn a_delta_update_does_not_end_what_it_leaves_out() {
    let channel = Channel::new();
    channel.lists(0, 10);
    for n in 0..10 {
        channel.keeps(&format!("/live/s{n}.ts"));
    }
    let delta = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:2\n#EXT-X-SKIP:SKIPPED-SEGMENTS=6\n\
        #EXTINF:2,\ns8.ts\n#EXTINF:2,\ns9.ts\n#EXTINF:2,\ns10.ts\n";
    assert_eq!(left(&channel.says(delta)), ["/live/s0.ts", "/live/s1.ts"]);
    assert_eq!(left(&channel.lists(3, 12)), ["/live/s2.ts"]);
}

#[tokio::test(start_paused = true)]
async fn parts_maps_and_keys_belong_to_the_stream() {
    let channel = Channel::new();
    channel.says(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-PART-INF:PART-TARGET=1\n#EXT-X-MEDIA-SEQUENCE:9\n\
         #EXT-X-KEY:METHOD=AES-128,URI=\"/keys/1\"\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:2,\n9.m4s\n\
         #EXT-X-PART:DURATION=1,URI=\"10.0.m4s\"\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"10.1.m4s\"\n",
    );
    let names = ["/keys/1", "/live/init.mp4", "/live/9.m4s", "/live/10.0.m4s", "/live/10.1.m4s"];
    names.iter().for_each(|name| channel.keeps(name));
    let kind = |name: &str| channel.streams.describe(0, name.as_bytes()).map(|d| (d.kind, d.sequence));
    assert_eq!(
        names.map(kind),
        [
            Some(("key", None)),
            Some(("init", None)),
            Some(("segment", Some(9))),
            Some(("part", Some(10))),
            Some(("part", Some(10))),
        ]
    );
    let effect = channel.lists(0, 1);
    let mut all = names.map(str::to_string);
    all.sort();
    assert_eq!(purged(&effect), all);
    assert_eq!(effect.purge.unwrap().rewound, Some((9, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_all_that_was_ever_listed() {
    let channel = Channel::new();
    for n in 0..20 {
        channel.lists(n, n + 3);
        channel.keeps(&format!("/live/s{n}.ts"));
    }
    channel.keeps("/live/early.ts");
    channel.keeps("/other/x.ts");
    let effect = channel.lists(0, 1);
    assert_eq!(purged(&effect).len(), 21, "what was had before it was listed is among them");
    let origins = &effect.purge.as_ref().unwrap().origins;
    assert!(origins.contains(&hash(b"/live/s0.ts")) && origins.contains(&hash(b"/live/s21.ts")));
    assert!(!origins.contains(&hash(b"/other/x.ts")));
    assert_eq!(channel.rewinds(), 1);
    assert!(channel.lists(0, 2).purge.is_none(), "it goes on");
}

#[tokio::test(start_paused = true)]
async fn names_that_come_again_are_void_whether_or_not_they_are_known() {
    let channel = Channel::new();
    let void = |n: u64, sequence| channel.streams.is_void(format!("/live/s{n}.ts").as_bytes(), sequence);
    // Of the run before only this is known, as after a start of the process.
    channel.lists(100, 103);
    channel.lists(0, 1);
    assert!(void(0, SEQUENCE) && void(101, SEQUENCE) && !void(0, SEQUENCE + 1));
    assert!(!void(1, SEQUENCE), "it has not come again");
    // It came from disk before anything was known.
    channel.keeps("/live/s2.ts");
    assert_eq!(purged(&channel.lists(0, 3)), ["/live/s2.ts"]);
    channel.keeps("/live/s2.ts");
    assert_eq!(purged(&channel.lists(1, 4)), [""; 0], "it has been asked for since");
    assert!(void(1, SEQUENCE) && void(2, SEQUENCE) && !void(2, SEQUENCE + 1));
    channel.lists(98, 110);
    assert!(void(105, SEQUENCE), "it came with others that had been there");
    channel.lists(108, 111);
    assert!(!void(110, SEQUENCE), "these numbers are new");
}

#[tokio::test(start_paused = true)]
async fn a_second_restart_waits_until_the_first_is_over() {
    let channel = Channel::new();
    channel.lists(100, 103);
    assert!(channel.lists(0, 1).purge.is_some());
    channel.lists(50, 53);
    channel.keeps("/live/s50.ts");
    assert!(channel.lists(0, 1).purge.is_none(), "too soon");
    assert_eq!((channel.rewinds(), channel.streams.counters.limited.get()), (2, 1));
    pass(6).await;
    assert_eq!(purged(&channel.lists(0, 2)), ["/live/s50.ts"], "what was owed");
    assert!(channel.lists(0, 3).purge.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_lags_purges_nothing() {
    let channel = Channel::new();
    for n in 0..50 {
        assert!(channel.lists(n + 2, n + 8).purge.is_none());
        assert!(channel.lists(n, n + 6).purge.is_none(), "the other origin, two segments behind");
    }
    assert_eq!((channel.rewinds(), channel.streams.counters.older.get()), (0, 50));
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_stands_still_purges_once() {
    let channel = Channel::new();
    channel.lists(1000, 1006);
    let mut purges = 0;
    for n in 1..30 {
        pass(10).await;
        purges += usize::from(channel.lists(50, 56).purge.is_some());
        purges += usize::from(channel.lists(1000 + n, 1006 + n).purge.is_some());
    }
    assert_eq!(purges, 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_soon_after_the_start_is_seen_when_it_goes_on() {
    let channel = Channel::new();
    channel.lists(0, 6);
    channel.keeps("/live/s4.ts");
    assert!(channel.lists(0, 1).purge.is_none());
    assert!(channel.lists(0, 1).purge.is_none(), "the same once more says nothing");
    assert!(channel.lists(0, 2).purge.is_none());
    assert!(channel.lists(0, 3).purge.is_none());
    assert_eq!(purged(&channel.lists(0, 4)), ["/live/s4.ts"]);
}

#[tokio::test(start_paused = true)]
async fn other_names_under_the_same_numbers_are_another_run() {
    let channel = Channel::new();
    channel.says(&text(3, 9, "a"));
    assert!(channel.says(&text(0, 6, "b")).purge.is_some());
}

#[tokio::test(start_paused = true)]
async fn absences_are_as_long_as_the_stream_near_them_allows() {
    let channel = Channel::new();
    channel.says("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n2026/11/s0.ts\n#EXTINF:6,\n//cdn/x/s1.ts\n");
    let quarter = Duration::from_millis(1500);
    for (origin, wanted) in [
        ("/live/2026/11/s0.ts", quarter),
        ("/live/2026/11/s1.ts", quarter),
        ("/live/2026/12/s1.ts", quarter),
        ("/live/b.m3u8", quarter),
        ("/x/s9.ts", quarter),
        ("/elsewhere/s1.ts", life::UNKNOWN_ABSENCE),
        ("/", life::UNKNOWN_ABSENCE),
        ("", life::UNKNOWN_ABSENCE),
    ] {
        assert_eq!(channel.streams.absence(origin.as_bytes()), wanted, "{origin}");
    }
    let deep = "/live".to_string() + &"/d".repeat(100) + "/s.ts";
    assert_eq!(channel.streams.absence(deep.as_bytes()), life::UNKNOWN_ABSENCE);
}

#[tokio::test(start_paused = true)]
async fn hosts_are_told_apart_where_keys_tell_them_apart() {
    let streams = Streams::new(0);
    let of = |host: &'static str| Source {
        stream: key::hash(host.as_bytes()),
        site: host.into(),
        host: host.into(),
        target: "/a.m3u8".into(),
    };
    let playlist = parse(b"#EXTM3U\n#EXT-X-TARGETDURATION:4\ns.ts\n//two/t.ts\n", b"").unwrap();
    streams.observe(&of("one"), &playlist, SEQUENCE);
    let knows = |origin: &[u8]| streams.describe(0, origin).is_some();
    assert!(knows(b"one/s.ts") && knows(b"two/t.ts") && !knows(b"two/s.ts") && !knows(b"/s.ts"));
}

#[tokio::test(start_paused = true)]
async fn nothing_grows_without_bound() {
    let streams = Streams::bounded(8, 100);
    let mut forgotten = 0;
    for n in 0..500u64 {
        let source = Source {
            stream: u128::from(n % 20),
            site: Bytes::new(),
            host: Bytes::new(),
            target: Bytes::from(format!("/{}/a.m3u8", n % 20)),
        };
        let effect =
            streams.observe(&source, &parse(text(n, n + 10, "s").as_bytes(), b"").unwrap(), SEQUENCE);
        forgotten += purged(&effect).len();
        for _ in 0..3 {
            let path = format!("/{}/s{n}.ts", n % 20);
            let key = Key::new(Bytes::from(path.clone())).variant(u128::from(n));
            forgotten += purged(&streams.register(path.as_bytes(), &key)).len();
            streams.register(format!("/never/listed{n}").as_bytes(), &key);
        }
        let (known, resources) = streams.known();
        assert!(known <= 8 && resources <= 100, "{known} streams, {resources} resources");
        let table = streams.table.read();
        assert!(table.queued() <= 200 + 10, "{}", table.queued());
    }
    assert!(forgotten > 0, "what is forgotten is no longer kept");
}

#[tokio::test(start_paused = true)]
async fn one_playlist_asked_for_in_a_thousand_ways_takes_no_more_room() {
    let streams = Streams::bounded(4096, 100);
    let playlist = parse(text(0, 500, "s").as_bytes(), b"").unwrap();
    let live = Channel { streams, source: source("/live/a.m3u8") };
    for n in 0..100u64 {
        live.says(&text(n, n + 5, "s"));
        pass(1).await;
        let other = Source { stream: u128::from(n), ..source("/live/a.m3u8") };
        live.streams.observe(&other, &playlist, SEQUENCE);
        let (sum, known) = live.streams.table.read().remembered();
        assert_eq!(sum, known);
        assert!(sum <= 3200, "{sum}");
    }
    // Which of them are heard of stays.
    assert!(live.streams.facts(live.source.stream).is_some());
    assert!(live.streams.facts(99).is_some() && live.streams.facts(0).is_none());
}
