//! What was answered from memory is answered again without an allocation. In a process of its own, whose allocator
//! counts what the worker does.
// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod counting;

use std::net::SocketAddr;
use std::path::Path;
use support::{certificate, eventually, tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests that are counted, after as many that are not.
const REQUESTS: usize = 1000;

/// How often they are counted at most: now and then a worker does something else meanwhile, once in some seconds.
/// What is done for requests is done in each round.
const ROUNDS: usize = 10;

/// What TLS may allocate and free for a request: the records of the request and of its answer.
const OF_TLS: usize = 2;

const CONF: &str = "
    daemon off; worker_processes 1; pid PREFIX/pid; error_log PREFIX/error.log; USER events {}
    http {
        access_log off;
        open_file_cache max=100;
        proxy_cache_path PREFIX/cache keys_zone=z:1m;
        server {
            listen PLAIN; listen TLS ssl;
            ssl_certificate PREFIX/cert.pem; ssl_certificate_key PREFIX/key.pem;
            root PREFIX/root; keepalive_requests 100000;
            location /full/ { alias PREFIX/root/; hit_path off; }
            location /logged/ { alias PREFIX/root/; access_log PREFIX/log combined buffer=64k; }
            location /unbuffered/ { alias PREFIX/root/; access_log PREFIX/log combined; }
            location /cached/ {
                proxy_pass http://PLAIN/; proxy_cache z; proxy_cache_valid 1h;
            }
            location /cached/logged/ {
                proxy_pass http://PLAIN/; proxy_cache z; proxy_cache_valid 1h; access_log PREFIX/log combined;
            }
        }
    }";

/// Sends a request for `target` and reads the answer, whose head and body are as long as they were.
async fn get<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8], length: usize) -> Vec<u8> {
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

/// How long an answer is.
async fn first<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> usize {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    loop {
        stream.read_buf(&mut answer).await.unwrap();
        if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n")
            && answer.len() >= end + 4 + 1024
        {
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
            return answer.len();
        }
    }
}

/// What the worker allocates and frees for as many requests on one connection, at least.
async fn counted<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, target: &str) -> counting::Count {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\n\r\n");
    first(stream, request.as_bytes()).await;
    // From the second on a kept answer is one that is kept.
    let length = first(stream, request.as_bytes()).await;
    for _ in 0..REQUESTS {
        get(stream, request.as_bytes(), length).await;
    }
    let mut least: Option<counting::Count> = None;
    for _ in 0..ROUNDS {
        let before = counting::begin();
        for _ in 0..REQUESTS {
            get(stream, request.as_bytes(), length).await;
        }
        let count = counting::end(before);
        least = Some(least.map_or(count, |least| least.min(count)));
        if least == Some(counting::Count::default()) {
            break;
        }
    }
    least.unwrap()
}

/// Where it listens: a port for plain connections and one for TLS.
fn start(dir: &Path) -> (SocketAddr, SocketAddr) {
    let ip = support::address::fresh();
    let ports = support::address::free_ports(ip.into(), 2);
    let (plain, secure) = (SocketAddr::from((ip, ports[0])), SocketAddr::from((ip, ports[1])));
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let conf = CONF
        .replace("PREFIX", &dir.display().to_string())
        .replace("PLAIN", &plain.to_string())
        .replace("TLS", &secure.to_string())
        .replace("USER", user);
    std::fs::create_dir(dir.join("root")).unwrap();
    std::fs::write(dir.join("root/a.txt"), [b'a'; 1024]).unwrap();
    let pem = certificate::shared();
    std::fs::write(dir.join("cert.pem"), &pem.certificate).unwrap();
    std::fs::write(dir.join("key.pem"), &pem.key).unwrap();
    let path = dir.join("nginx.conf");
    std::fs::write(&path, conf).unwrap();
    let args =
        ["edgewater".into(), "-c".into(), path.into_os_string(), "-p".into(), dir.as_os_str().to_owned()];
    std::thread::spawn(move || edgewater::cli::main(args));
    (plain, secure)
}

#[tokio::test]
async fn what_is_repeated_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, secure) = start(dir.path());
    let connected = || async { TcpStream::connect(plain).await.ok() };
    let mut stream = eventually("the server listens", connected).await;
    let mut wrong = Vec::new();
    for target in ["/a.txt", "/cached/a.txt", "/logged/a.txt", "/unbuffered/a.txt", "/cached/logged/a.txt"] {
        let count = counted(&mut stream, target).await;
        println!("{target}: {count:?}");
        if count != counting::Count::default() {
            wrong.push(format!("{target}: {count:?}"));
        }
    }
    // What is counted is what the worker does: what is not repeated allocates.
    let count = counted(&mut stream, "/full/a.txt").await;
    assert!(count.allocated > REQUESTS, "{count:?}");
    let (mut stream, _) = tls::Tls::new().alpn(&["http/1.1"]).connect(secure, "localhost").await;
    for target in ["/a.txt", "/cached/a.txt"] {
        let count = counted(&mut stream, target).await;
        println!("TLS {target}: {count:?}");
        if count.allocated > OF_TLS * REQUESTS || count.freed > OF_TLS * REQUESTS {
            wrong.push(format!("TLS {target}: {count:?}"));
        }
    }
    assert!(wrong.is_empty(), "in {REQUESTS} requests: {wrong:#?}");
}
