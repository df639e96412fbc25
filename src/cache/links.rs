//! Files opened without following symbolic links (`disable_symlinks`), part by part of their names, so
//! that nothing can be put in the way in between.

use super::file_io::{Failure, Kind, Stop, Wait, read_whole, stat_of};
use super::files::{Content, Found, SMALL, Want};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Which links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// Whether those are that lead to something of the same owner.
    pub same_owner: bool,
    /// Bytes of the path in which all are; the next byte is a slash.
    pub from: usize,
}

/// Opens, looks and reads. Waits for a disk.
pub fn load(path: &[u8], want: Want, links: Links) -> Result<Found, Failure> {
    let file = File::from(open(path, links)?);
    let failed = |stop| match stop {
        Stop::Failed(failure) => failure,
        Stop::WouldWait => Failure::of("read()", Errno::AGAIN),
    };
    let stat = stat_of(&file).map_err(failed)?;
    let content = match (stat.kind, want) {
        (Kind::File, Want::Content) if stat.size <= SMALL => {
            match read_whole(&file, stat.size as usize, Wait::Yes).map_err(failed)? {
                Some(bytes) => Content::Bytes(bytes),
                None => return Err(Failure::of("read()", Errno::IO)),
            }
        }
        (Kind::File, Want::Open | Want::Content) => Content::File(Arc::new(file)),
        _ => Content::None,
    };
    Ok(Found::new(stat, content))
}

/// Opens for reading (ngx_open_file_wrapper).
fn open(path: &[u8], links: Links) -> Result<OwnedFd, Failure> {
    let search = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = |call, at: BorrowedFd<'_>, name: &[u8], flags| {
        openat(at, name, flags, Mode::empty()).map_err(|e| Failure::of(call, e))
    };
    let from = links.from.min(path.len());
    let (mut at, rest) = match (from, path.first()) {
        (0, Some(b'/')) => (opened("open()", CWD, b"/", search)?, path),
        (0, _) => (opened("open()", CWD, b".", search)?, path),
        _ => (opened("open()", CWD, &path[..from], search)?, &path[from..]),
    };
    let mut parts = rest.split(|b| *b == b'/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none() && !path.ends_with(b"/");
        // What is not the last is searched in only; a link there is found out by the next part.
        let flags = if last { read } else { OFlags::PATH | OFlags::CLOEXEC };
        let next = if links.same_owner {
            let next = opened("openat()", at.as_fd(), part, flags)?;
            same_owner(at.as_fd(), part, next.as_fd()).map_err(|e| Failure::of("openat()", e))?;
            next
        } else {
            opened("openat()", at.as_fd(), part, flags | OFlags::NOFOLLOW)?
        };
        if last {
            return Ok(next);
        }
        at = next;
    }
    opened("openat()", at.as_fd(), b".", read)
}

/// Whether what a name stands for, link or not, has the owner of what was opened by it.
fn same_owner(at: BorrowedFd<'_>, name: &[u8], opened: BorrowedFd<'_>) -> Result<(), Errno> {
    let (link, is) = (statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?, fstat(opened)?);
    if link.st_uid == is.st_uid { Ok(()) } else { Err(Errno::LOOP) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn links_are_followed_only_where_they_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), "text").unwrap();
        std::os::unix::fs::symlink("d", root.join("l")).unwrap();
        std::os::unix::fs::symlink("f", root.join("d/g")).unwrap();
        let errno = |name: &str, same_owner, from: &str| {
            let from = if from.is_empty() { 0 } else { root.join(from).as_os_str().len() };
            let path = root.join(name);
            let found = load(path.as_os_str().as_bytes(), Want::Content, Links { same_owner, from });
            found.map(|found| found.stat.size).map_err(|failure| failure.errno)
        };
        assert_eq!(errno("d/f", false, ""), Ok(4));
        assert_eq!(errno("d/g", false, ""), Err(libc::ELOOP));
        assert_eq!(errno("l/f", false, ""), Err(libc::ENOTDIR));
        assert_eq!(errno("l/f", false, "l"), Ok(4));
        assert_eq!(errno("l/g", false, "l"), Err(libc::ELOOP));
        assert_eq!(errno("l/g", true, ""), Ok(4));
        assert_eq!(errno("l/none", true, ""), Err(libc::ENOENT));
    }
}
