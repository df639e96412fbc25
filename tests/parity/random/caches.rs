//! Random caches: what is kept of random answers, and what it is served to. No time passes, but an answer may say
//! that it was over long ago, so that it is kept and stale from the first.
//!
//! Beside what the module says, not generated, since we differ on purpose: answers without a length, several fields
//! that say how long an answer lives (since 1.23.3 their order does not matter), `Vary: Accept-Encoding` and a star
//! in a list, 206 and 304 of an upstream's own, failures of connections under `proxy_no_cache`, HEAD and GET under
//! one key where HEAD goes upstream as such, `If-Match` (after a 412 in place of an upstream's answer, nginx closes
//! the connection and does not say so), ranges that cannot be had and pages in place of answers that are not kept
//! (`cache_begun_and_refused.case`), bypassing what varies (nginx puts the variant it gets in the place of any), and what others do at the same time (locks, updates in the background).

use super::dice::Dice;
use super::tree::Node;
use crate::case::{Options, Reply, Request};

const LOCATIONS: usize = 3;

/// What is there below each location.
const NAMES: &[&str] = &["a", "b", "c", "d"];

/// The `http` block; where answers vary, nothing is bypassed.
pub fn http(dice: &mut Dice, varies: bool) -> Vec<Node> {
    let mut server = vec![
        Node::line(&["listen", "{{listen}}"]),
        Node::line(&["add_header", "X-Cache", "$upstream_cache_status", "always"]),
        Node::block(&["location", "/page"], vec![Node::line(&["return", "200", "page"])]),
    ];
    let mut inherited = if varies { vec!["proxy_cache_bypass"] } else { vec![] };
    settings(dice, &mut server, 30, &mut inherited);
    for n in 0..LOCATIONS {
        let mut body = vec![Node::line(&["proxy_pass", "http://{{upstream}}"])];
        let mut taken = inherited.clone();
        if dice.chance(85) {
            body.push(Node::line(&["proxy_cache", dice.pick(&["z", "z", "y", "\"$arg_zone\""])]));
            body.push(valid(dice));
        }
        settings(dice, &mut body, 65, &mut taken);
        server.push(Node::block(&["location", &format!("/{n}/")], body));
    }
    vec![
        Node::line(&["log_format", "r", "\"$http_x_n $status $upstream_cache_status $upstream_status\""]),
        Node::line(&["access_log", "{{log}}", "r"]),
        Node::line(&["proxy_cache_path", "{{dir}}/z", "keys_zone=z:1m", "levels=1:2"]),
        Node::line(&["proxy_cache_path", "{{dir}}/y", "keys_zone=y:1m"]),
        Node::block(&["server"], server),
    ]
}

fn valid(dice: &mut Dice) -> Node {
    let words =
        dice.pick(&["10m", "any 10m", "200 404 10m", "200 301 302 404 500 10m", "200 0", "404 1h", "any 0"]);
    Node::line(&["proxy_cache_valid", words])
}

fn settings(dice: &mut Dice, nodes: &mut Vec<Node>, percent: usize, taken: &mut Vec<&'static str>) {
    const WHEN: [&str; 6] =
        ["$arg_a", "$http_x_a", "$cookie_c", "$arg_a $http_x_a", "0", "$upstream_http_x_up"];
    while dice.chance(percent) {
        let (name, value) = match dice.below(14) {
            0 => (
                "proxy_cache_key",
                dice.pick(&["$uri", "$uri$is_args$args", "\"$uri $http_x_a\"", "$host$uri"]),
            ),
            1 => ("proxy_cache_bypass", dice.pick(&WHEN[..5])),
            2 => ("proxy_no_cache", dice.pick(&WHEN)),
            3 => ("proxy_cache_min_uses", dice.pick(&["1", "2", "3"])),
            4 => ("proxy_cache_methods", dice.pick(&["GET", "POST", "HEAD POST"])),
            5 => (
                "proxy_cache_use_stale",
                dice.pick(&["http_500", "http_503 http_404", "error updating", "off"]),
            ),
            6 => ("proxy_cache_revalidate", "on"),
            7 => (
                "proxy_ignore_headers",
                dice.pick(&[
                    "Cache-Control",
                    "Expires",
                    "Set-Cookie",
                    "Vary",
                    "X-Accel-Expires",
                    "Set-Cookie Vary",
                ]),
            ),
            8 => ("proxy_cache_max_range_offset", dice.pick(&["0", "2", "1k"])),
            9 => ("proxy_hide_header", dice.pick(&["X-Up", "ETag", "Cache-Control", "Accept-Ranges"])),
            10 => ("proxy_force_ranges", "on"),
            11 => ("proxy_intercept_errors", "on"),
            12 => ("error_page", dice.pick(&["404 /page", "404 503 =200 /page", "500 =404 /page"])),
            _ => ("proxy_buffering", dice.pick(&["on", "off"])),
        };
        // Of the two one at most.
        let bars = |name: &str| match name {
            "proxy_intercept_errors" => Some(["proxy_no_cache", "proxy_buffering"]),
            "proxy_no_cache" | "proxy_buffering" => Some(["proxy_intercept_errors"; 2]),
            _ => None,
        };
        let barred = bars(name).is_some_and(|others| others.iter().any(|other| taken.contains(other)));
        if !taken.contains(&name) && !barred {
            taken.push(name);
            nodes.push(Node::line(&[name, value]));
        }
    }
}

