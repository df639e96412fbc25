//! nginx's proxy module: requests go to an upstream.

pub mod cookies;
mod prepared;
mod request;
pub mod respond;
pub mod store;
mod target;
pub mod tls;

pub use target::{Pass, Target};

use crate::conf::values::{flag, size_arg, time_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::Request;
use crate::http::head::Version;
use crate::http::phases::{Deciding, Flow};
use crate::http::request::{Attempt, Downstream};
use crate::http::temp_file::TempPath;
use crate::http::template::Template;
use crate::http::vars::Variable;
use crate::modules::ssl::Protocol;
use crate::settings;
use crate::tls::certificates::NamedFile;
use crate::tls::ciphers::Chosen;
use crate::tls::keys::Passwords;
use crate::tls::upstream::ServerTrust;
use crate::upstream::fetch::Asker;
use crate::upstream::{Answer, Failure, FailureKind, Plan, spool};
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Why another server may be asked (`proxy_next_upstream`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u16)]
pub enum Next {
    Error = 1,
    Timeout = 1 << 1,
    InvalidHeader = 1 << 2,
    Http500 = 1 << 3,
    Http502 = 1 << 4,
    Http503 = 1 << 5,
    Http504 = 1 << 6,
    Http403 = 1 << 7,
    Http404 = 1 << 8,
    Http429 = 1 << 9,
    NonIdempotent = 1 << 10,
}

impl Next {
    /// The reason a status is, if it is one.
    pub fn of_status(status: u16) -> Option<Next> {
        Some(match status {
            500 => Next::Http500,
            502 => Next::Http502,
            503 => Next::Http503,
            504 => Next::Http504,
            403 => Next::Http403,
            404 => Next::Http404,
            429 => Next::Http429,
            _ => return None,
        })
    }
}

/// A set of [`Next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextSet(u16);

impl NextSet {
    /// Whether it holds.
    pub fn allows(self, why: Next) -> bool {
        self.0 & why as u16 != 0
    }
}

/// One `proxy_redirect`.
#[derive(Clone, Debug)]
pub enum Redirect {
    /// A text at the start of the field, and what stands in its place.
    Prefix(Template, Template),
    /// A pattern anywhere in the field, and what the field becomes.
    Pattern(Arc<crate::http::regex::Regex>, Template),
}

