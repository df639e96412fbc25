//! The file of users: `name:password[:comment]` lines, of which the first that fits counts.

use crate::cache::file_io::Failure;
use crate::cache::files::{Content, FileCache, Kind, Policy, Want, find as find_file};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes of a password's hash; what is longer is none of those that can be checked.
const LONGEST: usize = 4096;

/// The hash of a user's password; `None` when there is no such user. The file is looked at each time
/// and read when it has changed.
pub async fn find(path: &[u8], user: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    static FILES: OnceLock<Arc<FileCache>> = OnceLock::new();
    const POLICY: Policy = Policy { valid: Duration::ZERO, min_uses: 1, errors: false };
    let files = FILES.get_or_init(|| Arc::new(FileCache::new(64, Duration::from_secs(600))));
    let found = find_file(Some(files), POLICY, path, Want::Content).await.map_err(named)?;
    match found.content {
        Content::Bytes(bytes) => {
            let mut scan = Scan::new(user);
            scan.take(&bytes);
            Ok(scan.finish())
        }
        Content::File(file) => {
            let scan = Scan::new(user);
            let scanned = tokio::task::spawn_blocking(move || scan.read(Whole { file, at: 0 }));
            // The only ways for it not to finish are a panic and the end of the runtime.
            let scanned = scanned.await.unwrap_or_else(|_| Err(Errno::CANCELED.into()));
            scanned.map_err(|e| Failure { errno: e.raw_os_error().unwrap_or_default(), call: READ })
        }
        Content::None if found.stat.kind == Kind::Directory => Err(Failure::of(READ, Errno::ISDIR)),
        // A device or a pipe has nobody in it.
        Content::None => Ok(None),
    }
}

/// What nginx calls it.
const READ: &str = "pread()";

/// A failure by the call that nginx would have made.
fn named(failure: Failure) -> Failure {
    Failure { call: if failure.call == "read()" { READ } else { "open()" }, ..failure }
}

/// An open file from its beginning, whoever else reads it.
struct Whole {
    file: Arc<File>,
    at: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A search for a user, to which a file is given piece by piece.
struct Scan {
    /// The name and its colon.
    name: Vec<u8>,
    hash: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// In a line that began as the name does, for so many bytes.
    Name(usize),
    /// In a line that is not the user's.
    Skip,
    /// In the user's hash.
    Hash,
    /// Behind it.
    Done,
}

impl Scan {
    fn new(user: &[u8]) -> Scan {
        Scan { name: [user, b":"].concat(), hash: Vec::new(), state: State::Name(0) }
    }

    fn take(&mut self, mut text: &[u8]) {
        loop {
            match self.state {
                State::Done => return,
                State::Skip => {
                    let Some(end) = memchr::memchr(b'\n', text) else { return };
                    text = &text[end + 1..];
                    self.state = State::Name(0);
                }
                State::Hash => {
                    let end = text.iter().position(|b| matches!(b, b'\n' | b'\r' | b':'));
                    let room = LONGEST - self.hash.len();
                    let piece = &text[..end.unwrap_or(text.len())];
                    self.hash.extend_from_slice(&piece[..piece.len().min(room)]);
                    if end.is_some() || piece.len() > room {
                        self.state = State::Done;
                    }
                    return;
                }
                State::Name(matched) => {
                    let Some((first, rest)) = text.split_first() else { return };
                    self.state = match first {
                        b'#' | b'\r' if matched == 0 => State::Skip,
                        b'\n' if matched == 0 => State::Name(0),
                        byte if *byte != self.name[matched] => {
                            // The end of the line may be what differs.
                            self.state = State::Skip;
                            continue;
                        }
                        _ if matched + 1 == self.name.len() => State::Hash,
                        _ => State::Name(matched + 1),
                    };
                    text = rest;
                }
            }
        }
    }

    fn read(mut self, mut file: impl Read) -> std::io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 16 * 1024];
        while self.state != State::Done {
            match file.read(&mut buffer)? {
                0 => break,
                n => self.take(&buffer[..n]),
            }
        }
        Ok(self.finish())
    }

    fn finish(self) -> Option<Vec<u8>> {
        matches!(self.state, State::Hash | State::Done).then_some(self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &[u8], user: &str) -> Option<String> {
        let mut scan = Scan::new(user.as_bytes());
        scan.take(text);
        scan.finish().map(|hash| String::from_utf8(hash).unwrap())
    }

    #[test]
    fn lines_as_nginx_reads_them() {
        let text =
            b"# comment\n\n\r\n#hash:h\nuser:one\nuser:two\n a :b\r\nx:y:comment\nxx\nxxx:z\ne:\nend:last";
        for (user, want) in [
            ("user", Some("one")),
            (" a ", Some("b")),
            ("x", Some("y")),
            ("xx", None),
            ("xxx", Some("z")),
            ("e", Some("")),
            ("end", Some("last")),
            ("#hash", None),
            ("# comment", None),
            ("use", None),
            ("comment", None),
            ("nobody", None),
        ] {
            assert_eq!(ask(text, user).as_deref(), want, "{user}");
        }
    }

    #[test]
    fn a_name_with_a_line_in_it_is_nobody() {
        assert_eq!(ask(b"a\nb:c\n", "a\nb"), Some("c".into()), "as in nginx, where a colon decides");
        assert_eq!(ask(b"ab\nb:c\n", "b"), Some("c".into()));
    }

    proptest::proptest! {
        /// In pieces of any size, and as a file, it is what it is as a whole.
        #[test]
        fn pieces_make_no_difference(
            text in "([ab#:\r\n]|ab:c){0,40}",
            user in "[ab#]{1,3}",
            step in 1usize..7,
        ) {
            let whole = ask(text.as_bytes(), &user);
            let mut scan = Scan::new(user.as_bytes());
            text.as_bytes().chunks(step).for_each(|piece| scan.take(piece));
            proptest::prop_assert_eq!(&whole, &scan.finish().map(|h| String::from_utf8(h).unwrap()));
            let read = Scan::new(user.as_bytes()).read(text.as_bytes()).unwrap();
            proptest::prop_assert_eq!(whole, read.map(|h| String::from_utf8(h).unwrap()));
        }
    }
}
