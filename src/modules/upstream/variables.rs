//! The variables of upstreams: what a request's attempts came to.

use crate::http::Request;
use crate::http::request::Attempt;
use crate::http::vars::Variable;
use std::time::Duration;

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("upstream_addr", |rq, _, out| {
        each(rq, out, |a, out| out.extend_from_slice(a.peer.as_bytes()))
    }),
    Variable::new("upstream_status", |rq, _, out| {
        each(rq, out, |a, out| match a.status {
            0 => out.push(b'-'),
            status => out.extend_from_slice(format!("{status}").as_bytes()),
        })
    }),
    Variable::new("upstream_response_time", |rq, _, out| {
        each(rq, out, |a, out| match a.end.micros() {
            0 => out.push(b'-'),
            micros => seconds(out, Duration::from_micros(micros)),
        })
    }),
    Variable::new("upstream_connect_time", |rq, _, out| each(rq, out, |a, out| time_or_dash(out, a.connect))),
    Variable::new("upstream_header_time", |rq, _, out| each(rq, out, |a, out| time_or_dash(out, a.header))),
    Variable::new("upstream_response_length", |rq, _, out| {
        each(rq, out, |a, out| out.extend_from_slice(a.end.received().to_string().as_bytes()))
    }),
    Variable::new("upstream_bytes_received", |rq, _, out| {
        each(rq, out, |a, out| {
            let total = a.end.received() + a.head_size;
            out.extend_from_slice(total.to_string().as_bytes());
        })
    }),
    Variable::new("upstream_bytes_sent", |rq, _, out| {
        each(rq, out, |a, out| out.extend_from_slice(a.bytes_sent.to_string().as_bytes()))
    }),
    Variable::new("upstream_cache_status", |rq, _, out| match rq.cache_status {
        Some(status) => {
            out.extend_from_slice(status.as_str().as_bytes());
            true
        }
        None => false,
    })
    .pure(),
    Variable::prefix("upstream_trailer_", |rq, name, out| {
        let fields = rq.attempts.last().and_then(|attempt| attempt.end.trailers());
        fields.is_some_and(|fields| crate::modules::headers::joined(fields, name, out))
    }),
    Variable::prefix("upstream_http_", |rq, name, out| {
        let Some(fields) = &rq.upstream_fields else { return false };
        let name = name.replace('_', "-");
        let mut found = false;
        for value in fields.all(&name) {
            if found {
                out.extend_from_slice(b", ");
            }
            found = true;
            out.extend_from_slice(value);
        }
        found
    })
    .pure(),
    Variable::prefix("upstream_cookie_", |rq, name, out| {
        let Some(fields) = &rq.upstream_fields else { return false };
        for cookie in fields.all("set-cookie") {
            let end = memchr::memchr(b';', cookie).unwrap_or(cookie.len());
            if let Some(at) = memchr::memchr(b'=', &cookie[..end])
                && cookie[..at].eq_ignore_ascii_case(name.as_bytes())
            {
                out.extend_from_slice(&cookie[at + 1..end]);
                return true;
            }
        }
        false
    }),
];

/// One value for each attempt, separated as nginx separates them; false when there was none.
fn each(rq: &Request, out: &mut Vec<u8>, write: impl Fn(&Attempt, &mut Vec<u8>)) -> bool {
    for (i, attempt) in rq.attempts.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(if attempt.another { b" : " } else { b", " });
        }
        write(attempt, out);
    }
    !rq.attempts.is_empty()
}

fn seconds(out: &mut Vec<u8>, time: Duration) {
    out.extend_from_slice(format!("{}.{:03}", time.as_secs(), time.subsec_millis()).as_bytes());
}

fn time_or_dash(out: &mut Vec<u8>, time: Option<Duration>) {
    match time {
        Some(time) => seconds(out, time),
        None => out.push(b'-'),
    }
}
