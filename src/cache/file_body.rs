//! A file as a body: read piece by piece as the client takes it, in constant memory.

use super::file_io::{Stop, Wait, read_at};
use crate::http::body::{Body, BodyError, BodyStream};
use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// Bytes of a piece.
const PIECE: usize = 64 * 1024;

/// A part of a file.
pub struct FileBody {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// A read on a thread that may wait.
    reading: Option<JoinHandle<Result<BytesMut, Stop>>>,
    /// The last piece: once the client has it, its memory is used for the next.
    last: Bytes,
}

impl FileBody {
    /// The bytes `range` of the file. That the file has less is found out while reading and is an
    /// error: the client was promised them.
    pub fn new(file: Arc<File>, range: Range<u64>) -> FileBody {
        FileBody { file, at: range.start, end: range.end, reading: None, last: Bytes::new() }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<BytesMut, Stop>> {
        if let Some(reading) = &mut self.reading {
            let read = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            // The only ways not to finish are a panic and the end of the runtime.
            return Poll::Ready(read.unwrap_or_else(|_| {
                let errno = rustix::io::Errno::CANCELED;
                Err(Stop::Failed(super::file_io::Failure::of("read()", errno)))
            }));
        }
        let length = (self.end - self.at).min(PIECE as u64) as usize;
        let mut buffer = std::mem::take(&mut self.last).try_into_mut().unwrap_or_default();
        buffer.resize(length, 0);
        match read_at(&self.file, &mut buffer, self.at, Wait::No) {
            Err(Stop::WouldWait) => {
                let (file, at) = (self.file.clone(), self.at);
                self.reading = Some(tokio::task::spawn_blocking(move || {
                    let n = read_at(&file, &mut buffer, at, Wait::Yes)?;
                    buffer.truncate(n);
                    Ok(buffer)
                }));
                self.poll_read(cx)
            }
            Ok(n) => {
                buffer.truncate(n);
                Poll::Ready(Ok(buffer))
            }
            Err(stop) => Poll::Ready(Err(stop)),
        }
    }
}

impl BodyStream for FileBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.at >= self.end {
            return Poll::Ready(None);
        }
        let read = match ready!(self.poll_read(cx)) {
            Ok(piece) if !piece.is_empty() => Ok(piece.freeze()),
            Ok(_) => Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "file was truncated")),
            Err(Stop::Failed(failure)) => Err(failure.error()),
            // Only a read that may not wait says so.
            Err(Stop::WouldWait) => Err(std::io::ErrorKind::WouldBlock.into()),
        };
        Poll::Ready(Some(match read {
            Ok(piece) => {
                self.at += piece.len() as u64;
                self.last = piece.clone();
                Ok(piece)
            }
            Err(e) => Err(BodyError::File(e)),
        }))
    }

    fn file(&self) -> Option<(Arc<File>, Range<u64>)> {
        self.reading.is_none().then(|| (self.file.clone(), self.at..self.end))
    }

    fn part(&self, range: Range<u64>) -> Option<Body> {
        let within = self.at.checked_add(range.end).is_some_and(|end| end <= self.end);
        let part = || FileBody::new(self.file.clone(), self.at + range.start..self.at + range.end);
        within.then(|| Body::Stream(Box::new(part())))
    }
}

/// Bytes in memory, and after them a part of a file.
pub struct Headed {
    head: Bytes,
    rest: FileBody,
}

impl Headed {
    /// These bytes and then the bytes `range` of the file.
    pub fn new(head: Bytes, file: Arc<File>, range: Range<u64>) -> Headed {
        Headed { head, rest: FileBody::new(file, range) }
    }
}

impl BodyStream for Headed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.head.is_empty() {
            return self.rest.poll_next(cx);
        }
        Poll::Ready(Some(Ok(std::mem::take(&mut self.head))))
    }

    fn file(&self) -> Option<(Arc<File>, Range<u64>)> {
        if self.head.is_empty() { self.rest.file() } else { None }
    }

    fn part(&self, range: Range<u64>) -> Option<Body> {
        let head = self.head.len() as u64;
        let (start, end) = (range.start.min(head) as usize, range.end.min(head) as usize);
        let (from, to) =
            (self.rest.at + range.start.max(head) - head, self.rest.at + range.end.max(head) - head);
        (to <= self.rest.end).then(|| {
            Body::Stream(Box::new(Headed::new(self.head.slice(start..end), self.rest.file.clone(), from..to)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8).collect()
    }

    #[tokio::test]
    async fn a_file_comes_whole_and_in_parts() {
        let bytes = pattern(3 * PIECE + 17);
        let file = file_of(&bytes);
        let mut body = Body::Stream(Box::new(FileBody::new(file.clone(), 0..bytes.len() as u64)));
        assert_eq!(body.collect(usize::MAX).await.unwrap().unwrap(), bytes);
        let whole = FileBody::new(file, 5..bytes.len() as u64);
        let mut part = whole.part(10..PIECE as u64 + 40).unwrap();
        assert_eq!(part.collect(usize::MAX).await.unwrap().unwrap(), bytes[15..PIECE + 45]);
        assert!(whole.part(0..bytes.len() as u64).is_none(), "beyond its end");
    }

    #[tokio::test]
    async fn bytes_before_a_file_are_part_of_it() {
        let file = file_of(&pattern(100));
        let whole = || Headed::new(Bytes::from_static(b"head"), file.clone(), 10..100);
        let want = [b"head", &pattern(100)[10..]].concat();
        let mut body = Body::Stream(Box::new(whole()));
        assert_eq!(body.collect(usize::MAX).await.unwrap().unwrap(), want);
        for range in [0..94, 0..2, 1..4, 2..6, 4..5, 50..94, 0..0, 94..94] {
            let mut part = whole().part(range.clone()).unwrap();
            let got = part.collect(usize::MAX).await.unwrap().unwrap();
            assert_eq!(got, want[range.start as usize..range.end as usize], "{range:?}");
        }
        assert!(whole().part(0..95).is_none());
    }

    #[tokio::test]
    async fn a_file_that_shrinks_is_an_error() {
        let bytes = pattern(2 * PIECE);
        let file = file_of(&bytes);
        let mut body = Body::Stream(Box::new(FileBody::new(file.clone(), 0..bytes.len() as u64)));
        assert_eq!(body.next().await.unwrap().unwrap().len(), PIECE);
        file.set_len(PIECE as u64).unwrap();
        assert!(matches!(body.next().await, Some(Err(BodyError::File(_)))));
    }
}
