//! nginx's static module: files as answers. `gzip_static` is here too: a file's compressed
//! neighbour in its place.

use super::core::Alias;
use super::{compress, gzip};
use crate::cache::file_body::FileBody;
use crate::cache::file_io::{Failure, Stop};
use crate::cache::files::{self, Content, Found, Kind, Policy, Stat, Want, find, find_now};
use crate::cache::links::Links;
use crate::conf::values::{one_of, os_error};
use crate::conf::{Builder, Command, ConfResult};
use crate::http::body::Body;
use crate::http::head::Method;
use crate::http::hit::Ready;
use crate::http::phases::{Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::http::response::{Modified, Response};
use crate::http::template::Template;
use crate::http::uri::{Escape, escape};
use crate::modules::LocConf;
use crate::observe::error_log::Level;
use crate::observe::request_log;
use crate::settings;
use bytes::Bytes;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// Whether a file's compressed neighbour is sent in its place.
        inherit gzip_static: Precompressed = Precompressed::Off,
        /// The prefix with a slash, to which a root that comes out relative is joined.
        inherit prefix: Arc<[u8]> = Arc::from(&b""[..]),
    }
}

/// `gzip_static` and its like
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precompressed {
    /// Never.
    Off,
    /// To clients that take it.
    On,
    /// To all.
    Always,
}

impl Precompressed {
    /// The words for them.
    pub const WORDS: [(&str, Precompressed); 3] =
        [("off", Precompressed::Off), ("on", Precompressed::On), ("always", Precompressed::Always)];
}

/// The directives.
pub const COMMANDS: &[Command] = &[Command::works(
    "gzip_static",
    |b, d| {
        let v = one_of(d, &Precompressed::WORDS)?;
        b.loc().static_files.gzip_static.set(v)
    },
    "whether compressed neighbours of files are sent",
)];

/// Answers with files where a location has no handler of its own.
pub const HANDLER: Handler =
    Handler { phase: Phase::Content, wants: |_| true, call: Call::Later(handle), pure: true, gate: None };

/// Joins the prefix to what is relative by default or may come out so.
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    let mut prefix = b.prefix.as_os_str().as_bytes().to_vec();
    if prefix.last() != Some(&b'/') {
        prefix.push(b'/');
    }
    let prefix: Arc<[u8]> = prefix.into();
    let html = b.path("html").to_string_lossy().into_owned();
    for level in &mut b.levels {
        level.conf.static_files.prefix.replace(prefix.clone());
        if !level.conf.core.root.is_set() {
            let root = super::core::Root { path: Template::literal(&html), alias: None };
            level.conf.core.root.replace(root);
        }
    }
    Ok(())
}

/// A request's file: its path, and how many bytes of it are the root.
pub struct Mapped {
    /// The path.
    pub path: Vec<u8>,
    /// Bytes of the root at its beginning.
    pub root: usize,
}

/// The path of the request's file (ngx_http_map_uri_to_path); `None` when a rewrite left a URI that
/// an `alias` cannot be applied to, which is logged.
pub fn map(rq: &Request) -> Option<Mapped> {
    let mut path = Vec::with_capacity(128);
    let root = root_into(rq, &mut path);
    let alias = rq.loc().core.root.alias;
    let within = |length: usize| rq.valid_location && length <= rq.uri.len();
    match alias {
        Some(Alias::Prefix(length)) if within(length) => path.extend_from_slice(&rq.uri[length..]),
        None => path.extend_from_slice(&rq.uri),
        // The captures have said it all, unless `try_files` found something below it.
        Some(Alias::Whole) if rq.uri_below_alias && rq.valid_location => path.extend_from_slice(&rq.uri),
        Some(Alias::Whole) if rq.valid_location => {}
        Some(_) => {
            let name = String::from_utf8_lossy(&rq.loc().core.name);
            let why = "where URI was rewritten";
            request_log(
                rq,
                Level::Alert,
                format_args!("\"alias\" cannot be used in location \"{name}\" {why}"),
            );
            return None;
        }
    }
    Some(Mapped { path, root })
}

/// Appends the root in force; its length.
fn root_into(rq: &Request, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    // `root /` is an empty text before the URI's own slash; only a variable can come out relative.
    let root = &rq.loc().core.root.path;
    root.eval_into(rq, out);
    if out.get(start) != Some(&b'/') && !root.is_empty() {
        out.splice(start..start, rq.loc().static_files.prefix.iter().copied());
    }
    out.len() - start
}

