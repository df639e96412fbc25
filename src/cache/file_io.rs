//! Files opened, looked at and read, without waiting for a disk where the kernel can tell us so.
//!
//! A worker may not wait. Every function here takes a [`Wait`]: with `No` it answers
//! [`Stop::WouldWait`] when the kernel does not have at hand what is asked for, and the caller asks
//! again with `Yes` on a thread that may wait.

use bytes::{Bytes, BytesMut};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, ReadWriteFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a call may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// On a worker.
    No,
    /// On a thread of its own.
    Yes,
}

/// Why a file could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The operating system's number.
    pub errno: i32,
    /// The call that failed, as nginx names it: `open()`, `stat()`, `fstat()`, `read()`.
    pub call: &'static str,
}

impl Failure {
    /// The failure of `call`.
    pub fn of(call: &'static str, errno: Errno) -> Failure {
        Failure { errno: errno.raw_os_error(), call }
    }

    /// Whether there is no such file: nothing under the name, or no directory on the way, or a name
    /// that is too long for there to be one.
    pub fn is_missing(&self) -> bool {
        [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG].iter().any(|e| e.raw_os_error() == self.errno)
    }

    /// Whether we may not have it, or there is a link on the way that is not followed.
    pub fn is_forbidden(&self) -> bool {
        [Errno::ACCESS, Errno::LOOP, Errno::MLINK].iter().any(|e| e.raw_os_error() == self.errno)
    }

    /// As an error of the operating system.
    pub fn error(&self) -> std::io::Error {
        std::io::Error::from_raw_os_error(self.errno)
    }
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It would have to be waited for.
    WouldWait,
    /// It failed.
    Failed(Failure),
}

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A socket, a device, a pipe.
    Other,
}

/// What is known of a file without reading it. Equal for two looks at a file that was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// When its content changed last: seconds since 1970, nanoseconds.
    pub modified: (i64, u32),
    changed: (i64, u32),
    device: u64,
    inode: u64,
}

impl Stat {
    /// `Last-Modified`: whole seconds; what is before 1970 counts as 1970.
    pub fn mtime(&self) -> u64 {
        self.modified.0.max(0) as u64
    }

    /// Whether an open file's content is what it was. That its name was removed or given to another
    /// file shows in its times too, and is nothing to its content.
    pub fn same_content(&self, other: &Stat) -> bool {
        (self.device, self.inode, self.size, self.modified)
            == (other.device, other.inode, other.size, other.modified)
    }

    /// Whether so little time passed since the last change that another one need not show in the
    /// times: kernels stamp with the clock of their last tick, some file systems with whole seconds.
    pub fn is_fresh(&self) -> bool {
        let now = crate::http::date::since_epoch();
        let (seconds, nanos) = self.changed.max(self.modified);
        let at = std::time::Duration::new(seconds.max(0) as u64, nanos.min(999_999_999));
        let doubt = if nanos == 0 { 2_000 } else { 100 };
        now.saturating_sub(at).as_millis() < doubt
    }
}

/// Opens the file for reading.
pub fn open(path: &[u8], wait: Wait) -> Result<File, Stop> {
    // O_NONBLOCK is for what is no file: opening a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_as(path, flags, wait, "open()")
}

/// What the name stands for; a link is followed.
pub fn stat(path: &[u8], wait: Wait) -> Result<Stat, Stop> {
    let file = open_as(path, OFlags::PATH | OFlags::CLOEXEC, wait, "stat()")?;
    stat_of(&file)
}

/// What an open file is.
pub fn stat_of(file: &File) -> Result<Stat, Stop> {
    let s = rustix::fs::fstat(file).map_err(|e| Stop::Failed(Failure::of("fstat()", e)))?;
    let kind = match rustix::fs::FileType::from_raw_mode(s.st_mode) {
        rustix::fs::FileType::RegularFile => Kind::File,
        rustix::fs::FileType::Directory => Kind::Directory,
        _ => Kind::Other,
    };
    Ok(Stat {
        kind,
        size: u64::try_from(s.st_size).unwrap_or(0),
        modified: (s.st_mtime as i64, s.st_mtime_nsec as u32),
        changed: (s.st_ctime as i64, s.st_ctime_nsec as u32),
        device: s.st_dev,
        inode: s.st_ino,
    })
}

/// Kernels before 5.12 and some sandboxes do not resolve names from the cache alone.
static RESOLVES_CACHED: AtomicBool = AtomicBool::new(true);

