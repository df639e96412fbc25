//! The ssl module's variables.

use super::verify;
use crate::http::Request;
use crate::http::request::TlsInfo;
use crate::http::uri::{Escape, escape_into};
use crate::http::vars::{Getter, Variable};
use crate::tls::clients::ClientCertificate;
use crate::tls::x509::{self, Cert};

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
    Variable::new("ssl_client_verify", |rq, _, out| {
        if rq.conn.tls.is_none() {
            return false;
        }
        match verify::shown(rq) {
            None => out.extend_from_slice(b"NONE"),
            Some((_, verdict)) if verdict.is_ok() => out.extend_from_slice(b"SUCCESS"),
            Some((_, verdict)) => out.extend_from_slice(format!("FAILED:{}", verdict.reason()).as_bytes()),
        }
        true
    }),
    Variable::new("ssl_client_cert", |rq, _, out| {
        // Lines that go on are indented, so that the whole may stand in a field.
        put_client(rq, out, |c| x509::pem(c.der).trim_end().replace('\n', "\n\t"))
    }),
    Variable::new("ssl_client_raw_cert", |rq, _, out| put_client(rq, out, |c| x509::pem(c.der))),
    Variable::new("ssl_client_escaped_cert", |rq, _, out| {
        let Some(client) = client(rq) else { return false };
        escape_into(x509::pem(client.der()).as_bytes(), Escape::Component, out);
        true
    }),
    Variable::new("ssl_client_s_dn", |rq, _, out| put_client(rq, out, |c| x509::name_2253(c.x.subject()))),
    Variable::new("ssl_client_i_dn", |rq, _, out| put_client(rq, out, |c| x509::name_2253(c.x.issuer()))),
    Variable::new("ssl_client_s_dn_legacy", |rq, _, out| {
        put_client(rq, out, |c| x509::name_oneline(c.x.subject()))
    }),
    Variable::new("ssl_client_i_dn_legacy", |rq, _, out| {
        put_client(rq, out, |c| x509::name_oneline(c.x.issuer()))
    }),
    Variable::new("ssl_client_serial", |rq, _, out| put_client(rq, out, |c| x509::serial(c.x.raw_serial()))),
    Variable::new("ssl_client_fingerprint", |rq, _, out| {
        put_client(rq, out, |c| {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, c.der);
            digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
        })
    }),
    Variable::new("ssl_client_v_start", |rq, _, out| {
        put_client(rq, out, |c| x509::time(c.x.validity().not_before.timestamp()))
    }),
    Variable::new("ssl_client_v_end", |rq, _, out| {
        put_client(rq, out, |c| x509::time(c.x.validity().not_after.timestamp()))
    }),
    Variable::new("ssl_client_v_remain", |rq, _, out| {
        put_client(rq, out, |c| {
            let now = i64::try_from(crate::http::date::now()).unwrap_or(i64::MAX);
            let left = c.x.validity().not_after.timestamp().saturating_sub(now);
            (left.max(0) / 86_400).to_string()
        })
    }),
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

fn client(rq: &Request) -> Option<&ClientCertificate> {
    rq.conn.tls.as_ref()?.client.as_deref()
}

/// Appends what `of` reads of the client's certificate.
fn put_client(rq: &Request, out: &mut Vec<u8>, of: fn(&Cert<'_>) -> String) -> bool {
    let Some(cert) = client(rq).and_then(|client| Cert::parse(client.der())) else { return false };
    let text = of(&cert);
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}
