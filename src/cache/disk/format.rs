//! The form of an entry's file.
//!
//! ```text
//! body                as it was received
//! sums                4 bytes for each 64 KB of the body: CRC-32
//! description …       key, head, times: see `description`; the last one counts
//! tail                32 bytes: what is before it, and checksums of that
//! ```
//!
//! Numbers are little endian. The body comes first, so that what is received can be written as it
//! comes and become an entry by what is appended. A refreshed entry has another description and tail
//! appended: at no byte of that can a crash make it another answer, for what has no tail at its end
//! is no entry, and the old tail ends the old description.
//!
//! CRC-32, because it finds every flipped bit and every torn sector's worth of 32 bits for certain,
//! which no hash of its size does, and the processor computes it faster than any disk reads. It is
//! not against forgers: who can write into the directory can write entries.
//!
//! Nothing is synced to the disk. After a crash of the process the kernel has what was written;
//! after a loss of power the checksums tell what is not whole, and an entry less is only a miss.

use super::description::MOST;
use crate::cache::file_io::{Wait, read_at};
use bytes::Bytes;
use std::fs::File;

/// Bytes of the body that have one checksum.
pub const BLOCK: usize = 64 * 1024;

/// Bytes of the largest body: the checksums of its blocks are held in memory.
pub const MOST_BODY: u64 = 1 << 40;

/// Bytes of the tail.
pub const TAIL: usize = 32;

/// The first bytes of a tail; the last of them is the version.
const MAGIC: [u8; 8] = *b"edgewtr\x01";

/// What is wrong with a file; the words are the `reason` label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// nginx's own form, or where nobody looks for it.
    Foreign,
    /// No tail at its end.
    Truncated,
    /// A tail that is none, or of another version.
    Tail,
    /// The checksums of the body's blocks.
    Sums,
    /// The description.
    Description,
    /// A block of the body.
    Block,
    /// It cannot be read.
    Unreadable,
}

impl Damage {
    /// All of them, in the order of their numbers.
    pub const ALL: [Damage; 7] = [
        Damage::Foreign,
        Damage::Truncated,
        Damage::Tail,
        Damage::Sums,
        Damage::Description,
        Damage::Block,
        Damage::Unreadable,
    ];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Damage::Foreign => "foreign",
            Damage::Truncated => "truncated",
            Damage::Tail => "tail",
            Damage::Sums => "checksums",
            Damage::Description => "description",
            Damage::Block => "body",
            Damage::Unreadable => "unreadable",
        }
    }
}

/// What stands at the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Bytes of the body.
    pub body: u64,
    /// Bytes of the description, which ends where the tail begins.
    pub description: u32,
    /// The checksum of the sums.
    pub sums_crc: u32,
    /// The checksum of the description.
    pub description_crc: u32,
}

impl Tail {
    /// As it is written.
    pub fn encode(&self) -> [u8; TAIL] {
        let mut out = [0; TAIL];
        out[..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.body.to_le_bytes());
        out[16..20].copy_from_slice(&self.description.to_le_bytes());
        out[20..24].copy_from_slice(&self.sums_crc.to_le_bytes());
        out[24..28].copy_from_slice(&self.description_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a tail, the end of a file of `size` bytes.
    pub fn decode(bytes: &[u8; TAIL], size: u64) -> Result<Tail, Damage> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..7] != MAGIC[..7] {
            return Err(Damage::Truncated);
        }
        if bytes[7] != MAGIC[7] || number(28) != crc32fast::hash(&bytes[..28]) {
            return Err(Damage::Tail);
        }
        let tail = Tail {
            body: u64::from(number(8)) | u64::from(number(12)) << 32,
            description: number(16),
            sums_crc: number(20),
            description_crc: number(24),
        };
        let least = tail
            .body
            .checked_add(sums_size(tail.body))
            .and_then(|n| n.checked_add(u64::from(tail.description))?.checked_add(TAIL as u64));
        match least {
            Some(least) if least <= size && tail.description as usize <= MOST && tail.body <= MOST_BODY => {
                Ok(tail)
            }
            _ => Err(Damage::Tail),
        }
    }

    /// Where the description begins in a file of `size` bytes.
    pub fn description_at(&self, size: u64) -> u64 {
        // Checked when the tail was read.
        size - TAIL as u64 - u64::from(self.description)
    }

    /// Bytes of the sums.
    pub fn sums_size(&self) -> u64 {
        sums_size(self.body)
    }
}

fn sums_size(body: u64) -> u64 {
    body.div_ceil(BLOCK as u64) * 4
}

/// The checksums of a body that is received piece by piece.
#[derive(Default, Debug)]
pub struct Sums {
    done: Vec<u32>,
    current: crc32fast::Hasher,
    filled: usize,
}

