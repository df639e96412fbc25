//! A file takes another name, over file systems too, with nginx's lines for what fails on the way.
//! Everything here waits for a disk and belongs on a thread that may.

use super::temp_file::next_number;
use crate::conf::values::os_error;
use crate::observe::error_log::Level;
use std::fs::{DirBuilder, File, FileTimes, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A line for the error log.
pub struct Told {
    /// How grave it is.
    pub level: Level,
    /// What there is to say.
    pub text: String,
}

/// The most lines of a request: a large tree may fail file by file.
const MOST_TOLD: usize = 100;

/// What there is to tell of a piece of work with files, in order.
#[derive(Default)]
pub struct Log {
    /// The first lines.
    pub told: Vec<Told>,
    /// Lines beyond those.
    pub untold: u64,
}

impl Log {
    /// Adds a line.
    pub fn tell(&mut self, level: Level, text: String) {
        if self.told.len() < MOST_TOLD {
            self.told.push(Told { level, text });
        } else {
            self.untold += 1;
        }
    }

    /// Adds a line about a call that failed.
    pub fn failed(&mut self, level: Level, call: &str, path: &Path, e: &Error) {
        self.tell(level, format!("{call} \"{}\" failed ({})", path.display(), os_error(e)));
    }
}

/// Permissions of directories: who may read may search (ngx_dir_access).
pub fn directory_access(access: u32) -> u32 {
    access | (access & 0o444) >> 2
}

/// How something is given another name.
pub struct Rename {
    /// Permissions of the file when it has to be copied; its own otherwise.
    pub access: Option<u32>,
    /// Those of the file that directories on the way follow.
    pub path_access: u32,
    /// The time of the file when it has to be copied; its own otherwise.
    pub time: Option<SystemTime>,
    /// Whether directories on the way are made.
    pub make_path: bool,
}

impl Rename {
    /// Renames, over file systems by way of a copy beside the target (ngx_ext_rename_file). False
    /// when it failed, which is told.
    pub fn run(&self, from: &Path, to: &Path, log: &mut Log) -> bool {
        let mut renamed = std::fs::rename(from, to);
        if renamed.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) && self.make_path {
            let mut directories = DirBuilder::new();
            directories.recursive(true).mode(directory_access(self.path_access));
            if let Some(parent) = to.parent()
                && let Err(e) = directories.create(parent)
            {
                log.failed(Level::Crit, "mkdir()", to, &e);
                return false;
            }
            renamed = std::fs::rename(from, to);
        }
        match renamed {
            Ok(()) => true,
            Err(e) if e.raw_os_error() == Some(libc::EXDEV) => self.copy_over(from, to, log),
            Err(e) => {
                let (from, to, cause) = (from.display(), to.display(), os_error(&e));
                log.tell(Level::Crit, format!("rename() \"{from}\" to \"{to}\" failed ({cause})"));
                false
            }
        }
    }

    /// The target is written beside its name and takes the name when it is whole.
    fn copy_over(&self, from: &Path, to: &Path, log: &mut Log) -> bool {
        let mut beside = to.as_os_str().to_owned();
        beside.push(format!(".{:010}", next_number(1)));
        let beside = PathBuf::from(beside);
        let done = copy_file(from, &beside, self.access, self.time, log)
            && match std::fs::rename(&beside, to) {
                Ok(()) => true,
                Err(e) => {
                    let (beside, to, cause) = (beside.display(), to.display(), os_error(&e));
                    log.tell(Level::Crit, format!("rename() \"{beside}\" to \"{to}\" failed ({cause})"));
                    false
                }
            };
        if !done {
            let _ = std::fs::remove_file(&beside);
            return false;
        }
        match std::fs::remove_file(from) {
            Ok(()) => true,
            Err(e) => {
                log.failed(Level::Crit, "unlink()", from, &e);
                false
            }
        }
    }
}

/// Copies a file's bytes, permissions and time (ngx_copy_file); what is given takes the place of the
/// file's own. False when it failed, which is told.
pub fn copy_file(
    from: &Path,
    to: &Path,
    access: Option<u32>,
    time: Option<SystemTime>,
    log: &mut Log,
) -> bool {
    let mut tell = |call: &str, path: &Path, e: &Error| {
        log.failed(Level::Crit, call, path, e);
        false
    };
    // What is no file, such as a pipe, is not waited for.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(from);
    let mut source = match opened {
        Ok(file) => file,
        Err(e) => return tell("open()", from, &e),
    };
    let is = match source.metadata() {
        Ok(is) => is,
        Err(e) => return tell("fstat()", from, &e),
    };
    let mode = access.unwrap_or(is.permissions().mode() & 0o777);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NONBLOCK);
    let opened = options.open(to);
    let mut target = match opened {
        Ok(file) => file,
        Err(e) => return tell("open()", to, &e),
    };
    if let Err(e) = std::io::copy(&mut source, &mut target) {
        return tell("write()", to, &e);
    }
    let time = time.or_else(|| is.modified().ok());
    set_times(&target, time).map_or_else(|e| tell("utimes()", to, &e), |()| true)
}

/// Sets both times of a file, in whole seconds.
pub fn set_times(file: &File, time: Option<SystemTime>) -> std::io::Result<()> {
    let Some(time) = time else { return Ok(()) };
    // nginx's call takes whole seconds.
    let whole = time.duration_since(UNIX_EPOCH).map(|t| UNIX_EPOCH + Duration::from_secs(t.as_secs()));
    let time = whole.unwrap_or(time);
    file.set_times(FileTimes::new().set_accessed(time).set_modified(time))
}
