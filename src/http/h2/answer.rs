//! One request of an HTTP/2 connection: its phases, and its response under flow control.

use super::{Shared, head};
use crate::edge::Local;
use crate::http::body::BodyError;
use crate::http::error_page::server_token;
use crate::http::head::Method;
use crate::http::pace::Pace;
use crate::http::request::{Conn, Downstream, H2Body, Request};
use crate::http::response::Response;
use crate::http::{date, h1, phases};
use crate::modules::headers;
use crate::observe::error_log::Level;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;

/// The most bytes of a paced response sent at once.
const PACED: usize = 16 * 1024;
/// A frame's header.
const FRAME: u64 = 9;

/// Answers a request.
pub async fn answer(
    local: Arc<Local>,
    conn: Arc<Conn>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) {
    let (mut rq, refused) = begin(local, conn, request, respond);
    let mut response = match refused {
        Some(status) => phases::refuse_with(&mut rq, status).await,
        None => phases::process(&mut rq).await,
    };
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
        discard(body, pause, most).await;
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
    let sent = send(&mut rq, &mut respond, &mut response, &shared).await;
    match &sent {
        Ok(()) => shared.resets.carried_through(),
        Err(BodyError::Client(_)) => shared.resets.taken_back(),
        Err(e) => {
            // Bytes are missing: the client must not take what it has for the whole.
            respond.send_reset(Reason::INTERNAL_ERROR);
            let slow = matches!(e, BodyError::ClientTimeout);
            let level = if slow { Level::Info } else { Level::Error };
            crate::observe::request_log(&rq, level, format_args!("{e} while sending to client"));
        }
    }
    rq.sent.aborted = !matches!(sent, Ok(()) | Err(BodyError::Upstream(_)));
    h1::finish(&rq);
}

/// The request, with its server chosen, and the status with which it is refused, if it is.
fn begin(
    local: Arc<Local>,
    conn: Arc<Conn>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> (Request, Option<u16>) {
    let (parts, body) = request.into_parts();
    let default = crate::edge::connection::bound(&local, &conn).names.default;
    let limits = h1::head_limits(&local.generation.http.servers[default].conf.core);
    let (head, refused) = head::read(&parts, &limits);
    let has_body = !body.is_end_stream();
    let stream = Downstream::H2(Box::new(H2Body { body, respond }));
    let mut rq = Request::new(local, conn, head, stream);
    rq.has_body = has_body;
    rq.keepalive = true;
    rq.length = rq.head.size() as u64;
    rq.server = default;
    rq.level = rq.http().servers[default].level;
    let refused = refused.or_else(|| head::prepare(&mut rq).err());
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
    respond: &mut SendResponse<Bytes>,
    response: &mut Response,
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
    let (head, size) = response_head(rq, response, length)?;
    h1::record_sent(rq, response);
    let mut stream = respond.send_response(head, !body).map_err(client)?;
    rq.sent.bytes = size + FRAME;
    if !body {
        return Ok(());
    }
    let mut out = Outgoing {
        stream: &mut stream,
        timeout: *rq.loc().core.send_timeout,
        pace: Pace::of(rq),
        shared,
        sent: 0,
        length,
        trailers,
    };
    let result = out.body(response).await;
    let sent = out.sent;
    rq.sent.body_bytes = sent;
    rq.sent.bytes += sent + sent.div_ceil(16_384) * FRAME;
    if trailers && result.is_ok() {
        return send_trailers(rq, &mut stream, response);
    }
    result
}

/// Ends a stream with the fields that follow the body, if there are any.
fn send_trailers(
    rq: &mut Request,
    stream: &mut SendStream<Bytes>,
    response: &Response,
) -> Result<(), BodyError> {
    let mut fields = HeaderMap::new();
    let mut size = 0;
    for (name, value) in headers::trailers(rq, response).iter() {
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(value.clone()))
        else {
            continue;
        };
        if !is_of_http1(&name) {
            size += (name.as_str().len() + value.len()) as u64;
            fields.try_append(name, value).map_err(|_| too_many())?;
        }
    }
    if fields.is_empty() {
        return stream.send_data(Bytes::new(), true).map_err(client);
    }
    rq.sent.bytes += size + FRAME;
    stream.send_trailers(fields).map_err(client)
}

/// More fields than a head of HTTP/2 can have here; an upstream with large buffers may send them.
fn too_many() -> BodyError {
    BodyError::Upstream("too many fields for an answer in HTTP/2".into())
}

/// Status and fields in nginx's order, and about how many bytes they take; an error when there are too
/// many fields.
fn response_head(
    rq: &Request,
    response: &Response,
    length: Option<u64>,
) -> Result<(http::Response<()>, u64), BodyError> {
    let mut fields = HeaderMap::try_with_capacity(response.fields.len() + 8).map_err(|_| too_many())?;
    let mut size = 0;
    let mut all = true;
    let mut put = |name: HeaderName, value: Bytes| {
        size += name.as_str().len() as u64 + value.len() as u64;
        // What is no value (a control character in it) is not sent rather than sent as another.
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            all &= fields.try_append(name, value).is_ok();
        }
    };
    let server = response.server.clone();
    let token = server_token(*rq.loc().core.server_tokens);
    put(header::SERVER, server.unwrap_or(Bytes::from_static(token.as_bytes())));
    put(header::DATE, response.date.clone().unwrap_or_else(now));
    if let Some(kind) = &response.content_type {
        put(header::CONTENT_TYPE, kind.clone());
    }
    if let Some(length) = length {
        put(header::CONTENT_LENGTH, length.to_string().into());
    }
    if let Some(at) = response.last_modified {
        put(header::LAST_MODIFIED, date::http_date(at).into());
    }
    for (name, value) in response.fields.iter() {
        // The name is made lower case here.
        let Ok(name) = HeaderName::from_bytes(name) else { continue };
        if !is_of_http1(&name) {
            put(name, value.clone());
        }
    }
    if let Some(etag) = &response.etag {
        put(header::ETAG, etag.clone());
    }
    if response.accept_ranges {
        put(header::ACCEPT_RANGES, Bytes::from_static(b"bytes"));
    }
    if !all {
        return Err(too_many());
    }
    let mut head = http::Response::new(());
    // A status is three digits; one that is not is our defect, or an upstream's.
    *head.status_mut() = http::StatusCode::from_u16(response.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    *head.headers_mut() = fields;
    Ok((head, size))
}

