//! The servers: the same configuration for both, each on ports of its own, both on the same core.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cells::{Cell, LARGE, Protocol, SMALL};

/// The core of the servers, and that of the load and of the origin.
const SERVER_CORE: &str = "0";
pub const LOAD_CORE: &str = "1";

/// The files that are served, and the port of the origin.
pub struct Site {
    dir: tempfile::TempDir,
    origin: u16,
}

impl Site {
    pub fn prepare() -> Result<Site, String> {
        let dir = tempfile::Builder::new().prefix("bench").tempdir().map_err(|e| e.to_string())?;
        let root = dir.path().join("root");
        fs::create_dir(&root).map_err(|e| e.to_string())?;
        for (name, size) in [("1k.bin", SMALL), ("1m.bin", LARGE)] {
            let body: Vec<u8> = (0..size).map(|i| b'a' + (i % 23) as u8).collect();
            fs::write(root.join(name), body).map_err(|e| e.to_string())?;
        }
        for (name, text) in [
            ("cert.pem", include_str!("../../tests/parity/tls/cert.pem")),
            ("key.pem", include_str!("../../tests/parity/tls/key.pem")),
        ] {
            fs::write(dir.path().join(name), text).map_err(|e| e.to_string())?;
        }
        Ok(Site { dir, origin: free_port()? })
    }
}

/// A running server; it is stopped when this is dropped.
pub struct Peer {
    pub name: &'static str,
    child: Child,
    port: u16,
    tls_port: u16,
}

impl Peer {
    /// Starts one of the two that are compared.
    pub fn start(name: &'static str, program: &str, site: &Site) -> Result<Peer, String> {
        let (port, tls_port) = (free_port()?, free_port()?);
        let dir = site.dir.path();
        let old_nginx = version(program).is_some_and(|v| v < (1, 25));
        let (listen_h2, http2) = if old_nginx { (" http2", "") } else { ("", "http2 on;") };
        let (dir_text, origin) = (dir.display(), site.origin);
        let conf = format!(
            r#"{}
http {{
    {}
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=60s;
    proxy_cache_path {dir_text}/{name}.cache keys_zone=cache:10m max_size=100m inactive=1h;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl{listen_h2};
        {http2}
        ssl_certificate {dir_text}/cert.pem;
        ssl_certificate_key {dir_text}/key.pem;
        ssl_protocols TLSv1.3;
        location / {{ root {dir_text}/root; }}
        location /cached/ {{
            proxy_cache cache;
            proxy_cache_valid 200 1h;
            proxy_pass http://origin/;
        }}
        location /proxied/ {{ proxy_pass http://origin/; }}
    }}
}}
"#,
            main_context(dir, name),
            temp_paths(program, dir, name),
        );
        Peer::spawn(name, program, dir, &conf, SERVER_CORE, port, tls_port)
    }

    /// Starts what the proxied and the cached cells are fetched from, on the load's core.
    pub fn start_origin(nginx: &str, site: &Site) -> Result<Peer, String> {
        let dir = site.dir.path();
        let port = site.origin;
        let conf = format!(
            "{}\nhttp {{ {} access_log off; sendfile on; keepalive_requests 1000000000; \
             open_file_cache max=10; server {{ listen 127.0.0.1:{port}; root {}/root; }} }}",
            main_context(dir, "origin"),
            temp_paths(nginx, dir, "origin"),
            dir.display()
        );
        Peer::spawn("origin", nginx, dir, &conf, LOAD_CORE, port, port)
    }

    fn spawn(
        name: &'static str,
        program: &str,
        dir: &Path,
        conf: &str,
        core: &str,
        port: u16,
        tls_port: u16,
    ) -> Result<Peer, String> {
        let path = dir.join(format!("{name}.conf"));
        fs::write(&path, conf).map_err(|e| e.to_string())?;
        let log = dir.join(format!("{name}.error"));
        let child = Command::new("taskset")
            .args(["-c", core, program, "-p"])
            .arg(dir)
            .arg("-e")
            .arg(&log)
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("{program}: {e}"))?;
        let mut peer = Peer { name, child, port, tls_port };
        let deadline = Instant::now() + Duration::from_secs(20);
        // A server says only by listening that it listens.
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let exited = peer.child.try_wait().map_err(|e| e.to_string())?;
            if exited.is_some() || Instant::now() > deadline {
                return Err(format!(
                    "{program} did not start:\n{}",
                    fs::read_to_string(&log).unwrap_or_default()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(peer)
    }

    /// The process that was started; `taskset` has become the server.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, cell: &Cell) -> String {
        match cell.protocol {
            Protocol::Plain => format!("http://127.0.0.1:{}{}", self.port, cell.path()),
            Protocol::Tls | Protocol::TlsH2 | Protocol::Handshake => {
                format!("https://127.0.0.1:{}{}", self.tls_port, cell.path())
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn main_context(dir: &Path, name: &str) -> String {
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let dir = dir.display();
    format!(
        "daemon off; worker_processes 1; {user} pid {dir}/{name}.pid; error_log {dir}/{name}.error;\n\
         events {{ worker_connections 4096; }}"
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

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}
