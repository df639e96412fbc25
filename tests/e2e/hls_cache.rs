//! `hls on` before a real encoder: the playlist is fetched as often as it changes however many watch, an encoder
//! that begins anew and uses its names again is believed at once, also after a restart of the edge itself, and
//! what was not there yet is soon found.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::client::{Client, Response};
use crate::support::eventually;
use crate::support::origin::{Answer, Origin};
use crate::support::server::{Plan, Server, Signal};

/// The lifetimes that it states are those of segments, and wrong for everything else.
const CONFIG: &str = "
    worker_processes 2;
    error_log stderr notice;
    events { }
    http {
        access_log off;
        proxy_cache_path CACHE keys_zone=live:8m;
        server {
            listen 8080;
            proxy_cache live;
            proxy_cache_key $uri$is_args$args;
            proxy_cache_valid any 10m;
            hls on;
            hls_ignore_args token;
            location / { proxy_pass http://127.0.0.1:8000; }
            location = /metrics { prometheus; }
        }
    }";

struct Edge {
    server: Server,
    _cache: Option<TempDir>,
}

impl Edge {
    async fn before(origin: &Origin) -> Edge {
        let cache = tempfile::tempdir().unwrap();
        let server = Edge::with(origin, cache.path()).await;
        Edge { server, _cache: Some(cache) }
    }

    async fn with(origin: &Origin, cache: &Path) -> Server {
        let plan = Plan::new(CONFIG).swap("CACHE", cache.to_str().unwrap());
        plan.upstream("127.0.0.1:8000", origin.addr()).start().await
    }
}

async fn get(server: &Server, target: &str) -> Response {
    Client::connect(server.addr(8080)).await.get(target).await
}

/// ffmpeg in real time, with segments of a second that are called by their numbers from 0 on.
struct Encoder(Child);

impl Encoder {
    fn start(dir: &Path, picture: &str) -> Encoder {
        let child = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-nostdin",
                "-re",
                "-f",
                "lavfi",
                "-i",
                &format!("{picture}=size=160x90:rate=25"),
            ])
            .args(
                "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 25 -keyint_min 25 -sc_threshold 0"
                    .split(' '),
            )
            .args("-f hls -hls_time 1 -hls_list_size 3 -hls_segment_filename".split(' '))
            .arg(dir.join("seg%d.ts"))
            .arg(dir.join("live.m3u8"))
            .stdin(Stdio::null())
            .spawn()
            .expect("ffmpeg");
        Encoder(child)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // As it ends when it falls: without a word in the playlist.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file origin that forbids to cache playlists, as many do.
async fn file_origin(root: &Path) -> Origin {
    let root = root.to_owned();
    Origin::answering(move |request| match fs::read(root.join(request.path().trim_start_matches('/'))) {
        Ok(body) if request.path().ends_with(".m3u8") => {
            Answer::ok(body).header("Cache-Control", "no-cache").header("Expires", "0")
        }
        Ok(body) => Answer::ok(body),
        Err(_) => Answer::status(404),
    })
    .await
}

/// The number of the first segment that a playlist lists, and how many it does.
fn window(text: &str) -> Option<(u64, u64)> {
    let first = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:"))?.parse().ok()?;
    Some((first, text.lines().filter(|line| !line.starts_with('#')).count() as u64))
}

/// Waits until the playlist, as the edge has it, is such.
async fn playlist(server: &Server, wanted: impl Fn(u64, u64) -> bool) -> (u64, u64) {
    eventually("such a playlist", || async {
        let answer = get(server, "/live.m3u8").await;
        if answer.status != 200 {
            return None;
        }
        window(&answer.text()).filter(|(first, count)| wanted(*first, *count))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoder_that_begins_anew_under_the_same_names_is_believed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let origin = file_origin(dir.path()).await;
    let edge = Edge::before(&origin).await.server;

    let encoder = Encoder::start(dir.path(), "testsrc2");
    // Watched from its first segment on until that has left the window.
    let mut watched = Vec::new();
    while watched.len() < 5 {
        let next = watched.len() as u64;
        let (first, _) = playlist(&edge, |first, count| first + count > next).await;
        assert!(first <= next, "segment {next} was never seen");
        watched.push(get(&edge, &format!("/seg{next}.ts?token=viewer")).await.body);
    }
    drop(encoder);
    let fetched = origin.count();
    assert_eq!(get(&edge, "/seg0.ts").await.body, watched[0], "it is kept although it left");
    assert_eq!(origin.count(), fetched);

    let _encoder = Encoder::start(dir.path(), "smptebars");
    playlist(&edge, |first, count| first == 0 && count == 1).await;
    for number in 0..5u64 {
        playlist(&edge, |first, count| first + count > number).await;
        let name = format!("seg{number}.ts");
        let body = get(&edge, &format!("/{name}")).await.body;
        assert!(body != watched[number as usize], "{name} is that of the run before");
        assert!(body == fs::read(dir.path().join(&name)).unwrap(), "{name} is not what the origin has");
    }
    edge.reported("went back from").await;
    let metrics = get(&edge, "/metrics").await.text();
    assert!(metrics.contains("edgewater_hls_rewinds_total{zone=\"live\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_watch_the_playlist_is_fetched_twice_in_a_target_duration() {
    const VIEWERS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let origin = file_origin(dir.path()).await;
    let edge = Arc::new(Edge::before(&origin).await);
    let _encoder = Encoder::start(dir.path(), "testsrc2");
    playlist(&edge.server, |_, count| count >= 1).await;

    let (began, fetched) = (Instant::now(), origin.hits("/live.m3u8"));
    let mut viewers = JoinSet::new();
    for viewer in 0..VIEWERS {
        let edge = edge.clone();
        viewers.spawn(async move {
            let mut client = Client::connect(edge.server.addr(8080)).await;
            let (mut polls, mut seen) = (0, 0);
            let mut newest = None;
            // Each has a token of its own, and each new segment is fetched by all.
            while seen < 4 {
                let text = client.get(&format!("/live.m3u8?token={viewer}")).await.text();
                polls += 1;
                let (first, count) = window(&text).expect("a playlist");
                if count > 0 && newest != Some(first + count) {
                    newest = Some(first + count);
                    seen += 1;
                    let segment = format!("/seg{}.ts?token={viewer}", first + count - 1);
                    assert_eq!(client.get(&segment).await.status, 200, "{segment}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            polls
        });
    }
    let polls: usize = viewers.join_all().await.into_iter().sum();
    let fetched = origin.hits("/live.m3u8") - fetched;
    // The target duration is a second, and the first and the last half of one count whole.
    let halves = began.elapsed().as_millis().div_ceil(500) as usize + 1;
    assert!(fetched <= halves, "fetched {fetched} times in {halves} halves of a target duration");
    assert!(polls > 10 * fetched, "{polls} polls");
    let mut segments: Vec<String> = origin.requests().iter().map(|r| r.target.clone()).collect();
    segments.retain(|target| target.starts_with("/seg"));
    assert!(
        segments.iter().all(|target| target.contains("?token=")),
        "what is sent upstream is what was sent"
    );
    let mut paths: Vec<_> = segments.iter().map(|target| target.split('?').next().unwrap()).collect();
    let all = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), all, "each segment is fetched once, whatever the token");
}

/// An origin whose run of the encoder can be changed: segments tell it.
struct Runs {
    origin: Origin,
    playlist: Arc<Mutex<String>>,
    run: Arc<Mutex<&'static str>>,
    later: Arc<AtomicBool>,
}

async fn runs() -> Runs {
    let (playlist, run, later) =
        (Arc::<Mutex<String>>::default(), Arc::new(Mutex::new("old")), Arc::default());
    let (text, name, there) = (playlist.clone(), run.clone(), Arc::<AtomicBool>::clone(&later));
    let origin = Origin::answering(move |request| match request.path() {
        "/live.m3u8" => Answer::ok(text.lock().unwrap().clone()),
        "/later.ts" if !there.load(Ordering::SeqCst) => Answer::status(404),
        path => Answer::ok(format!("{path} of the {} run", name.lock().unwrap())),
    });
    Runs { origin: origin.await, playlist, run, later }
}

impl Runs {
    fn lists(&self, first: u64, count: u64) {
        let segments: String = (first..first + count).map(|n| format!("#EXTINF:1,\nseg{n}.ts\n")).collect();
        *self.playlist.lock().unwrap() =
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n{segments}");
    }
}

#[tokio::test]
async fn an_encoder_that_began_anew_while_the_edge_was_down_is_believed_too() {
    let site = runs().await;
    let cache = tempfile::tempdir().unwrap();
    let edge = Edge::with(&site.origin, cache.path()).await;
    site.lists(40, 3);
    playlist(&edge, |first, _| first == 40).await;
    for number in [38, 39, 40, 41] {
        let body = get(&edge, &format!("/seg{number}.ts")).await.text();
        assert_eq!(body, format!("/seg{number}.ts of the old run"));
    }
    eventually("five files on disk", || async { (files(cache.path()) >= 5).then_some(()) }).await;
    edge.signal(Signal::QUIT);
    edge.exited().await;

    *site.run.lock().unwrap() = "new";
    site.lists(0, 3);
    let edge = Edge::with(&site.origin, cache.path()).await;
    // Nothing but the playlist has said that there is anything new.
    assert_eq!(get(&edge, "/seg40.ts").await.text(), "/seg40.ts of the old run");
    playlist(&edge, |first, _| first == 0).await;
    for (first, number) in [(37, 38), (38, 40), (38, 39), (39, 41)] {
        site.lists(first, 3);
        playlist(&edge, |now, _| now == first).await;
        let body = get(&edge, &format!("/seg{number}.ts")).await.text();
        assert_eq!(body, format!("/seg{number}.ts of the new run"));
    }
}

fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.iter().map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[tokio::test]
async fn a_segment_that_was_not_there_is_found_when_it_is() {
    let site = runs().await;
    let edge = Edge::before(&site.origin).await.server;
    site.lists(0, 3);
    playlist(&edge, |_, count| count == 3).await;
    assert_eq!(get(&edge, "/later.ts").await.status, 404);
    site.later.store(true, Ordering::SeqCst);
    // By proxy_cache_valid it would not be there for ten minutes.
    eventually("the segment", || async { (get(&edge, "/later.ts").await.status == 200).then_some(()) }).await;
}
