//! A worker's clock. It is read once for what a turn of the event loop brings, as nginx's is, and not by each who asks.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How often it is told before it is read again, in a turn that does not end.
const OFTEN: u32 = 64;

thread_local! {
    /// Whether turns are told of.
    static TURNS: Cell<bool> = const { Cell::new(false) };
    /// How often what the clock said last may still be told.
    static LEFT: Cell<u32> = const { Cell::new(0) };
    static SAID: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The present, as of this turn. Where no turns are told of it is the present as it is.
#[inline]
pub fn now() -> Instant {
    let left = LEFT.get();
    match SAID.get() {
        Some(said) if left > 0 => {
            LEFT.set(left - 1);
            said
        }
        _ => read(),
    }
}

fn read() -> Instant {
    // Tokio's, which tests may have stand still.
    let now = tokio::time::Instant::now().into_std();
    if TURNS.get() {
        SAID.set(Some(now));
        LEFT.set(OFTEN - 1);
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
    LEFT.set(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(from: Instant) {
        while from.elapsed() < Duration::from_micros(50) {}
    }

    #[test]
    fn it_stands_for_a_turn() {
        // A thread of its own, for it keeps the clock.
        std::thread::spawn(|| {
            let before = Instant::now();
            assert!(now() >= before);
            wait(before);
            assert!(now() > before);
            begins();
            let first = now();
            wait(first);
            assert_eq!((now(), since(first)), (first, Duration::ZERO));
            begins();
            assert!(now() > first && !since(first).is_zero());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn it_goes_on_in_a_turn_without_end() {
        std::thread::spawn(|| {
            begins();
            let first = now();
            wait(first);
            assert!((1..OFTEN).all(|_| now() == first));
            assert!(now() > first);
        })
        .join()
        .unwrap();
    }
}
