//! A request for an answer: one attempt after another, as `proxy_next_upstream` allows.

use super::body::UpstreamBody;
use super::connect::{self, ConnectError};
use super::exchange::{self, AttemptError, Reading};
use super::group::Taken;
use super::head::AnswerHead;
use super::patience::Patience;
use super::pool::Connection;
use super::spool::Spooled;
use super::tunnel::UpstreamTunnel;
use super::{Answer, Failure, FailureKind, Plan};
use crate::cache::seen::Source;
use crate::edge::turn;
use crate::http::Request;
use crate::http::body::{Body, Framing};
use crate::http::h1::{append_line_safe, write_field};
use crate::http::request::{Attempt, AttemptEnd, End};
use crate::modules::proxy::Next;
use crate::observe::error_log::Level;
use bytes::BytesMut;
use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Why an attempt failed, and whether anything had been sent.
type Failed = (AttemptError, bool);

/// The connection of an attempt, and how far the exchange over it is. It stays where it is: what is handed on is copied.
struct Line {
    /// `None` as long as none is made.
    connection: Option<Connection>,
    /// What came and is not used yet.
    input: BytesMut,
    reading: Reading,
    /// What came of a first write, if there was one.
    first: Option<io::Result<usize>>,
    /// Whether that took the whole request.
    sent: bool,
}

impl Line {
    /// The head of the answer to a request that was sent.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Failed>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Err((AttemptError::Broken("there is no connection".into()), false)));
        };
        self.reading.poll(cx, &mut connection.stream, &mut self.input).map_err(|error| (error, true))
    }
}

/// An attempt that goes on: the last of `attempts`. It ends with this, unless there is an answer.
struct UnderWay<'a> {
    began: Instant,
    answered: bool,
    attempts: &'a mut Vec<Attempt>,
}

impl<'a> UnderWay<'a> {
    fn new(peer: Arc<str>, began: Instant, attempts: &'a mut Vec<Attempt>) -> UnderWay<'a> {
        // Most are the only one.
        attempts.reserve_exact(1);
        attempts.push(Attempt {
            another: false,
            peer,
            status: 0,
            connect: None,
            header: None,
            head_size: 0,
            bytes_sent: 0,
            end: End::default(),
        });
        UnderWay { began, answered: false, attempts }
    }

    /// Changes what is known of it.
    fn note(&mut self, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.last_mut() {
            change(attempt);
        }
    }

    /// There is an answer.
    fn answered(mut self, head: &AnswerHead, took: Duration) {
        self.answered = true;
        self.note(|attempt| {
            attempt.status = head.status;
            attempt.head_size = head.size as u64;
            attempt.header = Some(took);
        });
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let took = turn::since(self.began);
            self.note(|attempt| attempt.end = End::at(took, 0));
        }
    }
}

