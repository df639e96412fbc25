//! Upstreams that answer what was not asked for, or before all of it was said.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::address;
use crate::support::client::Client;
use crate::support::server::{Plan, Server, Signal, is_nginx};
use crate::support::within;

const CONFIG: &str = "
    events { }
    http {
        access_log off;
        client_max_body_size 64m;
        upstream two { server 127.0.0.1:8000 max_fails=0; server 127.0.0.1:8000 max_fails=0; }
        server {
            listen 8080;
            proxy_http_version 1.1;
            location / { proxy_pass http://127.0.0.1:8000; }
            location /two {
                client_body_buffer_size 64m;
                proxy_pass http://two;
            }
            location /fixed {
                proxy_set_header Upgrade websocket;
                proxy_set_header Connection upgrade;
                proxy_pass http://127.0.0.1:8000;
            }
        }
    }";

/// nginx passes it on, and tunnels nothing.
#[tokio::test]
async fn a_switch_of_protocols_that_the_client_did_not_ask_for_is_a_bad_gateway() {
    if is_nginx() {
        return;
    }
    let server = before(|mut connection| async move {
        head(&mut connection).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        let _ = connection.read(&mut [0; 1]).await;
    })
    .await;
    let mut client = Client::connect(server.addr(8080)).await;
    for target in ["/", "/fixed"] {
        assert_eq!(client.get(target).await.status, 502, "{target}");
    }
    let asked = client.get_with("/fixed", &[("Upgrade", "websocket")]);
    assert!(asked.await.head.starts_with("HTTP/1.1 101 "), "who asks gets it");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_taken_reaches_the_client() {
    let answered = Arc::new(Notify::new());
    let seen = answered.clone();
    let server = before(move |mut connection| {
        let answered = answered.clone();
        async move {
            head(&mut connection).await;
            connection.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
            // It neither reads on nor closes before the client was told.
            answered.notified().await;
        }
    })
    .await;
    let mut client = Client::connect(server.addr(8080)).await;
    let body = vec![b'x'; 32 << 20];
    let answer = client.request("POST", "/", &[], &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    seen.notify_waiters();
}

#[tokio::test]
async fn what_was_posted_in_part_is_not_posted_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = before(move |mut connection| {
        let count = count.clone();
        async move {
            head(&mut connection).await;
            // What is not read makes the end a reset, in the middle of the body.
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let mut client = Client::connect(server.addr(8080)).await;
    let body = vec![b'x'; 32 << 20];
    assert_eq!(client.request("POST", "/two", &[], &body).await.status, 502);
    assert_eq!(asked.swap(0, Ordering::Relaxed), 1);
    assert_eq!(client.request("PUT", "/two", &[], &body).await.status, 502);
    assert_eq!(asked.load(Ordering::Relaxed), 2, "what may be repeated is");
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_closes_is_not_an_error() {
    let server = before(|mut connection| async move {
        head(&mut connection).await;
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        // The next request comes as it closes.
        let _ = connection.read(&mut [0; 1]).await;
    })
    .await;
    let mut client = Client::connect(server.addr(8080)).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
}

/// nginx ends its old worker only when the tunnel does, and closes them then.
#[tokio::test]
async fn idle_connections_of_a_group_that_a_reload_took_away_are_closed() {
    if is_nginx() {
        return;
    }
    let closed = Arc::new(Notify::new());
    let seen = closed.clone();
    let server = before(move |mut connection| {
        let closed = closed.clone();
        async move {
            let asked = head(&mut connection).await;
            if asked.contains("Upgrade") {
                connection.write_all(b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
                let _ = connection.read(&mut [0; 1]).await;
                return;
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let _ = connection.read(&mut [0; 1]).await;
            closed.notify_one();
        }
    })
    .await;
    let mut tunnel = Client::connect(server.addr(8080)).await;
    let switched = tunnel.get_with("/fixed", &[("Upgrade", "websocket")]).await;
    assert!(switched.head.starts_with("HTTP/1.1 101 "), "{}", switched.head);
    assert_eq!(Client::connect(server.addr(8080)).await.get("/").await.status, 200);
    let without = server.read("nginx.conf").unwrap().replace("proxy_pass", "set $unused");
    server.write("nginx.conf", without);
    server.signal(Signal::HUP);
    within("the idle connection is closed", seen.notified()).await;
    drop(tunnel);
}

/// A server whose upstream does with each connection what `serve` does.
async fn before<F, A>(serve: F) -> Server
where
    F: Fn(TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from((address::fresh(), 0))).await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection));
        }
    });
    Plan::new(CONFIG).upstream("127.0.0.1:8000", upstream).start().await
}

async fn head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
