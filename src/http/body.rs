//! Bodies: what a response consists of, and how a chunked or counted message body is decoded.

use super::request::AttemptEnd;
use super::response::Fields;
use crate::cache::pack::pages::Lasting;
use crate::cache::pack::{PIECE, Packed};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Why a body ended before its end. Says who is at fault.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client went away or its connection failed.
    #[error("client: {0}")]
    Client(std::io::Error),
    /// The client sent what is not a body (bad chunk).
    #[error("client sent invalid chunked body")]
    ClientSyntax,
    /// The client sent more than `client_max_body_size`.
    #[error("client intended to send too large body")]
    TooLarge,
    /// The client was silent longer than `client_body_timeout`.
    #[error("client timed out")]
    ClientTimeout,
    /// The upstream closed early, timed out, or sent what is not a body.
    #[error("upstream: {0}")]
    Upstream(String),
    /// What is to be changed on its way cannot be: it is not what it says it is.
    #[error("{0}")]
    Coding(String),
    /// A file could not be read.
    #[error("file: {0}")]
    File(std::io::Error),
}

impl BodyError {
    /// The status with which a request is refused whose body ended so.
    pub fn status(&self) -> u16 {
        match self {
            BodyError::TooLarge => 413,
            BodyError::ClientTimeout => 408,
            BodyError::File(_) => 500,
            _ => 400,
        }
    }
}

/// A body that is pulled, piece by piece, by whoever writes it to the client.
pub trait BodyStream: Send {
    /// The next piece; `None` at the end. An error is never an end: the client must see that the
    /// body is not whole.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;

    /// Whether each piece is to reach the client before the next is waited for. Pieces that are at
    /// hand are put together otherwise.
    fn flush_each(&self) -> bool {
        false
    }

    /// The part of a file that it is, all of it still to come.
    fn file(&self) -> Option<(Arc<File>, Range<u64>)> {
        None
    }

    /// Says whether it is to be so (`X-Accel-Buffering`).
    fn set_flush_each(&mut self, _: bool) {}

    /// The bytes `range` of what has not been taken yet, as a body of its own, where they can be
    /// reached without reading what lies before them.
    fn part(&self, range: std::ops::Range<u64>) -> Option<Body> {
        let _ = range;
        None
    }
}

/// The body of a response.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// In memory, whole.
    Bytes(Bytes),
    /// In memory, in pieces.
    Pieces(VecDeque<Bytes>),
    /// In memory, in pieces that are kept for others too; the next is the one at this index.
    Kept(Packed, usize),
    /// In memory whose pages a socket can have as they are.
    Lasting(Lasting),
    /// From elsewhere.
    Stream(Box<dyn BodyStream>),
}

impl Body {
    /// Bodies one after the other.
    pub fn chain(bodies: VecDeque<Body>) -> Body {
        Body::Stream(Box::new(Chain(bodies)))
    }

    /// The length in bytes, when it is known without reading.
    pub fn known_length(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Pieces(pieces) => Some(pieces.iter().map(|p| p.len() as u64).sum()),
            Body::Kept(pieces, at) => Some(pieces.iter().skip(*at).map(|p| p.len() as u64).sum()),
            Body::Lasting(bytes) => Some(bytes.len() as u64),
            Body::Stream(_) => None,
        }
    }

    /// The next piece; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Bytes(bytes) => {
                let piece = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
            }
            Body::Pieces(pieces) => Poll::Ready(pieces.pop_front().map(Ok)),
            Body::Kept(pieces, at) => {
                let piece = pieces.get(*at).cloned();
                *at += 1;
                Poll::Ready(piece.map(Ok))
            }
            Body::Lasting(bytes) => {
                let piece = bytes.split_to(PIECE);
                Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
            }
            Body::Stream(stream) => stream.poll_next(cx),
        }
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The part of a file that it is, all of it still to come.
    pub fn file(&self) -> Option<(Arc<File>, Range<u64>)> {
        match self {
            Body::Stream(stream) => stream.file(),
            _ => None,
        }
    }

    /// Whether each piece is to be sent on at once.
    pub fn flush_each(&self) -> bool {
        matches!(self, Body::Stream(stream) if stream.flush_each())
    }

    /// Everything, when it is no more than `limit` bytes; `None` when it is more.
    pub async fn collect(&mut self, limit: usize) -> Result<Option<Bytes>, BodyError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if whole.len() + piece.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.freeze()))
    }
}

