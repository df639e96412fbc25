//! Answers that are given again ([`crate::http::hit`]), on the spot.

use super::answer::{self, FRAME, send_body};
use super::chunk::Chunk;
use super::priority::FIELD;
use super::turns::PIECE;
use super::{Shared, head, reply};
use crate::edge::Local;
use crate::http::body::Body;
use crate::http::head::Version;
use crate::http::hit::Ready;
use crate::http::hit::glance::{FIELDS, Field, Glance};
use crate::http::hit::memo::{Content, Memo};
use crate::http::hit::names;
use crate::http::hit::table::{self, Known, Mark, find};
use crate::http::phases::{self, Flow, Passage};
use crate::http::request::{Conn, Downstream, H2Body, Request, Sent};
use crate::http::response::{Response, Seconds};
use crate::http::{date, h1, tick};
use crate::observe::error_log::Level;
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest head that is kept, about.
const HEAD: u64 = 4096;

/// The head of an answer that may be given again.
#[derive(Debug)]
pub struct Kept {
    /// As it was in a second.
    head: RefCell<(Seconds, http::Response<()>)>,
    /// Whether the date in it is ours to say.
    dated: bool,
    /// Bytes of it, about.
    size: u64,
}

impl Kept {
    fn of(response: &Response, head: &http::Response<()>, size: u64) -> Option<Kept> {
        if size > HEAD {
            return None;
        }
        // Copies, which hold nothing larger in memory.
        let mut fields = HeaderMap::with_capacity(head.headers().len());
        for (name, value) in head.headers() {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            fields.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        let mut copy = http::Response::new(());
        *copy.headers_mut() = fields;
        Some(Kept { head: RefCell::new((0, copy)), dated: response.date.is_none(), size })
    }

    /// Bytes of memory that it takes, about: a field takes twice its text.
    pub fn bytes(&self) -> usize {
        size_of::<Kept>() + 2 * self.size as usize
    }

    /// The head as it is now.
    fn now(&self) -> http::Response<()> {
        let (of, head) = &mut *self.head.borrow_mut();
        let now = date::now();
        if self.dated && *of != now {
            *of = now;
            head.headers_mut().insert(header::DATE, reply::dated(now));
        }
        head.clone()
    }
}

/// Keeps an answer that may be given again.
pub fn remember(mark: Option<Mark>, rq: &Request, response: &Response, head: &http::Response<()>, size: u64) {
    match (mark, &rq.ready) {
        (Some(mark), Some(Ready::Unwatched)) if !mark.watch => table::seen(mark),
        // What did not lie ready this time may the next.
        (Some(mark), Some(_)) if mark.watch => {
            let memo = Memo::of(mark, rq, response, b"", None);
            let memo = memo.and_then(|mut memo| {
                memo.h2 = Some(Kept::of(response, head, size)?);
                Some(memo)
            });
            table::note(mark, memo);
        }
        _ => {}
    }
}

/// What became of a request that was looked at.
pub enum Hit {
    /// It goes the full way.
    Unknown(Option<Mark>, H2Body),
    /// It was answered.
    Done,
    /// Its answer is being sent.
    Begun(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// A request's head as the table of answers knows heads; `None` when it is in any way unusual.
fn look<'a>(parts: &'a Parts, body: &RecvStream, found: &mut Glance<'a>) -> Option<()> {
    let target = parts.uri.path_and_query()?.as_str();
    if parts.method != Method::GET
        || !body.is_end_stream()
        || !target.starts_with('/')
        || !head::has_scheme(parts)
    {
        return None;
    }
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let mut host = authority.unwrap_or_default();
    let mut present = 0;
    // "GET", "HTTP/2.0" and two blanks; the name of the host's field, which stands in the head of any request.
    let (mut length, mut longest) = (13 + target.len(), target.len());
    if authority.is_some() {
        length += 4 + host.len();
    }
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        length += name.len() + value.len();
        longest = longest.max(name.len()).max(value.len());
        if !name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
            return None;
        }
        let Some(number) = names::number(name) else { continue };
        if present & 1 << number != 0 || number == CONTENT_LENGTH || number == HOST && authority.is_some() {
            return None;
        }
        if number == HOST {
            host = value;
        }
        present |= 1 << number;
        found.values.push(Field { number, name, value });
    }
    if present & 1 << HOST == 0 {
        authority?;
        present |= 1 << HOST;
        found.values.push(Field { number: HOST, name: b"host", value: host });
    }
    (found.target, found.host, found.present) = (target.as_bytes(), host, present);
    (found.fields, found.longest, found.length) = (parts.headers.len(), longest, length);
    (found.fields < FIELDS).then_some(())
}

