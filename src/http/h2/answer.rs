//! One request of an HTTP/2 connection: its phases, and its response under flow control.

use super::chunk::Chunk;
use super::send::{Outgoing, Patience, client};
use super::turns::PIECE;
use super::{Shared, head, hits, reply};
use crate::edge::Local;
use crate::http::body::BodyError;
use crate::http::head::Method;
use crate::http::hit::table::Mark;
use crate::http::pace::Pace;
use crate::http::request::{Conn, Downstream, H2Body, Request};
use crate::http::response::Response;
use crate::http::{h1, phases};
use crate::modules::headers;
use crate::observe::error_log::Level;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A frame's header.
pub const FRAME: u64 = 9;

/// Answers a request.
pub async fn answer(
    local: Arc<Local>,
    conn: Arc<Conn>,
    parts: Parts,
    stream: H2Body,
    mark: Option<Mark>,
    shared: Arc<Shared>,
) {
    let (mut rq, refused) = begin(local, conn, &parts, stream);
    drop(parts);
    if mark.is_some_and(|mark| mark.watch) {
        rq.head.reads.begin();
        rq.watch.begin();
    }
    let refused = refused.or_else(|| head::prepare(&mut rq).err());
    let response = match refused {
        Some(status) => phases::refuse_with(&mut rq, status).await,
        None => phases::process(&mut rq).await,
    };
    respond(rq, response, mark, &shared).await;
}

/// Sends the response that the phases came to, and logs.
pub async fn respond(mut rq: Box<Request>, mut response: Box<Response>, mark: Option<Mark>, shared: &Shared) {
    if !response.silent {
        response = phases::filtered(&mut rq, response).await;
    }
    // The stream is lent to the request for the time of `process` only.
    let Downstream::H2(stream) = std::mem::replace(&mut rq.downstream, Downstream::None) else { return };
    let H2Body { body, mut respond } = *stream;
    // A body that is too large is not waited for.
    if !body.is_end_stream() && !response.silent && response.status != 413 {
        let pause = *rq.loc().core.lingering_timeout;
        let most = *rq.srv().http2.body_preread_size as usize;
        Box::pin(discard(body, pause, most)).await;
    } else {
        drop(body);
    }
    if response.silent || response.status == 101 {
        // The code that nginx gives.
        respond.send_reset(Reason::PROTOCOL_ERROR);
        rq.sent.status = if response.silent { response.status } else { 444 };
        rq.sent.aborted = true;
        shared.resets.carried_through();
        return h1::finish(&rq);
    }
    let sent = send(&mut rq, &mut respond, &mut response, mark, shared).await;
    end(rq, sent, |reason| respond.send_reset(reason), shared);
}

/// Sees to the end of a request whose response was sent, or was not.
pub fn end(mut rq: Box<Request>, sent: Result<(), BodyError>, reset: impl FnOnce(Reason), shared: &Shared) {
    match &sent {
        Ok(()) => shared.resets.carried_through(),
        Err(BodyError::Client(_)) => shared.resets.taken_back(),
        Err(e) => {
            // Bytes are missing: the client must not take what it has for the whole.
            let slow = matches!(e, BodyError::ClientTimeout);
            let (reason, level) = match slow {
                true => (Reason::PROTOCOL_ERROR, Level::Info),
                false => (Reason::INTERNAL_ERROR, Level::Error),
            };
            reset(reason);
            crate::observe::request_log(&rq, level, format_args!("{e} while sending to client"));
        }
    }
    rq.sent.aborted = !matches!(sent, Ok(()) | Err(BodyError::Upstream(_)));
    h1::finish(&rq);
}

/// The request, and the status with which its head is refused, if it is.
fn begin(local: Arc<Local>, conn: Arc<Conn>, parts: &Parts, stream: H2Body) -> (Box<Request>, Option<u16>) {
    let default = crate::edge::connection::bound(&local, &conn).names.default;
    let limits = h1::head_limits(&local.generation.http.servers[default].conf.core);
    let (head, refused) = head::read(parts, &limits);
    let has_body = !stream.body.is_end_stream();
    let mut rq = Box::new(Request::new(local, conn, head, Downstream::H2(Box::new(stream))));
    rq.has_body = has_body;
    rq.keepalive = true;
    rq.length = rq.head.size() as u64;
    rq.server = default;
    rq.level = rq.http().servers[default].level;
    (rq, refused)
}

/// A request is answered when it has ended. What no handler read of its body is dropped, as far as
/// the client may send it without being asked; the crate refuses the rest.
async fn discard(mut body: RecvStream, pause: Duration, most: usize) {
    let mut left = most;
    while !body.is_end_stream() {
        // An error will be seen again by whoever sends.
        let Ok(Some(Ok(piece))) = timeout(pause, body.data()).await else { return };
        if piece.len() > left {
            return;
        }
        left -= piece.len();
        let _ = body.flow_control().release_capacity(piece.len());
    }
}

/// Sends head and body.
async fn send(
    rq: &mut Request,
    respond: &mut SendResponse<Chunk>,
    response: &mut Response,
    mark: Option<Mark>,
    shared: &Shared,
) -> Result<(), BodyError> {
    let bodyless = matches!(response.status, 204 | 304);
    let head_only = rq.method == Method::Head;
    let length = match (bodyless, head_only && response.upstream) {
        // A 304 of our own says its length if it has one, an upstream's how long the body would be.
        (true, _) if response.status == 304 => response.length.filter(|n| *n > 0 || !response.upstream),
        (true, _) => None,
        // An upstream that did not tell the length of what it did not send did not say 0.
        (false, true) => response.length,
        (false, false) => response.content_length(),
    };
    let trailers = headers::expects_trailers(rq, response);
    let body = !bodyless && !head_only && (length != Some(0) || response.trailers);
    let (head, size) = reply::head(rq, response, length)?;
    hits::remember(mark, rq, response, &head, size);
    h1::record_sent(rq, response);
    let mut stream = respond.send_response(head, !body).map_err(client)?;
    rq.sent.bytes = size + FRAME;
    if !body {
        return Ok(());
    }
    send_body(rq, &mut stream, response, length, shared).await?;
    if trailers { send_trailers(rq, &mut stream, response) } else { Ok(()) }
}

/// Sends a body, whose length was said if it is some; its end goes with it unless fields may follow.
pub async fn send_body(
    rq: &mut Request,
    stream: &mut SendStream<Chunk>,
    response: &mut Response,
    length: Option<u64>,
    shared: &Shared,
) -> Result<(), BodyError> {
    let trailers = headers::expects_trailers(rq, response);
    let patience = Patience::new(*rq.loc().core.send_timeout);
    let pace = Pace::of(rq, rq.conn.tls.is_none());
    let place = shared.turns.place(stream.stream_id().as_u32());
    let mut out = Outgoing { rq, stream, place, patience, pace, sent: 0, length, trailers, shut: false };
    let result = out.body(response).await;
    let sent = out.sent;
    drop(out);
    rq.sent.body_bytes = sent;
    rq.sent.bytes += sent + sent.div_ceil(PIECE as u64) * FRAME;
    result
}

/// Ends a stream with the fields that follow the body, if there are any.
fn send_trailers(
    rq: &mut Request,
    stream: &mut SendStream<Chunk>,
    response: &Response,
) -> Result<(), BodyError> {
    let (fields, size) = reply::trailers(headers::trailers(rq, response))?;
    if fields.is_empty() {
        return stream.send_data(Chunk::default(), true).map_err(client);
    }
    rq.sent.bytes += size + FRAME;
    stream.send_trailers(fields).map_err(client)
}
