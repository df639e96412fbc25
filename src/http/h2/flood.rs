//! Tells work from noise: a client that sends frames which carry nothing is shown the door.

use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of noise that are nobody's fault (nginx's number).
const SPARE: u64 = 1 << 20;

/// What was read, by kind. Knows frames by their headers alone.
#[derive(Debug)]
pub struct Frames {
    /// All bytes.
    pub bytes: u64,
    /// Of these, payload of DATA, HEADERS and CONTINUATION.
    payload: u64,
    header: [u8; 9],
    have: usize,
    /// Bytes left of the present frame.
    left: u64,
}

impl Default for Frames {
    /// The preface comes first.
    fn default() -> Frames {
        Frames { bytes: 0, payload: 0, header: [0; 9], have: 0, left: 24 }
    }
}

impl Frames {
    /// Counts what was read.
    pub fn read(&mut self, mut input: &[u8]) {
        self.bytes += input.len() as u64;
        while !input.is_empty() {
            if self.left > 0 {
                let n = self.left.min(input.len() as u64) as usize;
                self.left -= n as u64;
                input = &input[n..];
                continue;
            }
            let n = (9 - self.have).min(input.len());
            self.header[self.have..self.have + n].copy_from_slice(&input[..n]);
            self.have += n;
            input = &input[n..];
            if self.have == 9 {
                self.have = 0;
                let [a, b, c, kind, ..] = self.header;
                self.left = u64::from(u32::from_be_bytes([0, a, b, c]));
                // DATA, HEADERS, CONTINUATION
                if matches!(kind, 0 | 1 | 9) {
                    self.payload += self.left;
                }
            }
        }
    }

    /// nginx's rule: less than an eighth of all bytes, either way, carried anything.
    pub fn is_flood(&self, written: u64, sent: u64) -> bool {
        (self.bytes + written) / 8 > self.payload + sent + SPARE
    }
}

/// Requests begun and then taken back by the client, less those carried through.
#[derive(Debug, Default)]
pub struct Resets(AtomicU32);

impl Resets {
    /// So many more taken back than carried through are an attack ("rapid reset").
    const MOST: u32 = 200;

    /// One was taken back.
    pub fn taken_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One was carried through.
    pub fn carried_through(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    /// Whether there are too many.
    pub fn is_attack(&self) -> bool {
        self.0.load(Ordering::Relaxed) > Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 1];
        frame.resize(9 + length, 0);
        frame
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let text = [vec![b'P'; 24], frame(1, 30), frame(6, 8), frame(0, 300), frame(8, 4)].concat();
        for step in 1..text.len() {
            let mut frames = Frames::default();
            for part in text.chunks(step) {
                frames.read(part);
            }
            assert_eq!((frames.bytes, frames.payload), (text.len() as u64, 330), "{step}");
        }
    }

    #[test]
    fn noise_is_a_flood_and_work_is_not() {
        let (mut pings, mut upload) = (Frames::default(), Frames::default());
        for _ in 0..600_000 {
            pings.read(&frame(6, 8));
        }
        assert!(pings.is_flood(0, 0));
        assert!(!pings.is_flood(1 << 30, 1 << 30));
        for _ in 0..10_000 {
            upload.read(&frame(0, 16_000));
        }
        assert!(!upload.is_flood(0, 0));
    }

    #[test]
    fn resets_are_forgiven_by_requests() {
        let resets = Resets::default();
        for _ in 0..1000 {
            resets.taken_back();
            resets.carried_through();
        }
        resets.carried_through();
        assert!(!resets.is_attack());
        (0..=Resets::MOST).for_each(|_| resets.taken_back());
        assert!(resets.is_attack());
    }
}
