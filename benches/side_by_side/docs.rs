//! The figures as pages show them, made of the results file alone: between two marks in README.md and in
//! docs/performance.md. A test compares what stands there with what the results file gives.

use serde_json::Value;

/// What the marks are; what is between them is made.
const BEGIN: &str = "<!-- measured: made of benches/results/latest.json -->\n";
const END: &str = "<!-- measured: end -->\n";
/// Those beside ours and nginx, and how they are written.
const OTHERS: [(&str, &str); 3] = [("varnish", "Varnish"), ("haproxy", "HAProxy"), ("h2o", "h2o")];
const BOTH: [(&str, &str); 2] = [("edgewater", "Edgewater"), ("nginx", "nginx")];

/// `page` with `made` between its marks; an error if it has none.
pub fn fill(page: &str, made: &str) -> Result<String, String> {
    let found = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = found.ok_or("the page has no marks for what is measured")?;
    Ok(format!("{before}{BEGIN}{made}{END}{after}"))
}

/// For README.md: the table, and a sentence for each of the rest.
pub fn readme(results: &Value) -> String {
    let parts = [origin(results), cells(results, false), notes(results)];
    join(parts.into_iter().chain(sentences(results)))
}

/// For docs/performance.md: all of it.
pub fn page(results: &Value) -> String {
    let parts = [origin(results), cells(results, true), notes(results)];
    join(parts.into_iter().chain(sentences(results)).chain([curves(results)]))
}

/// Paragraphs, with an empty line before and after each.
fn join(parts: impl Iterator<Item = String>) -> String {
    parts.filter(|part| !part.is_empty()).fold("\n".into(), |text, part| text + part.trim_end() + "\n\n")
}

/// What was measured, when, and on what.
fn origin(results: &Value) -> String {
    let version = |name: &str| {
        let text = text(results, &format!("/versions/{name}"));
        let number = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
        number.filter(|word| word.contains('.')).map(str::to_owned).next().unwrap_or_default()
    };
    let others = OTHERS.iter().map(|(key, name)| (name, version(key))).filter(|(_, v)| !v.is_empty());
    let others: Vec<_> = others.map(|(name, version)| format!("{name} {version}")).collect();
    let commit = text(results, "/commit");
    let commit = if commit.is_empty() { commit } else { format!("commit {commit}, ") };
    format!(
        "{}, {commit}{} ({} cores), Linux {}; nginx {}, {}; {} rounds; µs of CPU time per request.",
        text(results, "/date"),
        text(results, "/machine/cpu"),
        number(results, "/machine/cores", 0),
        text(results, "/machine/kernel").split('-').next().unwrap_or_default(),
        version("nginx"),
        others.join(", "),
        number(results, "/rounds", 0),
    )
}

/// The table of the cells.
fn cells(results: &Value, with_targets: bool) -> String {
    let cells = list(results, "/cells");
    let others: Vec<_> =
        OTHERS.into_iter().filter(|(key, _)| cells.iter().any(|c| c.get(key).is_some())).collect();
    let mut head = vec!["cell", "Edgewater", "nginx", "to nginx"];
    if with_targets {
        head.extend(["rounds", "target"]);
    }
    head.extend(others.iter().map(|(_, name)| *name));
    let rows = cells.iter().map(|cell| {
        let micros = |server: &str| number(cell, &format!("/{server}/cpu_us_per_request"), 1);
        let mut row = vec![pretty(&text(cell, "/cell")), micros("edgewater"), micros("nginx")];
        row.push(number(cell, "/ratio", 2));
        if with_targets {
            let (low, high) = (number(cell, "/ratio_spread/0", 2), number(cell, "/ratio_spread/1", 2));
            row.push(if low.is_empty() { low } else { format!("{low} to {high}") });
            row.push(number(cell, "/target", 2));
        }
        row.extend(others.iter().map(|(key, _)| micros(key)));
        row
    });
    table(&head, rows)
}

fn notes(results: &Value) -> String {
    let notes = list(results, "/notes");
    notes.iter().filter_map(Value::as_str).map(|note| format!("- {note}\n")).collect()
}

/// What is no cell, each in its own words; nothing for what was not measured.
fn sentences(results: &Value) -> Vec<String> {
    vec![
        compressed(results),
        idle(results),
        spike(results),
        handshakes_storm(results),
        live_mix(results),
        viewers(results),
        miss_storm(results),
    ]
}

/// What was compressed to how much: less work may be more bytes.
fn compressed(results: &Value) -> String {
    let sizes = list(results, "/cells").iter().filter(|cell| cell.pointer("/edgewater/body_bytes").is_some());
    let sizes = sizes.map(|cell| {
        let bytes = |server: &str| number(cell, &format!("/{server}/body_bytes"), 0);
        let name = pretty(&text(cell, "/cell"));
        format!("{name}, came to: Edgewater {} bytes, nginx {} bytes.\n", bytes("edgewater"), bytes("nginx"))
    });
    sizes.collect()
}

fn idle(results: &Value) -> String {
    let rows = list(results, "/idle/kinds").iter().map(|kind| {
        let kilobytes = |key: &str| number(kind, &format!("/{key}"), 1);
        vec![
            format!(
                "{}, {} connections",
                pretty(&text(kind, "/connection")),
                number(kind, "/connections", 0)
            ),
            kilobytes("edgewater"),
            kilobytes("nginx"),
            number(kind, "/target_kb", 0),
        ]
    });
    table(&["KB held by an idle connection after a request", "Edgewater", "nginx", "target"], rows)
}

