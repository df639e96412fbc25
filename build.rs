//! Tells the program which compiler builds it, for `edgewater_build_info`, and which TLS library, for `-V`.

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
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    let rustls = lock.split("[[package]]").find(|package| package.contains("name = \"rustls\""));
    let version = rustls.and_then(|p| p.split("version = \"").nth(1)?.split('"').next());
    println!("cargo::rustc-env=EDGEWATER_RUSTLS={}", version.unwrap_or("unknown"));
}
