//! The head of a response.

use super::field::{end_line, write_field};
use crate::http::date;
use crate::http::error_page::server_token;
use crate::http::head::{Method, Version};
use crate::http::lines::{number, padded};
use crate::http::request::{Request, Sent};
use crate::http::response::{Fields, Mark, Modified, Place, Response, reason};
use crate::modules::headers;
use bytes::Bytes;
use std::mem::swap;

/// How a response's body goes out.
pub(super) struct Plan {
    /// Whether there is one on the wire.
    pub(super) body: bool,
    pub(super) chunked: bool,
    pub(super) length: Option<u64>,
    /// Whether its end is the end of the connection.
    pub(super) closes: bool,
}

impl Plan {
    pub(super) fn of(rq: &Request, response: &Response) -> Plan {
        let bodyless = matches!(response.status, 101 | 204 | 304);
        let head_only = rq.method == Method::Head;
        let length = match (bodyless, head_only) {
            // A 304 of our own says its length if it has one, an upstream's how long the body would be.
            (true, _) if response.status == 304 => response.length.filter(|n| *n > 0 || !response.upstream),
            (true, _) => None,
            // Of a HEAD that went upstream the length is what the upstream said, or unknown.
            (false, true) => response.length.or_else(|| response.body.known_length().filter(|n| *n > 0)),
            (false, false) => response.content_length(),
        };
        let unknown = !bodyless && !head_only && length.is_none();
        let with_trailers = response.trailers && !bodyless && !head_only;
        let chunked = (unknown || with_trailers)
            && rq.head.version == Version::Http11
            && *rq.loc().core.chunked_transfer_encoding;
        // Fields follow chunks only.
        let length = length.filter(|_| !chunked);
        Plan { body: !bodyless && !head_only, chunked, length, closes: unknown && !chunked }
    }
}

/// Writes status line and fields in nginx's order; where our date stands in it, if it does.
pub(super) fn write_head(rq: &Request, response: &Response, plan: &Plan, out: &mut Vec<u8>) -> Option<usize> {
    let mut dated = None;
    write_status_line(response, out);
    let core = &rq.loc().core;
    let marked = |mark| response.fields.is_marked(mark);
    match &response.server {
        Some(_) if marked(Mark::Server) => {}
        Some(server) => write_field(b"Server", server, out),
        None => write_field(b"Server", server_token(*core.server_tokens).as_bytes(), out),
    }
    match &response.date {
        Some(_) if marked(Mark::Date) => {}
        Some(date) => write_field(b"Date", date, out),
        None => {
            out.extend_from_slice(b"Date: ");
            dated = Some(out.len());
            date::append_now(out);
            end_line(out);
        }
    }
    if let Some(kind) = &response.content_type {
        write_field(b"Content-Type", kind, out);
    }
    if let Some(length) = plan.length {
        out.extend_from_slice(b"Content-Length: ");
        number(out, length);
        end_line(out);
    }
    if let Some(modified) = &response.last_modified
        && !marked(Mark::LastModified)
    {
        modified.show(|text| write_field(b"Last-Modified", text, out));
    }
    // Only one that was completed here stands before the others.
    let completed = response.fields.get("location").filter(|_| response.location_completed);
    if let Some(location) = completed {
        write_field(b"Location", location, out);
    }
    if plan.chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if response.status == 101 {
        out.extend_from_slice(b"Connection: upgrade\r\n");
    } else if rq.keepalive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
        if let Some(seconds) = *core.keepalive_header {
            out.extend_from_slice(b"Keep-Alive: timeout=");
            number(out, seconds);
            end_line(out);
        }
    } else {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    let mut skips = completed.is_some();
    response.fields.each_place(|place| match place {
        Place::Field(name, _) if skips && name.eq_ignore_ascii_case(b"location") => skips = false,
        Place::Field(name, value) => write_field(name, value, out),
        Place::Mark(mark) => write_marked(mark, response, out),
    });
    if response.accept_ranges {
        out.extend_from_slice(b"Accept-Ranges: bytes\r\n");
    }
    end_line(out);
    dated
}

fn write_status_line(response: &Response, out: &mut Vec<u8>) {
    let reason = match &response.reason {
        // An upstream that has none to say says none.
        Some((status, reason)) if *status == response.status => Some(&reason[..]).filter(|r| !r.is_empty()),
        _ => Some(reason(response.status).as_bytes()),
    };
    if response.status == 200 && reason == Some(b"OK") {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    padded(out, response.status.into());
    if let Some(reason) = reason {
        out.push(b' ');
        out.extend_from_slice(reason);
    }
    end_line(out);
}

/// Writes a field that is kept apart from the others, where there is one.
fn write_marked(mark: Mark, response: &Response, out: &mut Vec<u8>) {
    let value = match mark {
        Mark::ETag => &response.etag,
        Mark::Server => &response.server,
        Mark::Date => &response.date,
        Mark::LastModified => {
            if let Some(modified) = &response.last_modified {
                modified.show(|text| write_field(response.name_of(mark), text, out));
            }
            return;
        }
    };
    if let Some(value) = value {
        write_field(response.name_of(mark), value, out);
    }
}

/// The last chunk, with the fields that follow the body.
pub(super) fn last_chunk(rq: &mut Request, response: &Response) -> Bytes {
    if !headers::expects_trailers(rq, response) {
        return Bytes::from_static(b"0\r\n\r\n");
    }
    let mut end = b"0\r\n".to_vec();
    for (name, value) in headers::trailers(rq, response).iter() {
        write_field(name, value, &mut end);
    }
    end.extend_from_slice(b"\r\n");
    end.into()
}

/// Keeps what the log and `$sent_http_*` ask for of a response whose head has been written; its fields
/// are of no further use there.
pub fn record_sent(rq: &mut Request, response: &mut Response) {
    let sent = &mut rq.sent;
    sent.status = response.status;
    sent.length = response.content_length();
    sent.accept_ranges = response.accept_ranges;
    sent.content_type = response.content_type.take();
    sent.etag = response.etag.take();
    sent.last_modified = response.last_modified.take();
    if !matches!(response.status, 200 | 206 | 304) {
        // Sent, but told no more (ngx_http_header_filter).
        let gone = |modified: &mut Modified| response.status == 204 || modified.time().is_some();
        sent.last_modified.take_if(gone);
    }
    // What was kept before is dropped with the response.
    swap(&mut sent.fields, &mut response.fields);
    if !sent.trailers.is_empty() {
        sent.trailers = Fields::default();
    }
    (sent.bytes, sent.body_bytes, sent.aborted) = (0, 0, false);
}

/// Keeps what `$sent_http_*` asks for before a response is sent.
pub fn record(rq: &mut Request, response: &Response) {
    rq.sent = Sent {
        status: response.status,
        fields: response.fields.clone(),
        content_type: response.content_type.clone(),
        length: response.content_length(),
        last_modified: response.last_modified.clone(),
        etag: response.etag.clone(),
        accept_ranges: response.accept_ranges,
        ..Sent::default()
    };
}
