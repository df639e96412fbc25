//! The way of a request: nginx's phases, in nginx's order, from one table.
//!
//! server-rewrite → find-location → rewrite (again when the URI changed) → preaccess → access →
//! precontent → content. The table is [`crate::modules::PHASES`]; a module names the phase it runs
//! in, and the order within a phase is the table's.

use super::error_page;
use super::filters::{self, Filter};
use super::request::Request;
use super::response::Response;
use super::router::{Located, locate};
use crate::conf::build::LevelId;
use crate::modules::{self, rewrite};
use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::time::Duration;

/// What a phase's handler decided.
pub enum Flow {
    /// Nothing; the next handler's turn.
    Continue,
    /// In the access phase: this one allows the request (for `satisfy any`).
    Allow,
    /// This is the answer.
    Respond(Box<Response>),
    /// An answer without a body of its own: `error_page` applies, else the built-in page is sent.
    Special(Box<Response>),
    /// Begin anew with another URI.
    Internal {
        /// The path, decoded.
        uri: Bytes,
        /// The query.
        args: Bytes,
    },
    /// Go on at a named location (without the `@`).
    Named(Bytes),
}

impl Flow {
    /// An answer. Boxed, for a decision passes through many hands.
    pub fn respond(response: Response) -> Flow {
        Flow::Respond(Box::new(response))
    }

    /// See [`Flow::Special`].
    pub fn special(response: Response) -> Flow {
        Flow::Special(Box::new(response))
    }

    /// An answer with nothing but a status.
    pub fn status(status: u16) -> Flow {
        Flow::special(Response::new(status))
    }

    /// A redirect.
    pub fn redirect(status: u16, location: impl Into<Bytes>) -> Flow {
        let mut response = Response::new(status);
        response.fields.add_static("Location", location.into());
        Flow::special(response)
    }
}

/// The phases in which handlers run, in order. Rewriting and finding the location are the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Once, before anything else (`realip`).
    PostRead,
    /// Before access (`limit_req`, `limit_conn`).
    Preaccess,
    /// May this client have it?
    Access,
    /// Before the content (`try_files`).
    Precontent,
    /// The answer, where the location has no handler of its own.
    Content,
}

impl Phase {
    const ALL: [Phase; 5] =
        [Phase::PostRead, Phase::Preaccess, Phase::Access, Phase::Precontent, Phase::Content];
}

/// A future of a handler's decision.
pub type Deciding<'a> = Pin<Box<dyn Future<Output = Flow> + Send + 'a>>;

/// A location's own content handler (`proxy_pass`, `stub_status` …).
pub type Content = for<'a> fn(&'a mut Request) -> Deciding<'a>;

/// How a handler is called.
#[derive(Clone, Copy)]
pub enum Call {
    /// Decides at once.
    Now(fn(&mut Request) -> Flow),
    /// May wait.
    Later(Content),
}

/// A handler in a module's table.
#[derive(Clone, Copy)]
pub struct Handler {
    /// The phase it runs in.
    pub phase: Phase,
    /// Whether it has anything to do at a level; a location with none of its phases is a plain one.
    pub wants: fn(&modules::LocConf) -> bool,
    /// The handler.
    pub call: Call,
    /// Whether what it decides follows from the request's line, its host, and the fields and variables that it
    /// reads by name, and it does nothing else; or it says itself where that is not so ([`crate::http::hit`]).
    pub pure: bool,
    /// Asks it again before an answer is repeated, where it is not pure.
    pub gate: Option<Gate>,
}

/// Decides about a request whose answer is there already.
pub type Gate = fn(&mut Request) -> Passage;

/// What a [`Gate`] decides.
pub enum Passage {
    /// It may have the answer.
    Free,
    /// After this time.
    After(Duration),
    /// It gets this instead.
    Not(Box<Flow>),
}

/// What has anything to do at a level, of every table: made once for each level, so that a request
/// asks nobody else.
#[derive(Clone, Default)]
pub struct Plan {
    /// By phase, and as the table has them.
    calls: Box<[Handler]>,
    /// Where the calls of each phase begin.
    starts: [u8; Phase::ALL.len() + 1],
    filters: Box<[Filter]>,
}

