//! Where the files of a zone are: nginx's names in nginx's directories.

use rustix::fs::{FlockOperation, OFlags};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// What an entry is called: [`crate::cache::key::Key::name`].
pub type Name = [u8; 16];

/// Digits of a name as it is written.
const DIGITS: usize = 32;

/// Digits at the end of a temporary file's name.
const TEMP_DIGITS: usize = 10;

/// A directory and how the files are spread below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub root: PathBuf,
    /// Characters of the name for each level of directories, counted from its end: at most three
    /// levels of one or two.
    pub levels: Vec<usize>,
}

/// What a file's name says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An entry.
    Entry(Name),
    /// Something that was to become one.
    Temporary,
    /// Nothing of ours.
    Other,
}

impl Kind {
    /// The kind of a file of this name.
    pub fn of(name: &[u8]) -> Kind {
        let (hex, rest) = name.split_at(name.len().min(DIGITS));
        let Some(hex) = parse(hex) else { return Kind::Other };
        match rest.split_first() {
            None => Kind::Entry(hex),
            Some((b'.', n)) if n.len() == TEMP_DIGITS && n.iter().all(u8::is_ascii_digit) => Kind::Temporary,
            Some(_) => Kind::Other,
        }
    }
}

fn parse(hex: &[u8]) -> Option<Name> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut name = Name::default();
    if hex.len() != DIGITS {
        return None;
    }
    for (byte, pair) in name.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(name)
}

/// A name as it is written.
pub fn hex(name: &Name) -> String {
    name.iter().map(|b| format!("{b:02x}")).collect()
}

impl Place {
    /// The file of the entry of this name.
    pub fn path_of(&self, name: &Name) -> PathBuf {
        let name = hex(name);
        let mut path = self.directory_of(&name);
        path.push(name);
        path
    }

    fn directory_of(&self, name: &str) -> PathBuf {
        let mut path = self.root.clone();
        let mut end = name.len();
        for level in &self.levels {
            // The levels together are fewer characters than the name has.
            let start = end.saturating_sub(*level);
            path.push(&name[start..end]);
            end = start;
        }
        path
    }

    /// Makes a temporary file for the entry of this name. As long as it is open it has a lock, by
    /// which every process sees that it is in use, whatever it knows of other processes.
    pub fn create(&self, name: &Name) -> Result<(File, PathBuf)> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        const TRIES: usize = 100;
        let name = hex(name);
        let directory = self.directory_of(&name);
        for _ in 0..TRIES {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed).wrapping_add(random());
            let path = directory.join(format!("{name}.{number:010}"));
            let open = || File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = match within(&directory, open) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            // Who cleans up may have come in between.
            let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if locked && file.metadata()?.nlink() > 0 {
                return Ok((file, path));
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Gives the temporary file `from` the name of an entry. `Some`: the directories are on different
    /// file systems, and the entry is a copy, which is returned.
    pub fn publish(&self, file: &File, from: &Path, name: &Name) -> Result<Option<File>> {
        let to = self.path_of(name);
        let directory = to.parent().unwrap_or(&self.root);
        match within(directory, || std::fs::rename(from, &to)) {
            Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                let (copy, path) = self.create(name)?;
                let copied = copy_all(file, &copy).and_then(|()| std::fs::rename(&path, &to));
                if copied.is_err() {
                    let _ = std::fs::remove_file(&path);
                }
                copied?;
                // It would go with the next cleaning up.
                let _ = std::fs::remove_file(from);
                Ok(Some(copy))
            }
            done => done.map(|()| None),
        }
    }
}

/// Whether a directory of this name may be one of [`Place::levels`]. Others are not ours: another
/// zone may have its own place there.
pub fn is_level(name: &[u8]) -> bool {
    matches!(name.len(), 1 | 2) && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Opens the file of an entry, and says how large it is. As nginx does it, so that a pipe of that name
/// is not waited for; what is no file is [`ErrorKind::InvalidInput`].
pub fn open(path: &Path) -> Result<(File, u64)> {
    let no_wait = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(no_wait).open(path)?;
    let about = file.metadata()?;
    if about.is_file() { Ok((file, about.len())) } else { Err(ErrorKind::InvalidInput.into()) }
}

/// Whether a file that could not be opened so never will be, and is worth no place.
pub fn is_lost(e: &Error) -> bool {
    // Else there were too many files open, say: it is as good as before.
    matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput)
}

