//! Starts the server under test, with a configuration, in a directory of its own.
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::process::{Pid, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use super::config::{Fitting, for_old_nginx, with_log_inside};
use super::{certificate, eventually, within};

pub use rustix::process::Signal;

/// The server under test: `UNDER_TEST`, or the Edgewater that was built with the tests.
pub fn program() -> PathBuf {
    std::env::var_os("UNDER_TEST").map_or_else(|| env!("CARGO_BIN_EXE_edgewater").into(), PathBuf::from)
}

/// Whether the server under test is nginx.
pub fn is_nginx() -> bool {
    program().file_name().is_some_and(|name| name == "nginx")
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the server under test with `args` until it exits.
pub async fn run<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Ran {
    let mut command = tokio::process::Command::new(program());
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = within("the end of a command", command.output()).await.unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A server to be: its configuration and the files around it.
pub struct Plan {
    text: String,
    swaps: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
    env: Vec<(String, String)>,
    globals: String,
}

impl Plan {
    /// A server with the configuration `text`. In it `{prefix}` stands for the server's directory, and each `listen`
    /// is moved to an address of its own: see [`Server::addr`].
    pub fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            swaps: Vec::new(),
            files: Vec::new(),
            env: Vec::new(),
            globals: "daemon off;".into(),
        }
    }

    /// Replaces `from`, which must occur, in the configuration.
    pub fn swap(mut self, from: &str, to: &str) -> Self {
        self.swaps.push((from.into(), to.into()));
        self
    }

    /// Puts an origin where the configuration says `configured`.
    pub fn upstream(self, configured: &str, origin: SocketAddr) -> Self {
        self.swap(configured, &origin.to_string())
    }

    /// Adds a file below the prefix.
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), bytes.into()));
        self
    }

    /// Adds certs/cert.pem and certs/key.pem.
    pub fn certificate(self) -> Self {
        let pem = certificate::shared();
        self.file("certs/cert.pem", pem.certificate.clone()).file("certs/key.pem", pem.key.clone())
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Adds directives to `-g`.
    pub fn globals(mut self, directives: &str) -> Self {
        self.globals += directives;
        self
    }

    /// With one worker, where a test counts what each worker has for itself: idle connections to an upstream.
    pub fn one_worker(self) -> Self {
        let swap = ("worker_processes auto;", "worker_processes 1;");
        match self.swaps.iter().any(|(from, _)| from == swap.0) {
            true => self,
            false => self.swap(swap.0, swap.1),
        }
    }

    /// With one worker if the server under test is nginx, whose workers balance and count each for itself where
    /// nothing is shared. Edgewater's state is one for all of its threads.
    pub fn one_nginx_worker(self) -> Self {
        match is_nginx() {
            true => self.one_worker(),
            false => self,
        }
    }

    /// Starts the server and waits until it accepts on each of its addresses; panics if it exits before.
    pub async fn start(self) -> Server {
        let server = self.prepare().spawn();
        server.ready().await;
        server
    }

    /// Starts the server and waits for its end.
    pub async fn start_and_fail(self) -> Ran {
        let server = self.prepare().spawn();
        let status = server.exited().await;
        Ran { code: status.code(), stdout: server.stdout(), stderr: server.stderr() }
    }

    /// Checks the configuration with `-t`.
    pub async fn check(self) -> Ran {
        let prepared = self.prepare();
        prepared.run(&["-t"]).await
    }

    /// Writes everything into a directory, ready to start.
    pub fn prepare(self) -> Prepared {
        let dir = tempfile::Builder::new().prefix("edge-").tempdir().unwrap();
        let prefix = dir.path();
        allow_all(prefix);
        for name in ["logs", "tmp"] {
            make_dir(&prefix.join(name));
        }
        for (path, bytes) in &self.files {
            write(&prefix.join(path), bytes);
        }
        let mut fitting = Fitting::new(self.swaps);
        write_config(&mut fitting, &self.text, prefix);
        Prepared {
            globals: match self.text.contains("pid ") {
                true => self.globals,
                false => format!("{} pid {}/server.pid;", self.globals, prefix.display()),
            },
            fitting,
            env: self.env,
            dir,
        }
    }
}

/// A server's directory, before it runs.
pub struct Prepared {
    dir: TempDir,
    fitting: Fitting,
    globals: String,
    env: Vec<(String, String)>,
}

impl Prepared {
    /// The directory.
    pub fn prefix(&self) -> &Path {
        self.dir.path()
    }

    /// Where it listens for `listen PORT`.
    pub fn addr(&self, port: u16) -> SocketAddr {
        let moved = self.fitting.ports.get(&port);
        (self.fitting.ip, *moved.expect("a listen with this port")).into()
    }

    /// Runs the program with `args` after `-p`, `-c`, `-e` and `-g`, until it exits.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let mut all = self.args();
        all.extend(args.iter().map(|arg| arg.to_string()));
        run(all).await
    }

    /// Starts the server without waiting for anything.
    pub fn spawn(self) -> Server {
        let Process { pid, exit, stdout, stderr } = self.launch();
        Server { pid, exit, stdout, stderr, prepared: self }
    }

    fn launch(&self) -> Process {
        let mut command = killed_with_this_thread();
        command
            .args(self.args())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().unwrap();
        let (stdout, stdout_ends) = collect(child.stdout.take().unwrap());
        let (stderr, stderr_ends) = collect(child.stderr.take().unwrap());
        let pid = Pid::from_child(&child);
        let exit = Arc::new(watch::Sender::new(None));
        let announce = exit.clone();
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            // Who waits for the end wants to read what was said last.
            stdout_ends.join().unwrap();
            stderr_ends.join().unwrap();
            announce.send_replace(Some(status));
        });
        Process { pid, exit, stdout, stderr }
    }

    fn args(&self) -> Vec<String> {
        let prefix = self.prefix().display().to_string();
        let config = format!("{prefix}/nginx.conf");
        ["-p", &prefix, "-c", &config, "-e", "stderr", "-g", &self.globals].map(String::from).into()
    }
}

