//! A scriptable HTTP/1.1 server that stands in for what is behind the edge, and remembers all it was sent.
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, handshake::derive_accept_key};

use super::{address, within};

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which connection it came on, from 0 in the order of acceptance.
    pub connection: usize,
    /// The head as received, with the empty line.
    pub head: String,
    pub method: String,
    pub target: String,
    pub version: String,
    /// In the order and the case received.
    pub headers: Vec<(String, String)>,
    /// Without the framing of its transfer. Empty for [`Origin::start_early`].
    pub body: Vec<u8>,
}

impl Request {
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

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What an origin does with a request.
pub struct Answer(Kind);

enum Kind {
    Whole(Whole),
    Stream(Whole, mpsc::Receiver<Piece>),
    Raw(Vec<u8>),
    Echo(String),
}

#[derive(Default)]
struct Whole {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    /// Bytes of the body that are sent before the connection is closed; all, and it stays open, if none.
    cut: Option<usize>,
    close: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Framing {
    #[default]
    Length,
    Chunked,
    UntilClose,
}

enum Piece {
    Data(Vec<u8>),
    Abort,
}

impl Answer {
    /// 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// A status with an empty body.
    pub fn status(status: u16) -> Self {
        Self(Kind::Whole(Whole { status, ..Whole::default() }))
    }

    /// A 200 whose body is sent through the [`Feed`], chunked; its head goes out at once.
    pub fn stream() -> (Self, Feed) {
        let (sender, receiver) = mpsc::channel(16);
        let whole = Whole { status: 200, framing: Framing::Chunked, ..Whole::default() };
        (Self(Kind::Stream(whole, receiver)), Feed { sender })
    }

    /// These bytes as they are, then the end of the connection. With no bytes: hangs up.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Kind::Raw(bytes.into()))
    }

    /// Accepts a WebSocket that answers each message with `name`, a colon and the message.
    pub fn websocket_echo(name: &str) -> Self {
        Self(Kind::Echo(name.into()))
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.whole().headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.whole().body = body.into();
        self
    }

    /// In chunks instead of with a Content-Length.
    pub fn chunked(mut self) -> Self {
        self.whole().framing = Framing::Chunked;
        self
    }

    /// The body ends with the connection, as in HTTP/1.0.
    pub fn until_close(mut self) -> Self {
        self.whole().framing = Framing::UntilClose;
        self
    }

    /// Closes the connection afterwards, and says so.
    pub fn closing(mut self) -> Self {
        self.whole().close = true;
        self
    }

    /// Closes the connection when `length` bytes of the body are sent.
    pub fn cut_after(mut self, length: usize) -> Self {
        self.whole().cut = Some(length);
        self
    }

    fn whole(&mut self) -> &mut Whole {
        match &mut self.0 {
            Kind::Whole(whole) | Kind::Stream(whole, _) => whole,
            Kind::Raw(_) | Kind::Echo(_) => panic!("this answer has no head to change"),
        }
    }
}

/// The sending end of a streamed body. Dropping it ends the body properly.
pub struct Feed {
    sender: mpsc::Sender<Piece>,
}

impl Feed {
    /// Sends bytes now, as one chunk; panics if the peer has gone.
    pub async fn send(&self, bytes: impl Into<Vec<u8>>) {
        assert!(self.try_send(bytes).await, "the peer has gone");
    }

    /// Sends bytes now, as one chunk; false if the peer has gone.
    pub async fn try_send(&self, bytes: impl Into<Vec<u8>>) -> bool {
        let piece = Piece::Data(bytes.into());
        within("room to send", self.sender.send(piece)).await.is_ok()
    }

    /// Closes the connection in the middle of the body.
    pub async fn abort(self) {
        // If the peer has gone it is closed already.
        let _ = within("room to send", self.sender.send(Piece::Abort)).await;
    }

    /// Waits until the peer has closed the connection.
    pub async fn closed(&self) {
        within("the peer to go", self.sender.closed()).await;
    }
}

type Handler = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync + 'static>;

/// A running origin. Dropping it, or [`Origin::stop`], closes its listener and its connections.
pub struct Origin {
    addr: SocketAddr,
    seen: Arc<Seen>,
    acceptor: JoinHandle<()>,
}

struct Seen {
    requests: Mutex<Vec<Request>>,
    arrived: watch::Sender<usize>,
    connections: AtomicUsize,
    open: watch::Sender<usize>,
    /// Bytes of request bodies read so far.
    uploaded: watch::Sender<usize>,
}

impl Origin {
    /// Starts an origin on an address of its own that answers with what `handler` returns.
    pub async fn start<F, A>(handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let any_port = SocketAddr::from((address::fresh(), 0));
        Self::start_at(any_port, handler).await
    }

