//! `charset_map`: a table between two charsets.

use crate::conf::{Builder, ConfError, ConfResult, Directive};
use crate::modules::map::line;
use std::collections::HashMap;

/// A table between a charset of single bytes and another, or UTF-8.
#[derive(Debug)]
pub struct Table {
    from: usize,
    to: usize,
    pub(super) kind: Kind,
}

/// What is on the other side.
#[derive(Debug)]
pub(super) enum Kind {
    /// Single bytes: there and back.
    Bytes(Box<[u8; 256]>, Box<[u8; 256]>),
    /// UTF-8: the bytes of each, and the byte of each character.
    Utf8(Box<[Sequence; 256]>, HashMap<u32, u8>),
}

/// Up to three bytes of UTF-8, for characters up to U+FFFF.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    length: u8,
    bytes: [u8; 3],
}

impl Sequence {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn new(bytes: &[u8]) -> Option<Sequence> {
        let mut sequence = Sequence { length: u8::try_from(bytes.len()).ok()?, bytes: [0; 3] };
        sequence.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(sequence)
    }
}

impl Table {
    /// Whether it is between these two, either way round.
    pub fn is_between(&self, a: usize, b: usize) -> bool {
        (self.from, self.to) == (a, b) || (self.from, self.to) == (b, a)
    }

    /// Whether `charset` is the one it begins with.
    pub fn begins_with(&self, charset: usize) -> bool {
        self.from == charset
    }

    /// Reads the lines of a `charset_map`. What no line names is itself below 128 and `?` above.
    pub fn read(b: &mut Builder, d: &Directive, from: usize, to: usize, to_utf8: bool) -> ConfResult<Table> {
        let plain = |i: usize| u8::try_from(i).ok().filter(u8::is_ascii).unwrap_or(b'?');
        let bytes = || Box::new(std::array::from_fn(plain));
        let mut kind = if to_utf8 {
            let sequence = |i| Sequence { length: 1, bytes: [plain(i), 0, 0] };
            Kind::Utf8(Box::new(std::array::from_fn(sequence)), HashMap::new())
        } else {
            Kind::Bytes(bytes(), bytes())
        };
        for item in d.block.as_deref().unwrap_or_default() {
            let line = line(item)?;
            b.here = line.at.clone();
            entry(&mut kind, line).map_err(|e| e.at(&line.at).text(|| line.summary()))?;
        }
        b.here = d.at.clone();
        Ok(Table { from, to, kind })
    }
}

fn entry(kind: &mut Kind, line: &Directive) -> ConfResult<()> {
    let [second] = line.args.as_slice() else { return Err(ConfError::new("invalid parameters number")) };
    let invalid = |text: &str| ConfError::new(format!("invalid value \"{text}\""));
    let from = hex(&line.name).ok_or_else(|| invalid(&line.name))?;
    match kind {
        Kind::Bytes(there, back) => {
            let to = hex(second).ok_or_else(|| invalid(second))?;
            there[usize::from(from)] = to;
            back[usize::from(to)] = from;
        }
        Kind::Utf8(there, back) => {
            let bytes: Option<Vec<u8>> = second.as_bytes().chunks(2).map(pair).collect();
            let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(|| invalid(second))?;
            let character = match super::recode::decode(&bytes) {
                // nginx takes no ASCII here: every charset has it.
                super::recode::Decoded::Character(c, 2..) if c <= 0xffff => c,
                _ => return Err(invalid(second)),
            };
            there[usize::from(from)] = Sequence::new(&bytes).ok_or_else(|| invalid(second))?;
            back.insert(character, from);
        }
    }
    Ok(())
}

/// A byte in hexadecimal digits, any number of them.
fn hex(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if digits { u64::from_str_radix(text, 16).ok().and_then(|n| u8::try_from(n).ok()) } else { None }
}

fn pair(digits: &[u8]) -> Option<u8> {
    if digits.len() == 2 { hex(std::str::from_utf8(digits).ok()?) } else { None }
}
