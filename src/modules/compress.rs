//! What the modules that compress responses have in common: which responses, for which clients, and
//! the body that is compressed as it is taken.

use super::media_types::Types;
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::filters;
use crate::http::request::Request;
use crate::http::response::Response;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// Why knobs of buffers have no effect.
pub const MEMORY: &str = "memory is taken as it is needed, within bounds";

/// Whether a response is one that is compressed: its status, type and length, and no coding yet.
pub fn is_worth(rq: &Request, response: &Response, min_length: u64, types: &Types) -> bool {
    matches!(response.status, 200 | 403 | 404)
        && response.fields.get("content-encoding").is_none_or(Bytes::is_empty)
        && filters::length(rq, response).is_none_or(|n| n >= min_length)
        && types.has(response)
        && response.tunnel.is_none()
}

/// Whether the client takes a coding, with a quality above zero.
pub fn client_takes(rq: &Request, coding: &[u8]) -> bool {
    rq.depth == 0 && rq.head.get("accept-encoding").is_some_and(|value| accepts(value, coding))
}

/// Whether `Accept-Encoding` has a coding with a quality above zero (ngx_http_gzip_accept_encoding).
pub fn accepts(value: &[u8], coding: &[u8]) -> bool {
    let starts = |at: usize| at == 0 || matches!(value[at - 1], b',' | b' ');
    let mut windows = value.windows(coding.len()).enumerate();
    let Some((at, _)) = windows.find(|(at, w)| w.eq_ignore_ascii_case(coding) && starts(*at)) else {
        return false;
    };
    let rest = value[at + coding.len()..].trim_ascii_start();
    match rest.split_first() {
        None | Some((b',', _)) => true,
        Some((b';', parameter)) => match parameter.trim_ascii_start() {
            [] => true,
            [b'q' | b'Q', b'=', quality @ ..] => quality_of(quality) > 0,
            _ => false,
        },
        Some(_) => false,
    }
}

/// A quality in hundredths; 0 for what is none (ngx_http_gzip_quantity).
fn quality_of(text: &[u8]) -> u32 {
    let text = text.split(|b| matches!(b, b',' | b' ')).next().unwrap_or_default();
    let (whole, fraction) = match text {
        [digit @ (b'0' | b'1')] => (digit - b'0', &[][..]),
        [digit @ (b'0' | b'1'), b'.', fraction @ ..] => (digit - b'0', fraction),
        _ => return 0,
    };
    if fraction.len() > 3 || !fraction.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    // The digits are added up: what matters is whether there is one that is not zero.
    let quality = u32::from(whole) * 100 + fraction.iter().map(|d| u32::from(d - b'0')).sum::<u32>();
    if quality > 100 { 0 } else { quality }
}

/// Compresses a response.
pub fn apply<E: Encoder>(
    rq: &mut Request,
    response: &mut Response,
    coding: &'static str,
    settings: E::Settings,
) {
    response.fields.set("Content-Encoding", Bytes::from_static(coding.as_bytes()));
    filters::changes_body(response);
    let counts = Arc::new(Counts { coding, ..Counts::default() });
    rq.guards.push(Box::new(counts.clone()));
    let body = std::mem::take(&mut response.body);
    response.body = Body::Stream(Box::new(Compressed::<E>::new(body, settings, counts)));
}

/// Bytes before and after compression.
#[derive(Debug, Default)]
pub struct Counts {
    coding: &'static str,
    before: AtomicU64,
    after: AtomicU64,
}

/// Appends how many times smaller a response became by `coding`: with two digits, rounded, as nginx's
/// `$gzip_ratio`; false when it did not.
pub fn ratio(rq: &Request, coding: &str, out: &mut Vec<u8>) -> bool {
    let mut all = rq.guards.iter().filter_map(|guard| guard.downcast_ref::<Arc<Counts>>());
    all.find(|counts| counts.coding == coding).is_some_and(|counts| counts.ratio(out))
}

impl Counts {
    fn ratio(&self, out: &mut Vec<u8>) -> bool {
        let (before, after) = (self.before.load(Ordering::Relaxed), self.after.load(Ordering::Relaxed));
        let Some(thousandths) = before.saturating_mul(1000).checked_div(after) else { return false };
        let hundredths = thousandths / 10 + u64::from(thousandths % 10 > 4);
        out.extend_from_slice(format!("{}.{:02}", hundredths / 100, hundredths % 100).as_bytes());
        true
    }
}

/// What is done after the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// More will come.
    None,
    /// What has come is to be readable by the client.
    Sync,
    /// Nothing more will come.
    Finish,
}

/// A compressor.
pub trait Encoder: Send + Sized + 'static {
    /// What it is made with.
    type Settings: Copy + Send;

    /// A new one, or one that is used again.
    fn new(settings: Self::Settings) -> io::Result<Self>;

    /// Compresses all of `input` and appends what comes of it.
    fn encode(&mut self, input: &[u8], flush: Flush, out: &mut Vec<u8>) -> io::Result<()>;

    /// Whether a turn takes so long that it has to be on a thread of its own.
    fn is_slow(_: Self::Settings) -> bool {
        false
    }
}