/// What the upstream answers: for each name one to three answers, the last again and again.
pub fn replies(dice: &mut Dice, varies: bool) -> Vec<Reply> {
    let mut replies = vec![];
    for place in 0..LOCATIONS {
        for name in NAMES {
            for version in 0..1 + dice.below(3) {
                let path = format!("/{place}/{name}");
                let text = reply(dice, &format!("{path} {version}"), varies);
                replies.push(Reply { upstream: 0, path, words: vec![], text });
            }
        }
    }
    replies
}

fn reply(dice: &mut Dice, body: &str, varies: bool) -> String {
    let status = ["200 OK", "404 Not Found", "301 Moved Permanently", "500 Error", "503 Down", "403 No"]
        [dice.weighted(&[60, 12, 6, 8, 8, 6])];
    let mut text = format!("HTTP/1.1 {status}\n");
    let mut field = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    // One at most says how long it lives.
    match dice.below(12) {
        0 => field("Cache-Control: max-age=600"),
        1 => field("cache-control: public, s-maxage=600, max-age=0"),
        2 => field("Cache-Control: no-store"),
        3 => field("Cache-Control: private, max-age=600"),
        4 => field("Expires: Thu, 01 Jan 2099 00:00:00 GMT"),
        5 => field("Expires: Tue, 02 Jan 2024 03:04:05 GMT"),
        6 => field("X-Accel-Expires: 600"),
        7 => field("X-Accel-Expires: 0"),
        8..=9 => field("X-Accel-Expires: @1000"),
        _ => {}
    }
    let optional = [
        (25, "ETag: \"one\""),
        (15, "etag: W/\"two\""),
        (25, "Last-Modified: Tue, 02 Jan 2024 03:04:05 GMT"),
        (30, "Accept-Ranges: bytes"),
        (10, "Set-Cookie: c=1; path=/"),
        (if varies { 25 } else { 0 }, "Vary: X-A"),
        (4, "Vary: *"),
        (20, "X-Up: 1"),
        (20, "Content-Type: text/plain"),
        (10, "x-lower: 1"),
    ];
    for (percent, line) in optional {
        if dice.chance(percent) && !(line.starts_with("etag") && text_has(&text, "ETag")) {
            text.push_str(line);
            text.push('\n');
        }
    }
    format!("{text}\n{body}\n")
}

fn text_has(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.starts_with(name))
}

/// The `n`th request.
pub fn request(dice: &mut Dice, n: usize) -> Request {
    let method = ["GET", "HEAD", "POST"][dice.weighted(&[80, 12, 8])];
    let mut target = format!("/{}/{}", dice.below(LOCATIONS), dice.pick(NAMES));
    if dice.chance(25) {
        target.push_str(dice.pick(&["?a=1", "?a=0", "?b=1", "?zone=z", "?zone=y", "?zone=off", "?"]));
    }
    let mut options = Options { conn: Some("k".into()), reopen: true, repeat: 1, ..Options::default() };
    let mut headers = vec![("X-N".to_owned(), n.to_string())];
    let optional = [
        (10, "X-A", ["1", "0", "two"]),
        (8, "Cookie", ["c=1", "c=0", "d=1"]),
        (10, "If-None-Match", ["\"one\"", "\"two\"", "*"]),
        (8, "If-Modified-Since", ["Tue, 02 Jan 2024 03:04:05 GMT", "Mon, 01 Jan 2024 00:00:00 GMT", "never"]),
        (12, "Range", ["bytes=0-2", "bytes=-2", "bytes=3-"]),
        (4, "Range", ["bytes=0-1,3-4", "bytes=0-100", "byte=0-1"]),
        (5, "If-Range", ["\"one\"", "\"other\"", "Tue, 02 Jan 2024 03:04:05 GMT"]),
    ];
    for (percent, name, values) in optional {
        if dice.chance(percent) && !headers.iter().any(|(known, _)| known == name) {
            headers.push((name.into(), dice.pick(&values).to_owned()));
        }
    }
    if method == "POST" {
        options.body = Some(b"x".to_vec());
    }
    Request { method: method.into(), target, headers, options, expect: vec![] }
}
