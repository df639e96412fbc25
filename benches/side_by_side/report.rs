//! The figures: a line of a table for each cell and each storm, and the file that keeps them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cells::Cell;
use crate::load::{Load, SECONDS};
use crate::storm::{self, Round, Storm};

/// What is run.
pub struct Programs {
    pub ours: String,
    pub nginx: String,
    pub varnish: String,
}

/// One run on one server.
pub struct Sample {
    /// CPU microseconds for each request.
    pub micros: f64,
    pub requests_per_second: f64,
}

impl Sample {
    pub fn new(cpu: Duration, load: &Load) -> Sample {
        let done = load.done.max(1) as f64;
        Sample { micros: cpu.as_secs_f64() * 1e6 / done, requests_per_second: done / load.seconds }
    }
}

/// The samples of one cell, round by round; none of Varnish where it has no part.
pub struct Outcome {
    pub cell: Cell,
    pub ours: Vec<Sample>,
    pub nginx: Vec<Sample>,
    pub varnish: Vec<Sample>,
}

pub const HEAD: &str = "\
                               CPU us/request             to nginx        to            requests/s
cell                  edgewater   nginx  varnish   ratio  spread      varnish   edgewater   nginx  varnish
------------------------------------------------------------------------------------------------------------";

impl Outcome {
    pub fn line(&self) -> String {
        let ratios = ratios(&self.ours, &self.nginx);
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        let or_dash = |value: f64, digits: usize| match value.is_nan() {
            true => "-".into(),
            false => format!("{value:.digits$}"),
        };
        format!(
            "{:<20}{:>11.2}{:>8.2}{:>9}{:>8.2}  {low:.2}-{high:.2}{:>10}{:>12.0}{:>8.0}{:>9}",
            self.cell.name(),
            micros(&self.ours),
            micros(&self.nginx),
            or_dash(micros(&self.varnish), 2),
            median(ratios),
            or_dash(median(self::ratios(&self.ours, &self.varnish)), 2),
            rate(&self.ours),
            rate(&self.nginx),
            or_dash(rate(&self.varnish), 0),
        )
    }

    fn json(&self) -> Value {
        let server = |samples: &[Sample]| {
            json!({
                "cpu_us_per_request": round(micros(samples)),
                "requests_per_second": rate(samples).round(),
                "rounds_cpu_us": samples.iter().map(|s| round(s.micros)).collect::<Vec<_>>(),
            })
        };
        let mut value = json!({
            "cell": self.cell.name(),
            "ratio": round(median(ratios(&self.ours, &self.nginx))),
            "edgewater": server(&self.ours),
            "nginx": server(&self.nginx),
        });
        if !self.varnish.is_empty() {
            value["ratio_to_varnish"] = json!(round(median(ratios(&self.ours, &self.varnish))));
            value["varnish"] = server(&self.varnish);
        }
        value
    }
}

/// Our CPU time for one of theirs, round by round; the rounds were run one beside the other.
fn ratios(ours: &[Sample], theirs: &[Sample]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours.micros / theirs.micros).collect()
}

fn micros(samples: &[Sample]) -> f64 {
    median(samples.iter().map(|s| s.micros).collect())
}

fn rate(samples: &[Sample]) -> f64 {
    median(samples.iter().map(|s| s.requests_per_second).collect())
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
    format!(
        "{:<11}{:>10.0}{:>10.0}{:>10.0}{spread:>20}{:>17.0}",
        storm.name,
        percentile(&times, 50),
        percentile(&times, 99),
        percentile(&times, 100),
        millis(storm.cpu),
    )
}

fn storm_json(storm: &Storm) -> Value {
    let times = all_times(storm);
    let each = |what: &dyn Fn(&Round) -> Value| storm.rounds.iter().map(what).collect::<Vec<_>>();
    json!({
        "p50_ms": round(percentile(&times, 50)),
        "p99_ms": round(percentile(&times, 99)),
        "max_ms": round(percentile(&times, 100)),
        "rounds_p50_ms": each(&|r| json!(round(percentile(&r.times, 50)))),
        "rounds_p99_ms": each(&|r| json!(round(percentile(&r.times, 99)))),
        "rounds_upstream_requests": each(&|r| json!(r.upstream)),
        "cpu_ms_per_segment": round(millis(storm.cpu)),
    })
}

/// Those of all rounds, sorted.
fn all_times(storm: &Storm) -> Vec<Duration> {
    let mut times: Vec<Duration> = storm.rounds.iter().flat_map(|r| r.times.iter().copied()).collect();
    times.sort_unstable();
    times
}

/// The time, in milliseconds, within which so many percent had it.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).map_or(f64::NAN, |time| millis(*time))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Writes the figures with what they were measured on; returns where.
pub fn write(
    outcomes: &[Outcome],
    storms: &[Storm],
    programs: &Programs,
    rounds: usize,
) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/latest.json");
    let mut storm = json!({
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
        storm[one.name] = storm_json(one);
    }
    let report = json!({
        "figure": "user and system CPU time of the server's processes divided by requests done; medians",
        "rounds": rounds,
        "seconds_per_round": SECONDS,
        "date": first_line("date", &["-u", "+%Y-%m-%d"]),
        "machine": machine(),
        "versions": {
            "edgewater": first_line(&programs.ours, &["-v"]),
            "nginx": first_line(&programs.nginx, &["-v"]),
            "varnish": first_line(&programs.varnish, &["-V"]),
            "wrk": first_line("wrk", &["-v"]),
            "h2load": first_line("h2load", &["--version"]),
        },
        "cells": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
        "miss_storm": storm,
    });
    let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())? + "\n";
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
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

/// The middle value; between the two middle ones if there are two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
