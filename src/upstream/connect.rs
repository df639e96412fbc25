//! Connections to upstream servers, made by Pingora's transport connector.

use super::group::PeerAddr;
use super::pool::Connection;
use parking_lot::Mutex;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// TLS towards an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsPeer {
    /// The name asked for and checked; empty asks for none.
    pub name: String,
    /// Whether the name is sent (`proxy_ssl_server_name`).
    pub send_name: bool,
    /// Whether the certificate is checked (`proxy_ssl_verify`).
    pub verify: bool,
    /// Trusted certificates (`proxy_ssl_trusted_certificate`).
    pub trusted: Option<String>,
}

/// What must be equal for a kept connection to be used again.
pub fn kind(tls: Option<&TlsPeer>) -> u64 {
    let mut hasher = DefaultHasher::new();
    tls.hash(&mut hasher);
    hasher.finish()
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// Not in time.
    Timeout,
    /// Refused, unreachable, a handshake that failed: nginx's words for it.
    Failed(String),
}

/// Connects to `addr`.
pub async fn connect(
    addr: &PeerAddr,
    tls: Option<&TlsPeer>,
    timeout: Duration,
    socket_keepalive: bool,
) -> Result<Connection, ConnectError> {
    let connector = connector(tls.and_then(|t| t.trusted.as_deref())).map_err(ConnectError::Failed)?;
    let mut sni = String::new();
    if let Some(tls) = tls {
        // A literal address is never sent as a name, which is how none is sent.
        let literal = match addr {
            PeerAddr::Inet(a) => a.ip().to_string(),
            PeerAddr::Unix(_) => "127.0.0.1".to_string(),
        };
        sni = if tls.send_name || tls.verify { tls.name.clone() } else { literal };
    }
    let mut peer = match addr {
        PeerAddr::Inet(a) => HttpPeer::new(*a, tls.is_some(), sni),
        PeerAddr::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), tls.is_some(), sni)
            .map_err(|e| ConnectError::Failed(e.to_string()))?,
    };
    if let Some(tls) = tls {
        peer.options.verify_cert = tls.verify;
        peer.options.verify_hostname = tls.verify;
    }
    if socket_keepalive {
        peer.options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(15),
            count: 4,
            user_timeout: Duration::ZERO,
        });
    }
    match tokio::time::timeout(timeout, connector.new_stream(&peer)).await {
        Err(_) => Err(ConnectError::Timeout),
        Ok(Err(e)) if *e.etype() == ErrorType::ConnectTimedout => Err(ConnectError::Timeout),
        Ok(Err(e)) => Err(ConnectError::Failed(describe(&e))),
        Ok(Ok(stream)) => Ok(Connection { stream, requests: 0, born: Instant::now() }),
    }
}

/// nginx's words for the common failures.
fn describe(e: &pingora_error::Error) -> String {
    match e.etype() {
        ErrorType::ConnectRefused => "connect() failed (111: Connection refused)".into(),
        ErrorType::ConnectNoRoute => "connect() failed (113: No route to host)".into(),
        ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert | ErrorType::TLSHandshakeTimedout => {
            format!("SSL_do_handshake() failed ({e})")
        }
        _ => format!("connect() failed ({e})"),
    }
}

/// The connector that trusts the certificates in `trusted`, or the system's. There are as many as
/// there are such files in the configuration; they hold no connections.
fn connector(trusted: Option<&str>) -> Result<Arc<TransportConnector>, String> {
    static ALL: OnceLock<Mutex<HashMap<Option<String>, Arc<TransportConnector>>>> = OnceLock::new();
    thread_local! {
        static PLAIN: std::cell::RefCell<Option<Arc<TransportConnector>>> = const { std::cell::RefCell::new(None) };
    }
    if trusted.is_none()
        && let Some(plain) = PLAIN.with_borrow(Clone::clone)
    {
        return Ok(plain);
    }
    let mut all = ALL.get_or_init(Mutex::default).lock();
    if let Some(found) = all.get(&trusted.map(str::to_string)) {
        if trusted.is_none() {
            PLAIN.set(Some(found.clone()));
        }
        return Ok(found.clone());
    }
    let mut options = ConnectorOptions::new(1);
    options.ca_file = trusted.map(str::to_string);
    if let Some(file) = trusted {
        // The connector panics on a file it cannot read; the configuration was checked, but the file
        // may have gone since.
        std::fs::metadata(file).map_err(|e| format!("cannot load certificate \"{file}\": {e}"))?;
    }
    let made = Arc::new(TransportConnector::new(Some(options)));
    all.insert(trusted.map(str::to_string), made.clone());
    Ok(made)
}
