//! What is served: files, certificates, a playlist; and where the rest is had from.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cells::{LARGE, MEDIUM, SMALL};
use crate::peers::free_port;

/// The files that are served, and the ports of the origins.
pub struct Site {
    dir: tempfile::TempDir,
    /// Where the files are had from.
    pub origin: u16,
    /// Where the segments of the miss storm are had from.
    pub segments: u16,
    /// Where playlists that change, and their segments, are had from.
    pub live: u16,
}

impl Site {
    /// Writes all files; the other origins run already.
    pub fn prepare(segments: u16, live: u16) -> Result<Site, String> {
        let dir = tempfile::Builder::new().prefix("bench").tempdir().map_err(|e| e.to_string())?;
        let root = dir.path().join("root");
        fs::create_dir(&root).map_err(|e| e.to_string())?;
        for (name, size) in [("1k.bin", SMALL), ("200k.bin", MEDIUM), ("1m.bin", LARGE)] {
            let body: Vec<u8> = (0..size).map(|i| b'a' + (i % 23) as u8).collect();
            fs::write(root.join(name), body).map_err(|e| e.to_string())?;
        }
        fs::write(root.join("index.m3u8"), playlist()).map_err(|e| e.to_string())?;
        certificate(dir.path(), "p-256", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])?;
        certificate(dir.path(), "rsa-2048", &["-newkey", "rsa:2048"])?;
        Ok(Site { dir, origin: free_port()?, segments, live })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file that an answer is to be equal to.
    pub fn file(&self, name: &str) -> Result<Vec<u8>, String> {
        fs::read(self.dir().join("root").join(name)).map_err(|e| format!("{name}: {e}"))
    }
}

/// Twenty kilobytes of a playlist as packagers write them: times, lengths and names that are nearly alike.
fn playlist() -> String {
    let mut text = String::from(
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:48213\n#EXT-X-INDEPENDENT-SEGMENTS\n",
    );
    let mut number = 48_213_u64;
    while text.len() < 20 << 10 {
        let (second, hash) = (number * 4 % 60, number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "#EXT-X-PROGRAM-DATE-TIME:2026-11-20T{:02}:{:02}:{second:02}.{:03}Z\n#EXTINF:{}.{:03},\n\
             channel-7/1080p/segment-{number}-{hash:08x}.ts\n",
            number / 900 % 24,
            number / 15 % 60,
            number * 37 % 1000,
            3 + number % 2,
            number * 53 % 1000,
        );
        number += 1;
    }
    text
}

/// Has the openssl command make `NAME.pem` and `NAME.key`.
fn certificate(dir: &Path, name: &str, kind: &[&str]) -> Result<(), String> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509"]).args(kind).args(["-nodes", "-days", "30", "-subj", "/CN=localhost"]);
    command.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    command.arg("-keyout").arg(dir.join(format!("{name}.key")));
    command.arg("-out").arg(dir.join(format!("{name}.pem")));
    let made = command.stdin(Stdio::null()).output().map_err(|e| format!("openssl: {e}"))?;
    if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
}
