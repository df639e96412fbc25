//! The top level: the process, its user, its workers, its logs (nginx's core module).

use crate::conf::values::{self, flag, number_arg, time_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::observe::error_log::{Level, Target};
use crate::settings;
use std::path::PathBuf;
use std::time::Duration;

settings! {
    /// What stands outside `events` and `http`.
    pub struct Conf {
        /// Whether to go to the background.
        inherit daemon: bool = true,
        /// The file that holds the process's number, as written.
        inherit pid: Option<PathBuf> = None,
        /// User and group under which request threads run: names as written.
        inherit user: Option<(String, Option<String>)> = None,
        /// Worker threads; `None` is one for each core.
        inherit workers: Option<usize> = None,
        /// The most descriptors the process may have.
        inherit rlimit_nofile: Option<u64> = None,
        /// Where errors go, and from which level on. Empty: the default.
        inherit error_logs: Vec<(Target, Level)> = Vec::new(),
        /// Connections a worker may have at once.
        inherit worker_connections: u64 = 512,
        /// How long a graceful shutdown may last.
        inherit shutdown_timeout: Option<Duration> = None,
        /// The modules that `load_module` named.
        inherit loaded: Vec<String> = Vec::new(),
        /// The working directory.
        inherit working_directory: Option<PathBuf> = None,
    }
}

const ONE_PROCESS: &str = "Edgewater is one process with a thread for each worker";

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("daemon", daemon, "whether to go to the background"),
    Command::works("pid", pid, "the file that holds the process's number"),
    Command::works("user", user, "user and group under which requests are served"),
    Command::works("worker_processes", worker_processes, "how many workers there are"),
    Command::works("worker_rlimit_nofile", rlimit_nofile, "the most descriptors"),
    Command::works("error_log", error_log, "where errors are logged, and from which level on"),
    Command::works("worker_shutdown_timeout", shutdown_timeout, "how long a graceful shutdown may last"),
    Command::works("working_directory", working_directory, "the working directory"),
    Command::works("http", |b, d| b.enter_http(d), "HTTP servers"),
    Command::works("include", |_, _| Ok(()), "another file's text, here"),
    Command::no_effect("master_process", ONE_PROCESS),
    Command::no_effect("lock_file", ONE_PROCESS),
    Command::no_effect("worker_priority", "threads keep the priority of the process"),
    Command::no_effect("worker_cpu_affinity", "the kernel places the threads"),
    Command::no_effect("worker_rlimit_core", "core dumps are the container's or systemd's matter"),
    Command::no_effect("timer_resolution", "timers cost no system call here"),
    Command::no_effect("pcre_jit", "regular expressions are compiled in any case"),
    Command::no_effect("thread_pool", "blocking file work has its own threads in any case"),
    Command::no_effect("env", "the environment is inherited whole by the one process"),
    Command::no_effect("debug_points", "there are no debug points"),
];

fn daemon(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    b.main.daemon.set(flag(d)?)
}

fn pid(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let path = b.path(d.arg(0));
    b.main.pid.set(Some(path))
}

fn user(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d.arg(0).to_string();
    let found = nix::unistd::User::from_name(&name).ok().flatten();
    if found.is_none() {
        return Err(ConfError::new(format!("getpwnam(\"{name}\") failed"))
            .hint("there is no such user on this system"));
    }
    let group = d.args.get(1).cloned();
    if let Some(group) = &group
        && nix::unistd::Group::from_name(group).ok().flatten().is_none()
    {
        return Err(ConfError::new(format!("getgrnam(\"{group}\") failed"))
            .hint("there is no such group on this system"));
    }
    b.main.user.set(Some((name, group)))
}

fn worker_processes(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.arg(0) == "auto" {
        return b.main.workers.set(None);
    }
    let n = values::number(d.arg(0)).ok_or_else(|| ConfError::new("invalid number"))?;
    if n == 0 || n > 512 {
        return Err(ConfError::new("invalid number").hint("auto, or a number from 1 to 512"));
    }
    b.main.workers.set(Some(n as usize))
}

fn rlimit_nofile(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let n = number_arg(d, 0)?;
    b.main.rlimit_nofile.set(Some(n))
}

/// `error_log` stands at the top, in `http`, in a server and in a location.
fn error_log(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.arg(0) == "off" {
        b.note(
            NoteLevel::Warn,
            "\"error_log off\" does not turn the log off, it writes to a file called \"off\"",
        );
    }
    let target = Target::parse(b, d.arg(0))?;
    let level = levels(&d.args[1..])?;
    if b.context == crate::conf::Context::MAIN {
        b.main.error_logs.edit().push((target, level));
    } else {
        b.loc().core.error_logs.edit().push((target, level));
    }
    Ok(())
}

/// One level, or names of what nginx tells with `--with-debug` (ngx_log_set_levels).
fn levels(names: &[String]) -> ConfResult<Level> {
    const DEBUG: [&str; 7] = [
        "debug_core",
        "debug_alloc",
        "debug_mutex",
        "debug_event",
        "debug_http",
        "debug_mail",
        "debug_stream",
    ];
    let (mut level, mut debug) = (None, false);
    for name in names {
        if let Some(found) = Level::parse(name) {
            if level.is_some() || debug {
                return Err(ConfError::new(format!("duplicate log level \"{name}\"")));
            }
            level = Some(found);
        } else if DEBUG.contains(&name.as_str()) && level.is_none() {
            debug = true;
        } else {
            return Err(ConfError::new(format!("invalid log level \"{name}\"")));
        }
    }
    Ok(if debug { Level::Debug } else { level.unwrap_or(Level::Error) })
}

fn shutdown_timeout(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let time = time_arg(d, 0)?;
    b.main.shutdown_timeout.set(Some(time))
}

fn working_directory(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let path = b.path(d.arg(0));
    b.main.working_directory.set(Some(path))
}
