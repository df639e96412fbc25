//! The figures: a line for each cell and each storm, and the file that keeps all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cells::{Cell, Source};
use crate::load::SECONDS;
use crate::measure::{Sample, Samples};
use crate::peers::Programs;
use crate::stats::{median, millis, percentile, round};
use crate::storm::{self, Round, Storm};
use crate::{chart, docs};

pub const HEAD: &str = "\
CPU us/request                  edgewater    nginx  to nginx     rounds  target   others
------------------------------------------------------------------------------------------------------";

/// One cell's line: of the servers the first is ours, the second nginx.
pub fn line(cell: &Cell, servers: &[Samples]) -> String {
    let [ours, nginx, others @ ..] = servers else { return String::new() };
    let ratios = ratios(ours, nginx);
    let (low, high) = spread(&ratios);
    let target = cell.target.map_or("-".into(), |target| format!("{target:.2}"));
    let others = others.iter().map(|other| format!("{} {:.1}", other.server, micros(other)));
    format!(
        "{:<30}{:>11.2}{:>9.2}{:>10.2}  {low:.2}-{high:.2}{target:>8}   {}",
        cell.name(),
        micros(ours),
        micros(nginx),
        median(ratios),
        others.collect::<Vec<_>>().join("  "),
    )
}

/// One cell in the file.
pub fn cell(cell: &Cell, servers: &[Samples]) -> Value {
    let mut value = json!({ "cell": cell.name() });
    for server in servers {
        let rates = server.rounds.iter().map(|s| s.requests_per_second).collect();
        value[server.server] = json!({
            "cpu_us_per_request": round(micros(server)),
            "requests_per_second": median(rates).round(),
            "rounds_cpu_us": server.rounds.iter().map(|s: &Sample| round(s.micros)).collect::<Vec<_>>(),
        });
        if cell.source == Source::Gzip {
            value[server.server]["body_bytes"] = json!(server.wire);
        }
    }
    if let [ours, theirs @ ..] = servers {
        for server in theirs {
            let ratios = ratios(ours, server);
            if server.server == "nginx" {
                let (low, high) = spread(&ratios);
                value["ratio_spread"] = json!([round(low), round(high)]);
                value["ratio"] = json!(round(median(ratios)));
            } else {
                value[format!("ratio_to_{}", server.server)] = json!(round(median(ratios)));
            }
        }
    }
    for (key, target) in [("target", cell.target), ("target_stretch", cell.stretch)] {
        if let Some(target) = target {
            value[key] = json!(target);
        }
    }
    value
}

/// Our CPU time for one of theirs, round by round; the rounds were run one beside the other.
fn ratios(ours: &Samples, theirs: &Samples) -> Vec<f64> {
    ours.rounds.iter().zip(&theirs.rounds).map(|(ours, theirs)| ours.micros / theirs.micros).collect()
}

fn spread(ratios: &[f64]) -> (f64, f64) {
    (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max))
}

fn micros(samples: &Samples) -> f64 {
    median(samples.rounds.iter().map(|s| s.micros).collect())
}

pub fn storm_head() -> String {
    format!(
        "{}: {} viewers, a segment of {} bytes every {} s; time to its last byte\n\
         server         p50 ms    p99 ms    max ms   requests upstream   CPU ms/segment\n\
         ------------------------------------------------------------------------------",
        storm::NAME,
        storm::VIEWERS,
        storm::SEGMENT,
        storm::INTERVAL.as_secs(),
    )
}

pub fn storm_line(storm: &Storm) -> String {
    let times = all_times(storm);
    let upstream: Vec<u64> = storm.rounds.iter().map(|r| r.upstream).collect();
    let (least, most) = (upstream.iter().min().unwrap_or(&0), upstream.iter().max().unwrap_or(&0));
    let spread = if least == most { least.to_string() } else { format!("{least}-{most}") };
    let within = |percent| millis(percentile(&times, percent));
    format!(
        "{:<11}{:>10.0}{:>10.0}{:>10.0}{spread:>20}{:>17.0}",
        storm.name,
        within(50),
        within(99),
        within(100),
        millis(storm.cpu),
    )
}

