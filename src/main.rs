//! The edgewater program.

fn main() {
    std::process::exit(edgewater::cli::main(std::env::args_os()));
}
