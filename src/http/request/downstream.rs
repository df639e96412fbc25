//! Where a request's body comes from, and how it is seen that the client has left.

use crate::http::body::{BodyError, Framing};
use crate::http::io::{Io, read_into};
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;

/// Where the request's body comes from.
pub enum Downstream {
    /// An HTTP/1 connection: the body is decoded from its bytes.
    H1(Box<H1Body>),
    /// An HTTP/2 stream.
    H2(Box<H2Body>),
    /// None, or it is elsewhere now.
    None,
}

/// An HTTP/1 connection lent to its request.
pub struct H1Body {
    /// The connection.
    pub io: Io,
    /// Bytes read and not yet used.
    pub input: BytesMut,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether `100 Continue` is owed before the body is read.
    pub expect_continue: bool,
    /// Bytes of the body that may still come (`client_max_body_size`).
    pub room: u64,
    /// Whether the request's first bytes came before the answer to the one before it.
    pub pipelined: bool,
    /// Bytes of the connection that the pieces of the body took and that are not counted yet: in chunks more than
    /// the pieces themselves.
    pub taken: u64,
}

/// An HTTP/2 stream lent to its request.
pub struct H2Body {
    /// The body.
    pub body: h2::RecvStream,
    /// The way back, by which it is seen that the client has left.
    pub respond: h2::server::SendResponse<crate::http::h2::Chunk>,
}

impl Downstream {
    /// Ends when the client is seen to have left. What it sends ahead is kept, within bounds; while a
    /// body is still to be read nothing can be seen.
    pub async fn gone(&mut self) {
        const AHEAD: usize = 64 * 1024;
        match self {
            Downstream::H1(h1) if h1.framing.is_done() => {
                while h1.input.len() < AHEAD {
                    // As a rule nothing comes, and it is enough to wait for that.
                    if let Io::Tcp(stream) = &h1.io
                        && poll_fn(|cx| stream.poll_read_ready(cx)).await.is_err()
                    {
                        return;
                    }
                    match read_into(&mut h1.io, &mut h1.input).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                }
            }
            // Reset, or its connection ended.
            Downstream::H2(h2) => {
                let _ = poll_fn(|cx| h2.respond.poll_reset(cx)).await;
                return;
            }
            Downstream::H1(_) | Downstream::None => {}
        }
        std::future::pending().await
    }

    /// The next piece of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self {
            Downstream::None => Ok(None),
            Downstream::H1(h1) => h1.next().await,
            Downstream::H2(h2) => match h2.body.data().await {
                None => Ok(None),
                Some(Ok(data)) => {
                    // The window is given back as soon as the bytes are ours.
                    let _ = h2.body.flow_control().release_capacity(data.len());
                    Ok(Some(data))
                }
                Some(Err(e)) => Err(BodyError::Client(
                    e.into_io().unwrap_or_else(|| std::io::ErrorKind::ConnectionReset.into()),
                )),
            },
        }
    }
}

impl H1Body {
    /// A connection of which nothing has been read.
    pub fn new(io: Io) -> H1Body {
        H1Body {
            io,
            input: BytesMut::new(),
            framing: Framing::None,
            expect_continue: false,
            room: u64::MAX,
            pipelined: false,
            taken: 0,
        }
    }

    /// The next piece of the body; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let before = self.input.len();
            let taken = self.framing.take(&mut self.input);
            self.taken += (before - self.input.len()) as u64;
            match taken {
                Ok(Some(piece)) => return Ok(Some(piece)),
                Ok(None) if self.framing.is_done() => return Ok(None),
                Ok(None) => {}
                Err(_) => return Err(BodyError::ClientSyntax),
            }
            // A chunk that says it is too large need not be waited for.
            if self.framing.announced() > self.room {
                return Err(BodyError::TooLarge);
            }
            if std::mem::take(&mut self.expect_continue) {
                use tokio::io::AsyncWriteExt;
                let answer = b"HTTP/1.1 100 Continue\r\n\r\n";
                self.io.write_all(answer).await.map_err(BodyError::Client)?;
                self.io.flush().await.map_err(BodyError::Client)?;
            }
            let read = read_into(&mut self.io, &mut self.input).await.map_err(BodyError::Client)?;
            if read == 0 {
                return Err(BodyError::Client(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}
