//! The loop of an HTTP/1 connection: a head, an answer, and again.
//!
//! An idle connection holds no buffer: bytes come through the worker's read buffer, and what a
//! request needs lives as long as the request.

mod field;
mod hits;
mod idle;
mod prepare;
mod read;
mod send;
mod sendfile;
mod small;
mod write;

pub use field::{append_line_safe, write_field};
pub use prepare::{choose_server, valid_host};
pub use read::head_limits;
pub use write::{record, record_sent};

use super::body::{BodyError, Framing};
use super::head::{Head, HeadError, Version};
use super::hit::memo::Memo;
use super::hit::table;
use super::io::Io;
use super::phases;
use super::request::{Downstream, H1Body, Request};
use super::response::Response;
use crate::edge::Local;
use crate::edge::connection::{Access, bound};
use crate::edge::worker::Worker;
use crate::http::hit::Ready;
use crate::http::hit::table::Mark;
use crate::observe::metrics::own::Gauge;
use bytes::BytesMut;
use idle::{Asked, Idle, Sent, Woken};
use prepare::prepare;
use read::{Read, Reader, Start};
use send::send;
use small::Piece;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use write::{Plan, write_head};

/// What is special about a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// TLS was expected and the client speaks plain HTTP: every request is answered 497.
    pub expected_tls: bool,
    /// An HTTP/2 preface may come instead of a request line.
    pub preface: bool,
}

/// Serves a connection to its end.
pub fn serve(access: Access, io: Io, options: Options) -> impl Future<Output = ()> + Send {
    run(access, Box::new(H1Body::new(io)), options)
}

/// A block, not an `async fn`: that would hold its arguments twice for as long as the connection lives.
#[allow(clippy::manual_async_fn)]
fn run(mut access: Access, mut h1: Box<H1Body>, options: Options) -> impl Future<Output = ()> + Send {
    async move {
        let worker = access.worker().clone();
        let mut idle = Idle {
            timer: pin!(tokio::time::sleep(patience(&mut access, true).0)),
            quit: pin!(worker.quit()),
            quitting: false,
        };
        // Registered before looking, so that no wake-up is lost.
        idle.quit.as_mut().enable();
        let mut first = true;
        // What a request needs lives in boxes of its own, so that a connection that waits is small.
        loop {
            h1.pipelined = !first && !h1.input.is_empty();
            let asked = if h1.input.is_empty() {
                // Neither the buffer of the last head.
                h1.input = BytesMut::new();
                let Some((time, least)) = time_to_wait(&mut access, first) else { break };
                // A connection that has sent nothing yet is idle, as nginx counts it.
                let waiting = Counted::new(&worker, |c| &c.waiting);
                let woken = idle.wait(&mut access, &mut h1, time, least).await;
                drop(waiting);
                match woken {
                    Woken::Request(asked, sent) => {
                        first &= sent == Sent::Alone;
                        h1.pipelined = sent == Sent::Together;
                        asked
                    }
                    Woken::Begun(begun) => {
                        first = false;
                        let writing = Counted::new(&worker, |c| &c.writing);
                        let fine = Box::pin(begun.end(&mut h1)).await;
                        drop(writing);
                        if !fine {
                            return;
                        }
                        continue;
                    }
                    Woken::Refused(refused) => {
                        first = false;
                        let writing = Counted::new(&worker, |c| &c.writing);
                        let kept = Box::pin(refused.answer(h1)).await;
                        drop(writing);
                        match kept {
                            Some(connection) => h1 = connection,
                            None => return,
                        }
                        continue;
                    }
                    Woken::Closed => break,
                }
            } else {
                Asked::Bytes(None)
            };
            match boxed(|| exchange(&mut access, h1, options, first, asked)).await {
                Exchanged::Next(connection) => h1 = connection,
                Exchanged::Preface(h1) => {
                    let H1Body { io, input, .. } = *h1;
                    return super::h2::serve(access, io, input).await;
                }
                Exchanged::Over => return,
            }
            first = false;
        }
        Box::pin(close(&mut h1.io)).await;
    }
}

/// A future in a box, made there and not copied to it. A function, so that whoever waits keeps nothing but the box.
#[inline(always)]
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}

/// What comes after an exchange.
enum Exchanged {
    /// The connection may carry another request.
    Next(Box<H1Body>),
    /// The client speaks HTTP/2.
    Preface(Box<H1Body>),
    /// Nothing.
    Over,
}