/// Bodies one after the other.
struct Chain(VecDeque<Body>);

impl BodyStream for Chain {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while let Some(first) = self.0.front_mut() {
            match first.poll_next(cx) {
                Poll::Ready(None) => self.0.pop_front(),
                other => return other,
            };
        }
        Poll::Ready(None)
    }

    fn flush_each(&self) -> bool {
        self.0.iter().any(Body::flush_each)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        if bytes.is_empty() { Body::Empty } else { Body::Bytes(bytes) }
    }
}

/// How the end of an HTTP/1 message body is found (RFC 9112 section 6.3).
#[derive(Debug, Clone)]
pub enum Framing {
    /// There is none, or all of it was read.
    None,
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Up to the end of the connection.
    Close,
}

/// Why a chunked body is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadChunk;

impl Framing {
    /// Bytes that are still to come of the chunk being read.
    pub fn announced(&self) -> u64 {
        match self {
            Framing::Chunked(chunks) => chunks.left,
            _ => 0,
        }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        matches!(self, Framing::None)
    }

    /// Takes from `input` a piece of the body: `Ok(Some)` is a piece (never empty), `Ok(None)` means
    /// that the body ended (`is_done`) or that more input is needed.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, BadChunk> {
        match self {
            Framing::None => Ok(None),
            Framing::Length(left) => {
                let n = (*left).min(input.len() as u64) as usize;
                *left -= n as u64;
                let done = *left == 0;
                if done {
                    *self = Framing::None;
                }
                Ok((n > 0).then(|| input.split_to(n).freeze()))
            }
            Framing::Close => Ok((!input.is_empty()).then(|| input.split().freeze())),
            Framing::Chunked(chunks) => {
                let piece = chunks.take(input)?;
                if piece.is_none() && chunks.done {
                    *self = Framing::None;
                }
                Ok(piece)
            }
        }
    }
}

/// A chunked body's decoder (RFC 9112 section 7.1). Extensions are read and dropped, and so are trailers
/// unless somebody wants them, within bounds.
#[derive(Debug, Clone, Default)]
pub struct Chunks {
    left: u64,
    state: ChunkState,
    skipped: usize,
    done: bool,
    wanted: Option<Box<Wanted>>,
}

/// Trailers as they come, and who wants them.
#[derive(Debug, Clone)]
struct Wanted {
    fields: Fields,
    by: Arc<AttemptEnd>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Data,
    DataEnd,
    Trailer,
}

/// The longest chunk-size line with its extensions, and the most trailer bytes.
const MAX_CHUNK_LINE: usize = 4096;
const MAX_TRAILERS: usize = 32 * 1024;

impl Chunks {
    /// Keeps the fields after the body: at its end `by` has them.
    pub fn keep_trailers(&mut self, by: Arc<AttemptEnd>) {
        self.wanted = Some(Box::new(Wanted { fields: Fields::default(), by }));
    }

    /// A line after the last chunk; a field that is none is dropped.
    fn trailer(&mut self, line: &[u8]) {
        let Some(wanted) = &mut self.wanted else { return };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let _ = wanted.by.trailers.set(std::mem::take(&mut wanted.fields));
            return;
        }
        let Some(colon) = memchr::memchr(b':', line) else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        if is_name && !value.iter().any(|b| matches!(b, b'\r' | 0)) {
            wanted.fields.add(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        }
    }

