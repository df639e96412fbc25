//! The command line: nginx's options, nginx's exit codes.

use crate::conf::build::{Config, load};
use crate::conf::{ConfError, NoteLevel};
use crate::edge::control::{self, Options};
use crate::edge::pid_file;
use crate::observe::error_log::{Level, Target};
use crate::observe::log_file;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

const PREFIX: &str = "/etc/nginx";
const CONF: &str = "/etc/nginx/nginx.conf";
const ERROR_LOG: &str = "/var/log/nginx/error.log";
const NAME: &str = "edgewater";

const HELP: &str = "\
Usage: edgewater [-?hvVtTq] [-s signal] [-p prefix]
                 [-e filename] [-c filename] [-g directives]

Options:
  -?,-h         : this help
  -v            : show version and exit
  -V            : show version and configure options then exit
  -t            : test configuration and exit
  -T            : test configuration, dump it and exit
  -q            : suppress non-error messages during configuration testing
  -s signal     : send signal to a master process: stop, quit, reopen, reload
  -p prefix     : set prefix path (default: /etc/nginx/)
  -e filename   : set error log file (default: /var/log/nginx/error.log)
  -c filename   : set configuration file (default: /etc/nginx/nginx.conf)
  -g directives : set global directives out of configuration file
  --demo        : start the embedded demonstration site too (127.0.0.1:8099,
                  or the address in EDGEWATER_DEMO), in the foreground

";

#[derive(Default)]
struct Args {
    help: bool,
    version: bool,
    configure: bool,
    test: bool,
    dump: bool,
    quiet: bool,
    demo: bool,
    signal: Option<String>,
    prefix: Option<PathBuf>,
    conf: Option<PathBuf>,
    error_log: Option<String>,
    globals: String,
}

/// Runs the program; the value is its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    // Every TLS configuration of ours names its provider; this one is for libraries that ask for the
    // process's. Only the first call counts, and this is it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args = match parse(args) {
        Ok(args) => args,
        Err(message) => {
            say(&format!("{NAME}: {message}"));
            return 1;
        }
    };
    if args.help || args.version || args.configure {
        return about(&args);
    }
    let options = options(&args);
    if let Some(signal) = &args.signal {
        return send_signal(&options, signal);
    }
    let config = match load(&options.prefix, &options.file, &options.globals) {
        Ok(config) => config,
        Err(e) => return fail(&args, &options, &e),
    };
    report(&args, &config);
    if args.test || args.dump {
        return tested(&args, &options, config);
    }
    // Dropped, and so stopped, when the process ends.
    let demo = if args.demo { Some(start_demo()) } else { None };
    if let Some(Err(e)) = &demo {
        say(&format!("{NAME}: [emerg] the demonstration site cannot start: {e}"));
        return 1;
    }
    match control::run(&options, config) {
        Ok(()) => 0,
        Err(e) => fail(&args, &options, &e),
    }
}

fn start_demo() -> std::io::Result<crate::demo::DemoSite> {
    let addr = std::env::var("EDGEWATER_DEMO").unwrap_or_else(|_| "127.0.0.1:8099".into());
    let addr = addr
        .parse()
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{addr}: {e}")))?;
    crate::demo::start(addr)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
    use lexopt::prelude::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_iter(args);
    let mut parsed = Args::default();
    let text = |parser: &mut lexopt::Parser, option: char| -> Result<String, String> {
        let value = parser.value().map_err(|_| match option {
            'e' | 'c' | 'p' => format!(
                "option \"-{option}\" requires {}",
                if option == 'p' { "directory name" } else { "file name" }
            ),
            _ => format!("option \"-{option}\" requires parameter"),
        })?;
        value.into_string().map_err(|_| format!("option \"-{option}\" is not UTF-8"))
    };
    while let Some(arg) = parser.next().map_err(|e| e.to_string())? {
        match arg {
            Short('h' | '?') | Long("help") => parsed.help = true,
            Short('v') | Long("version") => parsed.version = true,
            Short('V') => parsed.configure = true,
            Short('t') => parsed.test = true,
            Short('T') => parsed.dump = true,
            Short('q') => parsed.quiet = true,
            Long("demo") => parsed.demo = true,
            Short('s') => {
                let signal = text(&mut parser, 's')?;
                if !matches!(signal.as_str(), "stop" | "quit" | "reopen" | "reload") {
                    return Err(format!("invalid option: \"-s {signal}\""));
                }
                parsed.signal = Some(signal);
            }
            Short('p') => parsed.prefix = Some(text(&mut parser, 'p')?.into()),
            Short('c') => parsed.conf = Some(text(&mut parser, 'c')?.into()),
            Short('e') => parsed.error_log = Some(text(&mut parser, 'e')?),
            Short('g') => parsed.globals = text(&mut parser, 'g')?,
            Short(other) => return Err(format!("invalid option: \"{other}\"")),
            Long(other) => return Err(format!("invalid option: \"--{other}\"")),
            Value(value) => return Err(format!("invalid option: \"{}\"", value.to_string_lossy())),
        }
    }
    Ok(parsed)
}

