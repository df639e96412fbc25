//! An allocator that counts what the workers' threads ask of it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How often memory was taken and given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    pub allocated: usize,
    pub freed: usize,
}

static ON: AtomicBool = AtomicBool::new(false);
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether it is a worker's, once that was asked. Neither initialised by a call nor dropped, so that it may be
    /// asked by an allocator.
    static WORKERS: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Begins to count.
pub fn begin() -> Count {
    let now = Count { allocated: ALLOCATED.load(Ordering::SeqCst), freed: FREED.load(Ordering::SeqCst) };
    ON.store(true, Ordering::SeqCst);
    now
}

/// Ends it: what came since.
pub fn end(begun: Count) -> Count {
    ON.store(false, Ordering::SeqCst);
    let (allocated, freed) = (ALLOCATED.load(Ordering::SeqCst), FREED.load(Ordering::SeqCst));
    Count { allocated: allocated - begun.allocated, freed: freed - begun.freed }
}

fn is_workers() -> bool {
    let ask = || {
        let mut name = [0u8; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes, the last of them 0, to the pointer (prctl(2)), which is
        // valid for 16.
        let got = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        got == 0 && name.starts_with(b"worker-")
    };
    WORKERS.get().unwrap_or_else(|| {
        let is = ask();
        WORKERS.set(Some(is));
        is
    })
}

fn count(which: &AtomicUsize) {
    if ON.load(Ordering::Relaxed) && is_workers() {
        which.fetch_add(1, Ordering::Relaxed);
    }
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATED);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(&FREED);
        // SAFETY: the caller's promise; what was allocated was by the same allocator.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(&ALLOCATED);
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
