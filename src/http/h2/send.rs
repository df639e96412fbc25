//! A body on its way to a client of HTTP/2: in its turn, as the client's windows let it through.

use super::answer::FRAME;
use super::chunk::{Chunk, Held};
use super::priority::{self, Priority};
use super::turns::{PIECE, Place};
use crate::edge::turn::Slice;
use crate::http::body::BodyError;
use crate::http::pace::Pace;
use crate::http::request::Request;
use crate::http::response::Response;
use bytes::Bytes;
use h2::SendStream;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A body on its way to the client.
pub struct Outgoing<'a> {
    pub rq: &'a mut Request,
    pub stream: &'a mut SendStream<Chunk>,
    pub place: Place<'a>,
    pub patience: Patience,
    pub pace: Option<Box<Pace>>,
    /// Bytes that were sent.
    pub sent: u64,
    /// How long it is, where that was said.
    pub length: Option<u64>,
    /// Whether fields may follow, so that the end does not go with the last bytes.
    pub trailers: bool,
    /// Whether a turn came to nothing because the stream's window was shut, and still is.
    pub shut: bool,
}

/// An error of the crate's as the client's.
pub fn client(e: h2::Error) -> BodyError {
    BodyError::Client(e.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
}

fn taken_back() -> BodyError {
    BodyError::Client(io::ErrorKind::ConnectionReset.into())
}

/// The next piece of a body that is not empty.
fn poll_piece(response: &mut Response, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
    loop {
        match response.body.poll_next(cx) {
            Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
            other => return other,
        }
    }
}

/// What the request says of its priority, and what the response says over it.
fn said(rq: &Request) -> Priority {
    let asked = rq.head.all(priority::FIELD).fold(Priority::default(), Priority::with);
    rq.sent.fields.all(priority::FIELD).fold(asked, |said, field| said.with(field))
}

impl Outgoing<'_> {
    /// Sends a response's body.
    pub async fn body(&mut self, response: &mut Response) -> Result<(), BodyError> {
        let mut held = Held::default();
        let mut slice = Slice::begin();
        loop {
            if slice.is_over() {
                poll_fn(|cx| self.stay(cx)).await;
                slice.pass().await;
            }
            if held.is_empty() {
                match self.next(response).await? {
                    Some(piece) => held.bytes = piece,
                    None => return self.ended(),
                }
            }
            // What follows at once goes along, so that frames are full; and so does the end when it is known in
            // time, by the length or because the body says so at once.
            let mut over = None;
            let mut all = held.len() < PIECE;
            if all && held.more.is_empty() && self.left() != Some(held.len() as u64) {
                match poll_fn(|cx| Poll::Ready(poll_piece(response, cx))).await {
                    Poll::Ready(Some(Ok(piece))) => {
                        held.more = piece;
                        all = held.len() < PIECE;
                    }
                    Poll::Ready(Some(Err(e))) => over = Some(Err(e)),
                    Poll::Ready(None) => over = Some(Ok(())),
                    Poll::Pending => {}
                }
            }
            if self.left().is_some_and(|left| (held.len() as u64) > left) {
                return Err(BodyError::Upstream("body is longer than its length".into()));
            }
            let ends = matches!(over, Some(Ok(()))) && self.length.is_none();
            let ends = !self.trailers && (ends || self.left() == Some(held.len() as u64));
            while held.len() >= PIECE || all && !held.is_empty() {
                if self.piece(&mut held, ends).await? {
                    return Ok(());
                }
            }
            match over {
                Some(Ok(())) => return self.ended(),
                Some(Err(e)) => return Err(e),
                None => {}
            }
        }
    }

    /// Keeps its place while it gives way: to other connections, not to the streams behind it in its own.
    fn stay(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let rq = &*self.rq;
        self.place.stay(cx.waker(), || said(rq));
        Poll::Ready(())
    }

    /// Bytes that are still to be sent, where that was said.
    fn left(&self) -> Option<u64> {
        self.length.map(|length| length.saturating_sub(self.sent))
    }

    /// At the end of a body of which all was sent.
    fn ended(&mut self) -> Result<(), BodyError> {
        if let Some(length) = self.length.filter(|length| *length != self.sent) {
            return Err(BodyError::Upstream(format!("body of {length} bytes ended after {}", self.sent)));
        }
        if self.trailers {
            return Ok(());
        }
        self.stream.send_data(Chunk::default(), true).map_err(client)
    }

    /// The next piece of the body; a client that leaves while there is none is noticed.
    async fn next(&mut self, response: &mut Response) -> Result<Option<Bytes>, BodyError> {
        poll_fn(|cx| {
            if let Poll::Ready(piece) = poll_piece(response, cx) {
                return Poll::Ready(piece.transpose());
            }
            self.place.pass();
            self.rest();
            self.stream.poll_reset(cx).map(|_| Err(taken_back()))
        })
        .await
    }

    /// Sends a frame's worth; whether it was the last, which ends the stream if so it `ends`.
    async fn piece(&mut self, held: &mut Held, ends: bool) -> Result<bool, BodyError> {
        let n = poll_fn(|cx| self.poll_leave(cx, held.len().min(PIECE))).await?;
        let last = ends && n == held.len();
        self.stream.send_data(held.take(n), last).map_err(client)?;
        self.sent += n as u64;
        if let Some(pace) = &mut self.pace {
            pace.went(n as u64, FRAME);
        }
        Ok(last)
    }

    /// Says that nothing is sent for a while that others could.
    fn rest(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.rest();
        }
    }

    /// Waits until the pace lets bytes go; how many, more than 0 and no more than `want`.
    fn poll_pace(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, BodyError>> {
        let Some(pace) = &mut self.pace else { return Poll::Ready(Ok(want)) };
        if let Poll::Ready(most) = pace.poll_turn(cx) {
            return Poll::Ready(Ok(usize::try_from(most).map_or(want, |most| want.min(most))));
        }
        self.place.pass();
        // What a shut window left to be asked for is not kept from others in the meantime.
        self.stream.reserve_capacity(0);
        self.patience.renew();
        self.stream.poll_reset(cx).map(|_| Err(taken_back()))
    }

    /// Waits until bytes may be sent; how many, more than 0 and no more than `want`.
    fn poll_leave(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, BodyError>> {
        loop {
            if !self.shut {
                let want = ready!(self.poll_pace(cx, want))?;
                let rq = &*self.rq;
                let Poll::Ready(n) = self.place.poll_turn(cx, want, || said(rq)) else {
                    if self.stream.poll_reset(cx).is_ready() {
                        return Poll::Ready(Err(taken_back()));
                    }
                    // Whoever sends instead shows that the client is there.
                    ready!(self.patience.poll(cx, self.place.progress()));
                    return Poll::Ready(Err(BodyError::ClientTimeout));
                };
                self.stream.reserve_capacity(n);
                let open = self.stream.capacity().min(n);
                if open < n {
                    self.place.give_back(n - open);
                }
                if open > 0 {
                    self.patience.renew();
                    return Poll::Ready(Ok(open));
                }
                self.place.pass();
                self.rest();
                self.shut = true;
            }
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => self.shut = self.stream.capacity() == 0,
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(client(e))),
                Poll::Ready(None) => return Poll::Ready(Err(taken_back())),
                Poll::Pending => {
                    ready!(self.patience.poll(cx, 0));
                    return Poll::Ready(Err(BodyError::ClientTimeout));
                }
            }
        }
    }
}

