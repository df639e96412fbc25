//! nginx's dav module: PUT, DELETE, MKCOL, COPY and MOVE of files.
//!
//! What a request asks for is read here; the files are changed in [`disk`], on a thread that may
//! wait for them. An upload goes to a file below `client_body_temp_path` as it comes and takes its
//! name when it is whole, so that nobody ever sees a part of it.

mod disk;

use super::core::Alias;
use super::proxy::respond::is_unsafe;
use super::static_files::map;
use crate::conf::values::{flag, number_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::date;
use crate::http::phases::{Call, Deciding, Flow, Handler, Phase};
use crate::http::rename::Told;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::uri::{Escape, escape, unescape};
use crate::observe::error_log::Level;
use crate::observe::{request_error, request_log};
use crate::settings;
use crate::upstream::spool;
use bytes::Bytes;
use disk::Job;
use tokio::sync::Semaphore;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// The methods that are answered here.
        inherit methods: u8 = 0,
        /// Whether PUT makes the directories on the way.
        inherit create_full_put_path: bool = false,
        /// Slashes a URI must have at least before what DELETE removes.
        inherit min_delete_depth: u64 = 0,
        /// Permissions of new files; directories are searchable by whoever may read them.
        inherit access: u32 = 0o600,
    }
}

const METHODS: [(&str, u8); 5] = [("PUT", 1), ("DELETE", 2), ("MKCOL", 4), ("COPY", 8), ("MOVE", 16)];

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("dav_methods", dav_methods, "the methods that change files"),
    Command::works(
        "create_full_put_path",
        |b, d| {
            let v = flag(d)?;
            b.loc().dav.create_full_put_path.set(v)
        },
        "whether PUT makes directories",
    ),
    Command::works(
        "min_delete_depth",
        |b, d| {
            let v = number_arg(d, 0)?;
            b.loc().dav.min_delete_depth.set(v)
        },
        "slashes before what DELETE may remove",
    ),
    Command::works("dav_access", dav_access, "permissions of new files and directories"),
];

fn dav_methods(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    // Named again at a level, they come to those that were named there before.
    let before = &b.loc().dav.methods;
    let mut methods = if before.is_set() { **before } else { 0 };
    for name in &d.args {
        let bit = match METHODS.iter().find(|(method, _)| name.eq_ignore_ascii_case(method)) {
            Some((_, bit)) => *bit,
            None if name.eq_ignore_ascii_case("off") => 0,
            None => return Err(ConfError::new(format!("invalid value \"{name}\""))),
        };
        if bit != 0 && methods & bit != 0 {
            b.note(crate::conf::NoteLevel::Warn, format!("duplicate value \"{name}\""));
        }
        methods |= bit;
    }
    b.loc().dav.methods.replace(methods);
    Ok(())
}

fn dav_access(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let access = access(d)?;
    b.loc().dav.access.set(access)
}

/// Reads `user:rw group:r all:r`; the owner may read and write in any case (ngx_conf_set_access_slot).
pub fn access(d: &Directive) -> ConfResult<u32> {
    let mut mode = 0o600;
    for arg in &d.args {
        let invalid = || ConfError::new(format!("invalid value \"{arg}\""));
        let (who, what) = arg.split_once(':').ok_or_else(invalid)?;
        let shift = match who {
            "user" => 6,
            "group" => 3,
            "all" => 0,
            _ => return Err(invalid()),
        };
        mode |= match what {
            "rw" => 6 << shift,
            "r" => 4 << shift,
            _ => return Err(invalid()),
        };
    }
    Ok(mode)
}

/// Answers in place of files where methods are named.
pub const HANDLER: Handler = Handler {
    phase: Phase::Content,
    wants: |loc| *loc.dav.methods != 0,
    call: Call::Later(handle),
    pure: true,
    gate: None,
};

fn handle(rq: &mut Request) -> Deciding<'_> {
    let bit = METHODS.iter().find(|(name, _)| name.as_bytes() == rq.method_name()).map_or(0, |(_, bit)| *bit);
    if *rq.loc().dav.methods & bit == 0 {
        return Box::pin(std::future::ready(Flow::Continue));
    }
    Box::pin(async move {
        let asked = match rq.method_name() {
            b"PUT" => return put(rq).await,
            b"DELETE" => delete(rq),
            b"MKCOL" => mkcol(rq),
            _ => copy_or_move(rq),
        };
        match asked {
            Ok(job) => run(rq, job).await.0,
            Err(status) => Flow::status(status),
        }
    })
}