const HOST: u8 = names::known("host");
const CONTENT_LENGTH: u8 = names::known("content-length");

/// Answers that were given again.
#[cfg(test)]
pub static REPEATED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Answers a request if it is one that was answered before.
pub fn attempt(
    local: &Arc<Local>,
    conn: &Arc<Conn>,
    parts: &Parts,
    mut stream: H2Body,
    shared: &Arc<Shared>,
) -> Hit {
    let mut asked = Glance::new(Version::Http2);
    if look(parts, &stream.body, &mut asked).is_none() {
        return Hit::Unknown(None, stream);
    }
    let memo = match find(&local.generation, conn, &asked) {
        Known::Memo(memo) => memo,
        Known::Unknown(mark) => return Hit::Unknown(Some(mark), stream),
    };
    let now = tick::now();
    let again = Some(memo.mark());
    let Some(kept) = &memo.h2 else { return Hit::Unknown(again, stream) };
    let Some((content, received)) = memo.content(local, now.into()) else {
        return Hit::Unknown(again, stream);
    };
    #[cfg(test)]
    REPEATED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let whole = Whole { local, conn, memo: &memo, parts, length: asked.length as u64 };
    let mut rq = None;
    if !memo.gates.is_empty() {
        match whole.ask_gates() {
            (asked, Passage::Free) => rq = Some(asked),
            (mut asked, Passage::Not(flow)) => {
                asked.sent = Sent::default();
                asked.downstream = Downstream::H2(Box::new(stream));
                return Hit::Begun(Box::pin(refuse(asked, flow, shared.clone())));
            }
            (asked, Passage::After(delay)) => {
                memo.count(local, &received, now.into());
                let answer = Late { head: kept.now(), size: kept.size, length: memo.length() };
                let body = content.into_body();
                return Hit::Begun(Box::pin(late(asked, answer, body, delay, stream, shared.clone())));
            }
        }
    }
    memo.count(local, &received, now.into());
    let head_bytes = kept.size + FRAME;
    let Ok(mut out) = stream.respond.send_response(kept.now(), memo.length() == 0) else {
        shared.resets.taken_back();
        whole.tell(rq, &Told { sent: 0, body: 0, aborted: true });
        return Hit::Done;
    };
    let body = match content {
        Content::Bytes(bytes) => match at_once(shared, &mut out, bytes) {
            AtOnce::Sent(body) => {
                shared.resets.carried_through();
                let frame = if body > 0 { FRAME } else { 0 };
                whole.tell(rq, &Told { sent: head_bytes + body + frame, body, aborted: false });
                return Hit::Done;
            }
            AtOnce::TakenBack => {
                shared.resets.taken_back();
                whole.tell(rq, &Told { sent: head_bytes, body: 0, aborted: true });
                return Hit::Done;
            }
            AtOnce::Later(bytes) => Body::from(bytes),
        },
        large @ (Content::Pieces(_) | Content::Lasting(_)) => large.into_body(),
    };
    let mut rq = rq.unwrap_or_else(|| whole.request());
    rq.sent.bytes = head_bytes;
    keep_priority(&mut rq, &kept.head.borrow().1);
    let response = Response { length: Some(memo.length()), body, ..Response::new(200) };
    Hit::Begun(Box::pin(rest(rq, out, response, shared.clone())))
}

/// A request that is answered as another was.
struct Whole<'a> {
    local: &'a Arc<Local>,
    conn: &'a Arc<Conn>,
    memo: &'a Memo,
    parts: &'a Parts,
    /// Bytes of its head.
    length: u64,
}

