//! A worker's clock. It is read once for what a turn of the event loop brings, as nginx's is, and not by each who asks.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How often it is told before it is read again, in a turn that does not end.
const OFTEN: u32 = 64;

thread_local! {
    /// What it said last, and how often that may still be told.
    static CLOCK: Cell<Option<(Instant, u32)>> = const { Cell::new(None) };
}

/// The present, as of this turn. Where no turns are told of it is the present as it is.
pub fn now() -> Instant {
    match CLOCK.get() {
        Some((at, left @ 1..)) => {
            CLOCK.set(Some((at, left - 1)));
            at
        }
        Some(_) => {
            let now = Instant::now();
            CLOCK.set(Some((now, OFTEN)));
            now
        }
        None => tokio::time::Instant::now().into_std(),
    }
}

/// The time since then, as of this turn.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Another turn begins: time has passed.
pub fn begins() {
    // Read by the first who asks.
    CLOCK.set(Some((CLOCK.get().map_or_else(Instant::now, |(at, _)| at), 0)));
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
            begins();
            let first = now();
            wait(first);
            assert_eq!(now(), first);
            begins();
            assert!(now() > first);
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
            let later = (0..OFTEN).map(|_| now()).collect::<Vec<_>>();
            assert_eq!(later[0], first);
            assert!(now() > first);
        })
        .join()
        .unwrap();
    }
}
