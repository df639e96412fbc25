//! A small HTTP/1.1 client, and how thousands of them are had.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::ready;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// An answer, a connection or a handshake that takes longer is an error.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How many connections are being made at a time: fewer than any backlog.
const AT_A_TIME: usize = 64;
/// A head, and a body that is looked at, is no longer.
const SMALL_ANSWER: usize = 16 << 10;

/// Connects from one of sixteen addresses: one has not the ports for what all groups together make in a minute.
pub async fn connect(port: u16) -> Result<TcpStream, String> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let from = Ipv4Addr::new(127, 0, 0, 2 + NEXT.fetch_add(1, Ordering::Relaxed) % 16);
    let socket = TcpSocket::new_v4().map_err(|e| e.to_string())?;
    socket.bind(SocketAddr::from((from, 0))).map_err(|e| format!("bind: {e}"))?;
    let connecting = socket.connect(SocketAddr::from(([127, 0, 0, 1], port)));
    let stream = timeout(PATIENCE, connecting)
        .await
        .map_err(|_| "no connection")?
        .map_err(|e| format!("connect: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// Makes `count` of something, some at a time.
pub async fn many<T: Send + 'static, F>(count: usize, make: impl Fn(usize) -> F) -> Result<Vec<T>, String>
where
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    let (mut making, mut made) = (JoinSet::new(), Vec::with_capacity(count));
    for index in 0..count {
        if making.len() >= AT_A_TIME
            && let Some(one) = making.join_next().await
        {
            made.push(one.map_err(|e| e.to_string())??);
        }
        making.spawn(make(index));
    }
    while let Some(one) = making.join_next().await {
        made.push(one.map_err(|e| e.to_string())??);
    }
    Ok(made)
}

/// A connection that is kept.
pub struct Http1<S> {
    stream: S,
    /// What was read of the latest answer: its head and, if that is small, its body.
    read: Vec<u8>,
    body_at: usize,
}

/// An answer whose status is 200.
pub struct Answer<'a> {
    /// Bytes of its body.
    pub length: usize,
    /// The body itself, if it is small; else its beginning.
    pub body: &'a [u8],
}

/// A GET of `path`.
pub fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub fn new(stream: S) -> Http1<S> {
        Http1 { stream, read: Vec::new(), body_at: 0 }
    }

    /// Sends a request; any answer but a 200 whose body has `length` bytes is an error.
    pub async fn get(&mut self, request: &[u8], length: usize) -> Result<Answer<'_>, String> {
        let answer = self.ask(request).await?;
        if answer.length == length {
            return Ok(Answer { length, body: &self.read[self.body_at..] });
        }
        Err(format!("{} bytes, not {length}, for {}", answer.length, String::from_utf8_lossy(request)))
    }

    /// Sends a request; any answer but a 200 is an error.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>, String> {
        let length = match timeout(PATIENCE, self.exchange(request)).await {
            Ok(length) => length,
            Err(_) => Err("no answer".into()),
        };
        let length = length.map_err(|e| format!("{e} for {}", String::from_utf8_lossy(request)))?;
        Ok(Answer { length, body: &self.read[self.body_at..] })
    }

    /// Reads until the server ends the connection.
    pub async fn end(mut self) -> Result<(), String> {
        match timeout(PATIENCE, some(&mut self.stream, &mut self.read, 1)).await {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(_)) => Err("bytes after the end".into()),
            Ok(Err(why)) => Err(why),
            Err(_) => Err("no end".into()),
        }
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<usize, String> {
        self.stream.write_all(request).await.map_err(|e| e.to_string())?;
        self.stream.flush().await.map_err(|e| e.to_string())?;
        self.read.clear();
        let mut got = 0;
        self.body_at = loop {
            match some(&mut self.stream, &mut self.read, SMALL_ANSWER).await? {
                0 => return Err("the connection ended".into()),
                read => got += read,
            }
            if let Some(at) = memchr::memmem::find(&self.read, b"\r\n\r\n") {
                break at + 4;
            }
            if self.read.len() >= SMALL_ANSWER {
                return Err("no end of the head".into());
            }
        };
        let head = &self.read[..self.body_at];
        if !head.starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("not 200: {}", String::from_utf8_lossy(head)));
        }
        let length = content_length(head).ok_or("no length")?;
        let mut left = length.checked_sub(got - self.body_at).ok_or("too many bytes")?;
        while left > 0 {
            // What is large is only counted.
            let kept = if length < SMALL_ANSWER { left } else { 0 };
            match some(&mut self.stream, &mut self.read, kept).await? {
                0 => return Err(format!("{left} bytes are missing")),
                read => left = left.checked_sub(read).ok_or("too many bytes")?,
            }
        }
        Ok(length)
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?.1.trim().parse().ok()
}

/// Reads what is there into a buffer that all share, and keeps at most so much of it; returns how much it was.
async fn some<S: AsyncRead + Unpin>(
    stream: &mut S,
    kept: &mut Vec<u8>,
    most: usize,
) -> Result<usize, String> {
    thread_local! {
        static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; 1 << 18]);
    }
    let read = std::future::poll_fn(|cx| {
        SHARED.with_borrow_mut(|shared| {
            let mut into = ReadBuf::new(shared);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut into))?;
            let read = into.filled();
            kept.extend_from_slice(&read[..read.len().min(most)]);
            std::task::Poll::Ready(Ok::<_, std::io::Error>(read.len()))
        })
    });
    read.await.map_err(|e| e.to_string())
}
