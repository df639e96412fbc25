use super::*;
use proptest::prelude::*;

fn facts(text: &str) -> Facts {
    parse(text.as_bytes(), b"").unwrap().facts
}

fn listed(text: &str) -> Vec<(String, Role, u64)> {
    let playlist = parse(text.as_bytes(), b"token=a%20b&x=1").unwrap();
    playlist.listed.into_iter().map(|l| (l.uri, l.role, l.number)).collect()
}

#[test]
fn a_live_playlist() {
    let text = "#EXTM3U\r\n#EXT-X-VERSION:3\r\n#EXT-X-TARGETDURATION:4\r\n#EXT-X-MEDIA-SEQUENCE:12\r\n\
        #EXT-X-DISCONTINUITY-SEQUENCE:3\r\n#EXT-X-PROGRAM-DATE-TIME:2026-01-02T03:04:05.678+0000\r\n\
        #EXTINF:4.0,\r\nseg12.ts\r\n#EXTINF:4.0,\r\n../x/seg13.ts?a=b\r\n";
    let facts = facts(text);
    assert_eq!((facts.kind, facts.target), (Kind::Media, Duration::from_secs(4)));
    assert_eq!((facts.first, facts.next, facts.discontinuity), (12, 14, 3));
    assert_eq!(facts.dated, Some((12, 1_767_323_045_678)));
    assert!(!facts.ended && !facts.blocks && facts.part_target.is_none());
    let segment = |uri: &str, number| (uri.to_string(), Role::Segment, number);
    assert_eq!(listed(text), [segment("seg12.ts", 12), segment("../x/seg13.ts?a=b", 13)]);
}

#[test]
fn all_that_a_playlist_names() {
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-PART-INF:PART-TARGET=1.0\n#EXT-X-MEDIA-SEQUENCE:5\n\
        #EXT-X-KEY:METHOD=AES-128,URI=\"k?id=1\"\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:4,\n5.m4s\n\
        #EXT-X-KEY:METHOD=NONE\n#EXTINF:2,\n#EXT-X-BYTERANGE:10@0\nall.ts\n#EXTINF:2,\n#EXT-X-BYTERANGE:10@10\nall.ts\n\
        #EXT-X-PART:DURATION=1,URI=\"8.0.m4s\"\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"8.1.m4s\"\n\
        #EXT-X-RENDITION-REPORT:URI=\"../low/live.m3u8\",LAST-MSN=8\n";
    let name = |uri: &str, role, number| (uri.to_string(), role, number);
    assert_eq!(
        listed(text),
        [
            name("k?id=1", Role::Key, 5),
            name("init.mp4", Role::Init, 5),
            name("5.m4s", Role::Segment, 5),
            name("all.ts", Role::Segment, 6),
            name("8.0.m4s", Role::Part, 8),
            name("8.1.m4s", Role::Part, 8),
        ]
    );
    let facts = facts(text);
    assert_eq!((facts.next, facts.parts, facts.part_target), (8, 1, Some(Duration::from_secs(1))));
    assert!(facts.has(7, None) && facts.has(8, Some(0)) && !facts.has(8, Some(1)) && !facts.has(8, None));
}

#[test]
fn a_delta_update_counts_what_it_leaves_out() {
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:100\n#EXT-X-SKIP:SKIPPED-SEGMENTS=20\n\
        #EXTINF:4,\n120.ts\n";
    let facts = facts(text);
    assert_eq!((facts.first, facts.skipped, facts.next), (100, 20, 121));
    assert_eq!(listed(text), [("120.ts".to_string(), Role::Segment, 120)]);
}

#[test]
fn variables_are_replaced() {
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-DEFINE:NAME=\"dir\",VALUE=\"a/b\"\n\
        #EXT-X-DEFINE:QUERYPARAM=\"token\"\n#EXT-X-DEFINE:IMPORT=\"m\"\n#EXTINF:4,\n{$dir}/1.ts?t={$token}\n\
        #EXTINF:4,\n{$m}/2.ts\n#EXTINF:4,\n{$dir\n";
    // What is imported from another playlist, and what is no variable, is left alone.
    assert_eq!(listed(text), [("a/b/1.ts?t=a b".to_string(), Role::Segment, 0)]);
}

#[test]
fn a_short_text_that_stands_for_a_long_one_is_bounded() {
    let with = |length: usize| {
        let uris: String = (0..50_000).map(|n| format!("{{$v}}{n}\n")).collect();
        let value = "v".repeat(length);
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-DEFINE:NAME=\"v\",VALUE=\"{value}\"\n{uris}")
    };
    for length in [8000, 400_000] {
        let listed = listed(&with(length));
        let sum: usize = listed.iter().map(|(uri, ..)| uri.len()).sum();
        assert!(sum <= LARGEST, "{sum}");
        assert_eq!(listed.is_empty(), length > 8192);
    }
}

