//! A request for an answer: one attempt after another, as `proxy_next_upstream` allows.

use super::body::UpstreamBody;
use super::connect::{self, ConnectError};
use super::exchange::{self, AnswerHead, AttemptError};
use super::group::Taken;
use super::pool::Connection;
use super::spool::Spooled;
use super::tunnel::UpstreamTunnel;
use super::{Answer, Failure, FailureKind, Plan};
use crate::cache::seen::Source;
use crate::http::Request;
use crate::http::body::{Body, Framing};
use crate::http::h1::{append_line_safe, write_field};
use crate::http::request::{Attempt, AttemptEnd};
use crate::modules::proxy::Next;
use crate::observe::error_log::Level;
use bytes::{Bytes, BytesMut};
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What an attempt came to.
enum Outcome {
    /// An answer for the client.
    Answer(Box<Answered>),
    /// The connection or the head failed.
    Failed(AttemptError, bool),
}

struct Answered {
    head: AnswerHead,
    connection: Connection,
    input: BytesMut,
    began: Instant,
    attempt: Attempt,
}

/// An attempt that goes on. It is noted when it fails, and when nobody waits for its end.
struct UnderWay<'a> {
    attempt: Attempt,
    began: Instant,
    ended: bool,
    attempts: &'a mut Vec<Attempt>,
}

impl UnderWay<'_> {
    /// There is an answer, with which the attempt goes on.
    fn answered(mut self) -> Attempt {
        self.ended = true;
        take(&mut self.attempt)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.attempt.end.micros.store(self.began.elapsed().as_micros() as u64, Ordering::Relaxed);
            self.attempts.push(take(&mut self.attempt));
        }
    }
}

impl Plan {
    /// Sends the request and reads the head of the answer, trying other servers as
    /// `proxy_next_upstream` allows.
    pub async fn fetch(self) -> Result<Answer, Failure> {
        self.fetch_from(None).await
    }

    /// The same, with the body taken from the client as it arrives (`proxy_request_buffering off`)
    /// when there is a client.
    pub async fn fetch_from(self, client: Option<&mut Request>) -> Result<Answer, Failure> {
        self.fetch_noting(client, &mut Vec::new()).await
    }

    /// The same. Where nobody waits for the end of it, the attempts there were are in `attempts`.
    pub async fn fetch_noting(
        self,
        mut client: Option<&mut Request>,
        attempts: &mut Vec<Attempt>,
    ) -> Result<Answer, Failure> {
        let started = Instant::now();
        let conf = self.conf();
        let mut selection = self.group.selection(self.hash_key.clone(), self.client);
        let mut tries = selection.tries;
        if *conf.next_upstream_tries > 0 {
            tries = tries.min(*conf.next_upstream_tries as usize);
        }
        let mut last: Option<Failure> = None;
        loop {
            let Some(mut taken) = selection.take() else {
                if let Some(failure) = last {
                    return Err(Failure { attempts: take(attempts), ..failure });
                }
                self.group.no_live.inc();
                self.log(
                    Level::Error,
                    format_args!("no live upstreams while connecting to upstream"),
                    &self.group.conf.name,
                );
                attempts.push(Attempt {
                    peer: Arc::from(self.group.conf.name.as_str()),
                    status: 502,
                    ..Attempt::default()
                });
                let message = "no live upstreams".to_string();
                let attempts = take(attempts);
                return Err(Failure { status: 502, kind: FailureKind::NoLiveUpstreams, message, attempts });
            };
            // A kept connection that turns out dead does not count as a try.
            let mut reused = true;
            let outcome = self.attempt(&mut taken, &mut client, attempts, &mut reused).await;
            tries = tries.saturating_sub(1);
            let spent =
                !conf.next_upstream_timeout.is_zero() && started.elapsed() >= *conf.next_upstream_timeout;
            let streamed = client.is_some() && attempts.last().is_some_and(|a| a.bytes_sent > 0);
            let may = |why: Next, sent: bool| {
                let idempotent = !matches!(&self.method[..], b"POST" | b"LOCK" | b"PATCH");
                let allowed = conf.next_upstream.allows(why)
                    && (idempotent || !sent || conf.next_upstream.allows(Next::NonIdempotent));
                allowed && !spent && !streamed
            };
            match outcome {
                Outcome::Answer(answered) => {
                    let status = answered.head.status;
                    let retry = Next::of_status(status).is_some_and(|why| may(why, true)) && tries > 0;
                    if let Some(class) =
                        taken.metrics().answers.get((status / 100).saturating_sub(1) as usize)
                    {
                        class.inc();
                    }
                    if Next::of_status(status).is_some_and(|why| conf.next_upstream.allows(why))
                        && status != 403
                        && status != 404
                    {
                        taken.failed();
                    }
                    if retry {
                        attempts.push(answered.attempt);
                        continue;
                    }
                    return Ok(self.answer(*answered, taken, take(attempts)));
                }
                Outcome::Failed(error, sent) => {
                    let (failure, why) = self.describe(error, &taken);
                    if failure.kind == FailureKind::Client {
                        return Err(Failure { attempts: take(attempts), ..failure });
                    }
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
                    if tries == 0 || !may(why, sent) {
                        return Err(Failure { attempts: take(attempts), ..failure });
                    }
                    last = Some(failure);
                }
            }
        }
    }

