//! Those that read nginx.conf: ours and nginx, with the same text.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{CACHE, LOAD_CORE, Peer, Ports, SERVER_CORE, pinned};
use crate::site::Site;

/// How much a server is set up for.
#[derive(Clone, Copy)]
pub struct Room {
    pub connections: usize,
    /// Megabytes that may be cached.
    pub cache: usize,
}

impl Room {
    /// For the cells.
    pub const CELLS: Room = Room { connections: 4096, cache: CACHE };
    /// For ten thousand clients, each of which may need a connection upstream.
    pub const CROWD: Room = Room { connections: 18_000, cache: CACHE };
}

/// Starts a server with the whole site.
pub fn start(name: &'static str, program: &str, site: &Site, room: Room) -> Result<Peer, String> {
    let ports = Ports::free()?;
    let old_nginx = version(program).is_some_and(|v| v < (1, 25));
    let (listen_h2, http2) = if old_nginx { (" http2", "") } else { ("", "http2 on;") };
    // How much memory it may take nginx does not say: the kernel's page cache is its memory.
    let (cache, is_nginx) = (room.cache, version(program).is_some());
    let memory = if is_nginx { String::new() } else { format!("memory_cache size={cache}m;") };
    let (dir, origin, segments, live) = (site.dir().display(), site.origin, site.segments, site.live);
    let Ports { plain, copying, tls, tls_rsa } = ports;
    let locations = format!(
        r"
        location / {{ root {dir}/root; }}
        location /gzip/ {{
            alias {dir}/root/;
            gzip on;
            gzip_comp_level 1;
            gzip_types application/vnd.apple.mpegurl;
        }}
        location /cached/ {{
            proxy_cache cache;
            proxy_cache_valid 200 1h;
            proxy_pass http://origin/;
        }}
        location /segments/ {{
            proxy_cache cache;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            proxy_pass http://segments;
        }}
        location /live/ {{
            proxy_cache cache;
            proxy_cache_lock on;
            proxy_cache_use_stale updating;
            proxy_pass http://live;
        }}
        location /proxied/ {{ proxy_pass http://origin/; }}"
    );
    let http = format!(
        r#"{memory}
    types {{ application/vnd.apple.mpegurl m3u8; }}
    proxy_cache_path {dir}/{name}.{plain}.cache keys_zone=cache:10m max_size={cache}m inactive=1h;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 128;
        keepalive_requests 1000000000;
    }}
    upstream segments {{
        server 127.0.0.1:{segments};
        keepalive 64;
    }}
    upstream live {{
        server 127.0.0.1:{live};
        keepalive 64;
    }}
    ssl_protocols TLSv1.3;
    server {{
        listen 127.0.0.1:{plain} backlog=4096;
        listen 127.0.0.1:{tls} ssl{listen_h2} backlog=4096;
        {http2}
        ssl_certificate {dir}/p-256.pem;
        ssl_certificate_key {dir}/p-256.key;{locations}
    }}
    server {{
        listen 127.0.0.1:{copying} backlog=4096;
        sendfile off;{locations}
    }}
    server {{
        listen 127.0.0.1:{tls_rsa} ssl backlog=4096;
        ssl_certificate {dir}/rsa-2048.pem;
        ssl_certificate_key {dir}/rsa-2048.key;{locations}
    }}"#
    );
    start_with(name, program, site.dir(), room, ports, &http)
}

/// Starts a server with `http` in its http block, below what all have.
pub fn start_with(
    name: &'static str,
    program: &str,
    dir: &Path,
    room: Room,
    ports: Ports,
    http: &str,
) -> Result<Peer, String> {
    let conf = format!(
        r"{}
http {{
    {}
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=60s;
    {http}
}}
",
        main_context(dir, name, room.connections),
        temp_paths(program, dir, name),
    );
    let mut command = as_nginx(name, program, dir, &conf, SERVER_CORE)?;
    Peer::spawn(name, &mut command, dir, ports)
}

/// Starts what the proxied and the cached cells are fetched from, on the load's core.
pub fn start_origin(nginx: &str, site: &Site) -> Result<Peer, String> {
    let (dir, plain) = (site.dir(), site.origin);
    let conf = format!(
        "{}\nhttp {{ {} access_log off; sendfile on; keepalive_requests 1000000000; \
         open_file_cache max=10; server {{ listen 127.0.0.1:{plain} backlog=4096; root {}/root; \
         location = /requests {{ stub_status; }} }} }}",
        main_context(dir, "origin", 18_000),
        temp_paths(nginx, dir, "origin"),
        dir.display()
    );
    let mut command = as_nginx("origin", nginx, dir, &conf, LOAD_CORE)?;
    Peer::spawn("origin", &mut command, dir, Ports { plain, ..Ports::default() })
}

fn as_nginx(name: &str, program: &str, dir: &Path, conf: &str, core: usize) -> Result<Command, String> {
    let path = dir.join(format!("{name}.conf"));
    fs::write(&path, conf).map_err(|e| e.to_string())?;
    let mut command = pinned(program, core);
    command.arg("-p").arg(dir).arg("-e").arg(dir.join(format!("{name}.error"))).arg("-c").arg(&path);
    Ok(command)
}

fn main_context(dir: &Path, name: &str, connections: usize) -> String {
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let dir = dir.display();
    format!(
        "daemon off; worker_processes 1; {user} pid {dir}/{name}.pid; error_log {dir}/{name}.error;\n\
         events {{ worker_connections {connections}; }}"
    )
}

/// nginx would keep temporary files where it was installed to keep them.
fn temp_paths(program: &str, dir: &Path, name: &str) -> String {
    if version(program).is_none() {
        return String::new();
    }
    let path = |what| format!("{what}_temp_path {}/{name}.{what};", dir.display());
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(path).join(" ")
}

/// The version of nginx, `None` for another program.
fn version(program: &str) -> Option<(u32, u32)> {
    let output = Command::new(program).arg("-v").output().ok()?;
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_once("nginx/")?.1.split('.').map_while(|n| n.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
