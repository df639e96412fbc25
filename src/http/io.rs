//! A client's connection: plain, TLS, or a unix socket.

use crate::tls::TlsStream;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A client's connection.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    TlsUnix(Box<TlsStream<UnixStream>>),
    /// A plain one of which something was read before it was known to be one.
    Early(Box<Early>),
}

/// See [`Io::Early`].
#[derive(Debug)]
pub struct Early {
    /// What was read, and is to be read first.
    pub read: Vec<u8>,
    /// The connection.
    pub io: Io,
}

impl Io {
    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Io::Tls(_) | Io::TlsUnix(_))
    }

    /// The TCP socket under it, if it is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Io::Tcp(s) => Some(s),
            Io::Tls(s) => Some(s.socket()),
            Io::Unix(_) | Io::TlsUnix(_) => None,
            Io::Early(early) => early.io.tcp(),
        }
    }

    /// As [`send_at_once`]; `None` too where it is not a plain TCP connection.
    pub fn send_at_once(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match self {
            Io::Tcp(socket) => send_at_once(socket, bytes),
            Io::Unix(_) | Io::Tls(_) | Io::TlsUnix(_) | Io::Early(_) => None,
        }
    }

    /// What is flushed next is the last that is written, and then the connection is dropped. The end of a TLS
    /// session goes out with it.
    pub fn last(&mut self) {
        match self {
            Io::Tls(s) => s.last(),
            Io::TlsUnix(s) => s.last(),
            Io::Tcp(_) | Io::Unix(_) | Io::Early(_) => {}
        }
    }
}

macro_rules! each {
    ($self:expr, $s:ident => $e:expr) => {
        match $self.get_mut() {
            Io::Tcp($s) => $e,
            Io::Unix($s) => $e,
            Io::Tls($s) => $e,
            Io::TlsUnix($s) => $e,
            Io::Early(early) => {
                let $s = &mut early.io;
                $e
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Io::Early(early) = &mut *self
            && !early.read.is_empty()
        {
            let n = early.read.len().min(buf.remaining());
            buf.put_slice(&early.read[..n]);
            early.read.drain(..n);
            return Poll::Ready(Ok(()));
        }
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}

/// Writes to a socket that can nearly always take it: whether it can is not asked first. `None`: not now, so that it is
/// to be polled.
///
/// Who writes much does not use it: a task that is never put off holds up the others.
pub fn send_at_once(socket: &TcpStream, bytes: &[u8]) -> Option<io::Result<usize>> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(n) => Some(Ok(n)),
        Err(Errno::AGAIN | Errno::INTR) => None,
        Err(e) => Some(Err(e.into())),
    }
}

/// What one read may bring.
const READ_SIZE: usize = 16 * 1024;

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_SIZE]);
}

/// Reads what is at hand onto the end of `into`; 0 is the end of the stream.
///
/// The bytes go through the worker's one read buffer, so that a connection that waits holds none.
pub fn poll_read_into(
    io: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    into: &mut bytes::BytesMut,
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        match Pin::new(io).poll_read(cx, &mut buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Ready(Ok(())) => {
                if into.capacity() == 0 {
                    // No more than it takes.
                    *into = bytes::BytesMut::from(buf.filled());
                } else {
                    into.extend_from_slice(buf.filled());
                }
                Poll::Ready(Ok(buf.filled().len()))
            }
        }
    })
}

/// Reads what is at hand and shows it to `take`, with the stream; `None` is the end of it.
pub fn poll_read_with<S: AsyncRead + Unpin, T>(
    io: &mut S,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut S, &mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<Option<T>>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        match Pin::new(&mut *io).poll_read(cx, &mut buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Some(take(io, cx, buf.filled())))),
        }
    })
}

/// See [`poll_read_into`].
pub async fn read_into(io: &mut (impl AsyncRead + Unpin), into: &mut bytes::BytesMut) -> io::Result<usize> {
    std::future::poll_fn(|cx| poll_read_into(io, cx, into)).await
}
