use super::*;
use crate::cache::disk::Pace;
use crate::conf::build::{Config, load_text};
use crate::conf::diag::NoteLevel;
use crate::conf::table::Support;
use crate::modules::Shared as AllShared;

fn load(http: &str) -> ConfResult<Config> {
    let dir = tempfile::tempdir().unwrap();
    load_text(dir.path(), &format!("events {{ }}\nhttp {{\n{http}\n}}\n"))
}

const PATH: &str = "proxy_cache_path c keys_zone=z:1m max_size=10m;";

/// Loads a server with these directives, with a zone declared.
fn with(directives: &str) -> ConfResult<Config> {
    load(&format!("{PATH}\nproxy_cache_key $uri;\nserver {{ listen 127.0.0.1:1; {directives} }}"))
}

/// The first server's level.
fn server(config: &Config) -> &Conf {
    let http = config.http.as_ref().unwrap();
    &http.levels[http.servers[0].level].conf.proxy_cache
}

fn policy_of(directives: &str) -> Policy {
    let config = with(&format!("proxy_cache z; {directives}")).unwrap();
    (*server(&config).active.as_ref().unwrap().policy).clone()
}

#[test]
fn mistakes_are_named_in_nginxs_words() {
    let path = |parameters: &str| format!("proxy_cache_path c {parameters};");
    let table = [
        (path("levels=1:2"), "\"proxy_cache_path\" must have \"keys_zone\" parameter"),
        (path("keys_zone=:1m"), "\"proxy_cache_path\" must have \"keys_zone\" parameter"),
        (path("keys_zone=z"), "invalid keys zone size \"keys_zone=z\""),
        (path("keys_zone=z:x"), "invalid keys zone size \"keys_zone=z:x\""),
        (path("keys_zone=z:1k"), "keys zone \"keys_zone=z:1k\" is too small"),
        (path("keys_zone=z:1m levels=4"), "invalid \"levels\" \"levels=4\""),
        (path("keys_zone=z:1m levels=1:2:2:2"), "invalid \"levels\" \"levels=1:2:2:2\""),
        (path("keys_zone=z:1m inactive=x"), "invalid inactive value \"inactive=x\""),
        (path("keys_zone=z:1m max_size=x"), "invalid max_size value \"max_size=x\""),
        (path("keys_zone=z:1m min_free=x"), "invalid min_free value \"min_free=x\""),
        (
            path("keys_zone=z:1m use_temp_path=x"),
            "invalid use_temp_path value \"use_temp_path=x\", it must be \"on\" or \"off\"",
        ),
        (path("keys_zone=z:1m loader_files=x"), "invalid loader_files value \"loader_files=x\""),
        (path("keys_zone=z:1m manager_sleep=x"), "invalid manager_sleep value \"manager_sleep=x\""),
        (
            path("keys_zone=z:1m purger=yes"),
            "invalid purger value \"purger=yes\", it must be \"on\" or \"off\"",
        ),
        (path("keys_zone=z:1m purger_files=x"), "invalid purger_files value \"purger_files=x\""),
        (path("keys_zone=z:1m purger_sleep=x"), "invalid purger_sleep value \"purger_sleep=x\""),
        (path("keys_zone=z:1m purger_threshold=x"), "invalid purger_threshold value \"purger_threshold=x\""),
        (path("keys_zone=z:1m purger_pages=1"), "invalid parameter \"purger_pages=1\""),
        (format!("{PATH} proxy_cache_path d keys_zone=z:1m;"), "duplicate zone \"z\""),
        ("proxy_cache q; proxy_cache_key x;".into(), "\"proxy_cache\" zone \"q\" is unknown"),
        ("proxy_cache z; proxy_cache z;".into(), "\"proxy_cache\" directive is duplicate"),
        ("proxy_cache_purge;".into(), "invalid number of arguments in \"proxy_cache_purge\" directive"),
        (
            "proxy_cache_purge_tags;".into(),
            "invalid number of arguments in \"proxy_cache_purge_tags\" directive",
        ),
        ("proxy_cache_valid x;".into(), "invalid time value \"x\""),
        ("proxy_cache_valid 99 1m;".into(), "invalid status \"99\""),
        ("proxy_cache_valid 600 1m;".into(), "invalid status \"600\""),
        ("proxy_cache_valid abc 1m;".into(), "invalid status \"abc\""),
        ("proxy_cache_methods PUT;".into(), "invalid value \"PUT\""),
        ("proxy_cache_use_stale foo;".into(), "invalid value \"foo\""),
        ("proxy_cache_use_stale http_501;".into(), "invalid value \"http_501\""),
        ("proxy_cache_min_uses x;".into(), "\"proxy_cache_min_uses\" directive invalid number"),
        ("proxy_ignore_headers Foo;".into(), "invalid value \"Foo\""),
        (
            "proxy_cache_max_range_offset x;".into(),
            "\"proxy_cache_max_range_offset\" directive invalid value",
        ),
        ("proxy_cache_lock_timeout x;".into(), "\"proxy_cache_lock_timeout\" directive invalid value"),
        ("proxy_cache_key a; proxy_cache_key b;".into(), "\"proxy_cache_key\" directive is duplicate"),
        ("proxy_cache '';".into(), "zero size shared memory zone \"\""),
        ("memory_cache 10m;".into(), "invalid parameter \"10m\""),
        ("memory_cache size=1m max=1m;".into(), "invalid parameter \"max=1m\""),
        ("memory_cache size=1m size=2m;".into(), "duplicate parameter \"size=2m\""),
        ("memory_cache max_object=0;".into(), "\"memory_cache\" directive invalid value"),
        (
            "memory_cache size=1m max_object=600k;".into(),
            "\"max_object\" must not be larger than half of \"size\"",
        ),
        ("memory_cache size=1k;".into(), "\"memory_cache\" directive invalid value"),
        ("memory_cache size=1m; memory_cache size=1m;".into(), "\"memory_cache\" directive is duplicate"),
    ];
    for (text, wanted) in table {
        let error = load(&text).err().unwrap_or_else(|| panic!("{text} loads"));
        assert_eq!(error.message, wanted, "{text}");
        assert_eq!(error.at.map(|at| at.line), Some(3), "{text}");
    }
}