/// Bytes that are compressed before others on the worker have their turn.
const TURN: usize = 64 * 1024;
/// Bytes of output that are worth sending.
pub const WORTH: usize = 16 * 1024;

/// A body, compressed as it is taken. Its memory is bounded by a piece of the body and the encoder.
struct Compressed<E: Encoder> {
    inner: Body,
    settings: E::Settings,
    state: State<E>,
    /// What is being compressed.
    input: Bytes,
    output: Vec<u8>,
    /// Bytes left of this turn.
    turn: usize,
    counts: Arc<Counts>,
}

enum State<E> {
    /// Not yet needed: a HEAD request never does.
    Unborn,
    Running(E),
    /// At work on another thread.
    Away(Working<E>, Flush),
    /// All was compressed.
    Done,
}

/// An encoder at work, and its output.
type Working<E> = JoinHandle<io::Result<(E, Vec<u8>)>>;

impl<E: Encoder> Compressed<E> {
    fn new(inner: Body, settings: E::Settings, counts: Arc<Counts>) -> Compressed<E> {
        let (state, input, output) = (State::Unborn, Bytes::new(), Vec::new());
        Compressed { inner, settings, state, input, output, turn: TURN, counts }
    }

    /// Compresses the first `take` bytes of the input, here or elsewhere.
    fn encode(&mut self, take: usize, flush: Flush) -> io::Result<()> {
        let piece = self.input.split_to(take);
        self.counts.before.fetch_add(take as u64, Ordering::Relaxed);
        let mut encoder = match std::mem::replace(&mut self.state, State::Done) {
            State::Unborn => E::new(self.settings)?,
            State::Running(encoder) => encoder,
            // Neither is asked for more.
            State::Away(..) | State::Done => return Ok(()),
        };
        if E::is_slow(self.settings) {
            let mut out = std::mem::take(&mut self.output);
            let work = move || encoder.encode(&piece, flush, &mut out).map(|()| (encoder, out));
            self.state = State::Away(tokio::task::spawn_blocking(work), flush);
        } else {
            encoder.encode(&piece, flush, &mut self.output)?;
            self.back(encoder, flush);
        }
        Ok(())
    }

    fn back(&mut self, encoder: E, flush: Flush) {
        if flush != Flush::Finish {
            self.state = State::Running(encoder);
        }
    }

    /// What there is to send after a step.
    fn emit(&mut self, flush: Flush) -> Option<Bytes> {
        if self.output.is_empty() || flush == Flush::None && self.output.len() < WORTH {
            return None;
        }
        let out = Bytes::from(std::mem::take(&mut self.output));
        self.counts.after.fetch_add(out.len() as u64, Ordering::Relaxed);
        Some(out)
    }

    /// One step: a piece of output, or `None` to go on.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let broken = |e: io::Error| BodyError::Coding(e.to_string());
        if let State::Away(working, flush) = &mut self.state {
            let flush = *flush;
            let Poll::Ready(done) = Pin::new(working).poll(cx) else { return Poll::Pending };
            self.state = State::Done;
            let done = done.map_err(|e| BodyError::Coding(e.to_string()))?;
            let (encoder, output) = done.map_err(broken)?;
            self.output = output;
            self.back(encoder, flush);
            return Poll::Ready(Ok(self.emit(flush)));
        }
        if self.input.is_empty() {
            match self.inner.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(piece)) => self.input = piece?,
                Poll::Ready(None) => {
                    self.encode(0, Flush::Finish).map_err(broken)?;
                    return Poll::Ready(Ok(self.emit(Flush::Finish)));
                }
            }
            return Poll::Ready(Ok(None));
        }
        if self.turn == 0 {
            self.turn = TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let take = self.input.len().min(self.turn);
        self.turn -= take;
        let last = take == self.input.len();
        let flush = if last && self.inner.flush_each() { Flush::Sync } else { Flush::None };
        self.encode(take, flush).map_err(broken)?;
        Poll::Ready(Ok(self.emit(flush)))
    }
}

impl<E: Encoder> BodyStream for Compressed<E> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while !matches!(self.state, State::Done) {
            match self.step(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(piece))) => return Poll::Ready(Some(Ok(piece))),
                Poll::Ready(Err(e)) => {
                    self.state = State::Done;
                    return Poll::Ready(Some(Err(e)));
                }
            }
        }
        Poll::Ready(None)
    }

    fn flush_each(&self) -> bool {
        self.inner.flush_each()
    }
}

