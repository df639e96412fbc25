//! Edgewater beside nginx, in one run: CPU time per request, both pinned to the same core, the load on another.
//!
//! ```text
//! cargo bench --bench side_by_side             all cells, a table, benches/results/latest.json
//! cargo bench --bench side_by_side -- h2 1k    the cells whose names contain all of these; no file is written
//! EDGEWATER_BIN=/usr/sbin/nginx …              nginx beside itself: how far from 1.00 does noise go?
//! BENCH_ROUNDS=9 …                             more rounds than 5
//! ```
//!
//! A figure is user and system time of the server's processes, all threads, divided by the requests that wrk or
//! h2load report as done; of the rounds, which alternate between the two servers, the median. Throughput is shown
//! too, but the load generator limits it as often as the server does.

mod cells;
mod cpu;
mod load;
mod peer;
mod report;

use cells::Cell;
use peer::{Peer, Site};
use report::{Outcome, Sample};

fn main() {
    if let Err(why) = run() {
        eprintln!("bench: {why}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let cells: Vec<Cell> =
        cells::all().into_iter().filter(|c| words.iter().all(|w| c.name().contains(w.as_str()))).collect();
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let ours = std::env::var("EDGEWATER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_edgewater").into());
    let nginx = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".into());

    let site = Site::prepare()?;
    let _origin = Peer::start_origin(&nginx, &site)?;
    let peers = [Peer::start("edgewater", &ours, &site)?, Peer::start("nginx", &nginx, &site)?];
    println!("{}", report::HEAD);
    let mut outcomes = vec![];
    for cell in cells {
        let outcome = measure(&cell, &peers, rounds)?;
        println!("{}", outcome.line());
        outcomes.push(outcome);
    }
    if words.is_empty() {
        let path = report::write(&outcomes, &ours, &nginx, rounds)?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}

/// Measures one cell on both servers in turn; the first, short, run of each only warms it.
fn measure(cell: &Cell, peers: &[Peer; 2], rounds: usize) -> Result<Outcome, String> {
    let mut samples = [vec![], vec![]];
    for round in 0..=rounds {
        // Who goes first changes, so that neither is always the one after the other.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let peer = &peers[which];
            let before = cpu::time_of(peer.pid())?;
            let load = load::run(cell, peer).map_err(|e| format!("{} on {}: {e}", cell.name(), peer.name))?;
            let cpu = cpu::time_of(peer.pid())? - before;
            if round > 0 {
                samples[which].push(Sample::new(cpu, &load));
            }
        }
    }
    let [ours, nginx] = samples;
    Ok(Outcome { cell: cell.clone(), ours, nginx })
}
