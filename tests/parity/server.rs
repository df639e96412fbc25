//! Starts a server on a case's configuration, has the script played, stops it and collects its logs.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::case::Case;
use crate::check;
use crate::client;
use crate::loopback::Address;
use crate::transcript::Transcript;
use crate::upstream::{DEAD_PORT, PORTS, Upstreams};

/// A server's program.
pub struct Binary {
    pub path: PathBuf,
    /// Configurations are adapted for nginx 1.22, and differences on purpose do not apply.
    pub is_nginx: bool,
}

impl Binary {
    pub fn at(path: impl Into<PathBuf>) -> Binary {
        let path = path.into();
        let is_nginx = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("nginx"));
        Binary { path, is_nginx }
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
    let conf = configuration(case, binary, dir, address.ip, upstream_address.ip);
    let conf_path = dir.join("nginx.conf");
    fs::write(&conf_path, &conf).map_err(|e| e.to_string())?;

    let upstreams = Upstreams::start(case, upstream_address.ip)?;
    let mut server = Server::start(binary, dir, &conf_path)?;
    server.await_ports(&conf, address.ip)?;
    client::play(case, address.ip, &upstreams, &mut transcript);
    drop(upstreams);
    if let Ok(Some(status)) = server.child.try_wait() {
        let output = server.output();
        transcript.note(&format!("error: the server ended by itself ({status})"));
        for line in output.lines() {
            transcript.note(line);
        }
    }
    server.stop();
    for name in ["access.log", "access2.log"] {
        if let Ok(text) = fs::read(dir.join(name)) {
            transcript.log(&String::from_utf8_lossy(&text));
        }
    }
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
    fs::write(dir.join("cert.pem"), include_str!("tls/cert.pem"))?;
    fs::write(dir.join("key.pem"), include_str!("tls/key.pem"))
}

/// The whole nginx.conf for one server.
fn configuration(case: &Case, binary: &Binary, dir: &Path, ip: Ipv4Addr, upstream: Ipv4Addr) -> String {
    let text = case.conf.clone().unwrap_or_else(|| {
        let server = match &case.server {
            Some(server) => format!(
                "server {{\n{}{server}\n}}\n",
                if server.contains("listen ") { "" } else { "listen {{listen}};\n" }
            ),
            None => String::new(),
        };
        format!("{}\nevents {{ worker_connections 512; }}\nhttp {{\n{}\n{server}}}\n", case.main, case.http)
    });
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let mut text = format!(
        "daemon off;\nworker_processes 1;\n{user}\npid {{{{dir}}}}/pid;\nerror_log {{{{dir}}}}/error.log info;\n{text}"
    );
    if binary.is_nginx {
        text = for_nginx(&text, case);
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
        ("{{cert}}", format!("{dir}/cert.pem")),
        ("{{key}}", format!("{dir}/key.pem")),
        ("{{dir}}", dir.clone()),
    ]
    .iter()
    .fold(text, |text, (name, value)| text.replace(name, value))
}

/// Rewrites a configuration for nginx 1.22: `http2 on` is a parameter of `listen`, temporary files stay in `dir`.
fn for_nginx(text: &str, case: &Case) -> String {
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
    let log = if case.http.contains("access_log") || case.conf.is_some() { "" } else { "access_log off;" };
    text.replacen("http {", &format!("http {{\n{temps}{defaults}\n{log}\n{}\n", case.nginx_http), 1)
}

/// A running server; it is killed when this is dropped.
struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    fn start(binary: &Binary, dir: &Path, conf: &Path) -> Result<Server, String> {
        let output = fs::File::create(dir.join("output")).map_err(|e| e.to_string())?;
        let child = Command::new(&binary.path)
            .arg("-p")
            .arg(dir)
            .arg("-e")
            .arg(dir.join("error.log"))
            .arg("-c")
            .arg(conf)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(|e| e.to_string())?)
            .stderr(output)
            .spawn()
            .map_err(|e| e.to_string())?;
        Ok(Server { child, dir: dir.to_owned() })
    }

    /// Waits until every port that the configuration listens on answers.
    fn await_ports(&mut self, conf: &str, ip: Ipv4Addr) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        for port in [28080, 28081, 28443].into_iter().filter(|p| conf.contains(&format!("{ip}:{p}"))) {
            // Nothing can be awaited here: a server says in no way that it listens, but by listening.
            while TcpStream::connect((ip, port)).is_err() {
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(format!("it did not start ({status}):\n{}", self.output()));
                }
                if Instant::now() > deadline {
                    return Err(format!("it does not listen on port {port}:\n{}", self.output()));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    fn output(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let both = read("output") + &read("error.log");
        both.lines()
            .filter(|l| !l.contains("[notice]") && !l.contains("[info]"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Stops it gracefully, so that all it has to log is in the log; the clients have gone.
    fn stop(mut self) {
        self.signal(rustix::process::Signal::QUIT);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
