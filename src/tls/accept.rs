//! The handshake: the first byte tells TLS from plain HTTP, the name tells the server.

use super::clients::{ClientCertificate, Clients};
use super::hello::{self, HANDSHAKE_RECORD, Hello};
use super::stream::TlsStream;
use super::{ciphers, groups, turns};
use crate::conf::values::os_error;
use crate::edge::Local;
use crate::edge::connection::Socket;
use crate::http::io::Io;
use crate::http::listens::{Bound, address_text};
use crate::http::request::{Address, TlsInfo};
use crate::observe::error_log::Level;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, HandshakeKind, ProtocolVersion, ServerConfig};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

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
    /// The client speaks plain HTTP; what was read of it.
    Plain(Socket, Vec<u8>),
    /// It failed, and was counted and logged.
    Failed,
}

/// Who wants in, for the log.
pub struct Client<'a> {
    /// The connection's number.
    pub serial: u64,
    /// Its address.
    pub peer: &'a Address,
}

/// Takes a handshake, which has `client_header_timeout` in all. rustls bounds a hello at 64 KB.
pub async fn accept(local: &Local, bound: &Bound, socket: Socket, client: &Client<'_>) -> Accepted {
    let http = &local.generation.http;
    let server = &http.servers[bound.names.default];
    let time = *server.conf.core.client_header_timeout;
    let counters = &local.worker.metrics.connections;
    counters.reading.add(1);
    // Boxed: a handshake's state is large, and the connection outlives it.
    let outcome = match timeout(time, Box::pin(shake(local, bound, socket))).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Timeout),
    };
    counters.reading.add(-1);
    let failure = match outcome {
        Ok(Shaken::Plain(socket, read)) => return Accepted::Plain(socket, read),
        Ok(Shaken::Tls { io, info, h2 }) => {
            let kind = if info.resumed { &counters.handshakes_resumed } else { &counters.handshakes };
            kind.inc();
            return Accepted::Tls { io, info, h2 };
        }
        Err(failure) => failure,
    };
    // One that connects and leaves without a byte has not failed at anything.
    if !matches!(failure, Failure::Left) {
        counters.handshakes_failed.inc();
    }
    let level = &http.levels[server.level].conf.core.error_logs;
    let log = local.generation.error_log();
    if log.wants(level, Level::Info) {
        let peer = match client.peer.ip() {
            Some(ip) => ip.to_string(),
            None => address_text(client.peer),
        };
        log.write(
            level,
            Level::Info,
            format_args!(
                "*{} {failure} while SSL handshaking, client: {peer}, server: {}",
                client.serial, bound.addr
            ),
        );
    }
    Accepted::Failed
}

enum Shaken {
    Plain(Socket, Vec<u8>),
    Tls { io: Io, info: TlsInfo, h2: bool },
}

/// Why there is no session. Displays as nginx logs it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("client timed out (110: Connection timed out)")]
    Timeout,
    #[error("client closed connection")]
    Left,
    #[error("peer closed connection in SSL handshake")]
    Closed,
    #[error("peer closed connection in SSL handshake ({})", os_error(.0))]
    Io(io::Error),
    #[error("SSL_do_handshake() failed (SSL: {0})")]
    Tls(String),
    #[error("handshake rejected")]
    Rejected,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Failure::Closed,
            // What rustls refuses comes wrapped; its text is about the protocol.
            _ if e.get_ref().is_some() => Failure::Tls(e.to_string()),
            _ => Failure::Io(e),
        }
    }
}

async fn shake(local: &Local, bound: &Bound, mut socket: Socket) -> Result<Shaken, Failure> {
    let mut received = Vec::new();
    if !await_hello(local, &mut socket, &mut received).await? {
        return Err(Failure::Left);
    }
    if received.first() != Some(&HANDSHAKE_RECORD) {
        return Ok(Shaken::Plain(socket, received));
    }
    let (io, info, h2) = match socket {
        Socket::Tcp(stream) => {
            let (tls, info, h2) = handshake(local, bound, stream, received).await?;
            (Io::Tls(tls), info, h2)
        }
        Socket::Unix(stream) => {
            let (tls, info, h2) = handshake(local, bound, stream, received).await?;
            (Io::TlsUnix(tls), info, h2)
        }
    };
    Ok(Shaken::Tls { io, info, h2 })
}