impl Plan {
    /// The plan of a level's configuration, once it is inherited.
    pub fn of(conf: &modules::LocConf) -> Plan {
        let (mut calls, mut starts) = (Vec::new(), [0; Phase::ALL.len() + 1]);
        for (at, phase) in Phase::ALL.into_iter().enumerate() {
            calls.extend(modules::PHASES.iter().filter(|h| h.phase == phase && (h.wants)(conf)));
            // The table has some dozen.
            starts[at + 1] = u8::try_from(calls.len()).unwrap_or(u8::MAX);
        }
        let filters = modules::FILTERS.iter().filter(|f| (f.wants)(conf));
        Plan { calls: calls.into(), starts, filters: filters.copied().collect() }
    }

    /// Which of the calls are of a phase.
    fn of_phase(&self, phase: Phase) -> Range<usize> {
        let at = phase as usize;
        self.starts[at].into()..self.starts[at + 1].into()
    }

    /// The filters, in their order.
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }
}

enum Entry {
    /// From the server's rewrites on.
    Server,
    /// From a location's rewrites on.
    Location,
}

/// Answers a request. The response has not been through the filters.
pub async fn process(rq: &mut Request) -> Box<Response> {
    rq.level = rq.http().servers[rq.server].level;
    let flow = if rq.plan().of_phase(Phase::PostRead).is_empty() {
        Flow::Continue
    } else {
        run_phase(rq, Phase::PostRead).await
    };
    // Here and below what is waited for is pinned where it is made: else it is copied twice.
    pin!(drive(rq, flow)).await
}

/// Answers what is no proper request: `error_page` of the default server applies.
pub async fn refuse_with(rq: &mut Request, status: u16) -> Box<Response> {
    // Boxed, as all that is rare: a request's future is as large as the largest that it may wait for.
    Box::pin(drive(rq, Flow::status(status))).await
}

/// Answers a request about which a [`Gate`] has decided.
pub async fn go_on(rq: &mut Request, flow: Flow) -> Box<Response> {
    drive(rq, flow).await
}

/// Runs the filters over an answer; a filter that refuses it leads to another answer.
pub async fn filtered(rq: &mut Request, mut response: Box<Response>) -> Box<Response> {
    if let Err(refusal) = filters::apply(rq, &mut response) {
        response = Box::pin(drive(rq, Flow::Special(refusal))).await;
        // Conditions and ranges were for what was asked for, not for a page about its refusal.
        response.unconditional = true;
        response.ranges = false;
        let _ = filters::apply(rq, &mut response);
    }
    response
}

/// Answers a subrequest (see [`Request::below`]); what concerns the client alone is not done. Boxed,
/// for it comes from within the answer to another request.
pub fn subrequest(rq: &mut Request) -> Pin<Box<dyn Future<Output = Box<Response>> + Send + '_>> {
    Box::pin(async move {
        let mut response = drive(rq, Flow::Continue).await;
        filters::apply_to_subrequest(rq, &mut response);
        modules::log::subrequest_done(rq, &response);
        response
    })
}

/// Answers a copy of a request by its location's content once more, for another slice of it; no
/// filter changes the answer, for the whole has its own, and who asked logs it.
pub fn content_again(rq: &mut Request) -> Pin<Box<dyn Future<Output = Box<Response>> + Send + '_>> {
    Box::pin(async move {
        let flow = content(rq).await;
        drive(rq, flow).await
    })
}

async fn drive(rq: &mut Request, mut flow: Flow) -> Box<Response> {
    let mut entry = Entry::Server;
    loop {
        if let Flow::Continue | Flow::Allow = flow {
            flow = pin!(run(rq, entry)).await;
        }
        let next = match flow {
            Flow::Special(response) if rq.bare_errors => Flow::Respond(response),
            Flow::Special(response) => error_page::choose(rq, *response),
            other => other,
        };
        (entry, flow) = match next {
            Flow::Respond(response) => return response,
            Flow::Special(response) => return response,
            Flow::Internal { uri, args } => (Entry::Server, internal_redirect(rq, uri, args)),
            Flow::Named(name) => (Entry::Location, named_location(rq, &name)),
            // The content phase always answers; not to answer would be our defect.
            Flow::Continue | Flow::Allow => return Box::new(error_page::built_in(rq, Response::new(500))),
        };
    }
}

/// Points the request at another URI; an eleventh time is a cycle.
fn internal_redirect(rq: &mut Request, uri: Bytes, args: Bytes) -> Flow {
    if !spend_change(rq, "internally redirecting to", &uri) {
        return Flow::status(500);
    }
    rq.watch.leaves_level();
    rq.uri = uri;
    rq.args = args;
    rq.has_args = false;
    rq.pristine = false;
    rq.valid_location = true;
    rq.uri_below_alias = false;
    rq.internal = true;
    rq.proxy_target = None;
    rq.slice.set(None);
    rq.level = rq.http().servers[rq.server].level;
    Flow::Continue
}

