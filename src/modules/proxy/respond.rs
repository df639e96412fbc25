//! An upstream's answer becomes a response: hidden fields, redirects, cookies, `X-Accel-*`.

use super::prepared::Known;
use super::{Conf, Redirect, cookies};
use crate::http::Request;
use crate::http::body::Body;
use crate::http::date::parse_http_date;
use crate::http::head::Method;
use crate::http::phases::Flow;
use crate::http::response::{Fields, Mark, Response};
use crate::modules::proxy_cache;
use crate::upstream::Answer;
use bytes::Bytes;
use std::sync::Arc;

/// Whether a field of an upstream, before its body or after it, is not for the client
/// (ngx_http_upstream_hide_headers_hash).
pub fn is_hidden(conf: &Conf, name: &[u8]) -> bool {
    match conf.prepared.get() {
        Some(known) => known.hidden.contain(name),
        // An answer may have come to a level that asks nobody.
        None => Known::of(conf).hidden.contain(name),
    }
}

/// What comes of an answer.
pub fn flow(rq: &mut Request, mut answer: Answer) -> Flow {
    if rq.attempts.is_empty() {
        rq.attempts = std::mem::take(&mut answer.attempts);
    } else {
        rq.note_attempts(std::mem::take(&mut answer.attempts));
    }
    let fields = Arc::new(std::mem::take(&mut answer.fields));
    rq.upstream_fields = Some(fields.clone());
    let conf = &rq.loc().proxy;
    let status = answer.status;
    let has_page = rq.loc().core.error_pages.iter().any(|p| p.statuses.contains(&status));
    if *conf.intercept_errors && status >= 300 && has_page {
        let mut response = Response::new(status);
        // The challenge of a 401 has to reach the client.
        if let Some(challenge) = fields.get("www-authenticate").filter(|_| status == 401) {
            response.fields.add_static("WWW-Authenticate", challenge.clone());
        }
        return Flow::Special(response);
    }
    if let Some(flow) = accel_redirect(rq, &fields, answer.kept) {
        return flow;
    }
    let conf = &rq.loc().proxy;
    let mut response = response(rq, conf, status, &fields, answer.kept);
    response.reason = Some((status, std::mem::take(&mut answer.reason)));
    response.unconditional = !answer.kept;
    response.length = answer.length;
    if answer.tunnel.is_some() {
        response.tunnel = answer.tunnel;
        return Flow::Respond(response);
    }
    accel_limits(rq, &fields, &mut answer);
    if !proxy_cache::ignores(rq, "x-accel-charset") {
        response.charset_override = fields.get("x-accel-charset").cloned();
    }
    // Of what passes only one range can be cut (ngx_http_upstream_send_response).
    response.single_range = !answer.kept;
    // A HEAD that the cache asked as GET has a body that is not for the client.
    if rq.method == Method::Head {
        response.single_range |=
            matches!(&answer.body, Body::Stream(passing) if passing.part(0..0).is_none());
        response.length = answer.length.or_else(|| answer.body.known_length().filter(|n| *n > 0));
        answer.body = Body::Empty;
    } else if response.length.is_none() {
        response.length = answer.body.known_length();
    }
    response.body = answer.body;
    // What is hidden is not heeded either.
    let heeded = answer.ranges && !is_hidden(&rq.loc().proxy, b"accept-ranges");
    response.ranges = heeded || *rq.loc().proxy.force_ranges;
    Flow::Respond(response)
}

/// A field that is looked at on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ContentType,
    ETag,
    LastModified,
    Server,
    Date,
    Location,
    Refresh,
    SetCookie,
    AcceptRanges,
    Other,
}

impl Kind {
    /// By its name; the length tells most apart.
    fn of(name: &[u8]) -> Kind {
        const NAMES: [(&[u8], Kind); 9] = [
            (b"content-type", Kind::ContentType),
            (b"etag", Kind::ETag),
            (b"last-modified", Kind::LastModified),
            (b"server", Kind::Server),
            (b"date", Kind::Date),
            (b"location", Kind::Location),
            (b"refresh", Kind::Refresh),
            (b"set-cookie", Kind::SetCookie),
            (b"accept-ranges", Kind::AcceptRanges),
        ];
        let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map_or(Kind::Other, |(_, kind)| *kind)
    }
}

