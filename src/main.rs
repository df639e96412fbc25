//! The edgewater program.

mod allocator;

/// Small blocks in great numbers, freed on the thread that took them: what this allocator is for.
#[global_allocator]
static ALLOCATOR: allocator::Usual = allocator::Usual;

fn main() {
    edgewater::edge::memory::give_back_by(allocator::collect);
    std::process::exit(edgewater::cli::main(std::env::args_os()));
}
