//! `expires`: how long responses may be kept.

use crate::conf::values::time;
use crate::conf::{Builder, ConfError, ConfResult, Directive};
use crate::http::date;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::template::Template;
use bytes::Bytes;

/// `expires`
#[derive(Clone, Debug)]
pub enum Expires {
    /// Nothing is said.
    Off,
    /// Known when the configuration was read.
    Fixed(Span),
    /// A value with variables, and whether it counts from the last modification.
    Variable {
        /// The value.
        value: Template,
        /// `modified`
        modified: bool,
    },
}

/// How long a response may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// `off`
    Off,
    /// `epoch`: not at all.
    Epoch,
    /// `max`: ten years.
    Max,
    /// Seconds from now.
    Access(i64),
    /// Seconds from the last modification.
    Modified(i64),
    /// Until this second of the day, local time.
    Daily(i64),
}

pub(super) fn expires(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (text, modified) = match d.args.as_slice() {
        [text] => (text, false),
        [word, text] if word == "modified" => (text, true),
        _ => return Err(ConfError::new("\"{}\" directive invalid value")),
    };
    let value = b.template(text)?;
    let expires = match value.constant() {
        Some(_) => match Span::parse(text, modified) {
            Ok(Span::Off) => Expires::Off,
            Ok(span) => Expires::Fixed(span),
            Err(why) => return Err(ConfError::new(format!("\"expires\" directive {why}"))),
        },
        None => Expires::Variable { value, modified },
    };
    b.loc().headers.expires.set(expires)
}

impl Span {
    /// Reads the value of `expires` (ngx_http_parse_expires); the error says what is wrong with it.
    pub fn parse(text: &str, modified: bool) -> Result<Span, &'static str> {
        if !modified {
            match text {
                "epoch" => return Ok(Span::Epoch),
                "max" => return Ok(Span::Max),
                "off" => return Ok(Span::Off),
                _ => {}
            }
        }
        // Milliseconds are no unit here.
        let seconds = |text: &str| {
            time(text).filter(|_| !text.contains("ms")).map(|t| t.as_secs() as i64).ok_or("invalid value")
        };
        if let Some(at) = text.strip_prefix('@') {
            if modified {
                return Err("daily time cannot be used with \"modified\" parameter");
            }
            let at = seconds(at)?;
            return if at > 86_400 {
                Err("daily time value must be less than 24 hours")
            } else {
                Ok(Span::Daily(at))
            };
        }
        let n = match text.strip_prefix('-') {
            Some(rest) => -seconds(rest)?,
            None => seconds(text.strip_prefix('+').unwrap_or(text))?,
        };
        Ok(if modified { Span::Modified(n) } else { Span::Access(n) })
    }

    /// `Expires` and `Cache-Control` for a response made `now` and last modified then.
    fn fields(self, now: i64, last_modified: Option<i64>) -> Option<(Bytes, Bytes)> {
        let text = Bytes::from_static;
        let (at, age) = match self {
            Span::Off => return None,
            Span::Epoch => return Some((text(b"Thu, 01 Jan 1970 00:00:01 GMT"), text(b"no-cache"))),
            Span::Max => return Some((text(b"Thu, 31 Dec 2037 23:55:55 GMT"), text(b"max-age=315360000"))),
            Span::Access(0) | Span::Modified(0) => (now, 0),
            Span::Daily(second) => {
                let at = next_time(now, second);
                (at, at - now)
            }
            Span::Access(n) => (now.saturating_add(n), n),
            Span::Modified(n) => match last_modified {
                Some(at) => (at.saturating_add(n), at.saturating_add(n) - now),
                None => (now.saturating_add(n), n),
            },
        };
        let negative = age < 0 || matches!(self, Span::Access(n) | Span::Modified(n) if n < 0);
        let control = if negative { text(b"no-cache") } else { format!("max-age={age}").into() };
        Some((date::http_date(at.max(0) as u64).into(), control))
    }
}

/// The next time it is `second` of the day, local time (ngx_next_time).
fn next_time(now: i64, second: i64) -> i64 {
    next_time_in(&jiff::tz::TimeZone::system(), now, second)
}

