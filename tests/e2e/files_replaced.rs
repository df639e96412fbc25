//! Files that change while they are served: by a rename, in place, by being cut off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::client::{Client, Response};
use crate::support::eventually;
use crate::support::http2::Http2;
use crate::support::server::{Plan, Server};

const CONFIG: &str = "
    events { }
    http {
        access_log off;
        sendfile on;
        keepalive_requests 100000;
        server {
            listen 8080;
            listen 8443 ssl http2;
            ssl_certificate certs/cert.pem;
            ssl_certificate_key certs/key.pem;
            location /off/ { alias {prefix}/files/; }
            location /on/ { alias {prefix}/files/; open_file_cache max=100; open_file_cache_valid 1s; }
            location /held/ {
                alias {prefix}/files/;
                open_file_cache max=100;
                open_file_cache_valid 0;
                open_file_cache_min_uses 3;
                open_file_cache_errors on;
            }
            location /hour/ {
                alias {prefix}/files/;
                open_file_cache max=100 inactive=1h;
                open_file_cache_valid 1h;
                open_file_cache_errors on;
            }
            location /second/ {
                alias {prefix}/files/;
                open_file_cache max=100;
                open_file_cache_valid 1s;
                open_file_cache_errors on;
            }
            location /unlinked/ {
                alias {prefix}/files/;
                disable_symlinks on from={prefix}/files/;
                open_file_cache max=100;
                open_file_cache_valid 1s;
                open_file_cache_errors on;
            }
            location /copied/ { alias {prefix}/files/; sendfile off; }
        }
    }";

/// A file of a version: its number, again and again. Its length tells the version too.
fn version(n: usize, records: usize) -> Vec<u8> {
    format!("{n:07}\n").repeat(records + n % 50).into_bytes()
}

/// Panics unless this is one version, whole, under its own head.
fn check(response: &Response, records: usize, of: &str) {
    assert_eq!(response.status, 200, "{of}");
    let body = &response.body;
    let first = body.chunks(8).next().unwrap_or_default();
    let n: usize = std::str::from_utf8(first).ok().and_then(|t| t.trim().parse().ok()).expect("a version");
    let length = (records + n % 50) * 8;
    assert!(body.chunks(8).all(|record| record == first), "{of}: a mix, {} bytes", body.len());
    assert_eq!(body.len(), length, "{of}: version {n}");
    let size = u64::try_from(length).unwrap();
    assert_eq!(response.header("content-length"), Some(&*size.to_string()), "{of}");
    let etag = response.header("etag").expect("an ETag");
    assert!(etag.ends_with(&format!("-{size:x}\"")), "{of}: {etag} of {size} bytes");
}

/// Gives the names to one version after the other, as encoders do, until told to stop. How many there were.
fn rename_over(files: Vec<(PathBuf, usize)>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut n = 1;
        while !stop.load(Ordering::Relaxed) {
            for (path, records) in &files {
                let next = path.with_extension("next");
                std::fs::write(&next, version(n, *records)).unwrap();
                std::fs::rename(&next, path).unwrap();
            }
            n += 1;
            std::thread::yield_now();
        }
        n
    })
}

