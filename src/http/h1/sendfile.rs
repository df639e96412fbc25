//! Bodies that go to a plain TCP socket without passing through the process: files from the page cache, and
//! what is kept in memory in [pages](crate::cache::pack::pages) that the socket can have.

use crate::cache::file_io::{Stop, Wait, read_at};
use crate::cache::pack::pages::Lasting;
use crate::cache::pack::splice;
use crate::http::body::{Body, BodyError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of a file from which on it is worth the calls.
const WORTH: u64 = 64 * 1024;
/// Bytes of a file between two places where it is looked whether the page cache has it.
const STRIDE: u64 = 512 * 1024;
/// Bytes after which others get their turn (`sendfile_max_chunk`).
const TURN: u64 = 2 * 1024 * 1024;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// The least that is offered at once to a socket that is known to take little.
const LEAST: u64 = 128 * 1024;

/// What can be sent so.
pub(super) enum Straight {
    /// A part of a file.
    File(Arc<File>, Range<u64>),
    /// Bytes in memory.
    Memory(Lasting),
}

impl Straight {
    /// All that is left of a body, where it can be sent so.
    pub(super) fn of(body: &Body) -> Option<Straight> {
        match body {
            Body::Lasting(bytes) => Some(Straight::Memory(bytes.clone())),
            body => body.file().map(|(file, range)| Straight::File(file, range)),
        }
        .filter(|straight| straight.left() >= WORTH)
    }

    /// Bytes that are left of it.
    pub(super) fn left(&self) -> u64 {
        match self {
            Straight::File(_, range) => range.end - range.start,
            Straight::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// The next `most` bytes, and what is left of the last page of them: as nginx does it, for a page that is sent in
    /// two parts is sent twice.
    pub(super) fn whole_pages(&self, most: u64) -> u64 {
        let at = match self {
            Straight::File(_, range) => range.start,
            Straight::Memory(bytes) => bytes.as_ptr() as u64,
        };
        let whole = at.saturating_add(most).checked_next_multiple_of(PAGE).map_or(most, |end| end - at);
        if whole <= self.left() { whole } else { most }
    }

    fn advance(&mut self, by: u64) {
        match self {
            Straight::File(_, range) => range.start += by,
            Straight::Memory(bytes) => bytes.advance(by as usize),
        }
    }

    /// How many of the next `most` bytes can be sent without waiting for a disk; what is not at hand is
    /// brought there.
    async fn at_hand(&self, most: u64) -> Result<u64, BodyError> {
        match self {
            Straight::File(file, range) => bring(file, range.start, most).await,
            Straight::Memory(_) => Ok(most),
        }
    }

    /// Sends at most so many bytes.
    fn send(&self, stream: &TcpStream, most: u64) -> io::Result<u64> {
        let sent = match self {
            Straight::File(file, range) => {
                let mut offset = range.start;
                rustix::fs::sendfile(stream, file, Some(&mut offset), most as usize)?
            }
            Straight::Memory(bytes) => splice::send(stream, &bytes.slice(..most as usize))?,
        };
        Ok(sent as u64)
    }
}

/// Sends all of it, or at most a `turn`'s bytes, for the rest of which a full socket is not waited for; adds what was
/// sent to `sent`. A pause between two steps is at most `each`. Whether it was sent: what is left of memory that
/// cannot be sent so is to be written.
pub(super) async fn send_straight(
    stream: &TcpStream,
    body: &mut Straight,
    turn: Option<u64>,
    each: Duration,
    sent: &mut u64,
) -> Result<bool, BodyError> {
    let end = turn.map_or(0, |most| body.left().saturating_sub(most));
    let (mut turn_bytes, mut most) = (0, TURN);
    while body.left() > end {
        let offered = body.at_hand((body.left() - end).min(most)).await?;
        let mut taken = None;
        let step = || {
            let n = body.send(stream, offered)?;
            taken = Some(n);
            // Calls may be interrupted at any time; only a full socket tells when it has room again.
            let full = n > 0 && n < offered && !is_writable(stream);
            if full { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        let stepped = stream.try_io(Interest::WRITABLE, step);
        match taken {
            // The file has become shorter than the client was told.
            Some(0) => {
                let e = io::Error::new(io::ErrorKind::UnexpectedEof, "file was truncated");
                return Err(BodyError::File(e));
            }
            Some(n) => {
                body.advance(n);
                turn_bytes += n;
                *sent += n;
                // What it does not take is offered in vain.
                most = if n < offered { (2 * n).clamp(LEAST, TURN) } else { TURN };
            }
            None => {}
        }
        match stepped {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if turn.is_some() && *sent > 0 {
                    return Ok(true);
                }
                turn_bytes = 0;
                let ready = timeout(each, stream.writable()).await.map_err(|_| BodyError::ClientTimeout)?;
                ready.map_err(BodyError::Client)?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(false),
            Err(e) => return Err(BodyError::Client(e)),
            Ok(()) => {}
        }
        if turn_bytes >= TURN {
            turn_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(true)
}

/// Whether the socket takes more. Where it does not, its readiness will be told.
fn is_writable(stream: &TcpStream) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&now)) != Ok(0)
}

/// How many of the next `most` bytes are in the page cache, so that sending them does not wait for a disk.
/// Where not even the first is, some are read on a thread that may wait.
async fn bring(file: &Arc<File>, at: u64, most: u64) -> Result<u64, BodyError> {
    let is_there = |offset| read_at(file, &mut [0], offset, Wait::No) != Err(Stop::WouldWait);
    let mut there = 0;
    if is_there(at) {
        while there < most && is_there(at + (there + STRIDE).min(most) - 1) {
            there = (there + STRIDE).min(most);
        }
    }
    if there > 0 {
        return Ok(there);
    }
    let (file, window) = (file.clone(), most.min(STRIDE));
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; window as usize];
        read_at(&file, &mut bytes, at, Wait::Yes)
    });
    match read.await {
        Ok(Err(Stop::Failed(failure))) => Err(BodyError::File(failure.error())),
        _ => Ok(window),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncReadExt;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    fn file_of(length: usize) -> (Arc<File>, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (Arc::new(file), bytes)
    }

    #[tokio::test]
    async fn a_part_arrives_whole_however_slow_the_client() {
        let (file, bytes) = file_of(5_000_000);
        let (mut client, server) = pair().await;
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut sent = 0;
        let mut body = Straight::File(file, 7..4_999_990);
        assert!(send_straight(&server, &mut body, None, Duration::from_secs(10), &mut sent).await.unwrap());
        drop(server);
        assert_eq!(sent, 4_999_983);
        assert_eq!(reader.await.unwrap(), bytes[7..4_999_990]);
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_promised_is_an_error() {
        let (file, bytes) = file_of(100_000);
        let (mut client, server) = pair().await;
        let drain = tokio::spawn(async move {
            let mut got = Vec::new();
            let _ = client.read_to_end(&mut got).await;
            got.len()
        });
        let mut sent = 0;
        let mut body = Straight::File(file, 0..200_000);
        let result = send_straight(&server, &mut body, None, Duration::from_secs(10), &mut sent).await;
        assert!(matches!(result, Err(BodyError::File(_))));
        drop(server);
        assert_eq!((drain.await.unwrap(), sent), (bytes.len(), bytes.len() as u64));
    }
}