fn next_time_in(zone: &jiff::tz::TimeZone, now: i64, second: i64) -> i64 {
    let today = || {
        let today = jiff::Timestamp::from_second(now).ok()?.to_zoned(zone.clone()).date();
        let at = |day: jiff::civil::Date| {
            let time = day.to_datetime(jiff::civil::Time::midnight());
            let time = time.checked_add(jiff::Span::new().try_seconds(second).ok()?).ok()?;
            Some(zone.to_zoned(time).ok()?.timestamp().as_second())
        };
        at(today).filter(|at| *at > now).or_else(|| at(today.tomorrow().ok()?))
    };
    // Only a clock outside of the calendar has no tomorrow.
    today().unwrap_or(now)
}

/// Says how long a response may be kept.
pub(super) fn set_expires(rq: &Request, expires: &Expires, response: &mut Response) {
    let span = match expires {
        Expires::Off => return,
        Expires::Fixed(span) => *span,
        Expires::Variable { value, modified } => {
            let text = value.eval(rq);
            // A value that cannot be read is no reason to fail: nothing is said.
            match std::str::from_utf8(&text).map(|text| Span::parse(text, *modified)) {
                Ok(Ok(span)) => span,
                _ => return,
            }
        }
    };
    let modified = response.modified().map(|at| at as i64);
    if !matches!(span, Span::Off | Span::Epoch | Span::Max) {
        // It is another the next second.
        rq.watch.spoil();
    }
    if let Some((at, control)) = span.fields(date::now() as i64, modified) {
        response.fields.put("Expires", at);
        response.fields.put("Cache-Control", control);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_as_nginx_reads_them() {
        for (text, modified, want) in [
            ("off", false, Ok(Span::Off)),
            ("epoch", false, Ok(Span::Epoch)),
            ("max", false, Ok(Span::Max)),
            ("1h", false, Ok(Span::Access(3600))),
            ("+1h", false, Ok(Span::Access(3600))),
            ("-1", false, Ok(Span::Access(-1))),
            ("1d", true, Ok(Span::Modified(86_400))),
            ("@15h30m", false, Ok(Span::Daily(55_800))),
            ("@25h", false, Err("daily time value must be less than 24 hours")),
            ("@1h", true, Err("daily time cannot be used with \"modified\" parameter")),
            ("max", true, Err("invalid value")),
            ("soon", false, Err("invalid value")),
            ("1500ms", false, Err("invalid value")),
            ("", false, Err("invalid value")),
        ] {
            assert_eq!(Span::parse(text, modified), want, "{text} {modified}");
        }
    }

    #[test]
    fn what_is_said_of_a_span() {
        let now = 1_700_000_000;
        let said = |span: Span, modified| {
            let (at, control) = span.fields(now, modified).unwrap();
            (date::parse_http_date(&at).unwrap() as i64 - now, String::from_utf8(control.to_vec()).unwrap())
        };
        assert_eq!(said(Span::Access(60), None), (60, "max-age=60".into()));
        assert_eq!(said(Span::Access(0), None), (0, "max-age=0".into()));
        assert_eq!(said(Span::Access(-60), None), (-60, "no-cache".into()));
        assert_eq!(said(Span::Modified(60), Some(now - 20)), (40, "max-age=40".into()));
        assert_eq!(said(Span::Modified(60), Some(now - 80)), (-20, "no-cache".into()));
        assert_eq!(said(Span::Modified(60), None), (60, "max-age=60".into()));
        assert!(Span::Off.fields(now, None).is_none());
    }

    #[test]
    fn the_next_time_of_day() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(1));
        // 1970-01-02 00:00:00 UTC is one o'clock there.
        let now = 86_400;
        assert_eq!(next_time_in(&zone, now, 3600 + 1), now + 1);
        assert_eq!(next_time_in(&zone, now, 3600), now + 86_400, "now is not next");
        assert_eq!(next_time_in(&zone, now, 0), now + 82_800);
    }
}
