//! Memory that is no longer used goes back to the system.
//!
//! An allocator keeps what is freed for who asks next, and gives back what has lain unused when it is asked for more:
//! after a spike, when nobody asks, it would keep all of it. So it is told. What all threads have freed is given back
//! by a thread of its own, for with hundreds of megabytes that takes the kernel tens of milliseconds. The few pages of
//! each size that a worker's thread keeps for itself are the worker's to give, when it has little to do. Then is
//! also the time for what the C library's allocator keeps, which the ciphers of TLS sessions are taken from.

use crate::observe::metrics::Connections;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How the program's allocator is told.
static COLLECT: OnceLock<fn(bool)> = OnceLock::new();
/// Whether a worker has given back what it kept since the C library's allocator was last told to.
static TRIM: AtomicBool = AtomicBool::new(false);

/// Names what gives back memory: all that was freed and has not been used since; where its argument is true, at once
/// and with what the calling thread keeps for itself. What runs without the program's allocator names nothing.
pub fn give_back_by(collect: fn(bool)) {
    // The first is the program's own.
    let _ = COLLECT.set(collect);
}

/// How often it is looked whether there is something to give back.
const EVERY: Duration = Duration::from_secs(1);

/// Starts the thread that gives back what was freed.
pub fn start() -> io::Result<()> {
    let Some(collect) = COLLECT.get() else { return Ok(()) };
    let give_back = move || {
        loop {
            std::thread::sleep(EVERY);
            crate::cache::pack::spare::tend();
            collect(false);
            if TRIM.swap(false, Ordering::Relaxed) {
                trim();
            }
        }
    };
    std::thread::Builder::new().name("memory".to_string()).stack_size(128 << 10).spawn(give_back)?;
    Ok(())
}

/// Gives back what the C library's allocator keeps.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn trim() {
    // SAFETY: `malloc_trim` (malloc.h) takes any number, may be called by any thread at any time, and frees nothing that
    // is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Others do so themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// Requests and connections of one second that leave a worker time for this.
const LITTLE: u64 = 100;
/// Seconds with little to do before a worker gives back what its thread keeps: the other thread comes first.
const CALM: u32 = 3;
/// Seconds between two times, for one that always has a little to do.
const PAUSE: u32 = 10;

/// Finds the moment for what a worker's thread keeps.
#[derive(Debug, Default)]
pub struct Spare {
    work: u64,
    open: i64,
    /// Whether there was anything to do since the last time.
    used: bool,
    calm: u32,
    pause: u32,
}

impl Spare {
    /// Gives back what the calling worker's thread keeps, if this is the moment; to be asked every second.
    pub fn tend(&mut self, seen: &Connections) {
        let Some(collect) = COLLECT.get() else { return };
        if self.is_moment(seen.accepted.get() + seen.requests.get(), seen.active.get()) {
            collect(true);
            TRIM.store(true, Ordering::Relaxed);
        }
    }

    fn is_moment(&mut self, work: u64, open: i64) -> bool {
        let (done, moved) = (work - self.work, open.abs_diff(self.open));
        (self.work, self.open) = (work, open);
        self.used |= done + moved > 0;
        self.calm = if done + moved > LITTLE { 0 } else { self.calm.saturating_add(1) };
        self.pause = self.pause.saturating_sub(1);
        if !self.used || self.calm < CALM || self.pause > 0 {
            return false;
        }
        self.used = false;
        self.pause = PAUSE;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which of the seconds it is the moment; each with what was done and how many are open at its end.
    fn moments(seconds: &[(u64, i64)]) -> Vec<usize> {
        let (mut spare, mut work) = (Spare::default(), 0);
        let mut is_moment = |&(done, open): &(u64, i64)| {
            work += done;
            spare.is_moment(work, open)
        };
        (0..seconds.len()).filter(|second| is_moment(&seconds[*second])).collect()
    }

    #[test]
    fn a_spike_is_followed_by_one_moment() {
        let mut seconds = vec![(20_000, 9_000), (20_000, 10_000), (0, 10_000), (0, 10), (0, 0)];
        seconds.resize(60, (0, 0));
        assert_eq!(moments(&seconds), [6]);
    }

    #[test]
    fn who_is_busy_is_left_alone_and_who_has_a_little_to_do_is_asked_seldom() {
        assert_eq!(moments(&[(1000, 50); 60]), [0; 0]);
        assert_eq!(moments(&[(2, 1); 30]), [2, 12, 22]);
        assert_eq!(moments(&[(0, 0); 30]), [0; 0]);
    }
}