async fn put(rq: &mut Request) -> Flow {
    if rq.uri.ends_with(b"/") {
        request_error(rq, format_args!("cannot PUT to a collection"));
        return Flow::status(409);
    }
    if rq.head.get("content-range").is_some() {
        request_error(rq, format_args!("PUT with range is unsupported"));
        return Flow::status(501);
    }
    let file = match spool::read_to_file(rq).await {
        Ok(Some(file)) => file,
        Ok(None) => {
            request_error(rq, format_args!("PUT request body must be in a file"));
            return Flow::status(500);
        }
        Err(error) => return spool::refuse(rq, error),
    };
    let Some(to) = map(rq) else { return Flow::status(500) };
    let conf = &rq.loc().dav;
    let job = Job::Put {
        file,
        to: to.path,
        access: *conf.access,
        make_path: *conf.create_full_put_path,
        modified: rq.head.get("date").and_then(date::parse_http_date),
    };
    let (flow, status) = run(rq, job).await;
    // The name is the file's now; a second look at the body would not find it.
    rq.spooled = None;
    match status {
        201 => {
            let mut response = Response::new(201);
            response.length = Some(0);
            response.fields.add_static("Location", location(&rq.uri));
            Flow::respond(response)
        }
        204 => Flow::respond(Response::new(204)),
        _ => flow,
    }
}

/// How many requests change files at once: a part of a worker's threads that may wait, so that trees that take long
/// to copy leave some to files that are only read.
static AT_ONCE: Semaphore = Semaphore::const_new(16);

/// Does what was asked, on a thread that may wait; the answer and its status.
async fn run(rq: &mut Request, job: Job) -> (Flow, u16) {
    let made = matches!(job, Job::MakeDirectory { .. });
    // It is never closed.
    let Ok(permit) = AT_ONCE.acquire().await else { return (Flow::status(500), 500) };
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        job.run()
    });
    let Ok(done) = done.await else { return (Flow::status(500), 500) };
    for Told { level, text } in &done.told {
        request_log(rq, *level, format_args!("{text}"));
    }
    if done.untold > 0 {
        let more = done.untold;
        request_log(rq, Level::Error, format_args!("{more} more failures of this request are not told"));
    }
    crate::cache::files::doubt();
    let mut response = Response::new(done.status);
    if made && done.status == 201 {
        response.fields.add_static("Location", location(&rq.uri));
    }
    (Flow::special(response), done.status)
}

fn location(uri: &[u8]) -> Bytes {
    escape(uri, Escape::Uri).into()
}

/// Refuses a body where none is understood.
fn no_body(rq: &Request, what: &str) -> Result<(), u16> {
    if rq.has_body {
        request_error(rq, format_args!("{what} unsupported"));
        return Err(415);
    }
    Ok(())
}

fn delete(rq: &Request) -> Result<Job, u16> {
    no_body(rq, "DELETE with body is")?;
    let least = *rq.loc().dav.min_delete_depth;
    if least > 0 {
        // A slash at the end is not before anything.
        let slashes = rq.uri.iter().filter(|b| **b == b'/').count() as u64;
        let deep = rq.uri[..rq.uri.len().saturating_sub(1)].iter().filter(|b| **b == b'/').count() as u64;
        if deep < least {
            request_error(rq, format_args!("insufficient URI depth:{slashes} to DELETE"));
            return Err(409);
        }
    }
    let path = map(rq).ok_or(500u16)?.path;
    Ok(Job::Delete { path, collection: rq.uri.ends_with(b"/"), depth: Depth::of(rq) })
}

fn mkcol(rq: &Request) -> Result<Job, u16> {
    no_body(rq, "MKCOL with body is")?;
    if !rq.uri.ends_with(b"/") {
        request_error(rq, format_args!("MKCOL can create a collection only"));
        return Err(409);
    }
    let mut path = map(rq).ok_or(500u16)?.path;
    path.pop();
    Ok(Job::MakeDirectory { path, access: *rq.loc().dav.access })
}

