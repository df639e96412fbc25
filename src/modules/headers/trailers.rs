//! Fields after a response's body: `add_trailer`, and those of an upstream (`proxy_pass_trailers`).

use super::is_plain;
use crate::http::request::Request;
use crate::http::response::{Fields, Response};
use crate::modules::proxy::respond::is_hidden;

/// What says how a message is framed, or is about a connection, is never passed on from behind a body:
/// whoever puts such fields with those of the head would take the message for another (RFC 9110 section
/// 6.5.1), and clients of HTTP/2 refuse the whole answer.
const NEVER: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether fields may follow the body of a response: an HTTP/2 stream must not end with it.
pub fn expects_trailers(rq: &Request, response: &Response) -> bool {
    response.trailers || response.upstream && *rq.loc().proxy.pass_trailers
}

/// The fields that follow a body, all of which has been sent: the upstream's, then our own, whose
/// values are made now (ngx_http_trailers_filter). They are noted for `$sent_trailer_*`.
pub fn trailers<'a>(rq: &'a mut Request, response: &Response) -> &'a Fields {
    let mut fields = Fields::default();
    let conf = &rq.loc().proxy;
    if response.upstream
        && *conf.pass_trailers
        && let Some(theirs) = rq.attempts.last().and_then(|attempt| attempt.end.trailers())
    {
        for (name, value) in theirs.iter() {
            let never = NEVER.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes()));
            if !never && !is_hidden(conf, name) {
                fields.add(name.clone(), value.clone());
            }
        }
    }
    if response.trailers {
        let plain = is_plain(response.status);
        for added in rq.loc().headers.trailers.iter().filter(|added| plain || added.always) {
            let value = added.value.eval(rq);
            if !value.is_empty() {
                fields.add(added.name.clone(), value);
            }
        }
    }
    rq.sent.trailers = fields;
    &rq.sent.trailers
}

/// Appends the values of a variable's name (`x_checksum`); false when there are none.
pub fn joined(fields: &Fields, name: &str, out: &mut Vec<u8>) -> bool {
    let name = name.replace('_', "-");
    crate::modules::core::joined(fields.all(&name).map(bytes::Bytes::as_ref), b", ", out)
}
