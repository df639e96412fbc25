//! The answer to a subrequest as a part of another answer.

use super::body::{Body, BodyError, BodyStream};
use super::phases;
use super::request::Request;
use super::response::Response;
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A subrequest and, once it is answered, the body of its answer. It is asked when it is first polled.
pub enum Included {
    /// It is being answered.
    Asking(Pin<Box<dyn Future<Output = (Request, Box<Response>)> + Send>>),
    /// The body of its answer is being taken; the request is kept for as long, with what ends with it.
    Answered(Box<Request>, Box<Response>),
}

impl Included {
    /// The answer to `below`.
    pub fn new(mut below: Request) -> Included {
        Included::Asking(Box::pin(async move {
            let response = phases::subrequest(&mut below).await;
            (below, response)
        }))
    }

    /// Goes on with it until its answer has begun.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Included::Asking(asking) = self else { return Poll::Ready(()) };
        let Poll::Ready((below, mut response)) = asking.as_mut().poll(cx) else { return Poll::Pending };
        if response.silent {
            // To say nothing is to end the connection, here too.
            response.body = Body::Stream(Box::new(Nothing));
        }
        *self = Included::Answered(Box::new(below), response);
        Poll::Ready(())
    }
}

impl BodyStream for Included {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.poll_answer(cx).is_pending() {
            return Poll::Pending;
        }
        match self {
            Included::Answered(_, response) => response.body.poll_next(cx),
            Included::Asking(_) => Poll::Pending,
        }
    }
}

/// What was not answered at all.
struct Nothing;

impl BodyStream for Nothing {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(Some(Err(BodyError::Upstream("a subrequest was not answered".into()))))
    }
}
