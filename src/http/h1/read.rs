//! Waiting for a request, and reading its head.

use super::Counted;
use crate::edge::Local;
use crate::edge::connection::{Access, bound};
use crate::http::head::{Head, HeadError, HeadLimits, HeadScan, Progress};
use crate::http::request::H1Body;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

pub(super) enum Read {
    Head(Head, Instant),
    /// Why it is no request, and what was read of it.
    Refused(HeadError, Head, Instant),
    Preface,
    /// The head did not come in time; what there is of it.
    Late(Head, Instant),
    /// The client left, or was idle too long.
    Closed,
}

/// Waits for a request and reads its head, bounded in bytes and time.
pub(super) async fn read_head(access: &Access, local: &Arc<Local>, h1: &mut H1Body, first: bool) -> Read {
    let http = &local.generation.http;
    let default = bound(local, &access.conn).names.default;
    let server = &http.servers[default];
    let limits = head_limits(&server.conf.core);
    let header_timeout = *server.conf.core.client_header_timeout;
    if h1.input.is_empty() {
        let core = &http.levels[server.level].conf.core;
        let (idle, least) = match first {
            true => (header_timeout, Duration::ZERO),
            false => (*core.keepalive_timeout, *core.keepalive_min_timeout),
        };
        // A connection that has sent nothing yet is idle, as nginx counts it.
        let waiting = Counted::new(access, |c| &c.waiting);
        let woken = wait(access, h1, idle, least).await;
        drop(waiting);
        if !woken {
            return Read::Closed;
        }
    }
    let reading = Counted::new(access, |c| &c.reading);
    let started = Instant::now();
    let mut head = Head::default();
    let mut scan = HeadScan::default();
    let reading_head = async {
        loop {
            if first
                && PREFACE.starts_with(&h1.input[..h1.input.len().min(PREFACE.len())])
                && h1.input.len() >= 16
            {
                return Read::Preface;
            }
            match head.read(&h1.input, &mut scan, &limits) {
                Ok(Progress::Done(n)) => {
                    let _ = h1.input.split_to(n);
                    return Read::Head(std::mem::take(&mut head), started);
                }
                Ok(Progress::More) => {}
                Err(e) => return Read::Refused(e, partial_head(&h1.input), started),
            }
            match crate::http::io::read_into(&mut h1.io, &mut h1.input).await {
                Ok(0) | Err(_) => return Read::Closed,
                Ok(_) => {}
            }
        }
    };
    let outcome = timeout(header_timeout, reading_head).await;
    drop(reading);
    // nginx logs 408 for a head that does not come in time, and closes without a word.
    outcome.unwrap_or_else(|_| Read::Late(partial_head(&h1.input), started))
}

/// Bytes of a refused first line that are kept for the log.
const LOGGED: usize = 1024;

/// What is known of a head that was refused: its first line, for the log.
fn partial_head(input: &[u8]) -> Head {
    let first = input.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(input.len());
    let input = &input[first..];
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

/// Waits for the first bytes of a request; false when there will be none. A worker that ends waits no longer than
/// `least`.
async fn wait(access: &Access, h1: &mut H1Body, idle: Duration, least: Duration) -> bool {
    let worker = access.worker();
    let quit = worker.quit();
    tokio::pin!(quit);
    // Registered before looking, so that no wake-up is lost.
    quit.as_mut().enable();
    let quitting = worker.quitting();
    if quitting && h1.input.is_empty() && least.is_zero() {
        return false;
    }
    let began = Instant::now();
    let read = timeout(idle, crate::http::io::read_into(&mut h1.io, &mut h1.input));
    let came = |read| matches!(read, Ok(Ok(n)) if n > 0);
    tokio::pin!(read);
    if !quitting {
        tokio::select! {
            biased;
            read = &mut read => return came(read),
            () = quit => {}
        }
    }
    match timeout(least.saturating_sub(began.elapsed()), read).await {
        Ok(read) => came(read),
        Err(_) => false,
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