fn named_location(rq: &mut Request, name: &[u8]) -> Flow {
    if !spend_change(rq, "redirect to named location", &[b"@", name].concat()) {
        return Flow::status(500);
    }
    if rq.uri.is_empty() {
        let name = String::from_utf8_lossy(name).into_owned();
        let message = format_args!("empty URI in redirect to named location \"@{name}\"");
        crate::observe::request_error(rq, message);
        return Flow::status(500);
    }
    let server = rq.http().servers[rq.server].level;
    match rq.http().levels[server].conf.core.locations.named(name) {
        Some(level) => {
            rq.watch.leaves_level();
            rq.level = level;
            rq.internal = true;
            rq.proxy_target = None;
            rq.slice.set(None);
            limit_methods(rq);
            Flow::Continue
        }
        None => {
            let name = String::from_utf8_lossy(name).into_owned();
            crate::observe::request_error(rq, format_args!("could not find named location \"@{name}\""));
            Flow::status(500)
        }
    }
}

fn spend_change(rq: &mut Request, what: &str, uri: &[u8]) -> bool {
    rq.changes_left = rq.changes_left.saturating_sub(1);
    if rq.changes_left == 0 {
        let uri = String::from_utf8_lossy(uri);
        let message = format_args!("rewrite or internal redirection cycle while {what} \"{uri}\"");
        crate::observe::request_error(rq, message);
        return false;
    }
    true
}

async fn run(rq: &mut Request, entry: Entry) -> Flow {
    let found = find(rq, entry);
    if let Some(refusal) = gave_up(rq) {
        return refusal;
    }
    match found {
        Flow::Continue => {}
        other => return other,
    }
    for phase in [Phase::Preaccess, Phase::Access, Phase::Precontent] {
        // Who may ask for the request may have what it is made of.
        if phase == Phase::Access && rq.depth > 0 || rq.plan().of_phase(phase).is_empty() {
            continue;
        }
        match run_phase(rq, phase).await {
            Flow::Continue | Flow::Allow => {
                // A `map` may have been asked who is let in.
                if let Some(refusal) = gave_up(rq) {
                    return refusal;
                }
            }
            Flow::Special(refusal) if phase == Phase::Access && refusal.status == 401 => {
                return Box::pin(delayed(rq, refusal)).await;
            }
            other => return other,
        }
    }
    pin!(content(rq)).await
}

/// The answer where it is not known whether a pattern matches: no rule is got round by what is hard to match.
fn gave_up(rq: &Request) -> Option<Flow> {
    if !rq.regex_gave_up.take() {
        return None;
    }
    let alert = crate::observe::error_log::Level::Alert;
    crate::observe::request_log(rq, alert, format_args!("a regular expression took too many steps"));
    Some(Flow::status(500))
}

/// The content phase, which always decides.
async fn content(rq: &mut Request) -> Flow {
    // A location's own handler may leave something to the others: a directory, say.
    if let Some(content) = *rq.loc().core.content {
        match content(rq).await {
            Flow::Continue | Flow::Allow => {}
            answered => return answered,
        }
    }
    match run_phase(rq, Phase::Content).await {
        Flow::Continue | Flow::Allow => Flow::status(404),
        other => other,
    }
}

/// Rewrites and finds the location until the URI stands still.
fn find(rq: &mut Request, entry: Entry) -> Flow {
    if let Entry::Server = entry {
        let server = rq.http().servers[rq.server].level;
        rq.level = server;
        match rewrite::run(rq, rewrite::Place::Server) {
            rewrite::Ran::Flow(flow) => return flow,
            rewrite::Ran::Unchanged | rewrite::Ran::Changed => {}
        }
        if let Some(flow) = find_location(rq, server) {
            return flow;
        }
    }
    loop {
        // Where there is no location, the server's rewrites have run already.
        if rq.level == rq.http().servers[rq.server].level {
            return Flow::Continue;
        }
        match rewrite::run(rq, rewrite::Place::Location) {
            rewrite::Ran::Flow(flow) => return flow,
            rewrite::Ran::Unchanged => return Flow::Continue,
            rewrite::Ran::Changed => {}
        }
        if !spend_change(rq, "processing", &rq.uri.clone()) {
            return Flow::status(500);
        }
        let server = rq.http().servers[rq.server].level;
        if let Some(flow) = find_location(rq, server) {
            return flow;
        }
    }
}