fn spike(results: &Value) -> String {
    let servers = each(results, "/spike", |server| {
        let n = |key: &str, digits| number(server, &format!("/{key}"), digits);
        let (before, with) = (n("before_mb", 0), n("with_mb", 0));
        format!(
            "{before} MB before, {with} MB with them, {} MB {} s after",
            n("after_mb", 0),
            n("after_s", 0)
        )
    });
    let count = number(results, "/spike/connections", 0);
    sentence(
        &servers,
        &format!("{count} TLS connections come and go (until memory is back within a fifth, or a minute)"),
    )
}

fn handshakes_storm(results: &Value) -> String {
    let servers = each(results, "/handshakes_storm", |server| {
        format!("{} / {}", number(server, "/p50_ms", 2), number(server, "/p99_ms", 2))
    });
    let rate = number(results, "/handshakes_storm/handshakes_per_second", 0);
    let watchers = number(results, "/handshakes_storm/watchers", 0);
    let about = format!(
        "Hits on {watchers} kept TLS connections while {rate} others a second shake hands in full (median / 99th percentile, milliseconds)"
    );
    sentence(&servers, &about)
}

fn live_mix(results: &Value) -> String {
    let mix = "/live_mix";
    let servers = each(results, mix, |server| format!("{} s of CPU", number(server, "/cpu_s", 2)));
    let n = |key: &str| number(results, &format!("{mix}/{key}"), 0);
    let about = format!(
        "{} TLS viewers of {} live streams for {} s, {} playlists and {} segments of 400 KB",
        n("viewers"),
        n("streams"),
        n("seconds"),
        n("edgewater/playlists"),
        n("edgewater/segments"),
    );
    let ratio = number(results, "/live_mix/ratio", 2);
    let servers = if servers.is_empty() { servers } else { format!("{servers}; to nginx {ratio}") };
    sentence(&servers, &about)
}

fn viewers(results: &Value) -> String {
    let servers = each(results, "/viewers", |server| format!("{} MB", number(server, "/peak_mb", 0)));
    let n = |key: &str| number(results, &format!("/viewers/{key}"), 0);
    let about = format!("Most memory with {} TLS viewers and a cache of {} MB", n("viewers"), n("cache_mb"));
    sentence(&servers, &about)
}

fn miss_storm(results: &Value) -> String {
    let storm = results.get("miss_storm").unwrap_or(&Value::Null);
    let mut servers = vec![];
    for (key, name) in BOTH.into_iter().chain(OTHERS) {
        if let Some(server) = storm.get(key) {
            let n = |key: &str| number(server, &format!("/{key}"), 0);
            let cpu = n("cpu_ms_per_segment");
            servers.push(format!("{name} {} / {} ({cpu} ms of CPU)", n("p50_ms"), n("p99_ms")));
        }
    }
    let about = format!(
        "{} viewers ask for a new segment of 1 MB at the same moment; its last byte comes after (median / 99th percentile, milliseconds)",
        number(storm, "/viewers", 0)
    );
    sentence(&servers.join(", "), &about)
}

/// All curves, a row for each point.
fn curves(results: &Value) -> String {
    let mut rows = vec![];
    for curve in list(results, "/curves") {
        for point in list(curve, "/points") {
            rows.push(vec![
                format!("{} {}", number(point, "/size", 0), text(curve, "/curve")),
                number(point, "/edgewater", 1),
                number(point, "/nginx", 1),
                number(point, "/ratio", 2),
            ]);
        }
    }
    table(&["µs of CPU per request with", "Edgewater", "nginx", "to nginx"], rows.into_iter())
}

/// "Edgewater …, nginx …", or nothing.
fn each(results: &Value, group: &str, of: impl Fn(&Value) -> String) -> String {
    let servers = BOTH.into_iter().filter_map(|(key, name)| {
        let server = results.pointer(group)?.get(key)?;
        Some(format!("{name} {}", of(server)))
    });
    servers.collect::<Vec<_>>().join(", ")
}

fn sentence(servers: &str, about: &str) -> String {
    if servers.is_empty() { String::new() } else { format!("{about}: {servers}.") }
}

/// A table, or nothing if it has no rows.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<_> = rows.map(|row| format!("| {} |\n", row.join(" | "))).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("| {} |\n{}|\n{}", head.join(" | "), "|---".repeat(head.len()), rows.concat())
}

/// The name of a cell, for those who do not know ours.
pub fn pretty(name: &str) -> String {
    let (protocol, rest) = match name {
        _ if name.starts_with("tls h1") => ("TLS 1.3", &name[6..]),
        _ if name.starts_with("tls h2") => ("HTTP/2", &name[6..]),
        _ if name.starts_with("tls handshake") => ("TLS 1.3 handshake", name[13..].trim_start_matches('s')),
        _ if name.starts_with("h1") => ("HTTP/1.1", &name[2..]),
        _ => (name, ""),
    };
    let words = rest.split_whitespace().map(|word| match word {
        "1k" => "1 KB",
        "20k" => "20 KB",
        "200k" => "200 KB",
        "1m" => "1 MB",
        "p-256" => "P-256",
        "rsa-2048" => "RSA-2048",
        other => other,
    });
    let words = words.collect::<Vec<_>>().join(" ").replace(" sendfile off", ", sendfile off");
    if words.is_empty() { protocol.into() } else { format!("{protocol}, {words}") }
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A number with so many digits after the point; nothing where there is none.
fn number(value: &Value, pointer: &str, digits: usize) -> String {
    value.pointer(pointer).and_then(Value::as_f64).map_or(String::new(), |n| format!("{n:.digits$}"))
}
