//! The error log: levels, targets, nginx's line.

use super::log_file::{self, LogFile};
use crate::conf::{Builder, ConfError, ConfResult};
use arc_swap::ArcSwap;
use std::fmt::Arguments;
use std::io::Write;
use std::sync::{Arc, OnceLock};

/// How grave a message is, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Level {
    Emerg,
    Alert,
    Crit,
    Error,
    Warn,
    Notice,
    Info,
    Debug,
}

impl Level {
    /// Reads a level's name.
    pub fn parse(name: &str) -> Option<Level> {
        use Level::{Alert, Crit, Debug, Emerg, Error, Info, Notice, Warn};
        let all = [Emerg, Alert, Crit, Error, Warn, Notice, Info, Debug];
        all.into_iter().find(|l| l.as_str() == name)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Emerg => "emerg",
            Level::Alert => "alert",
            Level::Crit => "crit",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Notice => "notice",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// Where messages go.
#[derive(Clone, Debug)]
pub enum Target {
    /// The standard error.
    Stderr,
    /// A file.
    File(Arc<LogFile>),
}

impl Target {
    /// Reads the first argument of `error_log`.
    pub fn parse(b: &Builder, text: &str) -> ConfResult<Target> {
        if text == "stderr" {
            return Ok(Target::Stderr);
        }
        for kind in ["syslog:", "memory:"] {
            if text.starts_with(kind) {
                return Err(ConfError::new(format!("\"error_log {kind}\" is not supported yet")));
            }
        }
        Ok(Target::File(log_file::at(&b.path(text))))
    }

    fn write(&self, line: &[u8]) {
        match self {
            Target::Stderr => {
                let _ = std::io::stderr().write_all(line);
            }
            Target::File(file) => file.write(line),
        }
    }
}

/// The error log of the process: where messages go that no level of `http` redirects.
#[derive(Debug, Default)]
pub struct ErrorLog {
    targets: Vec<(Target, Level)>,
}

impl ErrorLog {
    /// A log with these targets.
    pub fn new(targets: Vec<(Target, Level)>) -> ErrorLog {
        ErrorLog { targets }
    }

    /// The file it goes to first, if it goes to one; `None` when the standard error is wanted.
    pub fn file(&self) -> Option<std::path::PathBuf> {
        self.targets.iter().find_map(|(target, _)| match target {
            Target::File(file) => Some(file.path().to_path_buf()),
            Target::Stderr => None,
        })
    }

    /// Whether a message of `level` goes anywhere, where `own` are the level's own targets.
    pub fn wants(&self, own: &[(Target, Level)], level: Level) -> bool {
        let targets = if own.is_empty() { &self.targets } else { own };
        targets.iter().any(|(_, least)| level <= *least)
    }

    /// Writes a message to `own`, or to the log's targets when there are none.
    pub fn write(&self, own: &[(Target, Level)], level: Level, message: Arguments<'_>) {
        let targets = if own.is_empty() { &self.targets } else { own };
        let mut line = Vec::with_capacity(256);
        for (target, _) in targets.iter().filter(|(_, least)| level <= *least) {
            if line.is_empty() {
                let now = jiff::Zoned::now();
                let pid = std::process::id();
                let _ = writeln!(
                    line,
                    "{} [{}] {pid}#0: {message}",
                    now.strftime("%Y/%m/%d %H:%M:%S"),
                    level.as_str()
                );
            }
            target.write(&line);
        }
    }
}

fn global() -> &'static ArcSwap<ErrorLog> {
    static LOG: OnceLock<ArcSwap<ErrorLog>> = OnceLock::new();
    LOG.get_or_init(|| ArcSwap::from_pointee(ErrorLog::new(vec![(Target::Stderr, Level::Notice)])))
}

/// Makes `log` the process's log.
pub fn install(log: Arc<ErrorLog>) {
    global().store(log);
}

/// The process's log.
pub fn current() -> Arc<ErrorLog> {
    global().load_full()
}

/// Logs something that is no request's matter.
pub fn log(level: Level, message: Arguments<'_>) {
    let log = global().load();
    if log.wants(&[], level) {
        log.write(&[], level, message);
    }
}
