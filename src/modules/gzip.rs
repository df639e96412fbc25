//! nginx's gzip module: compression of responses.

use crate::conf::values::{flag, number_arg, one_of, size_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::date;
use crate::http::filters::{self, Filter};
use crate::http::head::Version;
use crate::http::regex::Regex;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::modules::media_types::{self, Types};
use crate::settings;
use bytes::{Buf, Bytes};
use flate2::{Compress, Compression, FlushCompress, Status};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `gzip`
        inherit enable: bool = false,
        /// From 1, fast, to 9, small.
        inherit level: u32 = 1,
        /// Bytes below which a body of known length is left alone.
        inherit min_length: u64 = 20,
        /// The types that are compressed.
        inherit types: Types = Types::html(),
        /// Whether `Vary: Accept-Encoding` is sent.
        inherit vary: bool = false,
        /// The lowest version of requests that get compressed responses.
        inherit http_version: Version = Version::Http11,
        /// What is compressed for a proxy: a set of the bits in [`proxied`].
        inherit proxied: u32 = proxied::OFF,
        /// User agents that get none.
        inherit disable: Disable = Disable { msie6: false, agents: Vec::new() },
    }
}

/// `gzip_disable`
#[derive(Clone, Debug)]
pub struct Disable {
    /// `msie6`
    msie6: bool,
    agents: Vec<Arc<Regex>>,
}

/// The bits of `gzip_proxied`.
#[allow(missing_docs)]
pub mod proxied {
    pub const OFF: u32 = 1;
    pub const EXPIRED: u32 = 2;
    pub const NO_CACHE: u32 = 4;
    pub const NO_STORE: u32 = 8;
    pub const PRIVATE: u32 = 16;
    pub const NO_LAST_MODIFIED: u32 = 32;
    pub const NO_ETAG: u32 = 64;
    pub const AUTH: u32 = 128;
    pub const ANY: u32 = 256;

    /// The words for them.
    pub const WORDS: [(&str, u32); 9] = [
        ("off", OFF),
        ("expired", EXPIRED),
        ("no-cache", NO_CACHE),
        ("no-store", NO_STORE),
        ("private", PRIVATE),
        ("no_last_modified", NO_LAST_MODIFIED),
        ("no_etag", NO_ETAG),
        ("auth", AUTH),
        ("any", ANY),
    ];
}

const MEMORY: &str = "memory is taken as it is needed, within bounds";

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "gzip",
        |b, d| {
            let v = flag(d)?;
            b.loc().gzip.enable.set(v)
        },
        "whether responses are compressed",
    ),
    Command::works("gzip_comp_level", comp_level, "from 1, fast, to 9, small"),
    Command::works(
        "gzip_min_length",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().gzip.min_length.set(v)
        },
        "bytes below which a body is left alone",
    ),
    Command::works(
        "gzip_types",
        |b, d| media_types::read(b, d, |loc| &mut loc.gzip.types),
        "the types that are compressed; text/html always is",
    ),
    Command::works(
        "gzip_vary",
        |b, d| {
            let v = flag(d)?;
            b.loc().gzip.vary.set(v)
        },
        "whether Vary: Accept-Encoding is sent",
    ),
    Command::works(
        "gzip_http_version",
        |b, d| {
            let v = one_of(d, &[("1.0", Version::Http10), ("1.1", Version::Http11)])?;
            b.loc().gzip.http_version.set(v)
        },
        "the lowest version of requests that get compressed responses",
    ),
    Command::works("gzip_proxied", gzip_proxied, "what is compressed for a proxy"),
    Command::works("gzip_disable", disable, "user agents that get nothing compressed"),
    Command::no_effect("gzip_buffers", MEMORY),
    Command::no_effect("gzip_hash", MEMORY),
    Command::no_effect("gzip_window", MEMORY),
    Command::no_effect("gzip_no_buffer", MEMORY),
    Command::no_effect("postpone_gzipping", "what is at hand is compressed together in any case"),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[Variable::new("gzip_ratio", |rq, _, out| {
    rq.guards.iter().find_map(|g| g.downcast_ref::<Arc<Counts>>()).is_some_and(|counts| counts.ratio(out))
})];

fn comp_level(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let level = number_arg(d, 0)?;
    if !(1..=9).contains(&level) {
        return Err(ConfError::new("value must be between 1 and 9"));
    }
    b.loc().gzip.level.set(level as u32)
}

