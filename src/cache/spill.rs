//! The file into which a fill spills what is more than memory may hold.

use super::key::Key;
use super::policy::Temporary;
use super::zone::Zone;
use crate::http::temp_file::Keep;
use crate::observe::error_log::{Level, log};
use bytes::Bytes;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that grows behind a fill. One write is under way at a time, on a thread that may wait;
/// meanwhile the fill goes on.
pub struct Spill {
    /// `None` while it is written to, and after an error.
    target: Option<Target>,
    writing: Option<Writing>,
    file: Arc<File>,
    /// Bytes that are in the file, and those that are in it or on their way there.
    written: u64,
    handed: u64,
    /// Bytes it may take.
    most: u64,
    /// Whether it may become an entry.
    stored: bool,
}

type Writing = Pin<Box<dyn Future<Output = (Target, u64, Result<()>)> + Send>>;

/// What is written to.
enum Target {
    /// A file that goes when nobody has it open any more.
    Nameless(Arc<File>),
}

impl Spill {
    /// A file for a body of `length` bytes, where that is known, that would be kept at `place`: one that
    /// may become the entry, else one without a name.
    pub async fn open(
        _zone: &Zone,
        _place: &Key,
        temporary: &Temporary,
        _length: Option<u64>,
    ) -> Option<Spill> {
        Spill::nameless(temporary).await
    }

    /// A file that goes with its last reader; `None` where there is to be none, or it cannot be made.
    async fn nameless(temporary: &Temporary) -> Option<Spill> {
        if temporary.most == 0 {
            return None;
        }
        let path = temporary.path.clone();
        let made = tokio::task::spawn_blocking(move || {
            path.create(Keep::Unnamed, 0o600)?
                .file()
                .try_clone()
                .map_err(|e| complain("open()", &path.directory, e))
        });
        let file = Arc::new(made.await.ok()?.ok()?);
        Some(Spill {
            target: Some(Target::Nameless(file.clone())),
            writing: None,
            file,
            written: 0,
            handed: 0,
            most: temporary.most,
            stored: false,
        })
    }

    /// The file, for those who read what was written.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Bytes that are in the file.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that are in the file or on their way there.
    pub fn handed(&self) -> u64 {
        self.handed
    }

    /// Bytes it may take.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Whether it may become an entry.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// Whether a write is under way.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Begins to write `pieces`, which follow what was handed before. No write may be under way.
    pub fn write(&mut self, pieces: Vec<Bytes>) {
        let Some(target) = self.target.take() else { return };
        let at = self.handed;
        self.handed += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.writing = Some(Box::pin(target.append(pieces, at)));
    }

    /// Waits for the write under way, if there is one. An error is for good. May be cancelled.
    pub async fn settle(&mut self) -> Result<()> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let (target, bytes, wrote) = writing.await;
        self.writing = None;
        wrote?;
        self.written += bytes;
        self.target = Some(target);
        Ok(())
    }
}

impl Target {
    async fn append(self, pieces: Vec<Bytes>, at: u64) -> (Target, u64, Result<()>) {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        match self {
            Target::Nameless(file) => {
                let to = file.clone();
                let wrote = tokio::task::spawn_blocking(move || {
                    let mut at = at;
                    for piece in pieces {
                        to.write_all_at(&piece, at)?;
                        at += piece.len() as u64;
                    }
                    Ok(())
                });
                let wrote = wrote.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
                let wrote = wrote.map_err(|e| complain("pwrite()", Path::new("of a temporary file"), e));
                (Target::Nameless(file), bytes, wrote)
            }
        }
    }
}

/// Says that a temporary file failed, once a minute at most; returns the error.
fn complain(call: &str, path: &Path, e: std::io::Error) -> std::io::Error {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = crate::http::date::since_epoch().as_secs();
    let last = LAST.load(Ordering::Relaxed);
    if now >= last + 60 && LAST.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let (path, cause) = (path.display(), crate::conf::values::os_error(&e));
        log(
            Level::Crit,
            format_args!("{call} \"{path}\" failed ({cause}); readers wait for each other instead"),
        );
    }
    e
}
