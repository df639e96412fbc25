//! `proxy_store`: whole answers of upstreams become files, as a mirror keeps them.
//!
//! The body goes into a file below `proxy_temp_path` as it comes; the client is served from there, at
//! its own pace, and may leave. When the body is whole the file takes its name, and only then does the
//! client get the last of it: who has an answer finds the file.

use crate::cache::file_body::FileBody;
use crate::cache::fill::Home;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::edge::worker::Worker;
use crate::edge::{Edge, Local};
use crate::http::Request;
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::date;
use crate::http::head::Method;
use crate::http::rename::{Log, Rename};
use crate::http::response::Fields;
use crate::http::temp_file::{Keep, TempFile, TempPath};
use crate::http::template::Template;
use crate::modules::{core, dav, proxy_cache, static_files};
use crate::observe::error_log::Level;
use crate::observe::families::Families;
use crate::observe::request_error;
use crate::upstream::{About, Answer};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::{File, FileTimes, Permissions};
use std::io::Error;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Answers by what became of them: stored; not stored, for the file or its name could not be had; broken off.
static STORED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn count(result: usize) {
    STORED[result].fetch_add(1, Ordering::Relaxed);
}

/// Adds the counters of what was stored.
pub fn metrics(_: &Edge, out: &mut Families) {
    for (result, counter) in ["stored", "failed", "aborted"].iter().zip(&STORED) {
        let help = "Answers that proxy_store was to make files of, by what became of them.";
        let value = counter.load(Ordering::Relaxed);
        out.counter("edgewater_proxy_store_total", help, &[("result", result)], value);
    }
}

/// Bytes that are written to the file at once, unless there are no more at hand.
const CHUNK: usize = 64 * 1024;

/// Where the files go.
#[derive(Debug)]
pub enum Place {
    /// `on`: where `root` or `alias` has them.
    Mapped,
    /// Under this name.
    Named(Template),
}

/// What a level does with answers; the two exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// `proxy_store`
    Files,
    /// `proxy_cache`
    Cache,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("proxy_store", proxy_store, "whether, and where, whole answers become files"),
    Command::works(
        "proxy_store_access",
        |b, d| {
            let access = dav::access(d)?;
            b.loc().proxy.store_access.set(access)
        },
        "permissions of the files that answers become",
    ),
    Command::works(
        "proxy_temp_path",
        |b, d| {
            let path = core::temp_path(b, d)?;
            b.loc().proxy.temp_path.set(Arc::new(path))
        },
        "where answers are that are on their way into files",
    ),
];

fn proxy_store(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let place = match d.arg(0) {
        "off" => return b.loc().proxy.store.set(None),
        "on" => Place::Mapped,
        name => Place::Named(b.template(name)?),
    };
    b.loc().proxy.store.set(Some(Arc::new(place)))?;
    choose(b, Keeps::Files)
}

/// Says what this level does with answers.
pub fn choose(b: &mut Builder, keeps: Keeps) -> ConfResult<()> {
    let other = match b.loc().proxy.keeps.replace(keeps) {
        Some(before) if before != keeps => before,
        _ => return Ok(()),
    };
    let other = if other == Keeps::Files { "proxy_store" } else { "proxy_cache" };
    Err(ConfError::new(format!("\"{{}}\" directive is incompatible with \"{other}\"")))
}

/// Of a cache and files, what the nearest level names holds (ngx_http_proxy_merge_loc_conf).
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    for id in 0..b.levels.len() {
        let outer = b.levels[id].outer.and_then(|outer| *b.levels[outer].conf.proxy.keeps);
        let conf = &mut b.levels[id].conf;
        conf.proxy.keeps.0 = conf.proxy.keeps.or(outer);
        match *conf.proxy.keeps {
            Some(Keeps::Files) if conf.proxy_cache.zone.is_some() => conf.proxy_cache.zone.replace(None),
            Some(Keeps::Cache) if conf.proxy.store.is_some() => conf.proxy.store.replace(None),
            _ => {}
        }
    }
    Ok(())
}

