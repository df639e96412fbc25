use super::*;
use crate::conf::build::load_text;
use crate::observe::testing::Running;
use std::time::Duration;

/// The error of a configuration with these directives in `http`.
fn error(http: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    match load_text(dir.path(), &format!("events {{}} http {{ {http} server {{ access_log off; }} }}")) {
        Ok(_) => "none".to_string(),
        Err(e) => e.message,
    }
}

#[test]
fn mistakes_are_told_in_nginxs_words() {
    for (text, want) in [
        ("log_format combined '$uri';", "duplicate \"log_format\" name \"combined\""),
        ("log_format a '$uri'; log_format a '$uri';", "duplicate \"log_format\" name \"a\""),
        ("log_format a escape=xml '$uri';", "unknown log format escaping \"xml\""),
        ("log_format a 'x $ y';", "invalid parameter \"$ y\""),
        ("log_format a '${';", "invalid parameter \"${\""),
        ("log_format a '${uri';", "the closing bracket in \"uri\" variable is missing"),
        ("log_format a '$1';", "unknown \"1\" variable"),
        ("log_format a '$nosuch';", "unknown \"nosuch\" variable"),
        ("access_log a.log nope;", "unknown log format \"nope\""),
        ("access_log a.log late; log_format late '$uri';", "unknown log format \"late\""),
        ("log_format a '$uri'; access_log a.log A;", "none"),
        ("access_log off combined;", "invalid parameter \"combined\""),
        ("access_log a.log combined buffer=0;", "invalid buffer size \"0\""),
        ("access_log a.log combined buffer=1k flush=x;", "invalid flush time \"x\""),
        ("access_log a.log combined flush=1s;", "no buffer is defined for access_log \"a.log\""),
        ("access_log a.log combined buffer;", "invalid parameter \"buffer\""),
        (
            "access_log a.log combined buffer=1k; access_log a.log combined buffer=2k;",
            "access_log \"a.log\" already defined with conflicting parameters",
        ),
        ("access_log a.log combined buffer=1k; access_log a.log combined buffer=1k;", "none"),
        ("access_log $host.log combined buffer=1k;", "buffered logs cannot have variables in name"),
        ("access_log a.log combined if=$;", "invalid variable name"),
        ("access_log syslog:server=[::1];", "none"),
        ("access_log syslog:server=127.0.0.1 combined buffer=4k;", "logs to syslog cannot be buffered"),
        ("access_log syslog:server=127.0.0.1 combined gzip;", "logs to syslog cannot be buffered"),
        ("access_log a.log combined gzip=3;", "none"),
        ("access_log a.log combined gzip=0;", "invalid compression level \"0\""),
        ("access_log a.log combined flush=1s gzip;", "none"),
        ("access_log $host.log combined gzip;", "buffered logs cannot have variables in name"),
        (
            "access_log a.log combined gzip; access_log a.log combined buffer=64k;",
            "access_log \"a.log\" already defined with conflicting parameters",
        ),
        ("open_log_file_cache max=0;", "\"open_log_file_cache\" must have \"max\" parameter"),
        ("open_log_file_cache max=1 valid=x;", "invalid \"open_log_file_cache\" parameter \"valid=x\""),
        ("open_log_file_cache max=1 off;", "none"),
    ] {
        assert_eq!(error(text), want, "{text}");
    }
}

#[test]
fn the_default_is_nginxs_where_no_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = "events {} http { server { } server { access_log off; location /a { access_log x; } } }";
    let http = load_text(dir.path(), text).unwrap().http.unwrap();
    let paths = |level: usize| -> Vec<_> {
        let list = &http.levels[level].conf.log.logs.list;
        list.iter()
            .filter_map(|log| if let Target::File(f) = &log.target { Some(f.path()) } else { None })
            .collect()
    };
    assert_eq!(paths(http.servers[0].level), [Path::new(DEFAULT_PATH)]);
    assert!(http.levels[http.servers[1].level].conf.log.logs.off);
    let own = dir.path().join("x");
    assert_eq!(paths(http.levels.len() - 1), [own.as_path()]);
}

