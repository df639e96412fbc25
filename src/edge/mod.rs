//! The process: one control thread, one worker thread per core, and what they share.
//!
//! A [`Generation`] is a configuration and what is built from it; a reload makes a new one and swaps
//! it whole. What must outlive a reload belongs to the [`Edge`]. A [`Local`] is a worker's own handle
//! on the generation in force, so that counting references touches no other core's cache.

pub mod connection;
pub mod control;
pub mod daemon;
pub mod listeners;
pub mod memory;
pub mod pid_file;
pub mod privileges;
mod proxied;
pub mod random;
pub mod tcp;
pub mod turn;
pub mod worker;

use crate::conf::build::{Config, Http};
use crate::conf::{ConfError, ConfResult};
use crate::modules::{MainConf, Runtime, Shared};
use crate::observe::error_log::{ErrorLog, Level, Target};
use crate::observe::log_file;
use crate::observe::metrics::{Counter, ServerCounters, WorkerMetrics};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

pub use worker::Worker;

/// What the process has for as long as it lives.
pub struct Edge {
    /// What modules keep over reloads.
    pub shared: Shared,
    /// Every worker's counters.
    pub workers: Vec<Arc<WorkerMetrics>>,
    /// Reloads that worked.
    pub reloads: Counter,
    /// Reloads that failed.
    pub reloads_failed: Counter,
    /// Whether the last reload failed.
    pub reload_failed: AtomicBool,
    /// When the last configuration was loaded.
    pub loaded: parking_lot::Mutex<SystemTime>,
    /// When the process began.
    pub started: SystemTime,
    current: ArcSwap<Generation>,
    number: AtomicU64,
    changed: tokio::sync::Notify,
}

/// A configuration and what is built from it.
pub struct Generation {
    /// The first is 1.
    pub number: u64,
    /// `http { }`
    pub http: Http,
    /// The top level.
    pub main: MainConf,
    /// What modules built.
    pub runtime: Runtime,
    log: Arc<ErrorLog>,
}

/// A worker's handle on a generation.
pub struct Local {
    /// The generation.
    pub generation: Arc<Generation>,
    /// The worker.
    pub worker: Arc<Worker>,
    /// The process.
    pub edge: Arc<Edge>,
    /// Where the worker counts requests, for each of the generation's servers.
    pub figures: Vec<Arc<ServerCounters>>,
}

impl Local {
    /// A worker's handle.
    pub fn new(generation: Arc<Generation>, worker: Arc<Worker>, edge: Arc<Edge>) -> Local {
        let figures = worker.metrics.of_servers(&generation.http);
        Local { generation, worker, edge, figures }
    }
}

impl Generation {
    /// Builds a generation; nothing of the running one is touched when it fails.
    pub fn build(
        number: u64,
        config: Config,
        shared: &Shared,
        default_log: &Target,
    ) -> ConfResult<Generation> {
        let http = config.http.unwrap_or_else(empty_http);
        let targets = match config.main.error_logs.as_slice() {
            [] => vec![(default_log.clone(), Level::Error)],
            own => own.to_vec(),
        };
        open_logs(default_log, &targets, &http)?;
        let runtime = Runtime::build(&http, shared)?;
        Ok(Generation { number, http, main: config.main, runtime, log: Arc::new(ErrorLog::new(targets)) })
    }

    /// The log of the process under this configuration.
    pub fn error_log(&self) -> &ErrorLog {
        &self.log
    }
}

/// Opens the logs that the configuration names. That the default error log cannot be opened is no
/// reason not to start: nginx says so and goes on, on the standard error.
fn open_logs(default_log: &Target, targets: &[(Target, Level)], http: &Http) -> ConfResult<()> {
    let default_file = default_log.file();
    let of_levels = http.levels.iter().flat_map(|level| level.conf.core.error_logs.iter());
    let mut files: Vec<_> = targets.iter().chain(of_levels).filter_map(|(target, _)| target.file()).collect();
    files.extend(default_file);
    files.extend(crate::modules::log::files(http));
    files.sort_by_key(|file| file.path());
    files.dedup_by_key(|file| file.path());
    let message = |path: &std::path::Path, e: &std::io::Error| {
        format!("open() \"{}\" failed ({})", path.display(), crate::conf::values::os_error(e))
    };
    let default_path = default_file.map(|file| file.path());
    match log_file::open_all(&files, default_path) {
        Ok(None) => {}
        Ok(Some(e)) => {
            let message = default_path.map(|path| message(path, &e)).unwrap_or_default();
            let level = Level::Alert.as_str();
            eprintln!("edgewater: [{level}] could not open error log file: {message}");
        }
        Err((path, e)) => return Err(ConfError::new(message(&path, &e))),
    }
    Ok(())
}

fn empty_http() -> Http {
    Http {
        levels: Vec::new(),
        servers: Vec::new(),
        listens: crate::http::listens::Listens::default(),
        vars: Vec::new(),
        conf: crate::modules::HttpConf::default(),
        srv: crate::modules::SrvConf::default(),
    }
}

impl Edge {
    /// A process whose first generation is `first`.
    pub fn new(shared: Shared, first: Generation, workers: Vec<Arc<WorkerMetrics>>) -> Edge {
        Edge {
            shared,
            workers,
            reloads: Counter::default(),
            reloads_failed: Counter::default(),
            reload_failed: AtomicBool::new(false),
            loaded: parking_lot::Mutex::new(SystemTime::now()),
            started: SystemTime::now(),
            number: AtomicU64::new(first.number),
            changed: tokio::sync::Notify::new(),
            current: ArcSwap::from_pointee(first),
        }
    }

    /// The number of the generation in force; one load of a line that is rarely written.
    pub fn generation_number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// The generation in force.
    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Ends when another generation is put in force. Make it before looking at [`Self::generation_number`].
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Puts a generation in force.
    pub fn swap(&self, next: Generation) {
        let number = next.number;
        crate::observe::error_log::install(next.log.clone());
        self.current.store(Arc::new(next));
        self.number.store(number, Ordering::Release);
        self.changed.notify_waiters();
        *self.loaded.lock() = SystemTime::now();
    }
}
