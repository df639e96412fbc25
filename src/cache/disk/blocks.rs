//! A kept body that is read from its file, block by block, each checked before it is passed on.

use super::Disk;
use super::format::{BLOCK, Damage};
use super::names::Name;
use crate::cache::file_io::{Stop, Wait, read_at};
use crate::http::body::{Body, BodyError, BodyStream};
use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// The body of an entry that is too large for memory. The file is open: it can be read to its end
/// though its name is removed or given to another.
#[derive(Debug)]
pub struct FileBlocks {
    file: Arc<File>,
    length: u64,
    sums: Box<[u32]>,
    name: Name,
    disk: Weak<Disk>,
    sound: AtomicBool,
    /// Whether the file says all of the entry that was made with this body and is yet to be kept.
    described: AtomicBool,
}

/// Files held open by bodies of entries.
static OPEN: AtomicUsize = AtomicUsize::new(0);

impl FileBlocks {
    /// The first `length` bytes of `file`, whose blocks have these checksums, the body of the entry
    /// `name` of `disk`.
    pub fn new(
        file: Arc<File>,
        length: u64,
        sums: Box<[u32]>,
        name: Name,
        disk: &Arc<Disk>,
    ) -> Arc<FileBlocks> {
        OPEN.fetch_add(1, Ordering::Relaxed);
        let disk = Arc::downgrade(disk);
        let (sound, described) = (AtomicBool::new(true), AtomicBool::new(false));
        Arc::new(FileBlocks { file, length, sums, name, disk, sound, described })
    }

    /// Bytes of it.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The checksums of its blocks.
    pub fn sums(&self) -> &[u32] {
        &self.sums
    }

    /// Bytes of memory that it takes.
    pub fn size(&self) -> usize {
        size_of::<FileBlocks>() + self.sums.len() * 4
    }

    /// Whether nothing was found wrong with it.
    pub fn is_sound(&self) -> bool {
        self.sound.load(Ordering::Relaxed)
    }

    /// The file says all of the entry that is now made with it.
    pub fn set_described(&self) {
        self.described.store(true, Ordering::Relaxed);
    }

    /// Whether that was so. It is asked once: an entry made of that one is another.
    pub fn was_described(&self) -> bool {
        self.described.swap(false, Ordering::Relaxed)
    }

    /// The bytes `range` of it as a body; within its length.
    pub fn read(self: &Arc<FileBlocks>, range: Range<u64>) -> Body {
        if range.is_empty() {
            return Body::Empty;
        }
        Body::Stream(Box::new(Reading {
            blocks: self.clone(),
            at: range.start,
            end: range.end,
            waiting: None,
            last: Bytes::new(),
        }))
    }

    /// Reads the block that holds `at`, the bytes from there on, and says how many. Waits for the disk.
    pub fn block(&self, at: u64, buffer: &mut BytesMut) -> Result<(), Damage> {
        let block = at / BLOCK as u64;
        let start = block * BLOCK as u64;
        buffer.resize((self.length - start).min(BLOCK as u64) as usize, 0);
        super::format::fill(&self.file, buffer, start)?;
        self.check(block, buffer)
    }

    fn check(&self, block: u64, bytes: &[u8]) -> Result<(), Damage> {
        let wanted = usize::try_from(block).ok().and_then(|block| self.sums.get(block));
        if wanted == Some(&crc32fast::hash(bytes)) { Ok(()) } else { Err(Damage::Block) }
    }

    fn damaged(&self, damage: Damage) -> BodyError {
        // Each who reads it finds out; one tells.
        if self.sound.swap(false, Ordering::Relaxed)
            && let Some(disk) = self.disk.upgrade()
        {
            let (name, file) = (self.name, self.file.clone());
            tokio::task::spawn_blocking(move || disk.remove_damaged(&name, &file, damage));
        }
        BodyError::File(Error::new(ErrorKind::InvalidData, "a cached file is damaged"))
    }
}

impl Drop for FileBlocks {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether so many files are open that entries which hold one are better not kept: a quarter of what
/// the process may open.
pub fn too_many_open() -> bool {
    use rustix::process::{Resource, getrlimit};
    const UNLIMITED: u64 = 1 << 20;
    let most = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED) / 4;
    OPEN.load(Ordering::Relaxed) as u64 >= most
}

/// A part of a body that is read.
struct Reading {
    blocks: Arc<FileBlocks>,
    at: u64,
    end: u64,
    /// A read on a thread that may wait.
    waiting: Option<JoinHandle<Result<BytesMut, Damage>>>,
    /// The last piece: once the client has it, its memory is used for the next.
    last: Bytes,
}

impl Reading {
    /// The whole block that holds `at`, checked.
    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<Result<BytesMut, Damage>> {
        if let Some(waiting) = &mut self.waiting {
            let read = ready!(Pin::new(waiting).poll(cx));
            self.waiting = None;
            // The only ways not to finish are a panic and the end of the runtime.
            return Poll::Ready(read.unwrap_or(Err(Damage::Unreadable)));
        }
        let mut buffer = std::mem::take(&mut self.last).try_into_mut().unwrap_or_default();
        let block = self.at / BLOCK as u64;
        let start = block * BLOCK as u64;
        let length = (self.blocks.length - start).min(BLOCK as u64) as usize;
        buffer.resize(length, 0);
        match read_at(&self.blocks.file, &mut buffer, start, Wait::No) {
            Ok(n) if n == length => {
                let checked = self.blocks.check(block, &buffer);
                Poll::Ready(checked.map(|()| buffer))
            }
            // Only a part is at hand, or nothing.
            Ok(_) | Err(Stop::WouldWait) => {
                let (blocks, at) = (self.blocks.clone(), self.at);
                self.waiting =
                    Some(tokio::task::spawn_blocking(move || blocks.block(at, &mut buffer).map(|()| buffer)));
                self.poll_block(cx)
            }
            Err(Stop::Failed(_)) => Poll::Ready(Err(Damage::Unreadable)),
        }
    }
}

impl BodyStream for Reading {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.at >= self.end {
            return Poll::Ready(None);
        }
        let block = match ready!(self.poll_block(cx)) {
            Ok(block) => block.freeze(),
            Err(damage) => return Poll::Ready(Some(Err(self.blocks.damaged(damage)))),
        };
        let start = self.at - self.at % BLOCK as u64;
        let piece = block.slice((self.at - start) as usize..((self.end - start) as usize).min(block.len()));
        self.at += piece.len() as u64;
        self.last = block;
        Poll::Ready(Some(Ok(piece)))
    }

    fn part(&self, range: Range<u64>) -> Option<Body> {
        let (start, end) = (self.at.checked_add(range.start)?, self.at.checked_add(range.end)?);
        (start <= end && end <= self.end).then(|| self.blocks.read(start..end))
    }
}
