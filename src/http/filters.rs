//! What a response goes through on its way out, in nginx's order: the status that `error_page` gave
//! it, the `Location` completed, not-modified, headers, gzip, ranges; then `Vary`.

use super::date;
use super::error_page;
use super::head::Method;
use super::range::{self, Unsatisfiable};
use super::request::{Address, Request};
use super::response::{Fields, Mark, Modified, Response};
use crate::modules::core::IfModifiedSince;
use crate::modules::{LocConf, headers};
use bytes::Bytes;
use std::io::Write;

/// A filter in a module's table.
#[derive(Clone, Copy)]
pub struct Filter {
    /// Whether it has anything to do at a level.
    pub wants: fn(&LocConf) -> bool,
    /// Whether it sees the answers to subrequests too.
    pub subrequests: bool,
    /// Whether what it does follows from the response, and from the fields and variables of the request that it
    /// reads by name; or it says itself where that is not so ([`crate::http::hit`]).
    pub pure: bool,
    /// Changes the response. A filter of bodies wraps the response's body in its own stream.
    pub call: fn(&mut Request, &mut Response),
}

/// Says of a response that its body will be other bytes than the ones it was made with: its length is
/// no longer known, no range can be cut, and its tag says no more than that it means the same.
pub fn changes_body(response: &mut Response) {
    response.length = None;
    response.ranges = false;
    response.accept_ranges = false;
    response.fields.remove("accept-ranges");
    weaken(&mut response.etag);
}

/// Makes a tag a weak one. What is no tag with quotes is dropped (ngx_http_weak_etag).
pub fn weaken(etag: &mut Option<Bytes>) {
    *etag = match etag.take() {
        Some(tag) if tag.starts_with(b"W/") => Some(tag),
        Some(tag) if tag.starts_with(b"\"") => Some([b"W/", &tag[..]].concat().into()),
        _ => None,
    };
}

/// Runs the filters that see the answers to subrequests.
pub fn apply_to_subrequest(rq: &mut Request, response: &mut Response) {
    if let Some(status) = rq.status_override.take() {
        response.status = status;
    }
    run_table(rq, response);
}

fn run_table(rq: &mut Request, response: &mut Response) {
    if let (Some(carried), false) = (rq.carried.get("content-type"), response.upstream)
        && response.type_length.is_none()
        && response.content_type.as_ref() == Some(carried)
    {
        response.type_length = Some(crate::modules::media_types::type_length(carried));
    }
    // A filter does not change the level, so that the table stays the same.
    for i in 0.. {
        let Some(filter) = rq.plan().filters().get(i).copied() else { return };
        if filter.subrequests || rq.depth == 0 {
            if !filter.pure {
                rq.watch.spoil();
            }
            (filter.call)(rq, response);
        }
    }
}

/// Runs the filters. A refusal (412) takes the response's place: `error_page` applies to it.
pub fn apply(rq: &mut Request, response: &mut Response) -> Result<(), Box<Response>> {
    // First, so that what follows knows an error page for what it is.
    if let Some(status) = rq.status_override.take() {
        response.status = status;
        rq.told_status = Some(status);
        if status == 204 {
            // Nothing is said of a content that there is not.
            response.content_type = None;
            forget_time(response);
        }
    }
    // What follows is about the whole.
    if rq.slice.get().is_some() {
        crate::modules::slice::apply(rq, response);
        if response.silent {
            return Ok(());
        }
    }
    carry(rq, response);
    if response.status == 200 && !response.unconditional {
        match check(rq, response) {
            Check::Send => {}
            Check::NotModified => not_modified(response),
            // Nothing of what would have been sent holds for the refusal.
            Check::Failed => {
                rq.carried = Fields::default();
                return Err(Box::new(Response::new(412)));
            }
        }
    }
    if headers::reads_response(rq.loc()) {
        super::h1::record(rq, response);
    }
    // Before fields are added: a `Location` among them is sent as it is written.
    complete_location(rq, response);
    run_table(rq, response);
    if let Err(refusal) = range::apply(rq, response) {
        let has_page = rq.loc().core.error_pages.iter().any(|p| p.statuses.contains(&416));
        if has_page && !rq.in_error_page {
            // What was said of the body stays with the page in its place, as in nginx.
            let mut page = Response::new(416);
            page.fields = std::mem::take(&mut response.fields);
            page.fields.set("Content-Range", format!("bytes */{}", refusal.length));
            if let Some(etag) = response.etag.take() {
                page.fields.add_static("ETag", etag);
            }
            return Err(Box::new(page));
        }
        unsatisfiable(rq, response, &refusal);
    }
    // Of a page in place of a file nobody need know when it was changed.
    if !response.upstream && !matches!(response.status, 200 | 206 | 304) {
        forget_time(response);
    }
    if response.vary && *rq.loc().gzip.vary {
        response.fields.add_first("Vary", Bytes::from_static(b"Accept-Encoding"));
    }
    Ok(())
}

