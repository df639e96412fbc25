//! The storm of handshakes: a thousand new viewers a second, while others watch. What do those feel?
//!
//! The newcomers come when they come, whether or not those before them have been served. They and the watchers are
//! threads of their own on the load's core; the watchers', which takes the times, goes first there if it may.

use std::time::Duration;

use rustix::process::setpriority_process;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cells::SMALL;
use crate::client::{self, Http1, request};
use crate::handshakes::shake;
use crate::peers::nginx::{self, Room};
use crate::peers::{Peer, Programs};
use crate::pin;
use crate::site::Site;
use crate::stats::{median, millis, percentile, round};
use crate::tls::Tls;

pub const NAME: &str = "handshakes storm";
/// New connections each second, with a full handshake and one request each.
const RATE: u32 = 1000;
const LASTS: Duration = Duration::from_secs(5);
/// Kept connections, and how often each asks for a hit.
const WATCHERS: usize = 50;
const EVERY: Duration = Duration::from_millis(20);
/// So many newcomers may be under way; those that come then find no place, and are counted.
const UNDER_WAY: usize = 3000;

/// The figures are the medians of so many rounds at most, in which the servers take turns: one that is disturbed says
/// little about the slowest of a hundred.
const ROUNDS: usize = 3;

pub fn run(programs: &Programs, site: &Site, rounds: usize) -> Result<Value, String> {
    let mut value = json!({
        "figure": "latency of cached 1k hits on kept TLS connections while others shake hands in full, ms",
        "handshakes_per_second": RATE,
        "seconds": LASTS.as_secs(),
        "rounds": rounds.min(ROUNDS),
        "watchers": WATCHERS,
        "watchers_every_ms": EVERY.as_millis() as u64,
    });
    let mut rows = [vec![], vec![]];
    for _ in 0..rounds.min(ROUNDS) {
        for ((name, program), rows) in programs.pair().into_iter().zip(&mut rows) {
            let peer = nginx::start(name, program, site, Room::CROWD)?;
            rows.push(one(&peer).map_err(|e| format!("{NAME}, {name}: {e}"))?);
        }
    }
    for ((name, _), rows) in programs.pair().into_iter().zip(rows) {
        let row = medians(&rows);
        println!(
            "handshakes storm {name:<10} hits p50 {} ms  p99 {} ms  max {} ms   newcomers p99 {} ms   CPU {} s",
            row["p50_ms"], row["p99_ms"], row["max_ms"], row["newcomers_p99_ms"], row["cpu_s"]
        );
        value[name] = row;
    }
    Ok(value)
}

fn one(peer: &Peer) -> Result<Value, String> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let port = peer.ports.tls;
    let watchers = std::thread::spawn(move || {
        // Only root may; the same for all servers in either case.
        let _ = setpriority_process(Some(rustix::thread::gettid()), -15);
        pin::on_load_core(watch(port, tell))
    });
    let pid = peer.pid();
    let (newcomers, cpu) = pin::load(move || async move {
        let begin = told.await.map_err(|_| "the watchers did not begin")?;
        let before = crate::cpu::time_of(pid)?;
        let newcomers = rush(port, begin).await?;
        Ok((newcomers, crate::cpu::time_of(pid)? - before))
    })?;
    let hits = watchers.join().map_err(|_| "a thread of the load fell")??;
    Ok(json!({
        "hits": hits.len(),
        "p50_ms": millis(percentile(&hits, 50)),
        "p99_ms": millis(percentile(&hits, 99)),
        "max_ms": millis(percentile(&hits, 100)),
        "newcomers": newcomers.len(),
        "newcomers_without_place": (RATE * LASTS.as_secs() as u32) as usize - newcomers.len(),
        "newcomers_p50_ms": millis(percentile(&newcomers, 50)),
        "newcomers_p99_ms": millis(percentile(&newcomers, 99)),
        "cpu_s": (cpu.as_secs_f64() * 1e3).round() / 1e3,
    }))
}

/// The median of each figure.
fn medians(rows: &[Value]) -> Value {
    let first = rows.first().and_then(Value::as_object).into_iter().flatten();
    let of = |name: &String| median(rows.iter().filter_map(|row| row[name].as_f64()).collect());
    first.map(|(name, _)| (name.clone(), json!(round(of(name))))).collect::<serde_json::Map<_, _>>().into()
}

/// Connects, says when all begins, and asks until the end; returns the sorted times of the answers.
async fn watch(port: u16, tell: tokio::sync::oneshot::Sender<Instant>) -> Result<Vec<Duration>, String> {
    let tls = Tls::new(&[], false)?;
    let hit = request("/cached/1k.bin");
    let open = |_| {
        let (tls, hit) = (tls.clone(), hit.clone());
        async move {
            let mut http = Http1::new(tls.connect(port).await?);
            http.get(&hit, SMALL).await?;
            Ok(http)
        }
    };
    let watchers = client::many(WATCHERS, open).await?;
    let begin = Instant::now() + Duration::from_millis(200);
    tell.send(begin).map_err(|_| "the newcomers have gone")?;
    let mut watching = JoinSet::new();
    for (index, mut http) in watchers.into_iter().enumerate() {
        let hit = hit.clone();
        watching.spawn(async move {
            let mut times = Vec::new();
            let mut next = begin + EVERY * index as u32 / WATCHERS as u32;
            while next < begin + LASTS {
                sleep_until(next).await;
                let asked = Instant::now();
                http.get(&hit, SMALL).await?;
                times.push(asked.elapsed());
                next += EVERY;
            }
            Ok::<_, String>(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = watching.join_next().await {
        all.extend(times.map_err(|e| e.to_string())??);
    }
    all.sort_unstable();
    Ok(all)
}

/// Newcomers at the rate; returns the sorted times from when each was to come to the end of its connection.
async fn rush(port: u16, begin: Instant) -> Result<Vec<Duration>, String> {
    let tls = Tls::new(&[], false)?;
    let mut coming = JoinSet::new();
    let mut times = Vec::new();
    for number in 0..RATE * LASTS.as_secs() as u32 {
        let due = begin + Duration::from_secs(1) * number / RATE;
        sleep_until(due).await;
        while let Some(one) = coming.try_join_next() {
            times.push(one.map_err(|e| e.to_string())??);
        }
        if coming.len() > UNDER_WAY {
            continue;
        }
        let tls = tls.clone();
        coming.spawn(async move {
            shake(&tls, port, false).await?;
            Ok::<_, String>(due.elapsed())
        });
    }
    while let Some(one) = coming.join_next().await {
        times.push(one.map_err(|e| e.to_string())??);
    }
    times.sort_unstable();
    Ok(times)
}
