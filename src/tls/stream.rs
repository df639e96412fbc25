//! A server's side of a TLS connection: rustls keeps the session, the bytes on their way are kept here.
//!
//! A connection that waits holds no buffer: bytes come and go through the worker's own, and only what is
//! left over, a part of a record or what the socket did not take, stays. What the session itself has to
//! say (tickets, the end) goes out with the data that is written next, or before anything is waited for.

#[cfg(test)]
mod tests;

use super::records::{FULL, Queue};
use super::tickets;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;
use rustls::{CommonState, HandshakeKind};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A TLS connection over `S`, a socket.
pub struct TlsStream<S> {
    io: S,
    session: UnbufferedServerConnection,
    /// What was received and is no whole message yet.
    partial: Vec<u8>,
    plain: Queue,
    /// Records that the socket has not taken.
    out: Queue,
    end: End,
    /// Nothing is written after what is flushed next.
    last: bool,
    /// We have said that it is the end.
    closed: bool,
}

/// How the client's side stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// It said that it sends nothing more.
    Clean,
    /// It broke off.
    Broken,
    /// What it sent was not in order, and it was told so.
    Failed,
}

/// The largest record: a head, the content, and what encryption may add (RFC 8446, 5.2).
const RECORD: usize = 5 + FULL + 256;
/// What is received at once.
const RECEIVED: usize = 20 * 1024;
/// The most that is kept of messages that are not whole; rustls takes handshake messages of 64 KB.
const PARTIAL: usize = 64 * 1024 + RECORD;
/// Content that is encrypted for one write. What makes full records is encrypted where it lies; less is
/// gathered, so that it needs fewer.
const WRITTEN: usize = 4 * FULL;
/// Records left over that still go out with what is written next.
const MERGED: usize = 16 * 1024;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// A worker's buffers; none is used across a wait.
#[derive(Default)]
struct Buffers {
    received: Vec<u8>,
    gathered: Vec<u8>,
}

impl<S> TlsStream<S> {
    /// A connection of which `received` was read already.
    pub fn new(io: S, session: UnbufferedServerConnection, received: Vec<u8>) -> TlsStream<S> {
        TlsStream {
            io,
            session,
            partial: received,
            plain: Queue::default(),
            out: Queue::default(),
            end: End::Open,
            last: false,
            closed: false,
        }
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.io
    }

    /// What is known of the session.
    pub fn session(&self) -> &CommonState {
        &self.session
    }

    /// What is flushed next is the last that is written, and then the socket is closed: the end of the session
    /// goes out with it, and to shut it down takes nothing more.
    pub fn last(&mut self) {
        self.last = true;
    }

