//! A running server: started, reloaded, told to reopen its logs, stopped.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::server::Binary;

/// What a script can do to the server; it is killed when this is dropped.
pub struct Running {
    pub ip: Ipv4Addr,
    child: Child,
    dir: PathBuf,
    /// The configuration, then those of after the reloads.
    confs: Vec<String>,
    /// Which of them was written last, and which is in force.
    written: usize,
    in_force: usize,
}

/// `{{log}}` and `{{log2}}`.
pub const LOGS: [&str; 2] = ["access.log", "access2.log"];

/// How long a server may take for what it is told.
const PATIENCE: Duration = Duration::from_secs(20);

impl Running {
    /// Starts a server on the first configuration and waits until it listens.
    pub fn start(binary: &Binary, dir: &Path, ip: Ipv4Addr, confs: Vec<String>) -> Result<Running, String> {
        let path = dir.join("nginx.conf");
        fs::write(&path, &confs[0]).map_err(|e| e.to_string())?;
        let output = fs::File::create(dir.join("output")).map_err(|e| e.to_string())?;
        let child = Command::new(&binary.path)
            .arg("-p")
            .arg(dir)
            .arg("-e")
            .arg(dir.join("error.log"))
            .arg("-c")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(|e| e.to_string())?)
            .stderr(output)
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut running = Running { ip, child, dir: dir.to_owned(), confs, written: 0, in_force: 0 };
        running.await_ports(&[])?;
        Ok(running)
    }

    /// Writes the next configuration, sends HUP and waits; whether it is in force now.
    ///
    /// nginx's old worker says that it shuts down when it is about to close its listening sockets, before it looks
    /// at events again: a connection made after that line is served by a new worker. Edgewater says so itself.
    pub fn reload(&mut self) -> Result<bool, String> {
        let next = self.written + 1;
        let conf = self.confs.get(next).ok_or("there is no configuration for this reload")?;
        fs::write(self.dir.join("nginx.conf"), conf).map_err(|e| e.to_string())?;
        self.written = next;
        let before = self.error_log().len();
        self.signal(Signal::HUP);
        let taken = self.until("the reload shows in the error log", |running| {
            let log = running.error_log();
            let new = log.get(before..).unwrap_or_default();
            if new.contains("gracefully shutting down") || new.contains(" reconfigured; generation ") {
                Some(true)
            } else if new.contains("[emerg]") {
                Some(false)
            } else {
                None
            }
        })?;
        if taken {
            let old = self.ports(self.in_force);
            self.in_force = next;
            self.await_ports(&old)?;
        }
        Ok(taken)
    }

    /// Renames the access logs, sends USR1 and waits until no process of the server holds the renamed files.
    pub fn rotate(&mut self) -> Result<(), String> {
        let mut renamed = vec![];
        for name in LOGS.map(|name| self.dir.join(name)).into_iter().filter(|path| path.exists()) {
            let to = name.with_extension("log.1");
            fs::rename(&name, &to).map_err(|e| e.to_string())?;
            renamed.push(to);
        }
        self.signal(Signal::USR1);
        self.until("the renamed logs are let go", |running| {
            let held = running.open_files().iter().any(|open| renamed.contains(open));
            (!held).then_some(())
        })
    }

    /// How the server ended, if it has, and what it said.
    pub fn ended(&mut self) -> Option<(ExitStatus, String)> {
        let status = self.child.try_wait().ok().flatten()?;
        Some((status, self.output()))
    }

    /// Stops it gracefully, so that all it has to log is in the log; the clients have gone.
    pub fn stop(mut self) {
        self.signal(Signal::QUIT);
        self.await_end(Duration::from_secs(3));
    }

    /// Waits until every port of the configuration in force answers, and those of `old` that are no longer in it
    /// do not. Ports that stayed are left alone.
    fn await_ports(&mut self, old: &[u16]) -> Result<(), String> {
        let now = self.ports(self.in_force);
        for port in now.iter().filter(|p| !old.contains(p)) {
            self.until(&format!("it listens on port {port}"), |running| {
                TcpStream::connect((running.ip, *port)).is_ok().then_some(())
            })?;
        }
        for port in old.iter().filter(|p| !now.contains(p)) {
            self.until(&format!("port {port} is closed"), |running| {
                TcpStream::connect((running.ip, *port)).is_err().then_some(())
            })?;
        }
        Ok(())
    }

    fn ports(&self, conf: usize) -> Vec<u16> {
        let listens = |port: &u16| self.confs[conf].contains(&format!("{}:{port}", self.ip));
        [28080, 28081, 28443].into_iter().filter(listens).collect()
    }

    /// Asks until there is an answer: a server tells nobody when it listens, has written or has closed something.
    fn until<T>(&mut self, what: &str, mut ask: impl FnMut(&mut Running) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask(self) {
                return Ok(answer);
            }
            if let Some((status, output)) = self.ended() {
                return Err(format!("it ended ({status}):\n{output}"));
            }
            if Instant::now() > deadline {
                return Err(format!("not in {PATIENCE:?}: {what}\n{}", self.output()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn error_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("error.log")).unwrap_or_default()).into_owned()
    }

    /// The files that the server's processes have open.
    fn open_files(&self) -> Vec<PathBuf> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let pids = children.split_whitespace().map(str::to_owned).chain([pid.to_string()]);
        let descriptors = pids.filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok()).flatten();
        descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
    }

    fn output(&self) -> String {
        let both = fs::read_to_string(self.dir.join("output")).unwrap_or_default() + &self.error_log();
        both.lines()
            .filter(|l| !l.contains("[notice]") && !l.contains("[info]"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Whether it ends within the time.
    fn await_end(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        self.signal(Signal::TERM);
        if !self.await_end(Duration::from_secs(5)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
