//! A file that is to become an entry.

use super::Disk;
use super::blocks::FileBlocks;
use super::clock::Clock;
use super::description;
use super::format::{Sums, Tail, encode_sums};
use super::names::{Name, Place};
use crate::cache::entry::{Entry, EntryBody};
use crate::cache::file_body::FileBody;
use crate::cache::key::Key;
use crate::http::body::Body;
use bytes::Bytes;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A temporary file of a zone, to which a fill writes what it receives once that is more than memory
/// may hold. It goes when this is dropped, unless [`Self::commit`] has made it an entry.
///
/// A filler makes one ([`crate::cache::zone::Zone::draft`]), appends what it holds and from then on every piece, and
/// may forget what [`Self::written`] says can be read from the file: a reader that is behind reads it
/// by [`DraftFile`], of which it may hold on to a copy after the draft has become an entry or is gone.
/// At the end of a whole body, `commit` gives the entry that is then put in place as any other
/// (`Zone::keep`). An error of `append` or `commit` means that nothing is kept; what was written
/// before can still be read by who has a [`DraftFile`].
pub struct Draft {
    /// Not there while it is written to, and after an error.
    writing: Option<Writing>,
    file: DraftFile,
    written: u64,
    disk: Arc<Disk>,
}

/// The file of a draft, to read from.
#[derive(Clone, Debug)]
pub struct DraftFile(Arc<File>);

impl DraftFile {
    /// The bytes `range`, which must have been written. In constant memory; never waits for the disk
    /// on a worker.
    pub fn read(&self, range: Range<u64>) -> Body {
        if range.is_empty() {
            return Body::Empty;
        }
        Body::Stream(Box::new(FileBody::new(self.0.clone(), range)))
    }

    /// The file itself.
    pub fn file(&self) -> &Arc<File> {
        &self.0
    }
}

impl Draft {
    pub(super) async fn new(disk: Arc<Disk>, key: &Key) -> Result<Draft> {
        let (name, of) = (key.name(), disk.clone());
        let writing = blocking(move || Writing::new(&of, name)).await?;
        let file = DraftFile(writing.file.clone());
        Ok(Draft { writing: Some(writing), file, written: 0, disk })
    }

    /// Appends a piece. When it returns, the piece is in the file and can be read.
    ///
    /// Must not be cancelled: nothing can be appended after that.
    pub async fn append(&mut self, piece: Bytes) -> Result<()> {
        self.append_all(vec![piece]).await
    }

    /// Appends pieces, as [`Self::append`] does one.
    pub async fn append_all(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let mut writing = self.writing.take().ok_or(ErrorKind::BrokenPipe)?;
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.writing = Some(blocking(move || writing.append(&pieces).map(|()| writing)).await?);
        self.written += bytes;
        Ok(())
    }

    /// Bytes that are in the file.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The file, for those who read what was written.
    pub fn file(&self) -> DraftFile {
        self.file.clone()
    }

    /// Makes it the entry under `key` on disk: the one given, with this body. Its `body` and `length`
    /// are not looked at. An error, if that is not `wanted` any more when it is about to be.
    pub async fn commit(
        mut self,
        key: &Key,
        entry: Entry,
        wanted: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Entry> {
        let writing = self.writing.take().ok_or(ErrorKind::BrokenPipe)?;
        let (clock, key, disk) = (Clock::now(), key.clone(), self.disk.clone());
        blocking(move || {
            let done = commit(&disk, writing, &key, entry, &clock, wanted);
            if done.is_err() {
                // What is there is older, and what was to be done about it is not any more.
                disk.forget(&key);
            }
            done
        })
        .await
    }
}

fn commit(
    disk: &Arc<Disk>,
    writing: Writing,
    key: &Key,
    entry: Entry,
    clock: &Clock,
    wanted: impl FnOnce() -> bool,
) -> Result<Entry> {
    let mut entry = Entry { length: writing.at, ..entry };
    let (length, name) = (writing.at, writing.name);
    // What is older and was to be written to this name is not.
    disk.cancel(&name);
    let sealed = writing.seal(&entry, key.variant, clock)?;
    let (file, sums) = disk.publish(sealed, key, wanted)?;
    let blocks = FileBlocks::new(file, length, sums, name, disk);
    blocks.set_described();
    entry.body = EntryBody::File(blocks);
    Ok(entry)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It fell, or the runtime ends.
        Err(e) => Err(Error::other(e)),
    }
}

/// A file that is being written. Waits for the disk.
pub(super) struct Writing {
    file: Arc<File>,
    temp: Temp,
    pub(super) name: Name,
    sums: Sums,
    at: u64,
    disk: Arc<Disk>,
}

/// A file that is complete and has yet to be given its name.
pub(super) struct Sealed {
    pub(super) file: Arc<File>,
    pub(super) temp: Temp,
    pub(super) name: Name,
    pub(super) sums: Box<[u32]>,
    pub(super) size: u64,
}

/// The name of a temporary file; the file goes with it.
pub(super) struct Temp(PathBuf);

impl Temp {
    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// The file has another name now.
    pub(super) fn forget(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        let path = std::mem::take(&mut self.0);
        // A filler that is interrupted drops it on a worker. Where the runtime ends before its turn,
        // the next start removes the file.
        let remove = move || drop(std::fs::remove_file(path));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Writing {
    pub(super) fn new(disk: &Arc<Disk>, name: Name) -> Result<Writing> {
        let settings = disk.settings();
        let place = match &settings.temp {
            Some(root) => &Place { root: root.clone(), levels: Vec::new() },
            None => &settings.place,
        };
        let made = place.create(&name).map_err(|e| disk.failed("open()", &place.path_of(&name), e));
        let (file, path) = made?;
        let file = Arc::new(file);
        Ok(Writing { file, temp: Temp(path), name, sums: Sums::default(), at: 0, disk: disk.clone() })
    }

    pub(super) fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        for piece in pieces {
            if self.at + piece.len() as u64 > self.disk.largest() {
                return Err(ErrorKind::FileTooLarge.into());
            }
            self.write(piece)?;
            self.sums.add(piece);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, self.at);
        written.map_err(|e| self.disk.failed("pwrite()", self.temp.path(), e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Appends what makes it an entry.
    pub(super) fn seal(mut self, entry: &Entry, variant: Option<u128>, clock: &Clock) -> Result<Sealed> {
        let body = self.at;
        let sums = std::mem::take(&mut self.sums).finish();
        let description = description::encode(entry, variant, clock).ok_or(ErrorKind::FileTooLarge)?;
        let mut end = encode_sums(&sums);
        let tail = Tail {
            body,
            // A description is bounded far below.
            description: description.len() as u32,
            sums_crc: crc32fast::hash(&end),
            description_crc: crc32fast::hash(&description),
        };
        end.extend_from_slice(&description);
        end.extend_from_slice(&tail.encode());
        self.write(&end)?;
        Ok(Sealed { file: self.file, temp: self.temp, name: self.name, sums, size: self.at })
    }
}
