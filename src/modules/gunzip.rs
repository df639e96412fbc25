//! nginx's gunzip module: what is stored or comes compressed, for clients that do not take it.

use super::compress::MEMORY;
use super::gzip;
use crate::conf::Command;
use crate::conf::values::{buffers_arg, flag};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::filters::{self, Filter};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::settings;
use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use std::task::{Context, Poll};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `gunzip`
        inherit enable: bool = false,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "gunzip",
        |b, d| {
            let v = flag(d)?;
            b.loc().gunzip.enable.set(v)
        },
        "whether gzip is undone for clients that do not take it",
    ),
    Command::no_effect_of("gunzip_buffers", |_, d| buffers_arg(d).map(drop), MEMORY),
];

/// Undoes gzip where it is on, of the answers to subrequests too: these are parts of something that is
/// not compressed.
pub const FILTER: Filter =
    Filter { wants: |loc| *loc.gunzip.enable, subrequests: true, pure: true, call: apply };

fn apply(rq: &mut Request, response: &mut Response) {
    let coding = response.fields.get("content-encoding");
    if coding.is_none_or(|coding| !coding.eq_ignore_ascii_case(b"gzip")) || response.tunnel.is_some() {
        return;
    }
    response.vary = true;
    if gzip::client_takes(rq, response) {
        return;
    }
    response.fields.remove("content-encoding");
    filters::changes_body(response);
    let body = std::mem::take(&mut response.body);
    response.body = Body::Stream(Box::new(Inflated::new(body)));
}

/// Bytes that are made before others on the worker have their turn.
const TURN: usize = 128 * 1024;
/// Bytes that are worth sending.
const WORTH: usize = 16 * 1024;
/// What the beginning of a member counts of a turn: many small ones are work too.
const MEMBER: usize = 4 * 1024;

/// A body of one gzip member or several, inflated as it is taken. Its memory is bounded by a piece of
/// the body, one of output, and the decoder.
struct Inflated {
    inner: Body,
    decoder: Option<Decompress>,
    /// Whether a member has ended and no other begun.
    between: bool,
    input: Bytes,
    /// Bytes left of this turn.
    turn: usize,
    done: bool,
}

impl Inflated {
    fn new(inner: Body) -> Inflated {
        Inflated { inner, decoder: None, between: false, input: Bytes::new(), turn: TURN, done: false }
    }

    /// Inflates what is at hand, up to a piece's worth of output.
    fn decode(&mut self) -> Result<Vec<u8>, BodyError> {
        let mut output = Vec::with_capacity(WORTH);
        while !self.input.is_empty() && output.len() < output.capacity() {
            if std::mem::take(&mut self.between) {
                self.decoder = None;
            }
            let decoder = match &mut self.decoder {
                Some(decoder) => decoder,
                none => {
                    self.turn = self.turn.saturating_sub(MEMBER);
                    none.insert(Decompress::new_gzip(15))
                }
            };
            let (read, made) = (decoder.total_in(), output.len());
            let status = decoder
                .decompress_vec(&self.input, &mut output, FlushDecompress::None)
                .map_err(|_| BodyError::Coding("inflate() failed: 0, -3".into()))?;
            let read = (decoder.total_in() - read) as usize;
            self.input.advance(read);
            self.turn = self.turn.saturating_sub(output.len() - made);
            self.between = matches!(status, Status::StreamEnd);
            if read == 0 && output.len() == made && !self.between {
                return Err(BodyError::Coding("inflate() failed: 0, -5".into()));
            }
        }
        // Output that filled the room may not have been all there is: the decoder says so next time.
        Ok(output)
    }

    /// What the decoder still holds when the input has ended, or has been used up.
    fn rest(&mut self) -> Result<Vec<u8>, BodyError> {
        let mut output = Vec::with_capacity(WORTH);
        if let (Some(decoder), false) = (&mut self.decoder, self.between) {
            match decoder.decompress_vec(&[], &mut output, FlushDecompress::None) {
                Ok(status) => self.between = matches!(status, Status::StreamEnd),
                Err(_) => return Err(BodyError::Coding("inflate() failed: 0, -3".into())),
            }
            self.turn = self.turn.saturating_sub(output.len());
        }
        Ok(output)
    }
}