/// Whose request it is that goes upstream.
pub enum Asker<'a> {
    /// Nobody's who could be asked any more: what is logged is in [`Plan::about`].
    Gone,
    /// This one's, whose body is at hand.
    Waits(&'a mut Request),
    /// This one's, whose body is taken from the client as it arrives (`proxy_request_buffering off`).
    Sends(&'a mut Request),
}

impl Plan {
    /// Sends the request and reads the head of the answer, trying other servers as
    /// `proxy_next_upstream` allows.
    pub async fn fetch(self) -> Result<Answer, Failure> {
        self.fetch_for(Asker::Gone, &mut Vec::new()).await
    }

    /// The same. Where nobody waits for the end of it, the attempts there were are in `attempts`.
    pub async fn fetch_for(
        &self,
        mut asker: Asker<'_>,
        attempts: &mut Vec<Attempt>,
    ) -> Result<Answer, Failure> {
        let mut began = turn::now();
        let started = began;
        let conf = self.conf();
        let mut selection = self.group.selection(self.hash_key.clone(), self.client);
        let mut tries = selection.tries;
        if *conf.next_upstream_tries > 0 {
            tries = tries.min(*conf.next_upstream_tries as usize);
        }
        let mut last: Option<Failure> = None;
        loop {
            let Some(mut taken) = selection.take_at(began) else {
                return Err(self.nobody(last, &asker, attempts));
            };
            let mut under_way = UnderWay::new(taken.name(), began, attempts);
            let mut line = self.begin(&taken, &asker, began, &mut under_way);
            // A kept connection that turns out dead does not count as a try.
            let reused = line.connection.is_some();
            let outcome = match line.sent {
                true => poll_fn(|cx| line.poll(cx)).await,
                // Boxed, for what making a connection and sending in pieces take is large, and most requests need
                // neither.
                false => Box::pin(self.attempt(&taken, &mut asker, &mut line, &mut under_way)).await,
            };
            let at = turn::now();
            match &outcome {
                Ok(head) => {
                    let took = at.saturating_duration_since(began);
                    under_way.answered(head, took);
                    taken.group.latency.observe(took);
                }
                Err(_) => drop(under_way),
            }
            tries = tries.saturating_sub(1);
            let attempts_now = &*attempts;
            let may = |why: Next, sent: bool| {
                let spent = || {
                    let timeout = *conf.next_upstream_timeout;
                    !timeout.is_zero() && turn::since(started) >= timeout
                };
                let streamed =
                    matches!(asker, Asker::Sends(_)) && attempts_now.last().is_some_and(|a| a.bytes_sent > 0);
                let idempotent = !matches!(&self.method[..], b"POST" | b"LOCK" | b"PATCH");
                let allowed = conf.next_upstream.allows(why)
                    && (idempotent || !sent || conf.next_upstream.allows(Next::NonIdempotent));
                allowed && !streamed && !spent()
            };
            match outcome {
                Ok(head) => {
                    let status = head.status;
                    let class = (status / 100).saturating_sub(1);
                    if let Some(class) = taken.metrics().answers.get(usize::from(class)) {
                        class.inc();
                    }
                    if let Some(why) = Next::of_status(status) {
                        let retry = may(why, true) && tries > 0;
                        if conf.next_upstream.allows(why) && status != 403 && status != 404 {
                            taken.failed();
                        }
                        if retry {
                            began = turn::now();
                            continue;
                        }
                    }
                    return Ok(self.answer(head, line, taken, take(attempts), (began, at)));
                }
                Err((error, sent)) => {
                    let (failure, why) = self.describe(error, &taken, &asker);
                    if failure.kind == FailureKind::Client {
                        return Err(Failure { attempts: take(attempts), ..failure });
                    }
                    let go_on = may(why, sent);
                    if let Some(attempt) = attempts.last_mut() {
                        attempt.status = failure.status;
                    }
                    if reused && failure.kind == FailureKind::Error {
                        // That the other side had closed it says nothing of the server, which may
                        // be asked again.
                        selection.tried[taken.index] = false;
                        tries += 1;
                    } else {
                        taken.failed();
                    }
                    if tries == 0 || !go_on {
                        return Err(Failure { attempts: take(attempts), ..failure });
                    }
                    last = Some(failure);
                    began = turn::now();
                }
            }
        }
    }

    /// There is nobody to be asked, or nobody any more.
    fn nobody(&self, last: Option<Failure>, asker: &Asker<'_>, attempts: &mut Vec<Attempt>) -> Failure {
        if let Some(failure) = last {
            return Failure { attempts: take(attempts), ..failure };
        }
        self.group.no_live.inc();
        let what = format_args!("no live upstreams while connecting to upstream");
        self.log(asker, Level::Error, what, &self.group.conf.name);
        let peer = Arc::from(self.group.conf.name.as_str());
        attempts.push(Attempt { peer, status: 502, ..Attempt::default() });
        let message = "no live upstreams".to_string();
        Failure { status: 502, kind: FailureKind::NoLiveUpstreams, message, attempts: take(attempts) }
    }

    /// Takes a kept connection, where there is one, and sends the request over it, where it takes all of it at once.
    fn begin(&self, taken: &Taken, asker: &Asker<'_>, began: Instant, under_way: &mut UnderWay<'_>) -> Line {
        let kind = connect::kind(self.tls.as_ref());
        let mut line = Line {
            connection: taken.group.pool.take(self.local.worker.index, taken.peer.id, kind, began),
            input: BytesMut::new(),
            reading: self.reading(*self.conf().read_timeout),
            first: None,
            sent: false,
        };
        let Some(connection) = &mut line.connection else { return line };
        taken.metrics().reuses.inc();
        connection.requests += 1;
        let Some(attempt) = under_way.attempts.last_mut() else { return line };
        attempt.connect = Some(Duration::ZERO);
        if let (Some(head), Spooled::None) = (&self.written, &self.body)
            && !matches!(asker, Asker::Sends(_))
        {
            line.first = exchange::write_first(connection, &[head]);
            line.sent = matches!(line.first, Some(Ok(sent)) if sent == head.len());
            if line.sent {
                attempt.bytes_sent = head.len() as u64;
            }
        }
        line
    }

    /// Makes a connection, where there is none, sends the request, and reads the head of the answer.
    async fn attempt(
        &self,
        taken: &Taken,
        asker: &mut Asker<'_>,
        line: &mut Line,
        under_way: &mut UnderWay<'_>,
    ) -> Result<AnswerHead, Failed> {
        let connection = match &mut line.connection {
            Some(connection) => connection,
            none => {
                let made = self.connect(taken).await.map_err(|error| (error, false))?;
                let took = turn::since(under_way.began);
                under_way.note(|attempt| attempt.connect = Some(took));
                none.insert(Connection { requests: 1, ..made })
            }
        };
        // Counted where it is seen though nobody waits for the end.
        let mut nowhere = 0;
        let sent = under_way.attempts.last_mut().map_or(&mut nowhere, |attempt| &mut attempt.bytes_sent);
        let exchanged = self.exchange(connection, asker, line.first.take(), sent, &mut line.input).await;
        // A part of a request may have been acted upon, also where the rest could not be sent; nginx, too,
        // takes for sent whatever there was a connection for.
        exchanged.map_err(|error| (error, true))
    }

    /// A new connection to the peer.
    async fn connect(&self, taken: &Taken) -> Result<Connection, AttemptError> {
        let (conf, addr) = (self.conf(), &taken.conf().addr);
        let (timeout, keepalive) = (*conf.connect_timeout, *conf.socket_keepalive);
        let made = connect::connect(addr, self.tls.as_ref(), timeout, keepalive).await;
        let error = match made {
            Ok(connection) => {
                taken.metrics().connects.inc();
                return Ok(connection);
            }
            Err(error) => error,
        };
        Err(match error {
            ConnectError::Timeout => AttemptError::Timeout(
                "upstream timed out (110: Connection timed out) while connecting to upstream",
            ),
            ConnectError::Failed(what) => {
                AttemptError::Broken(format!("{what} while connecting to upstream"))
            }
            ConnectError::HandshakeTimeout => AttemptError::Timeout(
                "upstream timed out (110: Connection timed out) while SSL handshaking to upstream",
            ),
            ConnectError::Handshake(what) => {
                AttemptError::Broken(format!("{what} while SSL handshaking to upstream"))
            }
        })
    }

    /// Sends head and body, and reads the head of the answer. Where a write was made already, `first` is what came of
    /// it. What was sent is counted in `bytes`.
    async fn exchange(
        &self,
        connection: &mut Connection,
        asker: &mut Asker<'_>,
        first: Option<io::Result<usize>>,
        bytes: &mut u64,
        input: &mut BytesMut,
    ) -> Result<AnswerHead, AttemptError> {
        let conf = self.conf();
        let made;
        let head: &[u8] = match &self.written {
            Some(written) => written,
            None => {
                made = self.head();
                &made
            }
        };
        let each = *conf.send_timeout;
        let sent = match (&self.body, asker) {
            // What comes in pieces has a state that others need not carry.
            (Spooled::None, Asker::Sends(rq)) => {
                Box::pin(send_on(connection, input, head, rq, each, bytes)).await
            }
            (Spooled::File(..), _) => {
                Box::pin(send_file(connection, input, head, &self.body, each, bytes)).await
            }
            (Spooled::Memory(body), _) => {
                exchange::write_all(connection, input, &[head, body], each, bytes).await
            }
            (Spooled::None, _) => {
                let first = first.or_else(|| exchange::write_first(connection, &[head]));
                exchange::write_rest(connection, input, &[head], each, first, bytes).await
            }
        };
        match sent {
            Ok(()) => exchange::read_head(connection, input, self.reading(*conf.read_timeout)).await,
            // An upstream may answer and close before it has read a body it does not want.
            Err(AttemptError::Broken(what)) => {
                let soon = Duration::from_secs(1).min(*conf.read_timeout);
                match exchange::read_head(connection, input, self.reading(soon)).await {
                    Ok(mut head) => {
                        head.keepalive = false;
                        Ok(head)
                    }
                    Err(_) => Err(AttemptError::Broken(what)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The head that is to come, all of it in the time `each`.
    fn reading(&self, each: Duration) -> Reading {
        let head_request = &self.method[..] == b"HEAD";
        Reading::new(head_request, self.upgrade, *self.conf().buffer_size as usize, each)
    }

    /// The request's head as bytes.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(256 + self.fields.size());
        append_line_safe(&self.method, &mut head);
        head.push(b' ');
        append_line_safe(&self.target.uri, &mut head);
        head.extend_from_slice(if self.http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
        for (name, value) in self.fields.iter() {
            write_field(name, value, &mut head);
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    fn describe(&self, error: AttemptError, taken: &Taken, asker: &Asker<'_>) -> (Failure, Next) {
        let metrics = taken.metrics();
        let (status, kind, message, why) = match error {
            AttemptError::Broken(what) => {
                metrics.errors.inc();
                (502, FailureKind::Error, what, Next::Error)
            }
            AttemptError::Timeout(what) => {
                metrics.timeouts.inc();
                (504, FailureKind::Timeout, what.to_string(), Next::Timeout)
            }
            AttemptError::Invalid(what) => {
                metrics.invalid.inc();
                (502, FailureKind::InvalidHeader, what, Next::InvalidHeader)
            }
            AttemptError::Client(e) => (e.status(), FailureKind::Client, e.to_string(), Next::Error),
        };
        self.log(asker, Level::Error, format_args!("{message}"), &taken.peer.name);
        (Failure { status, kind, message, attempts: Vec::new() }, why)
    }

    /// The answer whose head came over this line, to a request of the first of the times, at the second.
    fn answer(
        &self,
        head: AnswerHead,
        line: Line,
        taken: Taken,
        mut attempts: Vec<Attempt>,
        (began, at): (Instant, Instant),
    ) -> Answer {
        let conf = self.conf();
        let Line { connection, mut input, .. } = line;
        let keepalive = head.keepalive && !self.closes && !self.http10;
        let home = (self.local.worker.index, connect::kind(self.tls.as_ref()));
        let received = input.len() as u64;
        let (mut framing, mut body) = (head.framing, Body::Empty);
        if matches!(framing, Framing::Length(n) if n == received) {
            // All of a small answer came with its head: the connection is free at once.
            body = take(&mut input).freeze().into();
            framing = Framing::None;
        }
        let mut answer = Answer {
            status: head.status,
            reason: head.reason,
            fields: head.fields,
            length: head.length,
            body,
            ranges: false,
            kept: false,
            source: Source::default(),
            tunnel: None,
            attempts: Vec::new(),
        };
        let switches = head.status == 101 && self.upgrade;
        if framing.is_done() && !switches {
            if let Some(attempt) = attempts.last_mut() {
                attempt.end = End::at(at.saturating_duration_since(began), received);
            }
            // Bytes after the body are nobody's; such a connection is not to be trusted.
            if let (true, true, Some(connection)) = (keepalive, input.is_empty(), connection) {
                taken.keep(home.0, home.1, connection, at);
            }
            taken.done();
            answer.attempts = attempts;
            return answer;
        }
        let end: Arc<AttemptEnd> = Arc::default();
        end.received.store(received, Ordering::Relaxed);
        if let Some(attempt) = attempts.last_mut() {
            attempt.end = End::Noted(end.clone());
        }
        answer.attempts = attempts;
        let connection = match connection {
            Some(connection) if switches => {
                let timeout = *conf.read_timeout;
                let tunnel = UpstreamTunnel { connection, input, timeout, taken, began, end };
                answer.tunnel = Some(Box::new(tunnel));
                return answer;
            }
            connection => connection,
        };
        if let Framing::Chunked(chunks) = &mut framing
            && *conf.pass_trailers
        {
            chunks.keep_trailers(end.clone());
        }
        taken.succeeded();
        answer.body = Body::Stream(Box::new(UpstreamBody {
            input,
            framing,
            connection,
            keepalive,
            taken: Some(taken),
            home,
            patience: Patience::new(*conf.read_timeout),
            unbuffered: !*conf.buffering,
            began,
            end,
        }));
        answer
    }
}

/// Sends the head, and the body as it comes from the client.
async fn send_on(
    connection: &mut Connection,
    input: &mut BytesMut,
    head: &[u8],
    rq: &mut Request,
    each: Duration,
    bytes: &mut u64,
) -> Result<(), AttemptError> {
    exchange::write_all(connection, input, &[head], each, bytes).await?;
    let chunked = rq.body_length.is_none() && rq.has_body;
    while let Some(piece) = rq.read_body().await.map_err(AttemptError::Client)? {
        if chunked {
            let size = format!("{:x}\r\n", piece.len());
            exchange::write_all(connection, input, &[size.as_bytes(), &piece, b"\r\n"], each, bytes).await?
        } else {
            exchange::write_all(connection, input, &[&piece], each, bytes).await?
        }
    }
    if chunked {
        exchange::write_all(connection, input, &[b"0\r\n\r\n"], each, bytes).await?;
    }
    Ok(())
}

/// Sends the head, and the body piece by piece from where it was put.
async fn send_file(
    connection: &mut Connection,
    input: &mut BytesMut,
    head: &[u8],
    body: &Spooled,
    each: Duration,
    bytes: &mut u64,
) -> Result<(), AttemptError> {
    exchange::write_all(connection, input, &[head], each, bytes).await?;
    let mut offset = 0;
    while offset < body.len() {
        let piece = body
            .piece(offset)
            .await
            .map_err(|e| AttemptError::Client(crate::http::body::BodyError::File(e)))?;
        offset += piece.len() as u64;
        exchange::write_all(connection, input, &[&piece], each, bytes).await?;
    }
    Ok(())
}
