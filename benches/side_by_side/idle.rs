//! What an idle connection holds that has had one request.

use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{sleep, timeout};

use crate::cells::SMALL;
use crate::client::{self, Http1, PATIENCE, request};
use crate::memory;
use crate::peers::nginx::{self, Room};
use crate::peers::{Peer, Programs};
use crate::pin;
use crate::site::Site;
use crate::tls::Tls;

pub const NAME: &str = "idle memory";
/// After so long a connection is idle.
const PAUSE: Duration = Duration::from_secs(2);
/// So many come and go before, for what is made once only.
const FIRST: usize = 20;
const PATH: &str = "/cached/1k.bin";

/// A kind of connection, how many of it, and the kilobytes each may hold.
const KINDS: [(&str, usize, f64); 3] = [("h1", 2000, 2.0), ("tls h1", 1000, 8.0), ("tls h2", 1000, 12.0)];

/// A connection that is held; of what kind it is nobody asks.
type Held = Box<dyn std::any::Any + Send>;

/// Measures all kinds, each on servers of its own that have done nothing else.
pub fn run(programs: &Programs, site: &Site) -> Result<Value, String> {
    let mut kinds = vec![];
    for (kind, count, target) in KINDS {
        let mut row = json!({ "connection": kind, "connections": count, "target_kb": target });
        for (name, program) in programs.pair() {
            let peer = nginx::start(name, program, site, Room::CELLS)?;
            let kilobytes = one(&peer, kind, count).map_err(|e| format!("{NAME}, {kind}, {name}: {e}"))?;
            row[name] = json!((kilobytes * 100.0).round() / 100.0);
        }
        println!(
            "idle {kind:<8}{count:>6} connections   edgewater {} KB   nginx {} KB   target {target} KB",
            row["edgewater"], row["nginx"]
        );
        kinds.push(row);
    }
    Ok(json!({
        "figure": "memory of the server's processes that is no file's: growth by idle connections, each after one request, divided by their number; KB",
        "kinds": kinds,
    }))
}

/// Kilobytes for each connection.
fn one(peer: &Peer, kind: &'static str, count: usize) -> Result<f64, String> {
    let (pid, ports) = (peer.pid(), peer.ports);
    pin::load(move || async move {
        let alpn = if kind == "tls h2" { "h2" } else { "http/1.1" };
        let tls = Tls::new(&[alpn], false)?;
        let open = |_| {
            let tls = tls.clone();
            async move {
                match kind {
                    "h1" => plain(ports.plain).await,
                    "tls h1" => over_tls(&tls, ports.tls).await,
                    _ => timeout(PATIENCE, http2(&tls, ports.tls)).await.map_err(|_| "no answer")?,
                }
            }
        };
        drop(client::many(FIRST, open).await?);
        sleep(PAUSE).await;
        let before = memory::own(pid)?;
        let held = client::many(count, open).await?;
        sleep(PAUSE).await;
        let after = memory::own(pid)?;
        drop(held);
        Ok((after as f64 - before as f64) / count as f64 / 1024.0)
    })
}

async fn plain(port: u16) -> Result<Held, String> {
    let mut http = Http1::new(client::connect(port).await?);
    http.get(&request(PATH), SMALL).await?;
    Ok(Box::new(http))
}

async fn over_tls(tls: &Tls, port: u16) -> Result<Held, String> {
    let mut http = Http1::new(tls.connect(port).await?);
    http.get(&request(PATH), SMALL).await?;
    Ok(Box::new(http))
}

async fn http2(tls: &Tls, port: u16) -> Result<Held, String> {
    let stream = tls.connect(port).await?;
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|e| e.to_string())?;
    // It lives as long as the sender; its errors show there.
    tokio::spawn(async move { drop(connection.await) });
    let get = http::Request::get(format!("https://localhost{PATH}")).body(()).map_err(|e| e.to_string())?;
    let (answer, _) = sender.send_request(get, true).map_err(|e| e.to_string())?;
    let mut answer = answer.await.map_err(|e| e.to_string())?;
    let mut length = 0;
    while let Some(piece) = answer.body_mut().data().await {
        let piece = piece.map_err(|e| e.to_string())?;
        length += piece.len();
        answer.body_mut().flow_control().release_capacity(piece.len()).map_err(|e| e.to_string())?;
    }
    if answer.status() != 200 || length != SMALL {
        return Err(format!("{} with {length} bytes", answer.status()));
    }
    Ok(Box::new(sender))
}
