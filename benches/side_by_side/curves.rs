//! How the CPU time of a request grows with what it should not grow with: connections, locations, servers, entries of
//! a map.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cells::SMALL;
use crate::client::{self, Http1, request};
use crate::cpu;
use crate::peers::nginx::{self, Room};
use crate::peers::{Peer, Ports, Programs};
use crate::pin;
use crate::site::Site;
use crate::stats::{median, round};

/// The name of each begins so.
const NAME: &str = "curves";
/// How long one run lasts.
const WINDOW: Duration = Duration::from_millis(400);
/// Connections where it is not they that grow.
const CONNECTIONS: usize = 64;

/// What grows.
struct Axis {
    name: &'static str,
    sizes: &'static [usize],
    /// What stands in the http block, by the size, the root of the files, and the `listen` of a server.
    http: fn(usize, &str, &str) -> String,
    /// The request that is for the entry of this number.
    request: fn(usize) -> Vec<u8>,
}

const AXES: [Axis; 5] = [
    Axis {
        name: "prefix locations",
        sizes: &[10, 100, 1000, 10_000],
        http: |size, root, listen| {
            server(listen, &each(size, |n| format!("location /p{n}/ {{ alias {root}/; }}\n")))
        },
        request: |n| request(&format!("/p{n}/1k.bin")),
    },
    Axis {
        name: "exact locations",
        sizes: &[10, 100, 1000, 10_000],
        http: |size, root, listen| {
            server(listen, &each(size, |n| format!("location = /e{n} {{ alias {root}/1k.bin; }}\n")))
        },
        request: |n| request(&format!("/e{n}")),
    },
    Axis {
        name: "regex locations",
        sizes: &[10, 100, 1000],
        http: |size, root, listen| {
            server(listen, &each(size, |n| format!("location ~ ^/r{n}/ {{ alias {root}/1k.bin; }}\n")))
        },
        request: |n| request(&format!("/r{n}/1k.bin")),
    },
    Axis {
        name: "servers",
        sizes: &[10, 100, 1000, 10_000],
        http: |size, root, listen| {
            let servers = each(size, |n| server(listen, &format!("server_name s{n}.example; root {root};")));
            format!("server_names_hash_max_size 131072; server_names_hash_bucket_size 128;\n{servers}")
        },
        request: |n| format!("GET /1k.bin HTTP/1.1\r\nHost: s{n}.example\r\n\r\n").into_bytes(),
    },
    Axis {
        name: "map entries",
        sizes: &[10, 100, 1000, 10_000],
        http: |size, root, listen| {
            let entries = each(size, |n| format!("key-{n} value-{n};\n"));
            let server = server(listen, &format!("root {root}; add_header X-Value $value;"));
            format!(
                "map_hash_max_size 131072; map_hash_bucket_size 128;\nmap $http_x_key $value {{\n{entries}}}\n{server}"
            )
        },
        request: |n| format!("GET /1k.bin HTTP/1.1\r\nHost: bench\r\nX-Key: key-{n}\r\n\r\n").into_bytes(),
    },
];

fn server(listen: &str, inside: &str) -> String {
    format!("server {{ {listen} {inside} }}\n")
}

fn each(size: usize, one: impl Fn(usize) -> String) -> String {
    (0..size).fold(String::new(), |mut text, n| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", one(n));
        text
    })
}

/// The names of all curves.
pub fn names() -> impl Iterator<Item = String> {
    std::iter::once("connections")
        .chain(AXES.iter().map(|axis| axis.name))
        .map(|name| format!("{NAME} {name}"))
}