fn find_location(rq: &mut Request, server: LevelId) -> Option<Flow> {
    let located = locate(rq, server);
    rq.level = match located {
        Located::Level(level) | Located::AddSlash(level) => level,
        Located::Nowhere => server,
    };
    if *rq.loc().core.internal && !rq.internal {
        return Some(Flow::status(404));
    }
    if let Some(refusal) = refuse(rq) {
        return Some(refusal);
    }
    if let Located::AddSlash(_) = located {
        let mut location = super::uri::escape(&rq.uri, super::uri::Escape::Uri);
        location.push(b'/');
        if !rq.args.is_empty() {
            location.push(b'?');
            location.extend_from_slice(&rq.args);
        }
        return Some(Flow::redirect(301, location));
    }
    limit_methods(rq);
    None
}

/// `limit_except` is a level of its own for the methods it does not name. The method is the one in force, which a
/// redirect to an error's page has made a GET.
fn limit_methods(rq: &mut Request) {
    if let Some((free, inner)) = rq.loc().core.limit_except.0.clone()
        && !free.iter().any(|m| m.as_bytes() == rq.method_name())
    {
        rq.level = inner;
    }
}

/// What the location refuses before anything else is asked: a body that is too large.
fn refuse(rq: &mut Request) -> Option<Flow> {
    let core = &rq.loc().core;
    let limit = *core.client_max_body_size;
    if let Some(length) = rq.body_length
        && limit > 0
        && length > limit
        && rq.body.is_none()
    {
        let text = format!("client intended to send too large body: {length} bytes");
        crate::observe::request_error(rq, format_args!("{text}"));
        return Some(Flow::status(413));
    }
    None
}

/// Lets who may not have it wait for `auth_delay` (ngx_http_core_auth_delay).
async fn delayed(rq: &mut Request, refusal: Box<Response>) -> Flow {
    let delay = *rq.loc().core.auth_delay;
    if delay.is_zero() {
        return Flow::Special(refusal);
    }
    let level = crate::observe::error_log::Level::Info;
    crate::observe::request_log(rq, level, format_args!("delaying unauthorized request"));
    tokio::select! {
        () = tokio::time::sleep(delay) => Flow::Special(refusal),
        // Who has left is waited for no longer.
        () = rq.downstream.gone() => Flow::status(499),
    }
}

async fn run_phase(rq: &mut Request, phase: Phase) -> Flow {
    let satisfy_any = phase == Phase::Access && *rq.loc().core.satisfy_any;
    let mut refusal: Option<Box<Response>> = None;
    // A handler that changes the level ends its phase.
    for i in rq.plan().of_phase(phase) {
        let Some(handler) = rq.plan().calls.get(i).copied() else { break };
        let watched = (!handler.pure && rq.watch.is_clean()).then(|| rq.so_far());
        let flow = match handler.call {
            Call::Now(call) => call(rq),
            Call::Later(call) => call(rq).await,
        };
        match (watched, handler.gate) {
            (Some(before), Some(gate)) if !satisfy_any && matches!(flow, Flow::Continue | Flow::Allow) => {
                rq.asks_again(gate, before);
            }
            (Some(_), _) => rq.watch.spoil(),
            (None, _) => {}
        }
        match flow {
            Flow::Continue => {}
            Flow::Allow if satisfy_any => return Flow::Continue,
            Flow::Allow => {}
            Flow::Special(response) if satisfy_any && matches!(response.status, 401 | 403) => {
                // Another may still allow it; a 401 tells the client more than a 403, with the challenges of all.
                let refusal = refusal.get_or_insert_with(|| Box::new(Response::new(response.status)));
                if response.status == 401 {
                    refusal.status = 401;
                }
                for (name, value) in response.fields.iter() {
                    refusal.fields.add(name.clone(), value.clone());
                }
            }
            other => return other,
        }
    }
    if refusal.as_ref().is_some_and(|r| r.status == 403) {
        // With `satisfy any` a refusal is an error only now that nobody allowed the request.
        crate::observe::request_error(rq, format_args!("access forbidden by rule"));
    }
    refusal.map_or(Flow::Continue, Flow::Special)
}
