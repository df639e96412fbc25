//! The origin of live streams: playlists that change every two seconds, and their segments.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::pin::on_load_core;

/// How long a segment is played.
pub const SEGMENT_LASTS: Duration = Duration::from_secs(2);
/// Bytes of each.
pub const SEGMENT: usize = 400 * 1024;
/// How many a playlist names.
const WINDOW: u64 = 6;
/// The number of the newest segment when the origin starts.
const FIRST: u64 = 1000;

/// Where playlists and segments come from, on the load's core.
pub struct Origin {
    pub port: u16,
    /// How often it was asked.
    pub requests: Arc<AtomicU64>,
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
                let (begin, segment) = (Instant::now(), Arc::new(vec![b's'; SEGMENT]));
                loop {
                    let (stream, _) = listener.accept().await.map_err(|e| e.to_string())?;
                    tokio::spawn(answer(stream, begin, segment.clone(), counted.clone()));
                }
            });
            if let Err(why) = served {
                eprintln!("bench: the origin of live streams: {why}");
            }
        });
        Ok(Origin { port, requests })
    }
}

/// The path of a stream's playlist.
pub fn playlist_path(stream: usize) -> String {
    format!("/live/{stream}/index.m3u8")
}

/// The path of the newest segment that a playlist names.
pub fn newest(stream: usize, playlist: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(playlist).ok()?;
    let name = text.lines().rev().find(|line| line.ends_with(".ts"))?;
    text.starts_with("#EXTM3U\n").then(|| format!("/live/{stream}/{name}"))
}

/// Answers what comes on a connection. Its end is the client's matter.
async fn answer(
    mut stream: TcpStream,
    begin: Instant,
    segment: Arc<Vec<u8>>,
    requests: Arc<AtomicU64>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::new();
    loop {
        // Nobody sends a request before the answer to the one before it.
        read.clear();
        while memchr::memmem::find(&read, b"\r\n\r\n").is_none() {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        requests.fetch_add(1, Ordering::Relaxed);
        let head = String::from_utf8_lossy(&read);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let now = FIRST + (begin.elapsed().as_millis() / SEGMENT_LASTS.as_millis()) as u64;
        let number = path.strip_suffix(".ts").and_then(|p| p.rsplit('/').next()?.parse::<u64>().ok());
        let (head, body) = match number {
            // One that has left the playlist is there a while longer.
            Some(number) if number <= now && number + 2 * WINDOW > now => {
                let head = "200 OK\r\nContent-Type: video/mp2t\r\nCache-Control: max-age=3600";
                (head, segment.as_slice())
            }
            None if path.ends_with("/index.m3u8") => {
                let head =
                    "200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\nCache-Control: max-age=1";
                (head, &playlist(now).into_bytes()[..])
            }
            _ => ("404 Not Found", &b""[..]),
        };
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
    }
}

/// The playlist whose newest segment has this number.
fn playlist(newest: u64) -> String {
    let segments = (newest + 1 - WINDOW..=newest).map(|number| format!("#EXTINF:2.000,\n{number}.ts\n"));
    format!(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{}\n{}",
        newest + 1 - WINDOW,
        segments.collect::<String>()
    )
}