settings! {
    /// What a level configures.
    pub struct Conf {
        /// Where requests go.
        own pass: Option<Arc<Pass>> = None,
        /// `proxy_set_header`s in order.
        inherit headers: Vec<(Bytes, Template)> = Vec::new(),
        /// `proxy_hide_header`s, lower case.
        inherit hide: Vec<String> = Vec::new(),
        /// `proxy_pass_header`s, lower case.
        inherit pass_headers: Vec<String> = Vec::new(),
        /// `proxy_pass_trailers`
        inherit pass_trailers: bool = false,
        /// `proxy_set_body`
        inherit set_body: Option<Template> = None,
        /// `proxy_method`
        inherit method: Option<Template> = None,
        /// Whether the client's fields go along.
        inherit pass_request_headers: bool = true,
        /// Whether the client's body goes along.
        inherit pass_request_body: bool = true,
        /// Whether HTTP/1.0 is spoken; nginx's default is 1.1 since 1.29.7.
        inherit http10: bool = false,
        /// Time to connect.
        inherit connect_timeout: Duration = Duration::from_secs(60),
        /// Time between two writes.
        inherit send_timeout: Duration = Duration::from_secs(60),
        /// Time between two reads.
        inherit read_timeout: Duration = Duration::from_secs(60),
        /// Whether pieces may be gathered before they are sent on.
        inherit buffering: bool = true,
        /// Whether the client's body is read whole before the upstream is asked.
        inherit request_buffering: bool = true,
        /// Bytes of an answer's head.
        inherit buffer_size: u64 = 4096,
        /// Bytes of an answer that are read ahead of a slow client.
        inherit buffers: u64 = 8 * 8192,
        /// `proxy_buffers` as nginx has them, number and bytes of each: other sizes have to fit.
        inherit buffer: (u64, u64) = (8, 4096),
        /// `proxy_busy_buffers_size`: only checked.
        inherit busy_buffers_size: crate::modules::proxy_cache::Size = None,
        /// Why another server may be asked.
        inherit next_upstream: NextSet = NextSet(Next::Error as u16 | Next::Timeout as u16),
        /// Attempts in all; 0 is as many as there are servers.
        inherit next_upstream_tries: u64 = 0,
        /// Time for all attempts; zero is no bound.
        inherit next_upstream_timeout: Duration = Duration::ZERO,
        /// `proxy_redirect`s; `None` is off.
        inherit redirects: Option<Vec<Redirect>> = None,
        /// Whether the default redirect is to be made.
        inherit redirect_default: bool = true,
        /// Whether `error_page` applies to the upstream's answers.
        inherit intercept_errors: bool = false,
        /// Whether the upstream goes on when the client has left.
        inherit ignore_client_abort: bool = false,
        /// `proxy_cookie_domain`, `proxy_cookie_path`: text and replacement.
        inherit cookie_domains: Vec<cookies::Rule> = Vec::new(),
        /// See `cookie_domains`.
        inherit cookie_paths: Vec<cookies::Rule> = Vec::new(),
        /// `proxy_cookie_flags`
        inherit cookie_flags: Vec<cookies::FlagRule> = Vec::new(),
        /// Whether ranges are cut whatever the upstream says.
        inherit force_ranges: bool = false,
        /// Whether connections are kept alive by the kernel.
        inherit socket_keepalive: bool = false,
        /// `proxy_store`: where whole answers become files.
        inherit store: Option<Arc<store::Place>> = None,
        /// `proxy_store_access`: the permissions of such files.
        inherit store_access: u32 = 0o600,
        /// `proxy_temp_path`
        inherit temp_path: Arc<TempPath> = Arc::new(TempPath::default()),
        /// Which of the two this level has that exclude each other.
        own keeps: Option<store::Keeps> = None,
        /// The name asked for in TLS.
        inherit ssl_name: Option<Template> = None,
        /// Whether it is sent.
        inherit ssl_server_name: bool = false,
        /// Whether the certificate is checked.
        inherit ssl_verify: bool = false,
        /// Trusted certificates.
        inherit ssl_trusted: Option<NamedFile> = None,
        /// Lists of revoked certificates.
        inherit ssl_crl: Option<NamedFile> = None,
        /// The most intermediates between the upstream's certificate and an authority's.
        inherit ssl_verify_depth: u64 = 1,
        /// Our certificate, for an upstream that asks for one.
        inherit ssl_certificate: Option<NamedFile> = None,
        /// See `ssl_certificate`.
        inherit ssl_certificate_key: Option<NamedFile> = None,
        /// The passwords of our key.
        inherit ssl_passwords: Passwords = Passwords::default(),
        /// The versions named; none is TLS 1.2 and 1.3.
        inherit ssl_protocols: Vec<Protocol> = Vec::new(),
        /// Suites of TLS 1.2.
        inherit ssl_ciphers: Option<Arc<Chosen>> = None,
        /// Whether sessions are resumed.
        inherit ssl_session_reuse: bool = true,
        /// What all of these come to, where TLS may be spoken.
        own ssl: Option<Arc<ServerTrust>> = None,
        /// What of requests and answers is the same for all.
        own prepared: prepared::Prepared = prepared::Prepared::default(),
    }
}

const MEMORY: &str = "memory is taken as it is needed, within bounds";

