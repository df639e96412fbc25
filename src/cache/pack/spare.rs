//! Pages that were a body's and may be another's.
//!
//! The kernel fills pages with zeros before it hands them out, which takes as long as the copying of a body into them;
//! where a full cache takes one segment for another they are had from the old one. Not so those of which the kernel
//! itself may still have some: from the first time that memory is sent without copying it ([`super::splice`]) on, none
//! is kept.
#![allow(unsafe_code)]

use memmap2::{MmapMut, RemapOptions};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are kept at most.
const MOST: usize = 8 << 20;

/// Whether the kernel may have pages of a body after that is gone.
static LENT: AtomicBool = AtomicBool::new(false);

static SPARE: Mutex<Spare> = Mutex::new(Spare { pages: Vec::new(), bytes: 0, used: false });

struct Spare {
    pages: Vec<MmapMut>,
    bytes: usize,
    /// Whether any were asked for since [`tend`].
    used: bool,
}

/// Says that the kernel is given pages. To be called before it is.
pub fn lend() {
    if !LENT.load(Ordering::Relaxed) {
        LENT.store(true, Ordering::Relaxed);
    }
}

/// Keeps pages that nobody reads any more. Gives them back where they may not be kept.
pub fn keep(pages: MmapMut) -> Option<MmapMut> {
    // Who lent these held them then, and let go of them before they came here: so it is seen.
    if LENT.load(Ordering::Relaxed) { Some(pages) } else { SPARE.lock().keep(pages) }
}

/// Pages for so many bytes, and how many of those may be there already; `None` where none are kept. What they hold is
/// another body's.
pub fn take(length: usize) -> Option<(MmapMut, usize)> {
    let pages = SPARE.lock().take(length)?;
    fit(pages, length)
}

/// Lets go of all, where nobody has asked for any since the last time.
pub fn tend() {
    let gone = SPARE.lock().tend();
    drop(gone);
}

impl Spare {
    fn keep(&mut self, pages: MmapMut) -> Option<MmapMut> {
        if self.bytes + pages.len() > MOST {
            return Some(pages);
        }
        self.bytes += pages.len();
        self.pages.push(pages);
        None
    }

    /// Those of which the length is nearest.
    fn take(&mut self, length: usize) -> Option<MmapMut> {
        self.used = true;
        let nearest = (0..self.pages.len()).min_by_key(|at| self.pages[*at].len().abs_diff(length))?;
        let pages = self.pages.swap_remove(nearest);
        self.bytes -= pages.len();
        Some(pages)
    }

    fn tend(&mut self) -> Vec<MmapMut> {
        if std::mem::take(&mut self.used) {
            return Vec::new();
        }
        self.bytes = 0;
        std::mem::take(&mut self.pages)
    }
}

fn fit(mut pages: MmapMut, length: usize) -> Option<(MmapMut, usize)> {
    let present = pages.len().min(length);
    if pages.len() != length {
        // SAFETY: the memory is no file's, which could have an end before it. It may move: nobody has a reference into
        // it, for it is owned here.
        unsafe { pages.remap(length, RemapOptions::new().may_move(true)) }.ok()?;
    }
    Some((pages, present))
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapOptions;

    fn pages(length: usize, byte: u8) -> MmapMut {
        let mut pages = MmapOptions::new().len(length).map_anon().unwrap();
        pages.fill(byte);
        pages
    }

    fn none() -> Spare {
        Spare { pages: Vec::new(), bytes: 0, used: false }
    }

    #[test]
    fn the_nearest_are_taken_and_made_to_fit() {
        let mut spare = none();
        for (length, byte) in [(300_000, 1), (400_001, 2), (500_000, 3)] {
            assert!(spare.keep(pages(length, byte)).is_none());
        }
        for (length, byte, had) in [(390_000, 2, 390_000), (2_000_000, 3, 500_000), (1, 1, 1)] {
            let (mut taken, present) = fit(spare.take(length).unwrap(), length).unwrap();
            assert_eq!((taken.len(), present), (length, had));
            assert!(taken[..present].iter().all(|b| *b == byte));
            taken.fill(9);
        }
        assert!(spare.take(1).is_none());
        assert_eq!(spare.bytes, 0);
    }

    #[test]
    fn so_many_are_kept_and_not_for_long() {
        let mut spare = none();
        assert!(spare.keep(pages(MOST, 1)).is_none());
        assert!(spare.keep(pages(1, 1)).is_some());
        drop(spare.take(MOST));
        assert!(spare.keep(pages(1, 1)).is_none());
        assert!(spare.tend().is_empty());
        assert_eq!(spare.tend().len(), 1);
        assert_eq!((spare.bytes, spare.pages.len()), (0, 0));
    }
}