/// Appends the file's name for the request (`$request_filename`).
pub fn file_name(rq: &Request, out: &mut Vec<u8>) -> bool {
    match map(rq) {
        Some(mapped) => {
            out.extend_from_slice(&mapped.path);
            true
        }
        None => false,
    }
}

/// Appends the root in force (`$document_root`).
pub fn document_root(rq: &Request, out: &mut Vec<u8>) -> bool {
    root_into(rq, out);
    true
}

/// Finds what a path stands for, by the location's open-file cache if it has one.
pub async fn look(rq: &mut Request, path: &[u8], want: Want) -> Result<Found, Failure> {
    // By a handle of our own: a request may not be shared while something is waited for.
    let local = rq.local.clone();
    let core = &local.generation.http.levels[rq.level].conf.core;
    if let Some(links) = links(rq, core, path) {
        let path = path.to_vec();
        // Not by the cache: what it holds was opened by way of any link.
        let opening = tokio::task::spawn_blocking(move || crate::cache::links::load(&path, want, links));
        let ended = |_| Err(Failure::of("open()", rustix::io::Errno::CANCELED));
        return opening.await.unwrap_or_else(ended);
    }
    find(core.open_file_cache.as_ref(), policy(core), path, want).await
}

/// Which links in a path are not followed; `None` when all are (ngx_http_set_disable_symlinks).
fn links(rq: &Request, core: &super::core::Loc, path: &[u8]) -> Option<Links> {
    let conf = core.disable_symlinks.as_ref()?;
    let from = conf.from.as_ref().map(|from| from.eval(rq)).unwrap_or_default();
    let from = match path.strip_prefix(&from[..]) {
        _ if from.is_empty() => 0,
        Some([]) => return None,
        Some([b'/', ..]) => from.len(),
        Some(_) if from.ends_with(b"/") => from.len() - 1,
        _ => 0,
    };
    Some(Links { same_owner: conf.same_owner, from })
}

fn policy(core: &super::core::Loc) -> Policy {
    Policy {
        valid: *core.open_file_cache_valid,
        min_uses: u32::try_from(*core.open_file_cache_min_uses).unwrap_or(u32::MAX),
        errors: *core.open_file_cache_errors,
    }
}

/// Logs that a call failed for a file, in nginx's words.
pub fn log_failure(rq: &Request, level: Level, path: &[u8], failure: &Failure) {
    let (path, error) = (String::from_utf8_lossy(path), os_error(&failure.error()));
    request_log(rq, level, format_args!("{} \"{path}\" failed ({error})", failure.call));
}

fn handle(rq: &mut Request) -> Deciding<'_> {
    match at_hand(rq) {
        Some(flow) => Box::pin(std::future::ready(flow)),
        None => Box::pin(serve(rq)),
    }
}

/// The answer when it can be had without waiting, which is so for nearly every file that is asked
/// for often; `None` for everything that is not so plain.
pub fn at_hand(rq: &mut Request) -> Option<Flow> {
    let plain = rq.method == Method::Get
        && !rq.uri.ends_with(b"/")
        && NEIGHBOURS.iter().all(|n| (n.mode)(rq.loc()) == Precompressed::Off);
    if !plain {
        return None;
    }
    let core = &rq.loc().core;
    if core.disable_symlinks.is_some() {
        return None;
    }
    let Some(Mapped { path, .. }) = map(rq) else { return Some(Flow::status(500)) };
    let found = find_now(core.open_file_cache.as_ref(), policy(core), &path, Want::Content);
    match found {
        Ok(found) => {
            rq.ready = Some(ready(rq, &path, &found));
            Some(deliver(rq, &path, found))
        }
        Err(Stop::Failed(failure)) => Some(missing(rq, &path, &failure)),
        Err(Stop::WouldWait) => None,
    }
}

/// Where the answer comes from, for the hit path.
fn ready(rq: &Request, path: &[u8], found: &Found) -> Ready {
    match &found.content {
        Content::Bytes(bytes) if rq.watch.is_on() => Ready::File {
            path: path.into(),
            modified: found.stat.mtime(),
            size: found.stat.size,
            place: bytes.as_ptr() as usize,
        },
        _ => Ready::Unwatched,
    }
}

