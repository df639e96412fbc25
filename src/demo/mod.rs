//! The demo: a small live site that Edgewater runs beside itself, to have something to stand before.
//!
//! It is an origin like any other, reached over HTTP/1.1 on a loopback port of its own: an endless live
//! stream (HLS at `/live/stream.m3u8`, HTTP-FLV at `/live/stream.flv`), a JSON API under `/api/`, a WebSocket
//! that echoes at `/ws`, and a page at `/` that plays the stream and shows what the edge does. It shares no
//! code with the edge, so that what the edge does to its answers can be believed.
//!
//! * `server` accepts connections; `request` reads what comes, within bounds; `response` writes what goes;
//! * `routes` maps a path to an answer, from `api`, `page`, `playlist`, or one of the long ones,
//!   `flv_stream` and `websocket`;
//! * `timeline` says which segment is live at what time; `clip` holds the frames; `flv` takes them apart.

mod api;
mod clip;
mod flv;
mod flv_stream;
mod page;
mod playlist;
mod request;
mod response;
mod routes;
mod server;
mod timeline;
mod websocket;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// A running demo site. It serves until this is dropped; dropping it cuts what is still open and returns when
/// the site's thread has ended.
#[derive(Debug)]
pub struct DemoSite {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the demo site on `addr` (port 0 takes a free one), on a thread of its own.
///
/// It listens when this returns. An error is that of binding `addr`, or of starting the thread or its runtime.
pub fn start(addr: SocketAddr) -> io::Result<DemoSite> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("demo".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                served = server::serve(listener) => {
                    if let Err(error) = served {
                        log::error!("demo site: {error}");
                    }
                }
                _ = stopped => {}
            }
        });
    })?;
    Ok(DemoSite { addr, stop: Some(stop), thread: Some(thread) })
}

impl DemoSite {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for DemoSite {
    fn drop(&mut self) {
        // Dropping the sender is the signal: the thread waits for either.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on stderr already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
