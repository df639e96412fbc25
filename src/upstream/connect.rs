//! Connections to upstream servers: plain ones are sockets, those with TLS are made by Pingora's
//! transport connector.

use super::group::PeerAddr;
use super::pool::Connection;
use super::socket::Socket;
use crate::conf::values::os_error;
use crate::tls::upstream::{REFUSED, ServerTrust};
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::l4::stream::Stream as Transport;
use pingora_core::protocols::tls::client::handshake;
use pingora_core::protocols::{Stream, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType;
use rustls_pki_types::ServerName;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// TLS towards an upstream.
#[derive(Clone, Debug)]
pub struct TlsPeer {
    /// The name asked for and checked; empty asks for none.
    pub name: String,
    /// Whether the name is sent (`proxy_ssl_server_name`).
    pub send_name: bool,
    /// What is offered and trusted; without, there is no connection.
    pub trust: Option<Arc<ServerTrust>>,
}

/// What must be equal for a kept connection to be used again.
pub fn kind(tls: Option<&TlsPeer>) -> u64 {
    let Some(tls) = tls else { return 0 };
    let mut hasher = DefaultHasher::new();
    (&tls.name, tls.send_name, tls.trust.as_ref().map(|t| t.fingerprint)).hash(&mut hasher);
    // Nothing without TLS has the same.
    hasher.finish() | 1
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// Not in time.
    Timeout,
    /// Refused, unreachable: nginx's words for it.
    Failed(String),
    /// A handshake was not over in time.
    HandshakeTimeout,
    /// A handshake failed: nginx's words for it.
    Handshake(String),
}

/// Connects to `addr`.
pub async fn connect(
    addr: &PeerAddr,
    tls: Option<&TlsPeer>,
    timeout: Duration,
    socket_keepalive: bool,
) -> Result<Connection, ConnectError> {
    let stream = match tls {
        None => match tokio::time::timeout(timeout, plain(addr, socket_keepalive)).await {
            Err(_) => return Err(ConnectError::Timeout),
            Ok(Err(e)) if e.kind() == io::ErrorKind::TimedOut => return Err(ConnectError::Timeout),
            Ok(Err(e)) => {
                let to = if let PeerAddr::Unix(_) = addr { format!(" to {addr}") } else { String::new() };
                return Err(ConnectError::Failed(format!("connect(){to} failed ({})", os_error(&e))));
            }
            Ok(Ok(socket)) => socket,
        },
        Some(tls) => {
            let stream = transport(addr, timeout, socket_keepalive).await?;
            match tokio::time::timeout(timeout, shake(stream, tls)).await {
                Err(_) => return Err(ConnectError::HandshakeTimeout),
                Ok(shaken) => Socket::Tls(shaken?),
            }
        }
    };
    Ok(Connection { stream, requests: 0, born: Instant::now() })
}

/// When a silent connection is asked whether it lives, how often, and how many times in vain.
const IDLE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(15);
const COUNT: u32 = 4;

/// A plain connection.
async fn plain(addr: &PeerAddr, socket_keepalive: bool) -> io::Result<Socket> {
    let socket = match addr {
        PeerAddr::Inet(addr) => TcpStream::connect(*addr).await?,
        PeerAddr::Unix(path) => return Ok(Socket::Unix(UnixStream::connect(path).await?)),
    };
    socket.set_nodelay(true)?;
    if socket_keepalive {
        use rustix::net::sockopt;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, INTERVAL)?;
        sockopt::set_tcp_keepcnt(&socket, COUNT)?;
    }
    Ok(Socket::Tcp(socket))
}

/// A connection that will carry TLS.
async fn transport(
    addr: &PeerAddr,
    timeout: Duration,
    socket_keepalive: bool,
) -> Result<Stream, ConnectError> {
    let plain = String::new();
    let mut peer = match addr {
        PeerAddr::Inet(a) => HttpPeer::new(*a, false, plain),
        PeerAddr::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, plain)
            .map_err(|e| ConnectError::Failed(e.to_string()))?,
    };
    if socket_keepalive {
        peer.options.tcp_keepalive = Some(TcpKeepalive {
            idle: IDLE,
            interval: INTERVAL,
            count: COUNT as usize,
            user_timeout: Duration::ZERO,
        });
    }
    match tokio::time::timeout(timeout, connector().new_stream(&peer)).await {
        Err(_) => Err(ConnectError::Timeout),
        Ok(Err(e)) if *e.etype() == ErrorType::ConnectTimedout => Err(ConnectError::Timeout),
        Ok(Err(e)) => Err(ConnectError::Failed(describe(&e))),
        Ok(Ok(stream)) => Ok(stream),
    }
}

/// Takes a new connection into TLS. The configuration is ours: Pingora's own connector knows neither
/// lists of revoked certificates nor versions nor suites.
async fn shake(stream: Stream, tls: &TlsPeer) -> Result<Stream, ConnectError> {
    let failed = |what: &str| ConnectError::Handshake(format!("SSL_do_handshake() failed (SSL: {what})"));
    let Some(trust) = &tls.trust else { return Err(failed("no TLS is set up here")) };
    let Ok(socket) = stream.into_any().downcast::<Transport>() else {
        return Err(failed("no plain connection"));
    };
    let fits = ServerName::try_from(tls.name.as_str()).is_ok();
    if !fits && trust.verifies {
        return Err(ConnectError::Handshake(format!("{REFUSED}does not match \"{}\"", tls.name)));
    }
    // A literal address is never sent as a name.
    let name = if fits { tls.name.as_str() } else { "127.0.0.1" };
    let connector = TlsConnector::from(trust.config(tls.send_name).clone());
    match handshake(&connector, name, *socket).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(e) => Err(ConnectError::Handshake(handshake_error(&e.to_string()))),
    }
}

/// What Pingora says of a handshake in nginx's words: the reason stands between its own.
fn handshake_error(text: &str) -> String {
    let until = |text: &str| text.split(", SNI: ").next().unwrap_or_default().to_string();
    if let Some(at) = text.find(REFUSED) {
        return until(&text[at..]);
    }
    let reason = text.rsplit("cause: ").next().unwrap_or(text);
    format!("SSL_do_handshake() failed (SSL: {})", until(reason))
}

/// nginx's words for the common failures.
fn describe(e: &pingora_error::Error) -> String {
    match e.etype() {
        ErrorType::ConnectRefused => "connect() failed (111: Connection refused)".into(),
        ErrorType::ConnectNoRoute => "connect() failed (113: No route to host)".into(),
        _ => format!("connect() failed ({e})"),
    }
}

/// The connector; it holds no connections.
fn connector() -> &'static TransportConnector {
    static CONNECTOR: OnceLock<TransportConnector> = OnceLock::new();
    CONNECTOR.get_or_init(|| TransportConnector::new(Some(ConnectorOptions::new(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_fail_in_nginxs_words() {
        let refused = "x cause: unexpected error: upstream SSL certificate verify error: (18:self-signed certificate), SNI: a";
        assert_eq!(
            handshake_error(refused),
            "upstream SSL certificate verify error: (18:self-signed certificate)"
        );
        let other = "TLSHandshakeFailure context: b cause: tls handshake eof, SNI: a";
        assert_eq!(handshake_error(other), "SSL_do_handshake() failed (SSL: tls handshake eof)");
    }
}
