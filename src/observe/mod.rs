//! Logs, metrics, status pages.

pub mod error_log;
pub mod families;
pub mod log_file;
pub mod memory_log;
pub mod metrics;
pub mod syslog;
#[cfg(test)]
pub(crate) mod testing;

use crate::http::Request;
use crate::http::request::Address;
use bytes::Bytes;
use error_log::Level;
use std::fmt::Arguments;
use std::io::Write;

/// Logs an error of a request, with the client, the server and the request line, as nginx does.
pub fn request_error(rq: &Request, message: Arguments<'_>) {
    request_log(rq, Level::Error, message);
}

/// Logs something about a request at a level.
pub fn request_log(rq: &Request, level: Level, message: Arguments<'_>) {
    // Each request has its line.
    rq.watch.spoil();
    let log = rq.generation().error_log();
    let targets = &rq.loc().core.error_logs;
    log.write_with(targets, level, |line| {
        let start = line.len();
        let _ = write!(line, "*{} {message}", rq.conn.serial);
        error_log::keep_errno(line, start);
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
    append_request(rq, line);
    append_host(rq, line);
}

/// Which request an upstream is asked for, for lines written when the request is no longer at hand: what stands
/// before the upstream's URL, and from the index on what stands behind it.
pub fn upstream_context(rq: &Request) -> (Bytes, usize) {
    let mut text = Vec::with_capacity(rq.head.line().len() + 120);
    append_request(rq, &mut text);
    let before = text.len();
    append_host(rq, &mut text);
    (text.into(), before)
}

fn append_request(rq: &Request, line: &mut Vec<u8>) {
    append_quoted(line, "request", Some(rq.head.line()).filter(|text| !text.is_empty()));
    append_quoted(line, "subrequest", Some(&rq.uri[..]).filter(|_| rq.depth > 0));
}

fn append_host(rq: &Request, line: &mut Vec<u8>) {
    append_quoted(line, "host", rq.head.get("host"));
    append_quoted(line, "referrer", rq.head.get("referer"));
}

fn append_quoted(line: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        line.extend_from_slice(b", ");
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b": \"");
        line.extend_from_slice(value);
        line.push(b'"');
    }
}
