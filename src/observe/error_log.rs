//! The error log: levels, targets, nginx's line.

use super::log_file::{self, LogFile};
use super::memory_log::MemoryLog;
use super::syslog::Syslog;
use crate::conf::values::size;
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
    /// A syslog server.
    Syslog(Arc<Syslog>),
    /// The newest lines, for a debugger.
    Memory(Arc<MemoryLog>),
}

impl Target {
    /// Reads the first argument of `error_log`.
    pub fn parse(b: &Builder, text: &str) -> ConfResult<Target> {
        if text.is_empty() || text == "stderr" {
            return Ok(Target::Stderr);
        }
        if let Some(parameters) = text.strip_prefix("syslog:") {
            return Ok(Target::Syslog(Arc::new(Syslog::parse(parameters)?)));
        }
        if let Some(bytes) = text.strip_prefix("memory:") {
            let size = size(bytes).and_then(|n| usize::try_from(n).ok()).filter(|n| *n >= LEAST_MEMORY);
            let size = size.ok_or_else(|| ConfError::new(format!("invalid buffer size \"{bytes}\"")))?;
            return Ok(Target::Memory(Arc::new(MemoryLog::new(size))));
        }
        Ok(Target::File(log_file::at(&b.path(text))))
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Arc<LogFile>> {
        match self {
            Target::File(file) => Some(file),
            Target::Stderr | Target::Syslog(_) | Target::Memory(_) => None,
        }
    }

    /// A file that could not be opened is replaced by the standard error.
    fn write(&self, level: Level, line: &[u8]) {
        match self {
            Target::File(file) if file.is_open() => file.write(line),
            Target::Stderr | Target::File(_) => {
                let _ = std::io::stderr().write_all(line);
            }
            // Its own failures are told by itself.
            Target::Syslog(server) => {
                server.send_at(level, |out| out.extend_from_slice(line));
            }
            Target::Memory(memory) => memory.write(line),
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
            Target::Stderr | Target::Syslog(_) | Target::Memory(_) => None,
        })
    }

    /// Whether a message of `level` goes anywhere, where `own` are the level's own targets.
    pub fn wants(&self, own: &[(Target, Level)], level: Level) -> bool {
        let targets = if own.is_empty() { &self.targets } else { own };
        targets.iter().any(|(_, least)| level <= *least)
    }

    /// Writes a message to `own`, or to the log's targets when there are none.
    pub fn write(&self, own: &[(Target, Level)], level: Level, message: Arguments<'_>) {
        self.write_with(own, level, |line| {
            let _ = write!(line, "{message}");
        });
    }

    /// Writes what `message` appends, to `own`, or to the log's targets when there are none.
    pub fn write_with(&self, own: &[(Target, Level)], level: Level, message: impl FnOnce(&mut Vec<u8>)) {
        let targets = if own.is_empty() { &self.targets } else { own };
        let mut wanting = targets.iter().filter(|(_, least)| level <= *least).peekable();
        if wanting.peek().is_none() {
            return;
        }
        let line = line(level, message);
        wanting.for_each(|(target, _)| target.write(level, &line));
    }
}

/// The least room in memory that nginx takes: a line's and what it needs for keeping it.
const LEAST_MEMORY: usize = 2114;

/// The most bytes of a line with its end, nginx's NGX_MAX_ERROR_STR: what a client sends does not
/// make the log as large as it likes.
const LONGEST: usize = 2048;

/// A line: date, level, process and thread, message.
fn line(level: Level, message: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    let date = jiff::Zoned::now();
    let _ = write!(
        line,
        "{} [{}] {}#{}: ",
        date.strftime("%Y/%m/%d %H:%M:%S"),
        level.as_str(),
        std::process::id(),
        rustix::thread::gettid().as_raw_nonzero()
    );
    let start = line.len();
    message(&mut line);
    escape_controls(&mut line, start);
    line.truncate(LONGEST - 1);
    line.push(b'\n');
    line
}

/// Cuts a message before whose request it was is added: the words of the system at its end stay
/// legible, as with nginx (ngx_log_errno). `line` has no more than this message, from `start` on.
pub fn keep_errno(line: &mut Vec<u8>, start: usize) {
    /// Bytes that nginx leaves for the error's number and words.
    const ROOM: usize = 50;
    // Date, level, process and thread stand before.
    if line.len() <= LONGEST - ROOM || line.last() != Some(&b')') {
        return;
    }
    let Some(at) = memchr::memmem::rfind(&line[start..], b" (").map(|at| start + at) else { return };
    let digits = line[at + 2..].iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || line.get(at + 2 + digits) != Some(&b':') || at <= LONGEST - ROOM {
        return;
    }
    let errno = line.split_off(at);
    line.truncate(LONGEST - ROOM);
    line.extend_from_slice(b"...");
    line.extend_from_slice(&errno);
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
    global().load().write(&[], level, message);
}

