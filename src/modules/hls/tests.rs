use super::*;
use crate::conf::build::{Config, load_text};
use crate::observe::testing::Running;

fn load(http: &str) -> ConfResult<Config> {
    let dir = tempfile::tempdir().unwrap();
    load_text(dir.path(), &format!("events {{ }}\nhttp {{\n{http}\n}}\n"))
}

#[test]
fn mistakes_are_named() {
    let table = [
        ("hls;", "invalid number of arguments in \"hls\" directive", "hls on;"),
        ("hls yes;", "invalid value \"yes\" in \"hls\" directive, it must be \"on\" or \"off\"", ""),
        ("hls on; hls off;", "\"hls\" directive is duplicate", ""),
        ("hls_playlist_valid 0%;", "invalid parameter \"0%\"", "from 1% to 100%"),
        ("hls_playlist_valid 101%;", "invalid parameter \"101%\"", "from 1% to 100%"),
        ("hls_playlist_valid x%;", "invalid parameter \"x%\"", "from 1% to 100%"),
        ("hls_playlist_valid half;", "invalid parameter \"half\"", "500ms"),
        ("hls_playlist_valid 0;", "invalid parameter \"0\"", "not zero"),
        ("hls_playlist_valid 1s 2s;", "invalid parameter \"2s\"", "twice"),
        ("hls_playlist_valid master=0;", "invalid parameter \"master=0\"", "not zero"),
        ("hls_playlist_valid;", "invalid number of arguments in \"hls_playlist_valid\" directive", ""),
        ("hls_ignore_args _HLS_msn;", "invalid parameter \"_HLS_msn\"", "part of the key"),
        ("hls_ignore_args token _*;", "invalid parameter \"_*\"", "part of the key"),
        ("hls_ignore_args a=b;", "invalid parameter \"a=b\"", "the name of a parameter"),
        ("hls_fragment 5s;", "unknown directive \"hls_fragment\"", "packaged"),
        ("hls_mp4_buffer_size 1m;", "unknown directive \"hls_mp4_buffer_size\"", "packaged"),
    ];
    for (text, message, hint) in table {
        let error = load(&format!("{text}\n")).err().unwrap_or_else(|| panic!("{text} loads"));
        assert_eq!(error.message, message, "{text}");
        assert_eq!(error.at.as_ref().map(|at| at.line), Some(3), "{text}");
        assert!(error.hint.clone().unwrap_or_default().contains(hint), "{text}: {:?}", error.hint);
    }
    assert!(load("server { location / { if ($uri) { hls on; } } }").is_err(), "not in if");
}

#[test]
fn levels_inherit_and_switch_off() {
    let config = load(
        "hls on; hls_playlist_valid 25% master=1m; hls_ignore_args a b*;
         server { location /off { hls off; } location /other { hls_playlist_valid 1s; hls_ignore_args c; } }",
    )
    .unwrap();
    let http = config.http.unwrap();
    let levels: Vec<_> = http.levels.iter().map(|l| &l.conf.hls).collect();
    let [_, server, off, other] = levels[..] else { panic!("{} levels", levels.len()) };
    assert!(*server.on && !*off.on && *other.on);
    let rules = Rules { live: Live::Percent(25), master: Duration::from_secs(60) };
    assert_eq!((*server.valid, *off.valid), (rules, rules));
    assert_eq!(*other.valid, Rules { live: Live::Time(Duration::from_secs(1)), ..Rules::default() });
    assert_eq!((server.ignore_args.len(), other.ignore_args.len()), (2, 1), "a list replaces the outer one");
}