macro_rules! set {
    ($name:literal, $field:ident, $read:expr, $doc:literal) => {
        Command::works(
            $name,
            |b, d| {
                let value = $read(d)?;
                b.loc().proxy.$field.set(value)
            },
            $doc,
        )
    };
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("proxy_pass", target::proxy_pass, "where requests go"),
    Command::works("proxy_set_header", set_header, "a field of the request to the upstream"),
    Command::works(
        "proxy_hide_header",
        |b, d| list(b, d, |c| c.hide.edit()),
        "a field of answers that is not sent on",
    ),
    Command::works(
        "proxy_pass_header",
        |b, d| list(b, d, |c| c.pass_headers.edit()),
        "a hidden field that is sent on",
    ),
    set!("proxy_pass_trailers", pass_trailers, flag, "whether the fields after an answer's body are sent on"),
    Command::works(
        "proxy_set_body",
        |b, d| {
            let v = b.template(d.arg(0))?;
            b.loc().proxy.set_body.set(Some(v))
        },
        "the body of the request to the upstream",
    ),
    Command::works(
        "proxy_method",
        |b, d| {
            let v = b.template(d.arg(0))?;
            b.loc().proxy.method.set(Some(v))
        },
        "the method of the request to the upstream",
    ),
    set!("proxy_pass_request_headers", pass_request_headers, flag, "whether the client's fields go along"),
    set!("proxy_pass_request_body", pass_request_body, flag, "whether the client's body goes along"),
    Command::works("proxy_http_version", http_version, "the version spoken to the upstream"),
    set!("proxy_connect_timeout", connect_timeout, |d| time_arg(d, 0), "time to connect"),
    set!("proxy_send_timeout", send_timeout, |d| time_arg(d, 0), "time between two writes to the upstream"),
    set!("proxy_read_timeout", read_timeout, |d| time_arg(d, 0), "time between two reads from the upstream"),
    set!("proxy_buffering", buffering, flag, "whether pieces of an answer may be gathered"),
    set!("proxy_request_buffering", request_buffering, flag, "whether the client's body is read first"),
    set!("proxy_buffer_size", buffer_size, |d| size_arg(d, 0), "bytes of an answer's head"),
    Command::works("proxy_next_upstream", next_upstream, "why another server may be asked"),
    set!(
        "proxy_next_upstream_tries",
        next_upstream_tries,
        |d| crate::conf::values::number_arg(d, 0),
        "attempts in all"
    ),
    set!("proxy_next_upstream_timeout", next_upstream_timeout, |d| time_arg(d, 0), "time for all attempts"),
    Command::works("proxy_redirect", redirect, "how redirects of the upstream are rewritten"),
    set!("proxy_intercept_errors", intercept_errors, flag, "whether error_page applies to answers"),
    set!(
        "proxy_ignore_client_abort",
        ignore_client_abort,
        flag,
        "whether the upstream goes on without the client"
    ),
    set!("proxy_force_ranges", force_ranges, flag, "whether ranges are cut in any case"),
    set!("proxy_socket_keepalive", socket_keepalive, flag, "whether the kernel keeps connections alive"),
    Command::works(
        "proxy_buffers",
        buffers,
        "number and size of the buffers in which an answer is read ahead of a slow client",
    ),
    Command::no_effect_of("proxy_busy_buffers_size", busy_buffers_size, MEMORY),
    Command::no_effect_of(
        "proxy_headers_hash_max_size",
        |_, d| crate::conf::values::table_size(d),
        "tables size themselves",
    ),
    Command::no_effect_of(
        "proxy_headers_hash_bucket_size",
        |_, d| crate::conf::values::table_size(d),
        "tables size themselves",
    ),
    Command::no_effect("proxy_send_lowat", "the kernel decides"),
];

fn set_header(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = Bytes::copy_from_slice(d.arg(0).as_bytes());
    let value = b.template(d.arg(1))?;
    b.loc().proxy.headers.edit().push((name, value));
    Ok(())
}

fn list(b: &mut Builder, d: &Directive, which: fn(&mut Conf) -> &mut Vec<String>) -> ConfResult<()> {
    which(&mut b.loc().proxy).push(d.arg(0).to_ascii_lowercase());
    Ok(())
}

fn http_version(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let http10 = match d.arg(0) {
        "1.0" => true,
        "1.1" => false,
        "2" => return Err(ConfError::new("\"proxy_http_version 2\" is not supported yet")),
        other => return Err(ConfError::new(format!("invalid value \"{other}\""))),
    };
    b.loc().proxy.http10.set(http10)
}

fn buffers(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (number, size) = (crate::conf::values::number_arg(d, 0)?, size_arg(d, 1)?);
    if number < 2 {
        return Err(ConfError::new("there must be at least 2 \"proxy_buffers\""));
    }
    b.loc().proxy.buffer.replace((number, size));
    b.loc().proxy.buffers.set(number.saturating_mul(size))
}

fn busy_buffers_size(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let size = size_arg(d, 0)?;
    b.loc().proxy.busy_buffers_size.set(Some((size, d.at.clone())))
}

fn next_upstream(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    const NAMES: [(&str, u16); 13] = [
        ("error", Next::Error as u16),
        ("timeout", Next::Timeout as u16),
        ("invalid_header", Next::InvalidHeader as u16),
        ("non_idempotent", Next::NonIdempotent as u16),
        ("http_500", Next::Http500 as u16),
        ("http_502", Next::Http502 as u16),
        ("http_503", Next::Http503 as u16),
        ("http_504", Next::Http504 as u16),
        ("http_403", Next::Http403 as u16),
        ("http_404", Next::Http404 as u16),
        ("http_429", Next::Http429 as u16),
        ("updating", 0),
        ("off", 0),
    ];
    let mut set = 0;
    for arg in &d.args {
        let found = NAMES.iter().find(|(name, _)| name == arg);
        set |= found.ok_or_else(|| ConfError::new(format!("invalid value \"{arg}\"")))?.1;
    }
    if d.args.iter().any(|a| a == "off") {
        set = 0;
    }
    b.loc().proxy.next_upstream.set(NextSet(set))
}

