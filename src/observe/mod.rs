//! Logs, metrics, status pages.

pub mod error_log;
pub mod families;
pub mod log_file;
pub mod metrics;

use crate::http::Request;
use crate::http::request::Address;
use error_log::Level;
use std::fmt::Arguments;
use std::io::Write;

/// Logs an error of a request, with the client, the server and the request line, as nginx does.
pub fn request_error(rq: &Request, message: Arguments<'_>) {
    request_log(rq, Level::Error, message);
}

/// Logs something about a request at a level.
pub fn request_log(rq: &Request, level: Level, message: Arguments<'_>) {
    let log = rq.generation().error_log();
    let targets = &rq.loc().core.error_logs;
    log.write_with(targets, level, |line| {
        let start = line.len();
        let _ = write!(line, "*{} {message}", rq.conn.serial);
        append_context(rq, line);
        escape_controls(line, start);
    });
}

/// Appends whose request it is, in nginx's order.
fn append_context(rq: &Request, line: &mut Vec<u8>) {
    let _ = match &rq.conn.peer {
        Address::Inet(a) => write!(line, ", client: {}", a.ip()),
        Address::Unix(_) => write!(line, ", client: unix:"),
    };
    let _ = write!(line, ", server: {}", rq.srv().core.name.as_str());
    let mut quoted = |name: &str, value: Option<&[u8]>| {
        if let Some(value) = value {
            let _ = write!(line, ", {name}: \"");
            line.extend_from_slice(value);
            line.push(b'"');
        }
    };
    quoted("request", Some(rq.head.line()).filter(|text| !text.is_empty()));
    quoted("host", rq.head.get("host"));
    quoted("referrer", rq.head.get("referer"));
}

/// Writes control characters as `\xXX`. A decoded path may hold any byte, and a line feed in it would
/// make a line of the log that a client wrote; nginx writes it as it is.
fn escape_controls(line: &mut Vec<u8>, start: usize) {
    if !line[start..].iter().any(u8::is_ascii_control) {
        return;
    }
    let raw = line.split_off(start);
    for byte in raw {
        if byte.is_ascii_control() {
            let _ = write!(line, "\\x{byte:02X}");
        } else {
            line.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_write_a_line_of_its_own() {
        let mut line = b"kept\n: open() \"/a\n2024 [emerg] x\x7f\" caf\xc3\xa9".to_vec();
        escape_controls(&mut line, 5);
        assert_eq!(line, b"kept\n: open() \"/a\\x0A2024 [emerg] x\\x7F\" caf\xc3\xa9");
    }
}
