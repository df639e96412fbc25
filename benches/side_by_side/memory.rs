//! The memory of a server: its process and its children. What the kernel holds for it is not in it.

use std::fs;
use std::path::Path;

/// A process and its living children.
pub fn tree(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children.flat_map(tree)).collect()
}

/// Bytes that are no file's; pages that processes share are counted once.
pub fn own(pid: u32) -> Result<u64, String> {
    sum(pid, "smaps_rollup", &["Pss_Anon:", "Pss_Shmem:"])
}

/// Bytes that are resident; pages that processes share are counted once.
pub fn resident(pid: u32) -> Result<u64, String> {
    sum(pid, "smaps_rollup", &["Pss:"])
}

/// The most bytes that were ever resident, process by process: what nginx's master and its worker share counts twice.
pub fn peak(pid: u32) -> Result<u64, String> {
    sum(pid, "status", &["VmHWM:"])
}

fn sum(pid: u32, file: &str, keys: &[&str]) -> Result<u64, String> {
    let mut bytes = 0;
    for one in tree(pid) {
        let path = format!("/proc/{one}/{file}");
        let text = match fs::read_to_string(&path) {
            // A child that has ended in between, as nginx's loader of caches does, takes none.
            Err(_) if one != pid && !Path::new(&path).exists() => continue,
            text => text.map_err(|e| format!("{path}: {e}"))?,
        };
        for key in keys {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            bytes += kilobytes.ok_or_else(|| format!("{path}: no {key}"))? << 10;
        }
    }
    Ok(bytes)
}

/// Megabytes, for a report.
pub fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 20) * 10.0).round() / 10.0
}
