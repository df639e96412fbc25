//! Dates: HTTP's, and the clock of a worker, read once per turn rather than once per use.

use super::response::Seconds;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An HTTP date (RFC 9110 section 5.6.7), as `Last-Modified` has it.
pub fn http_date(at: Seconds) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at.min(253_402_300_799)))
}

/// Reads an HTTP date in any of its three forms.
pub fn parse_http_date(text: &[u8]) -> Option<Seconds> {
    let text = std::str::from_utf8(text).ok()?;
    let time = httpdate::parse_http_date(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
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
