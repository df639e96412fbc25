//! nginx's slice module: a response is fetched in slices, each of which a cache keeps by itself.
//!
//! `$slice_range` names the slice that a request goes upstream for. Where it was asked for and the
//! answer is a 206, the answer becomes the whole: the others follow, one after the other, as far as
//! the client wants them.

use crate::conf::Command;
use crate::conf::values::size_arg;
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::phases;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::settings;
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// Bytes of a slice; 0 is off.
        inherit size: u64 = 0,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[Command::works(
    "slice",
    |b, d| {
        let v = size_arg(d, 0)?;
        b.loc().slice.size.set(v)
    },
    "bytes of the slices in which a response is fetched",
)];

/// The variables.
pub const VARIABLES: &[Variable] = &[Variable::new("slice_range", |rq, _, out| {
    let size = *rq.loc().slice.size;
    let start = match rq.slice.get() {
        Some(start) => start,
        // It names a slice only for what goes upstream for the client's own request.
        None if size == 0 || rq.depth > 0 || rq.sent.status != 0 => return false,
        None => {
            let start = wanted_start(rq) / size * size;
            rq.slice.set(Some(start));
            start
        }
    };
    let last = start.saturating_add(size.max(1) - 1);
    out.extend_from_slice(format!("bytes={start}-{last}").as_bytes());
    true
})];

/// Where the range that the client wants begins; 0 where that cannot be told yet.
fn wanted_start(rq: &Request) -> u64 {
    if rq.head.get("if-range").is_some() {
        return 0;
    }
    let Some((unit, rest)) = rq.head.get("range").and_then(|v| v.split_at_checked(6)) else { return 0 };
    if !unit.eq_ignore_ascii_case(b"bytes=") || rest.contains(&b',') {
        return 0;
    }
    let rest = rest.trim_ascii_start();
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let start = std::str::from_utf8(&rest[..digits]).ok().and_then(|t| t.parse::<u64>().ok());
    start.filter(|start| *start <= i64::MAX as u64).unwrap_or(0)
}

/// Makes the whole of an answer that is its first slice. The error is that it is none: the connection
/// is to end.
pub fn apply(rq: &mut Request, response: &mut Response) {
    let Some(start) = rq.slice.get() else { return };
    let size = *rq.loc().slice.size;
    if response.status != 206 || size == 0 {
        rq.slice.set(None);
        return;
    }
    let total = match check(response, start, size, None) {
        Ok(total) => total,
        Err(why) => {
            crate::observe::request_error(rq, format_args!("{why}"));
            // As in nginx there is no answer for what cannot be made one.
            *response = Response { status: 206, silent: true, ..Response::default() };
            return;
        }
    };
    response.status = 200;
    response.reason = None;
    response.length = Some(total);
    response.fields.remove("content-range");
    response.fields.remove("accept-ranges");
    response.ranges = true;
    if matches!(response.body, Body::Empty) {
        return;
    }
    let state = State {
        rq: rq.copy(),
        size,
        total,
        etag: response.etag.clone(),
        current: Current::Body(std::mem::take(&mut response.body)),
        at: start,
        slice_end: start.saturating_add(size).min(total),
        wanted: 0..total,
        begun: false,
    };
    response.body = Body::Stream(Box::new(Slices(Mutex::new(Some(Box::new(state))))));
}

/// Whether an answer is the slice that begins at `start`; the length of the whole.
fn check(response: &Response, start: u64, size: u64, etag: Option<&Bytes>) -> Result<u64, String> {
    if response.status != 206 {
        return Err(format!("unexpected status code {} in slice response", response.status));
    }
    if let Some(etag) = etag
        && response.etag.as_ref() != Some(etag)
    {
        return Err("etag mismatch in slice response".into());
    }
    let range = response.fields.get("content-range").and_then(|v| parse(v));
    let (range, total) = range.ok_or("invalid range in slice response")?;
    let total = total.ok_or("no complete length in slice response")?;
    if range.start != start || range.end != start.saturating_add(size).min(total) {
        let Range { start, end } = range;
        return Err(format!("unexpected range in slice response: {start}-{end}"));
    }
    Ok(total)
}

/// Reads `Content-Range`: the bytes, and of how many, where that is said.
fn parse(text: &[u8]) -> Option<(Range<u64>, Option<u64>)> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let number = |text: &str| {
        let text = text.trim_matches(' ');
        let n = crate::conf::values::number(text)?;
        (n < i64::MAX as u64).then_some(n)
    };
    let (start, end) = (number(start)?, number(end)? + 1);
    let total = match total.trim_matches(' ') {
        "*" => None,
        total => Some(number(total)?),
    };
    (start < end).then_some((start..end, total))
}

/// A body made of slices. Where it is cut, it begins with the slice that is wanted; it can be cut
/// once, for the first slice is there but once.
struct Slices(Mutex<Option<Box<State>>>);

struct State {
    /// The client's request, of which those for the other slices are made.
    rq: Request,
    size: u64,
    total: u64,
    etag: Option<Bytes>,
    current: Current,
    /// Where the next byte of the present slice stands in the whole.
    at: u64,
    /// Where the present slice ends.
    slice_end: u64,
    /// What of the whole is wanted.
    wanted: Range<u64>,
    /// Whether anything was taken.
    begun: bool,
}

