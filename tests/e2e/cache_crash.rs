//! The cache's files after crashes: killed at any moment, the server never serves a wrong byte.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Signal};
use crate::support::{eventually, within};

/// Objects of more than an eighth of the memory are received into files, the others written by and by.
const CONFIG: &str = "
    worker_processes 2;
    events { }
    http {
        access_log off;
        memory_cache size=2m;
        proxy_cache_path {prefix}/cache levels=1:2 keys_zone=z:1m max_size=64m;
        server {
            listen 8000;
            proxy_cache z;
            proxy_cache_key $uri;
            proxy_cache_valid 200 1h;
            add_header X-Cache $upstream_cache_status;
            location / { proxy_pass http://127.0.0.1:9000; }
        }
    }";

const CRASHES: usize = 50;
const OBJECTS: usize = 60;
const CLIENTS: usize = 6;

/// The body of an object: no two are alike anywhere, nor are two places of one.
fn body(object: usize) -> Vec<u8> {
    let length = match object % 6 {
        0 => 500_000 + object * 1111,
        1 | 2 => 60_000 + object * 333,
        _ => 100 + object * 77,
    };
    let words = (0..length / 8 + 1).flat_map(|at| ((object as u64) << 32 | at as u64).to_be_bytes());
    words.take(length).collect()
}

/// Asks for an object: whether it was a hit; `None` where the server was killed meanwhile. What came of
/// the body, all of it or a part, must be right.
async fn ask(addr: SocketAddr, object: usize) -> Option<bool> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let request = format!("GET /{object} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).await.is_ok();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let (got, wanted) = (&answer[end..], body(object));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).map(|n| n.parse().unwrap());
    assert_eq!(length, Some(wanted.len()), "{head}");
    assert!(wanted.starts_with(got), "wrong bytes of {object} among {}: {head}", got.len());
    (ended && got.len() == wanted.len()).then_some(head.contains("X-Cache: HIT"))
}

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[tokio::test]
async fn killed_fifty_times_it_never_serves_a_wrong_byte_and_still_has_what_was_whole() {
    let origin = Origin::answering(|request| Answer::ok(body(request.path()[1..].parse().unwrap()))).await;
    let mut server = Plan::new(CONFIG).upstream("127.0.0.1:9000", origin.addr()).start().await;
    let mut numbers = Numbers(1);
    // Of those asked for first after a crash: how many there were, and how many were hits, by size.
    let (mut asked, mut small, mut large) = (0, 0, 0);
    for crash in 0..CRASHES {
        let addr = server.addr(8000);
        for _ in 0..4 {
            let object = numbers.below(OBJECTS);
            let hit = within("an answer", ask(addr, object)).await.expect("nobody has killed it");
            // Of the same object a second answer is from memory and proves nothing, and few are the same.
            asked += usize::from(crash > 0);
            *if object.is_multiple_of(6) { &mut large } else { &mut small } += usize::from(crash > 0 && hit);
        }
        let (done, some) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let killed = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (done, some, killed) = (done.clone(), some.clone(), killed.clone());
            let mut numbers = Numbers((crash * CLIENTS + client) as u64);
            clients.spawn(async move {
                // The next server listens at the same place.
                while !killed.load(Ordering::Relaxed) && ask(addr, numbers.below(OBJECTS)).await.is_some() {
                    done.fetch_add(1, Ordering::Relaxed);
                    some.notify_one();
                }
            });
        }
        let enough = 1 + numbers.below(20);
        within("answers", async {
            while done.load(Ordering::Relaxed) < enough {
                some.notified().await;
            }
        })
        .await;
        killed.store(true, Ordering::Relaxed);
        server.restart(Signal::KILL).await;
        within("the end of the clients", async {
            while let Some(client) = clients.join_next().await {
                client.expect("what a client has seen");
            }
        })
        .await;
    }
    let hits = small + large;
    assert!(hits * 4 > asked, "{hits} of {asked} were hits: the files are of no use");
    assert!(small > 0 && large > 0, "{small} small and {large} large hits");
    // What was being written at a crash is cleaned up.
    let cache = server.prefix().join("cache");
    eventually("the temporary files to go", || async {
        files(&cache).iter().all(|path| path.extension().is_none()).then_some(())
    })
    .await;
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}
