//! A connection that switched protocols: bytes both ways, for hours if need be.

use super::body::note;
use super::group::Taken;
use super::pool::Connection;
use crate::edge::turn;
use crate::http::io::{Io, poll_read_into};
use crate::http::request::AttemptEnd;
use crate::http::response::Tunnel;
use bytes::{Buf, BytesMut};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;

/// The upstream's end of a tunnel.
pub struct UpstreamTunnel {
    /// The connection.
    pub connection: Connection,
    /// What came after the head.
    pub input: BytesMut,
    /// How long both sides may be silent.
    pub timeout: Duration,
    /// The peer, busy until the end.
    pub taken: Taken,
    /// When the request was sent, and where the end is noted.
    pub began: Instant,
    /// What the log will ask for.
    pub end: Arc<AttemptEnd>,
}

impl Tunnel for UpstreamTunnel {
    fn run<'a>(
        mut self: Box<Self>,
        client: &'a mut Io,
        already_read: BytesMut,
    ) -> Pin<Box<dyn Future<Output = u64> + Send + 'a>> {
        Box::pin(async move {
            let mut to_client = Way { buffer: std::mem::take(&mut self.input), ended: false, carried: 0 };
            let mut to_upstream = Way { buffer: already_read, ended: false, carried: 0 };
            loop {
                let turn = std::future::poll_fn(|cx| {
                    let down = to_client.turn(cx, &mut self.connection.stream, client);
                    let up = to_upstream.turn(cx, client, &mut self.connection.stream);
                    match (down, up) {
                        (Poll::Pending, Poll::Pending) => Poll::Pending,
                        (Poll::Ready(Err(e)), _) | (_, Poll::Ready(Err(e))) => Poll::Ready(Err(e)),
                        _ => Poll::Ready(Ok(())),
                    }
                });
                match tokio::time::timeout(self.timeout, turn).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => break,
                }
                // Either side's end is the end of both, once what it said was passed on.
                if to_client.over() || to_upstream.over() {
                    break;
                }
            }
            self.taken.succeeded();
            self.end.received.fetch_add(to_client.carried, Ordering::Relaxed);
            note(&self.end, turn::since(self.began));
            to_client.carried
        })
    }
}

/// One direction. It holds bytes only while the other end does not take them.
struct Way {
    buffer: BytesMut,
    ended: bool,
    carried: u64,
}

impl Way {
    fn over(&self) -> bool {
        self.ended && self.buffer.is_empty()
    }

    /// Moves what can be moved; ready when anything was.
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl tokio::io::AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut moved = false;
        if self.buffer.is_empty() && !self.ended {
            match poll_read_into(from, cx, &mut self.buffer) {
                Poll::Ready(Ok(0)) => (self.ended, moved) = (true, true),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {}
            }
        }
        while !self.buffer.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, &self.buffer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.carried += n as u64;
                    self.buffer.advance(n);
                    moved = true;
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => break,
            }
        }
        if self.buffer.is_empty() {
            // The allocation goes with the bytes: an idle tunnel holds nothing.
            self.buffer = BytesMut::new();
            if let Poll::Ready(Err(e)) = Pin::new(&mut *to).poll_flush(cx) {
                return Poll::Ready(Err(e));
            }
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
