//! How connections end: `reset_timedout_connection`, and what a worker that ends leaves open.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::server::{Plan, Server, Signal, is_nginx};
use crate::support::{eventually, within};

const CONFIG: &str = "
    worker_processes 1;
    events { worker_connections 64; }
    http {
        access_log off;
        client_header_timeout 1s;
        client_body_timeout 1s;
        send_timeout 1s;
        MORE
        server {
            listen 8080;
            location = /444 { return 444; }
            location = /text { return 200 text; }
            location = /body { proxy_pass http://127.0.0.1:9; }
            location /files/ { root {prefix}; sendfile on; }
        }
    }";

async fn start(more: &str) -> Server {
    let big = vec![b'x'; 32 << 20];
    Plan::new(&CONFIG.replace("MORE", more)).file("files/big", big).start().await
}

/// Sends this, and reads nothing before the server has given up; whether the end is a reset.
async fn is_reset(server: &Server, bytes: &str, pause: bool) -> bool {
    let mut stream = TcpStream::connect(server.addr(8080)).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    if pause {
        // What is to time out is that nothing is read.
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    }
    let mut answer = Vec::new();
    match within("the end", stream.read_to_end(&mut answer)).await {
        Ok(_) => false,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset);
            true
        }
    }
}

/// Each way to time out, and whether it is shown as a reset where that is asked for.
const ENDS: [(&str, bool, bool); 6] = [
    ("GET /444 HTTP/1.1\r\nHost: a\r\n\r\n", false, true),
    ("GET /text HT", false, true),
    ("", false, false),
    ("GET /text HTTP/1.1\r\nHost: a\r\n\r\n", false, false),
    ("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", false, true),
    ("GET /files/big HTTP/1.1\r\nHost: a\r\n\r\n", true, true),
];

#[tokio::test]
async fn clients_that_time_out_are_reset_where_that_is_asked_for() {
    let (resets, closes) = (
        start("keepalive_timeout 1s; reset_timedout_connection on;").await,
        start("keepalive_timeout 1s;").await,
    );
    let tries = ENDS.map(|(bytes, pause, reset)| {
        let (resets, closes) = (&resets, &closes);
        async move {
            assert_eq!(is_reset(resets, bytes, pause).await, reset, "on: {bytes:?}");
            assert!(!is_reset(closes, bytes, pause).await, "off: {bytes:?}");
        }
    });
    futures_util::future::join_all(tries).await;
}

#[tokio::test]
async fn an_idle_connection_may_outlive_the_end_of_its_worker_for_a_while() {
    if is_nginx() {
        // It is newer than the one that is here.
        return;
    }
    let server = start("keepalive_timeout 60s; keepalive_min_timeout 30s;").await;
    let other = start("keepalive_timeout 60s;").await;
    for (server, stays) in [(&server, true), (&other, false)] {
        let mut client = Client::connect(server.addr(8080)).await;
        assert_eq!(client.get("/text").await.text(), "text");
        server.signal(Signal::QUIT);
        let addr = server.addr(8080);
        eventually("the end of the listener", || async { TcpStream::connect(addr).await.err() }).await;
        if stays {
            let last = client.get("/text").await;
            assert_eq!((last.text().as_str(), last.header("Connection")), ("text", Some("close")));
        }
        client.closed().await;
        assert!(server.exited().await.success());
    }
}
