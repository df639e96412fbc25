//! The edgewater program.

/// Small blocks in great numbers, freed on the thread that took them: what this allocator is for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    edgewater::edge::memory::give_back_by(allocator::collect);
    std::process::exit(edgewater::cli::main(std::env::args_os()));
}

/// What the allocator's crate has no function for.
#[allow(unsafe_code)]
mod allocator {
    // SAFETY: mimalloc.h declares `void mi_collect(bool force)`. It is the allocator of this program, linked in for that,
    // takes any value, may be called by any thread at any time, and frees nothing that is in use.
    unsafe extern "C" {
        safe fn mi_collect(force: bool);
    }

    /// Gives back what is unused; see [`edgewater::edge::memory::give_back_by`].
    pub fn collect(force: bool) {
        mi_collect(force);
    }
}