/// Reads a request, of which the first bytes are there if not all, and answers it.
#[inline(always)]
async fn exchange(
    access: &mut Access,
    mut h1: Box<H1Body>,
    options: Options,
    first: bool,
    asked: Asked,
) -> Exchanged {
    let (rq, mark, refused, closing) = match asked {
        // It was seen that nothing ends just now.
        Asked::Head(mut rq, mark) => {
            lend(&mut rq, h1);
            (rq, Some(mark), None, false)
        }
        Asked::Bytes(mark) => {
            let (local, _) = access.current();
            let mut reader = Reader::new(access, &local, first, mark);
            let read = match reader.look(&mut h1) {
                Some(read) => read,
                None => Box::pin(reader.wait(access, &mut h1)).await,
            };
            if options.preface && first && matches!(read, Read::Preface) {
                return Exchanged::Preface(h1);
            }
            // The configuration of now, not of when its first bytes came.
            let (local, closing) = access.current();
            let unknown = || Start { head: Head::raw_line(b""), length: 0, at: Instant::now(), mark: None };
            let (start, refused) = match read {
                Read::Head(start) => (start, None),
                Read::Refused(why, start) => (start, Some(why)),
                Read::Preface => (unknown(), Some(HeadError::BadLine)),
                Read::Late(start) => {
                    unanswered(request(access, local, h1, start), 408);
                    return Exchanged::Over;
                }
                Read::Broken(start) => {
                    unanswered(request(access, local, h1, start), 400);
                    return Exchanged::Over;
                }
            };
            let mark = start.mark;
            (request(access, local, h1, start), mark, refused, closing)
        }
    };
    let _writing = Counted::new(access.worker(), |c| &c.writing);
    match pin!(answer(rq, mark, refused, options, closing)).await {
        Some(connection) => Exchanged::Next(connection),
        None => Exchanged::Over,
    }
}

/// `reset_timedout_connection`: the client is shown a reset.
fn reset(rq: &Request) {
    if *rq.loc().core.reset_timedout_connection {
        crate::edge::tcp::reset_on_close(rq.conn.descriptor.load(Ordering::Relaxed));
    }
}

/// How long a connection may be silent: before its first request or the next one; and how long though the worker
/// ends.
fn patience(access: &mut Access, first: bool) -> (Duration, Duration) {
    access.is_closing();
    let local = access.local();
    let http = &local.generation.http;
    let server = &http.servers[bound(local, &access.conn).names.default];
    if first {
        return (*server.conf.core.client_header_timeout, Duration::ZERO);
    }
    let core = &http.levels[server.level].conf.core;
    (*core.keepalive_timeout, *core.keepalive_min_timeout)
}

/// As [`patience`]; `None` when there is nothing to wait for, because the worker ends.
fn time_to_wait(access: &mut Access, first: bool) -> Option<(Duration, Duration)> {
    let (time, least) = patience(access, first);
    let over = !first && least.is_zero() && access.is_closing();
    (!over).then_some((time, least))
}

/// Adds one to a gauge for as long as it lives.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(worker: &'a Worker, which: fn(&crate::observe::metrics::Connections) -> &Gauge) -> Counted<'a> {
        let gauge = which(&worker.metrics.connections);
        gauge.add(1);
        Counted(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Logs a request whose head has not come, and which nobody is there to read an answer to.
fn unanswered(mut rq: Box<Request>, status: u16) {
    begin(&mut rq);
    rq.sent.status = status;
    rq.sent.aborted = true;
    finish(&rq);
    if status == 408 {
        reset(&rq);
    }
}

/// Takes what there is of a head as far as it was in order: nginx does so line by line, while it reads.
fn begin(rq: &mut Request) {
    if !rq.head.target().is_empty() {
        // It is refused in any case.
        let _ = prepare::choose_server(rq);
    }
}

/// Answers one request; the connection, when it may carry another.
async fn answer(
    mut rq: Box<Request>,
    mark: Option<Mark>,
    refused: Option<HeadError>,
    options: Options,
    closing: bool,
) -> Option<Box<H1Body>> {
    if mark.is_some_and(|mark| mark.watch) {
        rq.head.reads.begin();
        rq.watch.begin();
    }
    if let Some(why) = refused {
        let level = crate::observe::error_log::Level::Info;
        crate::observe::request_log(&rq, level, format_args!("{}", why.message()));
    }
    let refused = match refused {
        Some(why) => {
            begin(&mut rq);
            Some(why.status())
        }
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
            pin!(phases::process(&mut rq)).await
        }
    };
    pin!(respond(rq, response, mark)).await
}

/// The request of a head, with its connection.
fn request(access: &Access, local: Arc<Local>, h1: Box<H1Body>, start: Start) -> Box<Request> {
    let mut rq = begun(access, local, start);
    lend(&mut rq, h1);
    rq
}

/// The request of a head, at its address's default server.
fn begun(access: &Access, local: Arc<Local>, start: Start) -> Box<Request> {
    access.worker().metrics.connections.requests.inc();
    // The connection's requests come one after the other.
    let requests = access.conn.requests.load(Ordering::Relaxed);
    access.conn.requests.store(requests + 1, Ordering::Relaxed);
    let conn = access.conn.clone();
    // Boxed, for it is large and passed on; and made there, not copied to it.
    let place = Box::new_uninit();
    let mut rq = Box::write(place, Request::begun(local, conn, start.head, Downstream::None, start.at));
    rq.length = start.length;
    rq.server = bound(&rq.local, &rq.conn).names.default;
    rq.level = rq.http().servers[rq.server].level;
    rq
}