/// How a request for each of `targets` was answered, what the key was, and what the log says the client sent.
fn asked(key: &str, hls: &str, targets: &[&str]) -> Vec<String> {
    let running = Running::start(&format!(
        "proxy_cache_path c keys_zone=z:1m;
         log_format seen '$upstream_cache_status $cache_key $request_uri';
         log_format origin '$request_uri';
         map $args $mapped {{ default $args; }}
         server {{
             listen LISTEN;
             location /o/ {{ access_log origin.log origin; return 200 text; }}
             access_log seen.log seen;
             proxy_cache z; proxy_cache_valid 1m; {key} {hls} hls_ignore_args token utm_* _;
             location / {{ proxy_pass http://LISTEN/o/; }}
         }}"
    ));
    targets.iter().for_each(|target| drop(running.get(target, "")));
    let lines = running.lines("seen.log", targets.len());
    let missed = lines.iter().filter(|line| line.starts_with("MISS")).count();
    // What goes upstream is what was sent.
    let upstream = running.lines("origin.log", missed);
    let sent: Vec<_> =
        lines.iter().zip(targets).filter(|(line, _)| line.starts_with("MISS")).map(|(_, t)| *t).collect();
    let wanted: Vec<_> = sent.iter().map(|target| format!("/o{target}")).collect();
    assert_eq!(upstream, wanted, "{key}");
    for (line, target) in lines.iter().zip(targets) {
        assert_eq!(line.rsplit(' ').next().unwrap(), *target, "{key}: the log has what was sent");
    }
    lines.iter().map(|line| line.rsplit_once(' ').unwrap().0.to_string()).collect()
}

#[test]
fn what_is_ignored_is_not_part_of_the_key_however_that_is_written() {
    let targets =
        ["/a?token=1&x=1", "/a?x=1&token=2&utm_source=n", "/a?x=1&_=99", "/a?x=1", "/a?x=2&token=1"];
    for (key, one, two) in [
        ("proxy_cache_key $uri$is_args$args;", "/a?x=1", "/a?x=2"),
        ("proxy_cache_key $uri?$query_string;", "/a?x=1", "/a?x=2"),
        ("proxy_cache_key $request_uri;", "/a?x=1", "/a?x=2"),
        ("proxy_cache_key $uri:$mapped;", "/a:x=1", "/a:x=2"),
        ("proxy_cache_key $uri-$arg_x;", "/a-1", "/a-2"),
    ] {
        let lines = asked(key, "hls on;", &targets);
        let wanted =
            [format!("MISS {one}"), format!("HIT {one}"), format!("HIT {one}"), format!("HIT {one}")];
        assert_eq!(lines[..4], wanted, "{key}");
        assert_eq!(lines[4], format!("MISS {two}"), "{key}");
    }
    // The key by default is what goes upstream.
    let lines = asked("", "hls on;", &["/a?token=1", "/a?token=2", "/a"]);
    let words: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["MISS", "HIT", "HIT"]);
    assert!(lines[0].starts_with("MISS http://127.") && lines[0].ends_with("/o/a"), "{}", lines[0]);
    // Who names a parameter has it.
    let lines = asked("proxy_cache_key $uri$arg_token;", "hls on;", &["/a?token=1", "/a?token=2"]);
    assert_eq!(lines, ["MISS /a1", "MISS /a2"]);
    // Off is off.
    let lines = asked("proxy_cache_key $request_uri;", "hls off;", &["/a?token=1", "/a?token=2"]);
    assert_eq!(lines, ["MISS /a?token=1", "MISS /a?token=2"]);
}

#[test]
fn delivery_directives_are_always_part_of_the_key() {
    let targets =
        ["/a.m3u8?token=1", "/a.m3u8?_HLS_msn=1&_HLS_part=2", "/a.m3u8?token=2&_HLS_msn=1&_HLS_part=3"];
    assert_eq!(
        asked("proxy_cache_key $uri;", "hls on;", &targets),
        [
            "MISS /a.m3u8",
            "MISS /a.m3u8\\x00_HLS_msn=1&_HLS_part=2",
            "MISS /a.m3u8\\x00_HLS_msn=1&_HLS_part=3"
        ]
    );
    assert_eq!(
        asked("proxy_cache_key $request_uri;", "hls on;", &targets),
        ["MISS /a.m3u8", "MISS /a.m3u8?_HLS_msn=1&_HLS_part=2", "MISS /a.m3u8?_HLS_msn=1&_HLS_part=3"]
    );
}

#[test]
fn no_request_can_have_the_key_of_another_state_of_a_playlist() {
    // Which of two that are alike counts is the server's to say.
    let (plain, twice, one) = ("/a.m3u8?_HLS_msn=12", "/a.m3u8?_HLS_msn=12&_HLS_msn=1", "/a.m3u8?_HLS_msn=1");
    let within = ["/a.m3u8?x=_HLS_msn=1", "/a.m3u8?x=_HLS_msn=1&_HLS_msn=1"];
    for (key, targets) in [
        ("proxy_cache_key $uri;", [plain, twice, one, "/a.m3u8%3F_HLS_msn=1"]),
        ("proxy_cache_key $uri;", [plain, twice, one, "/a.m3u8%3F_HLS_msn=1?_HLS_msn=1"]),
        ("proxy_cache_key $uri:$arg_x;", [one, within[0], within[1], "/a.m3u8"]),
        ("proxy_cache_key $request_uri;", [plain, twice, one, within[0]]),
    ] {
        let lines = asked(key, "hls on;", &targets);
        assert!(lines.iter().all(|line| line.starts_with("MISS ")), "{key}: {lines:?}");
    }
}

#[test]
fn what_a_set_variable_holds_is_what_it_was_set_to() {
    let running = Running::start(
        "proxy_cache_path c keys_zone=z:1m;
         log_format seen '$cache_key $mapped $other';
         map $args $mapped { default m:$args; }
         map $args $other { default o:$args; }
         server {
             listen LISTEN;
             location /o/ { access_log off; return 200 text; }
             access_log seen.log seen;
             location / {
                 set $mapped given;
                 proxy_cache z; proxy_cache_key $mapped:$other; hls on; hls_ignore_args t;
                 proxy_pass http://LISTEN/o/;
             }
         }",
    );
    running.get("/?t=1&a=2", "");
    // Computed for the key, the mapped one is not what the log has.
    assert_eq!(running.lines("seen.log", 1), ["given:o:a=2 given o:t=1&a=2"]);
}

const ORIGIN: &str = "location /o/ { access_log off; return 404; }
     location = /o/live/a.m3u8 {
         access_log off; default_type application/vnd.apple.mpegurl; add_header Cache-Control no-cache;
         return 200 \"#EXTM3U\\n#EXT-X-TARGETDURATION:4\\n#EXT-X-MEDIA-SEQUENCE:17\\n#EXT-X-MAP:URI=\\\"i.mp4\\\"\\n17.ts\\n\";
     }
     location = /o/live/m.m3u8 { access_log off; return 200 \"#EXTM3U\\n#EXT-X-STREAM-INF:BANDWIDTH=1\\na.m3u8\\n\"; }
     location = /o/live/bad.m3u8 { access_log off; return 200 \"not found\"; }
     location = /o/live/17.ts { access_log off; return 200 video; }
     location = /o/live/i.mp4 { access_log off; return 200 init; }";

fn site(location: &str) -> Running {
    Running::start(&format!(
        "proxy_cache_path c keys_zone=z:1m;
         log_format seen '$uri $upstream_cache_status $hls_kind $hls_media_sequence $hls_target_duration';
         server {{
             listen LISTEN;
             {ORIGIN}
             location = /metrics {{ access_log off; prometheus; }}
             access_log seen.log seen;
             location / {{ proxy_cache z; proxy_cache_valid any 1m; {location} proxy_pass http://LISTEN/o/; }}
         }}"
    ))
}

#[test]
fn logs_tell_what_was_asked_for() {
    let running = site("hls on;");
    let targets = [
        "/live/m.m3u8",
        "/live/a.m3u8",
        "/live/a.m3u8",
        "/live/17.ts",
        "/live/i.mp4",
        "/live/18.ts",
        "/x",
        "/live/bad.m3u8",
    ];
    targets.iter().for_each(|target| drop(running.get(target, "")));
    assert_eq!(
        running.lines("seen.log", targets.len()),
        [
            "/live/m.m3u8 MISS master - -",
            "/live/a.m3u8 MISS media 17 4.000",
            "/live/a.m3u8 HIT media 17 4.000",
            "/live/17.ts MISS segment 17 4.000",
            "/live/i.mp4 MISS init - 4.000",
            "/live/18.ts MISS segment 18 4.000",
            "/x MISS - - -",
            "/live/bad.m3u8 MISS - - -",
        ]
    );
    let metrics = running.get("/metrics", "");
    for line in [
        "edgewater_hls_streams{zone=\"z\"} 2",
        "edgewater_hls_playlists_total{kind=\"media\",zone=\"z\"} 1",
        "edgewater_hls_playlists_total{kind=\"master\",zone=\"z\"} 1",
        "edgewater_hls_mistakes_total{reason=\"not_a_playlist\",zone=\"z\"} 1",
        "edgewater_hls_absences_total{zone=\"z\"} 2",
        "edgewater_hls_rewinds_total{zone=\"z\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn off_nothing_is_known() {
    let running = site("");
    running.get("/live/a.m3u8", "");
    running.get("/live/a.m3u8", "");
    let lines = running.lines("seen.log", 2);
    assert_eq!(lines, ["/live/a.m3u8 MISS - - -", "/live/a.m3u8 MISS - - -"], "no-cache is heeded");
}

#[test]
fn a_rewritten_request_is_known_by_what_the_client_sent() {
    let running = Running::start(&format!(
        "proxy_cache_path c keys_zone=z:1m;
         log_format seen '$request_uri $hls_kind $hls_media_sequence';
         server {{
             listen LISTEN;
             {ORIGIN}
             access_log seen.log seen;
             location /tv/ {{
                 rewrite ^/tv/(.*)$ /o/live/$1 break;
                 proxy_cache z; proxy_cache_valid any 1m; hls on; proxy_pass http://LISTEN;
             }}
         }}"
    ));
    running.get("/tv/a.m3u8", "");
    running.get("/tv/17.ts", "");
    assert_eq!(running.lines("seen.log", 2), ["/tv/a.m3u8 media 17", "/tv/17.ts segment 17"]);
}
