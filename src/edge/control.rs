//! The control thread: starts the workers, obeys signals, reloads, ends.

use super::listeners::Listeners;
use super::pid_file::{self, PidFile};
use super::privileges::Identity;
use super::worker::{self, Handle, Order};
use super::{Edge, Generation};
use crate::conf::build::{Config, load};
use crate::conf::{ConfError, ConfResult};
use crate::modules::Shared;
use crate::observe::error_log::{Level, Target, log};
use crate::observe::{error_log, log_file};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How the process was called.
pub struct Options {
    /// `-p`
    pub prefix: PathBuf,
    /// `-c`, joined to the prefix.
    pub file: PathBuf,
    /// `-g`
    pub globals: String,
    /// `-e`, or the default error log.
    pub error_log: Target,
    /// Whether to stay in the foreground whatever the configuration says: a thread was started that
    /// would not survive going to the background.
    pub foreground: bool,
}

/// Runs until told to end. Returns after a graceful or a fast end.
pub fn run(options: &Options, config: Config) -> ConfResult<()> {
    let daemon = *config.main.daemon && !options.foreground;
    let pid_path = (*config.main.pid).clone().unwrap_or_else(|| PathBuf::from(pid_file::DEFAULT));
    let identity = config.main.user.as_ref().and_then(|(u, g)| Identity::of(u, g.as_deref()));
    let count = config.main.workers.unwrap_or_else(cores);
    if let Some(directory) = &*config.main.working_directory {
        std::env::set_current_dir(directory)
            .map_err(|e| ConfError::new(format!("chdir(\"{}\") failed ({e})", directory.display())))?;
    }
    raise_descriptors(*config.main.rlimit_nofile);
    let shared = Shared::default();
    let generation = Generation::build(1, config, &shared, &options.error_log)?;
    let mut listeners = Listeners::default();
    let change = listeners.prepare(&generation.http.listens, count)?;
    if daemon {
        super::daemon::detach().map_err(|e| ConfError::new(format!("fork() failed ({e})")))?;
    }
    // Signals are taken from here on, before the pid file invites them, so that none ends the
    // process by default.
    let wanted = [SIGHUP, SIGQUIT, SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD, SIGPIPE];
    let mut signals =
        Signals::new(wanted).map_err(|e| ConfError::new(format!("sigaction() failed ({e})")))?;
    let pid = PidFile::write(&pid_path).map_err(|e| {
        ConfError::new(format!(
            "open() \"{}\" failed ({})",
            pid_path.display(),
            crate::conf::values::os_error(&e)
        ))
    })?;
    let metrics = (0..count).map(|_| Arc::default()).collect();
    error_log::install(generation.log.clone());
    let edge = Arc::new(Edge::new(shared, generation, metrics));
    super::memory::start().map_err(|e| ConfError::new(format!("a thread cannot start ({e})")))?;
    let mut workers = Vec::new();
    for index in 0..count {
        let handle = worker::start(edge.clone(), index, identity)
            .map_err(|e| ConfError::new(format!("worker {index} cannot start ({e})")))?;
        workers.push(handle);
    }
    if daemon {
        let own = edge.generation().error_log().file();
        let _ = super::daemon::leave_stderr(own.as_deref()).or_else(|_| super::daemon::leave_stderr(None));
    }
    for (worker, addr, socket) in listeners.commit(change) {
        workers[worker].order(Order::Listen(addr, socket));
    }
    log(Level::Notice, format_args!("edgewater/{}", env!("CARGO_PKG_VERSION")));
    log(Level::Notice, format_args!("start {count} workers"));
    edge.generation().runtime.proxy_cache.start(&edge.shared.proxy_cache, identity);
    let mut control = Control { options, edge, workers, listeners, identity, _pid: pid };
    control.obey(&mut signals);
    control.edge.generation().runtime.proxy_cache.finish();
    log_file::flush_all();
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Raises the limit on descriptors as far as is asked for, or as far as is allowed.
fn raise_descriptors(wanted: Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if let Some(wanted) = wanted {
        let limit =
            Rlimit { current: Some(wanted), maximum: Some(wanted.max(now.maximum.unwrap_or(wanted))) };
        if let Err(e) = setrlimit(Resource::Nofile, limit) {
            log(Level::Alert, format_args!("setrlimit(RLIMIT_NOFILE, {wanted}) failed ({e})"));
        } else {
            return;
        }
    }
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

struct Control<'a> {
    options: &'a Options,
    edge: Arc<Edge>,
    workers: Vec<Handle>,
    listeners: Listeners,
    /// Whom the workers run as.
    identity: Option<Identity>,
    /// Removed when the control thread ends.
    _pid: PidFile,
}

impl Control<'_> {
    fn obey(&mut self, signals: &mut Signals) {
        for signal in signals.forever() {
            match signal {
                SIGHUP => self.reload(),
                SIGUSR1 => self.reopen(),
                SIGQUIT => return self.finish(),
                SIGTERM | SIGINT => {
                    log(Level::Notice, format_args!("signal {signal} received, exiting"));
                    self.listeners.close();
                    return;
                }
                SIGUSR2 | SIGWINCH => {
                    log(
                        Level::Warn,
                        format_args!("upgrading the binary on the fly is not supported; signal ignored"),
                    );
                }
                _ => {}
            }
        }
    }

    /// Loads the configuration anew; the old one stays when that fails.
    fn reload(&mut self) {
        log(Level::Notice, format_args!("signal 1 (SIGHUP) received, reconfiguring"));
        let result = self.try_reload();
        self.edge.reload_failed.store(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(()) => {
                self.edge.reloads.inc();
                log(
                    Level::Notice,
                    format_args!("reconfigured; generation {}", self.edge.generation_number()),
                );
            }
            Err(e) => {
                self.edge.reloads_failed.inc();
                log(Level::Emerg, format_args!("{e}"));
                log(Level::Emerg, format_args!("reconfiguring failed; the old configuration stays in force"));
            }
        }
    }

    fn try_reload(&mut self) -> ConfResult<()> {
        let config = load(&self.options.prefix, &self.options.file, &self.options.globals)?;
        if config.main.workers.unwrap_or_else(cores) != self.workers.len() {
            log(Level::Warn, format_args!("a change of \"worker_processes\" takes a restart"));
        }
        for note in &config.notes {
            if note.level == crate::conf::NoteLevel::Warn {
                log(Level::Warn, format_args!("{} in {}", note.message, note.at));
            }
        }
        let number = self.edge.generation_number() + 1;
        let generation = Generation::build(number, config, &self.edge.shared, &self.options.error_log)?;
        let change = self.listeners.prepare(&generation.http.listens, self.workers.len())?;
        self.listeners.retune(&generation.http.listens);
        self.edge.swap(generation);
        let generation = self.edge.generation();
        generation.runtime.proxy_cache.start(&self.edge.shared.proxy_cache, self.identity);
        for addr in &change.removed {
            for worker in &self.workers {
                worker.order(Order::Unlisten(addr.clone()));
            }
        }
        for (worker, addr, socket) in self.listeners.commit(change) {
            self.workers[worker].order(Order::Listen(addr, socket));
        }
        Ok(())
    }

    fn reopen(&mut self) {
        log(Level::Notice, format_args!("signal 10 (SIGUSR1) received, reopening logs"));
        let generation = self.edge.generation();
        let user = generation.main.user.as_ref().and_then(|(u, g)| Identity::of(u, g.as_deref()));
        for (path, e) in log_file::reopen(user.map(|user| user.uid)) {
            let e = crate::conf::values::os_error(&e);
            log(Level::Emerg, format_args!("open() \"{}\" failed ({e})", path.display()));
        }
    }

    /// Accepts nothing more, lets what is open finish, ends.
    fn finish(&mut self) {
        log(Level::Notice, format_args!("signal 3 (SIGQUIT) received, shutting down gracefully"));
        let limit = self.edge.generation().main.shutdown_timeout.map(|t| Instant::now() + t);
        self.listeners.close();
        for worker in &self.workers {
            worker.order(Order::Quit);
        }
        // A TERM or INT during a graceful end makes it a fast one.
        let hurry = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            let _ = signal_hook::flag::register(signal, hurry.clone());
        }
        while !self.workers.iter().all(Handle::is_finished) {
            let over = limit.is_some_and(|l| Instant::now() >= l);
            if over || hurry.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        log(Level::Notice, format_args!("exit"));
    }
}