impl Sums {
    /// Adds what follows.
    pub fn add(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(BLOCK - self.filled));
            self.current.update(now);
            self.filled += now.len();
            piece = later;
            if self.filled == BLOCK {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        self.done.push(std::mem::take(&mut self.current).finalize());
        self.filled = 0;
    }

    /// The checksums of all blocks.
    pub fn finish(mut self) -> Box<[u32]> {
        if self.filled > 0 {
            self.end_block();
        }
        self.done.into()
    }

    /// Those of a body that is whole.
    pub fn of(pieces: &[Bytes]) -> Box<[u32]> {
        let mut sums = Sums::default();
        pieces.iter().for_each(|piece| sums.add(piece));
        sums.finish()
    }
}

/// Checksums as they are written.
pub fn encode_sums(sums: &[u32]) -> Vec<u8> {
    sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
}

/// Reads what was written by [`encode_sums`].
pub fn decode_sums(bytes: &[u8], crc: u32) -> Result<Box<[u32]>, Damage> {
    if crc32fast::hash(bytes) != crc {
        return Err(Damage::Sums);
    }
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// What is read of a file before its body.
#[derive(Debug)]
pub struct Ends {
    /// The tail.
    pub tail: Tail,
    /// The description, checked.
    pub description: Bytes,
}

/// Reads tail and description of a file of `size` bytes. Waits for the disk.
pub fn read_ends(file: &File, size: u64) -> Result<Ends, Damage> {
    let tail = read_tail(file, size)?;
    let mut description = vec![0; tail.description as usize];
    fill(file, &mut description, tail.description_at(size))?;
    if crc32fast::hash(&description) != tail.description_crc {
        return Err(Damage::Description);
    }
    Ok(Ends { tail, description: description.into() })
}

/// Reads the tail of a file of `size` bytes. Waits for the disk.
pub fn read_tail(file: &File, size: u64) -> Result<Tail, Damage> {
    let foreign = || {
        let mut version = [0; 8];
        let read = fill(file, &mut version, 0);
        // ngx_http_file_cache_header_t begins with its version, which was 5 at the last count.
        read.is_ok() && (1..=16).contains(&u64::from_ne_bytes(version))
    };
    let mut bytes = [0; TAIL];
    let at = size.checked_sub(TAIL as u64).ok_or(Damage::Truncated);
    match at.and_then(|at| fill(file, &mut bytes, at)).and_then(|()| Tail::decode(&bytes, size)) {
        Err(Damage::Truncated) if foreign() => Err(Damage::Foreign),
        tail => tail,
    }
}

/// Reads the checksums of the blocks of a file with this tail. Waits for the disk.
pub fn read_sums(file: &File, tail: &Tail) -> Result<Box<[u32]>, Damage> {
    // The file is at least so large: a tail that says otherwise is none.
    let mut bytes = vec![0; tail.sums_size() as usize];
    fill(file, &mut bytes, tail.body)?;
    decode_sums(&bytes, tail.sums_crc)
}

/// Fills a buffer with what is at this place of the file. Waits for the disk.
pub fn fill(file: &File, buffer: &mut [u8], at: u64) -> Result<(), Damage> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_at(file, &mut buffer[filled..], at + filled as u64, Wait::Yes) {
            Ok(0) => return Err(Damage::Truncated),
            Ok(n) => filled += n,
            Err(_) => return Err(Damage::Unreadable),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tail_that_says_more_than_a_body_may_be_is_none() {
        let of = |body| Tail { body, description: 5, sums_crc: 1, description_crc: 2 }.encode();
        assert!(Tail::decode(&of(MOST_BODY), u64::MAX).is_ok());
        assert_eq!(Tail::decode(&of(MOST_BODY + 1), u64::MAX), Err(Damage::Tail));
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_the_pieces(length in 0usize..300_000, step in 1usize..100_000) {
            let body: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let mut sums = Sums::default();
            body.chunks(step).for_each(|piece| sums.add(piece));
            let sums = sums.finish();
            prop_assert_eq!(&sums, &body.chunks(BLOCK).map(crc32fast::hash).collect::<Box<[u32]>>());
            prop_assert_eq!(decode_sums(&encode_sums(&sums), crc32fast::hash(&encode_sums(&sums))), Ok(sums));
        }

        #[test]
        fn any_bytes_are_a_tail_or_not(bytes: [u8; TAIL], size: u64) {
            prop_assert!(Tail::decode(&bytes, size).is_err());
            let mut right = Tail { body: size, description: 5, sums_crc: 1, description_crc: 2 }.encode();
            right[9..17].copy_from_slice(&bytes[..8]);
            let crc = crc32fast::hash(&right[..28]);
            right[28..].copy_from_slice(&crc.to_le_bytes());
            // A number in it may be anything: what follows from it is within the file, or it is none.
            if let Ok(tail) = Tail::decode(&right, size) {
                prop_assert!(tail.body + tail.sums_size() <= tail.description_at(size));
            }
        }
    }
}
