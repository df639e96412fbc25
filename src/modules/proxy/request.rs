//! The request that goes upstream: which fields, in which order (ngx_http_proxy_create_request).

use super::Target;
use super::prepared::{Known, Written};
use crate::http::Request;
use crate::http::h1::{append_line_safe, write_field};
use crate::http::head::Method;
use crate::http::response::Fields;
use crate::upstream::balance;
use crate::upstream::connect::TlsPeer;
use crate::upstream::group::Group;
use crate::upstream::spool::Spooled;
use crate::upstream::{About, Plan};
use bytes::Bytes;
use std::sync::Arc;

/// What a cache asks for itself: the whole, unconditionally.
const NOT_PASSED_BY_CACHE: [&str; 6] =
    ["if-modified-since", "if-unmodified-since", "if-none-match", "if-match", "range", "if-range"];

/// The plan for a request. With `streams` its body is still with the client; with `caching` it may
/// outlive the client, and its fields may be changed.
pub fn plan(
    rq: &Request,
    (target, group): (Arc<Target>, Arc<Group>),
    body: Spooled,
    streams: bool,
    caching: bool,
) -> Plan {
    let conf = &rq.loc().proxy;
    let body = match conf.set_body.as_ref() {
        None => body,
        Some(set) => {
            let value = set.eval(rq);
            if value.is_empty() { Spooled::None } else { Spooled::Memory(value) }
        }
    };
    let method = match conf.method.as_ref() {
        Some(method) => method.eval(rq),
        None if caching && rq.method == Method::Head && crate::modules::proxy_cache::converts_head(rq) => {
            Bytes::from_static(b"GET")
        }
        None => match rq.method {
            Method::Get => Bytes::from_static(b"GET"),
            Method::Head => Bytes::from_static(b"HEAD"),
            _ => Bytes::copy_from_slice(rq.method_name()),
        },
    };
    let uri = &target.uri;
    let unprepared;
    let known = match conf.prepared.get() {
        Some(known) => known,
        None => {
            unprepared = Known::of(conf);
            &unprepared
        }
    };
    let length = if known.sets_length { Length::Unsaid } else { length(rq, &body, streams) };
    let (mut list, mut written) = (Fields::default(), None);
    let said = if caching {
        list = fields(rq, known, length);
        Written {
            closes: list.all("connection").any(|v| v.eq_ignore_ascii_case(b"close")),
            upgrades: list.get("upgrade").is_some(),
        }
    } else {
        let mut head = Vec::with_capacity(512 + uri.len() + rq.head.size());
        let said = write(rq, known, &method, uri, length, &mut head);
        written = Some(head);
        said
    };
    let hash_key = match &group.conf.method {
        balance::Method::Hash(key) | balance::Method::ConsistentHash(key) => Some(key.eval(rq)),
        _ => None,
    };
    // Only a client that asked for it can be switched, whatever `proxy_set_header` says.
    let upgrade = said.upgrades
        && rq.depth == 0
        && rq.head.get("upgrade").is_some()
        && rq.version() == crate::http::Version::Http11;
    Plan {
        local: rq.local.clone(),
        level: rq.level,
        group,
        tls: target.tls.then(|| tls(rq, &target)),
        method,
        target,
        http10: *conf.http10,
        fields: list,
        written,
        closes: said.closes,
        body,
        hash_key,
        client: rq.peer().ip(),
        upgrade,
        about: caching.then(|| About::of(rq)),
    }
}

fn tls(rq: &Request, target: &Target) -> TlsPeer {
    let conf = &rq.loc().proxy;
    let name = match conf.ssl_name.as_ref() {
        Some(name) => String::from_utf8_lossy(&name.eval(rq)).into_owned(),
        None => {
            let authority = String::from_utf8_lossy(&target.authority).into_owned();
            crate::modules::upstream::split_host(&authority, 443)
                .map_or(authority.clone(), |(h, _)| h.to_string())
        }
    };
    TlsPeer { name, send_name: *conf.ssl_server_name, trust: (*conf.ssl).clone() }
}

/// What is said of the body's length.
#[derive(Clone, Copy)]
enum Length {
    Unsaid,
    Known(u64),
    Chunked,
}

fn length(rq: &Request, body: &Spooled, streams: bool) -> Length {
    let conf = &rq.loc().proxy;
    match body {
        _ if streams => rq.body_length.map_or(Length::Chunked, Length::Known),
        Spooled::None => {
            let none_said = rq.has_body || rq.body_length == Some(0);
            let said = none_said && conf.set_body.is_none() && *conf.pass_request_body;
            if said { Length::Known(0) } else { Length::Unsaid }
        }
        body => Length::Known(body.len()),
    }
}

/// Writes the whole head of a request.
fn write(
    rq: &Request,
    known: &Known,
    method: &[u8],
    target: &[u8],
    length: Length,
    head: &mut Vec<u8>,
) -> Written {
    let conf = &rq.loc().proxy;
    append_line_safe(method, head);
    head.push(b' ');
    append_line_safe(target, head);
    head.extend_from_slice(if *conf.http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    let written = known.write(rq, head);
    match length {
        Length::Known(n) => write_field(b"Content-Length", n.to_string().as_bytes(), head),
        Length::Chunked => write_field(b"Transfer-Encoding", b"chunked", head),
        Length::Unsaid => {}
    }
    if *conf.pass_request_headers {
        for (name, value) in rq.head.iter() {
            if !known.left_out.contain(name) {
                write_field(name, value, head);
            }
        }
    }
    head.extend_from_slice(b"\r\n");
    written
}

/// The fields of a request, as the cache may change them.
fn fields(rq: &Request, known: &Known, length: Length) -> Fields {
    let conf = &rq.loc().proxy;
    let mut fields = Fields::default();
    let is_set = |name: &[u8]| conf.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in conf.headers.iter() {
        let value = value.eval(rq);
        if !value.is_empty() {
            fields.add(name.clone(), value);
        }
    }
    if !is_set(b"host") {
        let host = rq.proxy_target.as_ref().map(|t| t.authority.clone()).unwrap_or_default();
        fields.add_static("Host", host);
    }
    if *conf.http10 && !is_set(b"connection") {
        fields.add_static("Connection", Bytes::from_static(b"close"));
    }
    match length {
        Length::Known(n) => fields.add_static("Content-Length", n.to_string()),
        Length::Chunked => fields.add_static("Transfer-Encoding", Bytes::from_static(b"chunked")),
        Length::Unsaid => {}
    }
    if *conf.pass_request_headers {
        for (name, value) in rq.head.iter() {
            let is_conditional = NOT_PASSED_BY_CACHE.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()));
            if !is_conditional && !known.left_out.contain(name) {
                fields.add(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
            }
        }
    }
    fields
}
