use super::*;
use crate::observe::testing::Running;
use std::collections::{BTreeMap, BTreeSet};

const HTTP: &str = "access_log off;
    upstream app { server 127.0.0.1:1; }
    server { listen LISTEN; server_name test;
        location / { return 200 hello; }
        location /missing { return 404; }
        location /metrics { prometheus; }
    }
    server { listen LISTEN; server_name quiet; }";

/// Type and label names of each family of a scrape.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let label = regex::Regex::new(r#"([a-z_]+)="(?:[^"\\]|\\.)*""#).unwrap();
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap();
            name = family.to_string();
            found.insert(name.clone(), (kind.to_string(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&name), "{line:?} is no sample of {name}");
            let labels = label.captures_iter(line).map(|c| c[1].to_string()).filter(|l| l != "le");
            found.get_mut(&name).unwrap().1.extend(labels);
        }
    }
    found
}

/// The same from the tables of the documentation.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = include_str!("../../../docs/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, rest) = row.split_once("` |").unwrap();
        let mut columns = rest.split('|').map(str::trim);
        let kind = columns.next().unwrap().to_string();
        let labels = columns.next().unwrap().split(',').map(|l| l.trim().trim_matches('`').to_string());
        (name.to_string(), (kind, labels.filter(|l| !l.is_empty()).collect()))
    })
    .collect()
}

/// The names of families that appear in the sources of the modules.
fn in_sources(dir: &std::path::Path, found: &mut BTreeSet<String>) {
    let name = regex::Regex::new(r#""((?:edgewater|process)_[a-z_]+)""#).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("prometheus/tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.extend(name.captures_iter(&text).map(|c| c[1].to_string()));
        }
    }
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let running = Running::start(HTTP);
    let documented = documented();
    for (name, found) in families(&scrape(&running.edge)) {
        assert_eq!(documented.get(&name), Some(&found), "docs/metrics.md on {name}");
    }
    // Metrics of what this configuration does not have stand in the sources.
    let mut sources = BTreeSet::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    in_sources(&root, &mut sources);
    // `edgewater_cache`: a module that reports nothing of its kind at all is one this build is without.
    let kind = |name: &String| name.splitn(3, '_').take(2).collect::<Vec<_>>().join("_");
    let kinds: BTreeSet<String> = sources.iter().map(kind).collect();
    let documented: BTreeSet<String> = documented.into_keys().filter(|n| kinds.contains(&kind(n))).collect();
    assert_eq!(documented.difference(&sources).collect::<Vec<_>>(), Vec::<&String>::new(), "documented only");
    assert_eq!(sources.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new(), "not documented");
}

#[test]
fn a_scrape_is_what_prometheus_takes() {
    let running = Running::start(HTTP);
    running.get("/", "");
    let answer = running.get("/metrics", "");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let names: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
    assert!(names.is_sorted() && names.len() > 10, "{names:?}");
    assert!(
        running.send("POST /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").contains(" 405 ")
    );
    let head_only = running.send("HEAD /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert!(head_only.starts_with("HTTP/1.1 200 ") && head_only.ends_with("\r\n\r\n"), "{head_only}");
}

#[test]
fn promtool_finds_nothing_to_say() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        eprintln!("skipped: promtool (package prometheus) is not installed");
        return;
    };
    let running = Running::start(HTTP);
    running.get("/", "");
    child.stdin.take().unwrap().write_all(scrape(&running.edge).as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.trim().is_empty(), "{text}");
}

/// The value of one sample.
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
}

#[test]
fn requests_are_counted_by_server_and_survive_a_reload() {
    let running = Running::start(HTTP);
    for target in ["/", "/", "/missing"] {
        running.get(target, "");
    }
    running.reload(HTTP);
    let answer = running.get("/", "");
    // The connection ends after the last request is counted.
    let text = loop {
        let text = scrape(&running.edge);
        if value(&text, "edgewater_connections_active") == 0.0 {
            break text;
        }
        std::thread::yield_now();
    };
    let count = |server, status| {
        value(&text, &format!("edgewater_http_requests_total{{server=\"{server}\",status=\"{status}\"}}"))
    };
    assert_eq!((count("test", "2xx"), count("test", "4xx"), count("test", "5xx")), (3.0, 1.0, 0.0));
    assert_eq!(count("quiet", "2xx"), 0.0);
    assert_eq!(value(&text, "edgewater_http_request_duration_seconds_count{server=\"test\"}"), 4.0);
    assert_eq!(
        value(&text, "edgewater_http_request_duration_seconds_bucket{server=\"test\",le=\"+Inf\"}"),
        4.0
    );
    assert_eq!(value(&text, "edgewater_connections_accepted_total"), 4.0);
    assert!(value(&text, "edgewater_http_sent_bytes_total{server=\"test\"}") > 3.0 * answer.len() as f64);
    assert_eq!(value(&text, "edgewater_config_generation"), 2.0);
    assert_eq!(value(&text, "edgewater_config_last_reload_successful"), 1.0);
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
}
