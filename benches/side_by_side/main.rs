//! Edgewater beside nginx, and beside others where it is their job, in one run: CPU time per request, all pinned to the
//! same core, the load on another; memory, storms of misses and of handshakes, live viewers, and how CPU time grows.
//! docs/performance.md says what each figure is.
//!
//! ```text
//! cargo bench --bench side_by_side             all of it: tables, benches/results, the pages that show it
//! cargo bench --bench side_by_side -- h2 1k    what has all of these in its name; no file is written
//! cargo bench --bench side_by_side -- idle     a group: idle, spike, handshakes, mix, viewers, curves, storm
//! cargo bench --bench side_by_side -- --docs   the chart and the pages anew, from the results that are kept
//! PEER=/path/to/nginx …                        another nginx
//! EDGEWATER_BIN=/usr/sbin/nginx …              nginx beside itself: how far from 1.00 does noise go?
//! BENCH_ROUNDS=9 …                             more rounds than 5
//! BENCH_RESULTS=/some/folder …                 what was measured, all or not, is written there, and only there
//! ```
//!
//! A figure is user and system time of the server's processes, all threads, divided by the requests that were done; of
//! the rounds, which alternate between the servers, the median.

mod cells;
mod chart;
mod client;
mod cpu;
mod curves;
mod docs;
mod handshakes;
mod idle;
mod live;
mod load;
mod measure;
mod memory;
mod peers;
mod pin;
mod report;
mod rush;
mod site;
mod spike;
mod stats;
mod storm;
mod tls;
mod viewers;

use cells::Cell;
use peers::nginx::{self, Room};
use peers::{Peer, Programs, h2o, haproxy, is_there, varnish};
use serde_json::{Value, json};
use site::Site;

fn main() {
    if let Err(why) = run() {
        eprintln!("bench: {why}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--docs") {
        return report::remake();
    }
    // `cargo bench` has words of its own.
    let words: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let programs = Programs::find();
    allow_descriptors();
    let dir = std::env::var_os("BENCH_RESULTS").map(std::path::PathBuf::from);

    let (segments, live) = (storm::Origin::start()?, live::Origin::start()?);
    let site = Site::prepare(segments.port, live.port)?;
    let origin = nginx::start_origin(&programs.nginx, &site)?;
    let mut notes = vec![];

    let mut failed = vec![];
    let (mut done, mut groups) = (vec![], vec![]);
    let cells: Vec<Cell> = cells::all().into_iter().filter(|cell| wanted(&cell.name())).collect();
    if !cells.is_empty() || wanted(storm::NAME) {
        let peers = start_all(&programs, &site, &mut notes)?;
        println!("{}", report::HEAD);
        for cell in &cells {
            match measure::cell(cell, &peers, &origin, &site, rounds) {
                Ok(samples) => {
                    println!("{}", report::line(cell, &samples));
                    done.push(report::cell(cell, &samples));
                }
                Err(why) => failed.push(failure(why)),
            }
        }
        if wanted(storm::NAME) {
            groups.push(("miss_storm", miss_storm(&peers, &segments, rounds)));
        }
    }
    let mut group = |key: &'static str, name: &str, run: &dyn Fn() -> Result<Value, String>| {
        if wanted(name) {
            groups.push((key, run()));
        }
    };
    group("idle", idle::NAME, &|| idle::run(&programs, &site));
    group("spike", spike::NAME, &|| spike::run(&programs, &site));
    group("handshakes_storm", rush::NAME, &|| rush::run(&programs, &site, rounds));
    group("live_mix", viewers::MIX, &|| viewers::mix(&programs, &site, &live, rounds));
    group("viewers", viewers::CROWD, &|| viewers::crowd(&programs, &site, &live));
    if curves::names().any(|name| wanted(&name)) {
        groups.push(("curves", curves::run(&programs, &site, rounds, wanted).map(Value::from)));
    }

    let mut results = report::about(&programs, rounds);
    results["cells"] = json!(done);
    for (key, group) in groups {
        match group {
            Ok(value) => results[key] = value,
            Err(why) => failed.push(failure(why)),
        }
    }
    notes.extend(failed.iter().map(|why| format!("Not measured: {why}")));
    results["notes"] = json!(notes);
    if words.is_empty() || dir.is_some() {
        let path = report::write(&results, dir)?;
        println!("\nwritten to {}", path.display());
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{} of the measurements failed", failed.len())) }
}

/// Ten thousand connections are as many descriptors, here and, since they inherit it, in the servers.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where they do not suffice the groups that want them say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// What is wrong is said at once; what else is asked for is measured all the same. The first line is kept.
fn failure(why: String) -> String {
    eprintln!("bench: {why}");
    why.lines().next().unwrap_or_default().to_owned()
}

/// Ours, nginx, and those of the others that are there.
fn start_all(programs: &Programs, site: &Site, notes: &mut Vec<String>) -> Result<Vec<Peer>, String> {
    let mut peers = vec![];
    for (name, program) in programs.pair() {
        peers.push(nginx::start(name, program, site, Room::CELLS)?);
    }
    type Start = fn(&str, &Site) -> Result<Peer, String>;
    let others: [(&str, Start); 3] = [
        (&programs.varnish, varnish::start),
        (&programs.haproxy, haproxy::start),
        (&programs.h2o, h2o::start),
    ];
    for (program, start) in others {
        if is_there(program) {
            peers.push(start(program, site)?);
        } else {
            println!("{program} is not there: its cells are left out");
            notes.push(format!("{program} was not there."));
        }
    }
    Ok(peers)
}

/// On those that have the origin of the segments behind them.
fn miss_storm(peers: &[Peer], segments: &storm::Origin, rounds: usize) -> Result<Value, String> {
    println!("\n{}", report::storm_head());
    let mut storms = vec![];
    for peer in peers.iter().filter(|peer| matches!(peer.name, "edgewater" | "nginx" | "varnish")) {
        let storm = storm::run(peer, segments, rounds)?;
        println!("{}", report::storm_line(&storm));
        storms.push(storm);
    }
    Ok(report::storms(&storms, rounds))
}
