//! Starts a server on a case's configuration, has the script played, stops it and collects its logs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::case::{Case, Parts};
use crate::check;
use crate::client;
use crate::collect::{self, Collected};
use crate::hits;
use crate::loopback::Address;
use crate::running::{LOGS, Running};
use crate::transcript::Transcript;
use crate::upstream::{DEAD_PORT, PORTS, Upstreams};

/// A server's program.
pub struct Binary {
    pub path: PathBuf,
    /// Configurations are adapted for nginx 1.22, and differences on purpose do not apply.
    pub is_nginx: bool,
    /// What stands at the beginning of `http { }` besides the case's own, for ours.
    pub http: String,
}

impl Binary {
    pub fn at(path: impl Into<PathBuf>) -> Binary {
        let path = path.into();
        let is_nginx = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("nginx"));
        Binary { path, is_nginx, http: String::new() }
    }
}

/// When every file of a docroot was last changed: 2 January 2024, 03:04:05 UTC.
const MTIME: Duration = Duration::from_secs(1_704_164_645);

/// Runs the case on one server, in `dir`, and returns its transcript.
pub fn run(case: &Case, binary: &Binary, dir: &Path) -> Result<Transcript, String> {
    let address = Address::reserve()?;
    let upstream_address = Address::reserve()?;
    lay_out(case, dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut transcript = Transcript::new(case, dir, address.ip, upstream_address.ip)?;
    if !case.checks.is_empty() {
        check::run(case, binary, dir, address.ip, &mut transcript)?;
        return Ok(transcript);
    }
    let confs: Vec<String> = case
        .confs
        .iter()
        .map(|parts| configuration(parts, binary, dir, address.ip, upstream_address.ip))
        .collect();
    let collected = Collected::listen(&confs.concat(), address.ip, dir).map_err(|e| e.to_string())?;
    let upstreams = Upstreams::start(case, upstream_address.ip)?;
    let mut server = Running::start(binary, dir, address.ip, confs)?;
    client::play(case, &mut server, &upstreams, &mut transcript);
    drop(upstreams);
    if !binary.http.is_empty() {
        transcript.hits = hits::counted(dir);
    }
    if let Some((status, output)) = server.ended() {
        transcript.note(&format!("error: the server ended by itself ({status})"));
        for line in output.lines() {
            transcript.note(line);
        }
    }
    server.stop();
    for name in LOGS {
        // A line of its own, for lines of one log only may change places.
        transcript.note(&format!("in {name}:"));
        for name in [format!("{name}.1"), name.to_owned()] {
            if let Ok(text) = fs::read(dir.join(name)) {
                transcript.log(&String::from_utf8_lossy(&text));
            }
        }
    }
    collected.write_down(dir, &mut transcript);
    transcript.errors(&String::from_utf8_lossy(&fs::read(dir.join("error.log")).unwrap_or_default()));
    Ok(transcript)
}

/// Writes the document root and what else the configuration refers to.
fn lay_out(case: &Case, dir: &Path) -> std::io::Result<()> {
    let root = dir.join("root");
    fs::create_dir_all(&root)?;
    fs::create_dir_all(dir.join("temp"))?;
    // Where the default access log is.
    fs::create_dir_all(dir.join("logs"))?;
    for name in &case.dirs {
        fs::create_dir_all(root.join(name))?;
    }
    for (name, content) in &case.files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&root))?;
        fs::write(&path, content)?;
        fs::File::options().write(true).open(&path)?.set_modified(SystemTime::UNIX_EPOCH + MTIME)?;
    }
    for (name, target) in &case.links {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&root))?;
        std::os::unix::fs::symlink(target, path)?;
    }
    for (name, arguments, changes) in &case.films {
        film(&root.join(name), arguments, changes)?;
    }
    fs::write(dir.join("cert.pem"), include_str!("tls/cert.pem"))?;
    fs::write(dir.join("key.pem"), include_str!("tls/key.pem"))
}

