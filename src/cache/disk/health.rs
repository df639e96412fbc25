//! Whether the disk works, and how often that is said.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// How long after a failure the disk is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// A line of one kind is logged at most so often.
const RATE: Duration = Duration::from_secs(10);

/// What is known of a disk.
pub struct Health {
    retry: Duration,
    /// While it does not work: when it is tried again.
    failing: Mutex<Option<Instant>>,
}

impl Default for Health {
    fn default() -> Health {
        Health::new(RETRY)
    }
}

impl Health {
    /// A disk that works, and is tried again so long after a failure.
    pub fn new(retry: Duration) -> Health {
        Health { retry, failing: Mutex::new(None) }
    }

    /// Whether it works, or is to be tried again now: one who asks is told so, the others after
    /// another while.
    pub fn may_write(&self) -> bool {
        let mut failing = self.failing.lock();
        match &mut *failing {
            None => true,
            Some(again) if Instant::now() >= *again => {
                *again = Instant::now() + self.retry;
                true
            }
            Some(_) => false,
        }
    }

    /// It failed; whether that is news.
    pub fn failed(&self) -> bool {
        self.failing.lock().replace(Instant::now() + self.retry).is_none()
    }

    /// It worked; whether that is news.
    pub fn worked(&self) -> bool {
        self.failing.lock().take().is_some()
    }

    /// The next try is now.
    #[cfg(test)]
    pub fn retry_now(&self) {
        if let Some(again) = self.failing.lock().as_mut() {
            *again = Instant::now();
        }
    }

    /// Whether it does not work.
    #[cfg(test)]
    pub fn is_failing(&self) -> bool {
        self.failing.lock().is_some()
    }
}

/// Says how often a line may be logged.
#[derive(Default)]
pub struct Rate(Mutex<(Option<Instant>, u64)>);

impl Rate {
    /// `Some` when a line may be logged: how many were not since the last.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock();
        if state.0.is_some_and(|last| last.elapsed() < RATE) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(Instant::now());
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_news_once_and_so_is_its_end() {
        let health = Health::new(Duration::from_secs(1000));
        assert!(health.may_write() && !health.worked());
        assert!(health.failed() && !health.failed());
        assert!(!health.may_write());
        assert!(health.worked() && !health.worked());
        assert!(health.may_write());
    }

    #[test]
    fn one_tries_again() {
        let health = Health::new(Duration::ZERO);
        health.failed();
        assert!(health.may_write());
        let slow = Health { retry: Duration::from_secs(1000), ..health };
        *slow.failing.lock() = Some(Instant::now());
        assert!(slow.may_write() && !slow.may_write());
    }

    #[test]
    fn lines_that_were_not_logged_are_counted() {
        let rate = Rate::default();
        assert_eq!([rate.pass(), rate.pass(), rate.pass()], [Some(0), None, None]);
        rate.0.lock().0 = None;
        assert_eq!(rate.pass(), Some(2));
    }
}