/// All storms in the file.
pub fn storms(storms: &[Storm], rounds: usize) -> Value {
    let mut value = json!({
        "figure": "time from the moment when all viewers ask for a new segment to its last byte, over all rounds",
        "viewers": storm::VIEWERS,
        "segment_bytes": storm::SEGMENT,
        "interval_s": storm::INTERVAL.as_secs(),
        "rounds": rounds,
        "origin": {
            "first_byte_ms": millis(storm::FIRST_BYTE),
            "transfer_ms": millis(storm::TRANSFER),
        },
    });
    for one in storms {
        let times = all_times(one);
        let each = |what: &dyn Fn(&Round) -> Value| one.rounds.iter().map(what).collect::<Vec<_>>();
        value[one.name] = json!({
            "p50_ms": millis(percentile(&times, 50)),
            "p99_ms": millis(percentile(&times, 99)),
            "max_ms": millis(percentile(&times, 100)),
            "rounds_p50_ms": each(&|r| json!(millis(percentile(&r.times, 50)))),
            "rounds_p99_ms": each(&|r| json!(millis(percentile(&r.times, 99)))),
            "rounds_upstream_requests": each(&|r| json!(r.upstream)),
            "cpu_ms_per_segment": millis(one.cpu),
        });
    }
    value
}

/// Those of all rounds, sorted.
fn all_times(storm: &Storm) -> Vec<Duration> {
    let mut times: Vec<Duration> = storm.rounds.iter().flat_map(|r| r.times.iter().copied()).collect();
    times.sort_unstable();
    times
}

/// What is said of the whole run.
pub fn about(programs: &Programs, rounds: usize) -> Value {
    json!({
        "figure": "user and system CPU time of the server's processes divided by requests done; medians",
        "rounds": rounds,
        "seconds_per_round": SECONDS,
        "date": first_line("date", &["-u", "+%Y-%m-%d"]),
        "commit": first_line("git", &["describe", "--always", "--dirty", "--abbrev=12", "--match="]),
        "machine": machine(),
        "versions": {
            "edgewater": first_line(&programs.ours, &["-v"]),
            "nginx": first_line(&programs.nginx, &["-v"]),
            "varnish": first_line(&programs.varnish, &["-V"]),
            "haproxy": first_line(&programs.haproxy, &["-v"]),
            "h2o": first_line(&programs.h2o, &["--version"]),
            "openssl": first_line("openssl", &["version"]),
            "wrk": first_line("wrk", &["-v"]),
            "h2load": first_line("h2load", &["--version"]),
        },
    })
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: String, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).map(str::to_owned);
        line.and_then(|l| Some(l.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    json!({
        "cpu": value(read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": value(read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average_at_the_end": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    })
}

/// The first line that a program prints, on either stream.
fn first_line(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return String::new() };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    text.lines().next().unwrap_or_default().to_owned()
}

/// Where the results are kept, below the repository.
const RESULTS: &str = "benches/results";

/// Writes the results and their chart into `dir`, or into the repository, whose pages are then made anew.
pub fn write(results: &Value, dir: Option<PathBuf>) -> Result<PathBuf, String> {
    let path = dir.clone().unwrap_or_else(|| repository().join(RESULTS));
    std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let text = serde_json::to_string_pretty(results).map_err(|e| e.to_string())? + "\n";
    put(&path.join("latest.json"), &text)?;
    put(&path.join("latest.svg"), &chart::svg(results))?;
    if dir.is_none() {
        pages(results)?;
    }
    Ok(path)
}

/// Makes the chart and the pages anew from the results that are kept.
pub fn remake() -> Result<(), String> {
    let path = repository().join(RESULTS);
    let text = get(&path.join("latest.json"))?;
    let results: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    put(&path.join("latest.svg"), &chart::svg(&results))?;
    pages(&results)
}

fn pages(results: &Value) -> Result<(), String> {
    for (page, made) in [("README.md", docs::readme(results)), ("docs/performance.md", docs::page(results))] {
        let path = repository().join(page);
        let filled = docs::fill(&get(&path)?, &made).map_err(|e| format!("{page}: {e}"))?;
        put(&path, &filled)?;
    }
    Ok(())
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn get(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn put(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
