//! The file that holds the process's number.

use crate::conf::ConfError;
use crate::conf::values::os_error;
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

/// The number in the file at `path`. The error says all of it, in nginx's words. Zero, which `kill`
/// would take for the whole group of this process, is no number.
pub fn read(path: &Path) -> Result<i32, ConfError> {
    let text = std::fs::read(path).map_err(|e| {
        let call = if e.kind() == io::ErrorKind::IsADirectory { "pread" } else { "open" };
        ConfError::new(format!("{call}() \"{}\" failed ({})", path.display(), os_error(&e)))
    })?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_end_matches(['\r', '\n']);
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|n| digits && *n > 0)
        .ok_or_else(|| ConfError::new(format!("invalid PID number \"{text}\" in \"{}\"", path.display())))
}
