//! Addresses for a test: each server and origin gets a loopback address of its own, so no two tests share a port.
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

/// A loopback address that nothing else in this process, and hardly anything on this machine, uses.
///
/// Connections to it come from 127.0.0.1 unless the client binds another address.
pub fn fresh() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let pid = std::process::id();
    let last = NEXT.fetch_add(1, Ordering::Relaxed) % 254 + 1;
    Ipv4Addr::new(127, 64 | (pid >> 8 & 0x3f) as u8, pid as u8, last)
}

/// `count` different ports that are free on `ip` now.
pub fn free_ports(ip: IpAddr, count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind((ip, 0)).unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// An address that refuses connections for as long as this lives: the port is taken, nobody listens.
pub struct Refusing(Socket);

impl Refusing {
    /// Takes a port on a fresh address.
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any_port = SocketAddr::from((fresh(), 0));
        socket.bind(&any_port.into()).unwrap();
        Self(socket)
    }

    /// Where connections are refused.
    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// An address where a connection is neither accepted nor refused: the queue of its listener is full.
pub struct BlackHole {
    socket: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Listens with the shortest queue and fills it.
    pub async fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any_port = SocketAddr::from((fresh(), 0));
        socket.bind(&any_port.into()).unwrap();
        socket.listen(0).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        // The kernel admits one more than the backlog; the first connection that stays unanswered shows it is full.
        let patience = std::time::Duration::from_millis(300);
        while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(addr)).await {
            queued.push(stream.unwrap());
            assert!(queued.len() < 100, "the queue of {addr} does not fill");
        }
        Self { socket, _queued: queued }
    }

    /// Where connections hang.
    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }
}
