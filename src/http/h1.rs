//! The loop of an HTTP/1 connection: a head, an answer, and again.
//!
//! An idle connection holds no buffer: bytes come through the worker's read buffer, and what a
//! request needs lives as long as the request.

use super::body::{Body, BodyError, Chunks, Framing};
use super::error_page::server_token;
use super::head::{Head, HeadError, HeadLimits, HeadScan, Method, Progress, Version};
use super::io::{Io, poll_read_into};
use super::request::{Downstream, H1Body, Request, Sent};
use super::response::{Response, reason};
use super::{date, phases, uri};
use crate::edge::Local;
use crate::edge::connection::{Access, bound};
use crate::observe::metrics::Gauge;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// What is special about a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// TLS was expected and the client speaks plain HTTP: every request is answered 497.
    pub expected_tls: bool,
    /// An HTTP/2 preface may come instead of a request line.
    pub preface: bool,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end.
pub async fn serve(mut access: Access, io: Io, options: Options) {
    let mut h1 = Box::new(H1Body {
        io,
        input: BytesMut::new(),
        framing: Framing::None,
        expect_continue: false,
        room: u64::MAX,
    });
    let mut first = true;
    loop {
        let (local, mut closing) = access.current();
        if closing && h1.input.is_empty() && !first {
            break;
        }
        let read = read_head(&access, &local, &mut h1, first).await;
        if options.preface && first && matches!(read, Read::Preface) {
            let H1Body { io, input, .. } = *h1;
            return super::h2::serve(access, io, input).await;
        }
        first = false;
        // The configuration of now, not of when the connection fell idle.
        let (local, ends) = access.current();
        closing |= ends;
        let (head, refused, started) = match read {
            Read::Head(head, started) => (head, None, started),
            Read::Refused(why, head, started) => (head, Some(why), started),
            Read::Preface => (Head::default(), Some(HeadError::BadLine), Instant::now()),
            Read::Late(head, started) => {
                let mut rq = request(&access, local, h1, head, started);
                rq.sent.status = 408;
                rq.sent.aborted = true;
                finish(&rq);
                return;
            }
            Read::Closed => break,
        };
        let writing = Counted::new(&access, |c| &c.writing);
        let kept = Box::pin(answer(&access, local, h1, head, refused, started, options, closing)).await;
        drop(writing);
        match kept {
            Some(connection) => h1 = connection,
            None => return,
        }
    }
    close(&mut h1.io).await;
}