    /// As [`Origin::start`], for a handler that has nothing to wait for.
    pub async fn answering(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(move |request| std::future::ready(handler(&request))).await
    }

    /// As [`Origin::start`], at an address where another origin has stopped.
    pub async fn start_at<F, A>(addr: SocketAddr, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Self::listen(addr, Arc::new(move |r| Box::pin(handler(r))), false).await
    }

    /// As [`Origin::start`], but the handler runs when the head is here; the body is read meanwhile
    /// ([`Origin::uploaded`]) and the answer sent when it has ended.
    pub async fn start_early<F, A>(handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let any_port = SocketAddr::from((address::fresh(), 0));
        Self::listen(any_port, Arc::new(move |r| Box::pin(handler(r))), true).await
    }

    async fn listen(addr: SocketAddr, handler: Handler, early: bool) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            requests: Mutex::default(),
            arrived: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            uploaded: watch::Sender::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, seen.clone(), handler, early));
        Self { addr, seen, acceptor }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Everything it was asked, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// What it was asked last.
    pub fn last(&self) -> Request {
        self.requests().pop().expect("a request has reached the origin")
    }

    /// How many requests it had whose target, without the query, is `path`.
    pub fn hits(&self, path: &str) -> usize {
        self.requests().iter().filter(|r| r.path() == path).count()
    }

    /// How many requests it had.
    pub fn count(&self) -> usize {
        *self.seen.arrived.borrow()
    }

    /// Waits until it has had at least `count` requests.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.seen.arrived.subscribe();
        let enough = arrived.wait_for(|&so_far| so_far >= count);
        within(&format!("{count} requests at the origin"), enough).await.unwrap();
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        *self.seen.open.borrow()
    }

    /// Waits until exactly `count` connections are open.
    pub async fn wait_open(&self, count: usize) {
        let mut open = self.seen.open.subscribe();
        let reached = open.wait_for(|&now| now == count);
        within(&format!("{count} open connections at the origin"), reached).await.unwrap();
    }

    /// Waits until `length` bytes of request bodies have arrived.
    pub async fn uploaded(&self, length: usize) {
        let mut uploaded = self.seen.uploaded.subscribe();
        let enough = uploaded.wait_for(|&so_far| so_far >= length);
        within(&format!("{length} bytes at the origin"), enough).await.unwrap();
    }

    /// Closes the listener and every connection; returns when both have happened.
    pub async fn stop(mut self) {
        self.acceptor.abort();
        let _ = (&mut self.acceptor).await;
        self.wait_open(0).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Counts a connection as open while it lives.
struct Opened(Arc<Seen>);

impl Opened {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.send_modify(|open| *open += 1);
        Self(seen.clone())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>, handler: Handler, early: bool) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let connection = Connection {
                    stream,
                    unread: Vec::new(),
                    number: seen.connections.fetch_add(1, Ordering::Relaxed),
                    seen: seen.clone(),
                };
                connections.spawn(connection.serve(Opened::new(&seen), handler.clone(), early));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    number: usize,
    seen: Arc<Seen>,
}

impl Connection {
    async fn serve(mut self, opened: Opened, handler: Handler, early: bool) {
        // A peer that goes ends the connection, nothing else.
        let _ = self.exchange(handler, early).await;
        drop(self);
        drop(opened);
    }

    async fn exchange(&mut self, handler: Handler, early: bool) -> std::io::Result<()> {
        while let Some(mut request) = self.head().await? {
            let is_head = request.method == "HEAD";
            let answer = if early {
                self.note(&request);
                let answer = handler(request.clone()).await;
                self.body(&request).await?;
                answer
            } else {
                request.body = self.body(&request).await?;
                self.note(&request);
                handler(request.clone()).await
            };
            let open = match answer.0 {
                Kind::Whole(whole) => self.send(whole, is_head).await?,
                Kind::Stream(whole, pieces) => self.stream(whole, pieces).await?,
                Kind::Raw(bytes) => {
                    self.stream.write_all(&bytes).await?;
                    false
                }
                Kind::Echo(name) => {
                    self.echo(&request, &name).await?;
                    false
                }
            };
            if !open {
                break;
            }
        }
        self.stream.shutdown().await
    }

    fn note(&self, request: &Request) {
        self.seen.requests.lock().unwrap().push(request.clone());
        self.seen.arrived.send_modify(|count| *count += 1);
    }

