//! nginx's log module: `access_log`, `log_format` and what files they keep open.
//!
//! A line goes into its worker's batch for the file ([`crate::observe::log_file`]), which is written
//! when the worker has nothing else to do: under load many lines at once, otherwise at once.

pub mod clock;
mod escape;
mod format;
mod named;

use crate::conf::values::{flag, number, parameter, size, time};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, LevelKind};
use crate::http::Request;
use crate::http::response::Response;
use crate::http::template::Template;
use crate::http::vars::Variable;
use crate::observe::error_log::Level;
use crate::observe::log_file::{self, LogFile, Waiting};
use crate::observe::syslog::Syslog;
use crate::settings;
use format::Format;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where requests are logged when nothing says where.
const DEFAULT_PATH: &str = "/var/log/nginx/access.log";

/// Bytes of a compressed log's buffer where none is named.
const GZIP_BUFFER: usize = 64 << 10;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// Its logs; a level that names one has none of the outer level's.
        inherit logs: Logs = Logs::default(),
        /// `open_log_file_cache`
        inherit kept_open: Option<named::Policy> = None,
        /// `log_subrequest`
        inherit subrequests: bool = false,
    }
}

/// The logs of a level.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// `access_log off`, which wins over others beside it.
    off: bool,
    list: Vec<AccessLog>,
}

/// An `access_log`.
#[derive(Clone, Debug)]
struct AccessLog {
    target: Target,
    format: Arc<Format>,
    /// `if=`: logged unless this is empty or `0`.
    condition: Option<Template>,
    /// `buffer=`, `flush=` and `gzip=`, which belong to the file, whoever names it.
    waiting: Option<Waiting>,
}

#[derive(Clone, Debug)]
enum Target {
    File(Arc<LogFile>),
    /// A path with variables.
    Named(Arc<Template>),
    Syslog(Arc<Syslog>),
}

/// What the whole of `http` configures.
#[derive(Default)]
pub struct Http {
    formats: Vec<Arc<Format>>,
    /// The files that are written with a delay.
    waiting: Vec<(PathBuf, Waiting)>,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("access_log", access_log, "where requests are logged, and how"),
    Command::works("log_format", log_format, "what a line of the access log consists of"),
    Command::works("log_subrequest", log_subrequest, "whether requests that a request makes are logged"),
    Command::works(
        "open_log_file_cache",
        |b, d| {
            let policy = named::policy(d)?;
            b.loc().log.kept_open.set(policy)
        },
        "which log files whose names have variables stay open",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("time_local", |_, _, out| {
        clock::append_local(out);
        true
    }),
    Variable::new("time_iso8601", |_, _, out| {
        clock::append_iso8601(out);
        true
    }),
];

fn log_format(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d.arg(0);
    if name == "combined" || b.http.log.formats.iter().any(|f| f.name == name) {
        return Err(ConfError::new(format!("duplicate \"log_format\" name \"{name}\"")));
    }
    let format = Format::compile(b, name, &d.args[1..])?;
    b.http.log.formats.push(Arc::new(format));
    Ok(())
}

/// The format called `name`, which stands above its use, as nginx demands.
fn find_format(b: &mut Builder, name: &str) -> ConfResult<Arc<Format>> {
    if let Some(format) = b.http.log.formats.iter().find(|f| f.name.eq_ignore_ascii_case(name)) {
        return Ok(format.clone());
    }
    if !name.eq_ignore_ascii_case("combined") {
        return Err(ConfError::new(format!("unknown log format \"{name}\""))
            .hint("a \"log_format\" stands above the \"access_log\" that uses it"));
    }
    let combined = Arc::new(Format::compile(b, "combined", &[format::COMBINED.to_string()])?);
    b.http.log.formats.push(combined.clone());
    Ok(combined)
}

fn access_log(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let path = d.arg(0);
    if path == "off" {
        if let Some(more) = d.args.get(1) {
            return Err(ConfError::new(format!("invalid parameter \"{more}\"")));
        }
        b.loc().log.logs.edit().off = true;
        return Ok(());
    }
    let target = if let Some(parameters) = path.strip_prefix("syslog:") {
        Target::Syslog(Arc::new(Syslog::parse(parameters)?))
    } else if path.contains('$') {
        Target::Named(Arc::new(named::path(b, path)?))
    } else {
        Target::File(log_file::at(&b.path(path)))
    };
    let format = find_format(b, d.args.get(1).map_or("combined", String::as_str))?;
    let (condition, waiting) = parameters(b, d)?;
    if let Some(waiting) = waiting {
        let file = match &target {
            Target::File(file) => file,
            Target::Named(_) => return Err(ConfError::new("buffered logs cannot have variables in name")),
            Target::Syslog(_) => return Err(ConfError::new("logs to syslog cannot be buffered")),
        };
        match b.http.log.waiting.iter().find(|(path, _)| path == file.path()) {
            Some((_, other)) if *other != waiting => {
                return Err(ConfError::new(format!(
                    "access_log \"{path}\" already defined with conflicting parameters"
                )));
            }
            Some(_) => {}
            None => b.http.log.waiting.push((file.path().to_path_buf(), waiting)),
        }
    }
    let log = AccessLog { target, format, condition, waiting: None };
    b.loc().log.logs.edit().list.push(log);
    Ok(())
}

fn log_subrequest(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    b.loc().log.subrequests.set(flag(d)?)
}

/// Reads what follows the format.
fn parameters(b: &mut Builder, d: &Directive) -> ConfResult<(Option<Template>, Option<Waiting>)> {
    let mut condition = None;
    let mut buffer = None;
    let (mut flush, mut gzip) = (None, None);
    for arg in d.args.iter().skip(2) {
        if let Some(text) = parameter(arg, "buffer") {
            let bytes = size(text).filter(|n| *n > 0);
            buffer = Some(
                bytes.ok_or_else(|| ConfError::new(format!("invalid buffer size \"{text}\"")))? as usize
            );
        } else if let Some(text) = parameter(arg, "flush") {
            let longest = time(text).filter(|t| !t.is_zero());
            flush = Some(longest.ok_or_else(|| ConfError::new(format!("invalid flush time \"{text}\"")))?);
        } else if arg == "gzip" {
            gzip = Some(1);
            buffer.get_or_insert(GZIP_BUFFER);
        } else if let Some(text) = parameter(arg, "gzip") {
            let level = number(text).filter(|n| (1..=9).contains(n));
            gzip =
                Some(level.ok_or_else(|| ConfError::new(format!("invalid compression level \"{text}\"")))?
                    as u8);
            buffer.get_or_insert(GZIP_BUFFER);
        } else if let Some(text) = parameter(arg, "if") {
            condition = Some(b.template(text)?);
        } else {
            return Err(ConfError::new(format!("invalid parameter \"{arg}\"")));
        }
    }
    if flush.is_some() && buffer.is_none() {
        return Err(ConfError::new(format!("no buffer is defined for access_log \"{}\"", d.arg(0))));
    }
    Ok((condition, buffer.map(|size| Waiting { size, time: flush, gzip })))
}

/// Completes what was read: servers that name no log have nginx's, and a file's delay holds wherever
/// the file is named.
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    let unset = |l: &crate::conf::build::Level| l.kind != LevelKind::Http && !l.conf.log.logs.is_set();
    if b.levels.iter().any(unset) {
        let format = find_format(b, "combined")?;
        let target = Target::File(log_file::at(Path::new(DEFAULT_PATH)));
        let list = vec![AccessLog { target, format, condition: None, waiting: None }];
        for level in b.levels.iter_mut().filter(|l| unset(l)) {
            level.conf.log.logs.replace(Logs { off: false, list: list.clone() });
        }
    }
    let waiting = std::mem::take(&mut b.http.log.waiting);
    for level in b.levels.iter_mut().filter(|l| l.conf.log.logs.is_set()) {
        for log in &mut level.conf.log.logs.edit().list {
            if let Target::File(file) = &log.target {
                let found = waiting.iter().find(|(path, _)| path == file.path());
                log.waiting = found.map(|(_, waiting)| *waiting);
            }
        }
    }
    Ok(())
}

