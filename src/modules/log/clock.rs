//! The local time as the log writes it, made once a second on each thread.

use crate::http::date;
use std::cell::RefCell;

#[derive(Default)]
struct Texts {
    second: u64,
    /// `12/Mar/2025:10:00:00 +0100`
    local: String,
    /// `2025-03-12T10:00:00+01:00`
    iso8601: String,
    /// `Mar 12 10:00:00`, the day with a blank for a first zero.
    syslog: String,
}

thread_local! {
    static TEXTS: RefCell<Texts> = RefCell::default();
}

/// Appends `$time_local`.
pub fn append_local(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.local.as_bytes()));
}

/// Appends `$time_iso8601`.
pub fn append_iso8601(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.iso8601.as_bytes()));
}

/// Appends the time as syslog has it.
pub fn append_syslog(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.syslog.as_bytes()));
}

fn with_texts(use_them: impl FnOnce(&Texts)) {
    let second = date::now();
    TEXTS.with_borrow_mut(|texts| {
        if texts.second != second {
            // Any second a clock can show is one of the calendar's.
            let at = jiff::Timestamp::from_second(second as i64).unwrap_or_default();
            *texts = format(second, &at.to_zoned(jiff::tz::TimeZone::system()));
        }
        use_them(texts);
    });
}

fn format(second: u64, time: &jiff::Zoned) -> Texts {
    Texts {
        second,
        local: time.strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
        iso8601: time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        syslog: time.strftime("%b %e %H:%M:%S").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_nginx_writes_them() {
        let at = jiff::Timestamp::from_second(1_741_770_000).unwrap();
        let hours = |h| jiff::tz::TimeZone::fixed(jiff::tz::offset(h));
        let texts = format(0, &at.to_zoned(hours(1)));
        assert_eq!(texts.local, "12/Mar/2025:10:00:00 +0100");
        assert_eq!(texts.iso8601, "2025-03-12T10:00:00+01:00");
        assert_eq!(texts.syslog, "Mar 12 10:00:00");
        let earlier = jiff::Timestamp::from_second(1_741_070_000).unwrap();
        assert_eq!(format(0, &earlier.to_zoned(hours(0))).syslog, "Mar  4 06:33:20");
        assert_eq!(format(0, &at.to_zoned(hours(-3))).local, "12/Mar/2025:06:00:00 -0300");
        assert_eq!(format(0, &at.to_zoned(jiff::tz::TimeZone::UTC)).iso8601, "2025-03-12T09:00:00+00:00");
    }
}
