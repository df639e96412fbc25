//! The process's time and the machine's, side by side.

use crate::http::date;
use std::time::Duration;
use tokio::time::Instant;

/// No time is farther away than a century.
const FAR: u64 = 100 * 365 * 86_400 * 1000;

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The process's.
    pub instant: Instant,
    /// Milliseconds since 1970.
    pub millis: u64,
}

impl Clock {
    /// This moment.
    pub fn now() -> Clock {
        let millis = date::since_epoch().as_millis().try_into().unwrap_or(u64::MAX);
        Clock { instant: Instant::now(), millis }
    }

    /// An instant by the machine's clock.
    pub fn millis_of(&self, at: Instant) -> u64 {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        match at.checked_duration_since(self.instant) {
            Some(later) => self.millis.saturating_add(millis(later)),
            None => self.millis.saturating_sub(millis(self.instant - at)),
        }
    }

    /// The instant of `millis`, as it was written at `written`. What lies before the process began
    /// may not have an instant; it is over then, and so is what has one now. A clock that was set back
    /// makes nothing last longer than it was to last when it was written.
    pub fn instant_of(&self, millis: u64, written: u64) -> Instant {
        if millis <= self.millis {
            let ago = Duration::from_millis(self.millis - millis);
            return self.instant.checked_sub(ago).unwrap_or(self.instant);
        }
        let left = (millis - self.millis).min(millis.saturating_sub(written)).min(FAR);
        self.instant + Duration::from_millis(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stays_what_it_is_over_a_restart() {
        let clock = Clock { instant: Instant::now() + Duration::from_secs(5), millis: 1_000_000 };
        for offset in [-4000i64, 0, 7, 60_000] {
            let at = if offset < 0 {
                clock.instant - Duration::from_millis(offset.unsigned_abs())
            } else {
                clock.instant + Duration::from_millis(offset.unsigned_abs())
            };
            let millis = clock.millis_of(at);
            assert_eq!(millis as i64, 1_000_000 + offset);
            let later = Clock { instant: clock.instant + Duration::from_secs(1), millis: 1_001_000 };
            assert_eq!(later.instant_of(millis, clock.millis), at, "{offset}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_last_longer() {
        let clock = Clock { instant: Instant::now(), millis: 1_000_000 };
        let until = clock.instant_of(3_010_000, 3_000_000);
        assert_eq!(until - clock.instant, Duration::from_secs(10));
        assert!(clock.instant_of(0, 0) <= clock.instant);
        assert!(clock.instant_of(u64::MAX, 0) > clock.instant);
    }
}