/// The files that are named without variables; the same one more than once, it may be.
pub fn files(http: &crate::conf::build::Http) -> impl Iterator<Item = &Arc<LogFile>> {
    let logs = http.levels.iter().flat_map(|level| level.conf.log.logs.list.iter());
    logs.filter_map(|log| match &log.target {
        Target::File(file) => Some(file),
        Target::Named(_) | Target::Syslog(_) => None,
    })
}

/// What outlives a reload: nothing, for files are shared by their paths.
#[derive(Default)]
pub struct Shared {}

/// What a generation uses.
#[derive(Default)]
pub struct Runtime {}

impl Runtime {
    /// Joins the configuration with what outlives it.
    pub fn build(_: &crate::conf::build::Http, _: &Shared) -> ConfResult<Runtime> {
        Ok(Runtime {})
    }
}

/// Writes out what the calling worker has gathered; runs when it has nothing else to do.
pub fn flush_worker() {
    log_file::flush_thread();
}

thread_local! {
    /// The newest generation of which the worker has logged a request.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
}

/// Logs a subrequest that has been answered, where the level of its answer says so.
pub fn subrequest_done(rq: &mut Request, response: &Response) {
    if *rq.loc().log.subrequests {
        crate::http::h1::record(rq, response);
        request_done(rq);
    }
}

/// Whether requests of a level may be logged.
pub fn is_logged(conf: &crate::modules::LocConf) -> bool {
    !conf.log.logs.off && !conf.log.logs.list.is_empty()
}

/// Logs a finished request.
pub fn request_done(rq: &Request) {
    let number = rq.generation().number;
    if number > GENERATION.get() {
        GENERATION.set(number);
        // Files that the new configuration no longer names are to be closed.
        named::forget();
        log_file::release_thread();
    }
    let logs = &*rq.loc().log.logs;
    if logs.off {
        return;
    }
    for log in logs.list.iter().filter(|log| log.wants(rq)) {
        log.write(rq);
    }
}

impl AccessLog {
    fn wants(&self, rq: &Request) -> bool {
        self.condition.as_ref().is_none_or(|condition| !matches!(&*condition.eval(rq), b"" | b"0"))
    }

    fn write(&self, rq: &Request) {
        match &self.target {
            Target::File(file) => log_file::append(file, self.waiting, |out| self.format.append(rq, out)),
            Target::Named(name) => {
                if let Some(file) = named::open(rq, name) {
                    log_file::append_named(&file, |out| self.format.append(rq, out));
                }
            }
            Target::Syslog(server) => {
                if !server.send(|out| self.format.append(rq, out)) {
                    let text = format_args!("send() to syslog failed while logging request");
                    crate::observe::request_log(rq, Level::Warn, text);
                }
            }
        }
    }
}

fn complain(rq: &Request, level: Level, what: &str, how: &str, path: &Path, e: &std::io::Error) {
    let error = crate::conf::values::os_error(e);
    let path = path.display();
    crate::observe::request_log(
        rq,
        level,
        format_args!("{what} \"{path}\" {how} ({error}) while logging request"),
    );
}

#[cfg(test)]
mod tests;
