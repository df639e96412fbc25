//! The HTTP/1.1 server: connections, and what is done with each request on them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::request::{self, NoRequest};
use super::response::Response;
use super::routes::{self, Reply};
use super::{flv_stream, websocket};

/// Most connections at once; more wait in the listen queue.
const CONNECTIONS: usize = 4096;

/// What is open and was done, for `/api/viewers`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections open.
    pub connections: AtomicU64,
    /// Requests answered since the start.
    pub requests: AtomicU64,
    /// FLV responses running.
    pub flv: AtomicU64,
    /// WebSockets open.
    pub websockets: AtomicU64,
}

/// Accepts and serves for ever. `listener` does not block. An error is one of starting.
pub async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let counts = Arc::new(Counts::default());
    loop {
        // The semaphore is never closed, so there is always a permit to wait for.
        let permit = Arc::clone(&room).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: wait until some are free again.
                log::warn!("demo site: accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let _permit = permit;
            let _open = Gauge::raise(&counts.connections);
            if let Err(error) = connection(stream, &counts).await {
                log::debug!("demo site: {error}");
            }
        });
    }
}

/// Answers the requests of one connection until either side has enough.
async fn connection(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    loop {
        let request = match request::read(&mut stream, &mut buffer).await {
            Ok(request) => request,
            Err(NoRequest::Left) => return Ok(()),
            Err(NoRequest::Refused(status)) => {
                return Response::bare(status).write(&mut stream, false, false).await;
            }
        };
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let keep_alive = request.keeps_alive();
        let head_only = request.method == "HEAD";
        match routes::route(&request, counts, now()) {
            Reply::Whole(response) => response.write(&mut stream, keep_alive, head_only).await?,
            Reply::Later(delay, response) => {
                tokio::time::sleep(delay).await;
                response.write(&mut stream, keep_alive, head_only).await?;
            }
            Reply::Flv => {
                let _watching = Gauge::raise(&counts.flv);
                return flv_stream::send(&mut stream, request.minor > 0).await;
            }
            Reply::WebSocket(accept) => {
                let _open = Gauge::raise(&counts.websockets);
                return websocket::echo(&mut stream, &mut buffer, &accept).await;
            }
        }
        if !keep_alive {
            return Ok(());
        }
    }
}

/// The time since the Unix epoch.
pub fn now() -> Duration {
    // A clock before 1970 shows the stream's first moment.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// One more of something, for as long as this lives.
struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    fn raise(count: &'a AtomicU64) -> Gauge<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Gauge(count)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