#[test]
fn lines_are_nginxs() {
    let running = Running::start(
        "log_format plain '$remote_addr|$remote_user|$request|$status|$body_bytes_sent|$http_user_agent|$args|' \
         '${http_x}|$request_length|$pipe|$connection_requests';
         log_format json escape=json '{\"ua\":\"$http_user_agent\",' '\"user\":\"$remote_user\"}';
         log_format raw escape=none '<$http_user_agent|$http_x>';
         log_format times '$time_local|$time_iso8601|$msec|$request_time';
         access_log plain.log plain; access_log json.log json; access_log raw.log raw; access_log times.log times;
         access_log combined.log;
         server { listen LISTEN; location / { return 200 hello; } }",
    );
    running.get("/a?b=\"", "User-Agent: q\"\\\t\u{e9}\r\nAuthorization: Basic dXM6cHc=\r\n");
    assert_eq!(
        running.lines("plain.log", 1),
        ["127.0.0.1|us|GET /a?b=\\x22 HTTP/1.1|200|5|q\\x22\\x5C\\x09\\xC3\\xA9|b=\\x22|-|105|.|1"]
    );
    assert_eq!(running.lines("json.log", 1), ["{\"ua\":\"q\\\"\\\\\\t\u{e9}\",\"user\":\"us\"}"]);
    assert_eq!(running.lines("raw.log", 1), ["<q\"\\\t\u{e9}|>"]);
    let times = running.lines("times.log", 1);
    let shape = regex::Regex::new(
        r"^\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d\|\d+\.\d{3}\|\d+\.\d{3}$",
    )
    .unwrap();
    assert!(shape.is_match(&times[0]), "{times:?}");
    let combined = running.lines("combined.log", 1);
    let rest = combined[0].split_once("] ").unwrap().1;
    assert!(combined[0].starts_with("127.0.0.1 - us ["), "{combined:?}");
    assert_eq!(rest, "\"GET /a?b=\\x22 HTTP/1.1\" 200 5 \"-\" \"q\\x22\\x5C\\x09\\xC3\\xA9\"");
}

#[test]
fn each_level_has_its_own_logs_or_the_outer_ones() {
    let running = Running::start(
        "log_format uri '$uri';
         access_log outer.log uri;
         server { listen LISTEN;
             location / { return 200; }
             location /own { access_log one.log uri; access_log two.log uri; return 200; }
             location /off { access_log off; return 200; }
             location /both { access_log one.log uri; access_log off; return 200; }
             location /some { access_log some.log uri if=$arg_log; return 200; }
             location /block { if ($arg_x) { access_log block.log uri; return 200; } return 200; }
             location /last { access_log last.log uri; return 200; }
         }",
    );
    for target in ["/a", "/own", "/off", "/both", "/some?log=0", "/some?log=", "/some", "/some?log=1"] {
        running.get(target, "");
    }
    for target in ["/block", "/block?x=1", "/last"] {
        running.get(target, "");
    }
    // One worker writes its files in one go; what was to come has come with the last.
    assert_eq!(running.lines("last.log", 1), ["/last"]);
    assert_eq!(running.lines("outer.log", 2), ["/a", "/block"]);
    assert_eq!(running.lines("one.log", 1), ["/own"]);
    assert_eq!(running.lines("two.log", 1), ["/own"]);
    assert_eq!(running.lines("some.log", 1), ["/some"]);
    assert_eq!(running.lines("block.log", 1), ["/block"]);
}

#[test]
fn a_name_may_have_variables() {
    let running = Running::start(
        "log_format uri '$uri?$args';
         server { listen LISTEN; access_log v-$arg_f.log uri;
             location / { root /; return 200; }
             location /nowhere { root /no/such/directory; return 200; }
         }",
    );
    running.get("/?f=no/such", "");
    running.get("/nowhere?f=one", "");
    running.get("/1?f=one", "");
    running.get("/2?f=two", "");
    running.get("/3?f=one", "");
    // A request whose root does not exist makes no file.
    assert_eq!(running.lines("v-one.log", 2), ["/1?f=one", "/3?f=one"]);
    assert_eq!(running.lines("v-two.log", 1), ["/2?f=two"]);
}

#[test]
fn a_buffer_of_one_level_is_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let text = "events {} http { server { access_log a.log combined buffer=4k flush=2s; location / { access_log a.log; } } }";
    let http = load_text(dir.path(), text).unwrap().http.unwrap();
    let waiting = Some(Waiting { size: 4096, time: Some(Duration::from_secs(2)), gzip: None });
    for level in &http.levels[1..] {
        assert_eq!(level.conf.log.logs.list[0].waiting, waiting);
    }
}

#[test]
fn a_reload_changes_the_logs_of_the_next_request() {
    let http = |file: &str| {
        format!(
            "log_format uri '$uri'; server {{ listen LISTEN; access_log {file} uri buffer=1m; return 200; }}"
        )
    };
    let running = Running::start(&http("old.log"));
    running.get("/1", "");
    running.reload(&http("new.log"));
    // The first request under the new configuration lets go of the old file, and so writes it.
    running.get("/2", "");
    assert_eq!(running.lines("old.log", 1), ["/1"]);
    running.reload(&http("newest.log"));
    running.get("/3", "");
    assert_eq!(running.lines("new.log", 1), ["/2"]);
}
