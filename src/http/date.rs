//! Dates: HTTP's, and the clock of a worker, read once per turn rather than once per use.

use super::response::Seconds;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An HTTP date (RFC 9110 section 5.6.7), as `Last-Modified` has it.
pub fn http_date(at: Seconds) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at.min(253_402_300_799)))
}

/// Reads an HTTP date in any of its three forms. The day of the week is not checked, as in nginx.
pub fn parse_http_date(text: &[u8]) -> Option<Seconds> {
    let text = std::str::from_utf8(text).ok()?;
    let time = httpdate::parse_http_date(text).ok().or_else(|| with_any_weekday(text))?;
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

fn with_any_weekday(text: &str) -> Option<SystemTime> {
    let (_, rest) = text.split_once(", ")?;
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    days.iter().find_map(|day| httpdate::parse_http_date(&format!("{day}, {rest}")).ok())
}

/// Seconds since 1970.
pub fn now() -> Seconds {
    since_epoch().as_secs()
}

/// Time since 1970; a clock before it reads as 1970.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

thread_local! {
    static DATE: std::cell::RefCell<(Seconds, String)> = const { std::cell::RefCell::new((0, String::new())) };
}

/// Appends the present date for `Date:`; formatted once a second on each worker.
pub fn append_now(out: &mut Vec<u8>) {
    let now = now();
    DATE.with_borrow_mut(|(at, text)| {
        if *at != now {
            *text = http_date(now);
            *at = now;
        }
        out.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
