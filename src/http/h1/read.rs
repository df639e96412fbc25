//! Reading the head of a request.

use super::Counted;
use crate::edge::Local;
use crate::edge::connection::{Access, bound};
use crate::http::head::{Head, HeadError, HeadLimits, HeadScan, Progress};
use crate::http::hit::table::Mark;
use crate::http::request::H1Body;
use bytes::Buf;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

pub(super) enum Read {
    Head(Start),
    /// Why it is no request, and what was read of it.
    Refused(HeadError, Start),
    Preface,
    /// The head did not come in time; what there is of it.
    Late(Start),
    /// The client left within a head; what there is of it.
    Broken(Start),
}

/// The beginning of a request.
pub(super) struct Start {
    pub(super) head: Head,
    /// Bytes of its lines that were whole and in order.
    pub(super) length: u64,
    /// When it was begun.
    pub(super) at: Instant,
    /// What it is in the table of answers that may be repeated.
    pub(super) mark: Option<Mark>,
}

/// Reads a request's head, of which the first bytes are there, bounded in bytes and time.
pub(super) async fn read_head(
    access: &Access,
    local: &Arc<Local>,
    h1: &mut H1Body,
    first: bool,
    mark: Option<Mark>,
) -> Read {
    let http = &local.generation.http;
    let default = bound(local, &access.conn).names.default;
    let server = &http.servers[default];
    let limits = head_limits(&server.conf.core);
    let header_timeout = *server.conf.core.client_header_timeout;
    let reading = Counted::new(access.worker(), |c| &c.reading);
    let started = Instant::now();
    let mut head = Head::default();
    let mut scan = HeadScan::default();
    let mut look = |h1: &mut H1Body| {
        let start = &h1.input[..h1.input.len().min(PREFACE.len())];
        if first && PREFACE.starts_with(start) && h1.input.len() >= 16 {
            return Some(Read::Preface);
        }
        match head.read(&h1.input, &mut scan, &limits) {
            Ok(Progress::Done(n)) => {
                h1.input.advance(n);
                let head = std::mem::take(&mut head);
                Some(Read::Head(Start { length: head.size() as u64, head, at: started, mark }))
            }
            Ok(Progress::More) => None,
            Err(e) => Some(Read::Refused(e, partial(&h1.input, &limits, started))),
        }
    };
    // Nearly always all of it has come, and there is nothing to be waited for.
    if let Some(read) = look(h1) {
        return read;
    }
    let reading_head = async {
        loop {
            match crate::http::io::read_into(&mut h1.io, &mut h1.input).await {
                Ok(0) | Err(_) => return Read::Broken(partial(&h1.input, &limits, started)),
                Ok(_) => {}
            }
            if let Some(read) = look(h1) {
                return read;
            }
        }
    };
    let outcome = timeout(header_timeout, reading_head).await;
    drop(reading);
    // nginx logs 408 for a head that does not come in time, and closes without a word.
    outcome.unwrap_or_else(|_| Read::Late(partial(&h1.input, &limits, started)))
}

/// Bytes of a refused first line that are kept for the log.
const LOGGED: usize = 1024;

/// What is known of a head that was refused or did not come to its end, for the log: its first line, and the
/// fields before what is wrong.
fn partial(input: &[u8], limits: &HeadLimits, at: Instant) -> Start {
    let first = input.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(input.len());
    let input = &input[first..];
    let mut head = first_line(input);
    let length = head.add_fields_in_order(input, limits) as u64;
    Start { head, length, at, mark: None }
}

fn first_line(input: &[u8]) -> Head {
    match memchr::memchr(b'\n', &input[..input.len().min(LOGGED)]) {
        Some(end) => Head::raw_line(input[..end].strip_suffix(b"\r").unwrap_or(&input[..end])),
        None => Head::cut_line(&input[..input.len().min(LOGGED)]),
    }
}

/// The bounds of a head on this server.
pub fn head_limits(core: &crate::modules::core::Srv) -> HeadLimits {
    let (number, size) = *core.large_client_header_buffers;
    let first = *core.client_header_buffer_size;
    HeadLimits {
        line: size.max(first) as usize,
        total: (first + number * size) as usize,
        underscores: *core.underscores_in_headers,
        ignore_invalid: *core.ignore_invalid_headers,
        fields: *core.max_headers as usize,
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
