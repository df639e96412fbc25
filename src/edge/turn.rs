//! A worker's clock. It is read once for what a turn of the event loop brings, as nginx's is, and not by each who asks.
//!
//! A turn may be long, and one that never ends is told of nowhere: what was read is told no longer than until the
//! kernel's next tick, which is cheaper to ask for.

use crate::http::tick;
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Whether turns are told of.
    static TURNS: Cell<bool> = const { Cell::new(false) };
    /// What the clock said last in this turn, and at which tick.
    static SAID: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// The present, as of this turn, and at most a tick ago. Where no turns are told of it is the present as it is.
pub fn now() -> Instant {
    match SAID.get() {
        Some((said, at)) if at == tick::uptime() => said,
        _ => read(),
    }
}

fn read() -> Instant {
    // Asked for first: another may come in between.
    let at = tick::uptime();
    // Tokio's, which tests may have stand still.
    let now = tokio::time::Instant::now().into_std();
    if TURNS.get() {
        SAID.set(Some((now, at)));
    }
    now
}

/// The time since then, as of this turn.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Another turn begins: time has passed.
pub fn begins() {
    TURNS.set(true);
    SAID.set(None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_for_a_turn_and_no_longer_than_a_tick() {
        // A thread of its own, for it keeps the clock.
        std::thread::spawn(|| {
            let before = Instant::now();
            assert!(now() >= before);
            // A tick may come at any time, but not at every.
            let stood = || {
                begins();
                let (first, at) = (now(), tick::uptime());
                while first.elapsed() < Duration::from_micros(50) {}
                let second = now();
                (first == second, at == tick::uptime() && at == SAID.get().unwrap().1, first)
            };
            assert!((0..100).any(|_| stood().0));
            assert!((0..100).map(|_| stood()).all(|(same, quiet, _)| same || !quiet));
            let (.., first) = stood();
            begins();
            assert!(now() > first && !since(first).is_zero());
            // The turn does not end, and yet time goes on.
            let first = now();
            while first.elapsed() < 3 * tick::LATE {}
            assert!(since(first) >= 2 * tick::LATE);
        })
        .join()
        .unwrap();
    }
}
