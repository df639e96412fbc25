//! The IO under an HTTP/2 connection: what is written is collected, and goes out when the
//! connection's driver has nothing more to read.
//!
//! The `h2` crate flushes once for each request it hands out. Collecting makes many small writes one, and small TLS
//! records large ones. Under TLS what is large is encrypted from where it lies, without being copied first, and a
//! record ends where a frame ends, so that the client can use each when it has it. Nothing is held while the
//! connection is idle.

use super::frames::{Frames, Written};
use super::priority::Priority;
use super::records;
use crate::http::io::{Io, poll_read_into};
use bytes::{Buf, BytesMut};
use h2::Reason;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes collected before they go out without waiting for the driver: three full records. More than 64 KB at once
/// the kernel cuts in two.
const FULL: usize = 48 * 1024;
/// The plaintext of a TLS record.
const RECORD: usize = 16 * 1024;
/// What is worth being encrypted where it lies.
const LARGE: usize = 4 * 1024;

/// The driver's handle and the `h2` crate's are clones of one. Both are used by one task, so the
/// lock is never waited for.
#[derive(Clone)]
pub struct Cork(Arc<Mutex<State>>);

struct State {
    io: Io,
    /// Read before HTTP/2 was recognised.
    input: BytesMut,
    out: Vec<u8>,
    /// How much of `out` is gone.
    at: usize,
    /// Bytes that the TLS session has and may not have sent.
    sealed: usize,
    /// Whether a write was put off because there was too much already.
    refused: bool,
    /// Whether the driver is at work, and says when its turn begins.
    driven: bool,
    /// Whether there was nothing to read in the driver's present turn; it is woken when there is.
    dry: bool,
    frames: Frames,
    written: Written,
    /// Bytes that the kernel took.
    gone: u64,
}

thread_local! {
    /// The buffer of the connection that drained last, for the next.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What the driver has to know after its turn.
pub struct News {
    /// Bytes of bodies that the window of the connection lets through.
    pub window: i64,
    /// Streams whose priority the client has said anew.
    pub updates: Vec<(u32, Priority)>,
    /// What the client did wrong.
    pub fault: Option<Reason>,
}

impl Cork {
    /// A cork in `io`, of which `input` was read already.
    pub fn new(io: Io, input: BytesMut) -> Cork {
        Cork(Arc::new(Mutex::new(State {
            io,
            input,
            out: Vec::new(),
            at: 0,
            sealed: 0,
            refused: false,
            driven: false,
            dry: false,
            frames: Frames::default(),
            written: Written::default(),
            gone: 0,
        })))
    }

    /// Says that the driver's turn begins: within one, who found nothing to read does not look again.
    pub fn begin_turn(&self) {
        let mut state = self.0.lock();
        state.driven = true;
        state.dry = false;
    }

    /// Writes out what was collected. `Ready` when all of it is gone; true when a write waits for
    /// this, so that the connection has to be driven again.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut state = self.0.lock();
        ready!(state.drain(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut state.refused)))
    }

    /// What has come to be known since it was last asked.
    pub fn news(&self) -> News {
        let mut state = self.0.lock();
        let window = 65_535 + state.frames.credit as i64 - state.written.data as i64;
        News { window, updates: std::mem::take(&mut state.frames.updates), fault: state.frames.fault.take() }
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        let state = self.0.lock();
        state.waiting() == 0
    }

    /// Reads and drops what the client still sends, until it closes too. Closing with bytes unread
    /// would reset the connection, and the client might lose what it was told last.
    pub async fn linger(&self) {
        let mut dropped = BytesMut::new();
        let more = poll_fn(|cx| {
            let mut state = self.0.lock();
            loop {
                match ready!(poll_read_into(&mut state.io, cx, &mut dropped)) {
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(_) => dropped.clear(),
                }
            }
        });
        more.await;
    }

    /// A number that changes when bytes were read or written.
    pub fn progress(&self) -> u64 {
        let state = self.0.lock();
        state.frames.bytes + state.gone
    }

    /// Whether the client keeps us busy with nothing; `sent` are the bytes of bodies it was sent.
    pub fn is_flood(&self, sent: u64) -> bool {
        let state = self.0.lock();
        state.frames.is_flood(state.written.bytes, sent)
    }
}

