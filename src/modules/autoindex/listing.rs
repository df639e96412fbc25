//! What is in a directory, read on threads that may wait, within bounds of memory and of work.

use crate::cache::file_io::Failure;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// What is in a directory, directories first, each kind by name; names that begin with a dot are not.
pub struct Listing {
    /// In order.
    pub entries: Vec<Entry>,
    _memory: Memory,
}

/// Something in a directory.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: Box<[u8]>,
    /// What it is; for a link, what it leads to.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// When it was changed last: seconds since 1970.
    pub modified: i64,
}

/// What something in a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else.
    Other,
}

/// Why there is no listing.
#[derive(Debug)]
pub enum Stopped {
    /// A call failed.
    Failed(Failure),
    /// All listings together would take more memory than they may.
    TooLarge,
}

/// Bytes that all listings together may take: some millions of names.
const MOST: usize = 256 << 20;

/// Memory that a listing has of [`MOST`]; given back with it.
struct Memory {
    of: &'static AtomicUsize,
    most: usize,
    taken: usize,
}

impl Memory {
    fn none() -> Memory {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        Memory { of: &TAKEN, most: MOST, taken: 0 }
    }

    /// Takes so many bytes more, if they are to be had.
    fn take(&mut self, bytes: usize) -> Result<(), Stopped> {
        let before = self.of.fetch_add(bytes, Ordering::Relaxed);
        self.taken += bytes;
        if before + bytes > self.most { Err(Stopped::TooLarge) } else { Ok(()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.of.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// Reads a directory.
pub async fn read(directory: &[u8]) -> Result<Listing, Stopped> {
    let directory = directory.to_vec();
    let reading = at_once(move || read_now(&directory, Memory::none())).await;
    reading.unwrap_or_else(|failure| Err(Stopped::Failed(failure)))
}

/// Has work on a directory done where it may wait. No more is done at once than there are cores, so
/// that directories that are large or slow do not take every thread that may wait.
pub async fn at_once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    static AT_ONCE: OnceLock<Semaphore> = OnceLock::new();
    let at_once = AT_ONCE.get_or_init(|| {
        Semaphore::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2))
    });
    let cancelled = || Failure::of("opendir()", Errno::CANCELED);
    // It is never closed.
    let permit = at_once.acquire().await.map_err(|_| cancelled())?;
    let working = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    // The only ways for it not to finish are a panic and the end of the runtime.
    working.await.map_err(|_| cancelled())
}

/// Opens a directory. May wait.
pub fn open(directory: &[u8]) -> Result<Dir, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let path = Path::new(OsStr::from_bytes(directory));
    openat(CWD, path, flags, Mode::empty()).and_then(Dir::new).map_err(|e| Failure::of("opendir()", e))
}

fn read_now(directory: &[u8], mut memory: Memory) -> Result<Listing, Stopped> {
    let mut dir = open(directory).map_err(Stopped::Failed)?;
    let mut entries = Vec::new();
    while let Some(next) = dir.read() {
        let next = next.map_err(|e| Stopped::Failed(Failure::of("readdir()", e)))?;
        let name = next.file_name();
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        let at = dir.fd().map_err(|e| Stopped::Failed(Failure::of("readdir()", e)))?;
        // A link that leads nowhere is shown for itself.
        let stat = match statat(at, name, AtFlags::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => statat(at, name, AtFlags::SYMLINK_NOFOLLOW),
            other => other,
        };
        let stat = match stat {
            Ok(stat) => stat,
            // It is gone by now, or not ours to see.
            Err(Errno::NOENT | Errno::ACCESS) => continue,
            Err(e) => return Err(Stopped::Failed(Failure::of("stat()", e))),
        };
        // Besides the entry the list of entries grows by doubling.
        memory.take(name.to_bytes().len() + 2 * size_of::<Entry>())?;
        entries.push(entry(name.to_bytes(), &stat));
    }
    let order = |e: &Entry| e.kind != Kind::Directory;
    entries.sort_unstable_by(|a, b| (order(a), &a.name).cmp(&(order(b), &b.name)));
    Ok(Listing { entries, _memory: memory })
}

fn entry(name: &[u8], stat: &Stat) -> Entry {
    Entry {
        name: name.into(),
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File,
            _ => Kind::Other,
        },
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: stat.st_mtime,
    }
}

#[cfg(test)]
impl Listing {
    /// A listing of these, for tests.
    pub fn of(entries: Vec<Entry>) -> Listing {
        Listing { entries, _memory: Memory::none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn directories_first_then_by_name_and_nothing_hidden() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["b", "B", "a", ".hidden", "c"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        std::fs::create_dir(dir.path().join("z")).unwrap();
        std::os::unix::fs::symlink("z", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("d")).unwrap();
        let listing = read(dir.path().as_os_str().as_bytes()).await.unwrap();
        let names: Vec<_> =
            listing.entries.iter().map(|e| (String::from_utf8_lossy(&e.name).into_owned(), e.kind)).collect();
        use Kind::{Directory, File, Other};
        let wanted = [
            ("link", Directory),
            ("z", Directory),
            ("B", File),
            ("a", File),
            ("b", File),
            ("c", File),
            ("d", Other),
        ];
        assert_eq!(names, wanted.map(|(name, kind)| (name.to_string(), kind)));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let memory = || Memory { of: &TAKEN, most: 1000, taken: 0 };
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3 {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        let path = dir.path().as_os_str().as_bytes();
        let first = read_now(path, memory()).ok().unwrap();
        assert!(TAKEN.load(Ordering::Relaxed) > 200);
        for n in 3..30 {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        assert!(matches!(read_now(path, memory()), Err(Stopped::TooLarge)));
        drop(first);
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = open(file.path().as_os_str().as_bytes()).unwrap_err();
        assert!(failure.is_missing() && failure.call == "opendir()");
        assert!(open(b"/nowhere/at/all").unwrap_err().is_missing());
    }
}