fn response(rq: &Request, conf: &Conf, status: u16, fields: &Fields, kept: bool) -> Response {
    let mut response = Response { status, upstream: true, ..Response::default() };
    for (at, (name, value)) in fields.iter().enumerate() {
        if is_hidden(conf, name) {
            continue;
        }
        let is_last = || !fields.iter().skip(at + 1).any(|(later, _)| later.eq_ignore_ascii_case(name));
        match Kind::of(name) {
            // An empty one is none.
            Kind::ContentType => {
                response.content_type = Some(value.clone()).filter(|value| !value.is_empty())
            }
            // Of several the last is heeded, and all are sent.
            Kind::ETag if is_last() => {
                response.etag = Some(value.clone());
                response.mark(Mark::ETag, name);
            }
            Kind::LastModified
                if is_last()
                    && let Some(at) = parse_http_date(value) =>
            {
                response.last_modified = Some(at);
                response.mark(Mark::LastModified, name);
            }
            Kind::Server => {
                response.server = Some(value.clone());
                response.mark(Mark::Server, name);
            }
            Kind::Date => {
                response.date = Some(value.clone());
                response.mark(Mark::Date, name);
            }
            kind @ (Kind::Location | Kind::Refresh) => {
                let rewritten = rewrite_redirect(rq, conf, kind == Kind::Refresh, value);
                response.complete_location |= kind == Kind::Location && rewritten.is_some();
                response.fields.add(name.clone(), rewritten.unwrap_or_else(|| value.clone()));
            }
            Kind::SetCookie => response.fields.add(name.clone(), cookies::rewrite(rq, conf, value)),
            // Ranges are cut here, which is said where it is so.
            Kind::AcceptRanges if kept || *conf.force_ranges => {}
            Kind::ETag | Kind::LastModified | Kind::AcceptRanges | Kind::Other => {
                response.fields.add(name.clone(), value.clone());
            }
        }
    }
    response
}

/// `X-Accel-Redirect`: the answer is elsewhere.
fn accel_redirect(rq: &mut Request, fields: &Fields, kept: bool) -> Option<Flow> {
    let target = fields.get("x-accel-redirect")?.clone();
    if proxy_cache::ignores(rq, "x-accel-redirect") {
        return None;
    }
    const STAY: [&str; 6] =
        ["content-type", "set-cookie", "content-disposition", "cache-control", "expires", "accept-ranges"];
    for (name, value) in fields.iter() {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let none = value.is_empty() && is("content-type");
        // Who cuts the ranges says so.
        let ours = (kept || *rq.loc().proxy.force_ranges) && is("accept-ranges");
        if STAY.iter().any(|s| is(s)) && !none && !ours {
            let cookie = is("set-cookie").then(|| cookies::rewrite(rq, &rq.loc().proxy, value));
            rq.carried.add(name.clone(), cookie.unwrap_or_else(|| value.clone()));
        }
    }
    // Another answer may send it elsewhere.
    rq.watch.spoil();
    if let Some(name) = target.strip_prefix(b"@") {
        return Some(Flow::Named(Bytes::copy_from_slice(name)));
    }
    if rq.method != Method::Head {
        rq.method = Method::Get;
    }
    let (path, args) = match memchr::memchr(b'?', &target) {
        Some(at) => (target.slice(..at), target.slice(at + 1..)),
        None => (target, Bytes::new()),
    };
    let uri = crate::http::uri::unescape(&path);
    if is_unsafe(&uri) {
        let shown = String::from_utf8_lossy(&path);
        crate::observe::request_error(rq, format_args!("unsafe URI \"{shown}\" was detected"));
        return Some(Flow::status(404));
    }
    Some(Flow::Internal { uri: uri.into(), args })
}

/// Whether a path that an upstream made, perhaps of what a client said, would lead out of where it is
/// to stay, or ends early (ngx_http_parse_unsafe_uri).
pub fn is_unsafe(path: &[u8]) -> bool {
    path.is_empty() || path.contains(&0) || path.split(|b| *b == b'/').any(|segment| segment == b"..")
}

fn accel_limits(rq: &mut Request, fields: &Fields, answer: &mut Answer) {
    if let Some(rate) = fields.get("x-accel-limit-rate")
        && !proxy_cache::ignores(rq, "x-accel-limit-rate")
        && let Some(rate) = std::str::from_utf8(rate).ok().and_then(crate::conf::values::number)
    {
        rq.limit_rate = Some(rate);
    }
    if let Some(how) = fields.get("x-accel-buffering")
        && !proxy_cache::ignores(rq, "x-accel-buffering")
        && let Body::Stream(stream) = &mut answer.body
    {
        stream.set_flush_each(how.eq_ignore_ascii_case(b"no"));
    }
}

/// The field rewritten by the first rule that fits; `None` when none does.
fn rewrite_redirect(rq: &Request, conf: &Conf, refresh: bool, value: &Bytes) -> Option<Bytes> {
    let rules = conf.redirects.as_ref()?;
    // Of `Refresh: 5; url=…` only the address is rewritten.
    let start = if refresh { memchr::memmem::find(&value.to_ascii_lowercase(), b"url=")? + 4 } else { 0 };
    for rule in rules {
        let subject = &value[start..];
        match rule {
            Redirect::Prefix(from, to) => {
                let from = from.eval(rq);
                if let Some(rest) = subject.strip_prefix(&from[..]) {
                    return Some([&value[..start], &to.eval(rq), rest].concat().into());
                }
            }
            Redirect::Pattern(regex, to) => {
                if regex.capture(rq, subject) {
                    return Some([&value[..start], &to.eval(rq)].concat().into());
                }
            }
        }
    }
    None
}