/// Adds one to a gauge for as long as it lives.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(access: &'a Access, which: fn(&crate::observe::metrics::Connections) -> &Gauge) -> Counted<'a> {
        let gauge = which(&access.worker().metrics.connections);
        gauge.add(1);
        Counted(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

enum Read {
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
async fn read_head(access: &Access, local: &Arc<Local>, h1: &mut H1Body, first: bool) -> Read {
    let http = &local.generation.http;
    let default = bound(local, &access.conn).names.default;
    let server = &http.servers[default];
    let limits = head_limits(&server.conf.core);
    let header_timeout = *server.conf.core.client_header_timeout;
    if h1.input.is_empty() {
        let idle =
            if first { header_timeout } else { *http.levels[server.level].conf.core.keepalive_timeout };
        // A connection that has sent nothing yet is idle, as nginx counts it.
        let waiting = Counted::new(access, |c| &c.waiting);
        let woken = wait(access, h1, idle).await;
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
            match super::io::read_into(&mut h1.io, &mut h1.input).await {
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

/// What is known of a head that was refused: its first line, for the log.
fn partial_head(input: &[u8]) -> Head {
    let line = input.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = &line[..line.len().min(1024)];
    Head::raw_line(line.strip_suffix(b"\r").unwrap_or(line))
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

/// Waits for the first bytes of a request; false when there will be none.
async fn wait(access: &Access, h1: &mut H1Body, idle: Duration) -> bool {
    let worker = access.worker();
    let quit = worker.quit();
    tokio::pin!(quit);
    // Registered before looking, so that no wake-up is lost.
    quit.as_mut().enable();
    if worker.quitting() && h1.input.is_empty() {
        return false;
    }
    tokio::select! {
        biased;
        read = timeout(idle, super::io::read_into(&mut h1.io, &mut h1.input)) => matches!(read, Ok(Ok(n)) if n > 0),
        () = quit => false,
    }
}

/// Answers one request; the connection, when it may carry another.
#[allow(clippy::too_many_arguments)]
async fn answer(
    access: &Access,
    local: Arc<Local>,
    h1: Box<H1Body>,
    head: Head,
    refused: Option<HeadError>,
    started: Instant,
    options: Options,
    closing: bool,
) -> Option<Box<H1Body>> {
    let mut rq = request(access, local, h1, head, started);
    if let Some(why) = refused {
        let level = crate::observe::error_log::Level::Info;
        crate::observe::request_log(&rq, level, format_args!("{}", why.message()));
    }
    let refused = match refused {
        Some(why) => Some(why.status()),
        None if options.expected_tls => prepare(&mut rq).err().or(Some(497)),
        None => prepare(&mut rq).err(),
    };
    let response = match refused {
        Some(status) => {
            rq.keepalive = false;
            phases::refuse_with(&mut rq, status).await
        }
        None => {
            if closing {
                rq.keepalive = false;
            }
            phases::process(&mut rq).await
        }
    };
    respond(rq, response).await
}

/// The request of a head, at its address's default server.
fn request(access: &Access, local: Arc<Local>, h1: Box<H1Body>, head: Head, started: Instant) -> Request {
    access.worker().metrics.connections.requests.inc();
    access.conn.requests.fetch_add(1, Ordering::Relaxed);
    let mut rq = Request::new(local, access.conn.clone(), head, Downstream::H1(h1));
    rq.started = started;
    rq.length = rq.head.size() as u64;
    rq.server = bound(&rq.local, &rq.conn).names.default;
    rq.level = rq.http().servers[rq.server].level;
    rq
}

/// Reads the request line and the fields that frame the message; the error is the status for what
/// is wrong with them.
fn prepare(rq: &mut Request) -> Result<(), u16> {
    let version = rq.head.version;
    choose_server(rq)?;
    let merge = *rq.srv().core.merge_slashes;
    let target = uri::parse(rq.head.target(), merge).ok_or(400u16)?;
    (rq.uri, rq.args, rq.unparsed) = (target.path, target.args, target.unparsed);
    let framing = framing(&rq.head)?;
    rq.body_length = match &framing {
        Framing::Length(n) => Some(*n),
        _ => None,
    };
    rq.has_body = !framing.is_done();
    let expects = rq.head.get("expect").is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    let has_body = rq.has_body;
    if let Downstream::H1(h1) = &mut rq.downstream {
        h1.framing = framing;
        h1.expect_continue = expects && has_body && version == Version::Http11;
    }
    rq.keepalive = match version {
        Version::Http11 => !connection_has(&rq.head, b"close"),
        Version::Http10 => connection_has(&rq.head, b"keep-alive"),
        _ => false,
    };
    Ok(())
}

fn connection_has(head: &Head, word: &[u8]) -> bool {
    head.all("connection").any(|v| v.split(|b| *b == b',').any(|w| w.trim_ascii().eq_ignore_ascii_case(word)))
}

/// How the request's body is framed; what could be understood in two ways is refused.
fn framing(head: &Head) -> Result<Framing, u16> {
    let mut lengths = head.all("content-length");
    let length = match (lengths.next(), lengths.next()) {
        (_, Some(_)) => return Err(400),
        (Some(text), None) => {
            let fine = !text.is_empty() && text.len() < 19 && text.iter().all(u8::is_ascii_digit);
            let n = fine.then(|| text.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0')));
            Some(n.ok_or(400u16)?)
        }
        (None, None) => None,
    };
    let mut codings = head.all("transfer-encoding");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(match length {
            None | Some(0) => Framing::None,
            Some(n) => Framing::Length(n),
        }),
        (Some(_), Some(_)) => Err(400),
        (Some(coding), None) => {
            if head.version < Version::Http11 || length.is_some() {
                return Err(400);
            }
            if coding.eq_ignore_ascii_case(b"chunked") {
                Ok(Framing::Chunked(Chunks::default()))
            } else {
                Err(501)
            }
        }
    }
}

/// Finds the server by the host of the target or of `Host`; the error is 400.
pub fn choose_server(rq: &mut Request) -> Result<(), u16> {
    let named = match rq.head.target().first() {
        Some(b'/') | None => None,
        Some(_) => uri::parse(rq.head.target(), true).ok_or(400u16)?.host,
    };
    let mut hosts = rq.head.all("host");
    let field = hosts.next();
    if hosts.next().is_some() {
        return Err(400);
    }
    if field.is_none() && rq.head.version == Version::Http11 {
        return Err(400);
    }
    let field_host = match field {
        Some(text) => Some(valid_host(text)?),
        None => None,
    };
    rq.host = match named {
        Some(text) => valid_host(&text)?,
        None => field_host.unwrap_or_default(),
    };
    let host = rq.host.clone();
    let local = rq.local.clone();
    rq.server = bound(&local, &rq.conn).names.find(&host, Some(rq));
    rq.level = rq.http().servers[rq.server].level;
    Ok(())
}

/// A host in lower case, without port and trailing dot (ngx_http_validate_host).
pub fn valid_host(text: &[u8]) -> Result<Bytes, u16> {
    if text.is_empty() {
        return Ok(Bytes::new());
    }
    let bracketed = text.first() == Some(&b'[');
    let end = if bracketed {
        memchr::memchr(b']', text).ok_or(400u16)? + 1
    } else {
        memchr::memchr(b':', text).unwrap_or(text.len())
    };
    let bad = |b: &u8| *b <= 0x20 || *b == 0x7f || matches!(b, b'/' | b'\0');
    if text.iter().any(bad) || memchr::memmem::find(text, b"..").is_some() {
        return Err(400);
    }
    let rest = &text[end..];
    if !rest.is_empty() && rest[0] != b':' {
        return Err(400);
    }
    let host = text[..end].strip_suffix(b".").unwrap_or(&text[..end]);
    if host.is_empty() {
        return Err(400);
    }
    Ok(host.to_ascii_lowercase().into())
}

/// Sends the response, logs, and gives the connection back when it may carry another request.
async fn respond(mut rq: Request, mut response: Response) -> Option<Box<H1Body>> {
    if !response.silent {
        response = phases::filtered(&mut rq, response).await;
    }
    let Downstream::H1(mut h1) = std::mem::replace(&mut rq.downstream, Downstream::None) else {
        // The connection is lent to the request for the time of `process` only.
        return None;
    };
    if response.silent {
        rq.sent.status = response.status;
        rq.sent.aborted = true;
        finish(&rq);
        return None;
    }
    // A client that waits to be told sends its body after this; it is read and dropped below.
    if h1.expect_continue && response.status < 400 {
        h1.expect_continue = false;
        let time = *rq.loc().core.send_timeout;
        let told = timeout(time, h1.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")).await;
        if !matches!(told, Ok(Ok(()))) {
            return None;
        }
    }
    decide_keepalive(&mut rq, &response);
    let plan = Plan::of(&rq, &response);
    if plan.closes {
        rq.keepalive = false;
    }
    let mut head = Vec::with_capacity(512);
    if rq.head.version != Version::Http09 || response.status != 200 && rq.head.target().is_empty() {
        write_head(&rq, &response, &plan, &mut head);
    }
    record(&mut rq, &response);
    let tunnel = response.tunnel.take();
    let sent = send(&mut rq, &mut h1, head, &mut response, &plan).await;
    if let Some(tunnel) = tunnel
        && sent.is_ok()
    {
        let already_read = std::mem::take(&mut h1.input);
        let bytes = tunnel.run(&mut h1.io, already_read).await;
        rq.sent.bytes += bytes;
        rq.sent.body_bytes += bytes;
        finish(&rq);
        close(&mut h1.io).await;
        return None;
    }
    if let Err(e) = &sent {
        rq.sent.aborted = true;
        if !matches!(e, BodyError::Client(_) | BodyError::ClientTimeout) {
            crate::observe::request_error(&rq, format_args!("{e} while sending to client"));
        }
    }
    finish(&rq);
    if sent.is_err() {
        // Bytes are missing: the client must not take what it has for the whole.
        return None;
    }
    leave(rq, h1).await
}

/// After the answer: the rest of the request's body is read and dropped, or the connection closed.
async fn leave(rq: Request, mut h1: Box<H1Body>) -> Option<Box<H1Body>> {
    let core = &rq.loc().core;
    let (time, pause, linger) = (*core.lingering_time, *core.lingering_timeout, *core.lingering_close);
    // A client that was not told to continue sends nothing.
    if h1.expect_continue {
        close(&mut h1.io).await;
        return None;
    }
    if !h1.framing.is_done() {
        if rq.keepalive {
            let drain = async { while let Ok(Ok(Some(_))) = timeout(pause, h1.next()).await {} };
            let _ = timeout(time, drain).await;
            return if h1.framing.is_done() { Some(h1) } else { None };
        }
        if linger {
            close(&mut h1.io).await;
            let swallow = async {
                let mut dropped = BytesMut::new();
                while let Ok(Ok(n)) = timeout(pause, super::io::read_into(&mut h1.io, &mut dropped)).await {
                    if n == 0 {
                        break;
                    }
                    dropped.clear();
                }
            };
            let _ = timeout(time, swallow).await;
        }
        return None;
    }
    if rq.keepalive {
        return Some(h1);
    }
    close(&mut h1.io).await;
    None
}

async fn close(io: &mut Io) {
    let _ = timeout(Duration::from_secs(1), io.shutdown()).await;
}

fn decide_keepalive(rq: &mut Request, response: &Response) {
    let core = &rq.loc().core;
    let requests = rq.conn.requests.load(Ordering::Relaxed);
    let over = core.keepalive_timeout.is_zero()
        || requests >= *core.keepalive_requests
        || rq.conn.accepted.elapsed() >= *core.keepalive_time
        || response.close
        || rq.local.worker.quitting();
    if over {
        rq.keepalive = false;
    }
}

/// How a response's body goes out.
struct Plan {
    /// Whether there is one on the wire.
    body: bool,
    chunked: bool,
    length: Option<u64>,
    /// Whether its end is the end of the connection.
    closes: bool,
}

impl Plan {
    fn of(rq: &Request, response: &Response) -> Plan {
        let bodyless = matches!(response.status, 101 | 204 | 304);
        let head_only = rq.method == Method::Head;
        let length = match (bodyless, head_only) {
            (true, _) => None,
            // Of a HEAD that went upstream the length is what the upstream said, or unknown.
            (false, true) => response.length.or_else(|| response.body.known_length().filter(|n| *n > 0)),
            (false, false) => response.content_length(),
        };
        let unknown = !bodyless && !head_only && length.is_none();
        let chunked =
            unknown && rq.head.version == Version::Http11 && *rq.loc().core.chunked_transfer_encoding;
        Plan { body: !bodyless && !head_only, chunked, length, closes: unknown && !chunked }
    }
}

/// Writes status line and fields in nginx's order.
fn write_head(rq: &Request, response: &Response, plan: &Plan, out: &mut Vec<u8>) {
    use std::io::Write;
    let mut field = |name: &str, value: &[u8]| write_field(name.as_bytes(), value, out);
    let mut first = Vec::with_capacity(48);
    let _ = write!(first, "HTTP/1.1 {:03}", response.status);
    match &response.reason {
        Some((status, reason)) if *status == response.status => {
            if !reason.is_empty() {
                first.push(b' ');
                first.extend_from_slice(reason);
            }
        }
        _ => {
            first.push(b' ');
            first.extend_from_slice(reason(response.status).as_bytes());
        }
    }
    first.extend_from_slice(b"\r\n");
    let core = &rq.loc().core;
    match &response.server {
        Some(server) => field("Server", server),
        None => field("Server", server_token(*core.server_tokens).as_bytes()),
    }
    match &response.date {
        Some(date) => field("Date", date),
        None => {
            let mut now = Vec::with_capacity(32);
            date::append_now(&mut now);
            field("Date", &now);
        }
    }
    if let Some(kind) = &response.content_type {
        field("Content-Type", kind);
    }
    if let Some(length) = plan.length {
        field("Content-Length", length.to_string().as_bytes());
    }
    if let Some(at) = response.last_modified {
        field("Last-Modified", date::http_date(at).as_bytes());
    }
    if let Some(location) = response.fields.get("location") {
        field("Location", location);
    }
    if plan.chunked {
        field("Transfer-Encoding", b"chunked");
    }
    if response.status == 101 {
        field("Connection", b"upgrade");
    } else if rq.keepalive {
        field("Connection", b"keep-alive");
        if let Some(seconds) = *core.keepalive_header {
            field("Keep-Alive", format!("timeout={seconds}").as_bytes());
        }
    } else {
        field("Connection", b"close");
    }
    for (name, value) in response.fields.iter().filter(|(n, _)| !n.eq_ignore_ascii_case(b"location")) {
        write_field(name, value, out);
    }
    if let Some(etag) = &response.etag {
        write_field(b"ETag", etag, out);
    }
    if response.accept_ranges {
        out.extend_from_slice(b"Accept-Ranges: bytes\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.splice(..0, first);
}

/// Appends a field. A line end in a value, which a decoded URI may bring there, would begin another
/// field; it goes out encoded.
pub fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    append_line_safe(value, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends text to a line of a head, its line ends encoded.
pub fn append_line_safe(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(if rest[at] == b'\r' { b"%0D" } else { b"%0A" });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Keeps what the log and `$sent_http_*` ask for.
pub fn record(rq: &mut Request, response: &Response) {
    rq.sent = Sent {
        status: response.status,
        fields: response.fields.clone(),
        content_type: response.content_type.clone(),
        length: response.content_length(),
        last_modified: response.last_modified,
        etag: response.etag.clone(),
        ..Sent::default()
    };
}

/// What happens to every request at its end: the log, the counters.
pub fn finish(rq: &Request) {
    crate::modules::log::request_done(rq);
    crate::observe::metrics::request_done(rq);
}

/// Sends head and body, gathering what is at hand into as few writes as can be.
async fn send(
    rq: &mut Request,
    h1: &mut H1Body,
    head: Vec<u8>,
    response: &mut Response,
    plan: &Plan,
) -> Result<(), BodyError> {
    let ahead =
        if response.upstream && !response.body.flush_each() { *rq.loc().proxy.buffers as usize } else { 0 };
    let mut out = Outgoing::new(*rq.loc().core.send_timeout, ahead);
    out.push(Bytes::from(head));
    let head_bytes = out.queued as u64;
    let mut body_bytes = 0u64;
    let mut pace = super::pace::Pace::of(rq);
    let result = async {
        if plan.body {
            let flush_each = response.body.flush_each();
            while let Some(piece) = next_piece(response, h1, &mut out).await? {
                let length = piece.len() as u64;
                body_bytes += length;
                // What is more would be taken for the next response.
                if plan.length.is_some_and(|announced| body_bytes > announced) {
                    return Err(BodyError::Upstream("body is longer than its length".into()));
                }
                if plan.chunked {
                    out.push_chunk(piece);
                } else {
                    out.push(piece);
                }
                if flush_each || out.queued >= FULL || pace.is_some() {
                    out.write(&mut h1.io, &mut response.body).await?;
                }
                if let Some(pace) = &mut pace {
                    pace.wait(body_bytes).await;
                }
            }
            if let (Some(length), false) = (plan.length, plan.chunked)
                && length != body_bytes
            {
                return Err(BodyError::Upstream(format!("body of {length} bytes ended after {body_bytes}")));
            }
            if plan.chunked {
                out.close_chunk();
                out.push(Bytes::from_static(b"0\r\n\r\n"));
            }
        }
        out.write(&mut h1.io, &mut response.body).await
    }
    .await;
    if let Err(BodyError::Upstream(_) | BodyError::File(_)) = &result {
        // What there was of the body is the client's to see, and that it is not whole.
        let _ = out.write(&mut h1.io, &mut Body::Empty).await;
    }
    rq.sent.bytes = out.written;
    rq.sent.body_bytes = out.written.saturating_sub(head_bytes);
    result
}

/// Bytes gathered before they are written.
const FULL: usize = 64 * 1024;
/// Bytes a client may send ahead while its answer is being produced.
const AHEAD: usize = 64 * 1024;

/// The next piece of the body. What is queued is written before anything is waited for, and a client
/// that leaves while there is nothing to send is noticed.
async fn next_piece(
    response: &mut Response,
    h1: &mut H1Body,
    out: &mut Outgoing,
) -> Result<Option<Bytes>, BodyError> {
    let at_hand = std::future::poll_fn(|cx| Poll::Ready(out.take_piece(&mut response.body, cx))).await;
    if let Poll::Ready(piece) = at_hand {
        return piece.transpose();
    }
    out.write(&mut h1.io, &mut response.body).await?;
    let body_unread = !h1.framing.is_done();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(piece) = out.take_piece(&mut response.body, cx) {
            return Poll::Ready(piece.transpose());
        }
        // Bytes of an unread body are the request's, not ours to read ahead.
        while !body_unread && h1.input.len() < AHEAD {
            match poll_read_into(&mut h1.io, cx, &mut h1.input) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(BodyError::Client(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(BodyError::Client(e))),
            }
        }
        Poll::Pending
    })
    .await
}

/// Bytes on their way to the client.
struct Outgoing {
    queue: VecDeque<Bytes>,
    /// Pieces that will be one chunk.
    chunk: VecDeque<Bytes>,
    chunk_bytes: usize,
    queued: usize,
    written: u64,
    timeout: Duration,
    /// What was read of the body while the client did not take more (`proxy_buffers`), so that an
    /// upstream is done with sooner than a slow client.
    ahead: VecDeque<Option<Result<Bytes, BodyError>>>,
    ahead_bytes: usize,
    ahead_limit: usize,
}

impl Outgoing {
    fn new(timeout: Duration, ahead_limit: usize) -> Outgoing {
        Outgoing {
            queue: VecDeque::new(),
            chunk: VecDeque::new(),
            chunk_bytes: 0,
            queued: 0,
            written: 0,
            timeout,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            ahead_limit,
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Adds a piece to the chunk that the next write will send: one chunk for what is at hand.
    fn push_chunk(&mut self, piece: Bytes) {
        self.queued += piece.len();
        self.chunk_bytes += piece.len();
        self.chunk.push_back(piece);
    }

    fn close_chunk(&mut self) {
        let bytes = std::mem::take(&mut self.chunk_bytes);
        if bytes > 0 {
            self.queued -= bytes;
            self.push(Bytes::from(format!("{bytes:x}\r\n")));
            while let Some(piece) = self.chunk.pop_front() {
                self.push(piece);
            }
            self.push(Bytes::from_static(b"\r\n"));
        }
    }

    /// The next piece of the body, one read ahead first.
    fn take_piece(
        &mut self,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self.ahead.front() {
            // The end stays, to be seen again if it is asked for again.
            Some(None) => Poll::Ready(None),
            Some(Some(_)) => {
                let piece = self.ahead.pop_front().flatten();
                if let Some(Ok(bytes)) = &piece {
                    self.ahead_bytes -= bytes.len();
                }
                Poll::Ready(piece)
            }
            None => body.poll_next(cx),
        }
    }

    /// Reads ahead as far as is allowed.
    fn read_ahead(&mut self, body: &mut Body, cx: &mut Context<'_>) {
        while self.ahead_bytes < self.ahead_limit && !matches!(self.ahead.back(), Some(None | Some(Err(_)))) {
            match body.poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(piece) => {
                    if let Some(Ok(bytes)) = &piece {
                        self.ahead_bytes += bytes.len();
                    }
                    self.ahead.push_back(piece);
                }
            }
        }
    }

    /// Writes everything; each write has `send_timeout`.
    async fn write(&mut self, io: &mut Io, body: &mut Body) -> Result<(), BodyError> {
        self.close_chunk();
        while !self.queue.is_empty() {
            let n = timeout(self.timeout, self.write_some(io, body))
                .await
                .map_err(|_| BodyError::ClientTimeout)?
                .map_err(BodyError::Client)?;
            if n == 0 {
                return Err(BodyError::Client(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        timeout(self.timeout, io.flush())
            .await
            .map_err(|_| BodyError::ClientTimeout)?
            .map_err(BodyError::Client)
    }

    async fn write_some(&mut self, io: &mut Io, body: &mut Body) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut slices = [IoSlice::new(&[]); 32];
            let mut n = 0;
            for (slot, bytes) in slices.iter_mut().zip(&self.queue) {
                *slot = IoSlice::new(bytes);
                n += 1;
            }
            let written = Pin::new(&mut *io).poll_write_vectored(cx, &slices[..n]);
            if written.is_pending() {
                self.read_ahead(body, cx);
            }
            written
        })
        .await
    }

    fn advance(&mut self, mut n: usize) {
        self.written += n as u64;
        self.queued -= n;
        while let Some(front) = self.queue.front_mut() {
            if n < front.len() {
                let _ = front.split_to(n);
                return;
            }
            n -= front.len();
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_as_nginx_takes_them() {
        for (text, want) in [
            ("Example.ORG:80", Ok("example.org")),
            ("example.org.", Ok("example.org")),
            ("[::1]:8080", Ok("[::1]")),
            ("a/b", Err(400)),
            ("a..b", Err(400)),
            ("[::1", Err(400)),
            (":80", Err(400)),
        ] {
            let got = valid_host(text.as_bytes()).map(|b| String::from_utf8(b.to_vec()).unwrap());
            assert_eq!(got, want.map(str::to_string), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let head = |fields: &[(&str, &str)], version| {
            let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
            Head::from_parts(b"POST", b"/", version, fields)
        };
        let of = |fields: &[(&str, &str)]| framing(&head(fields, Version::Http11));
        assert!(matches!(of(&[("Content-Length", "5")]), Ok(Framing::Length(5))));
        assert!(matches!(of(&[("Transfer-Encoding", "chunked")]), Ok(Framing::Chunked(_))));
        assert_eq!(of(&[("Transfer-Encoding", "gzip")]).unwrap_err(), 501);
        for bad in [
            &[("Content-Length", "5"), ("Content-Length", "5")][..],
            &[("Content-Length", "+5")],
            &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        ] {
            assert_eq!(of(bad).unwrap_err(), 400, "{bad:?}");
        }
        assert_eq!(framing(&head(&[("Transfer-Encoding", "chunked")], Version::Http10)).unwrap_err(), 400);
    }
}
