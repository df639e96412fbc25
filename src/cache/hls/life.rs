//! How long a playlist lives, and how long what is not there yet.

use super::playlist::{Facts, Kind};
use std::time::Duration;

/// What a location wants (`hls_playlist_valid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Of a live media playlist.
    pub live: Live,
    /// Of a master playlist whose origin does not say it.
    pub master: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { live: Live::Percent(50), master: Duration::from_secs(10) }
    }
}

/// How long a live media playlist lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// This share of its target duration, or of its part target where it has parts.
    Percent(u32),
    /// So long, but no longer than a target duration.
    Time(Duration),
}

/// What a request asks of a server that can hold it (delivery directives, rfc8216bis 6.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `_HLS_msn`: answer when this segment is there.
    pub number: Option<u64>,
    /// `_HLS_part`: or this part of it.
    pub part: Option<u64>,
}

/// How short a target is that is believed.
const SHORTEST_TARGET: Duration = Duration::from_millis(100);

/// How long a playlist lives by what it says, from when its head was received on; `inactive` is how long
/// the zone keeps what nobody asks for.
pub fn of(facts: &Facts, asked: Directives, rules: &Rules, inactive: Duration) -> Duration {
    if facts.kind == Kind::Master {
        return rules.master;
    }
    if facts.ended {
        return inactive;
    }
    let target = facts.target.max(SHORTEST_TARGET);
    // The state that was waited for. Another never becomes it, so it may be kept for long: six target
    // durations (rfc8216bis, B.1). A server that does not wait answers with what there is, which may become it.
    if let Some(number) = asked.number
        && facts.blocks
        && facts.has(number, asked.part)
    {
        return target * 6;
    }
    let unit = facts.part_target.map_or(target, |part| part.clamp(SHORTEST_TARGET, target));
    match rules.live {
        Live::Percent(share) => unit * share / 100,
        Live::Time(time) => time.min(target),
    }
}

/// How long it may be remembered that something of this stream is not there: a quarter of the target
/// duration, or of the part target.
pub fn of_absence(facts: &Facts) -> Duration {
    let target = facts.target.max(SHORTEST_TARGET);
    facts.part_target.map_or(target, |part| part.clamp(SHORTEST_TARGET, target)) / 4
}

/// The same where no stream is known.
pub const UNKNOWN_ABSENCE: Duration = Duration::from_secs(1);

/// What the origin states beside what the playlist says.
///
/// A time that it states is the most a live playlist gets of the rule, and holds where it is shorter. A
/// master playlist lives as long as the origin says where it says it. One that has ended lives by the rule
/// at least: origins commonly state one short time for all their playlists, and it changes no more.
pub fn with_stated(facts: &Facts, rule: Duration, stated: Option<Duration>) -> Duration {
    match stated.filter(|stated| !stated.is_zero()) {
        None => rule,
        Some(stated) if facts.kind == Kind::Master => stated,
        Some(stated) if facts.ended => stated.max(rule),
        Some(stated) => stated.min(rule),
    }
}

#[cfg(test)]
mod tests {
    use super::super::playlist::parse;
    use super::*;

    const INACTIVE: Duration = Duration::from_secs(600);

    fn lives(text: &str, asked: Directives, rules: Rules) -> u128 {
        of(&parse(text.as_bytes(), b"").unwrap().facts, asked, &rules, INACTIVE).as_millis()
    }

    const LIVE: &str =
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:6,\n7.ts\n#EXTINF:6,\n8.ts\n";
    const LOW_LATENCY: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.0\n#EXT-X-PART-INF:PART-TARGET=0.5\n\
        #EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:4,\n7.m4s\n#EXT-X-PART:DURATION=0.5,URI=\"8.0.m4s\"\n\
        #EXT-X-PART:DURATION=0.5,URI=\"8.1.m4s\"\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"8.2.m4s\"\n";
    const MASTER: &str = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow.m3u8\n";

