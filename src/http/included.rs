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
    Asking(Pin<Box<dyn Future<Output = (Request, Response)> + Send>>),
    /// Its body is being taken; the request is kept for as long, with what ends with it.
    Answered(Box<Request>, Body),
}

impl Included {
    /// The answer to `below`.
    pub fn new(mut below: Request) -> Included {
        Included::Asking(Box::pin(async move {
            let response = phases::subrequest(&mut below).await;
            (below, response)
        }))
    }

    /// Goes on with it until its answer has begun, which the value is told of.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Included::Asking(asking) = self else { return Poll::Ready(Ok(())) };
        let Poll::Ready((below, response)) = asking.as_mut().poll(cx) else { return Poll::Pending };
        if response.silent {
            let uri = String::from_utf8_lossy(&below.uri).into_owned();
            return Poll::Ready(Err(BodyError::Upstream(format!("no answer to subrequest \"{uri}\""))));
        }
        *self = Included::Answered(Box::new(below), response.body);
        Poll::Ready(Ok(()))
    }
}

impl BodyStream for Included {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self.poll_answer(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Some(Err(e))),
            Poll::Ready(Ok(())) => match self {
                Included::Answered(_, body) => body.poll_next(cx),
                Included::Asking(_) => Poll::Pending,
            },
        }
    }
}