#[test]
fn the_same_path_twice_is_an_error_that_names_both() {
    let error = load(&format!("{PATH}\nproxy_cache_path c keys_zone=y:1m;")).err().unwrap().to_string();
    assert!(error.contains("the same path name \"") && error.contains("/c\" used in "), "{error}");
    assert!(error.contains("test.conf:3 and in ") && error.contains("test.conf:4"), "{error}");
}

#[test]
fn what_a_level_says_is_what_its_policy_is() {
    let policy = policy_of(
        "proxy_cache_valid 200 302 10m; proxy_cache_valid any 1m; proxy_cache_min_uses 2;
         proxy_cache_use_stale error updating http_500 http_404; proxy_cache_revalidate on;
         proxy_cache_background_update on; proxy_cache_lock_timeout 1s; proxy_cache_lock_age 2s;
         proxy_ignore_headers Set-Cookie Cache-Control;",
    );
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    assert_eq!(
        [policy.valid(200), policy.valid(302), policy.valid(404)],
        [minutes(10), minutes(10), minutes(1)]
    );
    assert!(policy.stale.error && policy.stale.updating && !policy.stale.timeout);
    assert_eq!(policy.stale.statuses, [500, 404]);
    assert!(policy.revalidate && policy.background_update);
    assert_eq!(policy.min_uses, 2);
    assert_eq!((policy.lock_timeout, policy.lock_age), (Duration::from_secs(1), Duration::from_secs(2)));
    assert!(policy.ignore.set_cookie && policy.ignore.cache_control && !policy.ignore.expires);
}

#[test]
fn without_codes_a_validity_is_for_200_301_and_302() {
    let policy = policy_of("proxy_cache_valid 5s;");
    for (status, wanted) in [(200, Some(5)), (301, Some(5)), (302, Some(5)), (404, None)] {
        assert_eq!(policy.valid(status), wanted.map(Duration::from_secs), "{status}");
    }
}

