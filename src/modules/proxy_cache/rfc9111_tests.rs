use super::*;
use crate::conf::build::{Config, load_text};
use crate::observe::testing::Running;

fn load(directives: &str) -> ConfResult<Config> {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "events {{ }}\nhttp {{ proxy_cache_path c keys_zone=z:1m; proxy_cache z; server {{ listen 127.0.0.1:1;\n{directives}\n}} }}\n"
    );
    load_text(dir.path(), &text)
}

fn policy(directives: &str) -> Policy {
    let config = load(directives).unwrap();
    let http = config.http.as_ref().unwrap();
    let conf = &http.levels[http.servers[0].level].conf.proxy_cache;
    (*conf.active.as_ref().unwrap().policy).clone()
}

#[test]
fn mistakes_are_named() {
    for (text, wanted) in [
        ("proxy_cache_rfc9111 yes;", "invalid value \"yes\""),
        ("proxy_cache_rfc9111 on; proxy_cache_rfc9111 on;", "\"proxy_cache_rfc9111\" directive is duplicate"),
        ("proxy_cache_heuristic 10;", "invalid parameter \"10\""),
        ("proxy_cache_heuristic 0%;", "invalid parameter \"0%\""),
        ("proxy_cache_heuristic 101%;", "invalid parameter \"101%\""),
        ("proxy_cache_heuristic 10% max=x;", "invalid parameter \"max=x\""),
        ("proxy_cache_heuristic 10% least=1h;", "invalid parameter \"least=1h\""),
        ("proxy_cache_heuristic 10% max=1h max=1h;", "invalid parameter \"10% max=1h max=1h\""),
        ("proxy_cache_targeted 'a b';", "invalid field name \"a b\""),
        ("proxy_cache_targeted Cache-Control;", "\"cache-control\" is no targeted field"),
        ("proxy_cache_targeted off x;", "\"off\" stands alone in \"proxy_cache_targeted\""),
    ] {
        let error = load(text).err().unwrap_or_else(|| panic!("{text} loads"));
        assert_eq!(error.message, wanted, "{text}");
        assert_eq!(error.at.map(|at| at.line), Some(3), "{text}");
    }
}

#[test]
fn without_the_first_the_others_do_nothing() {
    let policy = policy("proxy_cache_heuristic 10%; proxy_cache_targeted CDN-Cache-Control;");
    assert_eq!((policy.rfc9111, policy.heuristic, policy.revalidate), (Rfc9111::Off, None, false));
    assert!(policy.targeted.is_empty());
}

#[test]
fn a_level_has_what_it_says() {
    let policy = policy(
        "proxy_cache_rfc9111 responses; proxy_cache_heuristic 10% max=2h;
         proxy_cache_targeted Edge-Cache-Control CDN-Cache-Control;",
    );
    assert_eq!(policy.rfc9111, Rfc9111::Responses);
    assert_eq!(policy.heuristic, Some(Heuristic { percent: 10, max: Duration::from_secs(7200) }));
    assert_eq!(policy.targeted, [Box::from("edge-cache-control"), Box::from("cdn-cache-control")]);
    assert!(policy.revalidate);
}

#[test]
fn validation_can_be_switched_off_and_a_day_is_the_most() {
    let policy = policy("proxy_cache_rfc9111 on; proxy_cache_revalidate off; proxy_cache_heuristic 50%;");
    assert!(!policy.revalidate);
    assert_eq!(policy.heuristic, Some(Heuristic { percent: 50, max: MOST }));
}

