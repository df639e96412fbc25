//! What memory a server keeps when ten thousand have come and gone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cells::SMALL;
use crate::client::{self, Http1, request};
use crate::memory::{self, megabytes};
use crate::peers::nginx::{self, Room};
use crate::peers::{Peer, Programs};
use crate::pin;
use crate::site::Site;
use crate::tls::Tls;

pub const NAME: &str = "spike memory";
const CONNECTIONS: usize = 10_000;
/// So long they stay.
const STAY: Duration = Duration::from_secs(2);
/// When the memory is this much of what it was, it has gone back; or after this time it has not.
const BACK: f64 = 1.2;
const AT_MOST: Duration = Duration::from_secs(60);

pub fn run(programs: &Programs, site: &Site) -> Result<Value, String> {
    let mut value = json!({
        "figure": "resident memory of the server's processes, MB: before, with the connections, and when it was back within a fifth or a minute after they had left",
        "connections": CONNECTIONS,
        "protocol": "tls h1, one request each",
        "target_after_to_before": BACK,
    });
    for (name, program) in programs.pair() {
        let peer = nginx::start(name, program, site, Room::CROWD)?;
        let row = one(&peer).map_err(|e| format!("{NAME}, {name}: {e}"))?;
        println!(
            "spike {name:<10} before {} MB   with {CONNECTIONS} {} MB   after {} s {} MB",
            row["before_mb"], row["with_mb"], row["after_s"], row["after_mb"]
        );
        value[name] = row;
    }
    Ok(value)
}

fn one(peer: &Peer) -> Result<Value, String> {
    let (pid, port) = (peer.pid(), peer.ports.tls);
    pin::load(move || async move {
        let tls = Tls::new(&[], false)?;
        let open = |_| {
            let tls = tls.clone();
            async move {
                let mut http = Http1::new(tls.connect(port).await?);
                http.get(&request("/cached/1k.bin"), SMALL).await?;
                Ok(http)
            }
        };
        // What the first handshakes and the cache take stays; it is no part of the spike.
        drop(client::many(20, open).await?);
        sleep(STAY).await;
        let before = memory::resident(pid)?;
        let held = client::many(CONNECTIONS, open).await?;
        sleep(STAY).await;
        let with = memory::resident(pid)?;
        drop(held);
        let left = Instant::now();
        let after = loop {
            let now = memory::resident(pid)?;
            if now as f64 <= before as f64 * BACK || left.elapsed() >= AT_MOST {
                break now;
            }
            sleep(Duration::from_millis(250)).await;
        };
        Ok(json!({
            "before_mb": megabytes(before),
            "with_mb": megabytes(with),
            "after_mb": megabytes(after),
            "after_s": (left.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        }))
    })
}
