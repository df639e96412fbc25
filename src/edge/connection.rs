//! A client's connection from its acceptance to its end: TLS if there is to be, then HTTP/1 or 2.

use super::worker::{self, Worker};
use super::{Edge, Local};
use crate::http::io::{Early, Io};
use crate::http::listens::{Bound, ListenAddr};
use crate::http::proxy_protocol::Header;
use crate::http::request::{Address, Conn, TlsInfo, next_serial};
use crate::http::{h1, h2};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Instant;
use tokio::net::{TcpStream, UnixStream};

/// An accepted socket.
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// Who arrived, where.
pub struct Arrival {
    /// The process.
    pub edge: Arc<Edge>,
    /// The worker that accepted it.
    pub worker: Arc<Worker>,
    /// The address it was accepted on.
    pub addr: Arc<ListenAddr>,
    /// The client.
    pub peer: Address,
    /// Our end.
    pub own: Address,
}

/// A connection's way to the configuration in force, asked for at each request.
pub struct Access {
    edge: Arc<Edge>,
    worker: Arc<Worker>,
    /// The connection, for its requests.
    pub conn: Arc<Conn>,
    local: Arc<Local>,
}

impl Access {
    /// The generation in force and the entry of the connection's address in it. When a reload took
    /// the address away, the connection goes on under the generation that had it, and is to close.
    pub fn current(&mut self) -> (Arc<Local>, bool) {
        if self.local.generation.number != self.edge.generation_number() {
            let fresh = worker::local(&self.edge, &self.worker);
            if fresh.generation.http.listens.find(&self.conn.listen).is_none() {
                return (self.local.clone(), true);
            }
            self.local = fresh;
        }
        (self.local.clone(), self.worker.quitting())
    }

    /// As [`Self::current`]; what is in force then is [`Self::local`].
    pub fn is_closing(&mut self) -> bool {
        if self.local.generation.number == self.edge.generation_number() {
            return self.worker.quitting();
        }
        self.current().1
    }

    /// The configuration that was in force when it was last asked for.
    pub fn local(&self) -> &Arc<Local> {
        &self.local
    }

    /// The worker.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

/// The servers of the address a connection was accepted on.
pub fn bound<'a>(local: &'a Local, conn: &Conn) -> &'a Bound {
    let listens = &local.generation.http.listens;
    // `Access::current` returns only generations that have the address.
    listens.find(&conn.listen).unwrap_or(&listens.bound[0])
}

/// Serves a connection to its end.
pub async fn serve(arrival: Arrival, socket: Socket) {
    let local = worker::local(&arrival.edge, &arrival.worker);
    let Some(bound) = local.generation.http.listens.find(&arrival.addr) else { return };
    let default = &local.generation.http.servers[bound.names.default].conf;
    let (ssl, http2) = (bound.ssl, bound.http2 || *default.http2.on);
    let descriptor = socket.as_raw_fd();
    let accepted = Instant::now();
    let serial = next_serial();
    let proxied = if bound.proxy_protocol {
        match super::proxied::accept(&local, bound, &socket, serial, &arrival.peer).await {
            Ok(header) => header,
            Err(()) => return,
        }
    } else {
        None
    };
    let (io, tls, speaks_h2) = if ssl {
        let client = crate::tls::Client { serial, peer: &arrival.peer };
        match crate::tls::accept(&local, bound, socket, &client).await {
            crate::tls::Accepted::Tls { io, info, h2 } => (io, Some(info), h2),
            crate::tls::Accepted::Plain(socket, read) => {
                (Io::Early(Box::new(Early { read, io: plain(socket) })), None, false)
            }
            crate::tls::Accepted::Failed => return,
        }
    } else {
        (plain(socket), None, false)
    };
    let conn = conn(&arrival, serial, proxied, tls, accepted);
    conn.descriptor.store(descriptor, Ordering::Relaxed);
    // Tasks that outlive the connection must not ask about the next one of that number.
    let _forget = Forget(conn.clone());
    let access = Access { edge: arrival.edge, worker: arrival.worker, conn, local };
    if speaks_h2 {
        h2::serve(access, io, bytes::BytesMut::new()).await;
    } else {
        // TLS was expected where the client spoke plain HTTP: nginx answers 497.
        let expected_tls = ssl && !io.is_tls();
        h1::serve(access, io, h1::Options { expected_tls, preface: http2 && !ssl }).await;
    }
}

struct Forget(Arc<Conn>);

impl Drop for Forget {
    fn drop(&mut self) {
        self.0.descriptor.store(-1, Ordering::Relaxed);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

fn plain(socket: Socket) -> Io {
    match socket {
        Socket::Tcp(stream) => Io::Tcp(stream),
        Socket::Unix(stream) => Io::Unix(stream),
    }
}

fn conn(
    arrival: &Arrival,
    serial: u64,
    proxied: Option<Box<Header>>,
    tls: Option<TlsInfo>,
    accepted: Instant,
) -> Arc<Conn> {
    Arc::new(Conn {
        serial,
        peer: arrival.peer.clone(),
        local: arrival.own.clone(),
        listen: arrival.addr.clone(),
        proxied,
        tls,
        requests: AtomicU64::new(0),
        descriptor: AtomicI32::new(-1),
        accepted,
    })
}
