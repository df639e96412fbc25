//! An upstream's answer becomes a response: hidden fields, redirects, cookies, `X-Accel-*`.

use super::prepared::Known;
use super::{Conf, Redirect, cookies, store};
use crate::http::Request;
use crate::http::body::Body;
use crate::http::head::Method;
use crate::http::phases::Flow;
use crate::http::response::{Fields, Mark, Modified, Response, Sifted};
use crate::modules::proxy_cache;
use crate::upstream::Answer;
use bytes::Bytes;
use std::mem::take;
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
pub fn flow(rq: &mut Request, answer: Answer) -> Flow {
    // Taken apart, so that nothing is left to be dropped.
    let Answer { status, reason, fields, length, mut body, ranges, kept, source: _, tunnel, attempts } =
        answer;
    if rq.attempts.is_empty() {
        rq.attempts = attempts;
    } else {
        rq.note_attempts(attempts);
    }
    let conf = &rq.loc().proxy;
    let shown = rq.depth > 0 || conf.prepared.get().is_none_or(|known| known.shows_fields(rq));
    rq.upstream_fields = shown.then(|| Arc::new(fields.clone()));
    let loc = rq.loc();
    let has_page = loc.core.error_pages.iter().any(|p| p.statuses.contains(&status));
    if *loc.proxy.intercept_errors && status >= 300 && has_page {
        let mut response = Response::new(status);
        // The challenge of a 401 has to reach the client.
        if let Some(challenge) = fields.get("www-authenticate").filter(|_| status == 401) {
            response.fields.add_static("WWW-Authenticate", challenge.clone());
        }
        return Flow::special(response);
    }
    let mut charset = None;
    let says = fields.iter().any(|(name, _)| is_accel(name));
    if says {
        if let Some(flow) = accel_redirect(rq, &fields, kept) {
            return flow;
        }
        if tunnel.is_none() {
            accel_limits(rq, &fields, &mut body);
            charset = fields.get("x-accel-charset").filter(|_| !proxy_cache::ignores(rq, "x-accel-charset"));
        }
    }
    // What is not gathered goes as it comes (ngx_http_upstream_send_response).
    if (says || !*rq.loc().proxy.buffering) && !kept && !store::is_buffered(rq, &fields) {
        rq.limit_rate = Some(0);
    }
    let charset = charset.cloned();
    let conf = &rq.loc().proxy;
    let mut response = response(rq, conf, status, fields, kept);
    response.reason = Some((status, reason));
    response.unconditional = !kept;
    response.length = length;
    if tunnel.is_some() {
        response.tunnel = tunnel;
        return Flow::Respond(response);
    }
    response.charset_override = charset;
    // Of what passes only one range can be cut (ngx_http_upstream_send_response).
    response.single_range = !kept;
    // A HEAD that the cache asked as GET has a body that is not for the client.
    if rq.method == Method::Head {
        response.single_range |= matches!(&body, Body::Stream(passing) if passing.part(0..0).is_none());
        response.length = length.or_else(|| body.known_length().filter(|n| *n > 0));
        body = Body::Empty;
    } else if length.is_none() {
        response.length = body.known_length();
    }
    response.body = body;
    // What is hidden is not heeded either.
    let heeded = ranges && !is_hidden(conf, b"accept-ranges");
    response.ranges = heeded || *conf.force_ranges;
    Flow::Respond(response)
}

/// Whether a field is for us (`X-Accel-…`).
fn is_accel(name: &[u8]) -> bool {
    name.split_at_checked(8).is_some_and(|(start, _)| start.eq_ignore_ascii_case(b"x-accel-"))
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
    /// By its name; the length tells most apart, and most write it alike.
    fn of(name: &[u8]) -> Kind {
        macro_rules! is {
            ($usual:literal) => {
                name == $usual || name.eq_ignore_ascii_case($usual)
            };
        }
        match name.len() {
            4 if is!(b"Date") => Kind::Date,
            4 if is!(b"ETag") => Kind::ETag,
            6 if is!(b"Server") => Kind::Server,
            7 if is!(b"Refresh") => Kind::Refresh,
            8 if is!(b"Location") => Kind::Location,
            10 if is!(b"Set-Cookie") => Kind::SetCookie,
            12 if is!(b"Content-Type") => Kind::ContentType,
            13 if is!(b"Last-Modified") => Kind::LastModified,
            13 if is!(b"Accept-Ranges") => Kind::AcceptRanges,
            _ => Kind::Other,
        }
    }
}

fn response(rq: &Request, conf: &Conf, status: u16, fields: Fields, kept: bool) -> Box<Response> {
    let mut boxed = Box::new(Response::with_fields(status, fields));
    let response = &mut *boxed;
    response.upstream = true;
    let unprepared;
    let hidden = match conf.prepared.get() {
        Some(known) => &known.hidden,
        // An answer may have come to a level that asks nobody.
        None => {
            unprepared = Known::of(conf).hidden;
            &unprepared
        }
    };
    response.fields.sift(|name, value, later| {
        if hidden.contain(name) {
            return Sifted::Gone;
        }
        let is_last = || !later.iter().any(|(later, _)| later.eq_ignore_ascii_case(name));
        let mark = match Kind::of(name) {
            Kind::Other => return Sifted::Kept,
            // An empty one is none.
            Kind::ContentType => {
                response.content_type = Some(take(value)).filter(|value| !value.is_empty());
                return Sifted::Gone;
            }
            // Of several the last is heeded, and all are sent.
            Kind::ETag if is_last() => {
                response.etag = Some(take(value));
                Mark::ETag
            }
            Kind::LastModified if is_last() => {
                response.last_modified = Some(Modified::Written(take(value)));
                Mark::LastModified
            }
            Kind::Server => {
                response.server = Some(take(value));
                Mark::Server
            }
            Kind::Date => {
                response.date = Some(take(value));
                Mark::Date
            }
            kind @ (Kind::Location | Kind::Refresh) => {
                let rewritten = rewrite_redirect(rq, conf, kind == Kind::Refresh, value);
                response.complete_location |= kind == Kind::Location && rewritten.is_some();
                if let Some(rewritten) = rewritten {
                    *value = rewritten;
                }
                return Sifted::Kept;
            }
            Kind::SetCookie => {
                *value = cookies::rewrite(rq, conf, value);
                return Sifted::Kept;
            }
            // Ranges are cut here, which is said where it is so.
            Kind::AcceptRanges if kept || *conf.force_ranges => return Sifted::Gone,
            Kind::ETag | Kind::LastModified | Kind::AcceptRanges => return Sifted::Kept,
        };
        mark.note_name(name, &mut response.names);
        Sifted::Marked(mark)
    });
    boxed
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

fn accel_limits(rq: &mut Request, fields: &Fields, body: &mut Body) {
    if let Some(rate) = fields.get("x-accel-limit-rate")
        && !proxy_cache::ignores(rq, "x-accel-limit-rate")
        && let Some(rate) = std::str::from_utf8(rate).ok().and_then(crate::conf::values::number)
    {
        rq.limit_rate = Some(rate);
    }
    if let Some(how) = fields.get("x-accel-buffering")
        && !proxy_cache::ignores(rq, "x-accel-buffering")
        && let Body::Stream(stream) = body
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
