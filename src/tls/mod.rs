//! Certificates, names, sessions.

use crate::edge::Local;
use crate::edge::connection::Socket;
use crate::http::io::Io;
use crate::http::request::TlsInfo;
use crate::http::router::Bound;

/// What came of a handshake.
pub enum Accepted {
    /// A session.
    Tls {
        /// The connection.
        io: Io,
        /// What is known of the session.
        info: TlsInfo,
        /// Whether the client chose HTTP/2.
        h2: bool,
    },
    /// The client speaks plain HTTP; nothing was read.
    Plain(Socket),
    /// It failed, and was counted and logged.
    Failed,
}

/// Takes a handshake.
pub async fn accept(_local: &Local, _bound: &Bound, _socket: Socket) -> Accepted {
    Accepted::Failed
}