/// A cache before a server that answers each request with another `X-Id`.
fn site(directives: &str) -> Running {
    Running::start(&format!(
        "proxy_cache_path c keys_zone=z:1m;
         server {{
             listen LISTEN;
             location /origin/ {{ access_log off; add_header X-Id $request_id always; return 200 text; }}
             location /origin/made {{
                 add_header Location /site/b;
                 add_header Content-Location http://test/site/c;
                 return 201;
             }}
             location /origin/moved {{ add_header Location http://elsewhere.test/site/b; return 201; }}
             location /origin/fails {{
                 if ($request_method = POST) {{ return 500; }}
                 add_header X-Id $request_id;
                 return 200 text;
             }}
             location /origin/vary {{ add_header X-Id $request_id; add_header Vary X-Kind; return 200 text; }}
             proxy_cache z;
             proxy_cache_valid any 1h;
             add_header X-Cache $upstream_cache_status always;
             {directives}
             location /site/ {{ proxy_pass http://LISTEN/origin/; }}
             location /keyed/ {{ proxy_cache_key $request_method$host$request_uri; proxy_pass http://LISTEN/origin/; }}
             location /other/ {{ proxy_cache_rfc9111 off; proxy_pass http://LISTEN/origin/; }}
         }}"
    ))
}

/// How the cache answered, and which answer it was.
fn seen(answer: &str) -> (String, String) {
    let field = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_string()
    };
    (field("X-Cache:"), field("X-Id:"))
}

fn send(running: &Running, method: &str, path: &str, fields: &str) -> String {
    running.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n{fields}\r\n"
    ))
}

/// Which of these paths are no longer kept after a request.
fn invalidated(running: &Running, method: &str, path: &str, watched: &[&'static str]) -> Vec<&'static str> {
    for path in watched {
        running.get(path, "");
        assert_eq!(seen(&running.get(path, "")).0, "HIT", "{path}");
    }
    send(running, method, path, "");
    watched.iter().copied().filter(|path| seen(&running.get(path, "")).0 == "MISS").collect()
}

#[test]
fn rfc9111_4_4_what_an_unsafe_request_changed_is_no_longer_served() {
    let running = site("proxy_cache_rfc9111 responses;");
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let gone = invalidated(&running, method, "/site/a", &["/site/a", "/site/b"]);
        assert_eq!(gone, ["/site/a"], "{method}");
    }
    for method in ["GET", "HEAD", "OPTIONS"] {
        let gone = invalidated(&running, method, "/site/a", &["/site/a"]);
        assert!(gone.is_empty(), "{method}: {gone:?}");
    }
    let gone = invalidated(&running, "POST", "/site/a?x=1", &["/site/a", "/site/a?x=1"]);
    assert_eq!(gone, ["/site/a?x=1"]);
}

#[test]
fn rfc9111_4_4_a_key_with_the_method_in_it_is_the_one_of_get() {
    let running = site("proxy_cache_rfc9111 on;");
    assert_eq!(invalidated(&running, "PUT", "/keyed/a", &["/keyed/a"]), ["/keyed/a"]);
}

#[test]
fn rfc9111_4_4_an_error_invalidates_nothing() {
    let running = site("proxy_cache_rfc9111 on;");
    assert!(invalidated(&running, "POST", "/site/fails", &["/site/fails"]).is_empty());
}

#[test]
fn rfc9111_4_4_location_and_content_location_are_invalidated_too_where_the_origin_is_the_same() {
    let running = site("proxy_cache_rfc9111 on;");
    let watched = ["/site/a", "/site/b", "/site/c"];
    assert_eq!(invalidated(&running, "POST", "/site/made", &watched), ["/site/b", "/site/c"]);
    assert!(invalidated(&running, "POST", "/site/moved", &watched).is_empty());
}

#[test]
fn rfc9111_4_4_without_the_directive_nothing_is_invalidated() {
    let running = site("proxy_cache_rfc9111 on;");
    assert!(invalidated(&running, "POST", "/other/a", &["/other/a"]).is_empty());
    assert!(invalidated(&site(""), "POST", "/site/a", &["/site/a"]).is_empty());
}

#[test]
fn rfc9111_4_4_every_variant_is_invalidated() {
    let running = site("proxy_cache_rfc9111 on;");
    let kinds = ["X-Kind: 1\r\n", "X-Kind: 2\r\n"];
    let ids = kinds.map(|kind| seen(&running.get("/site/vary", kind)).1);
    send(&running, "POST", "/site/vary", "");
    for (kind, old) in kinds.iter().zip(ids) {
        let (word, id) = seen(&running.get("/site/vary", kind));
        assert!(word == "MISS" && id != old, "{kind} {word}");
    }
}

#[test]
fn a_client_may_ask_for_a_new_one_only_with_on() {
    for (directive, wanted) in [("on", "EXPIRED"), ("responses", "HIT"), ("off", "HIT")] {
        let running = site(&format!("proxy_cache_rfc9111 {directive};"));
        let (_, first) = seen(&running.get("/site/a", ""));
        let (word, second) = seen(&running.get("/site/a", "Cache-Control: no-cache\r\n"));
        assert_eq!((&*word, first == second), (wanted, wanted == "HIT"), "{directive}");
        let only = running.get("/site/b", "Cache-Control: only-if-cached\r\n");
        let refused = only.starts_with("HTTP/1.1 504 ");
        assert_eq!(refused, directive == "on", "{only}");
    }
}

#[test]
fn the_head_of_a_hit_has_the_upstreams_date_and_an_age_with_the_directive() {
    let running = site("proxy_cache_rfc9111 responses;");
    let (first, second) = (running.get("/site/a", ""), running.get("/site/a", ""));
    assert!(!first.contains("\r\nAge: ") && second.contains("\r\nAge: "), "{first}{second}");
    let date = |answer: &str| answer.lines().find(|line| line.starts_with("Date: ")).unwrap().to_string();
    assert_eq!(date(&first), date(&second));
    assert_eq!(second.matches("\r\nDate: ").count(), 1, "{second}");
    let plain = site("");
    plain.get("/site/a", "");
    assert!(!plain.get("/site/a", "").contains("\r\nAge: "));
}

#[test]
fn rfc9110_9_3_2_a_stored_get_answers_a_head() {
    for convert in ["on", "off"] {
        let running = site(&format!("proxy_cache_rfc9111 on; proxy_cache_convert_head {convert};"));
        let (_, id) = seen(&running.get("/site/a", ""));
        let head = send(&running, "HEAD", "/site/a", "");
        assert_eq!(seen(&head), ("HIT".to_string(), id), "{convert}");
        assert!(head.contains("\r\nContent-Length: 4\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }
}

#[test]
fn rfc9111_4_3_5_a_head_makes_the_stored_get_as_new_as_itself() {
    let running = site("proxy_cache_rfc9111 on; proxy_cache_convert_head off;");
    let (_, first) = seen(&running.get("/site/a", ""));
    let (_, second) = seen(&send(&running, "HEAD", "/site/a", "Cache-Control: no-cache\r\n"));
    assert_ne!(first, second);
    let got = running.get("/site/a", "");
    assert_eq!(seen(&got), ("HIT".to_string(), second), "the fields of the HEAD");
    assert!(got.ends_with("text"), "and the body of the GET: {got}");
}
