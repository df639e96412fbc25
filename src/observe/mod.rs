//! Logs, metrics, status pages.

pub mod error_log;
pub mod families;
pub mod log_file;
pub mod metrics;

use crate::http::Request;
use error_log::Level;
use std::fmt::Arguments;

/// Logs an error of a request, with the client, the server and the request line, as nginx does.
pub fn request_error(rq: &Request, message: Arguments<'_>) {
    request_log(rq, Level::Error, message);
}

/// Logs something about a request at a level.
pub fn request_log(rq: &Request, level: Level, message: Arguments<'_>) {
    let log = rq.generation().error_log();
    let targets = &rq.loc().core.error_logs;
    if !log.wants(targets, level) {
        return;
    }
    let client = match &rq.conn.peer {
        crate::http::request::Address::Inet(a) => a.ip().to_string(),
        crate::http::request::Address::Unix(_) => "unix:".to_string(),
    };
    let host = rq.head.get("host").map(|h| format!(", host: \"{}\"", String::from_utf8_lossy(h)));
    log.write(
        targets,
        level,
        format_args!(
            "*{} {message}, client: {client}, server: {}, request: \"{}\"{}",
            rq.conn.serial,
            rq.srv().core.name.as_str(),
            String::from_utf8_lossy(rq.head.line()),
            host.unwrap_or_default(),
        ),
    );
}
