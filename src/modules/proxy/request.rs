//! The request that goes upstream: which fields, in which order (ngx_http_proxy_create_request).

use crate::http::Request;
use crate::http::head::Method;
use crate::http::response::Fields;
use crate::upstream::balance;
use crate::upstream::connect::TlsPeer;
use crate::upstream::group::Group;
use crate::upstream::spool::Spooled;
use crate::upstream::{About, Plan};
use bytes::Bytes;
use std::sync::Arc;

/// Fields of the client that are its connection's, not the request's; `proxy_set_header` may set
/// them all the same.
const NOT_PASSED: [&str; 8] =
    ["host", "connection", "content-length", "transfer-encoding", "te", "keep-alive", "expect", "upgrade"];

/// What a cache asks for itself: the whole, unconditionally.
const NOT_PASSED_BY_CACHE: [&str; 6] =
    ["if-modified-since", "if-unmodified-since", "if-none-match", "if-match", "range", "if-range"];

/// The plan for a request. With `streams` its body is still with the client.
pub fn plan(rq: &mut Request, group: Arc<Group>, body: Spooled, streams: bool, caching: bool) -> Plan {
    let conf = &rq.loc().proxy;
    let mut body = body;
    if let Some(set) = conf.set_body.as_ref() {
        let value = set.eval(rq);
        body = if value.is_empty() { Spooled::None } else { Spooled::Memory(value) };
    }
    let conf = &rq.loc().proxy;
    let fields = fields(rq, &body, streams, caching);
    let method = match conf.method.as_ref() {
        Some(method) => method.eval(rq),
        None if caching && rq.method == Method::Head && crate::modules::proxy_cache::converts_head(rq) => {
            Bytes::from_static(b"GET")
        }
        None => Bytes::copy_from_slice(rq.method_name()),
    };
    // The target was found just before.
    let target = rq.proxy_target.clone();
    let tls = target.as_ref().filter(|t| t.tls).map(|t| {
        let name = match conf.ssl_name.as_ref() {
            Some(name) => String::from_utf8_lossy(&name.eval(rq)).into_owned(),
            None => {
                let authority = String::from_utf8_lossy(&t.authority).into_owned();
                crate::modules::upstream::split_host(&authority, 443)
                    .map_or(authority.clone(), |(h, _)| h.to_string())
            }
        };
        TlsPeer { name, send_name: *conf.ssl_server_name, trust: (*conf.ssl).clone() }
    });
    let hash_key = match &group.conf.method {
        balance::Method::Hash(key) | balance::Method::ConsistentHash(key) => Some(key.eval(rq)),
        _ => None,
    };
    // Only a client that asked for it can be switched, whatever `proxy_set_header` says.
    let upgrade = rq.depth == 0
        && fields.get("upgrade").is_some()
        && rq.head.get("upgrade").is_some()
        && rq.version() == crate::http::Version::Http11;
    Plan {
        local: rq.local.clone(),
        level: rq.level,
        group,
        tls,
        method,
        target: target.map(|t| t.uri.clone()).unwrap_or_default(),
        http10: *conf.http10,
        fields,
        body,
        hash_key,
        client: rq.peer().ip(),
        upgrade,
        about: About::of(rq),
    }
}

fn fields(rq: &Request, body: &Spooled, streams: bool, caching: bool) -> Fields {
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
    if !is_set(b"content-length") && !is_set(b"transfer-encoding") {
        let length = match (body, streams) {
            (_, true) => rq.body_length,
            (Spooled::None, false) => {
                let none_said = rq.has_body || rq.body_length == Some(0);
                (none_said && conf.set_body.is_none() && *conf.pass_request_body).then_some(0)
            }
            (body, false) => Some(body.len()),
        };
        match length {
            Some(n) => fields.add_static("Content-Length", n.to_string()),
            None if streams => fields.add_static("Transfer-Encoding", Bytes::from_static(b"chunked")),
            None => {}
        }
    }
    if *conf.pass_request_headers {
        for (name, value) in rq.head.iter() {
            let is_in = |list: &[&str]| list.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()));
            let skipped = is_in(&NOT_PASSED) || (caching && is_in(&NOT_PASSED_BY_CACHE)) || is_set(name);
            if !skipped {
                fields.add(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
            }
        }
    }
    fields
}
