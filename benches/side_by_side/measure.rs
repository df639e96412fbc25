//! One cell on its servers, round by round; and that its answers are right.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cells::{Cell, Protocol, Source};
use crate::load::{self, Load};
use crate::peers::Peer;
use crate::site::Site;

/// One run on one server.
pub struct Sample {
    /// CPU microseconds for each request.
    pub micros: f64,
    pub requests_per_second: f64,
}

impl Sample {
    fn new(load: &Load) -> Sample {
        let done = load.done.max(1) as f64;
        Sample { micros: load.cpu.as_secs_f64() * 1e6 / done, requests_per_second: done / load.seconds }
    }
}

/// What one server came to, round by round.
pub struct Samples {
    pub server: &'static str,
    /// Bytes of the body as they are on the wire.
    pub wire: usize,
    pub rounds: Vec<Sample>,
}

/// Measures one cell on those of `peers` whose job it is, in turn; the first run of each only warms it.
pub fn cell(
    cell: &Cell,
    peers: &[Peer],
    origin: &Peer,
    site: &Site,
    rounds: usize,
) -> Result<Vec<Samples>, String> {
    let peers: Vec<&Peer> = peers.iter().filter(|peer| peer.can(cell)).collect();
    let named = |peer: &Peer, why: String| format!("{} on {}: {why}", cell.name(), peer.name);
    let mut all = vec![];
    for peer in &peers {
        let wire = probe(cell, peer, site).map_err(|e| named(peer, e))?;
        all.push(Samples { server: peer.name, wire, rounds: vec![] });
    }
    for round in 0..=rounds {
        // Who goes first changes, so that none is always the one after another.
        for which in (0..peers.len()).map(|n| (n + round) % peers.len()) {
            let (peer, samples) = (peers[which], &mut all[which]);
            let asked = requests_at(origin)?;
            let load = load::run(cell, peer, samples.wire).map_err(|e| named(peer, e))?;
            let asked = requests_at(origin)? - asked;
            // A hit that is none, and a proxied answer that was kept, are wrong answers too.
            let right = match cell.source {
                Source::Proxied => asked >= load.done,
                _ => asked < 10 + load.done / 100,
            };
            if !right {
                return Err(named(peer, format!("{} requests were {asked} at the origin", load.done)));
            }
            if round > 0 {
                samples.rounds.push(Sample::new(&load));
            }
        }
    }
    Ok(all)
}

/// Asks once with curl, and compares status and body; returns how many bytes the body has on the wire.
fn probe(cell: &Cell, peer: &Peer, site: &Site) -> Result<usize, String> {
    let version = if cell.protocol == Protocol::TlsH2 { "2" } else { "1.1" };
    let mut command = Command::new("curl");
    command.args(["-sk", "-m", "10", &format!("--http{version}")]);
    command.args(["-w", "%{stderr}%{http_code} %{http_version} %{size_download}"]);
    if cell.source == Source::Gzip {
        command.arg("--compressed");
    }
    let output = command.arg(peer.url(cell)).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("curl: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wire = said.strip_prefix(&format!("200 {version} ")).and_then(|size| size.trim().parse().ok());
    let wire: usize = wire.ok_or_else(|| format!("curl says {said:?}"))?;
    let expected = site.file(&cell.file())?;
    if output.stdout != expected {
        return Err(format!("{} bytes that are not the {} expected", output.stdout.len(), expected.len()));
    }
    if cell.source == Source::Gzip && wire >= expected.len() {
        return Err("not compressed".into());
    }
    Ok(wire)
}

/// How often the origin was asked so far, by its own count.
fn requests_at(origin: &Peer) -> Result<u64, String> {
    let asking = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", origin.ports.plain))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /requests HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = asking().map_err(|e| format!("the origin's count: {e}"))?;
    // "server accepts handled requests\n 1 1 1 "
    let counts = text.split_once("requests\n").and_then(|(_, rest)| rest.lines().next());
    let count = counts.and_then(|counts| counts.split_whitespace().nth(2)?.parse().ok());
    count.ok_or_else(|| format!("no count of requests:\n{text}"))
}
