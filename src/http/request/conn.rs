//! A client's connection, as its requests see it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Inet(SocketAddr),
    /// A unix socket, with its path if it has one.
    Unix(Arc<str>),
}

impl Address {
    /// The IP address of a TCP end.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Inet(a) => Some(a.ip()),
            Address::Unix(_) => None,
        }
    }
}

/// What is known of a client's TLS session.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`
    pub protocol: &'static str,
    /// The cipher suite by its OpenSSL name.
    pub cipher: &'static str,
    /// The key exchange group by its OpenSSL name; empty when unknown.
    pub curve: &'static str,
    /// The protocol chosen by ALPN; empty when the client asked for none.
    pub alpn: &'static str,
    /// The name the client asked for.
    pub server_name: Option<Arc<str>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// What the client showed when it was asked for a certificate.
    pub client: Option<Arc<crate::tls::clients::ClientCertificate>>,
}

/// A client's connection, as its requests see it.
#[derive(Debug)]
pub struct Conn {
    /// Its number in this process (`$connection`).
    pub serial: u64,
    /// The client's address.
    pub peer: Address,
    /// Our address.
    pub local: Address,
    /// The address it was accepted on, by which its servers are found.
    pub listen: Arc<crate::http::listens::ListenAddr>,
    /// What the PROXY protocol said of it, if anything.
    pub proxied: Option<Box<crate::http::proxy_protocol::Header>>,
    /// Its TLS session, if any. Boxed for those that have none.
    pub tls: Option<Box<TlsInfo>>,
    /// Requests begun on it (`$connection_requests`).
    pub requests: AtomicU64,
    /// Its socket while it is open, for questions to the kernel; -1 otherwise.
    pub descriptor: std::sync::atomic::AtomicI32,
    /// When it was accepted.
    pub accepted: Instant,
}

/// Numbers for connections.
pub fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