/// Measures the curves whose names are wanted.
pub fn run(
    programs: &Programs,
    site: &Site,
    rounds: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Value>, String> {
    let rounds = rounds.min(3);
    let mut curves = vec![];
    if wanted(&format!("{NAME} connections")) {
        curves.push(connections(programs, site, rounds)?);
    }
    for axis in AXES.iter().filter(|axis| wanted(&format!("{NAME} {}", axis.name))) {
        let mut points = vec![];
        for size in axis.sizes {
            let point = configured(axis, *size, programs, site, rounds);
            points.push(point.map_err(|e| format!("{NAME}, {size} {}: {e}", axis.name))?);
        }
        curves.push(json!({ "curve": axis.name, "request": "h1 static 1k", "points": points }));
    }
    Ok(curves)
}

/// The CPU of a cached kilobyte by the number of connections that ask for it.
fn connections(programs: &Programs, site: &Site, rounds: usize) -> Result<Value, String> {
    let mut points = vec![];
    for size in [10, 100, 1000, 10_000] {
        let mut micros = [vec![], vec![]];
        // One after the other: a process has not the descriptors for both at a time.
        for ((name, program), micros) in programs.pair().into_iter().zip(&mut micros) {
            let peer = nginx::start(name, program, site, Room::CROWD)?;
            let requests = Arc::new(vec![request("/cached/1k.bin")]);
            for _ in 0..rounds {
                let one = drive(&peer, size, requests.clone());
                micros.push(one.map_err(|e| format!("{NAME}, {size} connections, {name}: {e}"))?);
            }
        }
        points.push(point("connections", size, micros));
    }
    Ok(json!({ "curve": "connections", "request": "h1 cached 1k", "points": points }))
}

/// One point of a curve whose configuration grows.
fn configured(
    axis: &Axis,
    size: usize,
    programs: &Programs,
    site: &Site,
    rounds: usize,
) -> Result<Value, String> {
    let mut peers = vec![];
    for (name, program) in programs.pair() {
        let ports = Ports { plain: crate::peers::free_port()?, ..Ports::default() };
        let root = site.dir().join("root").display().to_string();
        let http = (axis.http)(size, &root, &format!("listen 127.0.0.1:{};", ports.plain));
        peers.push(nginx::start_with(name, program, site.dir(), Room::CELLS, ports, &http)?);
    }
    // All entries, in an order that is not that of the file; seven does not divide their number.
    let requests: Vec<_> = (0..size).map(|n| (axis.request)(n * 7 % size)).collect();
    let requests = Arc::new(requests);
    let mut micros = [vec![], vec![]];
    for round in 0..rounds {
        for which in [round % 2, (round + 1) % 2] {
            micros[which].push(drive(&peers[which], CONNECTIONS, requests.clone())?);
        }
    }
    Ok(point(axis.name, size, micros))
}

fn point(name: &str, size: usize, micros: [Vec<f64>; 2]) -> Value {
    let ratio = median(micros[0].iter().zip(&micros[1]).map(|(ours, theirs)| ours / theirs).collect());
    let [ours, theirs] = micros.map(median);
    println!("{NAME} {size:>6} {name:<18}{ours:>8.2}{theirs:>8.2}{ratio:>8.2}");
    json!({ "size": size, "edgewater": round(ours), "nginx": round(theirs), "ratio": round(ratio) })
}

/// CPU microseconds of the server for one request, with so many connections that each send the next of `requests` when
/// they have their answer.
fn drive(peer: &Peer, count: usize, requests: Arc<Vec<Vec<u8>>>) -> Result<f64, String> {
    let (pid, port) = (peer.pid(), peer.ports.plain);
    pin::load(move || async move {
        let open = |index: usize| {
            let requests = requests.clone();
            async move {
                let mut http: Http1<TcpStream> = Http1::new(client::connect(port).await?);
                http.get(&requests[index % requests.len()], SMALL).await?;
                Ok(http)
            }
        };
        let held = client::many(count, open).await?;
        let until = Instant::now() + WINDOW;
        let before = cpu::time_of(pid)?;
        let mut asking = JoinSet::new();
        for (index, mut http) in held.into_iter().enumerate() {
            let requests = requests.clone();
            asking.spawn(async move {
                // Each begins elsewhere.
                let mut next = index * requests.len() / count;
                let mut done = 0_u64;
                while Instant::now() < until || done == 0 {
                    http.get(&requests[next % requests.len()], SMALL).await?;
                    next += 1;
                    done += 1;
                }
                Ok::<_, String>((http, done))
            });
        }
        // Connections are closed when the time has been taken.
        let (mut held, mut done) = (vec![], 0);
        while let Some(one) = asking.join_next().await {
            let (http, some) = one.map_err(|e| e.to_string())??;
            held.push(http);
            done += some;
        }
        let cpu = cpu::time_of(pid)? - before;
        drop(held);
        Ok(cpu.as_secs_f64() * 1e6 / done.max(1) as f64)
    })
}