/// Of `Last-Modified` nothing is said but what an upstream or the configuration has written.
fn forget_time(response: &mut Response) {
    response.last_modified.take_if(|modified| matches!(modified, Modified::At(_)));
}

/// Adds what an earlier answer to the request left for this one; it came first and stands first.
fn carry(rq: &Request, response: &mut Response) {
    if rq.carried.is_empty() {
        return;
    }
    let is = |name: &[u8], other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    // Where a later redirect leads is what counts.
    let located = response.fields.get("location").is_some();
    // An earlier one is ours even where the page is an upstream's.
    response.complete_location |= !located;
    let stays = |n: &[u8]| !(is(n, "content-type") || is(n, "etag") || located && is(n, "location"));
    let others = rq.carried.iter().filter(|(n, _)| stays(n));
    response.fields.prepend(others.map(|(n, v)| (n.clone(), v.clone())));
    if let Some(etag) = rq.carried.get("etag")
        && response.etag.is_none()
    {
        response.etag = Some(etag.clone());
        response.fields.mark_first(Mark::ETag);
    }
}

/// Makes a `Location` of ours that is a path absolute (ngx_http_header_filter). An upstream's is
/// left as it came.
fn complete_location(rq: &Request, response: &mut Response) {
    let core = &rq.loc().core;
    if (response.upstream && !response.complete_location) || !*core.absolute_redirect {
        return;
    }
    let Some(path) = response.fields.get("location").filter(|l| l.starts_with(b"/")) else { return };
    let mut location = Vec::with_capacity(64 + path.len());
    location.extend_from_slice(rq.scheme().as_bytes());
    location.extend_from_slice(b"://");
    if *core.server_name_in_redirect {
        location.extend_from_slice(rq.srv().core.name.as_bytes());
    } else if !rq.host.is_empty() {
        location.extend_from_slice(&rq.host);
    } else {
        // Writing to memory does not fail.
        let _ = match &rq.conn.local {
            Address::Inet(a) => write!(location, "{}", a.ip()),
            Address::Unix(path) => write!(location, "unix:{path}"),
        };
    }
    if let (Address::Inet(a), true) = (&rq.conn.local, *core.port_in_redirect)
        && a.port() != if rq.conn.tls.is_some() { 443 } else { 80 }
    {
        let _ = write!(location, ":{}", a.port());
    }
    location.extend_from_slice(path);
    response.fields.put("Location", location);
    response.location_completed = true;
}

/// The length of the body that GET would get, when it is known. A HEAD has no body to take it from.
pub fn length(rq: &Request, response: &Response) -> Option<u64> {
    if rq.method == Method::Head { response.length } else { response.content_length() }
}

enum Check {
    Send,
    NotModified,
    Failed,
}

/// The request's conditions (ngx_http_not_modified_header_filter).
fn check(rq: &Request, response: &Response) -> Check {
    let head = &rq.head;
    if let Some(since) = head.get("if-unmodified-since") {
        let unmodified = match (date::parse_http_date(since), response.modified()) {
            (Some(since), Some(at)) => since >= at,
            _ => false,
        };
        if !unmodified {
            return Check::Failed;
        }
    }
    if let Some(list) = head.get("if-match")
        && !matches_tag(list, response.etag.as_deref(), false)
    {
        return Check::Failed;
    }
    let (since, list) = (head.get("if-modified-since"), head.get("if-none-match"));
    if since.is_none() && list.is_none() {
        return Check::Send;
    }
    let how = *rq.loc().core.if_modified_since;
    if since.is_some_and(|since| is_modified(how, since, response.modified()))
        || list.is_some_and(|list| !matches_tag(list, response.etag.as_deref(), true))
    {
        return Check::Send;
    }
    Check::NotModified
}

