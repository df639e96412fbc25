//! `log_format`: a line's parts, compiled once.

use super::clock;
use super::escape::Escape;
use crate::conf::{Builder, ConfError, ConfResult};
use crate::edge::turn;
use crate::http::date;
use crate::http::lines::{number, padded};
use crate::http::request::Request;
use crate::http::vars::VarId;
use bytes::Bytes;
use std::time::Duration;

/// The format that needs not be declared.
pub const COMBINED: &str = concat!(
    "$remote_addr - $remote_user [$time_local] ",
    "\"$request\" $status $body_bytes_sent ",
    "\"$http_referer\" \"$http_user_agent\""
);

/// A format.
pub struct Format {
    /// Its name as declared.
    pub name: String,
    escape: Escape,
    parts: Vec<Part>,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(Debug, PartialEq)]
enum Part {
    Text(Bytes),
    /// One of those the log itself knows; they are never escaped.
    Known(Known),
    Variable(VarId),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Pipe,
    TimeLocal,
    TimeIso8601,
    Msec,
    RequestTime,
    Status,
    BytesSent,
    BodyBytesSent,
    RequestLength,
}

impl Known {
    fn of(name: &str) -> Option<Known> {
        Some(match name {
            "pipe" => Known::Pipe,
            "time_local" => Known::TimeLocal,
            "time_iso8601" => Known::TimeIso8601,
            "msec" => Known::Msec,
            "request_time" => Known::RequestTime,
            "status" => Known::Status,
            "bytes_sent" => Known::BytesSent,
            "body_bytes_sent" => Known::BodyBytesSent,
            "request_length" => Known::RequestLength,
            _ => return None,
        })
    }

    fn append(self, rq: &Request, out: &mut Vec<u8>) {
        match self {
            Known::Pipe => out.push(if rq.pipelined { b'p' } else { b'.' }),
            Known::TimeLocal => clock::append_local(out),
            Known::TimeIso8601 => clock::append_iso8601(out),
            Known::Msec => seconds(out, date::since_epoch()),
            Known::RequestTime => seconds(out, turn::since(rq.started)),
            Known::Status => padded(out, rq.told_status.unwrap_or(rq.sent.status).into()),
            Known::BytesSent => number(out, rq.sent.bytes),
            Known::BodyBytesSent => number(out, rq.sent.body_bytes),
            Known::RequestLength => number(out, rq.length),
        }
    }
}

/// Seconds with milliseconds.
fn seconds(out: &mut Vec<u8>, time: Duration) {
    number(out, time.as_secs());
    out.push(b'.');
    padded(out, time.subsec_millis().into());
}

impl Format {
    /// Compiles the arguments after the name: `escape=` first, if at all, then texts that are joined.
    pub fn compile(b: &mut Builder, name: &str, args: &[String]) -> ConfResult<Format> {
        let mut texts = args;
        let mut escape = Escape::default();
        if let Some(value) = args.first().and_then(|arg| arg.strip_prefix("escape=")) {
            escape = Escape::parse(value)
                .ok_or_else(|| ConfError::new(format!("unknown log format escaping \"{value}\"")))?;
            texts = &args[1..];
        }
        let mut parts = Vec::new();
        for text in texts {
            compile(b, text, &mut parts)?;
        }
        Ok(Format { name: name.to_string(), escape, parts })
    }

    /// Appends the line for `rq` with its end.
    pub fn append(&self, rq: &Request, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Known(known) => known.append(rq, out),
                Part::Variable(id) => {
                    let start = out.len();
                    if rq.variable(*id, out) {
                        self.escape.apply(out, start);
                    } else {
                        out.truncate(start);
                        out.extend_from_slice(self.escape.missing());
                    }
                }
            }
        }
        out.push(b'\n');
    }
}

/// nginx's own reading of a format, which differs a little from that of other values: no captures,
/// and a `$` that begins no name is an error of its own.
fn compile(b: &mut Builder, text: &str, parts: &mut Vec<Part>) -> ConfResult<()> {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(after) = rest.strip_prefix('$') else {
            let end = rest.find('$').unwrap_or(rest.len());
            parts.push(Part::Text(Bytes::copy_from_slice(&rest.as_bytes()[..end])));
            rest = &rest[end..];
            continue;
        };
        let (braced, after) = match after.strip_prefix('{') {
            Some(inner) => (true, inner),
            None => (false, after),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, mut tail) = after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()));
        if braced && !after.is_empty() {
            tail = tail.strip_prefix('}').ok_or_else(|| {
                ConfError::new(format!("the closing bracket in \"{name}\" variable is missing"))
            })?;
        }
        if name.is_empty() {
            return Err(ConfError::new(format!("invalid parameter \"{rest}\""))
                .hint("a \"$\" begins a variable; nginx has no way to write a literal one here"));
        }
        parts.push(match Known::of(name) {
            Some(known) => Part::Known(known),
            None => Part::Variable(b.variable(name)),
        });
        rest = tail;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_written_as_they_are_formatted(n in any::<u64>(), bits in 0u32..64, nanos in 0u32..1_000_000_000) {
            let n = n >> bits;
            let mut out = Vec::new();
            number(&mut out, n);
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{n}"));
            out.clear();
            padded(&mut out, n);
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{n:03}"));
            out.clear();
            seconds(&mut out, Duration::new(n, nanos));
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{n}.{:03}", nanos / 1_000_000));
        }
    }
}