impl State {
    /// Bytes that are not known to be gone.
    fn waiting(&self) -> usize {
        self.out.len() - self.at + self.sealed
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_tls() {
                self.seal(&[])?;
                ready!(records::poll_send(&mut self.io, cx, &mut self.gone))?;
                self.sealed = 0;
            } else if self.at < self.out.len() {
                let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.at..]))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.at += n;
                self.gone += n as u64;
            }
            if self.at == self.out.len() {
                break;
            }
        }
        // Given back rather than cleared: an idle connection holds no buffer.
        if self.out.capacity() > 0 {
            self.out.clear();
            SPARE.set(std::mem::take(&mut self.out));
        }
        self.at = 0;
        Poll::Ready(Ok(()))
    }

    fn is_tls(&self) -> bool {
        self.io.is_tls()
    }

    /// Makes room for another write.
    fn room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting() < FULL {
            return Poll::Ready(Ok(()));
        }
        match self.drain(cx) {
            Poll::Pending => {
                self.refused = true;
                Poll::Pending
            }
            ready => ready,
        }
    }

    /// Takes a write of the crate's: whole frames.
    fn write(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut total, mut last) = (0, 0);
        for buf in bufs {
            if let Some(at) = self.written.wrote(buf) {
                last = total + at;
            }
            total += buf.len();
        }
        let is_tls = self.is_tls();
        if is_tls && self.out.len() - self.at + total > RECORD {
            if total - last >= LARGE {
                // What comes before the large frame, then that by itself.
                self.append(bufs, 0, last);
                self.seal(&[])?;
                let taken = self.seal(&parts(bufs, last, total))?;
                self.append(bufs, last + taken, total);
                return Ok(total);
            }
            self.seal(&[])?;
        } else if is_tls && total - last >= LARGE {
            let taken = self.seal(&parts(bufs, 0, total))?;
            self.append(bufs, taken, total);
            return Ok(total);
        }
        self.append(bufs, 0, total);
        Ok(total)
    }

    /// Collects the bytes from `start` to `end` of `bufs`.
    fn append(&mut self, bufs: &[IoSlice<'_>], start: usize, end: usize) {
        if start < end && self.out.capacity() == 0 {
            self.out = SPARE.take();
            self.out.reserve(RECORD);
        }
        for part in parts(bufs, start, end) {
            self.out.extend_from_slice(&part);
        }
    }

    /// Encrypts what was collected, and `more` after it; how much of `more` was taken.
    fn seal(&mut self, more: &[IoSlice<'_>]) -> io::Result<usize> {
        let collected = self.out.len() - self.at;
        let more_length: usize = more.iter().map(|part| part.len()).sum();
        if collected + more_length == 0 {
            return Ok(0);
        }
        let mut all = SmallVec::<[IoSlice<'_>; 4]>::new();
        if collected > 0 {
            all.push(IoSlice::new(&self.out[self.at..]));
        }
        all.extend_from_slice(more);
        let taken = records::seal(&mut self.io, &all)?;
        drop(all);
        self.sealed += taken;
        self.at += taken.min(collected);
        if self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
        }
        Ok(taken.saturating_sub(collected))
    }
}

/// The bytes from `start` to `end` of what `bufs` are together.
fn parts<'a>(bufs: &'a [IoSlice<'_>], start: usize, end: usize) -> SmallVec<[IoSlice<'a>; 4]> {
    let mut parts = SmallVec::new();
    let mut at = 0;
    for buf in bufs {
        let (from, to) = (start.clamp(at, at + buf.len()) - at, end.clamp(at, at + buf.len()) - at);
        if from < to {
            parts.push(IoSlice::new(&buf[from..to]));
        }
        at += buf.len();
    }
    parts
}

impl AsyncRead for Cork {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.dry {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if state.input.is_empty() {
            match Pin::new(&mut state.io).poll_read(cx, buf) {
                Poll::Pending => {
                    state.dry = state.driven;
                    return Poll::Pending;
                }
                Poll::Ready(read) => read?,
            }
        } else {
            let n = state.input.len().min(buf.remaining());
            buf.put_slice(&state.input[..n]);
            state.input.advance(n);
            if state.input.is_empty() {
                state.input = BytesMut::new();
            }
        }
        state.frames.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cork {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        ready!(state.room(cx))?;
        Poll::Ready(state.write(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done at once: the driver drains.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        ready!(state.drain(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}