/// A process that was started, and what it says.
struct Process {
    pid: Pid,
    exit: Arc<watch::Sender<Option<ExitStatus>>>,
    stdout: Arc<watch::Sender<String>>,
    stderr: Arc<watch::Sender<String>>,
}

/// A running server; dropping it kills it and removes its directory.
pub struct Server {
    prepared: Prepared,
    pid: Pid,
    exit: Arc<watch::Sender<Option<ExitStatus>>>,
    stdout: Arc<watch::Sender<String>>,
    stderr: Arc<watch::Sender<String>>,
}

impl Server {
    /// Where it listens for `listen PORT`.
    pub fn addr(&self, port: u16) -> SocketAddr {
        self.prepared.addr(port)
    }

    /// Its directory.
    pub fn prefix(&self) -> &Path {
        self.prepared.prefix()
    }

    /// Its process: of nginx, the master.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(self.exit.borrow().is_none(), "it has exited");
        kill_process(self.pid, signal).unwrap();
    }

    /// Ends it by a signal, all of its processes if that is KILL, starts it anew in the same directory, and
    /// waits until it accepts. What it had reported is forgotten.
    pub async fn restart(&mut self, signal: Signal) {
        match signal {
            Signal::KILL => kill_process_group(self.pid, signal).unwrap(),
            signal => self.signal(signal),
        }
        self.exited().await;
        let Process { pid, exit, stdout, stderr } = self.prepared.launch();
        (self.pid, self.exit, self.stdout, self.stderr) = (pid, exit, stdout, stderr);
        self.ready().await;
    }

    /// Replaces its configuration; nothing happens until it is told to reload. Ports stay what they were.
    pub fn configure(&mut self, text: &str) {
        let prefix = self.prepared.dir.path();
        write_config(&mut self.prepared.fitting, text, prefix);
    }

    /// Writes a file below its prefix, replacing the file that was there.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        write(&self.prefix().join(path), bytes.as_ref());
    }

    /// A file below its prefix; none if there is none.
    pub fn read(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.prefix().join(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs the program with `args` after this server's `-p`, `-c`, `-e` and `-g`, until it exits.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.prepared.run(args).await
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.borrow().clone()
    }

    /// What it has reported so far.
    pub fn stderr(&self) -> String {
        self.stderr.borrow().clone()
    }

    /// Waits until it has reported `text`.
    pub async fn reported(&self, text: &str) {
        let mut stderr = self.stderr.subscribe();
        let said = stderr.wait_for(|so_far| so_far.contains(text));
        within(&format!("{text:?} in the error log"), said).await.unwrap();
    }

    /// Waits until it has exited.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.subscribe();
        let status = within("its end", exit.wait_for(Option::is_some)).await;
        status.unwrap().unwrap()
    }

    /// Waits until it accepts on every TCP address of its configuration; panics if it exits before.
    pub async fn ready(&self) {
        for &port in self.prepared.fitting.ports.keys() {
            let addr = self.addr(port);
            self.answers(|| async move { TcpStream::connect(addr).await.is_ok() }).await;
        }
    }

    /// Waits until it accepts on a unix socket.
    pub async fn ready_unix(&self, path: &Path) {
        self.answers(|| async move { UnixStream::connect(path).await.is_ok() }).await;
    }

    /// Blocks until it has exited, for a while.
    fn wait_for_exit(&self) {
        for _ in 0..3000 {
            if self.exit.borrow().is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    async fn answers<F: Future<Output = bool>>(&self, mut connect: impl FnMut() -> F) {
        eventually("the server to accept", || {
            if let Some(status) = *self.exit.borrow() {
                panic!("it exited with {status}:\n{}", self.stderr());
            }
            let connecting = connect();
            async { connecting.await.then_some(()) }
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server reported:\n{}---", self.stderr());
        }
        if is_nginx() {
            // So that its master sees its workers off; killed with it, they would stay in the process table.
            let _ = kill_process(self.pid, Signal::TERM);
            self.wait_for_exit();
        }
        // The group holds nginx's workers too; it may be gone already.
        let _ = kill_process_group(self.pid, Signal::KILL);
        // Its directory is removed next; it must not write there any more.
        self.wait_for_exit();
    }
}

/// A command that the kernel kills when the test thread ends, however it ends.
fn killed_with_this_thread() -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program());
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program());
    command
}

/// What is read from a pipe, as it comes, and the thread that ends with it.
fn collect(mut from: impl Read + Send + 'static) -> (Arc<watch::Sender<String>>, JoinHandle<()>) {
    let text = Arc::new(watch::Sender::new(String::new()));
    let sender = text.clone();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let more = String::from_utf8_lossy(&buffer[..length]);
            sender.send_modify(|text| text.push_str(&more));
        }
    });
    (text, reader)
}

fn write_config(fitting: &mut Fitting, text: &str, prefix: &Path) {
    let mut text = with_log_inside(&fitting.apply(text, prefix), prefix);
    if is_nginx() {
        text = for_old_nginx(&text, prefix);
    }
    write(&prefix.join("nginx.conf"), text.as_bytes());
}

/// Writes a file that any user can read, in one step: who reads it sees the old or the new, never a part.
fn write(path: &Path, bytes: &[u8]) {
    make_dir(path.parent().unwrap());
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn make_dir(path: &Path) {
    if !path.exists() {
        make_dir(path.parent().unwrap());
        std::fs::create_dir(path).unwrap();
        allow_all(path);
    }
}

fn allow_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
