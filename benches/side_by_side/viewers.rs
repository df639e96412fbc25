//! Thousands of viewers of live streams, each over its own TLS connection, by a schedule that is the same for all
//! servers: a playlist every two seconds, and after some of them the newest segment it names.
//!
//! Two groups: the live mix asks what the server's CPU takes for it; the crowd, what its memory comes to.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::{self, Http1, request};
use crate::live::{self, Origin, SEGMENT, SEGMENT_LASTS, newest, playlist_path};
use crate::memory::{self, megabytes};
use crate::peers::nginx::{self, Room};
use crate::peers::{Peer, Programs};
use crate::pin;
use crate::site::Site;
use crate::stats::{median, millis, percentile, round};
use crate::tls::Tls;

pub const MIX: &str = "live mix";
pub const CROWD: &str = "viewers memory";

/// Who watches what, and for how long.
#[derive(Clone, Copy)]
struct Plan {
    viewers: usize,
    streams: usize,
    /// How many playlists each viewer asks for, one every [`SEGMENT_LASTS`].
    playlists: usize,
    /// One segment for so many playlists: the load's core decrypts what all watch.
    playlists_for_segment: usize,
}

const MIX_PLAN: Plan = Plan { viewers: 5000, streams: 200, playlists: 4, playlists_for_segment: 5 };
const CROWD_PLAN: Plan = Plan { viewers: 10_000, streams: 20, playlists: 5, playlists_for_segment: 20 };
/// Megabytes that the crowd's server may cache, and what all of its memory may come to.
const CROWD_CACHE: usize = 64;
const CROWD_TARGET_MB: f64 = 128.0;
const MIX_TARGET: f64 = 0.65;

/// What the viewers saw; times are sorted.
struct Seen {
    playlists: Vec<Duration>,
    segments: Vec<Duration>,
    /// From the end that was planned to the end.
    late: Duration,
    cpu: Duration,
}

pub fn mix(programs: &Programs, site: &Site, origin: &Origin, rounds: usize) -> Result<Value, String> {
    let plan = MIX_PLAN;
    let mut value =
        plan.json("CPU time of the server for the same schedule, seconds; the median of the rounds");
    value["target"] = json!(MIX_TARGET);
    let mut cpu = [vec![], vec![]];
    // Half a minute each: of more rounds nobody would wait for the end.
    for round in 0..rounds.min(2) {
        for which in [round % 2, (round + 1) % 2] {
            let (name, program) = programs.pair()[which];
            let peer = nginx::start(name, program, site, Room::CROWD)?;
            let (seen, row) = one(&peer, plan, origin).map_err(|e| format!("{MIX}, {name}: {e}"))?;
            println!("live mix {name:<10} CPU {:.3} s   {}", seen.cpu.as_secs_f64(), seen.line());
            cpu[which].push(seen.cpu.as_secs_f64());
            value[name] = row;
        }
    }
    let ratio = median(cpu[0].iter().zip(&cpu[1]).map(|(ours, theirs)| ours / theirs).collect());
    for ((name, _), rounds) in programs.pair().into_iter().zip(cpu) {
        value[name]["rounds_cpu_s"] = json!(rounds.iter().map(|s| self::round(*s)).collect::<Vec<_>>());
        value[name]["cpu_s"] = json!(self::round(median(rounds)));
    }
    value["ratio"] = json!(round(ratio));
    println!("live mix ratio {ratio:.2}, target {MIX_TARGET}");
    Ok(value)
}

pub fn crowd(programs: &Programs, site: &Site, origin: &Origin) -> Result<Value, String> {
    let plan = CROWD_PLAN;
    let mut value = plan.json("most memory that was ever resident, MB (VmHWM, processes added up; of nginx, the page cache comes on top)");
    value["cache_mb"] = json!(CROWD_CACHE);
    value["target_mb"] = json!(CROWD_TARGET_MB);
    for (name, program) in programs.pair() {
        let peer = nginx::start(name, program, site, Room { cache: CROWD_CACHE, ..Room::CROWD })?;
        let (seen, mut row) = one(&peer, plan, origin).map_err(|e| format!("{CROWD}, {name}: {e}"))?;
        row["peak_mb"] = json!(megabytes(memory::peak(peer.pid())?));
        println!("viewers {name:<10} peak {} MB   {}", row["peak_mb"], seen.line());
        value[name] = row;
    }
    Ok(value)
}

