//! TLS records as an HTTP/2 connection needs them: encrypted when the frames are there, and sent later, many at once.

use crate::http::io::Io;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

/// Encrypts `parts` as a record, or several where they are more than one holds; how many bytes of them were taken.
pub fn seal(io: &mut Io, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    match io {
        Io::Tls(stream) => stream.seal(parts),
        Io::TlsUnix(stream) => stream.seal(parts),
        Io::Tcp(_) | Io::Unix(_) | Io::Early(_) => Ok(0),
    }
}

/// Sends what was encrypted, and whatever else the session has to say. `gone` grows by what the kernel takes.
pub fn poll_send(io: &mut Io, cx: &mut Context<'_>, gone: &mut u64) -> Poll<io::Result<()>> {
    match io {
        Io::Tls(stream) => stream.poll_send(cx, gone),
        Io::TlsUnix(stream) => stream.poll_send(cx, gone),
        Io::Tcp(_) | Io::Unix(_) | Io::Early(_) => Poll::Ready(Ok(())),
    }
}
