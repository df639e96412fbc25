//! Answers that are given again ([`crate::http::hit`]), within one turn of the event loop: a glance at the head,
//! one write.

use super::read::{Start, head_limits};
use super::send::send;
use super::write::Plan;
use super::{begun, finish};
use crate::edge::connection::{Access, bound};
use crate::http::body::{Body, BodyError, Framing};
use crate::http::head::{Head, Version};
use crate::http::hit::glance::Glance;
use crate::http::hit::memo::{Content, Memo};
use crate::http::hit::pool;
use crate::http::hit::table::{Known, Mark, find};
use crate::http::io::{Io, read_into};
use crate::http::phases::{self, Flow, Passage};
use crate::http::request::{Downstream, H1Body, Request, Sent};
use crate::http::response::Response;
use crate::http::tick;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;

/// Bodies up to this go out in one piece with their heads; larger ones are not worth the copy.
const SMALL: usize = 32 * 1024;

thread_local! {
    /// An answer on its way.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What became of a request that was looked at.
pub(super) enum Hit {
    /// It is to be read, and goes the full way.
    Unknown(Option<Mark>),
    /// It goes the full way; its head took so many bytes.
    Read(usize, Box<Request>, Mark),
    /// It was answered; its head took so many bytes.
    Done(usize),
    /// Its answer is to be sent; its head took so many bytes.
    Begun(usize, Box<Begun>),
    /// It may not have the answer; its head took so many bytes.
    Refused(usize, Box<Refused>),
}

/// A request that may not have the answer, and what it gets.
pub(super) struct Refused {
    rq: Box<Request>,
    flow: Box<Flow>,
}

/// An answer of which not all was written at once.
pub(super) struct Begun {
    rq: Box<Request>,
    response: Response,
    /// What is left of the head, or of head and body where they are one.
    head: Vec<u8>,
    /// Bytes that are gone.
    written: u64,
    /// Bytes of the whole head.
    head_length: u64,
    failed: Option<io::Error>,
    /// How long it is put off.
    delay: Duration,
}

/// Bytes a client may send ahead while its answer is put off.
const AHEAD: usize = 64 * 1024;

/// Answers the request with which `input` begins, if it is one that was answered before.
/// `pipelined`: it was sent before the answer to the one before it.
pub(super) fn attempt(
    access: &mut Access,
    io: &mut Io,
    input: &[u8],
    pipelined: bool,
    cx: &mut Context<'_>,
) -> Hit {
    let mut asked = Glance::new(Version::Http11);
    if asked.look(input).is_none() || access.is_closing() {
        return Hit::Unknown(None);
    }
    let local = access.local();
    let memo = match find(&local.generation, &access.conn, &asked) {
        Known::Memo(memo) => memo,
        Known::Unknown(mark) => return full_way(access, input, &asked, mark),
    };
    let now = tick::now();
    let core = &local.generation.http.levels[memo.facts.level].conf.core;
    let requests = access.conn.requests.load(Ordering::Relaxed) + 1;
    // Its connection would close after it, which another head says.
    if requests >= *core.keepalive_requests
        || now.saturating_duration_since(access.conn.accepted) >= *core.keepalive_time
    {
        return full_way(access, input, &asked, memo.mark());
    }
    let Some((content, received)) = memo.content(local, now.into()) else {
        return full_way(access, input, &asked, memo.mark());
    };
    let length = asked.length;
    let whole = Whole { access, memo: &memo, head: &input[..length], pipelined };
    whole.count();
    let mut rq = None;
    if !memo.gates.is_empty() {
        match whole.ask_gates() {
            Ok((asked, delay)) if delay.is_zero() => rq = Some(asked),
            Ok((asked, delay)) => {
                memo.count(access.local(), &received, now.into());
                return Hit::Begun(length, whole.large(asked, content, delay));
            }
            Err(refused) => return Hit::Refused(length, refused),
        }
    }
    memo.count(access.local(), &received, now.into());
    let small = match content {
        Content::Bytes(bytes) if bytes.len() <= SMALL => bytes,
        large => {
            let rq = rq.unwrap_or_else(|| whole.request());
            return Hit::Begun(length, whole.large(rq, large, Duration::ZERO));
        }
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
            let rq = rq.unwrap_or_else(|| whole.request());
            let mut begun = whole.begun(rq, Response::new(200), out[written..].to_vec());
            begun.written = written as u64;
            begun.failed = failed;
            return Hit::Begun(length, begun);
        }
        if memo.logged {
            let rq = rq.get_or_insert_with(|| whole.request());
            whole.log(rq, out.len() as u64);
        }
        if let Some(rq) = rq {
            pool::give(rq);
        }
        // One turn of the loop is no time.
        let (server, time) = (memo.facts.server, Duration::ZERO);
        crate::observe::metrics::count(access.local(), server, 200, length as u64, out.len() as u64, time);
        Hit::Done(length)
    })
}

