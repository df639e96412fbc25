//! The loop of an HTTP/2 connection.

use super::io::Io;
use crate::edge::connection::Access;
use bytes::BytesMut;

/// Serves an HTTP/2 connection. `input` is what was read of it already.
pub async fn serve(_access: Access, _io: Io, _input: BytesMut) {}
