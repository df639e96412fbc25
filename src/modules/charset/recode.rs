//! Bodies in another charset, as they are sent.

use super::map::{Kind, Table};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::range;
use bytes::Bytes;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A table and its direction.
#[derive(Clone)]
pub struct Recoder {
    table: Arc<Table>,
    forward: bool,
}

/// What stands at the beginning of some bytes that are to be UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A character and how many bytes it takes.
    Character(u32, usize),
    /// No character, and how many bytes are passed over.
    Invalid(usize),
    /// The beginning of a character.
    Incomplete,
}

/// Decodes as nginx does (ngx_utf8_decode), which takes anything above 127 for a byte that continues
/// a character.
pub fn decode(bytes: &[u8]) -> Decoded {
    let Some(&lead) = bytes.first() else { return Decoded::Incomplete };
    let (bits, more, above) = match lead {
        0..0x80 => return Decoded::Character(lead.into(), 1),
        0xf8.. => return Decoded::Invalid(1),
        0xf0.. => (lead & 0x07, 3, 0xffff),
        0xe0.. => (lead & 0x0f, 2, 0x7ff),
        0xc2.. => (lead & 0x1f, 1, 0x7f),
        _ => return Decoded::Invalid(1),
    };
    let Some(rest) = bytes.get(1..=more) else { return Decoded::Incomplete };
    let mut character = u32::from(bits);
    for (i, byte) in rest.iter().enumerate() {
        if *byte < 0x80 {
            return Decoded::Invalid(i + 2);
        }
        character = character << 6 | u32::from(byte & 0x3f);
    }
    if character > above { Decoded::Character(character, more + 1) } else { Decoded::Invalid(more + 1) }
}

impl Recoder {
    /// From the charset `from` to the other one of the table.
    pub fn new(table: Arc<Table>, from: usize) -> Recoder {
        let forward = table.begins_with(from);
        Recoder { table, forward }
    }

    /// Whether what is recoded may be longer or shorter.
    pub fn changes_length(&self) -> bool {
        matches!(self.table.kind, Kind::Utf8(..))
    }

    /// Appends `data` in the other charset; returns how many bytes were taken. Those that are left are
    /// the beginning of a character, three at most.
    fn recode(&self, data: &[u8], out: &mut Vec<u8>) -> usize {
        match (&self.table.kind, self.forward) {
            (Kind::Bytes(there, _), true) => out.extend(data.iter().map(|b| there[usize::from(*b)])),
            (Kind::Bytes(_, back), false) => out.extend(data.iter().map(|b| back[usize::from(*b)])),
            (Kind::Utf8(there, _), true) => {
                for byte in data {
                    out.extend_from_slice(there[usize::from(*byte)].bytes());
                }
            }
            (Kind::Utf8(_, back), false) => {
                let mut at = 0;
                while at < data.len() {
                    match decode(&data[at..]) {
                        Decoded::Character(c, 1) => {
                            // Of one byte: ASCII, which every charset here has.
                            out.push(c as u8);
                            at += 1;
                        }
                        Decoded::Character(c, length) => {
                            match back.get(&c).filter(|byte| **byte != 0) {
                                Some(byte) => out.push(*byte),
                                // Beyond Unicode there is nothing to refer to.
                                None if c > 0x10ffff => out.push(b'?'),
                                // Writing to memory does not fail.
                                None => drop(write!(out, "&#{c};")),
                            }
                            at += length;
                        }
                        Decoded::Invalid(length) => {
                            out.push(b'?');
                            at += length;
                        }
                        Decoded::Incomplete => return at,
                    }
                }
            }
        }
        data.len()
    }
}

/// Bytes that are recoded at once; what comes of them is three times that at most.
const STEP: usize = 32 * 1024;
/// Bytes that are recoded before others on the worker have their turn.
const TURN: usize = 256 * 1024;

/// A body that is recoded as it is taken. Its memory is bounded by a piece of the body and a step.
pub struct Recoded {
    inner: Body,
    recoder: Recoder,
    data: Bytes,
    /// The beginning of a character, whose rest has not come.
    partial: Vec<u8>,
    turn: usize,
}

impl Recoded {
    /// What `inner` is in the other charset.
    pub fn new(inner: Body, recoder: Recoder) -> Recoded {
        Recoded { inner, recoder, data: Bytes::new(), partial: Vec::new(), turn: TURN }
    }

    fn step(&mut self) -> Bytes {
        let step = self.data.split_to(self.data.len().min(STEP));
        self.turn = self.turn.saturating_sub(step.len());
        let joined = match self.partial.is_empty() {
            true => step,
            false => [&self.partial[..], &step[..]].concat().into(),
        };
        let mut out = Vec::with_capacity(joined.len());
        let taken = self.recoder.recode(&joined, &mut out);
        self.partial.clear();
        self.partial.extend_from_slice(&joined[taken..]);
        out.into()
    }
}

