//! The ssl module's variables.

use crate::http::Request;
use crate::http::request::TlsInfo;
use crate::http::vars::{Getter, Variable};

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("ssl_protocol", |rq, _, out| put(rq, out, |tls| tls.protocol)),
    Variable::new("ssl_cipher", |rq, _, out| put(rq, out, |tls| tls.cipher)),
    Variable::new("ssl_curve", |rq, _, out| put(rq, out, |tls| tls.curve)),
    Variable::new("ssl_alpn_protocol", |rq, _, out| put(rq, out, |tls| tls.alpn)),
    Variable::new("ssl_server_name", |rq, _, out| {
        put(rq, out, |tls| tls.server_name.as_deref().unwrap_or_default())
    }),
    Variable::new("ssl_session_reused", |rq, _, out| put(rq, out, |tls| if tls.resumed { "r" } else { "." })),
    // Early data is never accepted.
    Variable::new("ssl_early_data", NONE),
    // Clients are asked for no certificate.
    Variable::new("ssl_client_verify", |rq, _, out| put(rq, out, |_| "NONE")),
    Variable::new("ssl_client_cert", NONE),
    Variable::new("ssl_client_raw_cert", NONE),
    Variable::new("ssl_client_escaped_cert", NONE),
    Variable::new("ssl_client_s_dn", NONE),
    Variable::new("ssl_client_i_dn", NONE),
    Variable::new("ssl_client_s_dn_legacy", NONE),
    Variable::new("ssl_client_i_dn_legacy", NONE),
    Variable::new("ssl_client_serial", NONE),
    Variable::new("ssl_client_fingerprint", NONE),
    Variable::new("ssl_client_v_start", NONE),
    Variable::new("ssl_client_v_end", NONE),
    Variable::new("ssl_client_v_remain", NONE),
    // rustls does not tell these.
    Variable::new("ssl_session_id", NONE),
    Variable::new("ssl_ciphers", NONE),
    Variable::new("ssl_curves", NONE),
];

const NONE: Getter = |_, _, _| false;

/// Appends what `of` reads of the session; there is none without a session, or when it is empty.
fn put(rq: &Request, out: &mut Vec<u8>, of: for<'a> fn(&'a TlsInfo) -> &'a str) -> bool {
    let Some(tls) = &rq.conn.tls else { return false };
    let text = of(tls);
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}