fn gzip_proxied(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    // A second one adds to the first.
    let set = b.loc().gzip.proxied.is_set();
    let mut bits = if set { *b.loc().gzip.proxied } else { 0 };
    for word in &d.args {
        let Some((_, bit)) = proxied::WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) else {
            return Err(ConfError::new(format!("invalid value \"{word}\"")));
        };
        if bits & bit != 0 {
            b.note(NoteLevel::Warn, format!("duplicate value \"{word}\""));
        }
        bits |= bit;
    }
    b.loc().gzip.proxied.replace(bits);
    Ok(())
}

fn disable(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    for pattern in &d.args {
        if pattern == "msie6" {
            b.loc().gzip.disable.edit().msie6 = true;
        } else {
            let regex = b.regex(pattern, true)?;
            b.loc().gzip.disable.edit().agents.push(regex);
        }
    }
    Ok(())
}

/// Compresses where it is on.
pub const FILTER: Filter = Filter { wants: |loc| *loc.gzip.enable, subrequests: false, call: apply };

/// Compresses a response where that is configured and the client takes it
/// (ngx_http_gzip_header_filter).
fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().gzip;
    if !matches!(response.status, 200 | 403 | 404)
        || response.fields.get("content-encoding").is_some_and(|v| !v.is_empty())
        || filters::length(rq, response).is_some_and(|n| n < *conf.min_length)
        || !conf.types.has(response)
        || response.tunnel.is_some()
    {
        return;
    }
    response.vary = true;
    if !client_takes(rq, response) {
        return;
    }
    let level = *conf.level;
    response.fields.set("Content-Encoding", Bytes::from_static(b"gzip"));
    filters::changes_body(response);
    let counts = Arc::new(Counts::default());
    rq.guards.push(Box::new(counts.clone()));
    let body = std::mem::take(&mut response.body);
    response.body = Body::Stream(Box::new(Compressed::new(body, level, counts)));
}

/// Whether the client takes gzip and may have it for this response (ngx_http_gzip_ok).
pub fn client_takes(rq: &Request, response: &Response) -> bool {
    let conf = &rq.loc().gzip;
    let agent = rq.head.get("user-agent");
    rq.depth == 0
        && rq.head.get("accept-encoding").is_some_and(accepts_gzip)
        && !(conf.disable.msie6 && agent.is_some_and(is_msie6))
        && rq.version() >= *conf.http_version
        && (rq.head.get("via").is_none() || proxied_takes(rq, response, *conf.proxied))
        && !agent.is_some_and(|agent| conf.disable.agents.iter().any(|regex| regex.is_match(agent)))
}

