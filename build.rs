//! Tells the program which compiler builds it, for `edgewater_build_info`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    let version = said.ok().and_then(|out| {
        let text = String::from_utf8(out.stdout).ok()?;
        text.split_ascii_whitespace().nth(1).map(str::to_string)
    });
    println!("cargo::rustc-env=EDGEWATER_RUSTC={}", version.as_deref().unwrap_or("unknown"));
}