/// Has the answer kept as a file, where that is asked for and it is one to be kept. Its body comes
/// from that file from then on, and the upstream is read to its end though the client leaves.
///
/// Not so with HEAD, for which nginx stores an empty file when the upstream gives no length: it would
/// take the place of the whole one.
pub async fn keep(rq: &mut Request, answer: &mut Answer) {
    let redirect = answer.fields.get("x-accel-redirect").is_some();
    let elsewhere = redirect && !proxy_cache::ignores(rq, "x-accel-redirect");
    let wanted = answer.status == 200 && rq.method != Method::Head && answer.tunnel.is_none();
    if !wanted || elsewhere || !is_buffered(rq, &answer.fields) {
        return;
    }
    // The name may be made of them.
    rq.upstream_fields = Some(Arc::new(answer.fields.clone()));
    let Some(job) = job(rq, answer) else { return };
    let body = std::mem::take(&mut answer.body);
    if answer.length == Some(0) {
        // With its head the client has all of it.
        place(&job, None).await;
    } else {
        answer.body = job.start(body);
    }
}

fn job(rq: &Request, answer: &Answer) -> Option<Job> {
    let conf = &rq.loc().proxy;
    let to = target(rq, conf.store.as_ref()?)?;
    Some(Job {
        to,
        access: *conf.store_access,
        modified: answer.fields.get("last-modified").and_then(|time| date::parse_http_date(time)),
        length: answer.length,
        temp: (*conf.temp_path).clone(),
        local: rq.local.clone(),
        level: rq.level,
        about: About::of(rq),
        url: url(rq, answer),
    })
}

/// Whether an answer is gathered before it is sent on. What is not is not kept either, and has no rate.
pub(super) fn is_buffered(rq: &Request, fields: &Fields) -> bool {
    let told = fields.get("x-accel-buffering").filter(|_| !proxy_cache::ignores(rq, "x-accel-buffering"));
    match told {
        Some(how) if how.eq_ignore_ascii_case(b"no") => false,
        Some(how) if how.eq_ignore_ascii_case(b"yes") => true,
        _ => *rq.loc().proxy.buffering,
    }
}

/// The file's name; `None` when there is none that may be written to, which is told.
fn target(rq: &Request, place: &Place) -> Option<PathBuf> {
    let path = match place {
        Place::Mapped => static_files::map(rq)?.path,
        Place::Named(name) => {
            let path = name.eval(rq);
            // What a client says may be part of the name, and is not to lead out of it.
            if path.contains(&0) || steps_up(&path) > steps_up(name.source.as_bytes()) {
                let shown = String::from_utf8_lossy(&path);
                request_error(rq, format_args!("unsafe path \"{shown}\" of proxy_store was detected"));
                return None;
            }
            path.to_vec()
        }
    };
    Some(OsString::from_vec(path).into())
}

/// How often a path leads to the directory above.
fn steps_up(path: &[u8]) -> usize {
    path.split(|b| *b == b'/').filter(|segment| *segment == b"..").count()
}

/// What was asked for upstream, for the error log.
fn url(rq: &Request, answer: &Answer) -> String {
    let Some(target) = &rq.proxy_target else { return String::new() };
    let scheme = if target.tls { "https" } else { "http" };
    let peer = answer.attempts.last().map_or("", |attempt| &attempt.peer);
    format!("{scheme}://{peer}{}", String::from_utf8_lossy(&target.uri))
}

/// What is to become of an answer, and what is told when it does not.
struct Job {
    to: PathBuf,
    access: u32,
    modified: Option<u64>,
    length: Option<u64>,
    temp: Arc<TempPath>,
    local: Arc<Local>,
    level: usize,
    about: About,
    url: String,
}

