//! Pages of memory that are one large body's alone: filled once, and never written to again.
//!
//! The kernel sends such memory without copying it ([`super::splice`]): what waits in the sockets' queues are
//! the pages themselves, also when the body is gone here. An allocator would give its memory to the next body,
//! and a slow client would get that one's bytes. So these pages are mapped for one body, and unmapped after it:
//! whoever has them still keeps them as they are, and what is mapped next has pages of its own. Only where the kernel
//! was never given any are they another's ([`super::spare`]).

use super::spare;
use bytes::Bytes;
use memmap2::{Advice, MmapMut, MmapOptions};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a body from which on it is worth pages of its own: mapping, filling and unmapping them take longer
/// than memory that is had from an allocator.
pub const WORTH: usize = 256 << 10;

/// Bodies that are mapped at once. A process has 65,530 mappings, unless the system is set up otherwise, and
/// cannot give a part of one back when it has them all.
const MOST: usize = 32 << 10;

/// Bytes of which the pages are had at once: one call is faster than a fault for each.
const STEP: usize = 1 << 20;

/// What a mapping costs beside its pages: the kernel's structures, the handle.
const OVERHEAD: usize = 320;

/// Bytes of memory that a body of `length` bytes takes.
pub fn weight(length: usize) -> usize {
    let pages = length.next_multiple_of(PAGE);
    // Each page has eight bytes in a table.
    pages + pages / PAGE * 8 + OVERHEAD
}

/// A page's bytes. There are systems with larger ones, where a body takes a little more than is said.
const PAGE: usize = 4096;

/// Bodies that are mapped.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// A mapping, counted; it is there until it is dropped.
struct Mapping(Option<MmapMut>);

impl Mapping {
    /// One of so many bytes, and of how many of them the pages are there.
    fn new(length: usize) -> Option<(Mapping, usize)> {
        if MAPPED.fetch_add(1, Ordering::Relaxed) >= MOST {
            MAPPED.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let fresh = || Some((MmapOptions::new().len(length).map_anon().ok()?, 0));
        match spare::take(length).or_else(fresh) {
            Some((memory, present)) => Some((Mapping(Some(memory)), present)),
            None => {
                MAPPED.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn memory(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        MAPPED.fetch_sub(1, Ordering::Relaxed);
        drop(self.0.take().and_then(spare::keep));
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Pages that are being filled.
pub struct Filling {
    mapping: Mapping,
    filled: usize,
    /// Bytes whose pages are there.
    present: usize,
}

impl Filling {
    /// Pages for so many bytes; `None` where they cannot be had.
    pub fn new(length: usize) -> Option<Filling> {
        let (mapping, present) = Mapping::new(length)?;
        Some(Filling { mapping, filled: 0, present })
    }

    /// Adds as many bytes as there is room for. Returns the rest.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let length = self.mapping.memory().len();
        let (part, rest) = bytes.split_at(bytes.len().min(length - self.filled));
        let end = self.filled + part.len();
        while self.present < end {
            let step = STEP.min(length - self.present);
            // Without it they come as they are written to.
            if let Some(memory) = &self.mapping.0 {
                let _ = memory.advise_range(Advice::PopulateWrite, self.present, step);
            }
            self.present += step;
        }
        self.mapping.memory()[self.filled..end].copy_from_slice(part);
        self.filled = end;
        rest
    }

    /// What was added.
    pub fn finish(self) -> Lasting {
        let filled = self.filled;
        // The mapping is the handle's from here on, which gives it to nobody to write to.
        Lasting(Bytes::from_owner(self.mapping).slice(..filled))
    }
}

/// Bytes in such pages, all of them or a part. They are the same as long as anybody has their pages.
#[derive(Clone, Debug)]
pub struct Lasting(Bytes);

impl Lasting {
    /// Bytes that are known to have been one before: a `Bytes` does not tell.
    pub(super) fn of(bytes: Bytes) -> Lasting {
        Lasting(bytes)
    }

    /// The bytes `range` of it.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn slice(&self, range: impl std::ops::RangeBounds<usize>) -> Lasting {
        Lasting(self.0.slice(range))
    }

    /// Takes its first bytes, at most so many.
    pub fn split_to(&mut self, most: usize) -> Bytes {
        self.0.split_to(most.min(self.0.len()))
    }

    /// Goes on so many bytes.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn advance(&mut self, by: usize) {
        bytes::Buf::advance(&mut self.0, by);
    }
}

impl Deref for Lasting {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}
