//! Ranges of a body (RFC 9110 section 14), as nginx cuts them.

use super::body::{Body, BodyError, BodyStream};
use super::date;
use super::head::{Method, Version};
use super::request::Request;
use super::response::Response;
use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

type Ranges = SmallVec<[Range<u64>; 4]>;

/// No range of the body can be had (416).
#[derive(Debug, PartialEq, Eq)]
pub struct Unsatisfiable {
    /// The length of the body.
    pub length: u64,
}

/// Cuts the ranges the client asked for, when the response allows it.
pub fn apply(rq: &Request, response: &mut Response) -> Result<(), Unsatisfiable> {
    let max = rq.loc().core.max_ranges.unwrap_or(u64::MAX);
    let (Some(length), true) = (super::filters::length(rq, response), response.ranges) else { return Ok(()) };
    if rq.version() < Version::Http10 || response.status != 200 || max == 0 {
        return Ok(());
    }
    let asked = rq.head.get("range").filter(|v| v.len() >= 7 && v[..6].eq_ignore_ascii_case(b"bytes="));
    let asked = asked.filter(|_| rq.head.get("if-range").is_none_or(|tag| is_same(tag, response)));
    let ranges = match asked.map(|v| parse(&v[6..], length, max.min(most_ranges(rq, response)))) {
        None | Some(Parsed::Whole) => {
            response.accept_ranges = true;
            response.fields.remove("accept-ranges");
            return Ok(());
        }
        Some(Parsed::Unsatisfiable) => return Err(Unsatisfiable { length }),
        Some(Parsed::Ranges(ranges)) => ranges,
    };
    response.status = 206;
    response.reason = None;
    response.accept_ranges = false;
    response.fields.remove("accept-ranges");
    match ranges.as_slice() {
        [range] => single(rq, response, range.clone(), length),
        _ => several(rq, response, &ranges, length),
    }
    Ok(())
}

/// A body that can only be read onwards is good for one range.
fn most_ranges(rq: &Request, response: &Response) -> u64 {
    match &response.body {
        _ if response.single_range => 1,
        Body::Stream(stream) if rq.method != Method::Head && stream.part(0..0).is_none() => 1,
        _ => u64::MAX,
    }
}

/// Whether `If-Range` names what the response is: its tag, or its exact time.
fn is_same(tag: &[u8], response: &Response) -> bool {
    if tag.len() >= 2 && tag.ends_with(b"\"") {
        return response.etag.as_ref().is_some_and(|etag| &etag[..] == tag);
    }
    response.modified().is_some_and(|at| date::parse_http_date(tag) == Some(at))
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// The whole body is the answer.
    Whole,
    Unsatisfiable,
    Ranges(Ranges),
}

/// Reads what follows `bytes=` (ngx_http_range_parse). More than `max` ranges, or ranges that are
/// more than the body, are answered by the whole.
fn parse(text: &[u8], length: u64, max: u64) -> Parsed {
    let mut ranges = Ranges::new();
    let mut size = 0u64;
    for one in text.split(|b| *b == b',') {
        let Some(range) = parse_one(one, length) else { return Parsed::Unsatisfiable };
        if range.start < range.end {
            size = match size.checked_add(range.end - range.start) {
                Some(size) if size <= i64::MAX as u64 => size,
                _ => return Parsed::Unsatisfiable,
            };
            if ranges.len() as u64 == max {
                return Parsed::Whole;
            }
            ranges.push(range);
        } else if range.start == 0 {
            return Parsed::Whole;
        }
    }
    match ranges.is_empty() {
        true => Parsed::Unsatisfiable,
        false if size > length => Parsed::Whole,
        false => Parsed::Ranges(ranges),
    }
}

