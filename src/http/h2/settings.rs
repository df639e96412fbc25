//! What a connection goes by: its server, and what it tells the client and the `h2` crate of it.

use crate::conf::build::{Http, Server};
use crate::edge::Local;
use crate::edge::connection::bound;
use crate::http::request::Conn;

/// Bytes of all bodies that a connection may send before handlers read them.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// A stream's window is at least this, or a body could never begin.
const LEAST_WINDOW: u32 = 16 << 10;
/// Bytes of a response that the crate may have; turns give it less.
const SEND_BUFFER: usize = 128 << 10;
/// Streams that we reset because of the client's errors, before the connection is ended.
const ERRORS: usize = 128;

/// The server whose settings the connection has: that of the name asked for in TLS, else the default.
pub fn server<'a>(local: &'a Local, conn: &Conn) -> &'a Server {
    let names = &bound(local, conn).names;
    let name = conn.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    let index = name.map_or(names.default, |name| names.find(name.as_bytes(), None));
    &local.generation.http.servers[index]
}

/// The settings of that server's own level.
pub fn level<'a>(local: &'a Local, conn: &Conn) -> &'a crate::modules::core::Loc {
    let http: &Http = &local.generation.http;
    &http.levels[server(local, conn).level].conf.core
}

/// The crate's side of a connection to a server.
pub fn builder(server: &Server) -> h2::server::Builder {
    let http2 = &server.conf.http2;
    let (number, size) = *server.conf.core.large_client_header_buffers;
    // The list's size counts 32 bytes for each field; what is over our own bounds but within this is
    // answered properly, and what is over this by the crate, with 431.
    let list = (number.saturating_mul(size).saturating_mul(2) + 16_384).min(1 << 24) as u32;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(*http2.max_concurrent_streams)
        .initial_window_size((*http2.body_preread_size).max(LEAST_WINDOW))
        .initial_connection_window_size(CONNECTION_WINDOW.max(*http2.body_preread_size))
        .max_header_list_size(list)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(ERRORS));
    builder
}
