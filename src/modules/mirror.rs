//! nginx's mirror module: what a client asks is asked elsewhere too, and what comes of it is dropped.
//!
//! A mirror never holds up the request it copies, nor the client's next one: nginx keeps a connection
//! waiting until the mirrors of its last request have ended. In return their number is bounded: beyond
//! [`MOST`] under way in the process a request goes unmirrored, and the error log says so.

use crate::cache::fill::Home;
use crate::conf::values::flag;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::edge::Local;
use crate::http::phases::{self, Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::observe::error_log::Level;
use crate::settings;
use crate::upstream::spool::{self, Spooled};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// The URIs that are asked too. A level that has any has none of the outer level's.
        inherit uris: Vec<Bytes> = Vec::new(),
        /// Whether they get the client's body, for which it is read first.
        inherit request_body: bool = true,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("mirror", mirror, "a URI that is asked too, and its answer dropped"),
    Command::works(
        "mirror_request_body",
        |b, d| {
            let v = flag(d)?;
            b.loc().mirror.request_body.set(v)
        },
        "whether the client's body goes there too",
    ),
];

/// Runs in its phase.
pub const HANDLER: Handler = Handler {
    phase: Phase::Precontent,
    wants: |loc| !loc.mirror.uris.is_empty(),
    call: Call::Later(handle),
    pure: false,
    gate: None,
};

/// Mirrors under way in the process, at most.
const MOST: usize = 512;

/// Bytes of a mirror's answer that are read so that its connection can be used again.
const READ: usize = 64 * 1024;

fn mirror(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let uris = &mut b.loc().mirror.uris;
    let duplicate = || ConfError::new("\"{}\" directive is duplicate");
    if d.arg(0) == "off" {
        // An empty list that is set: nothing comes from the outer level.
        return if uris.is_set() { Err(duplicate()) } else { uris.set(Vec::new()) };
    }
    if uris.is_set() && uris.is_empty() {
        return Err(duplicate());
    }
    uris.edit().push(Bytes::copy_from_slice(d.arg(0).as_bytes()));
    Ok(())
}

fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(run(rq))
}

async fn run(rq: &mut Request) -> Flow {
    // A mirror's own location may inherit the directive.
    if rq.depth > 0 {
        return Flow::Continue;
    }
    let mut body = Spooled::None;
    if *rq.loc().mirror.request_body {
        body = match spool::read(rq).await {
            Ok(body) => body,
            Err(e) => return super::proxy::refuse_body(rq, e),
        };
    }
    // By a handle of our own: the requests below are made of this one.
    let local = rq.local.clone();
    for uri in local.generation.http.levels[rq.level].conf.mirror.uris.iter() {
        start(rq, uri.clone(), &body);
    }
    Flow::Continue
}

/// Starts one mirror, which nobody waits for.
fn start(rq: &Request, uri: Bytes, body: &Spooled) {
    let Some(mut below) = rq.below(uri, rq.args.clone()) else { return };
    let Some(under_way) = UnderWay::begin(&rq.local) else {
        let uri = String::from_utf8_lossy(&below.uri).into_owned();
        crate::observe::request_log(
            rq,
            Level::Warn,
            format_args!("not mirrored to \"{uri}\": {MOST} mirrors are under way"),
        );
        return;
    };
    below.method = rq.method;
    if !body.is_empty() {
        below.has_body = true;
        below.body_length = Some(body.len());
        match body {
            Spooled::Memory(bytes) => below.body = Some(bytes.clone()),
            body => below.spooled = Some(body.clone()),
        }
    }
    tokio::spawn(async move {
        let mut response = phases::subrequest(&mut below).await;
        // What it says is of no interest, nor is how it ends.
        let _ = response.body.collect(READ).await;
        drop(under_way);
    });
}

/// One mirror under way; its worker does not end before.
struct UnderWay(Arc<Local>);

static COUNT: AtomicUsize = AtomicUsize::new(0);

impl UnderWay {
    /// None when there are as many as there may be.
    fn begin(local: &Arc<Local>) -> Option<UnderWay> {
        if COUNT.fetch_add(1, Ordering::Relaxed) >= MOST {
            COUNT.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        local.worker.hold();
        Some(UnderWay(local.clone()))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
        self.0.worker.release();
    }
}
