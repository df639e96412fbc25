//! The servers: the same site for all, each on ports of its own, all on the same core.

pub mod h2o;
pub mod haproxy;
pub mod nginx;
pub mod varnish;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cells::{Cell, Protocol, Source};
use crate::cpu;

/// The core of the servers, and that of the load and of the origins.
pub const SERVER_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;

/// Memory for what is cached, in megabytes.
pub const CACHE: usize = 256;

/// What is run, by path or by name.
pub struct Programs {
    pub ours: String,
    pub nginx: String,
    pub varnish: String,
    pub haproxy: String,
    pub h2o: String,
}

impl Programs {
    /// What the environment says, else where Debian has them.
    pub fn find() -> Programs {
        let program = |variables: &[&str], default: &str| {
            let said = variables.iter().find_map(|v| std::env::var(v).ok().filter(|p| !p.is_empty()));
            said.unwrap_or_else(|| default.into())
        };
        Programs {
            ours: program(&["EDGEWATER_BIN"], env!("CARGO_BIN_EXE_edgewater")),
            nginx: program(&["PEER", "NGINX"], "/usr/sbin/nginx"),
            varnish: program(&["VARNISHD"], "/usr/sbin/varnishd"),
            haproxy: program(&["HAPROXY"], "/usr/sbin/haproxy"),
            h2o: program(&["H2O"], "/usr/bin/h2o"),
        }
    }

    /// Ours and nginx, which each group compares.
    pub fn pair(&self) -> [(&'static str, &str); 2] {
        [("edgewater", &self.ours), ("nginx", &self.nginx)]
    }
}

/// Where a server listens; 0 where it does not.
#[derive(Clone, Copy, Default)]
pub struct Ports {
    pub plain: u16,
    /// Without TLS, and with `sendfile off`.
    pub copying: u16,
    /// With a P-256 certificate.
    pub tls: u16,
    /// With an RSA-2048 certificate.
    pub tls_rsa: u16,
}

impl Ports {
    pub fn free() -> Result<Ports, String> {
        let (plain, copying, tls, tls_rsa) = (free_port()?, free_port()?, free_port()?, free_port()?);
        Ok(Ports { plain, copying, tls, tls_rsa })
    }
}

/// A running server; it is stopped when this is dropped, or when the bench ends in whatever way.
pub struct Peer {
    pub name: &'static str,
    pub ports: Ports,
    child: Child,
}

impl Peer {
    /// Starts `command`, whose errors go to `NAME.error` in `dir`, and waits until it listens.
    fn spawn(name: &'static str, command: &mut Command, dir: &Path, ports: Ports) -> Result<Peer, String> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("{command:?}: {e}"))?;
        let mut peer = Peer { name, ports, child };
        let deadline = Instant::now() + Duration::from_secs(60);
        // A server says only by listening that it listens.
        while TcpStream::connect(("127.0.0.1", ports.plain)).is_err() {
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

    /// CPU time it has taken so far.
    pub fn cpu(&self) -> Result<Duration, String> {
        cpu::time_of(self.pid())
    }

    pub fn port(&self, cell: &Cell) -> u16 {
        match cell.protocol {
            Protocol::Plain if cell.copying => self.ports.copying,
            Protocol::Plain => self.ports.plain,
            Protocol::Tls | Protocol::TlsH2 | Protocol::Handshake { rsa: false, .. } => self.ports.tls,
            Protocol::Handshake { rsa: true, .. } => self.ports.tls_rsa,
        }
    }

    pub fn url(&self, cell: &Cell) -> String {
        let scheme = if cell.protocol == Protocol::Plain { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}{}", self.port(cell), cell.path())
    }

    /// Whether a cell is this server's job: Varnish has no TLS, HAProxy no files and a cache for small objects, h2o
    /// no cache.
    pub fn can(&self, cell: &Cell) -> bool {
        if cell.copying || matches!(cell.protocol, Protocol::Handshake { .. }) {
            return matches!(self.name, "edgewater" | "nginx");
        }
        match self.name {
            "varnish" => cell.protocol == Protocol::Plain && cell.source == Source::Cached,
            "haproxy" => cell.source == Source::Proxied || cell.source == Source::Cached && cell.is_small(),
            "h2o" => cell.source == Source::Static,
            _ => true,
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let signal = |signal| pid.map(|pid| rustix::process::kill_process(pid, signal));
        signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                signal(rustix::process::Signal::KILL);
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A program on a core of its own, which ends when the thread that started it does.
pub fn pinned(program: &str, core: usize) -> Command {
    let mut command = if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "TERM", "--", "taskset"]);
        command
    } else {
        Command::new("taskset")
    };
    command.args(["-c", &core.to_string(), program]);
    command
}

/// Whether a program is there; those of other peers need not be.
pub fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}
