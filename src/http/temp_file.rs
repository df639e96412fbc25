//! Files for what does not fit into memory, below a directory such as `client_body_temp_path` names.
//!
//! They are numbered and, where levels ask for it, spread over directories by the last digits of
//! their numbers, as nginx's are. Everything here waits for a disk and belongs on a thread that may.

use crate::edge::privileges::Identity;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory for temporary files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TempPath {
    /// The directory.
    pub directory: PathBuf,
    /// Digits of the number for each level of directories below it, one to three levels.
    pub levels: Vec<usize>,
    /// Whether others write there too, as into the system's directory: then names are random.
    pub shared: bool,
}

/// What becomes of a temporary file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It goes at once; the file is gone when it is closed.
    Unnamed,
    /// It goes when nobody needs the file any more.
    WhileUsed,
    /// It stays.
    Forever,
}

/// A temporary file, open for reading and writing.
#[derive(Debug)]
pub struct TempFile {
    file: File,
    path: PathBuf,
    keep: Keep,
}

impl Default for TempPath {
    /// The system's directory for temporary files.
    fn default() -> TempPath {
        TempPath { directory: std::env::temp_dir(), levels: Vec::new(), shared: true }
    }
}

/// The next number of a temporary file; `add` is more than one after a collision.
pub fn next_number(add: u32) -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(add, Ordering::Relaxed).wrapping_add(add)
}

/// Added after a collision, so that the next numbers are not taken too.
const AFTER_COLLISION: u32 = 123_456;

/// Collisions after which something else is wrong.
const COLLISIONS: u32 = 100;

impl TempPath {
    /// Makes the directory for those who will write into it, unless it is there (ngx_create_paths).
    pub fn prepare(&self, owner: Option<Identity>) -> std::result::Result<(), (&'static str, Error)> {
        match std::fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(("mkdir()", e)),
            _ => {}
        }
        let Some(owner) = owner else { return Ok(()) };
        let is = std::fs::metadata(&self.directory).map_err(|e| ("stat()", e))?;
        if is.uid() != owner.uid {
            std::os::unix::fs::chown(&self.directory, Some(owner.uid), None).map_err(|e| ("chown()", e))?;
        }
        let mode = is.mode() & 0o7777;
        if mode & 0o700 != 0o700 {
            let mode = std::fs::Permissions::from_mode(mode | 0o700);
            std::fs::set_permissions(&self.directory, mode).map_err(|e| ("chmod()", e))?;
        }
        Ok(())
    }

    /// Makes a file with these permissions.
    pub fn create(&self, keep: Keep, mode: u32) -> Result<TempFile> {
        let mut number = next_number(1);
        for _ in 0..COLLISIONS {
            let path = self.path_of(number);
            match self.open(&path, mode) {
                Ok(file) => {
                    if keep == Keep::Unnamed {
                        std::fs::remove_file(&path)?;
                    }
                    return Ok(TempFile { file, path, keep });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => number = next_number(AFTER_COLLISION),
                Err(e) => return Err(e),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn open(&self, path: &Path, mode: u32) -> Result<File> {
        let open = || File::options().read(true).write(true).create_new(true).mode(mode).open(path);
        match open() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or(&self.directory);
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
                open()
            }
            opened => opened,
        }
    }

    fn path_of(&self, number: u32) -> PathBuf {
        if self.shared {
            let random = crate::edge::random::bytes();
            let name: String = random.iter().map(|b| format!("{b:02x}")).collect();
            return self.directory.join(format!("edgewater-{name}"));
        }
        let name = format!("{number:010}");
        let mut path = self.directory.clone();
        let mut end = name.len();
        for level in &self.levels {
            // The levels together are fewer digits than the name has.
            let start = end.saturating_sub(*level);
            path.push(OsStr::from_bytes(&name.as_bytes()[start..end]));
            end = start;
        }
        path.push(name);
        path
    }
}

impl TempFile {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its name, whether or not it is still there.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.keep != Keep::WhileUsed {
            return;
        }
        let name = Name(std::mem::take(&mut self.path));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(name));
        }
    }
}

/// A name that goes with this, also where the runtime ends and drops what it has not begun.
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // Gone already when it was given another name.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(directory: &Path, levels: &[usize]) -> TempPath {
        TempPath { directory: directory.into(), levels: levels.into(), shared: false }
    }

    #[test]
    fn names_are_spread_by_their_last_digits() {
        let at = |levels: &[usize]| below(Path::new("/t"), levels).path_of(1_234_567_890);
        assert_eq!(at(&[]), Path::new("/t/1234567890"));
        assert_eq!(at(&[1, 2]), Path::new("/t/0/89/1234567890"));
        assert_eq!(at(&[3, 3, 3]), Path::new("/t/890/567/234/1234567890"));
    }

    #[test]
    fn names_stay_as_long_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let temp = below(&dir.path().join("new"), &[2]);
        temp.prepare(None).unwrap();
        let unnamed = temp.create(Keep::Unnamed, 0o600).unwrap();
        let (used, kept) =
            (temp.create(Keep::WhileUsed, 0o600).unwrap(), temp.create(Keep::Forever, 0o660).unwrap());
        let (used_path, kept_path) = (used.path().to_owned(), kept.path().to_owned());
        assert!(!unnamed.path().exists() && used_path.exists() && kept_path.exists());
        drop((unnamed, used, kept));
        assert!(!used_path.exists() && kept_path.exists());
        assert_eq!(std::fs::metadata(dir.path().join("new")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_name_goes_though_the_runtime_ends_before_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let file = below(dir.path(), &[]).create(Keep::WhileUsed, 0o600).unwrap();
        let path = file.path().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || wait.recv());
        runtime.block_on(async { drop(file) });
        assert!(path.exists(), "it waits for its turn");
        runtime.shutdown_background();
        drop(go);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while path.exists() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(!path.exists());
    }

    #[test]
    fn a_name_that_is_taken_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let temp = below(dir.path(), &[]);
        // Numbers are the process's; the ones that come next here are taken beforehand.
        let last = next_number(1);
        for number in last..last + 50 {
            std::fs::write(temp.path_of(number), "taken").unwrap();
        }
        let made = temp.create(Keep::WhileUsed, 0o600).unwrap();
        assert_eq!(made.file().metadata().unwrap().len(), 0);
    }
}
