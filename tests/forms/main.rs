//! What real configurations say: each of their most used directives and each form of value is accepted, or
//! refused with the message that is meant. And what our own pages say: each configuration in them loads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what is wrong by panicking.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use edgewater::conf::build;

/// A line of a list.
struct Row<'a> {
    context: &'a str,
    /// What the message holds, where the text is refused.
    refused: Option<&'a str>,
    /// Whether it may be refused as not supported.
    lenient: bool,
    text: &'a str,
}

fn rows(list: &str) -> Vec<Row<'_>> {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (place, text) = line.split_once(" | ").expect("a context, a bar, a text");
            let (context, refused) = match place.split_once(" ! ") {
                Some((context, message)) => (context, Some(message)),
                None => (place, None),
            };
            let lenient = context.ends_with(" ?");
            Row { context: context.trim_end_matches(" ?"), refused, lenient, text }
        })
        .collect()
}

/// A whole configuration around a piece.
fn whole(context: &str, text: &str) -> String {
    let http = |inside: &str| format!("events {{ }} http {{ {inside} }}");
    let server = |inside: &str| http(&format!("server {{ {inside} }}"));
    match context {
        "whole" => text.into(),
        "main" => format!("events {{ }} {text}"),
        "events" => format!("events {{ {text} }}"),
        "http" => http(text),
        "upstream" => http(&format!("upstream u {{ {text} }}")),
        "upstream-first" => http(&format!("upstream u {{ {text} server 127.0.0.1:1; }}")),
        "upstream-last" => http(&format!("upstream u {{ server 127.0.0.1:1; {text} }}")),
        "server" => server(text),
        "tls" => server(&format!("ssl_certificate dev.pem; ssl_certificate_key dev.key; {text}")),
        "location" => server(&format!("location /x/ {{ {text} }}")),
        "named" => server(&format!("location @named {{ return 200; }} location / {{ {text} }}")),
        "cached" => http(&format!("proxy_cache_path cache keys_zone=one:1m; server {{ {text} }}")),
        "limited" => http(&format!(
            "limit_req_zone $host zone=zone:1m rate=1r/s; limit_conn_zone $host zone=conns:1m; server {{ {text} }}"
        )),
        other => unreachable!("no such context: {other}"),
    }
}

/// What is wrong with a row, if anything.
fn complaint(prefix: &Path, row: &Row<'_>) -> Option<String> {
    let loaded = build::load_text(prefix, &whole(row.context, row.text)).map_err(|error| error.to_string());
    match (row.refused, loaded) {
        (None, Ok(_)) => None,
        (None, Err(error)) if row.lenient && error.contains("not supported") => None,
        (None, Err(error)) => Some(format!("{}\n    {error}", row.text)),
        (Some(_), Ok(_)) => Some(format!("{}\n    loads", row.text)),
        (Some(message), Err(error)) if error.contains(message) => None,
        (Some(message), Err(error)) => Some(format!("{}\n    {error}\n    instead of {message}", row.text)),
    }
}

fn check(list: &str) {
    let dir = tempfile::tempdir().unwrap();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (from, to) in
        [("certs/dev.pem", "dev.pem"), ("certs/dev.key", "dev.key"), ("conf/mime.types", "mime.types")]
    {
        fs::copy(home.join(from), dir.path().join(to)).unwrap();
    }
    fs::write(dir.path().join("map.list"), "/a /b;\n").unwrap();
    fs::write(dir.path().join("htpasswd"), "user:{PLAIN}secret\n").unwrap();
    fs::write(dir.path().join("dhparam.pem"), DHPARAM).unwrap();
    let wrong: Vec<String> = rows(list).iter().filter_map(|row| complaint(dir.path(), row)).collect();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_much_used_directive_is_accepted() {
    check(include_str!("directives.txt"));
}

#[test]
fn every_much_used_form_of_a_value_is_accepted() {
    check(include_str!("values.txt"));
}

#[test]
fn the_list_has_every_much_used_directive() {
    let text = include_str!("directives.txt");
    let listed: HashSet<&str> =
        rows(text).iter().filter_map(|row| row.text.split([' ', ';']).next()).collect();
    let names: Vec<&str> = include_str!("most_used.txt").lines().collect();
    assert_eq!(names.len(), 181);
    let missing: Vec<_> = names.iter().filter(|name| !listed.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A page's blocks of configuration: the line each begins at, its context, its text. A block is marked by
/// "nginx" and, unless it is a whole configuration, by where it belongs ("nginx http").
fn blocks(page: &str) -> Vec<(usize, &str, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(context) = line.strip_prefix("```nginx") {
            let text: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|l| *l != "```").collect();
            let context = if context.is_empty() { "whole" } else { context.trim() };
            blocks.push((number + 1, context, text.join("\n")));
        }
    }
    blocks
}

#[test]
fn every_configuration_in_the_page_on_caching_loads_and_has_an_effect() {
    let blocks = blocks(include_str!("../../docs/caching.md"));
    assert!(blocks.iter().filter(|(_, context, _)| *context == "whole").count() >= 5, "the recipes are gone");
    let dir = tempfile::tempdir().unwrap();
    let certs = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
    for (from, to) in [("dev.pem", "cert.pem"), ("dev.key", "key.pem")] {
        fs::copy(certs.join(from), dir.path().join(to)).unwrap();
    }
    for (line, context, text) in blocks {
        // Directories are made when a configuration is read.
        let text = text.replace("/var/cache/nginx", &dir.path().display().to_string());
        let text = text.replace("/etc/nginx/certs/", "");
        let config = build::load_text(dir.path(), &whole(context, &text));
        let config = config.unwrap_or_else(|error| panic!("docs/caching.md:{line}: {error}"));
        // What would be accepted without effect, or with a warning, is not worth recommending. How large a
        // zone has become is worth knowing.
        let notes = config.notes.iter().map(|note| &note.message);
        let idle: Vec<_> = notes.filter(|note| !note.contains("cache zone \"")).collect();
        assert!(idle.is_empty(), "docs/caching.md:{line}: {idle:?}");
    }
}

const DHPARAM: &str = "-----BEGIN DH PARAMETERS-----\nMAYCAQsCAQI=\n-----END DH PARAMETERS-----\n";
