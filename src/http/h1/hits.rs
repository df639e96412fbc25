//! Answers that are given again ([`crate::http::hit`]), within one turn of the event loop: a glance at the head,
//! one write.

use super::finish;
use super::send::send;
use super::write::Plan;
use crate::edge::connection::Access;
use crate::http::body::{Body, BodyError};
use crate::http::hit::glance::glance;
use crate::http::hit::memo::{Content, Memo};
use crate::http::hit::table::{Known, Mark, find};
use crate::http::io::Io;
use crate::http::request::{H1Body, Request};
use crate::http::response::Response;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::AsyncWrite;

/// Bodies up to this go out in one piece with their heads; larger ones are not worth the copy.
const SMALL: usize = 32 * 1024;

thread_local! {
    /// An answer on its way.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What became of a request that was looked at.
pub(super) enum Hit {
    /// It goes the full way.
    Unknown(Option<Mark>),
    /// It was answered; its head took so many bytes.
    Done(usize),
    /// Its answer is to be sent; its head took so many bytes.
    Begun(usize, Box<Begun>),
}

/// An answer of which not all was written at once.
pub(super) struct Begun {
    rq: Request,
    response: Response,
    /// What is left of the head, or of head and body where they are one.
    head: Vec<u8>,
    /// Bytes that are gone.
    written: u64,
    /// Bytes of the whole head.
    head_length: u64,
    failed: Option<io::Error>,
}

/// Answers the request with which `input` begins, if it is one that was answered before.
pub(super) fn attempt(access: &mut Access, io: &mut Io, input: &[u8], cx: &mut Context<'_>) -> Hit {
    let Some(asked) = glance(input) else { return Hit::Unknown(None) };
    if access.is_closing() {
        return Hit::Unknown(None);
    }
    let local = access.local();
    let memo = match find(local.generation.number, &access.conn, &asked) {
        Known::Memo(memo) => memo,
        Known::Unknown(mark) => return Hit::Unknown(Some(mark)),
    };
    let again = Hit::Unknown(Some(memo.mark()));
    let started = Instant::now();
    let core = &local.generation.http.levels[memo.facts.level].conf.core;
    let requests = access.conn.requests.load(Ordering::Relaxed) + 1;
    // Its connection would close after it, which another head says.
    if requests >= *core.keepalive_requests
        || started.duration_since(access.conn.accepted) >= *core.keepalive_time
    {
        return again;
    }
    let Some(content) = memo.content(local, started.into()) else { return again };
    access.worker().metrics.connections.requests.inc();
    access.conn.requests.store(requests, Ordering::Relaxed);
    let length = asked.length;
    let head = &input[..length];
    let small = match content {
        Content::Bytes(bytes) if bytes.len() <= SMALL => bytes,
        large => return Hit::Begun(length, Begun::large(access, &memo, large, head, started)),
    };
    OUT.with_borrow_mut(|out| {
        out.clear();
        memo.head.append(out);
        out.extend_from_slice(&small);
        let (written, failed) = match write(io, out, cx) {
            Ok(written) => (written, None),
            Err(e) => (0, Some(e)),
        };
        if failed.is_some() || written < out.len() || !is_flushed(io, cx) {
            let response = Response::new(200);
            let mut begun = Begun::new(access, &memo, response, out[written..].to_vec(), head, started);
            begun.written = written as u64;
            begun.failed = failed;
            return Hit::Begun(length, begun);
        }
        if memo.logged {
            log(access, &memo, out.len() as u64, head, started);
        }
        let server = memo.facts.server;
        crate::observe::metrics::count(
            local,
            server,
            200,
            length as u64,
            out.len() as u64,
            started.elapsed(),
        );
        Hit::Done(length)
    })
}

/// Writes what the client takes now.
fn write(io: &mut Io, out: &[u8], cx: &mut Context<'_>) -> io::Result<usize> {
    let mut written = 0;
    while written < out.len() {
        match Pin::new(&mut *io).poll_write(cx, &out[written..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => written += n,
            Poll::Ready(Err(e)) => return Err(e),
            Poll::Pending => break,
        }
    }
    Ok(written)
}

/// Whether nothing is left in the layers below. An error shows with the next write.
fn is_flushed(io: &mut Io, cx: &mut Context<'_>) -> bool {
    !io.is_tls() || matches!(Pin::new(io).poll_flush(cx), Poll::Ready(Ok(())))
}

fn log(access: &Access, memo: &Memo, bytes: u64, head: &[u8], started: Instant) {
    let local = access.local().clone();
    if let Some(mut rq) = memo.request(local, access.conn.clone(), head, started) {
        rq.sent.bytes = bytes;
        rq.sent.body_bytes = memo.length();
        crate::modules::log::request_done(&rq);
    }
}

impl Begun {
    fn new(
        access: &Access,
        memo: &Memo,
        response: Response,
        left: Vec<u8>,
        head: &[u8],
        started: Instant,
    ) -> Box<Begun> {
        let (local, conn) = (access.local().clone(), access.conn.clone());
        // What a glance takes for a head the parser does; an answer to another request it cannot become.
        let rq = memo.request(local.clone(), conn.clone(), head, started).unwrap_or_else(|| {
            Request::recalled(local, conn, crate::http::head::Head::default(), &memo.facts)
        });
        let head_length = memo.head.size() as u64;
        Box::new(Begun { rq, response, head: left, written: 0, head_length, failed: None })
    }

    fn large(access: &Access, memo: &Memo, content: Content, head: &[u8], started: Instant) -> Box<Begun> {
        let mut encoded = Vec::with_capacity(memo.head.size());
        memo.head.append(&mut encoded);
        let mut response = Response::new(200);
        response.body = content.into_body();
        response.length = Some(memo.length());
        Begun::new(access, memo, response, encoded, head, started)
    }

    /// Sends what is left, and logs; whether the connection may carry another request.
    pub(super) async fn end(self, h1: &mut H1Body) -> bool {
        let Begun { mut rq, mut response, head, written, head_length, failed } = self;
        let whole = !matches!(response.body, Body::Empty);
        let plan = Plan { body: whole, chunked: false, length: response.length, closes: false };
        let sent = match failed {
            Some(e) => Err(BodyError::Client(e)),
            None => send(&mut rq, h1, head, &mut response, &plan).await,
        };
        rq.sent.bytes += written;
        rq.sent.body_bytes = rq.sent.bytes.saturating_sub(head_length);
        rq.sent.aborted = sent.is_err();
        finish(&rq);
        if matches!(sent, Err(BodyError::ClientTimeout)) {
            super::reset(&rq);
        }
        sent.is_ok()
    }
}
