//! The clocks of the kernel's last tick: some milliseconds late, and next to free to read.
#![allow(unsafe_code)]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How late they are at most: a tick of the slowest kernels.
pub const LATE: Duration = Duration::from_millis(10);

/// Time since 1970; a clock before it reads as 1970.
pub fn since_epoch() -> Duration {
    read(libc::CLOCK_REALTIME_COARSE)
}

/// Time that only grows, since some moment before the process began.
pub fn uptime() -> Duration {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// The present, at most [`LATE`] ago.
pub fn now() -> Instant {
    static BEGIN: LazyLock<(Instant, Duration)> =
        LazyLock::new(|| (Instant::now(), read(libc::CLOCK_MONOTONIC)));
    BEGIN.0 + uptime().saturating_sub(BEGIN.1)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to nothing but `now`, which is ours and of the type that it wants. Where it fails, which it
    // does for a clock that there is not, it leaves zeros: these have been in Linux since 2.6.32.
    unsafe { libc::clock_gettime(clock, &mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_ahead_and_hardly_late() {
        let end = Instant::now() + 3 * LATE;
        while Instant::now() < end {
            let before = Instant::now();
            let seen = now();
            assert!(seen <= Instant::now());
            // Others may hold the processor in between.
            assert!(before.saturating_duration_since(seen) <= LATE);
        }
    }
}
