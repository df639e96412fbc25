//! The edgewater program.

/// Small blocks in great numbers, freed on the thread that took them: what this allocator is for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    std::process::exit(edgewater::cli::main(std::env::args_os()));
}