/// Whether a request that came by a proxy gets this response compressed.
fn proxied_takes(rq: &Request, response: &Response, bits: u32) -> bool {
    let has = |bit| bits & bit != 0;
    if has(proxied::OFF) {
        return false;
    }
    if has(proxied::ANY) || has(proxied::AUTH) && rq.head.get("authorization").is_some() {
        return true;
    }
    if let Some(expires) = response.fields.get("expires") {
        let now = match &response.date {
            Some(date) => date::parse_http_date(date),
            None => Some(date::now()),
        };
        let expired = date::parse_http_date(expires).zip(now).is_some_and(|(at, now)| at < now);
        return has(proxied::EXPIRED) && expired;
    }
    if response.fields.get("cache-control").is_some() {
        let says = |word: &str| {
            let mut words = response.fields.all("cache-control").flat_map(|v| v.split(|b| *b == b','));
            words.any(|w| w.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        return has(proxied::NO_CACHE) && says("no-cache")
            || has(proxied::NO_STORE) && says("no-store")
            || has(proxied::PRIVATE) && says("private");
    }
    !(has(proxied::NO_LAST_MODIFIED) && response.last_modified.is_some()
        || has(proxied::NO_ETAG) && response.etag.is_some())
}

/// Whether `Accept-Encoding` has gzip with a quality above zero (ngx_http_gzip_accept_encoding).
fn accepts_gzip(value: &[u8]) -> bool {
    let starts = |at: usize| at == 0 || matches!(value[at - 1], b',' | b' ');
    let found = value.windows(4).enumerate().find(|(at, w)| w.eq_ignore_ascii_case(b"gzip") && starts(*at));
    let Some((at, _)) = found else { return false };
    let rest = value[at + 4..].trim_ascii_start();
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

/// Internet Explorer 4 to 6, but for its second service pack.
fn is_msie6(agent: &[u8]) -> bool {
    let Some(at) = memchr::memmem::find(agent, b"MSIE ") else { return false };
    match &agent[at + 5..] {
        [b'4' | b'5', b'.', _, ..] => true,
        [b'6', b'.', rest @ ..] if !rest.is_empty() => memchr::memmem::find(rest, b"SV1").is_none(),
        _ => false,
    }
}

/// Bytes before and after compression.
#[derive(Debug, Default)]
struct Counts {
    before: AtomicU64,
    after: AtomicU64,
}

impl Counts {
    /// Appends nginx's `$gzip_ratio`: with two digits, rounded.
    fn ratio(&self, out: &mut Vec<u8>) -> bool {
        let (before, after) = (self.before.load(Ordering::Relaxed), self.after.load(Ordering::Relaxed));
        let Some(thousandths) = before.saturating_mul(1000).checked_div(after) else { return false };
        let hundredths = thousandths / 10 + u64::from(thousandths % 10 > 4);
        out.extend_from_slice(format!("{}.{:02}", hundredths / 100, hundredths % 100).as_bytes());
        true
    }
}

/// Bytes that are compressed before others on the worker have their turn.
const TURN: usize = 64 * 1024;
/// Bytes of output that are worth sending.
const WORTH: usize = 16 * 1024;

/// A body, compressed as it is taken. Its memory is bounded by a piece of the body and the encoder.
struct Compressed {
    inner: Body,
    encoder: Encoder,
    /// What is being compressed.
    input: Bytes,
    output: Vec<u8>,
    /// Bytes left of this turn.
    turn: usize,
    counts: Arc<Counts>,
}

enum Encoder {
    /// Not yet needed: a HEAD request never does.
    Unborn(u32),
    Running(Lease),
    /// All was compressed.
    Done,
}

impl Compressed {
    fn new(inner: Body, level: u32, counts: Arc<Counts>) -> Compressed {
        let encoder = Encoder::Unborn(level);
        Compressed { inner, encoder, input: Bytes::new(), output: Vec::new(), turn: TURN, counts }
    }

    fn encode(&mut self, take: usize, flush: FlushCompress) -> Result<(), BodyError> {
        if let Encoder::Unborn(level) = self.encoder {
            self.encoder = Encoder::Running(Lease::take(level));
        }
        let Encoder::Running(Lease(Some(Levelled { encoder, .. }))) = &mut self.encoder else {
            return Ok(());
        };
        let mut rest = &self.input[..take];
        loop {
            self.output.reserve(WORTH);
            let before = encoder.total_in();
            let status = encoder
                .compress_vec(rest, &mut self.output, flush)
                .map_err(|e| BodyError::Coding(e.to_string()))?;
            rest = &rest[(encoder.total_in() - before) as usize..];
            // Room that is left says that nothing is held back for want of it.
            let all = rest.is_empty() && self.output.len() < self.output.capacity();
            if status == Status::StreamEnd || all {
                break;
            }
        }
        self.input.advance(take);
        self.counts.before.fetch_add(take as u64, Ordering::Relaxed);
        Ok(())
    }

    fn emit(&mut self) -> Poll<Option<Result<Bytes, BodyError>>> {
        let out = Bytes::from(std::mem::take(&mut self.output));
        self.counts.after.fetch_add(out.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(out)))
    }
}

impl BodyStream for Compressed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if matches!(self.encoder, Encoder::Done) {
                return Poll::Ready(None);
            }
            if self.input.is_empty() {
                match self.inner.poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(piece))) => self.input = piece,
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                    Poll::Ready(None) => {
                        if let Err(e) = self.encode(0, FlushCompress::Finish) {
                            return Poll::Ready(Some(Err(e)));
                        }
                        self.encoder = Encoder::Done;
                        return self.emit();
                    }
                }
                continue;
            }
            if self.turn == 0 {
                self.turn = TURN;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let take = self.input.len().min(self.turn);
            self.turn -= take;
            let last = take == self.input.len();
            let flush =
                if last && self.inner.flush_each() { FlushCompress::Sync } else { FlushCompress::None };
            if let Err(e) = self.encode(take, flush) {
                return Poll::Ready(Some(Err(e)));
            }
            let flushed = matches!(flush, FlushCompress::Sync);
            if !self.output.is_empty() && (flushed || self.output.len() >= WORTH) {
                return self.emit();
            }
        }
    }

    fn flush_each(&self) -> bool {
        self.inner.flush_each()
    }
}