/// Records of a file that is kept in memory, and of one that is not.
const SIZES: [(&str, usize); 2] = [("small.ts", 1_000), ("large.ts", 25_000)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_renamed_over_a_name_each_body_is_whole_and_of_one_version() {
    const READERS: usize = 50;
    const REQUESTS: usize = 16;
    let mut plan = Plan::new(CONFIG).certificate();
    for (name, records) in SIZES {
        plan = plan.file(&format!("files/{name}"), version(0, records));
    }
    let server = plan.start().await;
    let files = SIZES.map(|(name, records)| (server.prefix().join("files").join(name), records)).to_vec();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = rename_over(files, stop.clone());
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..READERS {
        let (plain, tls) = (server.addr(8080), server.addr(8443));
        let place = ["off", "on", "held", "copied"][reader % 4];
        readers.spawn(async move {
            let targets = SIZES.map(|(name, records)| (format!("/{place}/{name}"), records));
            match reader / 4 % 3 {
                0 => {
                    let mut client = Client::connect(plain).await;
                    for n in 0..REQUESTS {
                        let (target, records) = &targets[n % 2];
                        check(&client.get(target).await, *records, &format!("h1 {target}"));
                    }
                }
                1 => {
                    let mut client = Client::tls(tls, "localhost").await;
                    for n in 0..REQUESTS {
                        let (target, records) = &targets[n % 2];
                        check(&client.get(target).await, *records, &format!("h1 over TLS {target}"));
                    }
                }
                _ => {
                    let client = Http2::connect(tls, "localhost").await;
                    for _ in 0..REQUESTS / 2 {
                        let (small, large) =
                            tokio::join!(client.get(&targets[0].0), client.get(&targets[1].0));
                        check(&small, targets[0].1, &format!("h2 {}", targets[0].0));
                        check(&large, targets[1].1, &format!("h2 {}", targets[1].0));
                    }
                }
            }
        });
    }
    while let Some(done) = readers.join_next().await {
        done.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 10, "the files changed while they were read");
}

async fn with_large() -> (Server, PathBuf, Vec<u8>) {
    let body = version(7, 3 << 20);
    let server = Plan::new(CONFIG).certificate().file("files/large", body.clone()).start().await;
    let path = server.prefix().join("files/large");
    (server, path, body)
}

fn replace(path: &Path) {
    let next = path.with_extension("next");
    std::fs::write(&next, "another").unwrap();
    std::fs::rename(&next, path).unwrap();
}

#[tokio::test]
async fn a_file_that_is_being_sent_is_sent_to_its_end_though_another_has_its_name() {
    let (server, path, body) = with_large().await;
    let mut clients = Vec::new();
    for place in ["off", "on", "copied"] {
        let mut plain = Client::connect_narrow(server.addr(8080)).await;
        plain.send_request("GET", &format!("/{place}/large"), &[], b"").await;
        plain.head("GET").await;
        let mut tls = Client::tls(server.addr(8443), "localhost").await;
        tls.send_request("GET", &format!("/{place}/large"), &[], b"").await;
        tls.head("GET").await;
        clients.extend([plain, tls]);
    }
    let h2 = Http2::connect(server.addr(8443), "localhost").await;
    let mut incoming = h2.start("GET", "/off/large", &[], b"").await.unwrap();
    replace(&path);
    for client in &mut clients {
        assert!(client.take(body.len()).await == body);
        assert!(client.piece().await.is_none());
    }
    assert!(incoming.take(body.len()).await == body);
    assert_eq!(Client::connect(server.addr(8080)).await.get("/off/large").await.text(), "another");
}

#[tokio::test]
async fn a_file_that_is_cut_off_while_it_is_sent_never_looks_whole() {
    let (server, path, body) = with_large().await;
    let mut clients = Vec::new();
    for (place, port) in [("off", 8080), ("on", 8080), ("copied", 8080), ("off", 8443), ("on", 8443)] {
        let mut client = match port {
            8080 => Client::connect_narrow(server.addr(port)).await,
            _ => Client::tls(server.addr(port), "localhost").await,
        };
        client.send_request("GET", &format!("/{place}/large"), &[], b"").await;
        client.head("GET").await;
        clients.push((format!("{place} {port}"), client));
    }
    let h2 = Http2::connect(server.addr(8443), "localhost").await;
    let mut incoming = h2.start("GET", "/off/large", &[], b"").await.unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    // Far beyond what may be on its way already.
    file.set_len(20 << 20).unwrap();
    for (of, client) in &mut clients {
        let mut got = Vec::new();
        let end = loop {
            match client.try_piece().await {
                Ok(Some(piece)) => got.extend(piece),
                end => break end,
            }
        };
        assert!(end.is_err(), "{of}: {} bytes that look whole", got.len());
        assert!(body.starts_with(&got), "{of}: garbage");
    }
    let mut got = Vec::new();
    let end = loop {
        match incoming.try_piece().await {
            Ok(Some(piece)) => got.extend(piece),
            end => break end,
        }
    };
    assert!(end.is_err() && body.starts_with(&got), "h2: {} bytes", got.len());
}

/// Content of the same length, written in place within one tick of the clock that stamps files, is seen in the end.
#[tokio::test]
async fn a_file_that_changed_in_place_is_not_served_as_it_was_for_ever() {
    let server = Plan::new(CONFIG).certificate().file("files/small", "0000").start().await;
    let path = server.prefix().join("files/small");
    let mut client = Client::connect(server.addr(8080)).await;
    for round in 1..=20 {
        for part in 0..3 {
            std::fs::write(&path, format!("{round:02}{part:02}")).unwrap();
            client.get("/held/small").await;
            client.get("/on/small").await;
        }
        let last = format!("{round:02}02");
        assert_eq!(client.get("/off/small").await.text(), last);
        assert_eq!(client.get("/held/small").await.text(), last, "nothing is believed for any time");
    }
    let client = tokio::sync::Mutex::new(client);
    eventually("the last content", || async {
        (client.lock().await.get("/on/small").await.text() == "2002").then_some(())
    })
    .await;
    // And stays it, also when it has become old enough to be kept in memory.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        for place in ["on", "held", "off"] {
            assert_eq!(client.lock().await.get(&format!("/{place}/small")).await.text(), "2002");
        }
    }
}