/// One of the ranges, cut to the body; `None` when it is none.
fn parse_one(text: &[u8], length: u64) -> Option<Range<u64>> {
    let text = spaces(text);
    if let Some(suffix) = text.strip_prefix(b"-") {
        let (n, rest) = digits(suffix)?;
        return spaces(rest).is_empty().then(|| length.saturating_sub(n)..length);
    }
    let (start, rest) = digits(text)?;
    let rest = spaces(spaces(rest).strip_prefix(b"-")?);
    if rest.is_empty() {
        return Some(start..length);
    }
    let (end, rest) = digits(rest)?;
    spaces(rest).is_empty().then(|| start..end.saturating_add(1).min(length))
}

fn spaces(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|b| **b == b' ').count()..]
}

fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let n = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[..n]).ok()?.parse::<u64>().ok()?;
    (number <= i64::MAX as u64).then_some((number, &text[n..]))
}

fn single(rq: &Request, response: &mut Response, range: Range<u64>, length: u64) {
    let value = format!("bytes {}-{}/{length}", range.start, range.end - 1);
    response.fields.set("Content-Range", value);
    response.length = Some(range.end - range.start);
    if rq.method != Method::Head {
        response.body = cut(std::mem::take(&mut response.body), range);
    }
}

fn several(rq: &Request, response: &mut Response, ranges: &Ranges, length: u64) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let boundary = format!("{:020}", NEXT.fetch_add(1, Ordering::Relaxed));
    let kind = match &response.content_type {
        Some(kind) => format!("Content-Type: {}\r\n", String::from_utf8_lossy(kind)),
        None => String::new(),
    };
    let (mut parts, mut total) = (VecDeque::new(), 0);
    for range in ranges {
        let head = Bytes::from(format!(
            "\r\n--{boundary}\r\n{kind}Content-Range: bytes {}-{}/{length}\r\n\r\n",
            range.start,
            range.end - 1
        ));
        total += head.len() as u64 + (range.end - range.start);
        parts.push_back(Body::Bytes(head));
        if rq.method != Method::Head {
            parts.push_back(part(&response.body, range.clone()));
        }
    }
    let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    total += end.len() as u64;
    parts.push_back(Body::Bytes(end));
    response.content_type = Some(format!("multipart/byteranges; boundary={boundary}").into());
    response.fields.remove("content-range");
    response.length = Some(total);
    if rq.method != Method::Head {
        response.body = Body::chain(parts);
    }
}

/// One range of a body that is not needed for anything else.
fn cut(body: Body, range: Range<u64>) -> Body {
    match body {
        Body::Stream(stream) => match stream.part(range.clone()) {
            Some(part) => part,
            None => Body::Stream(Box::new(Cut {
                inner: Body::Stream(stream),
                skip: range.start,
                left: range.end - range.start,
            })),
        },
        body => part(&body, range),
    }
}

/// One range of a body in memory or of a stream that has parts.
pub fn part(body: &Body, range: Range<u64>) -> Body {
    match body {
        Body::Empty => Body::Empty,
        Body::Bytes(bytes) => bytes.slice(range.start as usize..range.end as usize).into(),
        Body::Pieces(pieces) => part_of(pieces, range),
        Body::Kept(pieces, at) => part_of(pieces.iter().skip(*at), range),
        Body::Lasting(bytes) => Body::Lasting(bytes.slice(range.start as usize..range.end as usize)),
        // A stream that has no parts was not asked for several.
        Body::Stream(stream) => stream.part(range).unwrap_or_default(),
    }
}

fn part_of<'a>(pieces: impl IntoIterator<Item = &'a Bytes>, range: Range<u64>) -> Body {
    let mut at = 0;
    let mut cut = VecDeque::new();
    for piece in pieces {
        let length = piece.len() as u64;
        let (start, end) = (range.start.clamp(at, at + length), range.end.clamp(at, at + length));
        if start < end {
            cut.push_back(piece.slice((start - at) as usize..(end - at) as usize));
        }
        at += length;
    }
    Body::Pieces(cut)
}

/// A range of a stream that can only be read onwards: what lies before is read and dropped, what
/// lies behind is not read.
struct Cut {
    inner: Body,
    skip: u64,
    left: u64,
}

