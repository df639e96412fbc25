//! A client's connection from its acceptance to its end: TLS if there is to be, then HTTP/1 or 2.

use super::worker::{self, Open, Worker};
use super::{Edge, Local};
use crate::http::io::{Early, Io};
use crate::http::listens::{Bound, ListenAddr};
use crate::http::proxy_protocol::Header;
use crate::http::request::{Address, Conn, TlsInfo, next_serial};
use crate::http::{h1, h2};
use bytes::BytesMut;
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
    /// The worker that accepted it, which counts it.
    pub open: Open,
    /// The address it was accepted on.
    pub addr: Arc<ListenAddr>,
    /// The client.
    pub peer: Address,
    /// Our end.
    pub own: Address,
}

/// A connection's way to the configuration in force, asked for at each request. It lives as long as the connection.
pub struct Access {
    edge: Arc<Edge>,
    open: Open,
    /// The connection, for its requests.
    pub conn: Arc<Conn>,
    local: Arc<Local>,
}

impl Drop for Access {
    fn drop(&mut self) {
        self.forget_descriptor();
    }
}

impl Access {
    /// The generation in force and the entry of the connection's address in it. When a reload took
    /// the address away, the connection goes on under the generation that had it, and is to close.
    pub fn current(&mut self) -> (Arc<Local>, bool) {
        if self.local.generation.number != self.edge.generation_number() {
            let fresh = worker::local(&self.edge, self.worker());
            if fresh.generation.http.listens.find(&self.conn.listen).is_none() {
                return (self.local.clone(), true);
            }
            self.local = fresh;
        }
        (self.local.clone(), self.worker().quitting())
    }

    /// As [`Self::current`]; what is in force then is [`Self::local`].
    pub fn is_closing(&mut self) -> bool {
        if self.local.generation.number == self.edge.generation_number() {
            return self.worker().quitting();
        }
        self.current().1
    }

    /// The configuration that was in force when it was last asked for.
    pub fn local(&self) -> &Arc<Local> {
        &self.local
    }

    /// Before the socket is closed: tasks that outlive it must not ask about the next one of that number.
    pub fn forget_descriptor(&self) {
        self.conn.descriptor.store(-1, Ordering::Relaxed);
    }

    /// The worker.
    pub fn worker(&self) -> &Arc<Worker> {
        self.open.worker()
    }
}

/// The servers of the address a connection was accepted on.
pub fn bound<'a>(local: &'a Local, conn: &Conn) -> &'a Bound {
    let listens = &local.generation.http.listens;
    // `Access::current` returns only generations that have the address.
    listens.find(&conn.listen).unwrap_or(&listens.bound[0])
}

/// Serves a connection to its end, in a task of its own.
pub fn serve(arrival: Arrival, local: Arc<Local>, socket: Socket) {
    let Some(bound) = local.generation.http.listens.find(&arrival.addr) else { return };
    let begun = Begun { serial: next_serial(), accepted: Instant::now(), descriptor: socket.as_raw_fd() };
    if bound.ssl || bound.proxy_protocol {
        // Boxed, as what follows: of the beginning nothing stays, and the task is no larger than it has to be.
        let beginning = Box::pin(begin(arrival, local, begun, socket));
        tokio::spawn(async move {
            match beginning.await {
                Some(Spoken::Http1(access, io, options)) => Box::pin(h1::serve(access, io, options)).await,
                Some(Spoken::Http2(access, io)) => h2::serve(access, io, BytesMut::new()).await,
                None => {}
            }
        });
        return;
    }
    let options = h1::Options { expected_tls: false, preface: speaks_h2(&local, bound) };
    let access = access(arrival, local, begun, None, None);
    tokio::spawn(h1::serve(access, plain(socket), options));
}

/// What is known of a connection from its beginning.
struct Begun {
    serial: u64,
    accepted: Instant,
    descriptor: RawFd,
}

/// What a client speaks.
enum Spoken {
    Http1(Access, Io, h1::Options),
    Http2(Access, Io),
}

/// Takes what comes before HTTP: the balancer's header, the handshake.
async fn begin(arrival: Arrival, local: Arc<Local>, begun: Begun, socket: Socket) -> Option<Spoken> {
    let bound = local.generation.http.listens.find(&arrival.addr)?;
    let proxied = if bound.proxy_protocol {
        super::proxied::accept(&local, bound, &socket, begun.serial, &arrival.peer).await.ok()?
    } else {
        None
    };
    if !bound.ssl {
        let options = h1::Options { expected_tls: false, preface: speaks_h2(&local, bound) };
        return Some(Spoken::Http1(access(arrival, local, begun, proxied, None), plain(socket), options));
    }
    let client = crate::tls::Client { serial: begun.serial, peer: &arrival.peer };
    match crate::tls::accept(&local, bound, socket, &client).await {
        crate::tls::Accepted::Tls { io, info, h2 } => {
            let access = access(arrival, local, begun, proxied, Some(Box::new(info)));
            let options = h1::Options { expected_tls: false, preface: false };
            Some(if h2 { Spoken::Http2(access, io) } else { Spoken::Http1(access, io, options) })
        }
        crate::tls::Accepted::Plain(socket, read) => {
            let io = Io::Early(Box::new(Early { read, io: plain(socket) }));
            // TLS was expected where the client spoke plain HTTP: nginx answers 497.
            let options = h1::Options { expected_tls: true, preface: false };
            Some(Spoken::Http1(access(arrival, local, begun, proxied, None), io, options))
        }
        crate::tls::Accepted::Failed => None,
    }
}

/// Whether a client of an address may speak HTTP/2.
fn speaks_h2(local: &Local, bound: &Bound) -> bool {
    bound.http2 || *local.generation.http.servers[bound.names.default].conf.http2.on
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

fn access(
    arrival: Arrival,
    local: Arc<Local>,
    begun: Begun,
    proxied: Option<Box<Header>>,
    tls: Option<Box<TlsInfo>>,
) -> Access {
    let conn = Arc::new(Conn {
        serial: begun.serial,
        peer: arrival.peer,
        local: arrival.own,
        listen: arrival.addr,
        proxied,
        tls,
        requests: AtomicU64::new(0),
        descriptor: AtomicI32::new(begun.descriptor),
        accepted: begun.accepted,
    });
    Access { edge: arrival.edge, open: arrival.open, conn, local }
}