impl Whole<'_> {
    /// The request as the phases would have left it.
    fn request(&self) -> Box<Request> {
        let default = crate::edge::connection::bound(self.local, self.conn).names.default;
        let limits = h1::head_limits(&self.local.generation.http.servers[default].conf.core);
        let head = head::read(self.parts, &limits).0;
        let rq = self.memo.recall(self.local.clone(), self.conn.clone(), head, Instant::now());
        let mut rq = Box::new(rq);
        rq.length = self.length;
        rq
    }

    /// Whether the request may have the answer, and after what time.
    fn ask_gates(&self) -> (Box<Request>, Passage) {
        let mut rq = self.request();
        let mut delay = Duration::ZERO;
        for gate in &self.memo.gates {
            match gate(&mut rq) {
                Passage::Free => {}
                Passage::After(time) => delay += time,
                not @ Passage::Not(_) => return (rq, not),
            }
        }
        (rq, if delay.is_zero() { Passage::Free } else { Passage::After(delay) })
    }

    /// Logs and counts it.
    fn tell(&self, rq: Option<Box<Request>>, told: &Told) {
        if self.memo.logged {
            let mut rq = rq.unwrap_or_else(|| self.request());
            (rq.sent.bytes, rq.sent.body_bytes, rq.sent.aborted) = (told.sent, told.body, told.aborted);
            crate::modules::log::request_done(&rq);
        }
        // One turn of the loop is no time.
        let (server, time) = (self.memo.facts.server, Duration::ZERO);
        crate::observe::metrics::count(self.local, server, 200, self.length, told.sent, time);
    }
}

/// Puts what an answer says of its own priority where it is looked for.
fn keep_priority(rq: &mut Request, head: &http::Response<()>) {
    if let Some(said) = head.headers().get(FIELD)
        && rq.sent.fields.get(FIELD).is_none()
    {
        rq.sent.fields.add_static(FIELD, Bytes::copy_from_slice(said.as_bytes()));
    }
}

/// What was sent, for the log.
struct Told {
    sent: u64,
    body: u64,
    aborted: bool,
}

/// What became of a body that was to be sent at once.
enum AtOnce {
    Sent(u64),
    /// The client wants it no more.
    TakenBack,
    /// It is too large for that, or others are before it, or a window is shut.
    Later(Bytes),
}

fn at_once(shared: &Shared, stream: &mut SendStream<Chunk>, body: Bytes) -> AtOnce {
    let length = body.len();
    if length == 0 {
        return AtOnce::Sent(0);
    }
    if length > PIECE || !shared.turns.try_take(length) {
        return AtOnce::Later(body);
    }
    stream.reserve_capacity(length);
    if stream.capacity() < length {
        shared.turns.give_back(length);
        return AtOnce::Later(body);
    }
    match stream.send_data(body.into(), true) {
        Ok(()) => AtOnce::Sent(length as u64),
        Err(_) => AtOnce::TakenBack,
    }
}

/// Sends what could not be sent at once.
async fn rest(
    mut rq: Box<Request>,
    mut stream: SendStream<Chunk>,
    mut response: Response,
    shared: Arc<Shared>,
) {
    let length = response.length;
    let sent = send_body(&mut rq, &mut stream, &mut response, length, &shared).await;
    answer::end(rq, sent, |reason| stream.send_reset(reason), &shared);
}

/// Answers with what was decided of a request that may not have the answer.
async fn refuse(mut rq: Box<Request>, flow: Box<Flow>, shared: Arc<Shared>) {
    let response = phases::go_on(&mut rq, *flow).await;
    answer::respond(rq, response, None, &shared).await;
}

/// An answer that is put off.
struct Late {
    head: http::Response<()>,
    /// Bytes of it.
    size: u64,
    /// Bytes of the body.
    length: u64,
}

async fn late(
    mut rq: Box<Request>,
    said: Late,
    body: Body,
    delay: Duration,
    mut stream: H2Body,
    shared: Arc<Shared>,
) {
    let left = tokio::select! {
        () = tokio::time::sleep(delay) => false,
        _ = poll_fn(|cx| stream.respond.poll_reset(cx)) => true,
    };
    keep_priority(&mut rq, &said.head);
    let sent = if left { None } else { stream.respond.send_response(said.head, said.length == 0).ok() };
    let Some(out) = sent else {
        let text = format_args!("client prematurely closed connection");
        crate::observe::request_log(&rq, Level::Info, text);
        rq.sent = Sent { status: 499, aborted: true, ..Sent::default() };
        shared.resets.taken_back();
        return h1::finish(&rq);
    };
    rq.sent.bytes = said.size + FRAME;
    let response = Response { length: Some(said.length), body, ..Response::new(200) };
    if said.length == 0 {
        return answer::end(rq, Ok(()), |_| {}, &shared);
    }
    rest(rq, out, response, shared).await;
}
