//! The IO under an HTTP/2 connection: what is written is collected, and goes out when the
//! connection's driver has nothing more to read.
//!
//! The `h2` crate flushes once for each request it hands out. Collecting makes many small writes one,
//! and small TLS records large ones. Nothing is held while the connection is idle.

use super::flood::Frames;
use crate::http::io::{Io, poll_read_into};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes collected before they go out without waiting for the driver.
const FULL: usize = 32 * 1024;

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
    /// Whether the layer below may hold bytes.
    unflushed: bool,
    /// Whether a write was put off because `out` was full.
    refused: bool,
    frames: Frames,
    written: u64,
}

impl Cork {
    /// A cork in `io`, of which `input` was read already.
    pub fn new(io: Io, input: BytesMut) -> Cork {
        Cork(Arc::new(Mutex::new(State {
            io,
            input,
            out: Vec::new(),
            at: 0,
            unflushed: false,
            refused: false,
            frames: Frames::default(),
            written: 0,
        })))
    }

    /// Writes out what was collected. `Ready` when all of it is gone; true when a write waits for
    /// this, so that the connection has to be driven again.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut state = self.0.lock();
        ready!(state.drain(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut state.refused)))
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        let state = self.0.lock();
        state.out.is_empty() && !state.unflushed
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
        state.frames.bytes + state.written
    }

    /// Whether the client keeps us busy with nothing; `sent` are the bytes of bodies it was sent.
    pub fn is_flood(&self, sent: u64) -> bool {
        let state = self.0.lock();
        state.frames.is_flood(state.written, sent)
    }
}

impl State {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.out.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.at..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += n;
            self.written += n as u64;
            self.unflushed = true;
        }
        if !self.out.is_empty() {
            // Given back rather than cleared: an idle connection holds no buffer.
            self.out = Vec::new();
            self.at = 0;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for another write.
    fn room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.len() - self.at < FULL {
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
}

impl AsyncRead for Cork {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let before = buf.filled().len();
        if state.input.is_empty() {
            ready!(Pin::new(&mut state.io).poll_read(cx, buf))?;
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
        let mut state = self.0.lock();
        ready!(state.room(cx))?;
        state.out.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        ready!(state.room(cx))?;
        let before = state.out.len();
        for buf in bufs {
            state.out.extend_from_slice(buf);
        }
        Poll::Ready(Ok(state.out.len() - before))
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
