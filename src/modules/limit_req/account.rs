//! The leaky bucket of a key, in thousandths of a request and milliseconds, as nginx counts.

/// What a key owes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Thousandths of a request above the rate, when it was last counted.
    pub excess: u64,
    /// When that was, in milliseconds; [`NEVER`] before the first time.
    pub last: u64,
    /// Requests that looked and have not settled yet; until they have, the entry stays.
    pub holds: u32,
}

/// No time: nothing was counted yet. Clocks begin at 1.
pub const NEVER: u64 = 0;

/// A key is forgotten only when it was idle so long, in milliseconds, and owes nothing.
const IDLE: u64 = 60_000;

impl Account {
    /// What the key would owe with one more request now, where `rate` is thousandths a second.
    pub fn with_one_more(&self, rate: u64, now: u64) -> u64 {
        if self.last == NEVER {
            return 0;
        }
        let drained = rate.saturating_mul(self.elapsed(now)) / 1000;
        self.excess.saturating_add(1000).saturating_sub(drained)
    }

    /// Counts a request: `excess` is what [`Account::with_one_more`] said.
    pub fn count(&mut self, excess: u64, now: u64) {
        if self.last == NEVER || self.elapsed(now) > 0 {
            self.last = now;
        }
        self.excess = excess;
    }

    /// Whether the key owes nothing and may be forgotten.
    pub fn is_idle(&self, rate: u64, now: u64) -> bool {
        let idle = now.abs_diff(self.last);
        idle >= IDLE && self.excess <= rate.saturating_mul(idle) / 1000
    }

    /// Milliseconds since the last count. A clock that a worker read before another counted is a
    /// little behind, which is no time; one that is far behind was set, which is some.
    fn elapsed(&self, now: u64) -> u64 {
        match now.checked_sub(self.last) {
            Some(elapsed) => elapsed,
            None if self.last - now > IDLE => 1,
            None => 0,
        }
    }
}

/// How long a request has to wait so that what is owed falls to `free` thousandths, in milliseconds.
pub fn delay(excess: u64, free: u64, rate: u64) -> u64 {
    // A rate below a thousandth a second reads as no rate; nginx would divide by it.
    excess.saturating_sub(free).saturating_mul(1000) / rate.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_adds_up_and_drains_with_the_rate() {
        let mut account = Account::default();
        let mut seen = Vec::new();
        for now in [1_000, 1_000, 1_000, 1_050, 1_100, 2_000] {
            let excess = account.with_one_more(10_000, now);
            account.count(excess, now);
            seen.push(excess);
        }
        // At ten a second a request is drained in 100 ms.
        assert_eq!(seen, [0, 1000, 2000, 2500, 3000, 0]);
    }

    #[test]
    fn a_rate_by_the_minute_is_cut_to_thousandths() {
        let account = Account { excess: 0, last: 1, holds: 0 };
        // One a minute is 16 thousandths a second: not yet drained after a minute.
        assert_eq!(account.with_one_more(16, 60_001), 40);
        assert_eq!(account.with_one_more(16, 62_501), 0);
    }

    #[test]
    fn a_clock_behind_is_no_time_and_one_far_behind_some() {
        let account = Account { excess: 500, last: 100_000, holds: 0 };
        assert_eq!(account.with_one_more(1_000, 99_000), 1_500);
        assert_eq!(account.with_one_more(1_000, 30_000), 1_499);
    }

    #[test]
    fn delays_are_what_exceeds_the_free_part() {
        assert_eq!(delay(2_000, 0, 10_000), 200);
        assert_eq!(delay(2_000, 1_000, 10_000), 100);
        assert_eq!(delay(1_000, 2_000, 10_000), 0);
        assert_eq!(delay(1_000, u64::MAX, 10_000), 0);
    }

    #[test]
    fn only_who_owes_nothing_for_a_minute_is_idle() {
        let account = Account { excess: 5_000, last: 1, holds: 0 };
        assert!(!account.is_idle(10_000, 60_000));
        assert!(account.is_idle(10_000, 60_001));
        assert!(!account.is_idle(16, 60_001));
        assert!(account.is_idle(16, 312_501));
    }

    proptest! {
        /// However requests come, those that pass a limit are at most the burst, one, and what the
        /// rate gives for the time.
        #[test]
        fn never_more_than_the_rate_gives(
            rate in 1u64..50_000,
            burst in 0u64..20,
            gaps in proptest::collection::vec(0u64..400, 1..200),
        ) {
            let mut account = Account::default();
            let (mut now, mut passed) = (1_000u64, 0u64);
            let start = now;
            for gap in gaps {
                now += gap;
                let excess = account.with_one_more(rate, now);
                if excess <= burst * 1000 {
                    account.count(excess, now);
                    passed += 1;
                }
            }
            let given = rate * (now - start) / 1000;
            prop_assert!(passed * 1000 <= burst * 1000 + 1000 + given, "{passed} of {given}");
        }

        #[test]
        fn no_number_is_too_large(excess: u64, last: u64, rate: u64, now: u64, free: u64) {
            let account = Account { excess, last, holds: 0 };
            let _ = (account.with_one_more(rate, now), account.is_idle(rate, now), delay(excess, free, rate));
        }
    }
}