    async fn attempt(
        &self,
        taken: &mut Taken,
        client: &mut Option<&mut Request>,
        attempts: &mut Vec<Attempt>,
        reused: &mut bool,
    ) -> Outcome {
        let conf = self.conf();
        let began = Instant::now();
        let kind = connect::kind(self.tls.as_ref());
        let end = Arc::new(AttemptEnd::default());
        let attempt = Attempt { peer: taken.name(), end, ..Attempt::default() };
        let mut under_way = UnderWay { attempt, began, ended: false, attempts };
        let kept = taken.group.pool.take(self.local.worker.index, taken.peer.id, kind);
        let mut connection = match kept {
            Some(connection) => {
                taken.metrics().reuses.inc();
                connection
            }
            None => {
                *reused = false;
                let addr = taken.conf().addr.clone();
                let made =
                    connect::connect(&addr, self.tls.as_ref(), *conf.connect_timeout, *conf.socket_keepalive)
                        .await;
                match made {
                    Ok(connection) => {
                        taken.metrics().connects.inc();
                        connection
                    }
                    Err(e) => {
                        let error = match e {
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
                        };
                        return Outcome::Failed(error, false);
                    }
                }
            }
        };
        let attempt = &mut under_way.attempt;
        attempt.connect = Some(began.elapsed());
        connection.requests += 1;
        let mut input = BytesMut::new();
        let exchanged = self.exchange(&mut connection, client, attempt, &mut input).await;
        match exchanged {
            Ok(head) => {
                attempt.status = head.status;
                attempt.head_size = head.size as u64;
                attempt.header = Some(began.elapsed());
                taken.group.latency.observe(began.elapsed());
                let attempt = under_way.answered();
                Outcome::Answer(Box::new(Answered { head, connection, input, began, attempt }))
            }
            Err(error) => {
                let sent = attempt.bytes_sent > 0;
                Outcome::Failed(error, sent)
            }
        }
    }

