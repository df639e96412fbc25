//! A worker's clock. It is read once for what a turn of the event loop brings, as nginx's is, and not by each who asks.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How often it is told before it is read again, in a turn that does not end.
const OFTEN: u32 = 64;

thread_local! {
    /// The number of the turn; 0 where no turns are told of.
    static TURN: Cell<u32> = const { Cell::new(0) };
    /// What the clock said last, in which turn, and how often that may still be told.
    static CLOCK: Cell<(Option<Instant>, u32, u32)> = const { Cell::new((None, 0, 0)) };
}

/// The present, as of this turn. Where no turns are told of it is the present as it is.
pub fn now() -> Instant {
    let now = TURN.get();
    if let (Some(said), turn, left @ 1..) = CLOCK.get()
        && turn == now
    {
        CLOCK.set((Some(said), turn, left - 1));
        return said;
    }
    // Tokio's, which tests may have stand still.
    let said = tokio::time::Instant::now().into_std();
    if now != 0 {
        CLOCK.set((Some(said), now, OFTEN - 1));
    }
    said
}

/// The time since then, as of this turn.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Another turn begins: time has passed.
pub fn begins() {
    TURN.set(TURN.get().wrapping_add(1).max(1));
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

    #[test]
    fn a_turn_has_a_number_after_the_last_one_too() {
        std::thread::spawn(|| {
            TURN.set(u32::MAX);
            begins();
            assert_eq!(TURN.get(), 1);
        })
        .join()
        .unwrap();
    }
}