impl Job {
    /// Starts to receive the body, whoever reads it; the body for the client.
    fn start(self, body: Body) -> Body {
        let shared = Arc::new(Shared::default());
        let storing = Storing { held: Held::new(self.local.worker.clone()), shared: shared.clone() };
        tokio::spawn(storing.run(self, body));
        Body::Stream(Box::new(Stored { shared, at: 0, part: None }))
    }

    fn log(&self, level: Level, message: std::fmt::Arguments<'_>) {
        self.about.log(&self.local, self.level, level, message, format_args!("{}", self.url));
    }
}

/// A worker that ends gracefully does so when this has gone.
struct Held(Arc<Worker>);

impl Held {
    fn new(worker: Arc<Worker>) -> Held {
        worker.hold();
        Held(worker)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// What the file's writer and its reader share.
#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    file: Option<Arc<File>>,
    /// Bytes that may be read.
    readable: u64,
    /// That there are no more, or why not.
    end: Option<Result<(), BodyError>>,
    reader: Option<Waker>,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// Receives a body. However it ends, the reader is told.
struct Storing {
    shared: Arc<Shared>,
    #[allow(dead_code, reason = "held for as long as the file grows")]
    held: Held,
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.end.get_or_insert_with(|| Err(BodyError::Upstream("the answer was interrupted".into())));
        });
    }
}

impl Storing {
    async fn run(self, job: Job, body: Body) {
        let ended = match self.receive(&job, Chunks { body, broken: None }).await {
            Ok((file, length)) => {
                place(&job, file).await;
                Ok(length)
            }
            Err(error) => {
                count(2);
                Err(error)
            }
        };
        // The reader tells of what it reads; when it has gone, nobody else would.
        if let Err(error) = &ended
            && Arc::strong_count(&self.shared) == 1
        {
            job.log(Level::Error, format_args!("{error}"));
        }
        self.shared.change(|state| {
            state.end = Some(ended.map(|length| state.readable = length));
        });
    }

    /// Writes the body into a file as it comes. The file, where there is one, and the bytes in it.
    async fn receive(&self, job: &Job, mut body: Chunks) -> Result<(Option<Arc<TempFile>>, u64), BodyError> {
        let mut temp = None;
        let mut written = 0;
        while let Some(chunk) = body.next().await? {
            let bytes = chunk.len() as u64;
            let file = match &temp {
                Some(file) => Arc::clone(file),
                None => {
                    let made = create(job).await.map_err(BodyError::File)?;
                    let handle = made.file().try_clone().map_err(BodyError::File)?;
                    self.shared.0.lock().file = Some(Arc::new(handle));
                    temp.insert(Arc::new(made)).clone()
                }
            };
            let at = written;
            let write = tokio::task::spawn_blocking(move || file.file().write_all_at(&chunk, at));
            if let Err(e) = write.await.map_err(Error::other).and_then(|done| done) {
                job.log(Level::Crit, format_args!("pwrite() failed ({})", crate::conf::values::os_error(&e)));
                return Err(BodyError::File(e));
            }
            written += bytes;
            // The last of a body waits until the file has its name.
            if job.length.is_none_or(|length| written < length) {
                self.shared.change(|state| state.readable = written);
            }
        }
        match job.length {
            Some(length) if length != written => Err(BodyError::Upstream(
                "upstream prematurely closed connection while reading upstream".into(),
            )),
            _ => Ok((temp, written)),
        }
    }
}

/// A body, taken in chunks.
struct Chunks {
    body: Body,
    /// Why there are no more, when that came with the last chunk.
    broken: Option<BodyError>,
}

