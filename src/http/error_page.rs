//! Answers that are not content: `error_page`, and the pages nginx has built in.

use super::head::Method;
use super::phases::Flow;
use super::request::Request;
use super::response::{Response, reason};
use crate::modules::core::{ErrorPage, ErrorTarget};
use bytes::Bytes;

/// Applies `error_page` to an answer without content of its own; where none applies, the answer
/// comes back with the built-in page (ngx_http_special_response_handler).
pub fn choose(rq: &mut Request, response: Response) -> Flow {
    let status = response.status;
    // What went wrong may go well the next time, and a page in its place says nothing of it.
    rq.watch.spoil();
    // To these nginx says nothing at all.
    if matches!(status, 0 | 408 | 444 | 499) {
        return Flow::respond(Response {
            status: if status == 0 { 444 } else { status },
            silent: true,
            ..Response::default()
        });
    }
    // After these the connection's framing cannot be trusted.
    if matches!(status, 400 | 413 | 414 | 494 | 495 | 496 | 497 | 500 | 501) {
        rq.keepalive = false;
    }
    rq.status_override = Some(status);
    rq.told_status = None;
    // What an upstream said that sent the request elsewhere is not the type of this.
    rq.carried.remove("content-type");
    let conf = &rq.loc().core;
    if !rq.in_error_page && !conf.error_pages.is_empty() && rq.changes_left > 0 {
        let page = conf.error_pages.iter().find(|p| p.statuses.contains(&status)).cloned();
        // The level that looks for a page decides of those after it, whether or not it has one itself.
        rq.in_error_page = !*conf.recursive_error_pages;
        if let Some(page) = page {
            return redirect(rq, &page, response);
        }
    }
    Flow::respond(built_in(rq, response))
}

fn redirect(rq: &mut Request, page: &ErrorPage, response: Response) -> Flow {
    // What the error said of itself stays with it: the challenge of a 401, the length of a 416, where a redirect
    // led to.
    for (name, value) in response.fields.iter() {
        if name.eq_ignore_ascii_case(b"location") {
            rq.carried.remove("location");
        }
        rq.carried.add(name.clone(), value.clone());
    }
    rq.status_override = match page.overwrite {
        // These are nginx's own and none of HTTP's.
        None if matches!(response.status, 494..=497) => Some(400),
        None => Some(response.status),
        Some(0) => None,
        Some(status) => Some(status),
    };
    match &page.target {
        ErrorTarget::Named(name) => Flow::Named(name.clone()),
        ErrorTarget::Uri(uri) => {
            let uri = uri.eval(rq);
            // What variables made may be something else than a path.
            match uri.first() {
                Some(b'/') => {}
                Some(b'@') => return Flow::Named(uri.slice(1..)),
                _ => return elsewhere(rq, page, uri),
            }
            if rq.method != Method::Head {
                rq.method = Method::Get;
            }
            let (uri, args) = match memchr::memchr(b'?', &uri) {
                Some(at) => (uri.slice(..at), uri.slice(at + 1..)),
                None => (uri, Bytes::new()),
            };
            Flow::Internal { uri, args }
        }
        ErrorTarget::Url(url) => {
            let location = url.eval(rq);
            elsewhere(rq, page, location)
        }
    }
}

/// Sends the client to another address.
fn elsewhere(rq: &mut Request, page: &ErrorPage, location: Bytes) -> Flow {
    let redirects = |code: &u16| matches!(code, 301 | 302 | 303 | 307 | 308);
    let status = page.overwrite.filter(redirects).unwrap_or(302);
    rq.status_override = None;
    let mut response = Response::new(status);
    response.fields.add_static("Location", location);
    Flow::respond(built_in(rq, response))
}

/// The answer with nginx's page for its status as the body.
pub fn built_in(rq: &mut Request, mut response: Response) -> Response {
    rq.status_override = None;
    rq.told_status = None;
    let tokens = *rq.loc().core.server_tokens;
    let (wire, mut page) = page(response.status, tokens);
    if wire >= 400 && !page.is_empty() && pads(rq) {
        page = [&page[..], PADDING.repeat(6).as_bytes()].concat().into();
    }
    response.status = wire;
    response.length = Some(page.len() as u64);
    if !page.is_empty() {
        response.content_type = Some(Bytes::from_static(b"text/html"));
        response.body = page.into();
    }
    response
}

/// Browsers that show a page of their own in place of a short one (`msie_padding`).
fn pads(rq: &Request) -> bool {
    let agent = rq.head.get("user-agent").unwrap_or_default();
    let holds = |what: &[u8]| memchr::memmem::find(agent, what).is_some();
    *rq.loc().core.msie_padding
        && rq.version() > crate::http::Version::Http09
        && (holds(b"Chrome/") || holds(b"MSIE "))
        && !holds(b"Opera")
}

const PADDING: &str = "<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n";

/// The status for the wire and nginx's page for it; empty for a status that has none.
pub fn page(status: u16, tokens: bool) -> (u16, Bytes) {
    let (wire, title, detail) = match status {
        494 => (400, "Request Header Or Cookie Too Large", true),
        495 => (400, "The SSL certificate error", true),
        496 => (400, "No required SSL certificate was sent", true),
        497 => (400, "The plain HTTP request was sent to HTTPS port", true),
        302 => (302, "Found", false),
        401 => (401, "Authorization Required", false),
        301 | 303 | 307 | 308 | 400..=599 => (status, reason(status), false),
        _ => (status, "", false),
    };
    if title.is_empty() {
        return (wire, Bytes::new());
    }
    let heading = if detail { reason(wire) } else { title };
    let detail = if detail { format!("<center>{title}</center>\r\n") } else { String::new() };
    let server = server_token(tokens);
    let page = format!(
        "<html>\r\n<head><title>{wire} {title}</title></head>\r\n<body>\r\n<center><h1>{wire} {heading}</h1></center>\r\n\
         {detail}<hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
    );
    (wire, page.into())
}

/// What we call ourselves in `Server` and at the foot of pages.
pub fn server_token(tokens: bool) -> &'static str {
    if tokens { concat!("edgewater/", env!("CARGO_PKG_VERSION")) } else { "edgewater" }
}
