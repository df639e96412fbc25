//! nginx's autoindex module: the list of a directory's files.

mod format;
mod listing;

use super::static_files::{Mapped, map};
use crate::cache::file_io::Failure;
use crate::conf::values::{flag, one_of, os_error};
use crate::conf::{Command, ConfResult};
use crate::http::body::Body;
use crate::http::head::Method;
use crate::http::phases::{Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::uri;
use crate::observe::error_log::Level;
use crate::observe::{request_error, request_log};
use crate::settings;
use bytes::Bytes;
pub use format::Format;
use format::{Page, Style};
use listing::{Stopped, read};
pub use listing::{at_once, open};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `autoindex`
        inherit on: bool = false,
        /// `autoindex_format`
        inherit format: Format = Format::Html,
        /// `autoindex_exact_size`
        inherit exact_size: bool = true,
        /// `autoindex_localtime`
        inherit localtime: bool = false,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("autoindex", |b, d| set(flag(d)?, &mut b.loc().autoindex.on), "lists directories"),
    Command::works(
        "autoindex_format",
        |b, d| {
            use Format::{Html, Json, Jsonp, Xml};
            let choices = [("html", Html), ("json", Json), ("jsonp", Jsonp), ("xml", Xml)];
            set(one_of(d, &choices)?, &mut b.loc().autoindex.format)
        },
        "the form of the list: html, xml, json, jsonp",
    ),
    Command::works(
        "autoindex_exact_size",
        |b, d| set(flag(d)?, &mut b.loc().autoindex.exact_size),
        "whether sizes are in bytes, in html",
    ),
    Command::works(
        "autoindex_localtime",
        |b, d| set(flag(d)?, &mut b.loc().autoindex.localtime),
        "whether times are local, in html",
    ),
];

fn set<T>(value: T, setting: &mut crate::conf::Setting<T>) -> ConfResult<()> {
    setting.set(value)
}

/// Runs in its phase, where there was no index.
pub const HANDLER: Handler = Handler {
    phase: Phase::Content,
    wants: |loc| *loc.autoindex.on,
    call: Call::Later(handle),
    pure: true,
    gate: None,
};

fn handle(rq: &mut Request) -> Deciding<'_> {
    if !rq.uri.ends_with(b"/") || !matches!(rq.method, Method::Get | Method::Head) {
        return Box::pin(std::future::ready(Flow::Continue));
    }
    Box::pin(list(rq))
}

async fn list(rq: &mut Request) -> Flow {
    let format = *rq.loc().autoindex.format;
    let callback = match format {
        Format::Jsonp => match callback(rq) {
            Ok(callback) => callback,
            Err(()) => return Flow::status(400),
        },
        _ => Bytes::new(),
    };
    let Some(Mapped { path, .. }) = map(rq) else { return Flow::status(500) };
    let directory = directory_of(&path).to_vec();
    if rq.method == Method::Head {
        // Only whether there is one is asked.
        let looking = directory.clone();
        let looked = at_once(move || open(&looking).map(drop)).await;
        return match looked.unwrap_or_else(Err) {
            Ok(()) => Flow::respond(respond(format, &callback, Body::Stream(Box::new(Nothing)))),
            Err(failure) => refuse(rq, &directory, &failure),
        };
    }
    let listing = match read(&directory).await {
        Ok(listing) => listing,
        Err(Stopped::Failed(failure)) => return refuse(rq, &directory, &failure),
        Err(Stopped::TooLarge) => {
            let directory = String::from_utf8_lossy(&directory);
            request_error(rq, format_args!("\"{directory}\" has too many files to list them now"));
            return Flow::status(503);
        }
    };
    let conf = &rq.loc().autoindex;
    let style = Style { exact_size: *conf.exact_size, localtime: *conf.localtime };
    let page = Page::new(format, style, rq.uri.clone(), callback.clone(), rq.charset_cell(), listing);
    Flow::respond(respond(format, &callback, Body::Stream(Box::new(page))))
}

/// The directory of a path that ends with a slash, as nginx names it.
pub fn directory_of(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").filter(|d| !d.is_empty()).unwrap_or(path)
}

fn respond(format: Format, callback: &[u8], body: Body) -> Response {
    let kind: &[u8] = match format {
        Format::Html => b"text/html",
        Format::Xml => b"text/xml; charset=utf-8",
        Format::Jsonp if !callback.is_empty() => b"application/javascript",
        Format::Json | Format::Jsonp => b"application/json",
    };
    Response { content_type: Some(Bytes::from_static(kind)), body, ..Response::new(200) }
}

/// The body of an answer to HEAD, whose length is not known.
struct Nothing;

impl crate::http::body::BodyStream for Nothing {
    fn poll_next(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, crate::http::body::BodyError>>> {
        std::task::Poll::Ready(None)
    }
}

/// The function that the list is given to, by the request's `callback`; empty where there is none.
fn callback(rq: &Request) -> Result<Bytes, ()> {
    const LONGEST: usize = 128;
    let Some(name) = uri::arg(&rq.args, b"callback") else { return Ok(Bytes::new()) };
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let what = match name {
        name if name.len() > LONGEST => "too long",
        name if !name.iter().all(plain) => "invalid",
        name => return Ok(Bytes::copy_from_slice(name)),
    };
    let name = String::from_utf8_lossy(name);
    request_log(rq, Level::Info, format_args!("client sent {what} callback name: \"{name}\""));
    Err(())
}

/// The answer where a directory cannot be read (ngx_http_autoindex_handler).
pub fn refuse(rq: &Request, directory: &[u8], failure: &Failure) -> Flow {
    let (level, status) = match failure {
        f if f.is_missing() => (Level::Error, 404),
        f if f.is_forbidden() => (Level::Error, 403),
        _ => (Level::Crit, 500),
    };
    let (directory, error) = (String::from_utf8_lossy(directory), os_error(&failure.error()));
    request_log(rq, level, format_args!("{} \"{directory}\" failed ({error})", failure.call));
    Flow::status(status)
}
