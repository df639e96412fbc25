//! The figures: a line of the table for each cell, and the file that keeps them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cells::Cell;
use crate::load::{Load, SECONDS};

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

/// The samples of one cell, round by round.
pub struct Outcome {
    pub cell: Cell,
    pub ours: Vec<Sample>,
    pub nginx: Vec<Sample>,
}

pub const HEAD: &str = "\
                          CPU us/request           ratio  spread        requests/s
cell                     edgewater      nginx                      edgewater    nginx
---------------------------------------------------------------------------------------";

impl Outcome {
    /// Our CPU time for one of nginx's; the median of the rounds, which were run one beside the other.
    fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.nginx).map(|(ours, nginx)| ours.micros / nginx.micros).collect()
    }

    pub fn line(&self) -> String {
        let ratios = self.ratios();
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        format!(
            "{:<22}{:>12.2}{:>11.2}{:>11.2}  {low:.2}-{high:.2}{:>11.0}{:>9.0}",
            self.cell.name(),
            median(self.ours.iter().map(|s| s.micros).collect()),
            median(self.nginx.iter().map(|s| s.micros).collect()),
            self.ratio(),
            median(self.ours.iter().map(|s| s.requests_per_second).collect()),
            median(self.nginx.iter().map(|s| s.requests_per_second).collect()),
        )
    }

    fn json(&self) -> Value {
        let server = |samples: &[Sample]| {
            json!({
                "cpu_us_per_request": round(median(samples.iter().map(|s| s.micros).collect())),
                "requests_per_second": median(samples.iter().map(|s| s.requests_per_second).collect()).round(),
                "rounds_cpu_us": samples.iter().map(|s| round(s.micros)).collect::<Vec<_>>(),
            })
        };
        json!({
            "cell": self.cell.name(),
            "ratio": round(self.ratio()),
            "edgewater": server(&self.ours),
            "nginx": server(&self.nginx),
        })
    }
}

/// Writes the figures with what they were measured on; returns where.
pub fn write(outcomes: &[Outcome], ours: &str, nginx: &str, rounds: usize) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/latest.json");
    let report = json!({
        "figure": "user and system CPU time of the server's processes divided by requests done; medians",
        "rounds": rounds,
        "seconds_per_round": SECONDS,
        "date": first_line("date", &["-u", "+%Y-%m-%d"]),
        "machine": machine(),
        "versions": {
            "edgewater": first_line(ours, &["-v"]),
            "nginx": first_line(nginx, &["-v"]),
            "wrk": first_line("wrk", &["-v"]),
            "h2load": first_line("h2load", &["--version"]),
        },
        "cells": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
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