/// Lends a request its connection.
fn lend(rq: &mut Request, mut h1: Box<H1Body>) {
    h1.taken = 0;
    rq.pipelined = h1.pipelined;
    rq.downstream = Downstream::H1(h1);
}

/// Sends the response, logs, and gives the connection back when it may carry another request.
async fn respond(
    mut rq: Box<Request>,
    mut response: Box<Response>,
    mark: Option<Mark>,
) -> Option<Box<H1Body>> {
    if bad_chunks_at_hand(&mut rq) {
        rq.keepalive = false;
        if response.status < 400 && response.tunnel.is_none() {
            response = Box::pin(phases::refuse_with(&mut rq, 400)).await;
        }
    }
    // What is not usual is boxed below: what a future may have to wait for takes room in it, and it is copied.
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
        if matches!(response.status, 408 | 444) {
            reset(&rq);
        }
        return None;
    }
    // A client that waits to be told sends its body after this; it is read and dropped below.
    if h1.expect_continue && response.status < 400 {
        h1.expect_continue = false;
        let time = *rq.loc().core.send_timeout;
        let told = timeout(time, h1.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n"));
        if !matches!(Box::pin(told).await, Ok(Ok(()))) {
            return None;
        }
    }
    decide_keepalive(&mut rq, &response);
    let plan = Plan::of(&rq, &response);
    if plan.closes {
        rq.keepalive = false;
    }
    let small = small::is(&rq, &response, &plan);
    let mut head = if small { small::buffer() } else { Vec::with_capacity(small::HEAD) };
    if rq.head.version != Version::Http09 {
        let date = write_head(&rq, &response, &plan, &mut head);
        remember(mark, &rq, &response, &head, date);
    }
    record_sent(&mut rq, &mut response);
    if plan.chunked {
        rq.sent.length = None;
    }
    let tunnel = response.tunnel.take();
    // What the client still sends is read to its end before the connection is closed.
    let last = !rq.keepalive && tunnel.is_none() && !h1.expect_continue && h1.framing.is_done();
    let sent = if small {
        let mut piece = Piece::new(head, &mut response);
        if last {
            h1.io.last();
        }
        let sent = match piece.send_at_once(&h1) {
            Some(sent) => sent,
            None => Box::pin(piece.send(&mut h1, *rq.loc().core.send_timeout)).await,
        };
        piece.end(&mut rq);
        sent
    } else {
        Box::pin(send(&mut rq, &mut h1, head, &mut response, &plan, last)).await
    };
    if let Some(tunnel) = tunnel
        && sent.is_ok()
    {
        let already_read = std::mem::take(&mut h1.input);
        let bytes = tunnel.run(&mut h1.io, already_read).await;
        rq.sent.bytes += bytes;
        rq.sent.body_bytes += bytes;
        finish(&rq);
        Box::pin(close(&mut h1.io)).await;
        return None;
    }
    if let Err(e) = &sent {
        // Of an upstream that broke off nginx has sent what there was.
        rq.sent.aborted = !matches!(e, BodyError::Upstream(_));
        if !matches!(e, BodyError::Client(_) | BodyError::ClientTimeout) {
            crate::observe::request_error(&rq, format_args!("{e} while sending to client"));
        }
    }
    finish(&rq);
    if let Err(e) = sent {
        if matches!(e, BodyError::ClientTimeout) {
            reset(&rq);
        }
        // Bytes are missing: the client must not take what it has for the whole.
        return None;
    }
    if rq.keepalive && h1.framing.is_done() && !h1.expect_continue {
        return Some(h1);
    }
    Box::pin(leave(rq, h1)).await
}

/// Keeps an answer that may be given again.
fn remember(mark: Option<Mark>, rq: &Request, response: &Response, head: &[u8], date: Option<usize>) {
    match (mark, &rq.ready) {
        (Some(mark), Some(Ready::Unwatched)) if !mark.watch => table::seen(mark),
        // What did not lie ready this time may the next.
        (Some(mark), Some(_)) if mark.watch => {
            table::note(mark, Memo::of(mark, rq, response, head, date));
        }
        _ => {}
    }
}

/// Drops what has already come of a chunked body that no handler read; whether it is no such body.
fn bad_chunks_at_hand(rq: &mut Request) -> bool {
    let Downstream::H1(h1) = &mut rq.downstream else { return false };
    if !matches!(h1.framing, Framing::Chunked(_)) {
        return false;
    }
    loop {
        match h1.framing.take(&mut h1.input) {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// After the answer: the rest of the request's body is read and dropped, or the connection closed.
async fn leave(rq: Box<Request>, mut h1: Box<H1Body>) -> Option<Box<H1Body>> {
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
        || rq.started.saturating_duration_since(rq.conn.accepted) >= *core.keepalive_time
        || response.close
        || core.keepalive_disable.fits(rq)
        || rq.local.worker.quitting();
    if over {
        rq.keepalive = false;
    }
}

/// What happens to every request at its end: the log, the counters.
pub fn finish(rq: &Request) {
    crate::modules::log::request_done(rq);
    crate::observe::metrics::request_done(rq);
}
