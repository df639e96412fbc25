//! What thousands of connections took, the server gives back when they have left.
// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

use rustix::process::{Resource, getrlimit};
use std::time::{Duration, Instant};
use support::client::Client;
use support::server::{Plan, Server};
use support::tls::Tls;

/// One connection in this many is encrypted, of as many as descriptors allow and no more than this.
const ENCRYPTED: usize = 5;
const MOST: usize = 5000;
/// Descriptors that are not for connections.
const OTHERS: usize = 200;
/// The least that a connection, plain or not, takes on average.
const LEAST: u64 = 1000;
/// What may stay whatever the spike was: pages that threads begin to use.
const CONSTANT: u64 = 2 << 20;
/// How long it may take; it takes seconds.
const PATIENCE: Duration = Duration::from_secs(90);

const CONFIG: &str = "
worker_processes 2;
events { worker_connections 20000; }
http {
    access_log off;
    keepalive_timeout 600s;
    server {
        listen 8080;
        listen 8443 ssl;
        ssl_certificate certs/cert.pem;
        ssl_certificate_key certs/key.pem;
        return 200 hello;
    }
}";

/// Bytes of memory that the server has and that are no file's.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Connections that have had an answer and stay.
async fn arrive(server: &Server, tls: &Tls, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..count {
        let mut client = if n % ENCRYPTED == 0 {
            Client::tls_with(tls, server.addr(8443), "localhost").await
        } else {
            Client::connect(server.addr(8080)).await
        };
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn after_a_spike_memory_is_what_it_was_before() {
    let limit = getrlimit(Resource::Nofile).current.map_or(MOST, |limit| limit as usize);
    let count = MOST.min(limit.saturating_sub(OTHERS));
    let server = Plan::new(CONFIG).certificate().start().await;
    let tls = Tls::new();
    // What is made once, of both kinds and on both workers.
    drop(arrive(&server, &tls, 40).await);
    let before = resident(&server);
    let clients = arrive(&server, &tls, count).await;
    let during = resident(&server);
    assert!(
        during >= before + LEAST * count as u64,
        "{before} bytes before, {during} with {count} connections"
    );
    drop(clients);
    let left = Instant::now();
    loop {
        let now = resident(&server);
        if now <= before + before / 5 + CONSTANT {
            break;
        }
        let waited = left.elapsed();
        assert!(
            waited < PATIENCE,
            "{before} bytes before, {during} with {count} connections, {now} after {waited:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
