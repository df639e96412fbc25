//! TLS records as an HTTP/2 connection needs them: encrypted when the frames are there, and sent later, many at once.

use crate::http::io::Io;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

/// Lets a session hold so many bytes that were not sent.
pub fn hold(io: &mut Io, bytes: usize) {
    match io {
        Io::Tls(stream) => stream.get_mut().1.set_buffer_limit(Some(bytes)),
        Io::TlsUnix(stream) => stream.get_mut().1.set_buffer_limit(Some(bytes)),
        Io::Tcp(_) | Io::Unix(_) => {}
    }
}

/// Encrypts `parts` as a record, or several where they are more than one holds; how many bytes of them were taken.
pub fn seal(io: &mut Io, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    match io {
        Io::Tls(stream) => stream.get_mut().1.writer().write_vectored(parts),
        Io::TlsUnix(stream) => stream.get_mut().1.writer().write_vectored(parts),
        Io::Tcp(_) | Io::Unix(_) => Ok(0),
    }
}

/// Sends what was encrypted, and whatever else the session has to say. `gone` grows by what the kernel takes.
pub fn poll_send(io: &mut Io, cx: &mut Context<'_>, gone: &mut u64) -> Poll<io::Result<()>> {
    match io {
        Io::Tls(stream) => pump(stream, cx, gone),
        Io::TlsUnix(stream) => pump(stream, cx, gone),
        Io::Tcp(_) | Io::Unix(_) => Poll::Ready(Ok(())),
    }
}

fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    cx: &mut Context<'_>,
    gone: &mut u64,
) -> Poll<io::Result<()>> {
    let (socket, session) = stream.get_mut();
    while session.wants_write() {
        match session.write_tls(&mut Socket(socket, cx)) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => *gone += n as u64,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
    Poll::Ready(Ok(()))
}

/// A socket as the TLS session writes to it.
struct Socket<'a, 'b, S>(&'a mut S, &'a mut Context<'b>);

impl<S: AsyncWrite + Unpin> Write for Socket<'_, '_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.0).poll_write_vectored(self.1, bufs) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