#[test]
fn off_among_the_reasons_to_serve_stale_is_off() {
    assert_eq!(policy_of("proxy_cache_use_stale error off;").stale, UseStale::default());
}

#[test]
fn levels_inherit_and_switch_off() {
    let config = load(&format!(
        "{PATH} proxy_cache z; proxy_cache_key $uri; proxy_cache_valid 1m;
         server {{ listen 127.0.0.1:1; location /off {{ proxy_cache off; }} location /other {{ proxy_cache_valid 404 1s; }} }}"
    ))
    .unwrap();
    let http = config.http.unwrap();
    let policies: Vec<Option<Policy>> =
        http.levels.iter().map(|l| l.conf.proxy_cache.active.as_ref().map(|a| (*a.policy).clone())).collect();
    let [_, server, off, other] = &policies[..] else { panic!("{} levels", policies.len()) };
    assert!(server.as_ref().unwrap().valid(200).is_some());
    assert!(off.is_none());
    let other = other.as_ref().unwrap();
    assert!(other.valid(200).is_none() && other.valid(404).is_some(), "a list replaces the outer one");
}

#[test]
fn values_named_twice_are_worth_a_warning() {
    let config = with("proxy_cache_use_stale error error; proxy_ignore_headers Vary vary;").unwrap();
    let warnings: Vec<&str> =
        config.notes.iter().filter(|n| n.level == NoteLevel::Warn).map(|n| &*n.message).collect();
    assert_eq!(warnings, ["duplicate value \"error\"", "duplicate value \"vary\""]);
}

#[test]
fn the_operator_is_told_how_much_memory_a_zone_has() {
    let config = load("memory_cache size=4m;\nproxy_cache_path c keys_zone=z:1m max_size=10m;").unwrap();
    let note = config.notes.iter().find(|n| n.message.contains("cache zone \"z\"")).unwrap();
    assert!(note.message.contains("at most 4194304 bytes are held in memory too"), "{}", note.message);
    assert_eq!(note.at.line, 4);
}

#[test]
fn every_stock_directive_of_the_cache_is_declared() {
    for name in crate::conf::table::stock().keys().filter(|n| n.starts_with("proxy_cache")) {
        let command = crate::conf::table::commands().get(name);
        assert!(command.is_some_and(|c| matches!(c.support, Support::Works(_))), "{name}");
    }
}

#[test]
fn a_range_is_far_as_nginx_reads_it() {
    for (range, far) in [
        ("bytes=0-", false),
        ("bytes=99-200", false),
        ("bytes=100-", true),
        ("BYTES= 100-", true),
        ("bytes=-5", true),
        ("bytes=5", false),
        ("bytes=x", false),
        ("bytes=99999999999999999999-", false),
        ("items=100-", false),
        ("x", false),
    ] {
        assert_eq!(begins_beyond(range.as_bytes(), 100), far, "{range}");
    }
    assert!(begins_beyond(b"bytes=0-", 0));
}

/// The runtime of `http { }` with this text, whose prefix is `dir`.
fn runtime(dir: &std::path::Path, text: &str, shared: &AllShared) -> ConfResult<Runtime> {
    let config = load_text(dir, &format!("events {{ }}\nhttp {{\n{text}\n}}\n"))?;
    Runtime::build(config.http.as_ref().unwrap(), &shared.proxy_cache)
}

fn keep(zone: &Zone, path: &'static str) {
    use crate::cache::entry::Entry;
    let key = Key::new(path.into());
    let failure = Failure {
        status: 502,
        kind: crate::upstream::FailureKind::Error,
        message: String::new(),
        attempts: Vec::new(),
    };
    let now = tokio::time::Instant::now();
    let entry = Entry::failure(key.text.clone(), &failure, now, Duration::from_secs(60));
    zone.keep(&key, Arc::new(entry));
}

fn has(zone: &Zone, path: &'static str) -> bool {
    zone.store.get(&Key::new(path.into())).is_some()
}