impl Chunks {
    /// The pieces that are at hand, up to a bound; waits when there are none. `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let Some(first) = self.body.next().await.transpose()? else { return Ok(None) };
        if first.len() >= CHUNK {
            return Ok(Some(first));
        }
        let mut chunk = BytesMut::from(&first[..]);
        while chunk.len() < CHUNK {
            match std::future::poll_fn(|cx| Poll::Ready(self.body.poll_next(cx))).await {
                Poll::Ready(Some(Ok(piece))) => chunk.extend_from_slice(&piece),
                Poll::Ready(Some(Err(error))) => {
                    self.broken = Some(error);
                    break;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(Some(chunk.freeze()))
    }
}

async fn create(job: &Job) -> std::io::Result<TempFile> {
    let temp = job.temp.clone();
    let made = tokio::task::spawn_blocking(move || temp.create(Keep::WhileUsed, 0o600)).await;
    made.map_err(Error::other).and_then(|made| made).inspect_err(|e| {
        let (directory, cause) = (job.temp.directory.display(), crate::conf::values::os_error(e));
        job.log(Level::Crit, format_args!("open() of a file below \"{directory}\" failed ({cause})"));
    })
}

/// Gives the whole file its name; without one, an empty file. What fails is told: the client has
/// its answer all the same.
async fn place(job: &Job, file: Option<Arc<TempFile>>) {
    let file = match file {
        Some(file) => file,
        None => match create(job).await {
            Ok(file) => Arc::new(file),
            Err(_) => return count(1),
        },
    };
    let (to, access, modified) = (job.to.clone(), job.access, job.modified);
    let done = tokio::task::spawn_blocking(move || {
        let mut log = Log::default();
        let done = rename(&file, &to, access, modified, &mut log);
        (done, log)
    });
    // It is not to be had only when the process ends.
    let Ok((done, log)) = done.await else { return };
    count(usize::from(!done));
    for told in log.told {
        job.log(told.level, format_args!("{} while reading upstream", told.text));
    }
    crate::cache::files::doubt();
}

/// ngx_http_upstream_store
fn rename(file: &TempFile, to: &Path, access: u32, modified: Option<u64>, log: &mut Log) -> bool {
    let mut failed = |call: &str, path: &Path, e: &Error| {
        log.failed(Level::Crit, call, path, e);
        false
    };
    if to.as_os_str().is_empty() {
        let missing = Error::from_raw_os_error(libc::ENOENT);
        return failed("mkdir()", to, &missing);
    }
    if let Err(e) = file.file().set_permissions(Permissions::from_mode(access)) {
        return failed("chmod()", file.path(), &e);
    }
    let time: Option<SystemTime> = modified.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    if let Some(time) = time
        && let Err(e) = file.file().set_times(FileTimes::new().set_accessed(time).set_modified(time))
    {
        return failed("utimes()", file.path(), &e);
    }
    Rename { access: Some(access), path_access: access, time, make_path: true }.run(file.path(), to, log)
}

/// The client's body: what is in the file so far, as it grows.
struct Stored {
    shared: Arc<Shared>,
    at: u64,
    part: Option<FileBody>,
}

impl BodyStream for Stored {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(part) = &mut self.part {
                match ready!(part.poll_next(cx)) {
                    Some(Ok(piece)) => {
                        self.at += piece.len() as u64;
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    Some(error) => return Poll::Ready(Some(error)),
                    None => self.part = None,
                }
            }
            let mut state = self.shared.0.lock();
            match (&state.file, &state.end) {
                (Some(file), _) if state.readable > self.at => {
                    self.part = Some(FileBody::new(file.clone(), self.at..state.readable));
                }
                (_, None) => {
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                (_, Some(Ok(()))) => return Poll::Ready(None),
                (_, Some(Err(_))) => {
                    // It is told once; nobody reads on after it.
                    let told = Err(BodyError::Upstream("the answer was interrupted".into()));
                    let error = state.end.replace(told).and_then(Result::err);
                    return Poll::Ready(error.map(Err));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_up_as_often_as_it_says() {
        assert_eq!(steps_up(b"/a/../b/.."), 2);
        assert_eq!(steps_up(b"/a..b/.../c"), 0);
        assert_eq!(steps_up(b".."), 1);
    }
}