impl BodyStream for Cut {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while self.left > 0 {
            let mut piece = match self.inner.poll_next(cx) {
                Poll::Ready(Some(Ok(piece))) => piece,
                other => return other,
            };
            let skip = self.skip.min(piece.len() as u64);
            self.skip -= skip;
            piece.advance(skip as usize);
            piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= piece.len() as u64;
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(piece)));
            }
        }
        Poll::Ready(None)
    }

    fn flush_each(&self) -> bool {
        self.inner.flush_each()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, length: u64, max: u64) -> Parsed {
        parse(text.as_bytes(), length, max)
    }

    fn ranges(list: &[(u64, u64)]) -> Parsed {
        Parsed::Ranges(list.iter().map(|(start, end)| *start..*end).collect())
    }

    #[test]
    fn ranges_as_nginx_reads_them() {
        for (text, want) in [
            ("0-0", ranges(&[(0, 1)])),
            ("5-", ranges(&[(5, 100)])),
            ("-5", ranges(&[(95, 100)])),
            ("-500", ranges(&[(0, 100)])),
            ("90-200", ranges(&[(90, 100)])),
            (" 1 - 2 , 3-4", ranges(&[(1, 3), (3, 5)])),
            ("0-0,100-", ranges(&[(0, 1)])),
            ("0-99,0-99", Parsed::Whole),
            ("100-", Parsed::Unsatisfiable),
            ("5-4", Parsed::Unsatisfiable),
            ("0-0,", Parsed::Unsatisfiable),
            ("-", Parsed::Unsatisfiable),
            ("-0", Parsed::Unsatisfiable),
            ("1-2-3", Parsed::Unsatisfiable),
            ("9223372036854775808-", Parsed::Unsatisfiable),
        ] {
            assert_eq!(parsed(text, 100, u64::MAX), want, "{text}");
        }
        assert_eq!(parsed("0-", 0, u64::MAX), Parsed::Whole);
        assert_eq!(parsed("0-0,2-2", 100, 1), Parsed::Whole, "more than are allowed");
        assert_eq!(parsed("0-0,200-", 100, 1), ranges(&[(0, 1)]), "what is outside does not count");
    }

    /// A stream of pieces that can only be read onwards.
    struct Onwards(VecDeque<Bytes>);

    impl BodyStream for Onwards {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    async fn whole(mut body: Body) -> Vec<u8> {
        body.collect(usize::MAX).await.unwrap().unwrap().to_vec()
    }

    proptest::proptest! {
        #[test]
        fn what_is_cut_is_what_was_asked_for(
            pieces in proptest::collection::vec("[a-z]{0,7}", 0..8),
            a in 0u64..60,
            b in 0u64..60,
        ) {
            let pieces: VecDeque<Bytes> = pieces.into_iter().map(Bytes::from).collect();
            let bytes = pieces.iter().flat_map(|p| p.to_vec()).collect::<Vec<u8>>();
            let length = bytes.len() as u64;
            let (start, end) = (a.min(b).min(length), a.max(b).min(length));
            let want = &bytes[start as usize..end as usize];
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for body in [
                Body::Bytes(bytes.clone().into()),
                Body::Pieces(pieces.clone()),
                Body::Kept(pieces.iter().cloned().collect(), 0),
                Body::Stream(Box::new(Onwards(pieces.clone()))),
            ] {
                let got = runtime.block_on(whole(cut(body, start..end)));
                proptest::prop_assert_eq!(&got[..], want);
            }
        }

        #[test]
        fn any_text_is_read(text in "[-0-9, a]{0,20}", length in 0u64..30) {
            if let Parsed::Ranges(ranges) = parsed(&text, length, u64::MAX) {
                proptest::prop_assert!(!ranges.is_empty());
                proptest::prop_assert!(ranges.iter().all(|r| r.start < r.end && r.end <= length));
            }
        }
    }
}