fn redirect(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    match (d.arg(0), d.args.len()) {
        ("off" | "false", 1) => {
            b.loc().proxy.redirect_default.replace(false);
            b.loc().proxy.redirects.set(None)
        }
        ("default", 1) => {
            if b.loc().proxy.pass.is_none() {
                return Err(ConfError::new(
                    "\"proxy_redirect default\" should be placed after the \"proxy_pass\" directive",
                ));
            }
            b.loc().proxy.redirect_default.replace(true);
            Ok(())
        }
        (other, 1) => Err(ConfError::new(format!("invalid parameter \"{other}\""))),
        (from, _) => {
            let rule = if let Some(pattern) = from.strip_prefix('~') {
                let (pattern, caseless) = match pattern.strip_prefix('*') {
                    Some(rest) => (rest, true),
                    None => (pattern, false),
                };
                Redirect::Pattern(b.regex(pattern, caseless)?, b.template(d.arg(1))?)
            } else {
                Redirect::Prefix(b.template(from)?, b.template(d.arg(1))?)
            };
            let conf = &mut b.loc().proxy;
            if !conf.redirect_default.is_set() {
                conf.redirect_default.replace(false);
            }
            conf.redirects.edit().get_or_insert_default().push(rule);
            Ok(())
        }
    }
}

/// Completes what needs the whole of the configuration: the default redirects.
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    let mut known = tls::Known::new();
    for id in 0..b.levels.len() {
        let level = &b.levels[id];
        let conf = &level.conf.proxy;
        // `if` and `limit_except` go where their location goes.
        let implicit = matches!(level.kind, crate::conf::LevelKind::If | crate::conf::LevelKind::LimitExcept);
        if implicit
            && conf.pass.is_none()
            && let Some(outer) = level.outer
        {
            let pass = b.levels[outer].conf.proxy.pass.clone();
            b.levels[id].conf.proxy.pass = pass;
        }
        let level = &b.levels[id];
        if *level.conf.proxy.redirect_default
            && let Some(rule) =
                level.conf.proxy.pass.as_ref().and_then(|p| p.default_redirect(&level.conf.core.name))
        {
            b.levels[id].conf.proxy.redirects.edit().get_or_insert_default().push(rule);
        }
        tls::finish(b, id, &mut known)?;
        let conf = &mut b.levels[id].conf.proxy;
        if conf.pass.is_some() {
            conf.prepared.0 = prepared::Prepared::of(conf);
        }
    }
    store::finish(b)
}

/// The content handler.
pub fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(async move {
        match serve(rq).await {
            Ok(flow) => flow,
            Err(failure) => fail(rq, failure),
        }
    })
}

