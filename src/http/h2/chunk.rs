//! What a DATA frame carries: a piece of a body, or the end of one and the beginning of the next.

use bytes::{Buf, Bytes};
use std::io::IoSlice;

/// Bytes of one frame.
#[derive(Debug, Default)]
pub struct Chunk {
    first: Bytes,
    second: Bytes,
}

impl From<Bytes> for Chunk {
    fn from(first: Bytes) -> Chunk {
        Chunk { first, second: Bytes::new() }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.first.len() + self.second.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.first.is_empty() { &self.second } else { &self.first }
    }

    fn advance(&mut self, n: usize) {
        let of_first = n.min(self.first.len());
        self.first.advance(of_first);
        self.second.advance(n - of_first);
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let full = [&self.first, &self.second].into_iter().filter(|part| !part.is_empty());
        let mut count = 0;
        for (slice, part) in into.iter_mut().zip(full) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }
}

/// Bytes of a body that were not sent yet.
#[derive(Default)]
pub struct Held {
    /// What goes first.
    pub bytes: Bytes,
    /// What follows it.
    pub more: Bytes,
}

impl Held {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.more.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first `n`, no more than there are.
    pub fn take(&mut self, n: usize) -> Chunk {
        let first = self.bytes.split_to(n.min(self.bytes.len()));
        let second = self.more.split_to(n - first.len());
        if self.bytes.is_empty() {
            self.bytes = std::mem::take(&mut self.more);
        }
        Chunk { first, second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_take_and_advance() {
        for n in 0..=7 {
            for step in 0..=n {
                let mut held = Held { bytes: Bytes::from_static(b"abc"), more: Bytes::from_static(b"defg") };
                let mut chunk = held.take(n);
                assert_eq!((held.len(), held.is_empty()), (7 - n, n == 7));
                assert_eq!(held.bytes.is_empty(), n == 7);
                chunk.advance(step);
                let mut slices = [IoSlice::new(b""); 4];
                let count = chunk.chunks_vectored(&mut slices);
                let parts: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
                assert!(slices[..count].iter().all(|s| !s.is_empty()));
                assert_eq!(parts, b"abcdefg"[step..n]);
                assert_eq!(chunk.remaining(), n - step);
                assert_eq!(chunk.copy_to_bytes(n - step), b"abcdefg"[step..n]);
                let rest = held.take(held.len()).copy_to_bytes(7 - n);
                assert_eq!(rest, b"abcdefg"[n..]);
            }
        }
    }
}
