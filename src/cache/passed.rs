//! Answers that are not kept and yet served as if they were, where nginx does so.

use super::entry::takes_ranges;
use super::freshness::{Received, passes_for_kept, wall};
use super::policy::Policy;
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::head::Head;
use crate::upstream::Answer;
use bytes::Bytes;
use std::task::{Context, Poll};
use std::time::Duration;

/// Has the client's conditions and one range of the answer answered here, if nginx would. It was asked
/// for without them.
pub fn pass_for_kept(answer: &mut Answer, asked: &Head, policy: &Policy) {
    let Answer { status, fields, .. } = &*answer;
    let received = Received { status: *status, fields, asked, delay: Duration::ZERO, now: wall().as_secs() };
    if !passes_for_kept(&received, policy) {
        return;
    }
    answer.ranges = takes_ranges(fields);
    answer.kept = true;
    // Of an answer that is on its way nginx cuts one range, not several.
    if !matches!(answer.body, Body::Empty | Body::Stream(_)) {
        answer.body = Body::Stream(Box::new(OnItsWay(std::mem::take(&mut answer.body))));
    }
}

/// A body that is read once, from its beginning.
struct OnItsWay(Body);

impl BodyStream for OnItsWay {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.0.poll_next(cx)
    }
}
