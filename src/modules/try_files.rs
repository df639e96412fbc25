//! nginx's try_files module: the first of several files that is there, or something else.

use super::core::Alias;
use super::static_files::{Mapped, log_failure, look, map};
use crate::cache::files::{Kind, Want};
use crate::conf::values::number;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::phases::{Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::http::template::Template;
use crate::observe::error_log::Level;
use crate::settings;
use bytes::Bytes;
use std::sync::Arc;

settings! {
    /// What a level configures; a level inside does not have it.
    pub struct Conf {
        /// `try_files`
        own list: Option<Arc<List>> = None,
    }
}

/// `try_files`
#[derive(Debug)]
pub struct List {
    /// What is tried, in order, and whether it shall be a directory.
    tried: Vec<(Template, bool)>,
    /// When nothing was found.
    last: Last,
}

#[derive(Debug)]
enum Last {
    /// `=code`
    Code(u16),
    /// A URI or a named location.
    Redirect(Template),
}

/// The directives.
pub const COMMANDS: &[Command] =
    &[Command::works("try_files", try_files, "the first file that is there, or something else")];

fn try_files(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if b.loc().try_files.list.is_some() {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    let (last, tried) = d.args.split_last().ok_or_else(|| ConfError::new("invalid number of arguments"))?;
    let tried = tried
        .iter()
        .map(|name| match name.strip_suffix('/') {
            Some(directory) => Ok((b.template(directory)?, true)),
            None => Ok((b.template(name)?, false)),
        })
        .collect::<ConfResult<_>>()?;
    let last = match last.strip_prefix('=') {
        Some(code) => match number(code) {
            Some(code) if code <= 999 => Last::Code(code as u16),
            _ => return Err(ConfError::new(format!("invalid code \"={code}\""))),
        },
        None => Last::Redirect(b.template(last)?),
    };
    b.loc().try_files.list.0 = Some(Arc::new(List { tried, last }));
    Ok(())
}

/// Runs in its phase.
pub const HANDLER: Handler = Handler {
    phase: Phase::Precontent,
    wants: |loc| loc.try_files.list.is_some(),
    call: Call::Later(handle),
    pure: false,
    gate: None,
};

fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(run(rq))
}

async fn run(rq: &mut Request) -> Flow {
    let Some(list) = rq.loc().try_files.list.0.clone() else { return Flow::Continue };
    let Some(Mapped { mut path, root }) = map(rq) else { return Flow::status(500) };
    for (template, directory) in &list.tried {
        path.truncate(root);
        template.eval_into(rq, &mut path);
        drop_alias(rq, template, root, &mut path);
        match look(rq, &path, Want::Stat).await {
            Ok(found) if (found.stat.kind == Kind::Directory) == *directory => {
                found_at(rq, Bytes::copy_from_slice(&path[root..]), *directory);
                return Flow::Continue;
            }
            Ok(_) => {}
            Err(failure) if failure.is_missing() => {}
            Err(failure) => log_failure(rq, Level::Crit, &path, &failure),
        }
    }
    let redirect = match &list.last {
        Last::Code(code) => return Flow::status(*code),
        Last::Redirect(redirect) => redirect,
    };
    path.truncate(root);
    redirect.eval_into(rq, &mut path);
    drop_alias(rq, redirect, root, &mut path);
    let target = Bytes::from(path).slice(root..);
    if target.starts_with(b"@") {
        return Flow::Named(target.slice(1..));
    }
    match memchr::memchr(b'?', &target) {
        Some(at) => Flow::Internal { uri: target.slice(..at), args: target.slice(at + 1..) },
        None => Flow::Internal { uri: target, args: Bytes::new() },
    }
}

/// With `alias` a name with variables that begins with the location, as `$uri` does, is taken as what follows it.
fn drop_alias(rq: &Request, name: &Template, root: usize, path: &mut Vec<u8>) {
    if let Some(Alias::Prefix(length)) = rq.loc().core.root.alias
        && name.constant().is_none()
        && path.len() >= root + length
        && path[root..root + length] == rq.uri[..length]
    {
        path.drain(root..root + length);
    }
}

/// The request goes on with what was found.
fn found_at(rq: &mut Request, name: Bytes, directory: bool) {
    match rq.loc().core.root.alias {
        None => rq.uri = name,
        Some(Alias::Whole) => {
            if !directory {
                rq.uri = name;
                rq.uri_below_alias = true;
            }
        }
        Some(Alias::Prefix(length)) => rq.uri = [&rq.uri[..length], &name].concat().into(),
    }
}
