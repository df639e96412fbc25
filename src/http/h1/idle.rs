//! Waiting for a request. What is answered as it was before does not end the waiting.

use super::hits::{Begun, Hit, Refused, attempt};
use crate::edge::connection::Access;
use crate::http::hit::table::Mark;
use crate::http::io::{Io, poll_read_with};
use crate::http::request::{H1Body, Request};
use crate::http::tick;
use bytes::BytesMut;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, Sleep};

/// Requests that were sent one behind the other and are answered in one turn.
const TURN: usize = 32;

/// What ends the waiting.
pub(super) enum Woken {
    /// A request.
    Request(Asked, Sent),
    /// An answer that is to be sent.
    Begun(Box<Begun>),
    /// A refusal that is to be sent.
    Refused(Box<Refused>),
    /// The client left, was idle too long, or the worker ends.
    Closed,
}

/// How far a request has been read.
pub(super) enum Asked {
    /// Its first bytes are in the connection's buffer.
    Bytes(Option<Mark>),
    /// Its head, whole and in order.
    Head(Box<Request>, Mark),
}

/// When a request was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// With nothing before it that was answered meanwhile.
    Alone,
    /// After others that were.
    After,
    /// Together with such, before they were answered.
    Together,
}

/// What wakes an idle connection besides its client. It is there once in the life of a connection: deadlines move
/// with every request, the timer does not.
pub(super) struct Idle<'a, 'w> {
    /// Goes off at the deadline or before it, and is set anew then.
    pub(super) timer: Pin<&'a mut Sleep>,
    /// The end of the worker; registered before its state was looked at.
    pub(super) quit: Pin<&'a mut Notified<'w>>,
    pub(super) quitting: bool,
}

impl Idle<'_, '_> {
    /// Waits no longer than `idle`; when the worker ends, no longer than `least`. After an answer the time begins
    /// anew, and it is the one between two requests.
    ///
    /// What is returned is no more than this needs: all idle connections hold one.
    pub(super) fn wait(
        &mut self,
        access: &mut Access,
        h1: &mut H1Body,
        mut idle: Duration,
        mut least: Duration,
    ) -> impl Future<Output = Woken> {
        let mut began = now();
        let mut answered = false;
        self.quitting |= access.worker().quitting();
        std::future::poll_fn(move |cx| {
            loop {
                match read(access, &mut h1.io, &mut h1.input, cx) {
                    Poll::Ready(Some(Woken::Request(asked, Sent::Alone))) if answered => {
                        return Poll::Ready(Woken::Request(asked, Sent::After));
                    }
                    Poll::Ready(Some(woken)) => return Poll::Ready(woken),
                    Poll::Ready(None) => {
                        began = now();
                        if !std::mem::replace(&mut answered, true) {
                            (idle, least) = super::patience(access, false);
                        }
                    }
                    Poll::Pending => break,
                }
            }
            if !self.quitting && self.quit.as_mut().poll(cx).is_ready() {
                self.quitting = true;
            }
            let deadline = began + if self.quitting { least } else { idle };
            if self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(Woken::Closed);
                }
                self.timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
    }
}

/// The present, or a moment later: nobody waits for too short a time.
fn now() -> Instant {
    Instant::from_std(tick::now() + tick::LATE)
}

/// Reads once, and answers what can be answered at once; `None` when that was all.
fn read(access: &mut Access, io: &mut Io, rest: &mut BytesMut, cx: &mut Context<'_>) -> Poll<Option<Woken>> {
    let read = poll_read_with(io, cx, |io, cx, mut input| {
        for number in 0..TURN {
            let sent = if number > 0 { Sent::Together } else { Sent::Alone };
            let (used, woken) = match attempt(access, io, input, number > 0, cx) {
                Hit::Done(used) if used == input.len() => return None,
                Hit::Done(used) => {
                    input = &input[used..];
                    continue;
                }
                Hit::Begun(used, begun) => (used, Woken::Begun(begun)),
                Hit::Refused(used, refused) => (used, Woken::Refused(refused)),
                Hit::Unknown(mark) => (0, Woken::Request(Asked::Bytes(mark), sent)),
                Hit::Read(used, rq, mark) => (used, Woken::Request(Asked::Head(rq, mark), sent)),
            };
            rest.extend_from_slice(&input[used..]);
            return Some(woken);
        }
        rest.extend_from_slice(input);
        Some(Woken::Request(Asked::Bytes(None), Sent::Together))
    });
    read.map(|read| match read {
        Ok(Some(woken)) => woken,
        Ok(None) | Err(_) => Some(Woken::Closed),
    })
}