impl Seen {
    fn line(&self) -> String {
        format!(
            "{} playlists, p99 {} ms; {} segments, p99 {} ms; {} ms late at the end",
            self.playlists.len(),
            millis(percentile(&self.playlists, 99)).round(),
            self.segments.len(),
            millis(percentile(&self.segments, 99)).round(),
            millis(self.late).round(),
        )
    }
}

impl Plan {
    fn json(self, figure: &str) -> Value {
        json!({
            "figure": figure,
            "protocol": "tls h1",
            "viewers": self.viewers,
            "streams": self.streams,
            "segment_bytes": SEGMENT,
            "seconds": SEGMENT_LASTS.as_secs() * self.playlists as u64,
        })
    }

    /// Whether a viewer asks for a segment after its playlist of this number.
    fn takes_segment(self, viewer: usize, playlist: usize) -> bool {
        (viewer / self.streams + playlist).is_multiple_of(self.playlists_for_segment)
    }
}

fn one(peer: &Peer, plan: Plan, origin: &Origin) -> Result<(Seen, Value), String> {
    let (pid, port) = (peer.pid(), peer.ports.tls);
    let before = origin.requests.load(Ordering::Relaxed);
    let seen = pin::load(move || watch(pid, port, plan))?;
    let row = json!({
        "playlists": seen.playlists.len(),
        "segments": seen.segments.len(),
        "upstream_requests": origin.requests.load(Ordering::Relaxed) - before,
        "playlist_p50_ms": millis(percentile(&seen.playlists, 50)),
        "playlist_p99_ms": millis(percentile(&seen.playlists, 99)),
        "segment_p50_ms": millis(percentile(&seen.segments, 50)),
        "segment_p99_ms": millis(percentile(&seen.segments, 99)),
        "late_ms": millis(seen.late),
    });
    Ok((seen, row))
}

/// Connects all, then lets them watch.
async fn watch(pid: u32, port: u16, plan: Plan) -> Result<Seen, String> {
    let tls = Tls::new(&[], false)?;
    let viewers = client::many(plan.viewers, |_| {
        let tls = tls.clone();
        async move { tls.connect(port).await }
    });
    let viewers = viewers.await?;
    let before = crate::cpu::time_of(pid)?;
    let begin = Instant::now() + Duration::from_millis(100);
    let mut watching = JoinSet::new();
    for (viewer, stream) in viewers.into_iter().enumerate() {
        watching.spawn(view(Http1::new(stream), viewer, plan, begin));
    }
    let (mut playlists, mut segments) = (vec![], vec![]);
    while let Some(one) = watching.join_next().await {
        let (some_playlists, some_segments) = one.map_err(|e| e.to_string())??;
        playlists.extend(some_playlists);
        segments.extend(some_segments);
    }
    let planned = begin + SEGMENT_LASTS * plan.playlists as u32;
    let late = Instant::now().saturating_duration_since(planned);
    let cpu = crate::cpu::time_of(pid)? - before;
    playlists.sort_unstable();
    segments.sort_unstable();
    Ok(Seen { playlists, segments, late, cpu })
}

/// One viewer; returns how long its playlists and its segments took.
async fn view<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut http: Http1<S>,
    viewer: usize,
    plan: Plan,
    begin: Instant,
) -> Result<(Vec<Duration>, Vec<Duration>), String> {
    let stream = viewer % plan.streams;
    let playlist = request(&playlist_path(stream));
    // Viewers are spread over the interval, those of a stream too.
    let mut next = begin + SEGMENT_LASTS * viewer as u32 / plan.viewers as u32;
    let (mut playlists, mut segments) = (vec![], vec![]);
    for number in 0..plan.playlists {
        sleep_until(next).await;
        next += SEGMENT_LASTS;
        let asked = Instant::now();
        let answer = http.ask(&playlist).await?;
        playlists.push(asked.elapsed());
        let segment = newest(stream, answer.body).ok_or("no playlist")?;
        if plan.takes_segment(viewer, number) {
            let asked = Instant::now();
            http.get(&request(&segment), live::SEGMENT).await?;
            segments.push(asked.elapsed());
        }
    }
    Ok((playlists, segments))
}
