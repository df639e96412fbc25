//! The heads of responses, and the fields after their bodies, as the `h2` crate takes them.

use crate::http::body::BodyError;
use crate::http::date;
use crate::http::error_page::server_token;
use crate::http::request::Request;
use crate::http::response::{Fields, Modified, Response, Seconds};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::cell::RefCell;

/// Status and fields in nginx's order, and about how many bytes they take; an error when there are too
/// many fields.
pub fn head(
    rq: &Request,
    response: &Response,
    length: Option<u64>,
) -> Result<(http::Response<()>, u64), BodyError> {
    let mut fields = HeaderMap::try_with_capacity(response.fields.len() + 8).map_err(|_| too_many())?;
    let mut size = 0;
    let mut all = true;
    let mut put = |name: HeaderName, value: HeaderValue| {
        size += name.as_str().len() as u64 + value.len() as u64;
        all &= fields.try_append(name, value).is_ok();
    };
    let server = response.server.as_ref().and_then(value);
    put(
        header::SERVER,
        server.unwrap_or_else(|| HeaderValue::from_static(server_token(*rq.loc().core.server_tokens))),
    );
    put(header::DATE, response.date.as_ref().and_then(value).unwrap_or_else(|| dated(date::now())));
    if let Some(kind) = response.content_type.as_ref().and_then(value) {
        put(header::CONTENT_TYPE, kind);
    }
    if let Some(length) = length {
        put(header::CONTENT_LENGTH, length.into());
    }
    let modified = match &response.last_modified {
        Some(Modified::At(at)) => Some(dated(*at)),
        Some(Modified::Written(text)) => value(text),
        None => None,
    };
    if let Some(modified) = modified {
        put(header::LAST_MODIFIED, modified);
    }
    for (name, text) in response.fields.iter() {
        // The name is made lower case here.
        let Ok(name) = HeaderName::from_bytes(name) else { continue };
        if !is_of_http1(&name)
            && let Some(value) = value(text)
        {
            put(name, value);
        }
    }
    if let Some(etag) = response.etag.as_ref().and_then(value) {
        put(header::ETAG, etag);
    }
    if response.accept_ranges {
        put(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if !all {
        return Err(too_many());
    }
    let mut head = http::Response::new(());
    // A status is three digits; one that is not is our defect, or an upstream's.
    *head.status_mut() = http::StatusCode::from_u16(response.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    *head.headers_mut() = fields;
    Ok((head, size))
}

/// The fields that follow a body, and about how many bytes they take.
pub fn trailers(fields: &Fields) -> Result<(HeaderMap, u64), BodyError> {
    let mut map = HeaderMap::new();
    let mut size = 0;
    for (name, text) in fields.iter() {
        let (Ok(name), Some(value)) = (HeaderName::from_bytes(name), value(text)) else { continue };
        if !is_of_http1(&name) {
            size += (name.as_str().len() + value.len()) as u64;
            map.try_append(name, value).map_err(|_| too_many())?;
        }
    }
    Ok((map, size))
}

/// More fields than a head of HTTP/2 can have here; an upstream with large buffers may send them.
fn too_many() -> BodyError {
    BodyError::Upstream("too many fields for an answer in HTTP/2".into())
}

/// What is no value (a control character in it) is not sent rather than sent as another.
fn value(text: &Bytes) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(text.clone()).ok()
}

/// Dates that are kept.
const DATES: usize = 16;

thread_local! {
    /// The dates that were sent last, by their seconds: the present one and those of what is asked for often.
    static DATED: RefCell<[(Seconds, Option<HeaderValue>); DATES]> = const { RefCell::new([const { (0, None) }; DATES]) };
}

/// A date as a field's value.
pub fn dated(at: Seconds) -> HeaderValue {
    DATED.with_borrow_mut(|kept| {
        let kept = &mut kept[at as usize % DATES];
        match kept {
            (of, Some(value)) if *of == at => value.clone(),
            _ => {
                let value = HeaderValue::from_bytes(&date::text(at));
                // A date has letters, digits, spaces, commas and colons.
                let value = value.unwrap_or(HeaderValue::from_static(""));
                *kept = (at, Some(value.clone()));
                value
            }
        }
    })
}

/// Fields about an HTTP/1 connection, which HTTP/2 forbids (RFC 9113 section 8.2.2).
fn is_of_http1(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::Running;

    #[test]
    fn more_fields_than_a_head_holds_are_an_error() {
        let running = Running::start("server { listen LISTEN; }");
        let rq = running.request("/");
        for (count, fits) in [(1_000, true), (40_000, false)] {
            let mut response = Response::new(200);
            (0..count).for_each(|n| response.fields.add(format!("x-{n:x}"), ""));
            let head = head(&rq, &response, None);
            assert_eq!(head.is_ok(), fits, "{count}");
        }
    }

    #[test]
    fn what_may_not_be_sent_is_left_out() {
        let running = Running::start("server { listen LISTEN; }");
        let rq = running.request("/");
        let mut response = Response::with_body(200, "text/plain", "x");
        for (name, value) in [("Connection", "close"), ("Keep-Alive", "5"), ("X-Bad", "a\nb"), ("X-Y", "z")] {
            response.fields.add_static(name, value);
        }
        response.last_modified = Some(Modified::At(784_111_777));
        let (head, _) = head(&rq, &response, Some(1)).unwrap();
        let names: Vec<_> = head.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["server", "date", "content-type", "content-length", "last-modified", "x-y"]);
        assert_eq!(head.headers()["last-modified"], "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn dates_of_one_place_do_not_mix() {
        for at in [0, DATES as u64, 0, 2 * DATES as u64] {
            assert_eq!(dated(at), date::http_date(at).as_str());
        }
    }
}