/// Has ffmpeg make a film, the same for the same arguments, and changes bytes of it.
fn film(path: &Path, arguments: &str, changes: &[String]) -> std::io::Result<()> {
    type Made = std::sync::Mutex<std::collections::HashMap<(String, std::ffi::OsString), Vec<u8>>>;
    static MADE: std::sync::LazyLock<Made> = std::sync::LazyLock::new(Made::default);
    let wrong = |what: &str| std::io::Error::other(format!("{what}: {}", path.display()));
    let key = (arguments.to_owned(), path.extension().unwrap_or_default().to_owned());
    // Nothing that panics is done while it is held.
    let known = MADE.lock().ok().and_then(|made| made.get(&key).cloned());
    let mut bytes = match known {
        Some(bytes) => bytes,
        None => {
            let made = std::process::Command::new("ffmpeg")
                .args(["-v", "error", "-nostdin", "-y"])
                .args(arguments.split_whitespace())
                .args(["-threads", "1", "-bitexact", "-fflags", "+bitexact", "-flags", "+bitexact"])
                .arg(path)
                .status()?;
            if !made.success() {
                return Err(wrong("ffmpeg does not make it"));
            }
            let bytes = fs::read(path)?;
            if let Ok(mut made) = MADE.lock() {
                made.insert(key, bytes.clone());
            }
            bytes
        }
    };
    for change in changes {
        let (place, hex) = change.split_once('=').ok_or_else(|| wrong(change))?;
        let (name, offset) = place.split_once('+').ok_or_else(|| wrong(change))?;
        let at = crate::http1::find(&bytes, name.as_bytes()).ok_or_else(|| wrong(change))?;
        let at = at + offset.parse::<usize>().map_err(|_| wrong(change))?;
        for (i, digits) in hex.as_bytes().chunks(2).enumerate() {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong(change))?;
            *bytes.get_mut(at + i).ok_or_else(|| wrong(change))? =
                u8::from_str_radix(digits, 16).map_err(|_| wrong(change))?;
        }
    }
    fs::write(path, bytes)?;
    fs::File::options().write(true).open(path)?.set_modified(SystemTime::UNIX_EPOCH + MTIME)
}

/// The whole nginx.conf for one server.
fn configuration(parts: &Parts, binary: &Binary, dir: &Path, ip: Ipv4Addr, upstream: Ipv4Addr) -> String {
    let text = parts.conf.clone().unwrap_or_else(|| {
        let server = match &parts.server {
            Some(server) => format!(
                "server {{\n{}{server}\n}}\n",
                if server.contains("listen ") { "" } else { "listen {{listen}};\n" }
            ),
            None => String::new(),
        };
        format!("{}\nevents {{ worker_connections 512; }}\nhttp {{\n{}\n{server}}}\n", parts.main, parts.http)
    });
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let mut text = format!(
        "daemon off;\nworker_processes 1;\n{user}\npid {{{{dir}}}}/pid;\nerror_log {{{{dir}}}}/error.log info;\n{text}"
    );
    if binary.is_nginx {
        text = for_nginx(&text, parts);
    } else if !binary.http.is_empty() {
        text = text.replacen("http {", &format!("http {{\n{}\n", binary.http), 1);
    }
    let dir = dir.display().to_string();
    [
        ("{{listen}}", format!("{ip}:28080")),
        ("{{listen2}}", format!("{ip}:28081")),
        ("{{tls}}", format!("{ip}:28443")),
        ("{{ip}}", ip.to_string()),
        ("{{upstream_ip}}", upstream.to_string()),
        ("{{upstream}}", format!("{upstream}:{}", PORTS[0])),
        ("{{upstream2}}", format!("{upstream}:{}", PORTS[1])),
        ("{{dead}}", format!("{upstream}:{DEAD_PORT}")),
        ("{{root}}", format!("{dir}/root")),
        ("{{log}}", format!("{dir}/access.log")),
        ("{{log2}}", format!("{dir}/access2.log")),
        ("{{loggz}}", format!("{dir}/access.log.gz")),
        ("{{syslog}}", format!("{ip}:{}", collect::SYSLOG_PORT)),
        ("{{syslog_unix}}", format!("{dir}/syslog")),
        ("{{cert}}", format!("{dir}/cert.pem")),
        ("{{key}}", format!("{dir}/key.pem")),
        ("{{dir}}", dir.clone()),
    ]
    .iter()
    .fold(text, |text, (name, value)| text.replace(name, value))
}

/// Rewrites a configuration for nginx 1.22: `http2 on` is a parameter of `listen`, temporary files stay in `dir`.
fn for_nginx(text: &str, parts: &Parts) -> String {
    let mut text = text.to_owned();
    if text.contains("http2 on;") {
        text = text
            .replace("http2 on;", "")
            .replace(" ssl;", " ssl http2;")
            .replace(" ssl default_server;", " ssl http2 default_server;");
    }
    let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {{{{dir}}}}/temp/{what};\n"))
        .collect();
    // The defaults of nginx 1.31, which 1.22 must be told.
    let tls = if text.contains("ssl_protocols") { "" } else { "ssl_protocols TLSv1.2 TLSv1.3;" };
    let defaults = format!("proxy_http_version 1.1;\n{tls}");
    let log = if parts.http.contains("access_log") || parts.conf.is_some() { "" } else { "access_log off;" };
    text.replacen("http {", &format!("http {{\n{temps}{defaults}\n{log}\n{}\n", parts.nginx_http), 1)
}
