//! The command line: nginx's options, nginx's exit codes.

use crate::conf::build::{Config, load};
use crate::conf::{ConfError, Note, NoteLevel};
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
        about(&args);
        // nginx goes on when a test is asked for as well.
        if !(args.test || args.dump) {
            return 0;
        }
    }
    let options = options(&args);
    if let Some(signal) = args.signal.as_deref().filter(|_| !(args.test || args.dump)) {
        return send_signal(&args, &options, signal);
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

/// Reads the words as nginx does: letters may share a word, and what follows a letter that takes a
/// value is that value, or the next word is. A word of `-` alone says nothing.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
    let mut parsed = Args::default();
    let mut words = args.into_iter().skip(1);
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        match word.as_str() {
            "--demo" => parsed.demo = true,
            "--help" => parsed.help = true,
            "--version" => parsed.version = true,
            _ => match word.strip_prefix('-') {
                Some(letters) => parse_letters(letters, &mut words, &mut parsed)?,
                None => return Err(format!("invalid option: \"{word}\"")),
            },
        }
    }
    Ok(parsed)
}

fn parse_letters(
    letters: &str,
    words: &mut dyn Iterator<Item = OsString>,
    parsed: &mut Args,
) -> Result<(), String> {
    for (at, letter) in letters.char_indices() {
        match letter {
            'h' | '?' => parsed.help = true,
            'v' => parsed.version = true,
            'V' => parsed.configure = true,
            't' => parsed.test = true,
            'T' => parsed.dump = true,
            'q' => parsed.quiet = true,
            's' | 'p' | 'c' | 'e' | 'g' => {
                let rest = &letters[at + letter.len_utf8()..];
                let value = if rest.is_empty() { words.next() } else { Some(rest.into()) };
                let value = value.ok_or_else(|| {
                    let wanted = match letter {
                        'p' => "directory name",
                        'c' | 'e' => "file name",
                        _ => "parameter",
                    };
                    format!("option \"-{letter}\" requires {wanted}")
                })?;
                let value = value.into_string().map_err(|_| format!("option \"-{letter}\" is not UTF-8"))?;
                return set_value(letter, value, parsed);
            }
            other => return Err(format!("invalid option: \"{other}\"")),
        }
    }
    Ok(())
}

fn set_value(letter: char, value: String, parsed: &mut Args) -> Result<(), String> {
    match letter {
        's' if !matches!(value.as_str(), "stop" | "quit" | "reopen" | "reload") => {
            return Err(format!("invalid option: \"-s {value}\""));
        }
        's' => parsed.signal = Some(value),
        'p' => parsed.prefix = Some(value.into()),
        'c' => parsed.conf = Some(value.into()),
        'e' => parsed.error_log = Some(value),
        _ => parsed.globals = value,
    }
    Ok(())
}

fn about(args: &Args) {
    say(&format!("edgewater version: edgewater/{}", env!("CARGO_PKG_VERSION")));
    if args.help {
        let _ = write!(std::io::stderr(), "{HELP}");
    }
    if args.configure {
        say(concat!("built with rustls ", env!("EDGEWATER_RUSTLS"), " (aws-lc-rs)"));
        say("TLS SNI support enabled");
        say(&format!("configure arguments: {}", configure_arguments()));
    }
}

/// nginx's words for what is built in: an optional module is named when one of its directives works.
fn configure_arguments() -> String {
    const OPTIONAL: &[(&str, &str)] = &[
        ("http_ssl_module", "ngx_http_ssl_module"),
        ("http_v2_module", "ngx_http_v2_module"),
        ("http_v3_module", "ngx_http_v3_module"),
        ("http_realip_module", "ngx_http_realip_module"),
        ("http_addition_module", "ngx_http_addition_filter_module"),
        ("http_xslt_module", "ngx_http_xslt_filter_module"),
        ("http_image_filter_module", "ngx_http_image_filter_module"),
        ("http_geoip_module", "ngx_http_geoip_module"),
        ("http_sub_module", "ngx_http_sub_filter_module"),
        ("http_dav_module", "ngx_http_dav_module"),
        ("http_flv_module", "ngx_http_flv_module"),
        ("http_mp4_module", "ngx_http_mp4_module"),
        ("http_gunzip_module", "ngx_http_gunzip_filter_module"),
        ("http_gzip_static_module", "ngx_http_gzip_static_module"),
        ("http_auth_request_module", "ngx_http_auth_request_module"),
        ("http_random_index_module", "ngx_http_random_index_module"),
        ("http_secure_link_module", "ngx_http_secure_link_module"),
        ("http_degradation_module", "ngx_http_degradation_module"),
        ("http_slice_module", "ngx_http_slice_filter_module"),
        ("http_stub_status_module", "ngx_http_stub_status_module"),
        ("mail", "ngx_mail_core_module"),
        ("stream", "ngx_stream_core_module"),
    ];
    let mut words = format!(
        "--prefix={PREFIX} --conf-path={CONF} --error-log-path={ERROR_LOG} --pid-path={} --user=nginx --group=nginx \
         --with-threads",
        pid_file::DEFAULT
    );
    let works = crate::conf::support::working_modules();
    for (option, _) in OPTIONAL.iter().filter(|(_, module)| works.contains(module)) {
        words.push_str(" --with-");
        words.push_str(option);
    }
    words
}

