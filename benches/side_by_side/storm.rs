//! The miss storm: a thousand viewers ask for the same new segment at the same moment, again and again.
//!
//! The origin is as far away as origins are: 20 ms to the first byte, then a segment in 80 ms more. It and the viewers
//! share the load's core, in threads of their own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::peers::Peer;
use crate::pin::{load, on_load_core};

pub const NAME: &str = "miss storm 1m";
pub const VIEWERS: usize = 1000;
pub const SEGMENT: usize = 1 << 20;
/// How often there is a new segment.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// From a request to the first byte of its answer.
pub const FIRST_BYTE: Duration = Duration::from_millis(20);
/// From there to the last, in [`PIECES`] steps.
pub const TRANSFER: Duration = Duration::from_millis(80);
const PIECES: usize = 16;
/// A viewer without its segment after so long is an error.
const PATIENCE: Duration = Duration::from_secs(30);

/// One segment.
pub struct Round {
    /// From the moment when all asked to the last byte, for each viewer; sorted.
    pub times: Vec<Duration>,
    /// How often the origin was asked.
    pub upstream: u64,
}

/// The segments at one server.
pub struct Storm {
    pub name: &'static str,
    pub rounds: Vec<Round>,
    /// CPU time of the server for one segment and all who watch it.
    pub cpu: Duration,
}

/// Where segments come from.
pub struct Origin {
    pub port: u16,
    requests: Arc<AtomicU64>,
}

impl Origin {
    pub fn start() -> Result<Origin, String> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        let requests = Arc::<AtomicU64>::default();
        let counted = requests.clone();
        std::thread::spawn(move || {
            let served: Result<(), String> = on_load_core(async move {
                let listener = TcpListener::from_std(listener).map_err(|e| e.to_string())?;
                loop {
                    let (stream, _) = listener.accept().await.map_err(|e| e.to_string())?;
                    tokio::spawn(answer(stream, counted.clone()));
                }
            });
            if let Err(why) = served {
                eprintln!("bench: the origin of segments: {why}");
            }
        });
        Ok(Origin { port, requests })
    }
}

/// Answers what comes on a connection, each request with a segment. Its end is the client's matter.
async fn answer(mut stream: TcpStream, requests: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let piece = vec![b's'; SEGMENT / PIECES];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nContent-Length: {SEGMENT}\r\n\r\n");
    let mut unread = Vec::new();
    loop {
        while memchr::memmem::find(&unread, b"\r\n\r\n").is_none() {
            if stream.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
        }
        // Nobody sends a request before the answer to the one before it.
        unread.clear();
        requests.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now() + FIRST_BYTE;
        sleep_until(begin).await;
        stream.write_all(head.as_bytes()).await?;
        for step in 1..=PIECES as u32 {
            stream.write_all(&piece).await?;
            sleep_until(begin + TRANSFER * step / PIECES as u32).await;
        }
    }
}

/// Has all viewers watch `rounds` segments at a server.
pub fn run(peer: &Peer, origin: &Origin, rounds: usize) -> Result<Storm, String> {
    let (port, requests) = (peer.ports.plain, origin.requests.clone());
    let before = peer.cpu()?;
    let rounds = load(move || watch(port, requests, rounds)).map_err(|e| format!("{}: {e}", peer.name))?;
    let cpu = (peer.cpu()? - before) / rounds.len().max(1) as u32;
    Ok(Storm { name: peer.name, rounds, cpu })
}

async fn watch(port: u16, requests: Arc<AtomicU64>, rounds: usize) -> Result<Vec<Round>, String> {
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
        // What is asked for first is there already: it is about the connection only.
        viewers.push(
            timeout(PATIENCE, view(stream, "/cached/1k.bin", 1024)).await.map_err(|e| e.to_string())??.0,
        );
    }
    let mut done = Vec::new();
    for round in 0..rounds {
        let before = requests.load(Ordering::Relaxed);
        let begin = Instant::now();
        let mut watching = JoinSet::new();
        for stream in viewers.drain(..) {
            let path = format!("/segments/{round}.ts");
            watching.spawn(async move { timeout(PATIENCE, view(stream, &path, SEGMENT)).await });
        }
        let mut times = Vec::new();
        while let Some(viewed) = watching.join_next().await {
            let (stream, end) =
                viewed.map_err(|e| e.to_string())?.map_err(|_| "a viewer waits in vain")??;
            times.push(end - begin);
            viewers.push(stream);
        }
        times.sort_unstable();
        done.push(Round { times, upstream: requests.load(Ordering::Relaxed) - before });
        sleep_until(begin + INTERVAL).await;
    }
    Ok(done)
}

/// Asks for `path` and reads the answer, which must have `size` bytes; returns when its last byte was there.
async fn view(mut stream: TcpStream, path: &str, size: usize) -> Result<(TcpStream, Instant), String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut read = Vec::with_capacity(4096);
    let body_at = loop {
        if let Some(at) = memchr::memmem::find(&read, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut read).await.map_err(|e| e.to_string())? == 0 {
            return Err(format!("{path}: the connection ended"));
        }
    };
    let head = String::from_utf8_lossy(&read[..body_at]).to_ascii_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    if !head.starts_with("http/1.1 200") || length != Some(size) {
        return Err(format!("{path}: no answer with {size} bytes:\n{head}"));
    }
    let mut left = size.checked_sub(read.len() - body_at).ok_or_else(|| format!("{path}: too many bytes"))?;
    // The kernel throws away what it would only copy to be thrown away here; what counts is how much there was.
    let mut nowhere = vec![0; 1 << 18];
    while left > 0 {
        let most = left.min(nowhere.len());
        let some = stream
            .async_io(Interest::READABLE, || {
                let (_, length) = rustix::net::recv(&stream, &mut nowhere[..most], RecvFlags::TRUNC)?;
                Ok(length)
            })
            .await
            .map_err(|e| e.to_string())?;
        if some == 0 {
            return Err(format!("{path}: {left} bytes are missing"));
        }
        left -= some;
    }
    Ok((stream, Instant::now()))
}
