//! The program's allocator: what mimalloc's crate has no function for.
#![allow(unsafe_code)]

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

// SAFETY: mimalloc.h declares `void mi_collect(bool force)`. It is the allocator of this program, linked in for that,
// takes any value, may be called by any thread at any time, and frees nothing that is in use.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
}

// SAFETY: as mimalloc.h declares them: C's `malloc`, `realloc`, and `calloc` of one.
unsafe extern "C" {
    fn mi_malloc(size: usize) -> *mut c_void;
    fn mi_zalloc(size: usize) -> *mut c_void;
    fn mi_realloc(block: *mut c_void, size: usize) -> *mut c_void;
}

/// mimalloc, asked for blocks of the usual alignment as C asks. Its crate asks for each with its alignment, which
/// takes a slower way, and for many sizes a larger block.
pub struct Usual;

/// Whether any block of this size has this alignment: all have that of a pointer, and from 16 bytes on that.
const fn is_usual(size: usize, align: usize) -> bool {
    align <= align_of::<usize>() || align <= 16 && size >= 16
}

// SAFETY: all functions are mimalloc's, whose blocks are freed by one function however they were asked for. A block that
// is asked for without an alignment has that of a pointer at least, and from 16 bytes on that of `MI_MAX_ALIGN_SIZE`, which
// is 16 (alloc.c asserts it of every block); it is as large as asked.
unsafe impl GlobalAlloc for Usual {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that both ask for.
        unsafe {
            if is_usual(layout.size(), layout.align()) {
                mi_malloc(layout.size()).cast()
            } else {
                MiMalloc.alloc(layout)
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if is_usual(layout.size(), layout.align()) {
                mi_zalloc(layout.size()).cast()
            } else {
                MiMalloc.alloc_zeroed(layout)
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is mimalloc's, as the caller promises.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if is_usual(size, layout.align()) {
                mi_realloc(block.cast(), size).cast()
            } else {
                MiMalloc.realloc(block, layout, size)
            }
        }
    }
}

/// Gives back what is unused; see [`edgewater::edge::memory::give_back_by`].
pub fn collect(force: bool) {
    mi_collect(force);
}