impl BodyStream for Recoded {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.turn == 0 {
                self.turn = TURN;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.data.is_empty() {
                let out = self.step();
                if !out.is_empty() {
                    return Poll::Ready(Some(Ok(out)));
                }
                continue;
            }
            match self.inner.poll_next(cx) {
                Poll::Ready(Some(Ok(piece))) => self.data = piece,
                // The beginning of a character at the end of the body is dropped, as nginx does.
                other => return other,
            }
        }
    }

    fn flush_each(&self) -> bool {
        self.inner.flush_each()
    }

    fn part(&self, range: Range<u64>) -> Option<Body> {
        if self.recoder.changes_length() || !self.data.is_empty() {
            return None;
        }
        let part = match &self.inner {
            Body::Stream(stream) => stream.part(range)?,
            body => range::part(body, range),
        };
        Some(Body::Stream(Box::new(Recoded::new(part, self.recoder.clone()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::build::{Http, load_text};
    use std::task::Waker;

    fn http() -> Http {
        let dir = tempfile::tempdir().unwrap();
        let maps = "charset_map koi8-r utf-8 { C1 D0B0; C2 D0B1; 80 E282AC; }\n\
                    charset_map koi8-r windows-1251 { C1 E0; C2 E1; }";
        load_text(dir.path(), &format!("events {{}}\nhttp {{\n{maps}\n}}")).unwrap().http.unwrap()
    }

    fn run(from: &str, to: &str, pieces: Vec<Bytes>) -> Vec<u8> {
        let http = http();
        let charsets = &http.conf.charset;
        let index = |name: &str| charsets.find(name.as_bytes()).unwrap();
        let recoder = charsets.recoder(index(from), index(to)).unwrap();
        let mut body = Recoded::new(Body::Pieces(pieces.into()), recoder);
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        loop {
            match body.poll_next(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(None) => return out,
                Poll::Ready(Some(piece)) => out.extend_from_slice(&piece.unwrap()),
            }
        }
    }

    fn whole(from: &str, to: &str, text: &[u8]) -> Vec<u8> {
        run(from, to, vec![Bytes::copy_from_slice(text)])
    }

    #[test]
    fn there_and_back() {
        assert_eq!(whole("koi8-r", "utf-8", b"a\xc1\xc2\x80\xff"), "aаб€?".as_bytes());
        assert_eq!(whole("UTF-8", "koi8-r", "aаб€".as_bytes()), b"a\xc1\xc2\x80");
        assert_eq!(whole("koi8-r", "windows-1251", b"a\xc1\xc2\xff"), b"a\xe0\xe1?");
        assert_eq!(whole("windows-1251", "koi8-r", b"a\xe0\xe1"), b"a\xc1\xc2");
        assert_eq!(whole("utf-8", "koi8-r", "в𝄞".as_bytes()), b"&#1074;&#119070;");
    }

    #[test]
    fn what_is_not_utf_8() {
        for (text, want) in [
            (&b"a\xffb"[..], &b"a?b"[..]),
            (b"\xc0\xafx", b"??x"),
            (b"\xd0x\xd0\xb0", b"?\xc1"),
            (b"\xe0\x80\x80.", b"?."),
            (b"\xf7\xbf\xbf\xbf", b"?"),
            (b"end\xd0", b"end"),
        ] {
            assert_eq!(whole("utf-8", "koi8-r", text), want, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn pieces_make_no_difference(
            pieces in proptest::collection::vec(
                proptest::collection::vec(
                    proptest::sample::select(vec![b'a', 0xd0, 0xb0, 0xe2, 0x82, 0xac, 0xf0, 0x9d, 0xff]), 0..5), 0..8),
        ) {
            let whole = whole("utf-8", "koi8-r", &pieces.concat());
            let pieces = pieces.into_iter().map(Bytes::from).collect();
            proptest::prop_assert_eq!(run("utf-8", "koi8-r", pieces), whole);
        }

        #[test]
        fn what_has_a_byte_comes_back(text in "[a-zаб€]{0,40}") {
            let there = whole("utf-8", "koi8-r", text.as_bytes());
            proptest::prop_assert_eq!(whole("koi8-r", "utf-8", &there), text.as_bytes());
        }
    }

    #[test]
    fn a_large_body_is_recoded_in_turns() {
        let http = http();
        let recoder = http.conf.charset.recoder(0, 1).unwrap();
        let mut body = Recoded::new(Body::Bytes(vec![0xc1; 4 << 20].into()), recoder);
        let mut cx = Context::from_waker(Waker::noop());
        let (mut turns, mut length) = (0, 0);
        loop {
            match body.poll_next(&mut cx) {
                Poll::Pending => turns += 1,
                Poll::Ready(None) => break,
                Poll::Ready(Some(piece)) => {
                    let piece = piece.unwrap().len();
                    assert!(piece <= 3 * STEP);
                    length += piece;
                }
            }
        }
        assert_eq!((length, turns), (8 << 20, (4 << 20) / TURN));
    }
}
