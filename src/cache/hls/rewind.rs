//! Whether the next version of a playlist goes on where the one before ended, is an older copy of the same
//! stream, or is of an encoder that began anew.
//!
//! Only numbers that become smaller raise the question: a media sequence never does (RFC 8216, 6.2.1). Behind a
//! group of origins they seem to, when one of them lags behind. What tells the two apart is, in this order, when
//! the segments were recorded, how many discontinuities went before, and which names have which numbers.

use super::playlist::Facts;
use std::time::Duration;

/// What the next version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes on.
    Onward,
    /// It is an older copy.
    Older,
    /// It is one or the other: nothing tells.
    Unsure,
    /// The encoder began anew.
    Rewound,
}

/// How the names of two versions go with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// No name, and no number, is in both.
    Apart,
    /// What is in both has the same name and number.
    Same,
    /// A name has another number, or a number another name.
    Different,
}

/// What `next` is after `before`.
pub fn step(before: &Facts, next: &Facts, names: Names) -> Step {
    if next.first >= before.first && next.next >= before.next {
        return Step::Onward;
    }
    if let (Some(was), Some(is)) = (before.dated, next.dated) {
        return dated(before.target, was, is);
    }
    if next.first < before.first && next.discontinuity > before.discontinuity {
        // An older copy has seen no more of them than a newer.
        return Step::Rewound;
    }
    match names {
        Names::Different => Step::Rewound,
        Names::Same => Step::Unsure,
        // A copy that lags has something of what the other still has.
        Names::Apart => Step::Rewound,
    }
}

/// By the numbers and times of one segment of each: in one numbering a segment is recorded before those with
/// greater numbers, and no later than their target durations allow.
fn dated(target: Duration, was: (u64, i64), is: (u64, i64)) -> Step {
    let target = i64::try_from(target.as_millis()).unwrap_or(i64::MAX);
    let later = is.1.saturating_sub(was.1);
    let segments = i64::try_from(is.0.saturating_sub(was.0)).unwrap_or(i64::MAX);
    // Clocks of two origins differ a little.
    let most = segments.saturating_mul(target).saturating_add(target / 2);
    if later > most { Step::Rewound } else { Step::Older }
}

#[cfg(test)]
mod tests {
    use super::super::playlist::parse;
    use super::*;
    use proptest::prelude::*;

    /// Of 2-second segments: first number, count, discontinuities, and when the last was recorded.
    fn facts(first: u64, count: u64, discontinuity: u64, seconds: Option<i64>) -> Facts {
        let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
        let facts = parse(text.as_bytes(), b"").unwrap().facts;
        let next = first + count;
        Facts { next, discontinuity, dated: seconds.map(|s| (next - 1, s * 1000)), ..facts }
    }

    #[test]
    fn the_table() {
        use Names::{Apart, Different, Same};
        use Step::*;
        let plain = |first, count| facts(first, count, 0, None);
        let at = |first, count, seconds| facts(first, count, 0, Some(seconds));
        for (before, next, names, wanted) in [
            // The window slides, grows, stands still, or jumps ahead.
            (plain(5, 5), plain(6, 5), Same, Onward),
            (plain(0, 5), plain(0, 6), Same, Onward),
            (plain(5, 5), plain(5, 5), Same, Onward),
            (plain(5, 5), plain(900, 5), Apart, Onward),
            // A restart: nothing of it was there before.
            (plain(900, 5), plain(0, 1), Apart, Rewound),
            (plain(3, 5), plain(0, 5), Different, Rewound),
            // One origin lags, or an encoder began anew soon after it had begun.
            (plain(6, 5), plain(5, 5), Same, Unsure),
            (plain(0, 6), plain(0, 1), Same, Unsure),
            (plain(6, 5), plain(4, 9), Same, Unsure),
            // Times tell.
            (at(6, 5, 100), at(5, 5, 98), Same, Older),
            (at(900, 5, 1000), at(0, 1, 1004), Apart, Rewound),
            (at(900, 5, 1000), at(0, 1, 1001), Apart, Older),
            (at(900, 5, 1000), at(50, 5, 200), Apart, Older),
            (at(0, 6, 10), at(0, 1, 20), Same, Rewound),
            (at(3, 6, 100), at(0, 12, 160), Same, Rewound),
            (at(6, 5, 100), at(4, 8, 102), Same, Older),
            // So do discontinuities.
            (plain(6, 5), facts(5, 5, 1, None), Same, Rewound),
            (facts(6, 5, 3, None), facts(5, 5, 2, None), Same, Unsure),
        ] {
            assert_eq!(step(&before, &next, names), wanted, "{before:?} {next:?} {names:?}");
        }
    }

    proptest! {
        /// Whatever lags behind a stream with times is never taken for a restart.
        #[test]
        fn a_copy_that_lags_is_older(first in 0u64..1000, count in 1u64..50, lag in 1u64..50, other in 1u64..50) {
            let date = |next: u64| i64::try_from(next * 2).unwrap();
            let before = facts(first + lag, count, 0, Some(date(first + lag + count)));
            let next = facts(first, other, 0, Some(date(first + other)));
            prop_assert_ne!(step(&before, &next, Names::Same), Step::Rewound);
        }
    }
}
