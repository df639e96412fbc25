//! A request for an answer: one attempt after another, as `proxy_next_upstream` allows.

use super::body::{UpstreamBody, note};
use super::connect::{self, ConnectError};
use super::exchange::{self, AttemptError};
use super::group::Taken;
use super::head::AnswerHead;
use super::patience::Patience;
use super::pool::Connection;
use super::spool::Spooled;
use super::tunnel::UpstreamTunnel;
use super::{Answer, Failure, FailureKind, Plan};
use crate::cache::seen::Source;
use crate::http::Request;
use crate::http::body::{Body, Framing};
use crate::http::h1::{append_line_safe, write_field};
use crate::http::request::Attempt;
use crate::modules::proxy::Next;
use crate::observe::error_log::Level;
use bytes::BytesMut;
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// An answer's head, and what came with it.
struct Answered {
    head: AnswerHead,
    connection: Connection,
    input: BytesMut,
    began: Instant,
    /// When it came.
    at: Instant,
}

/// Why an attempt failed, and whether anything had been sent.
type Failed = (AttemptError, bool);

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
            end: Arc::default(),
        });
        UnderWay { began, answered: false, attempts }
    }

    /// Changes what is known of it.
    fn note(&mut self, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.last_mut() {
            change(attempt);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let took = self.began.elapsed();
            self.note(|attempt| note(&attempt.end, took));
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
        let mut began = Instant::now();
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
            // A kept connection that turns out dead does not count as a try.
            let mut reused = true;
            let outcome = self.attempt(&mut taken, &mut asker, attempts, &mut reused, began).await;
            tries = tries.saturating_sub(1);
            let attempts_now = &*attempts;
            let may = |why: Next, sent: bool| {
                let spent = || {
                    !conf.next_upstream_timeout.is_zero() && started.elapsed() >= *conf.next_upstream_timeout
                };
                let streamed =
                    matches!(asker, Asker::Sends(_)) && attempts_now.last().is_some_and(|a| a.bytes_sent > 0);
                let idempotent = !matches!(&self.method[..], b"POST" | b"LOCK" | b"PATCH");
                let allowed = conf.next_upstream.allows(why)
                    && (idempotent || !sent || conf.next_upstream.allows(Next::NonIdempotent));
                allowed && !streamed && !spent()
            };
            match outcome {
                Ok(answered) => {
                    let status = answered.head.status;
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
                            began = Instant::now();
                            continue;
                        }
                    }
                    return Ok(self.answer(answered, taken, take(attempts)));
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
                    began = Instant::now();
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

    async fn attempt(
        &self,
        taken: &mut Taken,
        asker: &mut Asker<'_>,
        attempts: &mut Vec<Attempt>,
        reused: &mut bool,
        began: Instant,
    ) -> Result<Answered, Failed> {
        let kind = connect::kind(self.tls.as_ref());
        let mut under_way = UnderWay::new(taken.name(), began, attempts);
        let kept = taken.group.pool.take(self.local.worker.index, taken.peer.id, kind, began);
        let (mut connection, took) = match kept {
            Some(connection) => {
                taken.metrics().reuses.inc();
                (connection, Duration::ZERO)
            }
            None => {
                *reused = false;
                // Boxed, for what making one takes is large, and most requests need none.
                match Box::pin(self.connect(taken)).await {
                    Ok(connection) => (connection, began.elapsed()),
                    Err(error) => return Err((error, false)),
                }
            }
        };
        connection.requests += 1;
        under_way.note(|attempt| attempt.connect = Some(took));
        let mut input = BytesMut::new();
        // Counted where it is seen though nobody waits for the end.
        let mut nowhere = 0;
        let sent = under_way.attempts.last_mut().map_or(&mut nowhere, |attempt| &mut attempt.bytes_sent);
        let exchanged = self.exchange(&mut connection, asker, sent, &mut input).await;
        // A part of a request may have been acted upon, also where the rest could not be sent; nginx, too,
        // takes for sent whatever there was a connection for.
        let head = exchanged.map_err(|error| (error, true))?;
        let at = Instant::now();
        let took = at.saturating_duration_since(began);
        under_way.note(|attempt| {
            attempt.status = head.status;
            attempt.head_size = head.size as u64;
            attempt.header = Some(took);
        });
        under_way.answered = true;
        taken.group.latency.observe(took);
        Ok(Answered { head, connection, input, began, at })
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

    /// Sends head and body, and reads the head of the answer. What was sent is counted in `bytes`.
    async fn exchange(
        &self,
        connection: &mut Connection,
        asker: &mut Asker<'_>,
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
            (Spooled::None, _) => exchange::write_all(connection, input, &[head], each, bytes).await,
        };
        let limit = *conf.buffer_size as usize;
        let head_request = &self.method[..] == b"HEAD";
        let answered = match sent {
            Ok(()) => exchange::read_head(connection, input, head_request, limit, *conf.read_timeout).await,
            // An upstream may answer and close before it has read a body it does not want.
            Err(AttemptError::Broken(what)) => {
                let soon = Duration::from_secs(1).min(*conf.read_timeout);
                match exchange::read_head(connection, input, head_request, limit, soon).await {
                    Ok(mut head) => {
                        head.keepalive = false;
                        Ok(head)
                    }
                    Err(_) => Err(AttemptError::Broken(what)),
                }
            }
            Err(error) => Err(error),
        };
        match answered {
            // Passed on, it would have the client and those between take what follows for another
            // protocol's bytes.
            Ok(head) if head.status == 101 && !self.upgrade => Err(AttemptError::Invalid(
                "upstream sent unexpected 101 response while reading response header from upstream".into(),
            )),
            other => other,
        }
    }

    /// The request's head as bytes.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(256 + self.fields.size());
        append_line_safe(&self.method, &mut head);
        head.push(b' ');
        append_line_safe(&self.target, &mut head);
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

    fn answer(&self, answered: Answered, taken: Taken, attempts: Vec<Attempt>) -> Answer {
        let conf = self.conf();
        let Answered { head, connection, mut input, began, at } = answered;
        // It was noted when it began.
        let end = attempts.last().map(|attempt| attempt.end.clone()).unwrap_or_default();
        end.received.store(input.len() as u64, Ordering::Relaxed);
        let mut answer = Answer {
            status: head.status,
            reason: head.reason,
            fields: head.fields,
            length: head.length,
            body: Body::Empty,
            ranges: false,
            kept: false,
            source: Source::default(),
            tunnel: None,
            attempts,
        };
        if head.status == 101 && self.upgrade {
            let timeout = *conf.read_timeout;
            answer.tunnel = Some(Box::new(UpstreamTunnel { connection, input, timeout, taken, began, end }));
            return answer;
        }
        let keepalive = head.keepalive && !self.closes && !self.http10;
        let home = (self.local.worker.index, connect::kind(self.tls.as_ref()));
        let mut framing = head.framing;
        match &mut framing {
            Framing::Length(n) if *n == input.len() as u64 => {
                // All of a small answer came with its head: the connection is free at once.
                answer.body = input.split().freeze().into();
                framing = Framing::None;
            }
            Framing::Chunked(chunks) if *conf.pass_trailers => chunks.keep_trailers(end.clone()),
            _ => {}
        }
        let whole = framing.is_done();
        let mut body = UpstreamBody {
            input,
            framing,
            connection: Some(connection),
            keepalive,
            taken: Some(taken),
            home,
            patience: Patience::new(*conf.read_timeout),
            unbuffered: !*conf.buffering,
            began,
            end,
        };
        if whole {
            body.complete(at);
            return answer;
        }
        if let Some(taken) = &mut body.taken {
            taken.succeeded();
        }
        answer.body = Body::Stream(Box::new(body));
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