/// Receives the first bytes; false when there are none to come: the client closed, or the process is ending
/// and does not wait for one that has said nothing yet.
async fn await_hello(local: &Local, socket: &mut Socket, received: &mut Vec<u8>) -> io::Result<bool> {
    let mut quit = pin!(local.worker.quit());
    // Registered before looking, so that no wake-up is lost.
    quit.as_mut().enable();
    if local.worker.quitting() {
        return Ok(false);
    }
    let first = async {
        match socket {
            Socket::Tcp(stream) => receive(stream, received).await,
            Socket::Unix(stream) => receive(stream, received).await,
        }
    };
    tokio::select! {
        biased;
        n = first => n.map(|n| n > 0),
        () = quit => Ok(false),
    }
}

/// The most that is received at once; most hellos are smaller than this.
const RECEIVED: usize = 4096;

/// Receives what is at hand onto the end of `received`; 0 is the end of the stream.
async fn receive(stream: &mut (impl AsyncRead + Unpin), received: &mut Vec<u8>) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        // On the stack for no longer than it takes.
        let mut bytes = [MaybeUninit::uninit(); RECEIVED];
        let mut buf = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
        received.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
    .await
}

async fn handshake<S>(
    local: &Local,
    bound: &Bound,
    mut stream: S,
    mut received: Vec<u8>,
) -> Result<(Box<TlsStream<S>>, TlsInfo, bool), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = loop {
        match hello::read(&received) {
            Hello::Whole(name) => break name,
            Hello::Partial => {
                if receive(&mut stream, &mut received).await? == 0 {
                    return Err(Failure::Closed);
                }
            }
        }
    };
    let Some((config, clients)) = choose(local, bound, name.as_deref()) else {
        let _ = timeout(Duration::from_secs(1), stream.write_all(&UNRECOGNIZED_NAME)).await;
        let _ = stream.shutdown().await;
        return Err(Failure::Rejected);
    };
    turns::turn().await;
    let session = UnbufferedServerConnection::new(config).map_err(|e| Failure::Tls(e.to_string()))?;
    let mut tls = Box::new(TlsStream::new(stream, session, received));
    tls.handshake().await?;
    let session = tls.session();
    let mut info = info(session, name);
    if let (Some(clients), Some(chain)) = (clients, session.peer_certificates()) {
        info.client = Some(Arc::new(ClientCertificate::new(chain, &clients)));
    }
    let h2 = session.alpn_protocol() == Some(b"h2");
    Ok((tls, info, h2))
}

/// See [`choose`].
type Chosen = (Arc<ServerConfig>, Option<Arc<Clients>>);

/// A fatal `unrecognized_name` alert, in the clear as everything before the server's hello.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0, 2, 2, 112];

/// The configuration of the server for the name that the client asks for; `None` when that server
/// rejects handshakes. A server without certificates answers with the default server's. Beside it stands
/// how certificates of clients are asked for.
fn choose(local: &Local, bound: &Bound, name: Option<&str>) -> Option<Chosen> {
    let servers = &local.generation.http.servers;
    let default = &servers[bound.names.default].conf;
    let server = match name {
        Some(name) => &servers[bound.names.find(name.as_bytes(), None)].conf,
        None => default,
    };
    if *server.ssl.reject_handshake {
        return None;
    }
    let tls = server.ssl.tls.as_ref().or(default.ssl.tls.as_ref())?;
    Some((tls.config(bound.http2 || *server.http2.on).clone(), tls.clients.clone()))
}

fn info(session: &CommonState, name: Option<String>) -> TlsInfo {
    TlsInfo {
        protocol: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cipher: session.negotiated_cipher_suite().map_or("", |s| ciphers::name(s.suite())),
        curve: session.negotiated_key_exchange_group().map_or("", |g| groups::name(g.name())),
        alpn: match session.alpn_protocol() {
            Some(b"h2") => "h2",
            Some(b"http/1.1") => "http/1.1",
            Some(b"http/1.0") => "http/1.0",
            _ => "",
        },
        server_name: name.map(Arc::from),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        client: None,
    }
}
