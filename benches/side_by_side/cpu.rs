//! The CPU time of a server: its process, all threads, and its children.

use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

use crate::memory;

/// User and system time of a process, of threads that have ended too, and of its living children; the kernel counts
/// it in nanoseconds.
pub fn time_of(pid: u32) -> Result<Duration, String> {
    memory::tree(pid).into_iter().try_fold(Duration::ZERO, |sum, pid| {
        let raw = i32::try_from(pid).map_err(|e| e.to_string())?;
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(raw));
        let time = clock.and_then(ClockId::now).map_err(|e| format!("process {pid}: {e}"))?;
        Ok(sum + Duration::from(time))
    })
}
