//! Bodies in stretches of memory that hold nothing else.
//!
//! What an upstream sends arrives as parts of read buffers, which they would keep from being freed.
//! And bodies of all sizes, each in one stretch, fragment the allocator's memory: with segments of 50
//! to 400 KB it took 40 % more than they have; in stretches of 64 KB and a rest it takes 10 % more, and
//! 2 % where they are all 200 KB. The large ones have [pages] of their own.

pub mod pages;
pub mod spare;
pub mod splice;

use bytes::{Bytes, BytesMut};
use pages::{Filling, Lasting};
use std::ops::Deref;
use std::sync::Arc;

/// The stretch of which large bodies are made.
pub const PIECE: usize = 64 << 10;

/// Of less than [`PIECE`] so much is one piece, and the rest another. What is smaller is one.
const SMALL: usize = 32 << 10;

/// What a stretch costs beside its bytes: a handle, and what counts who holds it.
const HANDLE: usize = 2 * size_of::<Bytes>();

/// How many bytes of those that are `left` make the next piece.
fn next(left: usize) -> usize {
    match left {
        PIECE.. => PIECE,
        SMALL..PIECE => SMALL,
        _ => left,
    }
}

/// A packed body: its pieces. Cheap to clone. What is longer than [`PIECE`] is in pages of its own.
#[derive(Clone, Debug, Default)]
pub struct Packed(Arc<[Bytes]>);

impl Packed {
    /// All of it, where it is in pages of its own.
    pub fn lasting(&self) -> Option<Lasting> {
        match &*self.0 {
            [one] if one.len() > PIECE => Some(Lasting::of(one.clone())),
            _ => None,
        }
    }

    /// Its bytes in parts of no more than [`PIECE`].
    pub fn parts(&self) -> impl Iterator<Item = Bytes> {
        self.iter().flat_map(parts)
    }

    /// Bytes of memory that it takes.
    pub fn weight(&self) -> usize {
        let weight = |piece: &Bytes| match piece.len() {
            length if length > PIECE => pages::weight(length),
            length => stretch(length),
        };
        self.iter().map(|piece| weight(piece) + HANDLE).sum()
    }
}

fn parts(piece: &Bytes) -> impl Iterator<Item = Bytes> {
    (0..piece.len()).step_by(PIECE).map(|at| piece.slice(at..piece.len().min(at + PIECE)))
}

impl Deref for Packed {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        &self.0
    }
}

impl FromIterator<Bytes> for Packed {
    /// In parts of no more than [`PIECE`]: nobody knows where these bytes are.
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Packed {
        Packed(pieces.into_iter().flat_map(|piece| parts(&piece).collect::<Vec<_>>()).collect())
    }
}

/// Copies a body into such stretches.
pub struct Packer {
    /// Those of a large body.
    pages: Option<Filling>,
    left: usize,
    current: BytesMut,
    /// Bytes of the present piece when it is full.
    full: usize,
    packed: Vec<Bytes>,
}

impl Packer {
    /// For a body of so many bytes.
    pub fn new(length: usize) -> Packer {
        let pages = if length >= pages::WORTH { Filling::new(length) } else { None };
        let packed = Vec::with_capacity(if pages.is_some() { 0 } else { length / PIECE + 2 });
        Packer { pages, left: length, current: BytesMut::new(), full: 0, packed }
    }

    /// Adds bytes, also more than were announced.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if let Some(pages) = &mut self.pages {
            let rest = pages.push(bytes);
            self.left = self.left.saturating_sub(bytes.len() - rest.len());
            bytes = rest;
        }
        while !bytes.is_empty() {
            if self.full == 0 {
                self.full = next(self.left.max(bytes.len()));
                self.current = BytesMut::with_capacity(self.full);
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.full - self.current.len()));
            self.current.extend_from_slice(part);
            self.left = self.left.saturating_sub(part.len());
            bytes = rest;
            if self.current.len() == self.full {
                self.close();
            }
        }
    }

    /// The pieces.
    pub fn finish(mut self) -> Packed {
        if !self.current.is_empty() {
            self.close();
        }
        if let Some(whole) = self.pages.map(Filling::finish).filter(|whole| !whole.is_empty()) {
            // Others are there only if more came than was announced.
            self.packed.insert(0, Bytes::clone(&whole));
        }
        Packed(self.packed.into())
    }

    fn close(&mut self) {
        self.packed.push(std::mem::take(&mut self.current).freeze());
        self.full = 0;
    }
}

/// What the allocator takes for a stretch of so many bytes. It has eight sizes between a power of two
/// and the next; small stretches of many sizes leave gaps besides, a sixteenth about.
fn stretch(length: usize) -> usize {
    if length >= SMALL {
        return length;
    }
    let step = (length.next_power_of_two() / 16).max(16);
    let taken = length.next_multiple_of(step);
    taken + taken / 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lengths(body: usize) -> Vec<usize> {
        let mut packer = Packer::new(body);
        packer.push(&vec![7; body]);
        packer.finish().iter().map(Bytes::len).collect()
    }

    #[test]
    fn bodies_are_cut_where_little_is_lost() {
        assert_eq!(lengths(0), [0; 0]);
        assert_eq!(lengths(1), [1]);
        assert_eq!(lengths(32 << 10), [32 << 10]);
        assert_eq!(lengths(40 << 10), [32 << 10, 8 << 10]);
        assert_eq!(lengths(63 << 10), [32 << 10, 31 << 10]);
        assert_eq!(lengths(200 << 10), [64 << 10, 64 << 10, 64 << 10, 8 << 10]);
        assert_eq!(lengths(pages::WORTH), [pages::WORTH]);
        assert_eq!(Packer::new(0).finish().weight(), 0);
    }

    proptest! {
        #[test]
        fn the_bytes_are_the_same_and_little_is_lost(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60_000), 0..10),
            announced in prop::option::of(0usize..600_000),
        ) {
            let bytes = parts.concat();
            let mut packer = Packer::new(announced.unwrap_or(bytes.len()));
            parts.iter().for_each(|part| packer.push(part));
            let packed = packer.finish();
            prop_assert_eq!(packed.concat(), &bytes[..]);
            let parts: Vec<_> = packed.parts().collect();
            prop_assert!(parts.iter().all(|part| !part.is_empty() && part.len() <= PIECE));
            prop_assert_eq!(parts.concat(), &bytes[..]);
            let expected = announced.unwrap_or(bytes.len());
            let has_pages = expected >= pages::WORTH && (PIECE + 1..=expected).contains(&bytes.len());
            prop_assert_eq!(packed.lasting().map(|whole| whole.len()), has_pages.then_some(bytes.len()));
            if announced.is_none() {
                let most = bytes.len() + bytes.len() / 5 + 32 + HANDLE * packed.len();
                prop_assert!(packed.weight() <= most, "{} for {}", packed.weight(), bytes.len());
            }
        }
    }
}