#[test]
fn a_zone_survives_a_reload_and_goes_with_its_last_generation() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = |text: &str, shared: &AllShared| runtime(dir.path(), text, shared).unwrap();
    let text = "memory_cache size=8m; proxy_cache_path c keys_zone=z:1m;";
    let shared = AllShared::default();
    let first = runtime(text, &shared);
    keep(&first.zones()[0], "/a");
    let second = runtime(text, &shared);
    assert!(Arc::ptr_eq(&first.zones()[0], &second.zones()[0]));
    drop(first);
    // Another size: the entries are the same ones, and the size holds once it is in force.
    let third = runtime("memory_cache size=4m; proxy_cache_path c keys_zone=z:1m;", &shared);
    assert_eq!(third.zones()[0].spec.bound, 4 << 20);
    assert!(has(&third.zones()[0], "/a") && has(&second.zones()[0], "/a"));
    keep(&second.zones()[0], "/from-the-old-generation");
    assert!(has(&third.zones()[0], "/from-the-old-generation"));
    third.zones()[0].tend();
    assert!(has(&third.zones()[0], "/a"));
    // A reload that fails in another module leaves nothing behind.
    drop(third);
    let fourth = runtime(text, &shared);
    assert!(Arc::ptr_eq(&second.zones()[0], &fourth.zones()[0]));
    // Another path is another zone, and so is a zone that nobody used for a while.
    assert!(!has(&runtime("proxy_cache_path d keys_zone=z:1m;", &shared).zones()[0], "/a"));
    drop((second, fourth));
    assert!(!has(&runtime(text, &shared).zones()[0], "/a"));
}

#[test]
fn a_zone_that_stays_does_not_move() {
    let dir = tempfile::tempdir().unwrap();
    let shared = AllShared::default();
    let try_with = |text: &str| runtime(dir.path(), text, &shared);
    let first = try_with("proxy_cache_path c keys_zone=z:1m levels=1:2;").unwrap();
    first.start(&shared.proxy_cache, None);
    let refused = |text: &str| try_with(text).err().map(|e| e.message).unwrap_or_default();
    let path = dir.path().display();
    assert_eq!(
        refused("proxy_cache_path d keys_zone=z:1m levels=1:2;"),
        format!(
            "cache \"z\" uses the \"{path}/d\" cache path while previously it used the \"{path}/c\" cache path"
        )
    );
    assert_eq!(
        refused("proxy_cache_path c keys_zone=z:1m levels=2:2;"),
        "cache \"z\" had previously different levels"
    );
    // nginx makes a new zone of one whose keys take another size.
    assert!(try_with("proxy_cache_path d keys_zone=z:2m levels=2:2;").is_ok());
    let changed =
        "proxy_cache_path c/ keys_zone=z:1m levels=1:2 max_size=1m inactive=1m min_free=2m manager_files=7;";
    let second = try_with(changed).unwrap();
    let disk = |runtime: &Runtime| runtime.zones()[0].disk.clone().unwrap();
    assert!(Arc::ptr_eq(&disk(&first), &disk(&second)));
    assert_eq!(disk(&second).settings().max_size, None, "it is not in force yet");
    second.start(&shared.proxy_cache, None);
    let settings = disk(&first).settings();
    let minute = Duration::from_secs(60);
    assert_eq!((settings.max_size, settings.inactive, settings.min_free), (Some(1 << 20), minute, 2 << 20));
    assert_eq!((settings.manager.files, settings.keys), (7, 8192));
    assert_eq!(settings.purger, Pace::SWIFT, "without a purger nobody who purges waits for pauses");
}

#[test]
fn purges_have_a_pace_of_their_own_with_a_purger() {
    let dir = tempfile::tempdir().unwrap();
    let purger = |text: &str| {
        let text = format!("proxy_cache_path c keys_zone=z:1m manager_files=7 {text};");
        let runtime = runtime(dir.path(), &text, &AllShared::default()).unwrap();
        let pace = runtime.zones()[0].disk.as_ref().unwrap().settings().purger;
        (pace != Pace::SWIFT).then_some((pace.files, pace.sleep.as_millis(), pace.threshold.as_millis()))
    };
    assert_eq!(purger("purger_files=3"), None, "off by default");
    assert_eq!(purger("purger=off purger_files=3"), None);
    assert_eq!(purger("purger=on"), Some((10, 50, 50)));
    assert_eq!(purger("purger_files=3 purger_sleep=1s purger=on purger_threshold=0"), Some((3, 1000, 0)));
}

