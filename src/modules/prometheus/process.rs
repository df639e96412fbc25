//! What the kernel says of the process, under the names Prometheus's own libraries use for it.

use super::edge::since_1970;
use crate::edge::Edge;
use crate::observe::families::Families;

/// Clock ticks a second in `/proc`; the kernel's interface fixes it at 100 whatever its own clock.
const TICKS: f64 = 100.0;

/// Reports what can be read; what cannot is left out.
pub fn report(edge: &Edge, families: &mut Families) {
    families.gauge(
        "process_start_time_seconds",
        "When the process began, in seconds since 1970.",
        &[],
        since_1970(edge.started),
    );
    if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|s| cpu_seconds(&s)) {
        families.counter_f64("process_cpu_seconds_total", "CPU time, user and system.", &[], seconds);
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let sizes = [
            ("process_resident_memory_bytes", "Memory in RAM.", "VmRSS:"),
            ("process_virtual_memory_bytes", "Address space.", "VmSize:"),
        ];
        for (name, help, field) in sizes {
            if let Some(bytes) = kilobytes(&status, field).map(|k| k * 1024) {
                families.gauge(name, help, &[], bytes as f64);
            }
        }
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the directory that is being read.
        let open = entries.count().saturating_sub(1);
        families.gauge("process_open_fds", "Open file descriptors.", &[], open as f64);
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        families.gauge("process_max_fds", "The most file descriptors allowed.", &[], most as f64);
    }
}

/// User and system time of `/proc/self/stat`. The second field is a name in parentheses that may hold
/// anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        let stat = "4242 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 3 0 99 1000 50";
        assert_eq!(cpu_seconds(stat), Some(1.75));
        let status = "Name:\tx\nVmSize:\t  2000 kB\nVmRSS:\t    12 kB\n";
        assert_eq!((kilobytes(status, "VmRSS:"), kilobytes(status, "VmSize:")), (Some(12), Some(2000)));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
    }
}
