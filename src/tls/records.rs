//! Bytes on their way, and how rustls puts records among them.

use rustls::server::ServerConnectionData;
use rustls::unbuffered::{EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError};
use std::cell::Cell;

/// The content of a full record.
pub const FULL: usize = 16 * 1024;

/// Buffers up to this are kept for the next connection that needs one.
const SPARE: usize = 256 * 1024;

thread_local! {
    /// The buffer of the queue that became empty last. All of it is written to, so that it need not be again.
    static LAST: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes that are put at the end and taken from the front. While there are none it holds no memory.
#[derive(Default)]
pub struct Queue {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Queue {
    /// What was not taken.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether all was taken.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Puts `bytes` at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    /// Takes `n` bytes off the front.
    pub fn advance(&mut self, n: usize) {
        self.start += n;
        if self.is_empty() {
            let bytes = std::mem::take(self).bytes;
            if !bytes.is_empty() && bytes.len() <= SPARE {
                LAST.set(bytes);
            }
        }
    }

    /// Bytes of memory that it holds.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Room for `n` bytes and more behind the last.
    fn room(&mut self, n: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = LAST.take();
        }
        // A socket that takes a little now and then may never empty it: what was taken makes room.
        let left = self.end - self.start;
        if self.start > left && self.bytes.len() < self.end + n {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, left);
        }
        if self.bytes.len() < self.end + n {
            self.bytes.resize(self.end + n, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Puts a message's records at the end.
    pub fn encode(&mut self, mut data: EncodeTlsData<'_, ServerConnectionData>) {
        // Without room it says how much it needs.
        if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
            data.encode(&mut [])
        {
            self.end += data.encode(self.room(required_size)).unwrap_or(0);
        }
    }

    /// Has `write` put records of `content` bytes at the end.
    pub fn seal(
        &mut self,
        content: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), EncryptError> {
        // Heads and tags of full records; smaller ones say what they need.
        let mut written = write(self.room(content + (content / FULL + 1) * 64));
        if let Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) = written {
            written = write(self.room(required_size));
        }
        self.end += written?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_never_becomes_empty_does_not_grow() {
        let mut queue = Queue::default();
        let bytes: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        queue.push(&bytes);
        for _ in 0..1000 {
            queue.push(&bytes);
            assert_eq!(queue.rest(), [&bytes[..], &bytes].concat());
            queue.advance(bytes.len());
            assert_eq!(queue.rest(), bytes);
        }
        assert!(queue.capacity() < 10 * bytes.len(), "{}", queue.capacity());
    }
}