    /// Sends head and body, and reads the head of the answer.
    async fn exchange(
        &self,
        connection: &mut Connection,
        client: &mut Option<&mut Request>,
        attempt: &mut Attempt,
        input: &mut BytesMut,
    ) -> Result<AnswerHead, AttemptError> {
        let conf = self.conf();
        let head = self.head();
        let each = *conf.send_timeout;
        let sent = async {
            match (&self.body, client) {
                (Spooled::None, None) => {
                    attempt.bytes_sent += exchange::write_all(connection, input, &[&head], each).await?
                }
                (Spooled::Memory(body), None) => {
                    attempt.bytes_sent +=
                        exchange::write_all(connection, input, &[&head, body], each).await?;
                }
                (body @ Spooled::File(..), None) => {
                    attempt.bytes_sent += exchange::write_all(connection, input, &[&head], each).await?;
                    let mut offset = 0;
                    while offset < body.len() {
                        let piece = body
                            .piece(offset)
                            .await
                            .map_err(|e| AttemptError::Client(crate::http::body::BodyError::File(e)))?;
                        offset += piece.len() as u64;
                        attempt.bytes_sent += exchange::write_all(connection, input, &[&piece], each).await?;
                    }
                }
                (_, Some(rq)) => {
                    attempt.bytes_sent += exchange::write_all(connection, input, &[&head], each).await?;
                    let chunked = rq.body_length.is_none() && rq.has_body;
                    while let Some(piece) = rq.read_body().await.map_err(AttemptError::Client)? {
                        let n = if chunked {
                            let size = format!("{:x}\r\n", piece.len());
                            exchange::write_all(connection, input, &[size.as_bytes(), &piece, b"\r\n"], each)
                                .await?
                        } else {
                            exchange::write_all(connection, input, &[&piece], each).await?
                        };
                        attempt.bytes_sent += n;
                    }
                    if chunked {
                        attempt.bytes_sent +=
                            exchange::write_all(connection, input, &[b"0\r\n\r\n"], each).await?;
                    }
                }
            }
            Ok(())
        }
        .await;
        let limit = *conf.buffer_size as usize;
        let head_request = &self.method[..] == b"HEAD";
        let answered = match sent {
            Ok(()) => exchange::read_head(connection, input, head_request, limit, *conf.read_timeout).await,
            // An upstream may answer and close before it has read a body it does not want.
            Err(AttemptError::Broken(what)) => {
                let soon = std::time::Duration::from_secs(1).min(*conf.read_timeout);
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

    fn describe(&self, error: AttemptError, taken: &Taken) -> (Failure, Next) {
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
        self.log(Level::Error, format_args!("{message}"), &taken.name());
        (Failure { status, kind, message, attempts: Vec::new() }, why)
    }

    fn answer(&self, answered: Answered, mut taken: Taken, mut attempts: Vec<Attempt>) -> Answer {
        let conf = self.conf();
        let Answered { head, connection, input, began, attempt } = answered;
        let end = attempt.end.clone();
        end.received.store(input.len() as u64, Ordering::Relaxed);
        attempts.push(attempt);
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
        let asks_to_close = self.fields.all("connection").any(|v| v.eq_ignore_ascii_case(b"close"));
        let keepalive = head.keepalive && !asks_to_close && !self.http10;
        let mut body = UpstreamBody {
            input,
            framing: head.framing,
            connection: Some(connection),
            keepalive,
            taken: None,
            home: (self.local.worker.index, connect::kind(self.tls.as_ref())),
            timeout: *conf.read_timeout,
            unbuffered: !*conf.buffering,
            began,
            end,
            silence: None,
        };
        if let (Framing::Chunked(chunks), true) = (&mut body.framing, *conf.pass_trailers) {
            chunks.keep_trailers(body.end.clone());
        }
        if matches!(body.framing, Framing::Length(n) if n == body.input.len() as u64) {
            // All of a small answer came with its head: the connection is free at once.
            let whole: Bytes = body.input.split().freeze();
            body.framing = Framing::None;
            body.taken = Some(taken);
            body.complete();
            answer.body = whole.into();
            return answer;
        }
        if body.framing.is_done() {
            body.taken = Some(taken);
            body.complete();
            return answer;
        }
        taken.succeeded();
        body.taken = Some(taken);
        answer.body = Body::Stream(Box::new(body));
        answer
    }
}