fn about(args: &Args) -> i32 {
    say(&format!("edgewater version: edgewater/{}", env!("CARGO_PKG_VERSION")));
    if args.configure {
        say("built with rustls (aws-lc-rs)");
        say("TLS SNI support enabled");
        say(&format!(
            "configure arguments: --prefix={PREFIX} --conf-path={CONF} --error-log-path={ERROR_LOG} --pid-path={} \
             --with-http_ssl_module --with-http_v2_module --with-http_stub_status_module --with-threads",
            pid_file::DEFAULT
        ));
    }
    if args.help {
        say("");
        let _ = write!(std::io::stderr(), "{HELP}");
    }
    0
}

/// Relative paths are joined to the prefix, and the prefix to the working directory.
fn options(args: &Args) -> Options {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let prefix = args.prefix.as_deref().map_or_else(|| PathBuf::from(PREFIX), |p| here.join(p));
    let file = args.conf.as_deref().map_or_else(|| PathBuf::from(CONF), |c| prefix.join(c));
    let error_log = match args.error_log.as_deref() {
        Some("stderr") => Target::Stderr,
        Some(path) => Target::File(log_file::at(&prefix.join(path))),
        None => Target::File(log_file::at(Path::new(ERROR_LOG))),
    };
    Options { prefix, file, globals: args.globals.clone(), error_log, foreground: args.demo }
}

fn fail(args: &Args, options: &Options, e: &ConfError) -> i32 {
    say(&format!("{NAME}: [emerg] {e}"));
    // The log of the beginning gets it too, when it can be opened; who reads the terminal knows.
    if let Target::File(file) = &options.error_log
        && file.open().is_ok()
    {
        let log = crate::observe::error_log::ErrorLog::new(vec![(options.error_log.clone(), Level::Notice)]);
        log.write(&[], Level::Emerg, format_args!("{e}"));
    }
    if args.test || args.dump {
        say(&format!("{NAME}: configuration file {} test failed", options.file.display()));
    }
    1
}

fn report(args: &Args, config: &Config) {
    for note in &config.notes {
        // At a start only what may surprise is said; a test reports everything.
        if note.level == NoteLevel::Warn || (args.test && !args.quiet) {
            say(&format!("{NAME}: {note}"));
        }
    }
}

fn tested(args: &Args, options: &Options, config: Config) -> i32 {
    let sources = config.sources.clone();
    let notices = config.notes.len();
    let shared = crate::modules::Shared::default();
    let built = crate::edge::Generation::build(0, config, &shared, &options.error_log);
    let file = options.file.display();
    if let Err(e) = built {
        return fail(args, options, &e);
    }
    if !args.quiet {
        say(&format!("{NAME}: the configuration file {file} syntax is ok"));
        if notices > 0 {
            say(&format!(
                "{NAME}: {notices} note{} on this configuration",
                if notices == 1 { "" } else { "s" }
            ));
        }
        say(&format!("{NAME}: configuration file {file} test is successful"));
    }
    if args.dump {
        let mut out = std::io::stdout().lock();
        for source in &sources {
            let _ = writeln!(out, "# configuration file {}:", source.file);
            let _ = out.write_all(&source.text);
            let _ = writeln!(out);
        }
    }
    0
}

/// `-s`: the process whose number stands in the configuration's `pid` gets a signal.
fn send_signal(options: &Options, signal: &str) -> i32 {
    let config = match load(&options.prefix, &options.file, &options.globals) {
        Ok(config) => config,
        Err(e) => {
            say(&format!("{NAME}: [emerg] {e}"));
            return 1;
        }
    };
    let path = (*config.main.pid).clone().unwrap_or_else(|| PathBuf::from(pid_file::DEFAULT));
    let pid = match pid_file::read(&path) {
        Ok(pid) => pid,
        Err(e) => {
            let level = Level::Error.as_str();
            let cause = crate::conf::values::os_error(&e);
            say(&format!("{NAME}: [{level}] open() \"{}\" failed ({cause})", path.display()));
            return 1;
        }
    };
    use nix::sys::signal::{Signal, kill};
    let signal = match signal {
        "stop" => Signal::SIGTERM,
        "quit" => Signal::SIGQUIT,
        "reopen" => Signal::SIGUSR1,
        _ => Signal::SIGHUP,
    };
    match kill(nix::unistd::Pid::from_raw(pid), signal) {
        Ok(()) => 0,
        Err(e) => {
            say(&format!("{NAME}: [alert] kill({pid}, {}) failed ({e})", signal as i32));
            1
        }
    }
}
