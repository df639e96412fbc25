//! What the integration tests share: the server under test, stand-ins for the origins behind it, clients before it.
//!
//! A test describes a server with [`server::Plan`], gives it origins ([`origin::Origin`]) and speaks to it with a
//! client ([`client::Client`] for HTTP/1.1, [`http2::Http2`], [`websocket`]). Every wait is bounded by
//! [`PATIENCE`], so what hangs fails. `UNDER_TEST=/usr/sbin/nginx` runs the same tests against nginx.
#![allow(dead_code)] // each test target uses a part of it

pub mod address;
pub mod burst;
pub mod certificate;
pub mod client;
pub mod config;
pub mod dns;
pub mod http2;
pub mod metrics;
pub mod origin;
pub mod server;
pub mod tls;
pub mod websocket;

use std::future::Future;
use std::time::Duration;

/// How long anything may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Awaits `future`; panics with `what` if it takes longer than [`PATIENCE`].
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing within {PATIENCE:?}"),
    }
}

/// Repeats `probe` until it gives a value; panics with `what` after [`PATIENCE`].
///
/// For states that nothing announces (a file that appears, a reload that has taken effect).
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let repeat = async {
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    };
    within(what, repeat).await
}