/// Writes control characters as `\xXX`. A decoded path may hold any byte, and a line feed in it would
/// make a line of the log that a client wrote; nginx writes it as it is. A line that goes on indented,
/// as an error of the configuration does, cannot be taken for another and stays.
fn escape_controls(line: &mut Vec<u8>, start: usize) {
    if !line[start..].iter().any(u8::is_ascii_control) {
        return;
    }
    let raw = line.split_off(start);
    for (i, byte) in raw.iter().enumerate() {
        if byte.is_ascii_control() && !raw[i..].starts_with(b"\n    ") {
            let _ = write!(line, "\\x{byte:02X}");
        } else {
            line.push(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_nginxs() {
        let text = String::from_utf8(line(Level::Crit, |l| l.extend_from_slice(b"message"))).unwrap();
        let shape =
            regex::Regex::new(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[crit\] (\d+)#\d+: message\n$").unwrap();
        let pid = &shape.captures(&text).unwrap_or_else(|| panic!("{text:?}"))[1];
        assert_eq!(pid, std::process::id().to_string());
    }

    #[test]
    fn a_client_cannot_write_a_line_of_its_own() {
        let text =
            line(Level::Error, |l| l.extend_from_slice(b"open() \"/a\n2024 [emerg] x\x7f\" caf\xc3\xa9"));
        assert!(text.ends_with(b": open() \"/a\\x0A2024 [emerg] x\\x7F\" caf\xc3\xa9\n"));
        let text = line(Level::Error, |l| l.extend_from_slice(b"bad in a.conf:1\n    | text"));
        assert!(text.ends_with(b": bad in a.conf:1\n    | text\n"));
    }

    #[test]
    fn a_line_is_bounded() {
        let long = line(Level::Error, |l| l.resize(100_000, b'x'));
        assert_eq!((long.len(), long.last()), (LONGEST, Some(&b'\n')));
    }

    #[test]
    fn a_level_takes_what_is_as_grave_or_graver() {
        let log = ErrorLog::new(vec![(Target::Stderr, Level::Warn)]);
        assert!(log.wants(&[], Level::Warn) && log.wants(&[], Level::Emerg));
        assert!(!log.wants(&[], Level::Notice));
        // A level of its own is asked in place of the process's, not beside it.
        assert!(!log.wants(&[(Target::Stderr, Level::Crit)], Level::Warn));
        assert!(log.wants(&[(Target::Stderr, Level::Crit), (Target::Stderr, Level::Info)], Level::Info));
    }

    #[test]
    fn each_target_gets_what_its_level_wants() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = ["all", "grave"].map(|name| log_file::at(&dir.path().join(name))).into();
        files.iter().for_each(|f| f.open().unwrap());
        let log = ErrorLog::new(vec![
            (Target::File(files[0].clone()), Level::Info),
            (Target::File(files[1].clone()), Level::Crit),
        ]);
        log.write(&[], Level::Info, format_args!("small"));
        log.write(&[], Level::Alert, format_args!("great"));
        let lines = |n: usize| std::fs::read_to_string(files[n].path()).unwrap().lines().count();
        assert_eq!((lines(0), lines(1)), (2, 1));
    }

    #[test]
    fn targets_and_levels_as_nginx_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let message = |text: &str| {
            let loaded = crate::conf::build::load_text(dir.path(), &format!("events {{}} error_log {text};"));
            loaded.map_or_else(|e| e.message, |_| "none".to_string())
        };
        for (text, want) in [
            ("e.log loud", "invalid log level \"loud\""),
            ("e.log error warn", "duplicate log level \"warn\""),
            ("e.log error debug_http", "invalid log level \"debug_http\""),
            ("e.log debug_http debug", "duplicate log level \"debug\""),
            ("e.log debug_http debug_event", "none"),
            ("memory:2k", "invalid buffer size \"2k\""),
            ("memory:32k debug", "none"),
            ("syslog:server=127.0.0.1 warn", "none"),
            ("syslog:facility=user", "no syslog server specified"),
            ("stderr", "none"),
            ("off", "none"),
        ] {
            assert_eq!(message(text), want, "{text}");
        }
    }
}
