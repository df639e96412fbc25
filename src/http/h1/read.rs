//! Reading the head of a request.

use super::Counted;
use crate::edge::connection::{Access, bound};
use crate::edge::{Local, turn};
use crate::http::head::{Head, HeadError, HeadLimits, HeadScan, Progress};
use crate::http::hit::table::Mark;
use crate::http::request::H1Body;
use bytes::Buf;
use std::time::{Duration, Instant};
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

/// Reads a request's head, bounded in bytes and time.
pub(super) struct Reader {
    head: Head,
    scan: HeadScan,
    limits: HeadLimits,
    timeout: Duration,
    started: Instant,
    first: bool,
    mark: Option<Mark>,
}

impl Reader {
    /// Begins, when the first bytes are there.
    pub(super) fn new(access: &Access, local: &Local, first: bool, mark: Option<Mark>) -> Reader {
        let default = bound(local, &access.conn).names.default;
        let core = &local.generation.http.servers[default].conf.core;
        Reader {
            head: Head::default(),
            scan: HeadScan::default(),
            limits: head_limits(core),
            timeout: *core.client_header_timeout,
            started: turn::now(),
            first,
            mark,
        }
    }

    /// Reads what is there. Nearly always that is all of it, and there is nothing to be waited for.
    pub(super) fn look(&mut self, h1: &mut H1Body) -> Option<Read> {
        let start = &h1.input[..h1.input.len().min(PREFACE.len())];
        if self.first && PREFACE.starts_with(start) && h1.input.len() >= 16 {
            return Some(Read::Preface);
        }
        match self.head.read(&h1.input, &mut self.scan, &self.limits) {
            Ok(Progress::Done(n)) => {
                h1.input.advance(n);
                let head = std::mem::take(&mut self.head);
                let length = head.size() as u64;
                Some(Read::Head(Start { head, length, at: self.started, mark: self.mark }))
            }
            Ok(Progress::More) => None,
            Err(e) => Some(Read::Refused(e, self.partial(h1))),
        }
    }

    /// Waits for the rest.
    pub(super) async fn wait(mut self, access: &Access, h1: &mut H1Body) -> Read {
        let _reading = Counted::new(access.worker(), |c| &c.reading);
        let time = self.timeout;
        let reading_head = async {
            loop {
                match crate::http::io::read_into(&mut h1.io, &mut h1.input).await {
                    Ok(0) | Err(_) => return Read::Broken(self.partial(h1)),
                    Ok(_) => {}
                }
                if let Some(read) = self.look(h1) {
                    return read;
                }
            }
        };
        let outcome = timeout(time, reading_head).await;
        // nginx logs 408 for a head that does not come in time, and closes without a word.
        outcome.unwrap_or_else(|_| Read::Late(self.partial(h1)))
    }

    fn partial(&self, h1: &H1Body) -> Start {
        partial(&h1.input, &self.limits, self.started)
    }
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