fn open_as(path: &[u8], flags: OFlags, wait: Wait, call: &'static str) -> Result<File, Stop> {
    let path = Path::new(OsStr::from_bytes(path));
    let opened = match wait {
        Wait::Yes => rustix::fs::open(path, flags, Mode::empty()),
        Wait::No if !RESOLVES_CACHED.load(Ordering::Relaxed) => return Err(Stop::WouldWait),
        Wait::No => match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
            Err(Errno::AGAIN | Errno::PERM) => return Err(Stop::WouldWait),
            Err(Errno::NOSYS | Errno::INVAL) => {
                // A name with a zero byte is invalid anywhere; it says nothing of the kernel.
                if !path.as_os_str().as_bytes().contains(&0) {
                    RESOLVES_CACHED.store(false, Ordering::Relaxed);
                }
                return Err(Stop::WouldWait);
            }
            other => other,
        },
    };
    opened.map(File::from).map_err(|e| Stop::Failed(Failure::of(call, e)))
}

/// Reads at `offset` into `buffer`; 0 is the end of the file.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64, wait: Wait) -> Result<usize, Stop> {
    let flags = match wait {
        Wait::Yes => ReadWriteFlags::empty(),
        Wait::No => ReadWriteFlags::NOWAIT,
    };
    loop {
        let read = match flags.is_empty() {
            true => rustix::io::pread(file, &mut *buffer, offset),
            false => rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, flags),
        };
        return match read {
            Err(Errno::INTR) => continue,
            Err(Errno::OPNOTSUPP) if wait == Wait::No && is_in_memory(file) => {
                read_at(file, buffer, offset, Wait::Yes)
            }
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) if wait == Wait::No => {
                Err(Stop::WouldWait)
            }
            read => read.map_err(|e| Stop::Failed(Failure::of("read()", e))),
        };
    }
}

/// Whether the file is on a file system without a disk.
fn is_in_memory(file: &File) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    rustix::fs::fstatfs(file).is_ok_and(|s| matches!(s.f_type, TMPFS | RAMFS))
}

/// The first `size` bytes of the file; `None` when it is shorter.
pub fn read_whole(file: &File, size: usize, wait: Wait) -> Result<Option<Bytes>, Stop> {
    let mut buffer = BytesMut::zeroed(size);
    let mut filled = 0;
    while filled < size {
        match read_at(file, &mut buffer[filled..], filled as u64, wait)? {
            0 => return Ok(None),
            n => filled += n,
        }
    }
    Ok(Some(buffer.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn path_of(file: &tempfile::NamedTempFile) -> Vec<u8> {
        file.path().as_os_str().as_bytes().to_vec()
    }

    #[test]
    fn failures_say_what_failed() {
        let missing = stat(b"/nowhere/at/all", Wait::Yes).unwrap_err();
        let Stop::Failed(failure) = missing else { panic!("{missing:?}") };
        assert_eq!((failure.errno, failure.call), (2, "stat()"));
        assert!(failure.is_missing() && !failure.is_forbidden());
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = [&path_of(&file)[..], b"/x"].concat();
        let Err(Stop::Failed(failure)) = open(&below, Wait::Yes) else { panic!() };
        assert_eq!((failure.errno, failure.call, failure.is_missing()), (20, "open()", true));
    }

    #[test]
    fn what_was_just_written_is_read_without_waiting() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hello").unwrap();
        let opened = open(&path_of(&file), Wait::Yes).unwrap();
        // The file was opened a moment ago and its bytes are in the page cache.
        match read_whole(&opened, 5, Wait::No) {
            Ok(bytes) => assert_eq!(bytes.as_deref(), Some(&b"hello"[..])),
            // Not every file system can tell; then it has to say so.
            Err(stop) => assert_eq!(stop, Stop::WouldWait),
        }
        assert_eq!(read_whole(&opened, 6, Wait::Yes).unwrap(), None);
    }

    #[test]
    fn a_change_shows() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let before = stat(&path_of(&file), Wait::Yes).unwrap();
        assert_eq!(before, stat(&path_of(&file), Wait::Yes).unwrap());
        assert!(before.is_fresh());
        file.write_all(b"x").unwrap();
        assert_ne!(before, stat(&path_of(&file), Wait::Yes).unwrap());
        assert_eq!(stat(b"/", Wait::Yes).unwrap().kind, Kind::Directory);
    }
}