fn now() -> Bytes {
    let mut now = Vec::with_capacity(32);
    date::append_now(&mut now);
    now.into()
}

/// Fields about an HTTP/1 connection, which HTTP/2 forbids (RFC 9113 section 8.2.2).
fn is_of_http1(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn client(e: h2::Error) -> BodyError {
    BodyError::Client(e.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
}

/// A body on its way to the client.
struct Outgoing<'a> {
    stream: &'a mut SendStream<Bytes>,
    timeout: Duration,
    pace: Option<Pace>,
    shared: &'a Shared,
    sent: u64,
    length: Option<u64>,
    /// Whether fields may follow, so that the end does not go with the last bytes.
    trailers: bool,
}

impl Outgoing<'_> {
    async fn body(&mut self, response: &mut Response) -> Result<(), BodyError> {
        let mut piece = self.next(response).await?;
        while let Some(bytes) = piece {
            // The end goes with the last bytes when it is known in time, rather than in a frame of
            // its own: by the length, or because the body says so at once.
            let (end, ahead) = match self.length {
                _ if self.trailers => (false, None),
                Some(length) => (self.sent + bytes.len() as u64 >= length, None),
                None => match poll_fn(|cx| Poll::Ready(response.body.poll_next(cx))).await {
                    Poll::Ready(None) => (true, None),
                    Poll::Ready(Some(next)) => (false, Some(next)),
                    Poll::Pending => (false, None),
                },
            };
            if self.length.is_some_and(|l| self.sent + bytes.len() as u64 > l) {
                return Err(BodyError::Upstream("body is longer than its length".into()));
            }
            self.piece(bytes, end).await?;
            if end {
                return Ok(());
            }
            piece = match ahead {
                Some(next) => Some(next?),
                None => self.next(response).await?,
            };
        }
        if let Some(length) = self.length.filter(|length| *length != self.sent) {
            return Err(BodyError::Upstream(format!("body of {length} bytes ended after {}", self.sent)));
        }
        if self.trailers {
            return Ok(());
        }
        self.stream.send_data(Bytes::new(), true).map_err(client)
    }

    /// The next piece of the body; a client that leaves while there is none is noticed.
    async fn next(&mut self, response: &mut Response) -> Result<Option<Bytes>, BodyError> {
        poll_fn(|cx| {
            loop {
                match response.body.poll_next(cx) {
                    Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
                    Poll::Ready(piece) => return Poll::Ready(piece.transpose()),
                    Poll::Pending => break,
                }
            }
            self.stream.poll_reset(cx).map(|_| Err(BodyError::Client(io::ErrorKind::ConnectionReset.into())))
        })
        .await
    }

    /// Sends a piece as the client's windows let it through.
    async fn piece(&mut self, mut bytes: Bytes, end: bool) -> Result<(), BodyError> {
        while !bytes.is_empty() {
            let most = if self.pace.is_some() { PACED.min(bytes.len()) } else { bytes.len() };
            self.stream.reserve_capacity(most);
            let n = self.capacity().await?.min(most);
            let part = bytes.split_to(n);
            self.stream.send_data(part, end && bytes.is_empty()).map_err(client)?;
            self.sent += n as u64;
            self.shared.add_sent(n as u64);
            if let Some(pace) = &mut self.pace {
                pace.wait(self.sent).await;
            }
        }
        Ok(())
    }

    /// Bytes that may be sent now, more than 0; waits for them no longer than `send_timeout`.
    async fn capacity(&mut self) -> Result<usize, BodyError> {
        let stream = &mut *self.stream;
        let mut some = |cx: &mut Context<'_>| -> Poll<Result<usize, BodyError>> {
            loop {
                let n = stream.capacity();
                if n > 0 {
                    return Poll::Ready(Ok(n));
                }
                match stream.poll_capacity(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(client(e))),
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(BodyError::Client(io::ErrorKind::ConnectionReset.into())));
                    }
                }
            }
        };
        // A timer is for those that wait.
        if let Poll::Ready(at_once) = poll_fn(|cx| Poll::Ready(some(cx))).await {
            return at_once;
        }
        timeout(self.timeout, poll_fn(some)).await.map_err(|_| BodyError::ClientTimeout)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::Running;

    #[test]
    fn more_fields_than_a_head_holds_are_an_error() {
        let running = Running::start("server { listen LISTEN; }");
        let rq = running.request("/");
        for (count, fits) in [(1_000, true), (40_000, false)] {
            let mut response = Response::new(200);
            (0..count).for_each(|n| response.fields.add(format!("x-{n:x}"), ""));
            let head = response_head(&rq, &response, None);
            assert_eq!(head.is_ok(), fits, "{count}");
        }
    }
}