/// Relative paths are joined to the prefix, and the prefix to the working directory.
fn options(args: &Args) -> Options {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let prefix = args.prefix.as_deref().map_or_else(|| PathBuf::from(PREFIX), |p| here.join(p));
    let file = args.conf.as_deref().map_or_else(|| PathBuf::from(CONF), |c| prefix.join(c));
    let error_log = match args.error_log.as_deref() {
        Some("stderr" | "") => Target::Stderr,
        Some(path) => Target::File(log_file::at(&prefix.join(path))),
        None => Target::File(log_file::at(Path::new(ERROR_LOG))),
    };
    Options { prefix, file, globals: args.globals.clone(), error_log, foreground: args.demo }
}

/// Says what is wrong on the terminal and in the log of the beginning; the value is the exit code.
fn fail(args: &Args, options: &Options, e: &ConfError) -> i32 {
    complain(options, Level::Emerg, e);
    if args.test || args.dump {
        say(&format!("{NAME}: configuration file {} test failed", options.file.display()));
    }
    1
}

fn complain(options: &Options, level: Level, what: &dyn std::fmt::Display) {
    say(&format!("{NAME}: [{}] {what}", level.as_str()));
    // The log gets it too, when it can be opened; who reads the terminal knows.
    if let Target::File(file) = &options.error_log
        && file.open().is_ok()
    {
        let log = crate::observe::error_log::ErrorLog::new(vec![(options.error_log.clone(), Level::Notice)]);
        log.write(&[], level, format_args!("{what}"));
    }
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
    let notes = summary(&config.notes);
    let shared = crate::modules::Shared::default();
    let built = crate::edge::Generation::build(0, config, &shared, &options.error_log);
    let file = options.file.display();
    if let Err(e) = built {
        return fail(args, options, &e);
    }
    if !args.quiet {
        say(&format!("{NAME}: the configuration file {file} syntax is ok"));
        say(&format!("{NAME}: configuration file {file} test is successful"));
        if let Some(notes) = notes {
            say(&format!("{NAME}: {notes}"));
        }
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

/// What the notes of a test come to, in one line; nothing when there are none.
fn summary(notes: &[Note]) -> Option<String> {
    let warnings = notes.iter().filter(|n| n.level == NoteLevel::Warn).count();
    let idle = notes.len() - warnings;
    let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let idle_text = plural(idle, "directive has no effect", "directives have no effect");
    let warnings_text = plural(warnings, "warning", "warnings");
    match (idle, warnings) {
        (0, 0) => None,
        (_, 0) => Some(idle_text),
        (0, _) => Some(warnings_text),
        (..) => Some(format!("{idle_text}, {warnings_text}")),
    }
}

/// `-s`: the process whose number stands in the configuration's `pid` gets a signal. A configuration
/// that does not load sends none.
fn send_signal(args: &Args, options: &Options, signal: &str) -> i32 {
    let config = match load(&options.prefix, &options.file, &options.globals) {
        Ok(config) => config,
        Err(e) => return fail(args, options, &e),
    };
    let path = (*config.main.pid).clone().unwrap_or_else(|| PathBuf::from(pid_file::DEFAULT));
    let pid = match pid_file::read(&path) {
        Ok(pid) => pid,
        Err(e) => {
            complain(options, Level::Error, &e);
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
            let cause = crate::conf::values::os_error(&e.into());
            complain(options, Level::Alert, &format_args!("kill({pid}, {}) failed ({cause})", signal as i32));
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_share_a_word_and_the_last_may_take_what_follows() {
        let words = |list: &[&str]| parse(["edgewater"].iter().chain(list).map(OsString::from));
        let args = words(&["-tqc", "a.conf", "-", "-p/x", "-g=1"]).unwrap();
        assert!(args.test && args.quiet && !args.dump);
        assert_eq!(args.conf.as_deref(), Some(Path::new("a.conf")));
        assert_eq!(args.prefix.as_deref(), Some(Path::new("/x")));
        assert_eq!(args.globals, "=1");
        for (list, complaint) in [
            (&["-tx"][..], "invalid option: \"x\""),
            (&["--"], "invalid option: \"-\""),
            (&[""], "invalid option: \"\""),
            (&["-sx"], "invalid option: \"-s x\""),
            (&["-tc"], "option \"-c\" requires file name"),
        ] {
            assert_eq!(words(list).err().as_deref(), Some(complaint), "{list:?}");
        }
    }

    #[test]
    fn the_build_names_only_modules_that_work() {
        let words = configure_arguments();
        assert!(
            words.contains("--with-http_ssl_module") && words.contains("--with-http_v2_module"),
            "{words}"
        );
        assert!(!words.contains("perl") && !words.contains("mail"), "{words}");
    }

    #[test]
    fn the_summary_counts() {
        let note = |level| Note { level, message: String::new(), at: crate::conf::At::command_line() };
        let (notice, warn) = (|| note(NoteLevel::Notice), || note(NoteLevel::Warn));
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[notice()]).unwrap(), "1 directive has no effect");
        assert_eq!(summary(&[notice(), notice(), warn()]).unwrap(), "2 directives have no effect, 1 warning");
    }
}
