//! The load of the cells: wrk for HTTP/1, h2load for HTTP/2, on the load's core; handshakes are [`handshakes`].

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cells::{Cell, LARGE, Protocol, Source};
use crate::handshakes;
use crate::peers::{LOAD_CORE, Peer, pinned};

/// How long one run lasts; wrk takes whole seconds.
pub const SECONDS: u32 = 1;

/// What a run reported.
pub struct Load {
    /// Requests that were answered in full.
    pub done: u64,
    /// Seconds that the run took by the generator's own clock.
    pub seconds: f64,
    /// CPU time that the server took for it.
    pub cpu: Duration,
}

/// Runs the cell's load once; any failed request is an error, since failures are cheap. `wire` is how many bytes of
/// body one answer has on the wire.
pub fn run(cell: &Cell, peer: &Peer, wire: usize) -> Result<Load, String> {
    if let Protocol::Handshake { resumed, .. } = cell.protocol {
        return handshakes::run(peer, peer.port(cell), resumed);
    }
    let before = peer.cpu()?;
    let mut load =
        if cell.protocol == Protocol::TlsH2 { h2load(cell, peer, wire) } else { wrk(cell, peer, wire) }?;
    load.cpu = peer.cpu()? - before;
    Ok(load)
}

fn wrk(cell: &Cell, peer: &Peer, wire: usize) -> Result<Load, String> {
    let mut command = on_load_core("wrk");
    // With fewer, what 1 MB costs depends on how far the kernel has grown each connection's buffers; proxied, with
    // more, on the disk where nginx puts aside what its clients do not take at once.
    let connections = if cell.source == Source::Proxied && cell.size == LARGE { 16 } else { 64 };
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{SECONDS}s")]);
    if cell.source == Source::Gzip {
        command.args(["-H", "Accept-Encoding: gzip"]);
    }
    let output = output(command.arg(peer.url(cell)))?;
    if output.contains("Socket errors") && !output.contains("connect 0, read 0, write 0, timeout 0")
        || output.contains("Non-2xx")
    {
        return Err(format!("there were errors:\n{output}"));
    }
    // "  12345 requests in 1.00s, 12.34MB read"
    let line = output
        .lines()
        .find(|l| l.contains(" requests in "))
        .ok_or_else(|| format!("no result:\n{output}"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let done: u64 = words.first().and_then(|n| n.parse().ok()).ok_or("no count")?;
    let seconds = words
        .get(3)
        .and_then(|t| t.trim_end_matches(',').strip_suffix('s')?.parse().ok())
        .ok_or("no time")?;
    check(done, words.get(4).and_then(|b| bytes(b)), wire, &output)?;
    Ok(Load { done, seconds, cpu: Duration::ZERO })
}

fn h2load(cell: &Cell, peer: &Peer, wire: usize) -> Result<Load, String> {
    let (connections, streams) = match cell.size {
        LARGE => ("2", "10"),
        _ if cell.is_small() => ("8", "10"),
        _ => ("2", "4"),
    };
    let mut command = on_load_core("h2load");
    command.args(["-t1", "-c", connections, "-m", streams, "-D", &SECONDS.to_string()]);
    let output = output(command.arg(peer.url(cell)))?;
    if !output.contains("Application protocol: h2\n") {
        return Err(format!("not HTTP/2:\n{output}"));
    }
    // "requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout"
    let line = output
        .lines()
        .find(|l| l.starts_with("requests: "))
        .ok_or_else(|| format!("no result:\n{output}"))?;
    let count = |what: &str| -> Option<u64> {
        line.split(", ").find_map(|part| part.strip_suffix(what)?.split_whitespace().last()?.parse().ok())
    };
    let done = count(" succeeded").ok_or("no count")?;
    if count(" failed") != Some(0) || count(" errored") != Some(0) {
        return Err(format!("there were errors:\n{output}"));
    }
    // "traffic: 1.23GB (1234567890) total, …"
    let traffic = output.lines().find(|l| l.starts_with("traffic: "));
    let traffic = traffic.and_then(|l| l.split(['(', ')']).nth(1)?.parse().ok());
    check(done, traffic, wire, &output)?;
    Ok(Load { done, seconds: SECONDS.into(), cpu: Duration::ZERO })
}

/// A server that answers quickly with less than was asked for must not win.
fn check(done: u64, traffic: Option<f64>, wire: usize, output: &str) -> Result<(), String> {
    let traffic = traffic.ok_or_else(|| format!("no traffic:\n{output}"))?;
    // The generators round what they print to three digits.
    let wanted = done as f64 * wire as f64 * 0.99;
    if done == 0 || traffic < wanted {
        return Err(format!("{traffic} bytes for {done} requests are too few:\n{output}"));
    }
    Ok(())
}

/// "12.34MB" in bytes.
fn bytes(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic())?;
    let unit = match &text[digits..] {
        "B" => 1.0,
        "KB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(text[..digits].parse::<f64>().ok()? * unit)
}

/// A generator on the load's core, which has a minute.
fn on_load_core(program: &str) -> Command {
    let mut command = pinned("timeout", LOAD_CORE);
    command.args(["-k", "5", "60", program]);
    command
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}
