//! The CPU time of a server: its process, all threads, and its children.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// User and system time of a process and of its living children, from `/proc`.
pub fn time_of(pid: u32) -> Result<Duration, String> {
    let own = own_time(pid)?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|c| c.parse().ok())
        .try_fold(own, |sum, child| Ok(sum + time_of(child)?))
}

fn own_time(pid: u32) -> Result<Duration, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| format!("process {pid}: {e}"))?;
    // The name, the second field, is in parentheses and may hold anything; after it come single words.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(vec![], |(_, rest)| rest.split_whitespace().collect());
    let ticks =
        |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).ok_or("a stat line is too short");
    Ok(Duration::from_micros((ticks(11)? + ticks(12)?) * 1_000_000 / ticks_per_second()))
}

/// The unit of `/proc/PID/stat`, 100 on every Linux of today.
fn ticks_per_second() -> u64 {
    let output = Command::new("getconf").arg("CLK_TCK").output().ok();
    output.and_then(|o| String::from_utf8_lossy(&o.stdout).trim().parse().ok()).unwrap_or(100)
}