/// Does something in a directory, which is made when it is not there.
fn within<T>(directory: &Path, act: impl Fn() -> Result<T>) -> Result<T> {
    match act() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            act()
        }
        done => done,
    }
}

fn copy_all(from: &File, to: &File) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        match from.read_at(&mut buffer, at)? {
            0 => return Ok(()),
            n => {
                to.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
        }
    }
}

/// Where this process begins to count, so that it rarely meets another's numbers.
fn random() -> u32 {
    static FIRST: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *FIRST.get_or_init(|| crate::cache::key::hash(b"") as u32)
}

/// Removes a temporary file that no process has open any more; whether it was removed.
pub fn remove_abandoned(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Under the lock: whoever made it sees that it is gone.
        Ok(()) => std::fs::remove_file(path).map(|()| true),
        Err(rustix::io::Errno::AGAIN) => Ok(false),
        Err(e) => Err(Error::from(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &Path, levels: &[usize]) -> Place {
        Place { root: root.into(), levels: levels.into() }
    }

    const NAME: Name =
        [0xb7, 0xf5, 0x4b, 0x2d, 0xf7, 0x77, 0x37, 0x22, 0xd3, 0x82, 0xf4, 0x80, 0x9d, 0x65, 0x02, 0x9c];

    #[test]
    fn names_are_spread_as_nginx_does_it() {
        // The example of nginx's documentation.
        let path = |levels: &[usize]| place(Path::new("/data"), levels).path_of(&NAME);
        assert_eq!(path(&[1, 2]), Path::new("/data/c/29/b7f54b2df7773722d382f4809d65029c"));
        assert_eq!(path(&[]), Path::new("/data/b7f54b2df7773722d382f4809d65029c"));
        assert_eq!(path(&[2, 2, 1]), Path::new("/data/9c/02/5/b7f54b2df7773722d382f4809d65029c"));
    }

    #[test]
    fn names_say_what_files_are() {
        let hex = "b7f54b2df7773722d382f4809d65029c";
        assert_eq!(Kind::of(hex.as_bytes()), Kind::Entry(NAME));
        assert_eq!(Kind::of(format!("{hex}.0000000012").as_bytes()), Kind::Temporary);
        for other in ["", "x", &hex[1..], &hex.to_uppercase(), &format!("{hex}.12"), &format!("{hex}x")] {
            assert_eq!(Kind::of(other.as_bytes()), Kind::Other, "{other}");
        }
    }

    #[test]
    fn what_is_open_is_not_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path(), &[1, 2]);
        let (file, path) = place.create(&NAME).unwrap();
        assert_eq!(Kind::of(path.file_name().unwrap().as_encoded_bytes()), Kind::Temporary);
        assert!(!remove_abandoned(&path).unwrap() && path.exists());
        drop(file);
        assert!(remove_abandoned(&path).unwrap() && !path.exists());
        assert!(!remove_abandoned(&path).unwrap(), "it is gone");
    }

    #[test]
    fn publishing_makes_the_directories() {
        let (temp, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (file, path) = place(temp.path(), &[]).create(&NAME).unwrap();
        let to = place(&dir.path().join("new"), &[2, 1]);
        to.publish(&file, &path, &NAME).unwrap();
        assert!(to.path_of(&NAME).exists() && !path.exists());
        let mode = std::fs::metadata(dir.path().join("new/9c")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn another_file_system_is_copied_to() {
        let dir = tempfile::tempdir().unwrap();
        // Usually a file system of its own; where it is not, this is a rename.
        let Ok(temp) = tempfile::tempdir_in("/dev/shm") else { return };
        let (file, path) = place(temp.path(), &[]).create(&NAME).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"content", 0).unwrap();
        let to = place(dir.path(), &[1]);
        to.publish(&file, &path, &NAME).unwrap();
        assert_eq!(std::fs::read(to.path_of(&NAME)).unwrap(), b"content");
        assert!(!path.exists());
        let left = std::fs::read_dir(to.path_of(&NAME).parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "the copy has the entry's name and no other");
    }
}