#[test]
fn a_master_playlist_lists_nothing() {
    let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"en\",URI=\"en.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nlow.m3u8\n#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"i.m3u8\"\n";
    let playlist = parse(text.as_bytes(), b"").unwrap();
    assert_eq!((playlist.facts.kind, playlist.listed), (Kind::Master, vec![]));
}

#[test]
fn what_is_none() {
    let large = format!("#EXTM3U\n{}", "#x\n".repeat(LARGEST));
    for (text, wanted) in [
        (&b""[..], Mistake::NotOne),
        (b"<html>", Mistake::NotOne),
        (b"#EXTM3", Mistake::NotOne),
        (b" #EXTM3U\n", Mistake::NotOne),
        (large.as_bytes(), Mistake::TooLarge),
        (b"#EXTM3U\n\xff\xfe", Mistake::Syntax),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:x\n", Mistake::Syntax),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:-1\n", Mistake::Syntax),
        (b"#EXTM3U\n", Mistake::NoTarget),
        (b"#EXTM3U\n#EXTINF:4,\na.ts\n", Mistake::NoTarget),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:x\n", Mistake::NoTarget),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:-4\n", Mistake::NoTarget),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:NaN\n", Mistake::NoTarget),
    ] {
        assert_eq!(
            parse(text, b""),
            Err(wanted),
            "{:?}",
            String::from_utf8_lossy(&text[..text.len().min(60)])
        );
    }
}

#[test]
fn of_very_many_the_last_are_remembered() {
    let mut text = String::from("#EXTM3U\n#EXT-X-TARGETDURATION:1\n");
    for n in 0..3 * MOST_LISTED {
        text.push_str(&format!("{n}\n"));
    }
    let playlist = parse(text.as_bytes(), b"").unwrap();
    assert_eq!(playlist.facts.next, 3 * MOST_LISTED as u64);
    assert_eq!(playlist.listed.len(), MOST_LISTED);
    assert_eq!(playlist.listed.last().unwrap().uri, (3 * MOST_LISTED - 1).to_string());
}

/// Lines that a playlist may be made of, right and wrong.
fn line() -> impl Strategy<Value = String> {
    let tag = prop::sample::select(vec![
        "EXTM3U",
        "EXT-X-TARGETDURATION",
        "EXT-X-MEDIA-SEQUENCE",
        "EXT-X-DISCONTINUITY-SEQUENCE",
        "EXT-X-SKIP",
        "EXT-X-ENDLIST",
        "EXT-X-PLAYLIST-TYPE",
        "EXT-X-PART-INF",
        "EXT-X-SERVER-CONTROL",
        "EXT-X-STREAM-INF",
        "EXT-X-I-FRAME-STREAM-INF",
        "EXT-X-MEDIA",
        "EXT-X-PART",
        "EXT-X-PRELOAD-HINT",
        "EXT-X-MAP",
        "EXT-X-KEY",
        "EXT-X-DEFINE",
        "EXT-X-PROGRAM-DATE-TIME",
        "EXT-X-BYTERANGE",
        "EXTINF",
    ]);
    let attribute = "(URI|TYPE|METHOD|BYTERANGE|PART-TARGET|CAN-BLOCK-RELOAD|SKIPPED-SEGMENTS|NAME|VALUE|DURATION)=\
        (\"[^\n]{0,12}\"?|[-A-Z0-9.@x]{0,20})";
    let value = prop_oneof![
        "[-+0-9.eTZ:]{0,30}",
        prop::collection::vec(attribute, 0..4).prop_map(|list| list.join(",")),
        ".{0,20}",
    ];
    prop_oneof![
        (tag, value).prop_map(|(tag, value)| format!("#{tag}:{value}")),
        "[^\n]{0,20}",
        "(\\{\\$[a-z]{0,2}\\}?){0,3}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200), query in prop::collection::vec(any::<u8>(), 0..20)) {
        let _ = parse(&[b"#EXTM3U\n", &bytes[..]].concat(), &query);
    }

    #[test]
    fn no_lines_break_it(lines in prop::collection::vec(line(), 0..12), end in "(\n|\r\n|\r)") {
        let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n{}", lines.join(&end));
        // Without the net below it: the grammar itself must hold.
        if let Ok(playlist) = Draft::read(&text, b"a=1&b=%zz") {
            prop_assert!(playlist.listed.len() <= MOST_LISTED);
            prop_assert!(playlist.facts.next >= playlist.facts.first);
            prop_assert!(playlist.facts.target <= LONGEST_TARGET);
        }
    }
}