#[cfg(test)]
/// Tests, of which the modules use some.
pub mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    #[test]
    fn accepting_a_coding_as_nginx_reads_it() {
        for (text, want) in [
            ("gzip", true),
            ("deflate, GZIP", true),
            ("deflate,gzip;q=0", false),
            ("gzip;q=0.5", true),
            ("gzip;q=0.000", false),
            ("gzip;q=1.1", false),
            ("gzip;q=0.0001", false),
            ("gzip ; q=1", true),
            ("gzip; x=1", false),
            ("x-gzip", false),
            ("xgzip, gzip", true),
            ("gzipx", false),
            ("gzip x", false),
            ("*", false),
        ] {
            assert_eq!(accepts(text.as_bytes(), b"gzip"), want, "{text}");
        }
        assert!(accepts(b"gzip, br;q=0.1, zstd", b"br"));
        assert!(!accepts(b"gzip, br;q=0, zstd", b"br"));
    }

    #[test]
    fn the_ratio_is_rounded() {
        let ratio = |before: u64, after: u64| {
            let counts = Counts { before: before.into(), after: after.into(), coding: "" };
            let mut out = Vec::new();
            counts.ratio(&mut out).then(|| String::from_utf8(out).unwrap())
        };
        assert_eq!(ratio(1000, 300).as_deref(), Some("3.33"));
        assert_eq!(ratio(1999, 1000).as_deref(), Some("2.00"));
        assert_eq!(ratio(10, 20).as_deref(), Some("0.50"));
        assert_eq!(ratio(10, 0), None);
    }

    /// Pieces, with a pause after each.
    struct Paused {
        pieces: VecDeque<Bytes>,
        pause: bool,
        flush: bool,
    }

    impl BodyStream for Paused {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            if std::mem::replace(&mut self.pause, false) {
                return Poll::Pending;
            }
            self.pause = true;
            Poll::Ready(self.pieces.pop_front().map(Ok))
        }

        fn flush_each(&self) -> bool {
            self.flush
        }
    }

    fn paused(pieces: &[&'static str], flush: bool) -> Body {
        let pieces = pieces.iter().map(|p| Bytes::from_static(p.as_bytes())).collect();
        Body::Stream(Box::new(Paused { pieces, pause: false, flush }))
    }

    /// All that comes, and how much of it had come at each pause.
    fn drain<E: Encoder>(mut body: Compressed<E>) -> (Vec<u8>, Vec<usize>) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut out, mut pauses) = (Vec::new(), Vec::new());
        loop {
            match body.poll_next(&mut cx) {
                Poll::Pending => pauses.push(out.len()),
                Poll::Ready(None) => return (out, pauses),
                Poll::Ready(Some(piece)) => out.extend_from_slice(&piece.unwrap()),
            }
        }
    }

    /// What every compressor has to do: `inflate` gives what there is of a whole text or of its
    /// flushed beginning.
    pub fn keeps_the_rules<E: Encoder>(settings: E::Settings, inflate: fn(&[u8]) -> Vec<u8>) {
        let new = |body| Compressed::<E>::new(body, settings, Arc::default());
        // A large body takes turns, and its bytes are counted.
        let text: Vec<u8> =
            (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let counts = Arc::new(Counts::default());
        let (out, pauses) =
            drain(Compressed::<E>::new(Body::Bytes(text.clone().into()), settings, counts.clone()));
        assert!(inflate(&out) == text);
        assert!(pauses.len() >= text.len() / TURN - 1, "{} pauses", pauses.len());
        assert_eq!(counts.before.load(Ordering::Relaxed), text.len() as u64);
        assert_eq!(counts.after.load(Ordering::Relaxed), out.len() as u64);
        // What is to be sent at once is flushed.
        for flush in [true, false] {
            let (out, pauses) = drain(new(paused(&["one ", "two ", "three"], flush)));
            assert_eq!(inflate(&out), b"one two three");
            assert_eq!(inflate(&out[..pauses[0]]), if flush { &b"one "[..] } else { b"" });
        }
        // One that is dropped in the middle leaves nothing to the next.
        for text in ["first", "second", ""] {
            assert_eq!(inflate(&drain(new(paused(&[text], false))).0), text.as_bytes());
            let mut half = new(paused(&["lost"], true));
            let _ = half.poll_next(&mut Context::from_waker(Waker::noop()));
        }
        // An error is not an end.
        struct Broken;
        impl BodyStream for Broken {
            fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
                Poll::Ready(Some(Err(BodyError::Upstream("gone".into()))))
            }
        }
        let mut body = new(Body::Stream(Box::new(Broken)));
        let polled = body.poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Some(Err(_)))));
    }

    /// The same text, whole, from a compressor that works on a thread of its own.
    pub fn works_elsewhere<E: Encoder>(settings: E::Settings, inflate: fn(&[u8]) -> Vec<u8>) {
        assert!(E::is_slow(settings));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let text = "a text that is compressed slowly ".repeat(10_000);
        let body = Body::Bytes(text.clone().into());
        let body = Compressed::<E>::new(body, settings, Arc::default());
        let out = runtime.block_on(Body::Stream(Box::new(body)).collect(usize::MAX));
        assert!(inflate(&out.unwrap().unwrap()) == text.as_bytes());
    }
}