enum Current {
    None,
    Asking(Pin<Box<dyn Future<Output = (Request, Box<Response>)> + Send>>),
    Body(Body),
}

impl State {
    /// Where the first slice is not the one that what is wanted begins in, it is of no use.
    fn begin(&mut self) {
        self.begun = true;
        if !(self.at..self.slice_end).contains(&self.wanted.start) {
            self.current = Current::None;
            self.at = self.wanted.start / self.size * self.size;
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if !self.begun {
            self.begin();
        }
        loop {
            if self.at >= self.wanted.end {
                return Poll::Ready(None);
            }
            match &mut self.current {
                Current::None => {
                    let mut below = self.rq.copy();
                    below.depth = self.rq.depth + 1;
                    below.internal = true;
                    below.slice.set(Some(self.at));
                    (below.attempts, below.upstream_fields, below.cache_status) = (Vec::new(), None, None);
                    below.cache_seen = Default::default();
                    self.current = Current::Asking(Box::pin(async move {
                        let response = phases::content_again(&mut below).await;
                        (below, response)
                    }));
                }
                Current::Asking(asking) => {
                    let Poll::Ready((mut below, mut response)) = asking.as_mut().poll(cx) else {
                        return Poll::Pending;
                    };
                    let checked = check(&response, self.at, self.size, self.etag.as_ref());
                    let checked = checked.and_then(|total| match total == self.total {
                        true => Ok(()),
                        false => Err(format!("complete length {total} mismatch in slice response")),
                    });
                    if let Err(why) = checked {
                        crate::observe::request_error(&below, format_args!("{why}"));
                        return Poll::Ready(Some(Err(BodyError::Upstream(why))));
                    }
                    // A slice that fits is as good as the whole.
                    response.status = 200;
                    crate::modules::log::subrequest_done(&mut below, &response);
                    self.slice_end = self.at.saturating_add(self.size).min(self.total);
                    self.current = Current::Body(response.body);
                }
                Current::Body(body) => match body.poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                    Poll::Ready(None) if self.at == self.slice_end => self.current = Current::None,
                    Poll::Ready(None) => {
                        let why = format!("slice ended at {} and not at {}", self.at, self.slice_end);
                        return Poll::Ready(Some(Err(BodyError::Upstream(why))));
                    }
                    Poll::Ready(Some(Ok(piece))) => {
                        if let Some(piece) = self.take(piece) {
                            return Poll::Ready(Some(Ok(piece)));
                        }
                    }
                },
            }
        }
    }

    /// What is wanted of a piece.
    fn take(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let skip = self.wanted.start.saturating_sub(self.at).min(piece.len() as u64);
        self.at += skip;
        piece.advance(skip as usize);
        let left = self.wanted.end - self.at;
        self.at += piece.len() as u64;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        (!piece.is_empty()).then_some(piece)
    }
}

impl BodyStream for Slices {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self.0.get_mut() {
            Some(state) => state.poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    fn part(&self, range: Range<u64>) -> Option<Body> {
        // Asked for nothing, it is asked whether it has several.
        if range.is_empty() {
            return None;
        }
        let mut state = self.0.lock().take()?;
        state.wanted = range;
        Some(Body::Stream(Box::new(Slices(Mutex::new(Some(state))))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers() {
        for (text, want) in [
            ("bytes 0-9/100", Some((0..10, Some(100)))),
            ("bytes 10-19/*", Some((10..20, None))),
            ("bytes  0 - 9 / 100 ", Some((0..10, Some(100)))),
            ("bytes */100", None),
            ("bytes 9-0/100", None),
            ("bytes 0-9", None),
            ("items 0-9/100", None),
            ("bytes 0-9223372036854775807/9", None),
            ("bytes -1-9/100", None),
        ] {
            assert_eq!(parse(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn an_answer_is_the_slice_or_it_is_not() {
        let answer = |status, range: &'static str, etag: &'static str| {
            let mut response = Response::new(status);
            response.fields.add_static("Content-Range", range);
            response.etag = Some(Bytes::from_static(etag.as_bytes()));
            response
        };
        let etag = Bytes::from_static(b"\"a\"");
        let of = |response: Response, start| check(&response, start, 10, Some(&etag));
        assert_eq!(of(answer(206, "bytes 0-9/25", "\"a\""), 0), Ok(25));
        assert_eq!(of(answer(206, "bytes 20-24/25", "\"a\""), 20), Ok(25));
        for (response, start, why) in [
            (answer(200, "", "\"a\""), 0, "unexpected status code 200 in slice response"),
            (answer(206, "bytes 0-9/25", "\"b\""), 0, "etag mismatch in slice response"),
            (answer(206, "x", "\"a\""), 0, "invalid range in slice response"),
            (answer(206, "bytes 0-9/*", "\"a\""), 0, "no complete length in slice response"),
            (answer(206, "bytes 0-4/25", "\"a\""), 0, "unexpected range in slice response: 0-5"),
            (answer(206, "bytes 0-9/25", "\"a\""), 10, "unexpected range in slice response: 0-10"),
        ] {
            assert_eq!(of(response, start), Err(why.to_string()));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_range_is_read(text in "(bytes )?[-0-9/* ]{0,50}") {
            if let Some((range, _)) = parse(text.as_bytes()) {
                proptest::prop_assert!(range.start < range.end);
            }
        }
    }
}
