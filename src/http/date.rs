//! Dates: HTTP's, and the clock of a worker, read once per turn rather than once per use.

use super::response::Seconds;
use super::tick;
use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of an HTTP date.
pub const LENGTH: usize = 29;

/// An HTTP date (RFC 9110 section 5.6.7), as `Last-Modified` has it.
pub fn http_date(at: Seconds) -> String {
    String::from_utf8_lossy(&text(at)).into_owned()
}

/// The bytes of [`http_date`]; what is beyond the year 9999 is its end.
pub fn text(at: Seconds) -> [u8; LENGTH] {
    const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let at = at.min(253_402_300_799);
    let (days, second) = (at / 86_400, at % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = (days % 7) as usize * 3;
    out[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    let mut two = |place: usize, n: u64| {
        out[place] = b'0' + (n / 10) as u8;
        out[place + 1] = b'0' + (n % 10) as u8;
    };
    two(5, day);
    two(12, year / 100);
    two(14, year % 100);
    two(17, second / 3600);
    two(20, second / 60 % 60);
    two(23, second % 60);
    let month = month as usize * 3;
    out[8..11].copy_from_slice(&MONTHS[month..month + 3]);
    out
}

/// Year, month from 0 and day from 1 of a day since 1970, in the Gregorian calendar. Years are counted from March, so
/// that the day that is not in all of them is their last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    (era * 400 + year_of_era + u64::from(month < 2), month, day)
}

/// Reads an HTTP date in any of its three forms. The day of the week is not checked, as in nginx.
pub fn parse_http_date(text: &[u8]) -> Option<Seconds> {
    if let Some(at) = usual(text) {
        return Some(at);
    }
    let text = std::str::from_utf8(text).ok()?;
    let time = httpdate::parse_http_date(text).ok().or_else(|| with_any_weekday(text))?;
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// The one form that is written today, `Sun, 06 Nov 1994 08:49:37 GMT`, where nothing about it is
/// out of the ordinary.
fn usual(text: &[u8]) -> Option<Seconds> {
    let text: &[u8; LENGTH] = text.try_into().ok()?;
    let between = [text[3], text[4], text[7], text[11], text[16], text[19], text[22]];
    if between != *b",    ::" || text[25..] != *b" GMT" {
        return None;
    }
    if !text[..3].iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    // Looked at together: one that is no digit makes it large.
    let mut most = 0;
    let mut two = |at: usize| {
        let (ten, one) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
        most = most.max(ten).max(one);
        u64::from(ten) * 10 + u64::from(one)
    };
    let (day, year) = (two(5), two(12) * 100 + two(14));
    let (hour, minute, second) = (two(17), two(20), two(23));
    if most > 9 {
        return None;
    }
    let month = match &text[8..11] {
        b"Jan" => 0,
        b"Feb" => 1,
        b"Mar" => 2,
        b"Apr" => 3,
        b"May" => 4,
        b"Jun" => 5,
        b"Jul" => 6,
        b"Aug" => 7,
        b"Sep" => 8,
        b"Oct" => 9,
        b"Nov" => 10,
        b"Dec" => 11,
        _ => return None,
    };
    // The last days of a month are left to who knows how many there are.
    if year < 1970 || day == 0 || day > 28 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since March of the year 0, in years that begin with March.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    Some((days - 719_468) * 86400 + hour * 3600 + minute * 60 + second)
}

fn with_any_weekday(text: &str) -> Option<SystemTime> {
    let (_, rest) = text.split_once(", ")?;
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    days.iter().find_map(|day| httpdate::parse_http_date(&format!("{day}, {rest}")).ok())
}

/// Seconds since 1970, by the clock of the kernel's last tick, whose reading costs next to nothing.
pub fn now() -> Seconds {
    tick::since_epoch().as_secs()
}

/// Time since 1970; a clock before it reads as 1970.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds that only grow, by the clock of the kernel's last tick: some of them late, and next to free.
pub fn ticks() -> u64 {
    tick::uptime().as_millis() as u64
}

thread_local! {
    static DATE: Cell<(Seconds, [u8; LENGTH])> = const { Cell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
}

/// Appends the present date for `Date:`; formatted once a second on each worker.
pub fn append_now(out: &mut Vec<u8>) {
    let now = now();
    let (mut at, mut date) = DATE.get();
    if at != now {
        (at, date) = (now, text(now));
        DATE.set((at, date));
    }
    out.extend_from_slice(&date);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_form_is_read_as_all_are() {
        let mut read = 0;
        for day in 0..60_000 {
            let text = http_date(day * 86400 + day * 7919 % 86400);
            let known =
                httpdate::parse_http_date(&text).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
            assert_eq!(parse_http_date(text.as_bytes()), Some(known), "{text}");
            let at = usual(text.as_bytes());
            assert!(at.is_none_or(|at| at == known), "{text}");
            read += usize::from(at.is_some());
        }
        assert!(read > 50_000, "{read}");
    }

    #[test]
    fn dates_are_read_whatever_the_day_of_the_week() {
        let at = parse_http_date(b"Wed, 02 Jan 2064 03:04:05 GMT");
        assert_eq!(at, Some(2_966_468_645));
        assert_eq!(parse_http_date(b"Tue, 02 Jan 2064 03:04:05 GMT"), at);
        assert_eq!(parse_http_date(b"Sun Nov  6 08:49:37 1994"), Some(784_111_777));
        for bad in ["", "0", "-1", "Tue, 32 Jan 2064 03:04:05 GMT", "tomorrow, 02"] {
            assert_eq!(parse_http_date(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_clocks_agree_and_the_date_is_the_present_one() {
        let (before, at, after) = (since_epoch().as_secs(), now(), since_epoch().as_secs());
        assert!(before.saturating_sub(1) <= at && at <= after);
        let mut date = Vec::new();
        append_now(&mut date);
        assert!(parse_http_date(&date).is_some_and(|read| read >= at && read <= since_epoch().as_secs()));
        assert!(ticks() <= ticks());
    }

    proptest::proptest! {
        #[test]
        fn dates_are_written_as_they_always_were(at in 0u64..253_402_300_800) {
            let expected = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at));
            proptest::prop_assert_eq!(http_date(at), expected);
        }
    }

    #[test]
    fn the_ends_of_months_and_of_time() {
        let first = [0, 68_169_600, 68_255_999, 951_782_400, 951_868_800, 4_107_542_400, 253_402_300_799];
        for at in first {
            assert_eq!(http_date(at), httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at)));
        }
        assert_eq!(http_date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