    /// The next request without its body; none at the end of the connection.
    async fn head(&mut self) -> std::io::Result<Option<Request>> {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let mut start = lines.next().unwrap_or_default().splitn(3, ' ');
        let mut word = || start.next().unwrap_or_default().to_string();
        Ok(Some(Request {
            connection: self.number,
            method: word(),
            target: word(),
            version: word(),
            headers: lines
                .map(|line| line.split_once(':').unwrap_or((line, "")))
                .map(|(name, value)| (name.to_string(), value.trim().to_string()))
                .collect(),
            body: Vec::new(),
            head,
        }))
    }

    async fn body(&mut self, request: &Request) -> std::io::Result<Vec<u8>> {
        if request.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    return Ok(body);
                }
                body.extend(self.exactly(size).await?);
                self.line().await?;
            }
        }
        let length = request.header("content-length").map(str::parse);
        self.exactly(length.and_then(Result::ok).unwrap_or(0)).await
    }

    async fn exactly(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            if self.unread.is_empty() && self.more().await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let now = self.unread.len().min(length - bytes.len());
            bytes.extend(self.unread.drain(..now));
            self.seen.uploaded.send_modify(|total| *total += now);
        }
        Ok(bytes)
    }

    async fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..at]).into_owned();
                self.unread.drain(..at + 2);
                return Ok(line);
            }
            if self.more().await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn more(&mut self) -> std::io::Result<usize> {
        self.stream.read_buf(&mut self.unread).await
    }

    /// Sends an answer; whether the connection stays open.
    async fn send(&mut self, whole: Whole, is_head: bool) -> std::io::Result<bool> {
        let mut bytes = head_of(&whole, Some(whole.body.len()));
        let bodiless = is_head || matches!(whole.status, 100..=199 | 204 | 304);
        if !bodiless {
            let sent = &whole.body[..whole.cut.unwrap_or(whole.body.len())];
            match whole.framing {
                Framing::Chunked => {
                    if !sent.is_empty() {
                        bytes.extend(chunk(sent));
                    }
                    if whole.cut.is_none() {
                        bytes.extend(b"0\r\n\r\n");
                    }
                }
                Framing::Length | Framing::UntilClose => bytes.extend(sent),
            }
        }
        self.stream.write_all(&bytes).await?;
        Ok(whole.cut.is_none() && !whole.close && whole.framing != Framing::UntilClose)
    }

    /// Sends a body as it is fed; whether the connection stays open.
    async fn stream(&mut self, whole: Whole, mut pieces: mpsc::Receiver<Piece>) -> std::io::Result<bool> {
        self.stream.write_all(&head_of(&whole, None)).await?;
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                // While it is answered nothing is expected but the end of the connection.
                read = self.stream.read_buf(&mut self.unread) => match read? {
                    0 => return Ok(false),
                    _ => continue,
                },
            };
            match piece {
                Some(Piece::Data(bytes)) if whole.framing == Framing::Chunked => {
                    self.stream.write_all(&chunk(&bytes)).await?;
                }
                Some(Piece::Data(bytes)) => self.stream.write_all(&bytes).await?,
                Some(Piece::Abort) => return Ok(false),
                None if whole.framing == Framing::Chunked => {
                    self.stream.write_all(b"0\r\n\r\n").await?;
                    return Ok(!whole.close);
                }
                None => return Ok(false),
            }
        }
    }

    async fn echo(&mut self, request: &Request, name: &str) -> std::io::Result<()> {
        let Some(key) = request.header("sec-websocket-key") else {
            let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            return self.stream.write_all(refusal.as_bytes()).await;
        };
        let accept = derive_accept_key(key.as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes()).await?;
        let unread = std::mem::take(&mut self.unread);
        let mut socket =
            WebSocketStream::from_partially_read(&mut self.stream, unread, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let reply = match message {
                Message::Text(text) => Message::text(format!("{name}:{text}")),
                Message::Binary(bytes) => Message::Binary(bytes),
                // tungstenite answers these itself.
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                    continue;
                }
            };
            if socket.send(reply).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn head_of(whole: &Whole, length: Option<usize>) -> Vec<u8> {
    let status = http::StatusCode::from_u16(whole.status).unwrap();
    let reason = status.canonical_reason().unwrap_or("Unknown");
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", whole.status);
    for (name, value) in &whole.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match (whole.framing, length) {
        (Framing::Chunked, _) => head += "Transfer-Encoding: chunked\r\n",
        (Framing::Length, Some(length)) if !matches!(whole.status, 100..=199 | 204 | 304) => {
            head += &format!("Content-Length: {length}\r\n");
        }
        _ => {}
    }
    if whole.close {
        head += "Connection: close\r\n";
    }
    (head + "\r\n").into_bytes()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend(bytes);
    chunk.extend(b"\r\n");
    chunk
}