/// The bytes of the file at a path, by the location's open-file cache if it has one; `None` where it is not the same
/// small file, changed `modified` and of `size` bytes, or would have to be waited for.
pub fn bytes_now(conf: &LocConf, path: &[u8], modified: u64, size: u64) -> Option<Bytes> {
    let same = |stat: &Stat| stat.mtime() == modified && stat.size == size;
    let bytes = files::bytes_now(conf.core.open_file_cache.as_ref(), policy(&conf.core), path, same)?;
    (bytes.len() as u64 == size).then_some(bytes)
}

async fn serve(rq: &mut Request) -> Flow {
    // What is tried one after the other may be another thing the next time.
    rq.watch.spoil();
    if !matches!(rq.method, Method::Get | Method::Head | Method::Post) {
        return Flow::status(405);
    }
    let Some(Mapped { path, .. }) = map(rq) else { return Flow::status(500) };
    if rq.uri.ends_with(b"/") {
        // The index module had its turn.
        let path = String::from_utf8_lossy(&path);
        request_log(rq, Level::Error, format_args!("directory index of \"{path}\" is forbidden"));
        return Flow::status(403);
    }
    let want = if rq.method == Method::Get { Want::Content } else { Want::Open };
    let mut vary = false;
    if rq.method != Method::Post {
        for neighbour in &NEIGHBOURS {
            match compressed(rq, &path, want, neighbour).await {
                Compressed::Answer(Flow::Respond(mut response)) => {
                    response.vary |= vary;
                    return Flow::Respond(response);
                }
                Compressed::Answer(flow) => return flow,
                Compressed::Refused => vary = true,
                Compressed::None => {}
            }
        }
    }
    let mut flow = match look(rq, &path, want).await {
        Ok(found) => deliver(rq, &path, found),
        Err(failure) => missing(rq, &path, &failure),
    };
    if let Flow::Respond(response) | Flow::Special(response) = &mut flow {
        response.vary = vary;
    }
    flow
}

/// The request's file and its path, for a handler that cuts films; what to do where there is none to cut.
#[allow(clippy::result_large_err, reason = "it is the answer, and taken apart at once")]
pub async fn film(rq: &mut Request) -> Result<(Vec<u8>, Found), Flow> {
    if !matches!(rq.method, Method::Get | Method::Head) {
        return Err(Flow::status(405));
    }
    if rq.uri.ends_with(b"/") {
        return Err(Flow::Continue);
    }
    let Some(Mapped { path, .. }) = map(rq) else { return Err(Flow::status(500)) };
    match look(rq, &path, Want::Open).await {
        Ok(found) if found.stat.kind == Kind::File => Ok((path, found)),
        Ok(_) => Err(Flow::Continue),
        Err(failure) => Err(missing(rq, &path, &failure)),
    }
}

/// The answer with what was found.
fn deliver(rq: &Request, path: &[u8], found: Found) -> Flow {
    match found.stat.kind {
        Kind::Directory => add_slash(rq),
        Kind::Other => {
            let path = String::from_utf8_lossy(path);
            request_log(rq, Level::Crit, format_args!("\"{path}\" is not a regular file"));
            Flow::status(404)
        }
        Kind::File if rq.method == Method::Post => Flow::status(405),
        Kind::File => Flow::respond(answer(rq, found)),
    }
}

/// The answer to a failure (ngx_http_static_handler).
pub fn missing(rq: &Request, path: &[u8], failure: &Failure) -> Flow {
    let (level, status) = match failure {
        f if f.is_missing() => (Level::Error, 404),
        f if f.is_forbidden() => (Level::Error, 403),
        _ => (Level::Crit, 500),
    };
    if status != 404 || *rq.loc().core.log_not_found {
        log_failure(rq, level, path, failure);
    }
    Flow::status(status)
}

/// A directory is asked for without its slash.
fn add_slash(rq: &Request) -> Flow {
    let mut location = escape(&rq.uri, Escape::Uri);
    location.push(b'/');
    if !rq.args.is_empty() {
        location.push(b'?');
        location.extend_from_slice(&rq.args);
    }
    Flow::redirect(301, location)
}

