//! Which segment of the endless stream is live at what time: arithmetic on the clock, with no state.
//!
//! Segment `n` covers the two seconds of Unix time from `2 n` on, for ever: two sites on two machines, and one
//! site before and after a restart, agree on every number. The clip's segments follow each other in a circle,
//! so segment `n` shows the clip's segment `n` modulo the clip's length, and each time it starts anew its
//! timestamps start anew too: a discontinuity.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::clip;

/// How long each segment lasts, in seconds.
pub const SEGMENT_SECONDS: u64 = 2;

/// How many segments a playlist lists.
pub const WINDOW: u64 = 6;

/// How many segments can be had after they have left the playlist. RFC 8216 (section 6.2.2) asks for at least
/// the length of the longest playlist that listed them; this is twice that, for a player that lags.
pub const KEPT: u64 = 2 * WINDOW;

/// What can be said of a segment at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Its last frame has not been shown yet.
    NotYet,
    /// It can be had.
    Published,
    /// It left the playlist long ago.
    Gone,
}

/// The last segment that is complete at `now` (time since the Unix epoch).
pub fn newest(now: Duration) -> u64 {
    (now.as_secs() / SEGMENT_SECONDS).saturating_sub(1)
}

/// The segments a playlist lists at `now`.
pub fn window(now: Duration) -> RangeInclusive<u64> {
    let last = newest(now);
    last.saturating_sub(WINDOW - 1)..=last
}

/// Whether segment `n` can be had at `now`.
pub fn availability(n: u64, now: Duration) -> Availability {
    let window = window(now);
    if n > *window.end() {
        Availability::NotYet
    } else if n + KEPT < *window.start() {
        Availability::Gone
    } else {
        Availability::Published
    }
}

/// When segment `n` begins, since the Unix epoch.
pub fn begins(n: u64) -> Duration {
    Duration::from_secs(n * SEGMENT_SECONDS)
}

/// Which of the clip's segments segment `n` shows.
pub fn clip_index(n: u64) -> usize {
    // Less than the clip's length, so it fits.
    (n % clip_length()) as usize
}

/// Whether the clip starts anew with segment `n`, which a playlist marks with EXT-X-DISCONTINUITY before it.
pub fn is_discontinuity(n: u64) -> bool {
    n > 0 && n.is_multiple_of(clip_length())
}

/// The EXT-X-DISCONTINUITY-SEQUENCE of a playlist whose first segment is `first`: how many marks went out of
/// the playlist before. If the first segment carries a mark itself, that one is still in.
pub fn discontinuity_sequence(first: u64) -> u64 {
    first.saturating_sub(1) / clip_length()
}

fn clip_length() -> u64 {
    clip::SEGMENTS.len() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_segment_is_published_when_its_last_second_is_over() {
        // Segment 100 covers the seconds 200 and 201.
        let last_moment = Duration::from_millis(201_999);
        assert_eq!(availability(100, last_moment), Availability::NotYet);
        assert_eq!(availability(100, Duration::from_secs(202)), Availability::Published);
        assert_eq!(window(Duration::from_secs(202)), 95..=100);
    }

    #[test]
    fn a_segment_outlives_the_playlist_by_two_of_its_lengths() {
        let now = Duration::from_secs(10_000);
        let first = *window(now).start();
        assert_eq!(availability(first - 12, now), Availability::Published);
        assert_eq!(availability(first - 13, now), Availability::Gone);
        assert_eq!(availability(0, now), Availability::Gone);
    }

    #[test]
    fn marks_are_counted_when_they_leave() {
        assert!(is_discontinuity(24));
        assert!(!is_discontinuity(25));
        // 24 carries the second mark (12 the first): listed first it is still in, and then it is out.
        assert_eq!(discontinuity_sequence(23), 1);
        assert_eq!(discontinuity_sequence(24), 1);
        assert_eq!(discontinuity_sequence(25), 2);
    }

    proptest! {
        /// The window is whole, its segments can be had, and the next one cannot, at any time.
        #[test]
        fn what_is_listed_can_be_had(millis in 60_000u64..4_000_000_000_000) {
            let now = Duration::from_millis(millis);
            let window = window(now);
            prop_assert_eq!(window.clone().count() as u64, WINDOW);
            for n in window.clone() {
                prop_assert_eq!(availability(n, now), Availability::Published);
            }
            prop_assert_eq!(availability(window.end() + 1, now), Availability::NotYet);
            // Live: the newest segment ended less than one segment ago.
            let ended = begins(window.end() + 1);
            prop_assert!(ended <= now && now - ended < Duration::from_secs(SEGMENT_SECONDS));
        }

        /// The sequence number of a mark is one for all playlists that list it: what leaves is counted once.
        #[test]
        fn what_leaves_is_counted_once(first in 1u64..4_000_000_000) {
            let left = u64::from(is_discontinuity(first));
            prop_assert_eq!(discontinuity_sequence(first + 1), discontinuity_sequence(first) + left);
        }
    }
}
