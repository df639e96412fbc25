//! Reading the files that a configuration names.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// More than this is no configuration, no certificate and no list of passwords.
const MOST: u64 = 64 << 20;

/// The bytes of `path`: as many as its size says when it is opened, as nginx reads them, so that a
/// device is empty and a pipe that nobody writes to does not hold up a start.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    if about.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if about.len() > MOST {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut text = Vec::new();
    file.take(about.len()).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_empty_and_a_directory_is_none() {
        assert_eq!(read(Path::new("/dev/zero")).unwrap(), b"");
        assert_eq!(read(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        std::fs::File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        std::fs::write(&path, b"small").unwrap();
        assert_eq!(read(&path).unwrap(), b"small");
    }
}