/// The answer with a file's content.
pub fn answer(rq: &Request, found: Found) -> Response {
    let size = found.stat.size;
    let mut response = Response::new(200);
    response.content_type = content_type(rq);
    response.length = Some(size);
    response.ranges = true;
    response.last_modified = Some(Modified::At(found.stat.mtime()));
    if *rq.loc().core.etag {
        response.etag = Some(match &found.texts {
            Some(texts) => texts.etag.clone(),
            None => format!("\"{:x}-{size:x}\"", found.stat.mtime()).into(),
        });
    }
    response.body = match found.content {
        Content::Bytes(bytes) => bytes.into(),
        Content::File(file) if size > 0 => Body::Stream(Box::new(FileBody::new(file, 0..size))),
        Content::File(_) | Content::None => Body::Empty,
    };
    response
}

/// The type by the extension of the URI's last part; a name that begins with its only dot has none.
pub fn content_type(rq: &Request) -> Option<Bytes> {
    // An upstream that sent the request here may have said what it is.
    if let Some(carried) = rq.carried.get("content-type") {
        return Some(carried.clone());
    }
    let core = &rq.loc().core;
    let name = &rq.uri[memchr::memrchr(b'/', &rq.uri).map_or(0, |at| at + 1)..];
    let extension = memchr::memrchr(b'.', name).filter(|at| *at > 0).map(|at| &name[at + 1..]);
    let by_extension = extension.and_then(|e| {
        if e.iter().any(u8::is_ascii_uppercase) {
            core.types.get(&e.to_ascii_lowercase())
        } else {
            core.types.get(e)
        }
    });
    let kind = by_extension.unwrap_or(&core.default_type);
    (!kind.is_empty()).then(|| kind.clone())
}

/// What became of a compressed neighbour.
#[allow(clippy::large_enum_variant, reason = "it lives for a moment, on the stack")]
enum Compressed {
    /// It is the answer.
    Answer(Flow),
    /// There is one that this client may not have.
    Refused,
    /// There is none.
    None,
}

/// A kind of compressed neighbour.
struct Neighbour {
    suffix: &'static [u8],
    coding: &'static str,
    mode: fn(&LocConf) -> Precompressed,
}

/// The first that a client takes is sent: the order in which nginx's modules are asked when these of
/// others are loaded.
const NEIGHBOURS: [Neighbour; 3] = [
    Neighbour { suffix: b".zst", coding: "zstd", mode: |loc| *loc.zstd.neighbours },
    Neighbour { suffix: b".br", coding: "br", mode: |loc| *loc.brotli.neighbours },
    Neighbour { suffix: b".gz", coding: "gzip", mode: |loc| *loc.static_files.gzip_static },
];

/// Looks for a file's compressed neighbour (ngx_http_gzip_static_handler).
async fn compressed(rq: &mut Request, path: &[u8], want: Want, neighbour: &Neighbour) -> Compressed {
    let mode = (neighbour.mode)(rq.loc());
    if mode == Precompressed::Off {
        return Compressed::None;
    }
    let always = mode == Precompressed::Always;
    let takes = always
        || match neighbour.coding {
            "gzip" => gzip::client_takes(rq, &Response::new(200)),
            coding => compress::client_takes(rq, coding.as_bytes()),
        };
    if !takes && !*rq.loc().gzip.vary {
        return Compressed::None;
    }
    let path = [path, neighbour.suffix].concat();
    let found = match look(rq, &path, want).await {
        Ok(found) => found,
        Err(failure) => {
            if !failure.is_missing() {
                let level = if failure.is_forbidden() { Level::Error } else { Level::Crit };
                log_failure(rq, level, &path, &failure);
            }
            return Compressed::None;
        }
    };
    if !takes {
        return Compressed::Refused;
    }
    match found.stat.kind {
        Kind::Directory if always => return Compressed::None,
        Kind::Directory => return Compressed::Refused,
        Kind::Other => {
            let path = String::from_utf8_lossy(&path);
            request_log(rq, Level::Crit, format_args!("\"{path}\" is not a regular file"));
            return Compressed::Answer(Flow::status(404));
        }
        Kind::File => {}
    }
    let mut response = answer(rq, found);
    response.fields.add_static("Content-Encoding", Bytes::from_static(neighbour.coding.as_bytes()));
    response.vary = !always;
    response.ranges = false;
    Compressed::Answer(Flow::respond(response))
}
