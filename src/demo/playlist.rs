//! The live media playlist, written from the clock.

use std::fmt::Write;
use std::time::Duration;

use super::timeline::{self, SEGMENT_SECONDS};

/// The playlist as it is at `now` (time since the Unix epoch).
pub fn media_playlist(now: Duration) -> String {
    let window = timeline::window(now);
    let first = *window.start();
    let mut text = String::with_capacity(1024);
    text.push_str("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "#EXT-X-TARGETDURATION:{SEGMENT_SECONDS}\n\
         #EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
        timeline::discontinuity_sequence(first)
    );
    for n in window {
        if timeline::is_discontinuity(n) {
            text.push_str("#EXT-X-DISCONTINUITY\n");
        }
        let _ = write!(
            text,
            "#EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:{SEGMENT_SECONDS}.000,\n{}\n",
            iso_time(timeline::begins(n)),
            segment_name(n)
        );
    }
    text
}

/// The name of segment `n`, which stands for the same bytes for ever.
pub fn segment_name(n: u64) -> String {
    format!("seg-{n}.ts")
}

/// The number of the segment called `name`; `None` if no segment can be called so.
pub fn segment_number(name: &str) -> Option<u64> {
    let n = name.strip_prefix("seg-")?.strip_suffix(".ts")?.parse().ok()?;
    // One name for one segment: no sign, no leading zero.
    (segment_name(n) == name).then_some(n)
}

/// `since_epoch` as RFC 3339 writes it, in UTC with milliseconds.
pub fn iso_time(since_epoch: Duration) -> String {
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    // A clock beyond the year 9999 gets the last moment that can be written.
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_playlist_at_a_seam() {
        // Segment 36 starts the clip anew; the newest complete one at 76.5 s is 37.
        let text = media_playlist(Duration::from_millis(76_500));
        assert_eq!(
            text,
            "#EXTM3U\n\
             #EXT-X-VERSION:3\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-TARGETDURATION:2\n\
             #EXT-X-MEDIA-SEQUENCE:32\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:2\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:01:04.000Z\n#EXTINF:2.000,\nseg-32.ts\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:01:06.000Z\n#EXTINF:2.000,\nseg-33.ts\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:01:08.000Z\n#EXTINF:2.000,\nseg-34.ts\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:01:10.000Z\n#EXTINF:2.000,\nseg-35.ts\n\
             #EXT-X-DISCONTINUITY\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:01:12.000Z\n#EXTINF:2.000,\nseg-36.ts\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:01:14.000Z\n#EXTINF:2.000,\nseg-37.ts\n"
        );
    }

    #[test]
    fn segment_names_are_unique() {
        assert_eq!(segment_number("seg-885000123.ts"), Some(885_000_123));
        for name in [
            "seg-+5.ts",
            "seg-05.ts",
            "seg-.ts",
            "seg-5.mp4",
            "seg-5",
            "5.ts",
            "seg--5.ts",
            "seg-99999999999999999999.ts",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    /// What a player makes of a playlist: for each URI its media sequence number, its discontinuity sequence
    /// number and its date.
    fn as_a_player_reads(text: &str) -> Vec<(String, u64, u64, String)> {
        let mut sequence = 0;
        let mut discontinuity = 0;
        let mut date = String::new();
        let mut segments = Vec::new();
        for line in text.lines() {
            if let Some(n) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                sequence = n.parse().unwrap();
            } else if let Some(n) = line.strip_prefix("#EXT-X-DISCONTINUITY-SEQUENCE:") {
                discontinuity = n.parse().unwrap();
            } else if line == "#EXT-X-DISCONTINUITY" {
                discontinuity += 1;
            } else if let Some(d) = line.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:") {
                date = d.to_owned();
            } else if !line.starts_with('#') {
                segments.push((line.to_owned(), sequence, discontinuity, date.clone()));
                sequence += 1;
            }
        }
        segments
    }

    proptest! {
        /// A player that follows the playlist, at any pace, sees each segment with the same numbers and date in
        /// every playlist that lists it, and a new discontinuity exactly where the clip starts anew.
        #[test]
        fn playlists_agree_with_each_other(
            start in 60_000u64..4_000_000_000_000,
            steps in prop::collection::vec(0u64..9_000, 1..40),
        ) {
            let mut seen: HashMap<String, (u64, u64, String)> = HashMap::new();
            let mut millis = start;
            for step in steps {
                millis += step;
                let segments = as_a_player_reads(&media_playlist(Duration::from_millis(millis)));
                for (uri, sequence, discontinuity, date) in &segments {
                    prop_assert_eq!(segment_number(uri), Some(*sequence));
                    let told = (*sequence, *discontinuity, date.clone());
                    let before = seen.entry(uri.clone()).or_insert_with(|| told.clone());
                    prop_assert_eq!(&*before, &told);
                }
                for pair in segments.windows(2) {
                    let new_clip = timeline::clip_index(pair[1].1) == 0;
                    prop_assert_eq!(pair[1].2 - pair[0].2, u64::from(new_clip));
                }
            }
        }
    }
}