    #[test]
    fn the_table() {
        let none = Directives::default();
        let asks = |number, part| Directives { number: Some(number), part };
        let percent = |n| Rules { live: Live::Percent(n), ..Rules::default() };
        let time = |ms| Rules { live: Live::Time(Duration::from_millis(ms)), ..Rules::default() };
        let rules = Rules::default();
        let ended = format!("{LIVE}#EXT-X-ENDLIST\n");
        let vod = LIVE.replace("#EXTINF:6,\n7", "#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF:6,\n7");
        let event = LIVE.replace("#EXTINF:6,\n7", "#EXT-X-PLAYLIST-TYPE:EVENT\n#EXTINF:6,\n7");
        let without = LOW_LATENCY.replace("CAN-BLOCK-RELOAD=YES,", "");
        for (text, asked, rules, wanted) in [
            // Half the target duration, or what is said in its place.
            (LIVE, none, rules, 3000),
            (LIVE, none, percent(25), 1500),
            (LIVE, none, time(500), 500),
            (LIVE, none, time(60_000), 6000),
            (&event, none, rules, 3000),
            // What does not change lives as long as the zone keeps it.
            (&ended, none, rules, 600_000),
            (&ended, none, time(500), 600_000),
            (&vod, none, rules, 600_000),
            // Half the part target where there are parts.
            (LOW_LATENCY, none, rules, 250),
            // What was waited for is there: that state for six target durations.
            (LOW_LATENCY, asks(7, None), rules, 24_000),
            (LOW_LATENCY, asks(8, Some(1)), rules, 24_000),
            (LOW_LATENCY, asks(7, Some(99)), rules, 24_000),
            // It is not, for the server did not wait.
            (LOW_LATENCY, asks(8, None), rules, 250),
            (LOW_LATENCY, asks(8, Some(2)), rules, 250),
            (LOW_LATENCY, asks(9, Some(0)), rules, 250),
            (&without, asks(7, None), rules, 250),
            (LIVE, asks(7, None), rules, 3000),
            (MASTER, none, rules, 10_000),
            (MASTER, none, Rules { master: Duration::from_secs(2), ..rules }, 2000),
            // Figures that are none.
            ("#EXTM3U\n#EXT-X-TARGETDURATION:0\n", none, rules, 50),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:18446744073709551615\n", none, rules, 1_800_000),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:3.2\n", none, rules, 1600),
        ] {
            assert_eq!(lives(text, asked, rules), wanted, "{text} {asked:?} {rules:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_asked_for_again_within_a_quarter() {
        let of = |text: &str| of_absence(&parse(text.as_bytes(), b"").unwrap().facts).as_millis();
        assert_eq!(of(LIVE), 1500);
        assert_eq!(of(LOW_LATENCY), 125);
        assert_eq!(of("#EXTM3U\n#EXT-X-TARGETDURATION:0\n"), 25);
    }

    #[test]
    fn a_time_that_is_stated_shortens_and_never_lengthens_what_is_live() {
        let facts = |text: &str| parse(text.as_bytes(), b"").unwrap().facts;
        let secs = Duration::from_secs;
        let live = facts(LIVE);
        let table = [(None, 3), (Some(0), 3), (Some(1), 1), (Some(3600), 3)];
        for (stated, wanted) in table {
            assert_eq!(with_stated(&live, secs(3), stated.map(secs)), secs(wanted), "{stated:?}");
        }
        let ended = facts(&format!("{LIVE}#EXT-X-ENDLIST"));
        for (stated, wanted) in [(None, 600), (Some(0), 600), (Some(60), 600), (Some(3600), 3600)] {
            assert_eq!(with_stated(&ended, INACTIVE, stated.map(secs)), secs(wanted), "{stated:?}");
        }
        assert_eq!(with_stated(&facts(MASTER), secs(10), Some(secs(60))), secs(60));
    }
}