/// The request of a head that was seen to be in order, where it is within the bounds of its address.
fn full_way(access: &Access, input: &[u8], asked: &Glance<'_>, mark: Mark) -> Hit {
    let local = access.local();
    let default = bound(local, &access.conn).names.default;
    let limits = head_limits(&local.generation.http.servers[default].conf.core);
    if asked.longest > limits.line || asked.length > limits.total || asked.fields > limits.fields {
        return Hit::Unknown(Some(mark));
    }
    let (head, length) = (Head::seen(input, asked), asked.length);
    let start = Start { head, length: length as u64, at: crate::edge::turn::now(), mark: Some(mark) };
    Hit::Read(length, begun(access, local.clone(), start), mark)
}

/// Writes what the client takes now.
fn write(io: &mut Io, out: &[u8], cx: &mut Context<'_>) -> io::Result<usize> {
    let mut written = 0;
    if let Some(sent) = io.send_at_once(out) {
        written = sent?;
    }
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

/// A request that is answered as another was.
#[derive(Clone, Copy)]
struct Whole<'a> {
    access: &'a Access,
    memo: &'a Memo,
    /// Its head.
    head: &'a [u8],
    pipelined: bool,
}

impl Whole<'_> {
    fn count(&self) {
        self.access.worker().metrics.connections.requests.inc();
        // The connection's requests come one after the other.
        let requests = self.access.conn.requests.load(Ordering::Relaxed);
        self.access.conn.requests.store(requests + 1, Ordering::Relaxed);
    }

    /// The request as the phases would have left it.
    fn request(&self) -> Box<Request> {
        let (local, conn) = (self.access.local().clone(), self.access.conn.clone());
        let (place, head) = pool::take();
        let rq = self.memo.request(local.clone(), conn.clone(), head, self.head, Instant::now());
        // What a glance takes for a head the parser does.
        let rq = rq.unwrap_or_else(|| Request::recalled(local, conn, Head::default(), &self.memo.facts));
        let mut rq = place.put(rq);
        rq.pipelined = self.pipelined;
        rq
    }

    /// Whether the request may have the answer, and after what time.
    fn ask_gates(&self) -> Result<(Box<Request>, Duration), Box<Refused>> {
        let mut rq = self.request();
        let mut delay = Duration::ZERO;
        for gate in &self.memo.gates {
            match gate(&mut rq) {
                Passage::Free => {}
                Passage::After(time) => delay += time,
                Passage::Not(flow) => return Err(Box::new(Refused { rq, flow })),
            }
        }
        Ok((rq, delay))
    }

    fn begun(&self, rq: Box<Request>, response: Response, left: Vec<u8>) -> Box<Begun> {
        let head_length = self.memo.head.size() as u64;
        let delay = Duration::ZERO;
        Box::new(Begun { rq, response, head: left, written: 0, head_length, failed: None, delay })
    }

    /// An answer that takes more than one turn.
    fn large(&self, rq: Box<Request>, content: Content, delay: Duration) -> Box<Begun> {
        let mut encoded = Vec::with_capacity(self.memo.head.size());
        self.memo.head.append(&mut encoded);
        let mut response = Response::new(200);
        response.body = content.into_body();
        response.length = Some(self.memo.length());
        let mut begun = self.begun(rq, response, encoded);
        begun.delay = delay;
        begun
    }

    fn log(&self, rq: &mut Request, bytes: u64) {
        rq.sent.bytes = bytes;
        rq.sent.body_bytes = self.memo.length();
        crate::modules::log::request_done(rq);
    }
}

impl Begun {
    /// Sends what is left, and logs; whether the connection may carry another request.
    pub(super) async fn end(self, h1: &mut H1Body) -> bool {
        let Begun { mut rq, mut response, head, written, head_length, failed, delay } = self;
        if !delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = left(h1) => {
                    let level = crate::observe::error_log::Level::Info;
                    let text = format_args!("client prematurely closed connection");
                    crate::observe::request_log(&rq, level, text);
                    rq.sent = Sent { status: 499, aborted: true, ..Sent::default() };
                    finish(&rq);
                    return false;
                }
            }
        }
        let whole = !matches!(response.body, Body::Empty);
        let plan = Plan { body: whole, chunked: false, length: response.length, closes: false };
        let sent = match failed {
            Some(e) => Err(BodyError::Client(e)),
            None => send(&mut rq, h1, head, &mut response, &plan, false).await,
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

/// Ends when the client is seen to have left; what it sends ahead is kept, within bounds.
async fn left(h1: &mut H1Body) {
    while h1.input.len() < AHEAD {
        if !matches!(read_into(&mut h1.io, &mut h1.input).await, Ok(n) if n > 0) {
            return;
        }
    }
    std::future::pending().await
}

impl Refused {
    /// Answers with what was decided.
    pub(super) async fn answer(self, mut h1: Box<H1Body>) -> Option<Box<H1Body>> {
        let Refused { mut rq, flow } = self;
        (h1.framing, h1.expect_continue, h1.taken) = (Framing::None, false, 0);
        // It has sent nothing yet.
        rq.sent = Sent::default();
        rq.downstream = Downstream::H1(h1);
        let response = phases::go_on(&mut rq, *flow).await;
        super::respond(rq, response, None).await
    }
}