impl BodyStream for Inflated {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.done {
                return Poll::Ready(None);
            }
            if self.turn == 0 {
                self.turn = TURN;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let output = if self.input.is_empty() { self.rest() } else { self.decode() };
            match output {
                Ok(output) if output.is_empty() => {}
                Ok(output) => return Poll::Ready(Some(Ok(output.into()))),
                Err(e) => {
                    self.done = true;
                    return Poll::Ready(Some(Err(e)));
                }
            }
            if !self.input.is_empty() {
                continue;
            }
            match self.inner.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => self.input = piece,
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                Poll::Ready(None) => {
                    self.done = true;
                    if !self.between {
                        let why = "inflate() returned -5 on response end";
                        return Poll::Ready(Some(Err(BodyError::Coding(why.into()))));
                    }
                }
            }
        }
    }

    fn flush_each(&self) -> bool {
        self.inner.flush_each()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io::Write;
    use std::task::Waker;

    fn gzipped(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// All that comes, or the error; no piece may be larger than is worth sending.
    fn inflate(pieces: VecDeque<Bytes>) -> Result<Vec<u8>, String> {
        let mut body = Inflated::new(Body::Pieces(pieces));
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        loop {
            match body.poll_next(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(None) => return Ok(out),
                Poll::Ready(Some(Ok(piece))) => {
                    assert!(!piece.is_empty() && piece.len() <= 2 * WORTH, "{}", piece.len());
                    out.extend_from_slice(&piece);
                }
                Poll::Ready(Some(Err(e))) => return Err(e.to_string()),
            }
        }
    }

    fn cut(bytes: &[u8], step: usize) -> VecDeque<Bytes> {
        bytes.chunks(step).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn members_one_after_the_other() {
        let two = [gzipped(b"one "), gzipped(b"two")].concat();
        for step in 1..=two.len() {
            assert_eq!(inflate(cut(&two, step)).unwrap(), b"one two", "{step}");
        }
    }

    #[test]
    fn what_is_not_whole_is_an_error() {
        let whole = gzipped(b"some text that is long enough to be cut anywhere");
        for length in 0..whole.len() {
            let error = inflate(cut(&whole[..length], 7)).unwrap_err();
            assert_eq!(error, "inflate() returned -5 on response end", "{length}");
        }
        let mut broken = whole.clone();
        let crc = broken.len() - 6;
        broken[crc] ^= 1;
        for bad in [broken, [&whole[..], b"garbage"].concat(), b"no gzip at all".to_vec()] {
            assert_eq!(inflate(cut(&bad, 1000)).unwrap_err(), "inflate() failed: 0, -3");
        }
    }

    #[test]
    fn a_small_body_that_becomes_a_large_one_comes_in_turns() {
        let text = vec![b'x'; 20 << 20];
        let mut body = Inflated::new(Body::Bytes(gzipped(&text).into()));
        let mut cx = Context::from_waker(Waker::noop());
        let (mut length, mut turns) = (0, 0);
        loop {
            match body.poll_next(&mut cx) {
                Poll::Pending => turns += 1,
                Poll::Ready(None) => break,
                Poll::Ready(Some(piece)) => {
                    let piece = piece.unwrap();
                    assert!(piece.len() <= 2 * WORTH);
                    length += piece.len();
                }
            }
        }
        assert_eq!(length, text.len());
        assert!(turns >= text.len() / TURN - 1, "{turns}");
    }

    proptest::proptest! {
        #[test]
        fn pieces_of_any_size(text in proptest::collection::vec(0u8..4, 0..100_000), step in 1usize..5000) {
            proptest::prop_assert_eq!(inflate(cut(&gzipped(&text), step)).unwrap(), text);
        }

        #[test]
        fn any_bytes_are_inflated_or_an_error(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = inflate(cut(&[b"\x1f\x8b\x08\0\0\0\0\0\x02\x03", &text[..]].concat(), 50));
        }
    }
}
