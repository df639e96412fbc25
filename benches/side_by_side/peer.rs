//! The servers: the same configuration for all, each on ports of its own, all on the same core.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cells::{Cell, LARGE, MEDIUM, Protocol, SMALL};

/// The core of the servers, and that of the load and of the origins.
const SERVER_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;

/// Memory for what is cached, in megabytes.
const CACHE: usize = 256;

/// The files that are served, and the ports of the origins.
pub struct Site {
    dir: tempfile::TempDir,
    /// Where the files are had from.
    origin: u16,
    /// Where the segments of the storm are had from.
    segments: u16,
}

impl Site {
    pub fn prepare(segments: u16) -> Result<Site, String> {
        let dir = tempfile::Builder::new().prefix("bench").tempdir().map_err(|e| e.to_string())?;
        let root = dir.path().join("root");
        fs::create_dir(&root).map_err(|e| e.to_string())?;
        for (name, size) in [("1k.bin", SMALL), ("200k.bin", MEDIUM), ("1m.bin", LARGE)] {
            let body: Vec<u8> = (0..size).map(|i| b'a' + (i % 23) as u8).collect();
            fs::write(root.join(name), body).map_err(|e| e.to_string())?;
        }
        for (name, text) in [
            ("cert.pem", include_str!("../../tests/parity/tls/cert.pem")),
            ("key.pem", include_str!("../../tests/parity/tls/key.pem")),
        ] {
            fs::write(dir.path().join(name), text).map_err(|e| e.to_string())?;
        }
        Ok(Site { dir, origin: free_port()?, segments })
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
    /// Starts one of those that read nginx.conf.
    pub fn start(name: &'static str, program: &str, site: &Site) -> Result<Peer, String> {
        let (port, tls_port) = (free_port()?, free_port()?);
        let dir = site.dir.path();
        let old_nginx = version(program).is_some_and(|v| v < (1, 25));
        let (listen_h2, http2) = if old_nginx { (" http2", "") } else { ("", "http2 on;") };
        // How much memory it may take nginx does not say: the kernel's page cache is its memory.
        let memory =
            if version(program).is_none() { format!("memory_cache size={CACHE}m;") } else { String::new() };
        let (dir_text, origin, segments) = (dir.display(), site.origin, site.segments);
        let conf = format!(
            r#"{}
http {{
    {}
    {memory}
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=60s;
    proxy_cache_path {dir_text}/{name}.cache keys_zone=cache:10m max_size={CACHE}m inactive=1h;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    upstream segments {{
        server 127.0.0.1:{segments};
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
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
        location /segments/ {{
            proxy_cache cache;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            proxy_pass http://segments;
        }}
        location /proxied/ {{ proxy_pass http://origin/; }}
    }}
}}
"#,
            main_context(dir, name),
            temp_paths(program, dir, name),
        );
        let mut command = as_nginx(name, program, dir, &conf, SERVER_CORE)?;
        Peer::spawn(name, &mut command, dir, port, tls_port)
    }

    /// Starts Varnish: one pool of threads on the one core, entries in memory, no door for an administrator.
    pub fn start_varnish(program: &str, site: &Site) -> Result<Peer, String> {
        let (name, port) = ("varnish", free_port()?);
        let dir = site.dir.path();
        let vcl = dir.join("varnish.vcl");
        let (origin, segments) = (site.origin, site.segments);
        let text = format!(
            r#"vcl 4.1;
backend origin {{ .host = "127.0.0.1"; .port = "{origin}"; }}
backend segments {{ .host = "127.0.0.1"; .port = "{segments}"; }}
sub vcl_backend_fetch {{
    if (bereq.url ~ "^/segments/") {{
        set bereq.backend = segments;
    }} else {{
        set bereq.url = regsub(bereq.url, "^/cached/", "/");
    }}
}}
sub vcl_backend_response {{ set beresp.ttl = 1h; }}
"#
        );
        fs::write(&vcl, text).map_err(|e| e.to_string())?;
        let log = fs::File::create(dir.join("varnish.error")).map_err(|e| e.to_string())?;
        let mut command = pinned(program, SERVER_CORE);
        command.args(["-F", "-j", "none", "-T", "none", "-n"]).arg(dir.join("varnish"));
        command.arg("-f").arg(&vcl).arg("-a").arg(format!("127.0.0.1:{port}"));
        command.args(["-s", &format!("malloc,{CACHE}m")]);
        // A thread for each connection that is being answered: no more are kept ready than the load has.
        for parameter in ["thread_pools=1", "thread_pool_min=100", "thread_pool_max=2000", "timeout_idle=65"]
        {
            command.args(["-p", parameter]);
        }
        command.stderr(log);
        Peer::spawn(name, &mut command, dir, port, port)
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
        let mut command = as_nginx("origin", nginx, dir, &conf, LOAD_CORE)?;
        Peer::spawn("origin", &mut command, dir, port, port)
    }

    fn spawn(
        name: &'static str,
        command: &mut Command,
        dir: &Path,
        port: u16,
        tls_port: u16,
    ) -> Result<Peer, String> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("{command:?}: {e}"))?;
        let mut peer = Peer { name, child, port, tls_port };
        let deadline = Instant::now() + Duration::from_secs(20);
        // A server says only by listening that it listens.
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let exited = peer.child.try_wait().map_err(|e| e.to_string())?;
            if exited.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(dir.join(format!("{name}.error"))).unwrap_or_default();
                return Err(format!("{name} did not start: {command:?}\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(peer)
    }

    /// The process that was started; `taskset` has become the server.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens without TLS.
    pub fn port(&self) -> u16 {
        self.port
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

/// A program on a core of its own.
pub fn pinned(program: &str, core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

fn as_nginx(name: &str, program: &str, dir: &Path, conf: &str, core: usize) -> Result<Command, String> {
    let path = dir.join(format!("{name}.conf"));
    fs::write(&path, conf).map_err(|e| e.to_string())?;
    let mut command = pinned(program, core);
    command.arg("-p").arg(dir).arg("-e").arg(dir.join(format!("{name}.error"))).arg("-c").arg(&path);
    Ok(command)
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

pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}