/// How long nothing may happen. A timer is for those that wait, and is set anew when it goes off rather than with
/// every wait.
pub struct Patience {
    limit: Duration,
    /// When the present wait ends, and what was to be seen when it began.
    wait: Option<(Instant, u64)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Patience that lasts for `limit`.
    pub fn new(limit: Duration) -> Patience {
        Patience { limit, wait: None, timer: None }
    }

    /// Ends a wait.
    fn renew(&mut self) {
        self.wait = None;
    }

    /// Ready when nothing has happened for too long: neither did the wait end, nor did `mark` change.
    fn poll(&mut self, cx: &mut Context<'_>, mark: u64) -> Poll<()> {
        let limit = self.limit;
        let (due, seen) = self.wait.get_or_insert_with(|| (Instant::now() + limit, mark));
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*due)));
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= *due {
                if *seen == mark {
                    return Poll::Ready(());
                }
                (*due, *seen) = (now + limit, mark);
            }
            timer.as_mut().reset(*due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends_when_nothing_happens() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(60));
        let wait = |patience: &mut Patience, mark| {
            let waker = std::task::Waker::noop();
            patience.poll(&mut Context::from_waker(waker), mark)
        };
        assert!(wait(&mut patience, 1).is_pending());
        tokio::time::advance(Duration::from_secs(59)).await;
        patience.renew();
        assert!(wait(&mut patience, 1).is_pending());
        tokio::time::advance(Duration::from_secs(30)).await;
        // The timer of the first wait has gone off, the second has not ended.
        assert!(wait(&mut patience, 1).is_pending());
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(wait(&mut patience, 2).is_pending());
        poll_fn(|cx| patience.poll(cx, 2)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(180));
    }
}
