//! Handshakes, one after the other: the load of the cells that count them.
//!
//! Some clients at a time each connect, shake hands, ask for one kilobyte and read to the end, which the server
//! makes. Whether a handshake was a full one or resumed a session is asked of each.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::cells::SMALL;
use crate::client::{Http1, PATIENCE};
use crate::load::{Load, SECONDS};
use crate::peers::Peer;
use crate::pin;
use crate::tls::{Tls, resumed};

/// How many clients.
const CLIENTS: usize = 32;
/// What each asks for.
pub const REQUEST: &[u8] = b"GET /1k.bin HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// Shakes hands for a second.
pub fn run(peer: &Peer, port: u16, resumes: bool) -> Result<Load, String> {
    let pid = peer.pid();
    pin::load(move || async move {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = Tls::new(&[], resumes)?;
            if resumes {
                // From this one comes the session that the first of those that count resumes.
                shake(&client, port, false).await?;
            }
            clients.push(client);
        }
        let (before, begin) = (crate::cpu::time_of(pid)?, Instant::now());
        let until = begin + Duration::from_secs(SECONDS.into());
        let mut shaking = JoinSet::new();
        for client in clients {
            shaking.spawn(async move {
                let mut done = 0;
                while Instant::now() < until {
                    shake(&client, port, resumes).await?;
                    done += 1;
                }
                Ok::<u64, String>(done)
            });
        }
        let mut done = 0;
        while let Some(one) = shaking.join_next().await {
            done += one.map_err(|e| e.to_string())??;
        }
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Load { done, seconds, cpu: crate::cpu::time_of(pid)? - before })
    })
}

/// One connection from its beginning to its end; an error if the handshake is not of the kind that is `expected`.
pub async fn shake(client: &Tls, port: u16, expected: bool) -> Result<(), String> {
    let shaking = async {
        let stream = client.connect(port).await?;
        let kind = resumed(&stream);
        if kind != expected {
            return Err(format!("a handshake resumed a session: {kind}; expected: {expected}"));
        }
        let mut http = Http1::new(stream);
        http.get(REQUEST, SMALL).await?;
        http.end().await
    };
    tokio::time::timeout(PATIENCE, shaking).await.map_err(|_| "a handshake takes too long")?
}
