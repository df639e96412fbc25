//! `proxy_store`: answers that become files whatever their clients do.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::client::Client;
use crate::support::origin::{Answer, Feed, Origin};
use crate::support::server::{Plan, Server, Signal, is_nginx};
use crate::support::{eventually, within};

const CONFIG: &str = "
    user root;
    events { }
    http {
        access_log off;
        proxy_store_access group:r all:r;
        server {
            listen 8080;
            proxy_temp_path {prefix}/temp 1 2;
            root {prefix}/files;
            location / { proxy_pass http://127.0.0.1:8000; proxy_store on; }
            location /kept/ { alias {prefix}/files/; }
            location /far/ {
                proxy_temp_path /dev/shm/edgewater-test-stored;
                proxy_pass http://127.0.0.1:8000;
                proxy_store on;
            }
        }
    }";

/// A server before an origin that streams what each returned feed is given, in the order of the requests.
async fn streaming() -> (Server, Origin, impl Fn() -> Feed) {
    let feeds: Arc<Mutex<Vec<Feed>>> = Arc::default();
    let made = feeds.clone();
    let origin = Origin::answering(move |_| {
        let (answer, feed) = Answer::stream();
        made.lock().unwrap().push(feed);
        answer
    })
    .await;
    let server = Plan::new(CONFIG).upstream("127.0.0.1:8000", origin.addr()).start().await;
    (server, origin, move || feeds.lock().unwrap().remove(0))
}

async fn until_stored(server: &Server, path: &str) -> String {
    eventually(path, || async { server.read(path) }).await
}

fn temporary(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.map(|e| e.unwrap().path()).map(|p| if p.is_dir() { temporary(&p) } else { 1 }).sum()
}

async fn no_temporary_file(server: &Server) {
    eventually("no temporary file", || async {
        (temporary(&server.prefix().join("temp")) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_stops_nothing() {
    // It holds back what does not fill a buffer.
    if is_nginx() {
        return;
    }
    let (server, origin, next) = streaming().await;
    let mut client = Client::connect(server.addr(8080)).await;
    client.send_request("GET", "/a", &[], b"").await;
    assert_eq!(client.head("GET").await.status, 200);
    let feed = next();
    feed.send("first ").await;
    assert_eq!(client.take(6).await, b"first ");
    assert_eq!(server.read("files/a"), None, "it is not whole");
    drop(client);
    // One that leaves before there is a head.
    let mut client = Client::connect(server.addr(8080)).await;
    client.send_request("GET", "/b", &[], b"").await;
    origin.arrived(2).await;
    drop(client);
    feed.send("second").await;
    drop(feed);
    assert_eq!(until_stored(&server, "files/a").await, "first second");
    let other = next();
    other.send("whole").await;
    drop(other);
    assert_eq!(until_stored(&server, "files/b").await, "whole");
    no_temporary_file(&server).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_nothing_and_the_client_sees_it() {
    // It holds back what does not fill a buffer.
    if is_nginx() {
        return;
    }
    let (server, _origin, next) = streaming().await;
    let mut client = Client::connect(server.addr(8080)).await;
    client.send_request("GET", "/a", &[], b"").await;
    client.head("GET").await;
    let feed = next();
    feed.send("first ").await;
    assert_eq!(client.take(6).await, b"first ");
    feed.abort().await;
    client.try_piece().await.unwrap_err();
    no_temporary_file(&server).await;
    assert_eq!(server.read("files/a"), None);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nothing_and_gets_all() {
    const LENGTH: usize = 24 << 20;
    let body: Vec<u8> = (0..LENGTH).map(|i| (i % 251) as u8).collect();
    let sent = body.clone();
    let origin = Origin::answering(move |_| Answer::ok(sent.clone())).await;
    let server = Plan::new(CONFIG).upstream("127.0.0.1:8000", origin.addr()).start().await;
    let mut client = Client::connect_narrow(server.addr(8080)).await;
    client.send_request("GET", "/large", &[], b"").await;
    client.head("GET").await;
    let path = server.prefix().join("files/large");
    let is = eventually("the file", || async { std::fs::metadata(&path).ok() }).await;
    assert_eq!(is.len(), LENGTH as u64);
    assert!(client.take(LENGTH).await == body);
    // Its name is another's now; who reads the old one reads it to its end.
    assert!(std::fs::read(&path).unwrap() == body);
}

#[tokio::test]
async fn files_have_the_access_asked_for_over_file_systems_too() {
    let origin = Origin::answering(|_| {
        Answer::ok("far away").header("Last-Modified", "Tue, 02 Jan 2024 03:04:05 GMT")
    })
    .await;
    let server = Plan::new(CONFIG).upstream("127.0.0.1:8000", origin.addr()).start().await;
    let mut client = Client::connect(server.addr(8080)).await;
    for path in ["/near/a", "/far/a"] {
        assert_eq!(client.get(path).await.text(), "far away");
        let is = std::fs::metadata(server.prefix().join("files").join(&path[1..])).unwrap();
        assert_eq!((is.mode() & 0o777, is.mtime()), (0o644, 1_704_164_645), "{path}");
        let directory = server.prefix().join("files").join(&path[1..path.len() - 2]);
        assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o755, 0o755);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing beside it");
        assert_eq!(client.get(&format!("/kept{path}")).await.text(), "far away");
    }
    let _ = std::fs::remove_dir(Path::new("/dev/shm/edgewater-test-stored"));
}

#[tokio::test]
async fn a_process_that_ends_stores_what_is_under_way() {
    // It holds back what does not fill a buffer.
    if is_nginx() {
        return;
    }
    let (server, _origin, next) = streaming().await;
    let mut client = Client::connect(server.addr(8080)).await;
    client.send_request("GET", "/a", &[], b"").await;
    client.head("GET").await;
    let feed = next();
    feed.send("first ").await;
    assert_eq!(client.take(6).await, b"first ");
    drop(client);
    server.signal(Signal::QUIT);
    // It no longer listens once it is ending.
    let addr = server.addr(8080);
    let gone = || async move { tokio::net::TcpStream::connect(addr).await.is_err().then_some(()) };
    eventually("the end of its listening", gone).await;
    feed.send("second").await;
    drop(feed);
    within("its end", server.exited()).await;
    assert_eq!(server.read("files/a").as_deref(), Some("first second"));
}