/// What a name is, and after a change: the same answers as nginx gives.
#[tokio::test]
async fn a_change_is_seen_when_what_is_held_is_no_longer_believed() {
    type Change = fn(&Path);
    let changes: [(&str, &str, Change, &str, &str); 6] = [
        ("replaced", "replaced", replace, "old", "another"),
        ("deleted", "deleted", |path| std::fs::remove_file(path).unwrap(), "old", "404"),
        ("created", "created", |path| std::fs::write(path, "made").unwrap(), "404", "made"),
        (
            "becomes a directory",
            "turned",
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir(path).unwrap();
            },
            "old",
            "301",
        ),
        (
            "its directory is another",
            "dir/f",
            |path| {
                let dir = path.parent().unwrap();
                std::fs::rename(dir, dir.with_extension("gone")).unwrap();
                std::fs::create_dir(dir).unwrap();
                std::fs::write(path, "another").unwrap();
            },
            "old",
            "another",
        ),
        (
            "a link leads elsewhere",
            "link",
            |path| {
                std::fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("other", path).unwrap();
            },
            "old",
            "other",
        ),
    ];
    let mut plan = Plan::new(CONFIG).certificate().file("files/other", "other").file("files/dir/f", "old");
    for name in ["replaced", "deleted", "turned", "target"] {
        plan = plan.file(&format!("files/{name}"), "old");
    }
    let server = plan.start().await;
    let files = server.prefix().join("files");
    std::os::unix::fs::symlink("target", files.join("link")).unwrap();
    let server = &server;
    let ask = |place: &'static str, name: &'static str| async move {
        let response = Client::connect(server.addr(8080)).await.get(&format!("/{place}/{name}")).await;
        if response.status == 200 { response.text() } else { response.status.to_string() }
    };
    for (what, name, change, before, after) in changes {
        for place in ["hour", "second", "off"] {
            assert_eq!(ask(place, name).await, before, "{what}, before, {place}");
        }
        change(&files.join(name));
        assert_eq!(ask("off", name).await, after, "{what}, without a cache");
        assert_eq!(ask("hour", name).await, before, "{what}: what is held is believed");
        eventually(what, || async { (ask("second", name).await == after).then_some(()) }).await;
    }
    // A file whose name a link takes is refused where links are, once that is seen.
    std::fs::write(files.join("plain"), "plain").unwrap();
    assert_eq!(ask("unlinked", "plain").await, "plain");
    std::fs::remove_file(files.join("plain")).unwrap();
    std::os::unix::fs::symlink("other", files.join("plain")).unwrap();
    eventually("a link that is refused", || async {
        (ask("unlinked", "plain").await == "403").then_some(())
    })
    .await;
    assert_eq!(ask("unlinked", "link").await, "403");
}
