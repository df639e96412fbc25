//! Edgewater beside nginx, and beside Varnish where it answers from its cache, in one run: CPU time per request, all
//! pinned to the same core, the load on another; and what a thousand viewers of a new segment wait for.
//!
//! ```text
//! cargo bench --bench side_by_side             all cells, tables, benches/results/latest.json
//! cargo bench --bench side_by_side -- h2 1k    the cells whose names contain all of these; no file is written
//! cargo bench --bench side_by_side -- storm    only the storm
//! EDGEWATER_BIN=/usr/sbin/nginx …              nginx beside itself: how far from 1.00 does noise go?
//! BENCH_ROUNDS=9 …                             more rounds than 5
//! ```
//!
//! A figure is user and system time of the server's processes, all threads, divided by the requests that wrk or
//! h2load report as done; of the rounds, which alternate between the servers, the median. Throughput is shown
//! too, but the load generator limits it as often as the server does.

mod cells;
mod cpu;
mod load;
mod peer;
mod report;
mod storm;

use cells::Cell;
use peer::{Peer, Site};
use report::{Outcome, Programs, Sample};
use storm::Storm;

fn main() {
    if let Err(why) = run() {
        eprintln!("bench: {why}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| words.iter().all(|w| name.contains(w.as_str()));
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let program = |variable: &str, default: &str| std::env::var(variable).unwrap_or_else(|_| default.into());
    let programs = Programs {
        ours: program("EDGEWATER_BIN", env!("CARGO_BIN_EXE_edgewater")),
        nginx: program("NGINX", "/usr/sbin/nginx"),
        varnish: program("VARNISHD", "/usr/sbin/varnishd"),
    };

    let segments = storm::Origin::start()?;
    let site = Site::prepare(segments.port)?;
    let _origin = Peer::start_origin(&programs.nginx, &site)?;
    let peers = [
        Peer::start("edgewater", &programs.ours, &site)?,
        Peer::start("nginx", &programs.nginx, &site)?,
        Peer::start_varnish(&programs.varnish, &site)?,
    ];
    let mut outcomes = vec![];
    for cell in cells::all().into_iter().filter(|cell| wanted(&cell.name())) {
        if outcomes.is_empty() {
            println!("{}", report::HEAD);
        }
        let outcome = measure(&cell, &peers, rounds)?;
        println!("{}", outcome.line());
        outcomes.push(outcome);
    }
    let mut storms: Vec<Storm> = vec![];
    if wanted(storm::NAME) {
        println!("\n{}", report::storm_head());
        for peer in &peers {
            let storm = storm::run(peer, &segments, rounds)?;
            println!("{}", report::storm_line(&storm));
            storms.push(storm);
        }
    }
    if words.is_empty() {
        let path = report::write(&outcomes, &storms, &programs, rounds)?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}

/// Measures one cell on its servers in turn; the first, short, run of each only warms it.
fn measure(cell: &Cell, peers: &[Peer; 3], rounds: usize) -> Result<Outcome, String> {
    let mut samples = [vec![], vec![], vec![]];
    let taking_part = if cell.is_varnishs() { 3 } else { 2 };
    for round in 0..=rounds {
        // Who goes first changes, so that none is always the one after another.
        for which in (0..taking_part).map(|n| (n + round) % taking_part) {
            let peer = &peers[which];
            let before = cpu::time_of(peer.pid())?;
            let load = load::run(cell, peer).map_err(|e| format!("{} on {}: {e}", cell.name(), peer.name))?;
            let cpu = cpu::time_of(peer.pid())? - before;
            if round > 0 {
                samples[which].push(Sample::new(cpu, &load));
            }
        }
    }
    let [ours, nginx, varnish] = samples;
    Ok(Outcome { cell: cell.clone(), ours, nginx, varnish })
}