fn is_modified(how: IfModifiedSince, since: &[u8], last_modified: Option<u64>) -> bool {
    let (Some(since), Some(at)) = (date::parse_http_date(since), last_modified) else { return true };
    match how {
        IfModifiedSince::Off => true,
        IfModifiedSince::Exact => since != at,
        IfModifiedSince::Before => since < at,
    }
}

/// Whether `etag` is in a list of tags (ngx_http_test_if_match); with `weak` a weak tag is as good
/// as a strong one.
fn matches_tag(list: &[u8], etag: Option<&[u8]>, weak: bool) -> bool {
    if list == b"*" {
        return true;
    }
    let Some(etag) = etag else { return false };
    let strip = |tag: &[u8]| -> usize { if weak && tag.len() > 2 && tag.starts_with(b"W/") { 2 } else { 0 } };
    let etag = &etag[strip(etag)..];
    let mut rest = list;
    while !rest.is_empty() {
        rest = &rest[strip(rest)..];
        if let Some(after) = rest.strip_prefix(etag) {
            let after = after.trim_ascii_start();
            if after.is_empty() || after.starts_with(b",") {
                return true;
            }
        }
        let comma = memchr::memchr(b',', rest).unwrap_or(rest.len());
        rest = &rest[comma..];
        let skip = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b',')).count();
        rest = &rest[skip..];
    }
    false
}

fn not_modified(response: &mut Response) {
    response.status = 304;
    response.reason = None;
    response.content_type = None;
    response.length = None;
    response.ranges = false;
    response.accept_ranges = false;
    response.fields.remove("content-encoding");
    response.body = super::body::Body::Empty;
}

/// The page for 416. What was added to the response stays with it, as in nginx.
fn unsatisfiable(rq: &mut Request, response: &mut Response, refusal: &Unsatisfiable) {
    let mut page = error_page::built_in(rq, Response::new(416));
    page.fields = std::mem::take(&mut response.fields);
    page.fields.remove("accept-ranges");
    page.fields.set("Content-Range", format!("bytes */{}", refusal.length));
    page.vary = response.vary;
    *response = page;
    // What is added says what it is answered with now.
    super::h1::record(rq, response);
    run_table(rq, response);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_as_nginx_compares_them() {
        let tag = Some(&b"\"a\""[..]);
        for (list, strong, weak) in [
            ("*", true, true),
            ("\"a\"", true, true),
            ("W/\"a\"", false, true),
            ("\"b\", \"a\"", true, true),
            ("\"b\",W/\"a\" ,\"c\"", false, true),
            ("\"a\"x", false, false),
            ("\"b\"", false, false),
            ("", false, false),
            (" \"a\"", false, false),
        ] {
            assert_eq!(matches_tag(list.as_bytes(), tag, false), strong, "{list} strong");
            assert_eq!(matches_tag(list.as_bytes(), tag, true), weak, "{list} weak");
        }
        assert!(!matches_tag(b"\"a\"", None, true));
        assert!(matches_tag(b"\"a\"", Some(b"W/\"a\""), true));
        assert!(!matches_tag(b"W/\"a\" x", Some(b"W/\"a\""), false));
    }

    #[test]
    fn tags_are_weakened() {
        let weak = |tag: &str| {
            let mut tag = Some(Bytes::copy_from_slice(tag.as_bytes()));
            weaken(&mut tag);
            tag.map(|t| String::from_utf8(t.to_vec()).unwrap())
        };
        assert_eq!(weak("\"x\"").as_deref(), Some("W/\"x\""));
        assert_eq!(weak("W/\"x\"").as_deref(), Some("W/\"x\""));
        assert_eq!(weak("x"), None);
    }

    #[test]
    fn times_are_compared_as_configured() {
        let (at, before, after) = (
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Mon, 13 Nov 2023 22:13:20 GMT",
            "Wed, 15 Nov 2023 22:13:20 GMT",
        );
        let time = date::parse_http_date(at.as_bytes());
        use IfModifiedSince::{Before, Exact, Off};
        for (how, since, want) in [
            (Exact, at, false),
            (Exact, before, true),
            (Exact, after, true),
            (Before, at, false),
            (Before, before, true),
            (Before, after, false),
            (Off, at, true),
            (Exact, "junk", true),
            (Before, "junk", true),
        ] {
            assert_eq!(is_modified(how, since.as_bytes(), time), want, "{how:?} {since}");
        }
        assert!(is_modified(Exact, at.as_bytes(), None));
    }
}
