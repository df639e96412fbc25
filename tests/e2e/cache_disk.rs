//! The cache's files over a restart, as nginx has them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server, Signal, is_nginx};

const CONFIG: &str = "
    error_log stderr notice;
    events { }
    http {
        access_log off;
        proxy_cache_path {prefix}/cache levels=1:2 keys_zone=z:1m PARAMETERS;
        server {
            listen 8000;
            proxy_cache z;
            proxy_cache_key $uri;
            proxy_cache_valid 200 1h;
            proxy_cache_valid 302 1s;
            proxy_cache_use_stale error;
            add_header X-Cache $upstream_cache_status;
            location / { proxy_pass http://127.0.0.1:9000; }
        }
    }";

async fn start(parameters: &str) -> (Server, Origin) {
    let origin = Origin::answering(|request| match request.path() {
        "/vary" => Answer::ok(format!("for {:?}", request.header("x-kind"))).header("Vary", "X-Kind"),
        "/moved" => Answer::status(302).header("Location", "/else").body("moved"),
        path => Answer::ok(format!("text of {path}")).header("ETag", "\"1\"").header("X-Own", "a b"),
    })
    .await;
    let edge = Plan::new(CONFIG).swap("PARAMETERS", parameters).upstream("127.0.0.1:9000", origin.addr());
    (edge.start().await, origin)
}

fn cache(answer: &Response) -> &str {
    answer.header("x-cache").unwrap_or("none")
}

/// Asks until the answer is kept: a client may have it before the cache has put it away.
async fn fill(edge: &Server, target: &str) -> Response {
    eventually("a hit", async || Some(get(edge.addr(8000), target).await).filter(|a| cache(a) == "HIT")).await
}

#[tokio::test]
async fn what_was_kept_is_a_hit_after_a_restart_while_the_index_is_incomplete() {
    // The loader looks at one file in a long time.
    let (mut edge, origin) = start("loader_files=1 loader_sleep=1h").await;
    for target in ["/a", "/b", "/c", "/d"] {
        fill(&edge, target).await;
    }
    let fetched = origin.count();
    for signal in [Signal::TERM, Signal::QUIT] {
        edge.restart(signal).await;
        for target in ["/a", "/b", "/c", "/d"] {
            let answer = get(edge.addr(8000), target).await;
            assert_eq!((answer.status, cache(&answer)), (200, "HIT"), "{signal:?} {target}");
            assert_eq!(answer.text(), format!("text of {target}"));
            assert_eq!((answer.header("etag"), answer.header("x-own")), (Some("\"1\""), Some("a b")));
        }
    }
    assert_eq!(origin.count(), fetched);
}

#[tokio::test]
async fn what_was_kept_is_a_hit_after_a_restart_when_the_index_is_complete() {
    let (mut edge, origin) = start("use_temp_path=off").await;
    fill(&edge, "/a").await;
    let fetched = origin.hits("/a");
    edge.restart(Signal::TERM).await;
    if !is_nginx() {
        // nginx's loader begins after a minute.
        edge.reported("http file cache: ").await;
    }
    assert_eq!(cache(&get(edge.addr(8000), "/a").await), "HIT");
    assert_eq!(cache(&get(edge.addr(8000), "/new").await), "MISS");
    assert_eq!((origin.hits("/a"), origin.hits("/new")), (fetched, 1));
}

#[tokio::test]
async fn variants_and_times_are_what_they_were() {
    let (mut edge, origin) = start("").await;
    let addr = edge.addr(8000);
    let kind = async |kind: &str| Client::connect(addr).await.get_with("/vary", &[("X-Kind", kind)]).await;
    for name in ["one", "two"] {
        eventually("a hit", async || Some(kind(name).await).filter(|a| cache(a) == "HIT")).await;
    }
    fill(&edge, "/a").await;
    // Stale after a second, and served when the origin is gone.
    let moved = get(edge.addr(8000), "/moved").await;
    assert_eq!((moved.status, cache(&moved)), (302, "MISS"));
    edge.restart(Signal::TERM).await;
    for name in ["one", "two"] {
        let answer = kind(name).await;
        assert_eq!((cache(&answer), answer.text()), ("HIT", format!("for Some({name:?})")));
    }
    assert_eq!(kind("three").await.text(), "for Some(\"three\")");
    drop(origin);
    let stale = eventually("the end of a second", async || {
        Some(get(edge.addr(8000), "/moved").await).filter(|answer| cache(answer) == "STALE")
    })
    .await;
    assert_eq!((stale.status, stale.header("location")), (302, Some("/else")));
    assert_eq!(cache(&get(edge.addr(8000), "/a").await), "HIT");
}

#[tokio::test]
async fn files_have_nginxs_names_and_rights() {
    let (mut edge, _origin) = start("").await;
    fill(&edge, "/a").await;
    // All is written when it has ended.
    edge.restart(Signal::TERM).await;
    // The MD5 of "/a", spread by its last characters.
    let file = edge.prefix().join("cache/5/bf/0639767f3e9eaad729b54037a7e2abf5");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    for directory in file.ancestors().skip(1).take(3) {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
}

/// A small file system at a directory of a server, until this is dropped.
struct Small(std::path::PathBuf);

impl Small {
    /// `None` where that may not be made.
    fn at(directory: &Path) -> Option<Small> {
        let options = ["-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs"];
        let mount = Command::new("mount").args(options).arg(directory).output();
        mount.is_ok_and(|mount| mount.status.success()).then(|| Small(directory.into()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_one_line_in_the_log_and_nothing_to_clients() {
    if is_nginx() {
        return; // Its clients see broken answers.
    }
    let origin = Origin::answering(|request| Answer::ok(request.path().repeat(20_000))).await;
    let plan = Plan::new(CONFIG).swap("PARAMETERS", "").upstream("127.0.0.1:9000", origin.addr());
    let prepared = plan.file("cache/here", "").prepare();
    let Some(_small) = Small::at(&prepared.prefix().join("cache")) else { return };
    let edge = prepared.spawn();
    edge.ready().await;
    for round in 0..2 {
        for n in 0..30 {
            let target = format!("/object-{n:02}");
            let answer = get(edge.addr(8000), &target).await;
            assert_eq!((answer.status, answer.text()), (200, target.repeat(20_000)), "{round}");
        }
    }
    edge.reported("No space left on device").await;
    let lines = |level: &str| edge.stderr().lines().filter(|line| line.contains(level)).count();
    assert_eq!((lines("[crit]"), lines("[error]"), lines("[alert]")), (1, 0, 0), "{}", edge.stderr());
    assert_eq!(cache(&get(edge.addr(8000), "/object-29").await), "HIT", "from memory");
}