async fn serve(rq: &mut Request) -> Result<Flow, Failure> {
    let Some(pass) = rq.loc().proxy.pass.as_deref() else { return Ok(Flow::status(500)) };
    let (target, group) = match pass.fixed(rq)? {
        Some(fixed) => fixed,
        // What few requests need has a place of its own, so that all are made with little.
        None => match Box::pin(target::resolve(rq)).await? {
            Some(found) => found,
            None => return Ok(Flow::status(502)),
        },
    };
    let target = Arc::new(target);
    rq.proxy_target = Some(target.clone());
    // Of an upstream asked before, for a page in place of whose answer this one is, it says no more.
    rq.cache_status = None;
    if crate::modules::proxy_cache::purge::wants(rq) {
        // The key may be made of the body.
        Box::pin(spool::read(rq)).await.map_err(client_failure)?;
        return Box::pin(crate::modules::proxy_cache::purge::answer(rq)).await;
    }
    let caching = crate::modules::proxy_cache::wants(rq);
    // A hit needs no plan.
    if caching && let Some(kept) = crate::modules::proxy_cache::ready(rq) {
        return Ok(respond::flow(rq, kept?));
    }
    let buffered = *rq.loc().proxy.request_buffering || caching || rq.version() == Version::Http2;
    let conf = &rq.loc().proxy;
    // The client's body, and not another; HTTP/1.0 has no chunks, so its length must be known.
    let wanted = *conf.pass_request_body && conf.set_body.is_none();
    let framed = rq.body_length.is_some() || !*conf.http10;
    let streams = !buffered && wanted && framed && rq.has_body && rq.body.is_none() && rq.spooled.is_none();
    if wanted && rq.body_is_gone() {
        return Err(gone_body());
    }
    // It is read even when it is not passed on: `$request_body` may stand in what is.
    let body = if streams || rq.body_is_gone() || spool::is_none(rq) {
        spool::Spooled::None
    } else {
        Box::pin(spool::read(rq)).await.map_err(client_failure)?
    };
    let body = if *rq.loc().proxy.pass_request_body { body } else { spool::Spooled::None };
    let plan = request::plan(rq, (target, group), body, streams, caching);
    let stores = rq.loc().proxy.store.is_some();
    let mut answer = if caching {
        Box::pin(crate::modules::proxy_cache::fetch(rq, plan)).await?
    } else {
        let mut attempts = Vec::new();
        if streams {
            plan.fetch_for(Asker::Sends(rq), &mut attempts).await?
        } else if *rq.loc().proxy.ignore_client_abort || stores {
            plan.fetch_for(Asker::Waits(rq), &mut attempts).await?
        } else {
            fetch_while_there(rq, &plan, &mut attempts).await?
        }
    };
    if stores {
        Box::pin(store::keep(rq, &mut answer)).await;
    }
    let status = answer.status;
    let flow = respond::flow(rq, answer);
    // Before the client knows: what it asks for next it gets as it has made it.
    for (zone, key) in crate::modules::proxy_cache::changed(rq, status, &flow) {
        Box::pin(zone.invalidate(&key)).await;
    }
    Ok(flow)
}

/// Sends the request as long as the client is there.
async fn fetch_while_there(
    rq: &mut Request,
    plan: &Plan,
    attempts: &mut Vec<Attempt>,
) -> Result<Answer, Failure> {
    let mut client = std::mem::replace(&mut rq.downstream, Downstream::None);
    let fetched = {
        let mut fetched = pin!(plan.fetch_for(Asker::Waits(rq), attempts));
        let mut gone = pin!(client.gone());
        poll_fn(|cx| match fetched.as_mut().poll(cx) {
            Poll::Ready(fetched) => Poll::Ready(Some(fetched)),
            Poll::Pending => gone.as_mut().poll(cx).map(|()| None),
        })
        .await
    };
    rq.downstream = client;
    fetched.unwrap_or_else(|| {
        let message = "client prematurely closed connection".to_string();
        Err(Failure { status: 499, kind: FailureKind::Client, message, attempts: std::mem::take(attempts) })
    })
}

/// What another upstream was sent as it came cannot be sent again, and the rest is not the whole.
fn gone_body() -> Failure {
    let message = "client request body was sent to another upstream already".to_string();
    Failure { status: 502, kind: FailureKind::Client, message, attempts: Vec::new() }
}

/// The answer to a request whose body could not be read.
pub fn refuse_body(rq: &mut Request, e: crate::http::BodyError) -> Flow {
    fail(rq, client_failure(e))
}

fn client_failure(e: crate::http::BodyError) -> Failure {
    Failure { status: e.status(), kind: FailureKind::Client, message: e.to_string(), attempts: Vec::new() }
}

fn fail(rq: &mut Request, failure: Failure) -> Flow {
    rq.note_attempts(failure.attempts);
    if failure.kind == FailureKind::Client {
        rq.keepalive = false;
        let level = crate::observe::error_log::Level::Info;
        crate::observe::request_log(rq, level, format_args!("{}", failure.message));
        if failure.status == 499 {
            // Nobody is there to be answered; the log has 499.
            return Flow::status(499);
        }
    }
    Flow::status(failure.status)
}

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("proxy_host", |rq, _, out| match &rq.proxy_target {
        Some(target) => {
            out.extend_from_slice(&target.authority);
            true
        }
        None => false,
    })
    .pure(),
    Variable::new("proxy_port", |rq, _, out| match &rq.proxy_target {
        Some(target) => {
            out.extend_from_slice(target.port.to_string().as_bytes());
            true
        }
        None => false,
    })
    .pure(),
    Variable::new("proxy_add_x_forwarded_for", |rq, _, out| {
        for value in rq.head.all("x-forwarded-for") {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
        match rq.peer() {
            crate::http::request::Address::Inet(a) => out.extend_from_slice(a.ip().to_string().as_bytes()),
            crate::http::request::Address::Unix(_) => out.extend_from_slice(b"unix:"),
        }
        true
    }),
];
