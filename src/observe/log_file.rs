//! Files that are appended to, reopened on request, and shared by whoever names the same path.

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A log file. Its descriptor can be replaced while others write.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: ArcSwapOption<File>,
}

impl LogFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `bytes` in one write, so that lines of several threads do not mix. A failure is not
    /// the request's fault and has nowhere to go.
    pub fn write(&self, bytes: &[u8]) {
        if let Some(file) = self.file.load().as_ref() {
            let _ = file.as_ref().write_all(bytes);
        }
    }

    fn open(&self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        self.file.store(Some(Arc::new(file)));
        Ok(())
    }
}

fn registry() -> &'static Mutex<HashMap<PathBuf, Arc<LogFile>>> {
    static FILES: OnceLock<Mutex<HashMap<PathBuf, Arc<LogFile>>>> = OnceLock::new();
    FILES.get_or_init(Mutex::default)
}

/// The log file at `path`, the same one for everybody; not opened yet.
pub fn at(path: &Path) -> Arc<LogFile> {
    let mut files = registry().lock();
    files
        .entry(path.to_path_buf())
        .or_insert_with(|| Arc::new(LogFile { path: path.to_path_buf(), file: ArcSwapOption::empty() }))
        .clone()
}

/// Opens the files that are named and not open. The first failure is returned with its path.
pub fn open_new() -> Result<(), (PathBuf, io::Error)> {
    let files: Vec<Arc<LogFile>> = registry().lock().values().cloned().collect();
    for file in files.iter().filter(|f| f.file.load().is_none() && Arc::strong_count(f) > 2) {
        file.open().map_err(|e| (file.path.clone(), e))?;
    }
    Ok(())
}

/// Opens every file anew (`USR1`), after a rename by a log rotator. Returns what failed.
pub fn reopen() -> Vec<(PathBuf, io::Error)> {
    let mut files = registry().lock();
    // Files that no generation names any more are closed here.
    files.retain(|_, f| Arc::strong_count(f) > 1);
    files.values().filter_map(|f| f.open().err().map(|e| (f.path.clone(), e))).collect()
}