fn copy_or_move(rq: &mut Request) -> Result<Job, u16> {
    no_body(rq, "COPY and MOVE with body are")?;
    let Some(field) = rq.head.get("destination").map(Bytes::copy_from_slice) else {
        request_error(rq, format_args!("client sent no \"Destination\" header"));
        return Err(400);
    };
    let shown = String::from_utf8_lossy(&field).into_owned();
    let target = destination(rq, &field)?;
    let end = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    let uri = unescape(&target[..end]);
    if is_unsafe(&uri) {
        let uri = String::from_utf8_lossy(&uri);
        request_error(rq, format_args!("unsafe URI \"{uri}\" was detected"));
        request_error(rq, format_args!("client sent invalid \"Destination\" header: \"{shown}\""));
        return Err(400);
    }
    if !stays_below(rq.loc().core.root.alias, &uri) {
        request_error(rq, format_args!("client sent invalid \"Destination\" header: \"{shown}\""));
        return Err(400);
    }
    if rq.uri.ends_with(b"/") != target.ends_with(b"/") {
        let (from, to) = (String::from_utf8_lossy(&rq.uri), String::from_utf8_lossy(&uri));
        request_error(
            rq,
            format_args!(
                "both URI \"{from}\" and \"Destination\" URI \"{to}\" should be either collections or non-collections"
            ),
        );
        return Err(409);
    }
    let moves = rq.method_name() == b"MOVE";
    let refusal = Depth::of(rq).refusal(!moves);
    for text in &refusal {
        request_error(rq, format_args!("{text}"));
    }
    if !refusal.is_empty() {
        return Err(400);
    }
    let overwrite = match rq.head.get("overwrite") {
        None | Some(b"T" | b"t") => true,
        Some(b"F" | b"f") => false,
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            request_error(rq, format_args!("client sent invalid \"Overwrite\" header: \"{other}\""));
            return Err(400);
        }
    };
    let from = map(rq).ok_or(500u16)?.path;
    let source = std::mem::replace(&mut rq.uri, uri.into());
    let to = map(rq);
    rq.uri = source;
    Ok(Job::Transfer(disk::Transfer {
        moves,
        overwrite,
        from,
        to: to.ok_or(500u16)?.path,
        uri: String::from_utf8_lossy(&rq.uri).into_owned(),
        method: String::from_utf8_lossy(rq.method_name()).into_owned(),
        destination: shown,
        access: *rq.loc().dav.access,
    }))
}

/// Whether a URI of another location than the one in force leads below its `alias`, which replaces as many bytes
/// as the location's name has: what they leave of a name that ends in dots may be the way up (`/abcd../x`).
fn stays_below(alias: Option<Alias>, uri: &[u8]) -> bool {
    let Some(Alias::Prefix(length)) = alias else { return true };
    uri.get(length..).is_some_and(|rest| rest.split(|b| *b == b'/').all(|segment| segment != b".."))
}

/// The path and query that `Destination` names on this server.
fn destination(rq: &Request, field: &[u8]) -> Result<Vec<u8>, u16> {
    if field.starts_with(b"/") {
        return Ok(field.to_vec());
    }
    let shown = String::from_utf8_lossy(field);
    let scheme: &[u8] = if rq.conn.tls.is_some() { b"https://" } else { b"http://" };
    let invalid = || {
        request_error(rq, format_args!("client sent invalid \"Destination\" header: \"{shown}\""));
        400
    };
    if rq.host.is_empty() {
        return Err(invalid());
    }
    let authority = field.strip_prefix(scheme).ok_or_else(invalid)?;
    let Some(rest) = authority.strip_prefix(&rq.host[..]) else {
        request_error(
            rq,
            format_args!(
                "\"Destination\" URI \"{shown}\" is handled by different repository than the source URI"
            ),
        );
        return Err(400);
    };
    let slash = memchr::memchr(b'/', rest).ok_or_else(invalid)?;
    Ok(rest[slash..].to_vec())
}

/// `Depth`
#[derive(Clone, Debug, PartialEq, Eq)]
enum Depth {
    /// The client sent none.
    Absent,
    Zero,
    One,
    Infinity,
    /// What the client sent in its place.
    Invalid(String),
}

impl Depth {
    fn of(rq: &Request) -> Depth {
        match rq.head.get("depth") {
            None => Depth::Absent,
            Some(b"0") => Depth::Zero,
            Some(b"1") => Depth::One,
            Some(b"infinity") => Depth::Infinity,
            Some(other) => Depth::Invalid(String::from_utf8_lossy(other).into_owned()),
        }
    }

    /// Why this depth is refused where all of something is meant, or, `zero`, it alone; nothing when
    /// it is not.
    fn refusal(&self, zero: bool) -> Vec<String> {
        let must = if zero { "0 or infinity" } else { "infinity" };
        let must = format!("\"Depth\" header must be {must}");
        match self {
            Depth::Absent | Depth::Infinity => Vec::new(),
            Depth::Zero if zero => Vec::new(),
            Depth::Zero | Depth::One => vec![must],
            Depth::Invalid(text) => vec![format!("client sent invalid \"Depth\" header: \"{text}\""), must],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AT_ONCE;
    use crate::observe::testing::Running;

    #[test]
    fn a_change_waits_for_its_turn_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "text").unwrap();
        let root = dir.path().display();
        let running = Running::start(&format!("server {{ listen LISTEN; root {root}; dav_methods MKCOL; }}"));
        let all = AT_ONCE.try_acquire_many(16).unwrap();
        let answer = std::thread::scope(|scope| {
            let make = scope.spawn(|| running.send("MKCOL /made/ HTTP/1.0\r\n\r\n"));
            // By then it would have been made.
            for _ in 0..20 {
                assert!(running.get("/file", "").ends_with("text"));
            }
            assert!(!dir.path().join("made").exists());
            drop(all);
            make.join().unwrap()
        });
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
}