/// An encoder and its level.
struct Levelled {
    encoder: Compress,
    level: u32,
}

/// An encoder of the worker's, given back when it is dropped: making one clears a quarter of a
/// megabyte.
struct Lease(Option<Levelled>);

thread_local! {
    static IDLE: RefCell<Vec<Levelled>> = const { RefCell::new(Vec::new()) };
}

/// Idle encoders that a worker keeps.
const IDLE_ENCODERS: usize = 8;

impl Lease {
    fn take(level: u32) -> Lease {
        let idle = IDLE.with_borrow_mut(|idle| {
            let at = idle.iter().position(|e| e.level == level)?;
            Some(idle.swap_remove(at))
        });
        let new = || Levelled { encoder: Compress::new_gzip(Compression::new(level), 15), level };
        Lease(Some(idle.unwrap_or_else(new)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut idle) = self.0.take() {
            idle.encoder.reset();
            // A thread that ends keeps nothing.
            let _ = IDLE.try_with(|all| {
                let mut all = all.borrow_mut();
                if all.len() < IDLE_ENCODERS {
                    all.push(idle);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io::Read;
    use std::task::Waker;

    #[test]
    fn accepting_gzip_as_nginx_reads_it() {
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
            assert_eq!(accepts_gzip(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn the_ratio_is_rounded() {
        let ratio = |before: u64, after: u64| {
            let counts = Counts { before: before.into(), after: after.into() };
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

    /// All that comes, and how much of it had come at each pause.
    fn drain(mut body: Compressed) -> (Vec<u8>, Vec<usize>) {
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

    fn inflate(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(bytes);
        // What is missing at the end of a flushed part is no error here.
        let _ = decoder.read_to_end(&mut out);
        out
    }

    #[test]
    fn a_large_body_is_compressed_in_turns() {
        let text: Vec<u8> =
            (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let counts = Arc::new(Counts::default());
        let (out, pauses) = drain(Compressed::new(Body::Bytes(text.clone().into()), 1, counts.clone()));
        assert_eq!(inflate(&out), text);
        assert!(pauses.len() >= text.len() / TURN - 1, "{} pauses", pauses.len());
        assert_eq!(counts.before.load(Ordering::Relaxed), text.len() as u64);
        assert_eq!(counts.after.load(Ordering::Relaxed), out.len() as u64);
    }

    #[test]
    fn what_is_to_be_sent_at_once_is_flushed() {
        for flush in [true, false] {
            let pieces = ["one ", "two ", "three"].map(Bytes::from).into();
            let body = Body::Stream(Box::new(Paused { pieces, pause: false, flush }));
            let (out, pauses) = drain(Compressed::new(body, 6, Arc::default()));
            assert_eq!(inflate(&out), b"one two three");
            let at_first_pause = inflate(&out[..pauses[0]]);
            assert_eq!(at_first_pause, if flush { &b"one "[..] } else { b"" });
        }
    }

    #[test]
    fn an_encoder_is_used_again() {
        for text in [&b"first"[..], b"second"] {
            let body = Body::Bytes(Bytes::from_static(text));
            assert_eq!(inflate(&drain(Compressed::new(body, 3, Arc::default())).0), text);
        }
        // One that is dropped in the middle leaves nothing behind.
        let pieces = [Bytes::from_static(b"lost")].into();
        let body = Body::Stream(Box::new(Paused { pieces, pause: false, flush: true }));
        let mut half = Compressed::new(body, 3, Arc::default());
        let _ = half.poll_next(&mut Context::from_waker(Waker::noop()));
        drop(half);
        let body = Body::Bytes(Bytes::from_static(b"third"));
        assert_eq!(inflate(&drain(Compressed::new(body, 3, Arc::default())).0), b"third");
        assert_eq!(IDLE.with_borrow(|idle| idle.iter().filter(|e| e.level == 3).count()), 1);
    }

    #[test]
    fn an_error_is_not_an_end() {
        struct Broken;
        impl BodyStream for Broken {
            fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
                Poll::Ready(Some(Err(BodyError::Upstream("gone".into()))))
            }
        }
        let mut body = Compressed::new(Body::Stream(Box::new(Broken)), 1, Arc::default());
        let polled = body.poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Some(Err(_)))));
    }
}
