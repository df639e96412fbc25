//! Logs, metrics, status pages.

pub mod error_log;
pub mod families;
pub mod log_file;
pub mod metrics;
#[cfg(test)]
pub(crate) mod testing;

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
        let _ = write!(line, "*{} {message}", rq.conn.serial);
        append_context(rq, line);
    });
}

/// Appends whose request it is, in nginx's order.
fn append_context(rq: &Request, line: &mut Vec<u8>) {
    let _ = match rq.peer() {
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
    quoted("subrequest", Some(&rq.uri[..]).filter(|_| rq.depth > 0));
    quoted("host", rq.head.get("host"));
    quoted("referrer", rq.head.get("referer"));
}
