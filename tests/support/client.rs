//! An HTTP/1.1 client that shows exactly what came over the wire, over TCP, TLS or a unix socket.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::tls::{Agreed, Tls};
use super::within;

/// Anything bytes can be sent over.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection. Requests may follow each other on it, or be sent all at once.
pub struct Client {
    io: Box<dyn Io>,
    unread: Vec<u8>,
    body: Framing,
    /// Sent as Host unless the request names its own.
    pub host: String,
    /// What the TLS handshake agreed on; none in the clear.
    pub tls: Option<Agreed>,
}

/// An answer. Until the body is read it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// The head as received, with the empty line.
    pub head: String,
    /// In the order and the case received.
    pub headers: Vec<(String, String)>,
    /// Without the framing of its transfer, with that of its Content-Encoding.
    pub body: Vec<u8>,
}

/// How the rest of a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Done,
    Length(u64),
    ChunkHead,
    Chunk(u64),
    UntilClose,
}

/// A GET on a connection of its own.
pub async fn get(addr: SocketAddr, target: &str) -> Response {
    Client::connect(addr).await.get(target).await
}

impl Client {
    /// Connects in the clear.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Connects in the clear from the address `source`.
    pub async fn connect_from(source: impl Into<IpAddr>, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source.into(), 0).into()).unwrap();
        Self::over(within("connect", socket.connect(addr)).await.unwrap())
    }

    /// Connects in the clear with a receive buffer as small as the kernel allows: the client of a slow viewer.
    pub async fn connect_narrow(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        Self::over(within("connect", socket.connect(addr)).await.unwrap())
    }

    /// Connects over TLS with default offers; `name` is the name asked for and the Host.
    pub async fn tls(addr: SocketAddr, name: &str) -> Self {
        Self::tls_with(&Tls::new(), addr, name).await
    }

    /// Connects over TLS with what `tls` offers.
    pub async fn tls_with(tls: &Tls, addr: SocketAddr, name: &str) -> Self {
        let (stream, agreed) = tls.connect(addr, name).await;
        Self { host: name.into(), tls: Some(agreed), ..Self::over(stream) }
    }

    /// Connects to a unix socket.
    pub async fn unix(path: &Path) -> Self {
        Self::over(within("connect", UnixStream::connect(path)).await.unwrap())
    }

    /// Speaks over a connection that is open already.
    pub fn over(io: impl Io + 'static) -> Self {
        Self {
            io: Box::new(io),
            unread: Vec::new(),
            body: Framing::Done,
            host: "localhost".into(),
            tls: None,
        }
    }

    /// The connection and what was received on it but not yet read.
    pub fn into_parts(self) -> (Box<dyn Io>, Vec<u8>) {
        (self.io, self.unread)
    }

    /// Sends a GET and reads the whole answer.
    pub async fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], b"").await
    }

    /// Sends a GET with headers and reads the whole answer.
    pub async fn get_with(&mut self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", target, headers, b"").await
    }

    /// Sends a request and reads the whole answer.
    pub async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.send_request(method, target, headers, body).await;
        self.response(method).await
    }

    /// Sends a request. Host and, with a body, Content-Length are added unless `headers` has them.
    pub async fn send_request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        if !has("host") {
            bytes.extend(format!("Host: {}\r\n", self.host).bytes());
        }
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        if !body.is_empty() && !has("content-length") && !has("transfer-encoding") {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        self.send(&bytes).await;
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends bytes as they are, to a peer that may have closed.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("send", async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        })
        .await
    }

    /// Closes the sending side.
    pub async fn shut(&mut self) {
        within("shut", self.io.shutdown()).await.unwrap();
    }

    /// Reads the answer to a request of `method`; panics if it is cut short.
    pub async fn response(&mut self, method: &str) -> Response {
        self.try_response(method).await.unwrap()
    }

    /// Reads the answer to a request of `method`; `UnexpectedEof` if it is cut short.
    pub async fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.try_head(method).await?;
        while let Some(piece) = self.try_piece().await? {
            response.body.extend(piece);
        }
        Ok(response)
    }

    /// Reads the head of an answer; its body follows with [`Client::piece`].
    pub async fn head(&mut self, method: &str) -> Response {
        self.try_head(method).await.unwrap()
    }

    /// Reads the head of an answer.
    pub async fn try_head(&mut self, method: &str) -> io::Result<Response> {
        assert_eq!(self.body, Framing::Done, "the body before is not read yet");
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end);
        let response = parse_head(head)?;
        self.body = framing(method, &response)?;
        Ok(response)
    }

    /// The next bytes of the body as they arrive; none at its end. Panics if it is cut short.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        self.try_piece().await.unwrap()
    }

    /// The next bytes of the body as they arrive; none at its end.
    pub async fn try_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.body {
                Framing::Done => return Ok(None),
                Framing::Length(0) => self.body = Framing::Done,
                Framing::Length(left) => {
                    let piece = self.take_up_to(left).await?;
                    self.body = Framing::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::ChunkHead => {
                    let line = self.line().await?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size =
                        u64::from_str_radix(size, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
                    if size == 0 {
                        while !self.line().await?.is_empty() {}
                        self.body = Framing::Done;
                    } else {
                        self.body = Framing::Chunk(size);
                    }
                }
                Framing::Chunk(0) => {
                    let end = self.line().await?;
                    if !end.is_empty() {
                        return Err(invalid(format!("{end:?} after a chunk")));
                    }
                    self.body = Framing::ChunkHead;
                }
                Framing::Chunk(left) => {
                    let piece = self.take_up_to(left).await?;
                    self.body = Framing::Chunk(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::UntilClose => {
                    if self.unread.is_empty()
                        && let Err(error) = self.more().await
                    {
                        self.body = Framing::Done;
                        return match error.kind() {
                            io::ErrorKind::UnexpectedEof => Ok(None),
                            _ => Err(error),
                        };
                    }
                    return Ok(Some(std::mem::take(&mut self.unread)));
                }
            }
        }
    }

    /// Waits until `length` more bytes of the body are here and takes them.
    pub async fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let mut piece = self.piece().await.expect("more of the body");
            let wanted = piece.len().min(length - bytes.len());
            let rest = piece.split_off(wanted);
            bytes.extend(piece);
            self.push_back(rest);
        }
        bytes
    }

    /// Returns decoded bytes of the body, so that they are read again.
    fn push_back(&mut self, rest: Vec<u8>) {
        if rest.is_empty() {
            return;
        }
        match &mut self.body {
            Framing::Length(left) | Framing::Chunk(left) => *left += rest.len() as u64,
            Framing::UntilClose => {}
            Framing::Done | Framing::ChunkHead => unreachable!("a piece leaves neither"),
        }
        self.unread.splice(..0, rest);
    }

    /// Waits until the peer closes; panics if it sends anything more.
    pub async fn closed(&mut self) {
        let mut rest = std::mem::take(&mut self.unread);
        // A reset closes as well as an orderly end.
        let _ = within("the end of the connection", self.io.read_to_end(&mut rest)).await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    async fn take_up_to(&mut self, most: u64) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.more().await?;
        }
        let length = self.unread.len().min(most as usize);
        Ok(self.unread.drain(..length).collect())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..at]).into_owned();
                self.unread.drain(..at + 2);
                return Ok(line);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match within("receive", self.io.read_buf(&mut self.unread)).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "closed after {:?}",
                    String::from_utf8_lossy(&self.unread[..self.unread.len().min(300)])
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// Every value of a header, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body with its gzip Content-Encoding undone.
    pub fn gunzipped(&self) -> Vec<u8> {
        assert_eq!(self.header("content-encoding"), Some("gzip"));
        let mut plain = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(self.body.as_slice()), &mut plain).unwrap();
        plain
    }
}

fn parse_head(head: String) -> io::Result<Response> {
    let mut lines = head.trim_end().split("\r\n");
    let start = lines.next().unwrap_or_default();
    let status = start
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| invalid(format!("status line {start:?}")))?;
    let headers = lines
        .map(|line| match line.split_once(": ").or(line.split_once(':')) {
            Some((name, value)) => Ok((name.to_string(), value.to_string())),
            None => Err(invalid(format!("header line {line:?}"))),
        })
        .collect::<io::Result<_>>()?;
    Ok(Response { status, headers, head, body: Vec::new() })
}

fn framing(method: &str, response: &Response) -> io::Result<Framing> {
    if method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304) {
        return Ok(Framing::Done);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        return Ok(Framing::ChunkHead);
    }
    match response.header("content-length") {
        Some(length) => match length.parse() {
            Ok(length) => Ok(Framing::Length(length)),
            Err(_) => Err(invalid(format!("Content-Length {length:?}"))),
        },
        None => Ok(Framing::UntilClose),
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}
