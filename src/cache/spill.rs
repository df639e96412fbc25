//! The file into which a fill spills what is more than memory may hold.

use super::disk::Draft;
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
    /// A file of the zone that may become an entry.
    Draft(Draft),
    /// A file that goes when nobody has it open any more.
    Nameless(Arc<File>),
}

impl Spill {
    /// A file for a body of `length` bytes, where that is known, that would be kept at `place`: one that
    /// may become the entry where there is room for it, else one without a name. `None`: there is none.
    pub async fn open(zone: &Zone, place: &Key, temporary: &Temporary, length: Option<u64>) -> Option<Spill> {
        let most = zone.disk.as_ref().map_or(0, |disk| disk.largest());
        if most > 0
            && length.is_none_or(|length| length <= most)
            && let Some(draft) = zone.draft(place).await
        {
            let file = draft.file().file().clone();
            return Some(Spill::new(Target::Draft(draft), file, most));
        }
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
        Some(Spill::new(Target::Nameless(file.clone()), file, temporary.most))
    }

    fn new(target: Target, file: Arc<File>, most: u64) -> Spill {
        let stored = matches!(target, Target::Draft(_));
        Spill { target: Some(target), writing: None, file, written: 0, handed: 0, most, stored }
    }

    /// Goes on as a file without a name when an entry may not be as large as `bytes`; whether there is
    /// room then. No write may be under way.
    pub fn extend(&mut self, bytes: u64, temporary: &Temporary) -> bool {
        if !self.stored || bytes > temporary.most {
            return false;
        }
        self.stored = false;
        self.most = temporary.most;
        // The draft, and its name, go.
        self.target = Some(Target::Nameless(self.file.clone()));
        true
    }

    /// What may become an entry, when all was written.
    pub fn into_draft(self) -> Option<Draft> {
        match self.target? {
            Target::Draft(draft) => Some(draft),
            Target::Nameless(_) => None,
        }
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
            Target::Draft(mut draft) => {
                let wrote = draft.append_all(pieces).await;
                (Target::Draft(draft), bytes, wrote)
            }
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
