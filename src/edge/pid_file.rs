//! The file that holds the process's number.

use std::io;
use std::path::{Path, PathBuf};

/// Where it is when the configuration does not say.
pub const DEFAULT: &str = "/run/nginx.pid";

/// Written at the start, removed when dropped.
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's number to `path`.
    pub fn write(path: &Path) -> io::Result<PidFile> {
        std::fs::write(path, format!("{}\n", std::process::id()))?;
        Ok(PidFile(path.to_path_buf()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The number in the file at `path`.
pub fn read(path: &Path) -> io::Result<i32> {
    let text = std::fs::read_to_string(path)?;
    let invalid =
        || io::Error::new(io::ErrorKind::InvalidData, format!("invalid PID number \"{}\"", text.trim()));
    text.trim().parse().ok().filter(|n| *n > 0).ok_or_else(invalid)
}
