//! A real live stream and a hundred viewers: ffmpeg publishes to a directory, a plain file origin serves it, and
//! everything is watched through the edge over TLS and HTTP/2.
//!
//! What is promised: the origin is asked for each segment once, whoever watches; what a viewer gets is what the
//! origin has, byte for byte, with no segment left out; a real player decodes it without a complaint.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::http2::Http2;
use crate::support::origin::{Answer, Origin};
use crate::support::server::Plan;

const VIEWERS: usize = 100;
/// Segments of 2 s: those of the first playlist, then half a minute of new ones.
const SEGMENTS_WATCHED: usize = 18;
const DECODED_SECONDS: usize = 20;
const FRAMES_PER_SECOND: usize = 25;

const CONFIG: &str = "
    worker_processes 2;
    events { worker_connections 1024; }
    http {
        types { application/vnd.apple.mpegurl m3u8; video/mp2t ts; }
        access_log off;
        proxy_cache_path {prefix}/cache keys_zone=live:8m;
        upstream origin { server 127.0.0.1:8000; keepalive 16; }
        server {
            listen 8443 ssl;
            http2 on;
            ssl_certificate certs/cert.pem;
            ssl_certificate_key certs/key.pem;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_cache live;
            proxy_cache_lock on;
            location ~ \\.m3u8$ { proxy_pass http://origin; proxy_cache_valid 200 1s; }
            location / { proxy_pass http://origin; proxy_cache_valid 200 10m; }
        }
    }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_viewers_watch_what_ffmpeg_publishes() {
    let publisher = Publisher::start().await;
    let origin = file_origin(publisher.dir()).await;
    let edge = Plan::new(CONFIG).certificate().upstream("127.0.0.1:8000", origin.addr()).start().await;

    let decoder = tokio::spawn(decode(edge.addr(8443)));
    let seen = watch(edge.addr(8443), publisher.dir()).await;
    let decoded = decoder.await.unwrap();

    assert_eq!(decoded.errors, "");
    // The sound begins a little before the picture, which may cost one frame.
    assert!(decoded.frames + 1 >= DECODED_SECONDS * FRAMES_PER_SECOND, "{} frames decoded", decoded.frames);
    let mut segments: Vec<_> = seen.iter().flat_map(|seen| seen.segments.clone()).collect();
    segments.sort_unstable();
    segments.dedup();
    for segment in segments.into_iter().map(segment_name) {
        assert_eq!(origin.hits(&format!("/{segment}")), 1, "requests for {segment} at the origin");
    }
    // A playlist lives for a second, so how often it is fetched depends on time, and not on how many watch.
    let polls: usize = seen.iter().map(|seen| seen.polls).sum();
    let fetched = origin.hits("/live.m3u8");
    assert!(fetched * 10 < polls, "{fetched} of {polls} requests for the playlist reached the origin");
}

/// A plain file server, which says nothing about caching.
async fn file_origin(root: &Path) -> Origin {
    let root = root.to_owned();
    Origin::answering(move |request| match fs::read(root.join(request.path().trim_start_matches('/'))) {
        Ok(body) => Answer::ok(body),
        Err(_) => Answer::status(404),
    })
    .await
}

/// ffmpeg as the encoder of a channel, in real time, into a directory of its own.
struct Publisher {
    ffmpeg: Child,
    dir: TempDir,
}

impl Publisher {
    /// Returns when the playlist is long enough for a player to start.
    async fn start() -> Publisher {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-re"])
            .args(["-f", "lavfi", "-i", &format!("testsrc2=size=320x180:rate={FRAMES_PER_SECOND}")])
            .args(["-re", "-f", "lavfi", "-i", "sine=frequency=440"])
            .args(
                "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 50 -keyint_min 50 -sc_threshold 0"
                    .split(' '),
            )
            .args("-c:a aac -b:a 64k -f hls -hls_time 2 -hls_list_size 6".split(' '))
            .arg("-hls_segment_filename")
            .arg(dir.path().join("seg%05d.ts"))
            .arg(dir.path().join("live.m3u8"))
            .stdin(Stdio::null())
            .spawn()
            .expect("ffmpeg");
        let mut publisher = Publisher { ffmpeg, dir };
        publisher.await_three_segments().await;
        publisher
    }

    async fn await_three_segments(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = fs::read_to_string(self.dir().join("live.m3u8")).unwrap_or_default();
            if Playlist::parse(&text).is_some_and(|playlist| playlist.count >= 3) {
                return;
            }
            assert_eq!(self.ffmpeg.try_wait().unwrap(), None, "ffmpeg ended");
            assert!(Instant::now() < deadline, "ffmpeg published nothing in a minute");
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.ffmpeg.kill();
        let _ = self.ffmpeg.wait();
    }
}

/// The segments that a playlist names: `count` of them from number `first`.
struct Playlist {
    first: usize,
    count: usize,
}

impl Playlist {
    /// `None` unless the names are numbered in step with the media sequence, as ffmpeg writes them.
    fn parse(text: &str) -> Option<Playlist> {
        let first =
            text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:"))?.parse().ok()?;
        let names: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let in_step = names.iter().enumerate().all(|(index, name)| *name == segment_name(first + index));
        in_step.then_some(Playlist { first, count: names.len() })
    }
}

fn segment_name(number: usize) -> String {
    format!("seg{number:05}.ts")
}

/// What one viewer saw.
struct Seen {
    segments: Vec<usize>,
    polls: usize,
}

/// Lets all viewers watch at once. Panics with the first trouble that one of them has.
async fn watch(edge: SocketAddr, media: &Path) -> Vec<Seen> {
    let mut viewers = JoinSet::new();
    for _ in 0..VIEWERS {
        viewers.spawn(view(edge, media.to_owned()));
    }
    viewers.join_all().await
}

/// Follows the stream as a player does: the playlist twice in a second, each new segment once and none left out.
async fn view(edge: SocketAddr, media: PathBuf) -> Seen {
    let client = Http2::connect(edge, "localhost").await;
    let mut seen = Seen { segments: Vec::new(), polls: 0 };
    let mut newest = 0;
    while seen.segments.len() < SEGMENTS_WATCHED {
        let text = String::from_utf8(get(&client, "/live.m3u8").await).unwrap();
        seen.polls += 1;
        let playlist = Playlist::parse(&text).unwrap_or_else(|| panic!("no playlist: {text}"));
        assert!(playlist.first >= newest, "the playlist went back from {newest} to {}", playlist.first);
        newest = playlist.first;
        let next = seen.segments.last().map_or(playlist.first, |last| last + 1);
        assert!(playlist.first <= next, "segment {next} was never seen: {text}");
        for number in next..playlist.first + playlist.count {
            let name = segment_name(number);
            let segment = get(&client, &format!("/{name}")).await;
            assert!(segment == fs::read(media.join(&name)).unwrap(), "{name} is not what the origin has");
            seen.segments.push(number);
        }
        sleep(Duration::from_millis(500)).await;
    }
    seen
}

async fn get(client: &Http2, path: &str) -> Vec<u8> {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200, "{path}");
    answer.body
}

struct Decoded {
    frames: usize,
    errors: String,
}

/// Decodes the stream with ffmpeg as a player. The frames counted are those of the picture.
async fn decode(edge: SocketAddr) -> Decoded {
    let output = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", &format!("https://{edge}/live.m3u8")])
        // One line for each decoded frame.
        .args(["-t", &DECODED_SECONDS.to_string(), "-map", "0:v", "-map", "0:a", "-f", "framecrc", "-"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("ffmpeg");
    let lines = String::from_utf8_lossy(&output.stdout);
    let mut errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        errors += &format!("ffmpeg: {}", output.status);
    }
    Decoded { frames: lines.lines().filter(|line| line.starts_with("0,")).count(), errors }
}