#[test]
fn directories_are_made_when_the_configuration_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let shared = AllShared::default();
    runtime(dir.path(), "proxy_cache_path c keys_zone=z:1m;", &shared).unwrap();
    let mode = std::fs::metadata(dir.path().join("c")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let error = runtime(dir.path(), "proxy_cache_path no/such/c keys_zone=z:1m;", &shared).err().unwrap();
    let path = dir.path().display();
    assert_eq!(error.message, format!("mkdir() \"{path}/no/such/c\" failed (2: No such file or directory)"));
}

#[test]
fn temporary_files_are_where_the_first_location_says() {
    let dir = tempfile::tempdir().unwrap();
    let shared = AllShared::default();
    let temp = |parameters: &str| {
        let text = format!(
            "proxy_cache_path c keys_zone=z:1m {parameters}; server {{ listen 127.0.0.1:1;
             location /a {{ proxy_temp_path other; }} location /b {{ proxy_cache z; proxy_temp_path temp; }} }}"
        );
        runtime(dir.path(), &text, &shared).unwrap().settings[0].temp.clone()
    };
    assert_eq!(temp(""), Some(dir.path().join("temp")));
    assert_eq!(temp("use_temp_path=on"), Some(dir.path().join("temp")));
    assert_eq!(temp("use_temp_path=off"), None);
}

#[test]
fn the_largest_body_in_memory_is_an_eighth_of_a_zone_or_as_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let largest = |text: &str| {
        let shared = AllShared::default();
        runtime(dir.path(), text, &shared).unwrap().zones()[0].largest()
    };
    let zone = "proxy_cache_path c keys_zone=z:1m;";
    assert_eq!(largest(&format!("memory_cache size=8m; {zone}")), 1 << 20);
    assert_eq!(largest(&format!("memory_cache size=8m max_object=3m; {zone}")), 3 << 20);
    assert_eq!(largest(&format!("memory_cache max_object=10k; {zone}")), 10 << 10);
    // Zones share: the half of a zone is less than the half of all.
    let two = "proxy_cache_path d keys_zone=y:1m;";
    assert_eq!(largest(&format!("memory_cache size=8m max_object=3m; {zone} {two}")), 2 << 20);
}

#[test]
fn what_memory_may_hold_has_room_in_what_waits_to_be_written() {
    let dir = tempfile::tempdir().unwrap();
    for memory in ["size=64k", "size=8m", "size=64m max_object=32m", "size=1g"] {
        let text = format!("memory_cache {memory}; proxy_cache_path c keys_zone=z:1m;");
        let runtime = runtime(dir.path(), &text, &AllShared::default()).unwrap();
        let (pending, largest) = (runtime.settings[0].pending, runtime.zones()[0].largest());
        assert!(pending >= largest + (64 << 10), "{memory}: {pending}, {largest}");
    }
}

#[test]
fn a_time_longer_than_anything_lasts_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let text = "proxy_cache_path c keys_zone=z:1m inactive=60000w;";
    let runtime = runtime(dir.path(), text, &AllShared::default()).unwrap();
    assert!(runtime.zones()[0].spec.inactive > Duration::from_secs(90 * 365 * 86_400));
}

#[test]
fn zones_divide_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let shared = AllShared::default();
    let text = "memory_cache size=10m; proxy_cache_path a keys_zone=a:1m max_size=2m; proxy_cache_path b keys_zone=b:1m;";
    let runtime = runtime(dir.path(), text, &shared).unwrap();
    let bounds: Vec<u64> = runtime.zones().iter().map(|z| z.spec.bound >> 20).collect();
    assert_eq!(bounds, [2, 8]);
}
