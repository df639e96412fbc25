//! nginx's index module: the file for a directory.

use super::static_files::{Mapped, log_failure, look, map};
use crate::cache::file_io::Failure;
use crate::cache::files::{Kind, Want};
use crate::conf::values::os_error;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::head::Method;
use crate::http::phases::{Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::http::template::Template;
use crate::observe::error_log::Level;
use crate::observe::request_log;
use crate::settings;
use bytes::Bytes;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// Names of files, tried in order; the last may be an absolute URI.
        inherit names: Vec<Template> = vec![Template::literal("index.html")],
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[Command::works("index", index, "the files for a directory")];

fn index(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if !b.loc().index.names.is_set() {
        // The default is no part of a level's own list.
        b.loc().index.names.replace(Vec::new());
    }
    for (i, name) in d.args.iter().enumerate() {
        if name.starts_with('/') && i + 1 != d.args.len() {
            b.note(NoteLevel::Warn, "only the last index in \"index\" directive should be absolute");
        }
        if name.is_empty() {
            return Err(ConfError::new(format!("index \"{name}\" in \"index\" directive is invalid")));
        }
        let name = b.template(name)?;
        b.loc().index.names.edit().push(name);
    }
    Ok(())
}

/// Runs in its phase.
pub const HANDLER: Handler =
    Handler { phase: Phase::Content, wants: |_| true, call: Call::Later(handle), pure: true, gate: None };

fn handle(rq: &mut Request) -> Deciding<'_> {
    if !rq.uri.ends_with(b"/") || !matches!(rq.method, Method::Get | Method::Head | Method::Post) {
        return Box::pin(std::future::ready(Flow::Continue));
    }
    Box::pin(find(rq))
}

async fn find(rq: &mut Request) -> Flow {
    let local = rq.local.clone();
    let names = &local.generation.http.levels[rq.level].conf.index.names;
    let mut directory: Option<Mapped> = None;
    let mut directory_tested = false;
    for name in names.iter() {
        let name = name.eval(rq);
        if name.starts_with(b"/") {
            return Flow::Internal { uri: name, args: rq.args.clone() };
        }
        if directory.is_none() {
            directory = map(rq);
        }
        let Some(base) = &directory else { return Flow::status(500) };
        let path = [&base.path[..], &name].concat();
        let failure = match look(rq, &path, Want::Stat).await {
            Ok(_) => {
                rq.watch.rests_on(rq.level, path);
                let uri = [&rq.uri[..], &name].concat();
                return Flow::Internal { uri: Bytes::from(uri), args: rq.args.clone() };
            }
            Err(failure) => failure,
        };
        // It may be there the next time.
        rq.watch.spoil();
        let missing = failure.errno == rustix::io::Errno::NOENT.raw_os_error();
        let is_link = [rustix::io::Errno::LOOP, rustix::io::Errno::MLINK];
        if is_link.iter().any(|e| e.raw_os_error() == failure.errno) {
            return Flow::status(403);
        }
        if failure.is_forbidden() || failure.is_missing() && !missing {
            return refuse(rq, &path, &failure);
        }
        if !std::mem::replace(&mut directory_tested, true)
            && let Some(refusal) = test_directory(rq, &base.path, &path).await
        {
            return refusal;
        }
        if !missing {
            log_failure(rq, Level::Crit, &path, &failure);
            return Flow::status(500);
        }
    }
    Flow::Continue
}

/// Whether there is a directory at all; the answer if there is none. `path` is the file that was
/// looked for in it, which is what nginx names in the log.
async fn test_directory(rq: &mut Request, directory: &[u8], path: &[u8]) -> Option<Flow> {
    let directory = directory.strip_suffix(b"/").filter(|d| !d.is_empty()).unwrap_or(directory);
    match look(rq, directory, Want::Stat).await {
        Ok(found) if found.stat.kind == Kind::Directory => None,
        Ok(_) => {
            let directory = String::from_utf8_lossy(directory);
            request_log(rq, Level::Alert, format_args!("\"{directory}\" is not a directory"));
            Some(Flow::status(500))
        }
        Err(failure) if failure.errno == rustix::io::Errno::NOENT.raw_os_error() => {
            Some(refuse(rq, path, &failure))
        }
        // That a file in it was looked for without this error says that it may be searched.
        Err(failure) if failure.is_forbidden() => None,
        Err(failure) => {
            log_failure(rq, Level::Crit, directory, &failure);
            Some(Flow::status(500))
        }
    }
}

/// The answer where a file may not be had or there is none (ngx_http_index_error).
fn refuse(rq: &Request, path: &[u8], failure: &Failure) -> Flow {
    let (status, what) = if failure.is_forbidden() { (403, "forbidden") } else { (404, "not found") };
    if status == 403 || *rq.loc().core.log_not_found {
        let (path, error) = (String::from_utf8_lossy(path), os_error(&failure.error()));
        request_log(rq, Level::Error, format_args!("\"{path}\" is {what} ({error})"));
    }
    Flow::status(status)
}
