//! `error_log memory:SIZE`: the newest lines in a ring of bytes, for whoever looks into the process
//! with a debugger. What is older is overwritten.

use parking_lot::Mutex;

/// The room taken at once; more is taken as lines come.
const FIRST: usize = 4096;

/// A ring of bytes.
#[derive(Debug)]
pub struct MemoryLog {
    size: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    bytes: Vec<u8>,
    /// Where the next byte goes once the ring is full; the oldest stands there.
    next: usize,
}

impl MemoryLog {
    /// A ring of at most `size` bytes.
    pub fn new(size: usize) -> MemoryLog {
        let ring = Ring { bytes: Vec::with_capacity(size.min(FIRST)), next: 0 };
        MemoryLog { size, ring: Mutex::new(ring) }
    }

    /// Adds a line.
    pub fn write(&self, line: &[u8]) {
        let mut ring = self.ring.lock();
        // Of a line longer than the ring its end stays.
        let mut line = &line[line.len().saturating_sub(self.size)..];
        let room = self.size - ring.bytes.len();
        if room > 0 {
            let (fits, rest) = line.split_at(room.min(line.len()));
            ring.bytes.extend_from_slice(fits);
            line = rest;
        }
        while !line.is_empty() {
            let at = ring.next;
            let n = line.len().min(self.size - at);
            ring.bytes[at..at + n].copy_from_slice(&line[..n]);
            ring.next = (at + n) % self.size;
            line = &line[n..];
        }
    }

    /// What it holds, the oldest byte first.
    pub fn content(&self) -> Vec<u8> {
        let ring = self.ring.lock();
        [&ring.bytes[ring.next..], &ring.bytes[..ring.next]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_newest_bytes_stay(
            size in 1usize..40,
            lines in proptest::collection::vec("[a-z]{0,60}\n", 0..20),
        ) {
            let log = MemoryLog::new(size);
            lines.iter().for_each(|line| log.write(line.as_bytes()));
            let all = lines.concat().into_bytes();
            proptest::prop_assert_eq!(log.content(), &all[all.len().saturating_sub(size)..]);
        }
    }
}