    /// Has rustls take `bytes`, which begin with the first that it has not taken in whole: content goes into
    /// `into` as far as there is room, what there is to say onto `out`. The number of bytes that are done with.
    fn take_in(&mut self, bytes: &mut [u8], into: &mut ReadBuf<'_>) -> Result<usize, rustls::Error> {
        // A client that resumes gets one ticket, for the one it used.
        tickets::limit(match self.session.handshake_kind() {
            Some(HandshakeKind::Resumed) => 1,
            _ => usize::MAX,
        });
        let mut done = 0;
        loop {
            let status = self.session.process_tls_records(&mut bytes[done..]);
            let mut discard = status.discard;
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        let room = record.payload.len().min(into.remaining());
                        into.put_slice(&record.payload[..room]);
                        self.plain.push(&record.payload[room..]);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => self.out.encode(data),
                // It is in `out`, which is sent before anything that follows.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.end = End::Clean,
                // Early data is not offered.
                Ok(ConnectionState::ReadEarlyData(_)) => return Err(rustls::Error::HandshakeNotComplete),
                Ok(_) => return Ok(done + discard),
                Err(e) => {
                    self.end = End::Failed;
                    self.encode_alert();
                    return Err(e);
                }
            }
            done += discard;
        }
    }

    /// After an error: what the client is to be told of it. Once there is no more of that rustls would go on to
    /// messages it has seen, and they are not in the empty slice: it would panic.
    fn encode_alert(&mut self) {
        while self.session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) = self.session.process_tls_records(&mut []).state
        {
            self.out.encode(data);
        }
    }

    /// Encrypts as much of `content` as is encrypted at once, behind what is to be sent; how much that was.
    pub fn seal(&mut self, content: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(first) = content.iter().find(|slice| !slice.is_empty()) else { return Ok(0) };
        if first.len() >= FULL {
            let straight = &first[..first.len().min(WRITTEN) / FULL * FULL];
            return self.seal_all(straight).map(|()| straight.len());
        }
        let mut gathered = BUFFERS.with_borrow_mut(|buffers| std::mem::take(&mut buffers.gathered));
        let sealed = self.seal_gathered(content, &mut gathered);
        BUFFERS.with_borrow_mut(|buffers| buffers.gathered = gathered);
        sealed
    }

    /// A record after the other: what was gathered for one is still near when it is encrypted.
    fn seal_gathered(&mut self, content: &[IoSlice<'_>], gathered: &mut Vec<u8>) -> io::Result<usize> {
        let mut sealed = 0;
        gathered.clear();
        for slice in content {
            let mut rest = &slice[..slice.len().min(WRITTEN - sealed - gathered.len())];
            while !rest.is_empty() {
                let (part, more) = rest.split_at(rest.len().min(FULL - gathered.len()));
                gathered.extend_from_slice(part);
                rest = more;
                if gathered.len() == FULL {
                    self.seal_all(gathered)?;
                    sealed += FULL;
                    gathered.clear();
                }
            }
        }
        if !gathered.is_empty() {
            self.seal_all(gathered)?;
            sealed += gathered.len();
        }
        Ok(sealed)
    }

    fn seal_all(&mut self, content: &[u8]) -> io::Result<()> {
        self.settle()?;
        match self.session.process_tls_records(&mut self.partial).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                self.out.seal(content.len(), |into| traffic.encrypt(content, into)).map_err(io::Error::other)
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Puts the end of the session behind what is to be sent.
    fn close(&mut self) -> io::Result<()> {
        self.closed = true;
        self.settle()?;
        match self.session.process_tls_records(&mut self.partial).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                self.out.seal(0, |into| traffic.queue_close_notify(into)).map_err(io::Error::other)
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Has the session say what it has to say before content may follow.
    fn settle(&mut self) -> io::Result<()> {
        if self.end == End::Failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            // A handshake message of which a part came is rustls's to see again.
            let status = self.session.process_tls_records(&mut self.partial);
            let discard = status.discard;
            match status.state {
                Ok(ConnectionState::WriteTraffic(_)) => return Ok(()),
                Ok(ConnectionState::EncodeTlsData(data)) => self.out.encode(data),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.end = End::Clean,
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        self.plain.push(record.payload);
                    }
                }
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
            self.partial.drain(..discard);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// The rest of the handshake. What there is to say after it, tickets, is left for the first write.
    pub async fn handshake(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let mut nothing = ReadBuf::new(&mut []);
            if !self.partial.is_empty() && self.session.is_handshaking() {
                let mut bytes = std::mem::take(&mut self.partial);
                let done = self.take_in(&mut bytes, &mut nothing);
                let done = done.map_err(|e| self.fail(e, cx))?;
                bytes.drain(..done);
                self.partial = bytes;
            }
            while self.session.is_handshaking() {
                ready!(self.drain(cx))?;
                ready!(self.receive(cx, &mut nothing))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Receives once and takes it in. The end of the stream without the end of the session is an error.
    fn receive(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let kept = self.partial.len();
        if kept > PARTIAL {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "message buffer full")));
        }
        let mut bytes = BUFFERS.with_borrow_mut(|buffers| std::mem::take(&mut buffers.received));
        bytes.resize(RECEIVED.max(kept + RECORD), 0);
        bytes[..kept].copy_from_slice(&self.partial);
        let mut buf = ReadBuf::new(&mut bytes[kept..]);
        let received = Pin::new(&mut self.io).poll_read(cx, &mut buf);
        let end = kept + buf.filled().len();
        let result = match received {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Ready(Ok(())) if end == kept => {
                self.end = End::Broken;
                Poll::Ready(Err(broken_off()))
            }
            Poll::Ready(Ok(())) => Poll::Ready(match self.take_in(&mut bytes[..end], into) {
                Ok(done) => {
                    self.partial.clear();
                    if done < end {
                        self.partial.extend_from_slice(&bytes[done..end]);
                    } else {
                        self.partial = Vec::new();
                    }
                    Ok(())
                }
                Err(e) => Err(self.fail(e, cx)),
            }),
        };
        // One that grew for a long handshake message is not kept.
        if bytes.len() <= RECEIVED + RECORD {
            BUFFERS.with_borrow_mut(|buffers| buffers.received = bytes);
        }
        result
    }

    /// What rustls refused, as an error; the client is told if the socket takes it.
    fn fail(&mut self, e: rustls::Error, cx: &mut Context<'_>) -> io::Error {
        let _ = self.drain(cx);
        io::Error::new(io::ErrorKind::InvalidData, e)
    }

    /// Sends what was encrypted and whatever else there is to say. `gone` grows by what the socket takes.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, gone: &mut u64) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, self.out.rest()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *gone += n as u64;
            self.out.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx, &mut 0)
    }
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed connection without sending TLS close_notify")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        loop {
            if !this.plain.is_empty() {
                let n = this.plain.rest().len().min(into.remaining());
                into.put_slice(&this.plain.rest()[..n]);
                this.plain.advance(n);
            }
            if into.filled().len() > before || into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.end {
                End::Open => {}
                End::Clean => return Poll::Ready(Ok(())),
                End::Broken | End::Failed => return Poll::Ready(Err(broken_off())),
            }
            match this.receive(cx, into) {
                Poll::Ready(received) => received?,
                Poll::Pending => {
                    // Nobody is to wait for an answer to what was not sent.
                    if let Poll::Ready(Err(e)) = this.drain(cx) {
                        return Poll::Ready(Err(e));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, content: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(content)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        content: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.out.rest().len() > MERGED {
            ready!(this.drain(cx))?;
        }
        let n = this.seal(content)?;
        // What is last is sent when it is flushed; what the socket does not take now is left over.
        if !this.last
            && let Poll::Ready(Err(e)) = this.drain(cx)
        {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.last && !this.closed {
            this.close()?;
        }
        ready!(this.drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            // A session that failed has said so.
            let _ = this.close();
        }
        ready!(this.drain(cx))?;
        if this.last {
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The client is gone already.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsStream").field(&self.io).finish()
    }
}