    fn take(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, BadChunk> {
        loop {
            match self.state {
                ChunkState::Data => {
                    if self.left == 0 {
                        self.state = ChunkState::DataEnd;
                        continue;
                    }
                    let n = self.left.min(input.len() as u64) as usize;
                    self.left -= n as u64;
                    return Ok((n > 0).then(|| input.split_to(n).freeze()));
                }
                ChunkState::DataEnd => {
                    let n = match input.as_ref() {
                        [b'\n', ..] => 1,
                        [b'\r', b'\n', ..] => 2,
                        [] | [b'\r'] => return Ok(None),
                        _ => return Err(BadChunk),
                    };
                    input.advance(n);
                    self.state = ChunkState::Size;
                }
                ChunkState::Size => {
                    let Some(end) = memchr::memchr(b'\n', input) else {
                        if input.len() > MAX_CHUNK_LINE {
                            return Err(BadChunk);
                        }
                        chunk_size_prefix(input)?;
                        return Ok(None);
                    };
                    self.left = chunk_size(&input[..end])?;
                    input.advance(end + 1);
                    self.state = if self.left == 0 { ChunkState::Trailer } else { ChunkState::Data };
                }
                ChunkState::Trailer => {
                    if self.done {
                        return Ok(None);
                    }
                    let Some(end) = memchr::memchr(b'\n', input) else {
                        let over = self.skipped + input.len() > MAX_TRAILERS;
                        return if over { Err(BadChunk) } else { Ok(None) };
                    };
                    self.skipped += end;
                    if self.skipped > MAX_TRAILERS {
                        return Err(BadChunk);
                    }
                    self.done = matches!(&input[..end], b"" | b"\r");
                    self.trailer(&input[..end]);
                    input.advance(end + 1);
                }
            }
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, BadChunk> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = &line[digits..];
    let rest_fine = match rest.iter().find(|b| !matches!(b, b' ' | b'\t')) {
        None | Some(b';') => !rest.contains(&b'\r'),
        Some(_) => false,
    };
    // Fifteen digits are more than any length that is not an attack.
    if digits == 0 || digits > 15 || !rest_fine {
        return Err(BadChunk);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| BadChunk)?;
    u64::from_str_radix(text, 16).map_err(|_| BadChunk)
}

fn chunk_size_prefix(partial: &[u8]) -> Result<(), BadChunk> {
    match partial.first() {
        Some(b) if !b.is_ascii_hexdigit() => Err(BadChunk),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &[u8], step: usize) -> Result<(Vec<u8>, bool, usize), BadChunk> {
        let mut framing = Framing::Chunked(Chunks::default());
        let (mut input, mut out) = (BytesMut::new(), Vec::new());
        for part in text.chunks(step) {
            input.extend_from_slice(part);
            while let Some(piece) = framing.take(&mut input)? {
                out.extend_from_slice(&piece);
            }
        }
        Ok((out, framing.is_done(), input.len()))
    }

    #[test]
    fn chunks_in_pieces_of_any_size() {
        let text = b"5;x=y\r\nhello\r\n1\n!\n0\r\nTrailer: z\r\n\r\nNEXT";
        for step in 1..text.len() {
            assert_eq!(decode(text, step).unwrap(), (b"hello!".to_vec(), true, 4), "{step}");
        }
    }

    #[test]
    fn trailers_are_kept_for_who_wants_them() {
        let text = b"1\r\n!\r\n0\r\nA: 1\r\nno field\r\nb c: 2\r\nX-Sum:  x y \n\r\nNEXT";
        for step in 1..text.len() {
            let (mut chunks, end) = (Chunks::default(), Arc::new(AttemptEnd::default()));
            chunks.keep_trailers(end.clone());
            let (mut framing, mut input) = (Framing::Chunked(chunks), BytesMut::new());
            for part in text.chunks(step) {
                input.extend_from_slice(part);
                while framing.take(&mut input).unwrap().is_some() {}
            }
            assert!(framing.is_done());
            let fields = end.trailers.get().unwrap();
            let fields: Vec<_> = fields.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            assert_eq!(fields, [(&b"A"[..], &b"1"[..]), (b"X-Sum", b"x y")], "{step}");
        }
    }

    #[test]
    fn broken_chunks_are_errors() {
        for text in [&b"x\r\n"[..], b"5\r\nhelloX", b"5 5\r\n", b"-1\r\n", b"\r\n", b"ffffffffffffffff1\r\n"]
        {
            assert!(decode(text, 100).is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_or_fail(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = decode(&text, 7);
        }
    }
}
