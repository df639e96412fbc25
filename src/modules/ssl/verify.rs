//! Requests answered by what the client's certificate came to.

use super::Verify;
use crate::edge::connection::bound;
use crate::http::Request;
use crate::observe::error_log::Level;
use crate::observe::request_log;
use crate::tls::chain::Verdict;
use crate::tls::clients::{ClientCertificate, Clients};
use std::sync::Arc;

/// The server that the name asked for in TLS has, if one has it.
pub fn named_server(rq: &Request) -> Option<usize> {
    let name = rq.conn.tls.as_ref()?.server_name.as_deref()?;
    bound(&rq.local, &rq.conn).names.find_named(name.to_ascii_lowercase().as_bytes(), None)
}

/// What the client showed, and what it comes to.
pub fn shown(rq: &Request) -> Option<(&ClientCertificate, Verdict)> {
    let client = rq.conn.tls.as_ref()?.client.as_deref()?;
    Some((client, client.verdict(asking(rq).as_ref())))
}

/// How the handshake would ask now: as the server of its name does.
fn asking(rq: &Request) -> Option<Arc<Clients>> {
    let servers = &rq.http().servers;
    let default = bound(&rq.local, &rq.conn).names.default;
    let server = named_server(rq).unwrap_or(default);
    let tls = servers[server].conf.ssl.tls.as_ref().or(servers[default].conf.ssl.tls.as_ref())?;
    tls.clients.clone()
}

/// Refuses a request for a host whose server verifies clients where the handshake was for another
/// name (ngx_http_set_virtual_server).
pub fn check_name(rq: &Request, host: &[u8]) -> Result<(), u16> {
    let Some(tls) = &rq.conn.tls else { return Ok(()) };
    let Some(name) = tls.server_name.as_deref() else { return Ok(()) };
    if name.as_bytes().eq_ignore_ascii_case(host) || named_server(rq).is_none() {
        return Ok(());
    }
    let message = "client attempted to request the server name different from the one that was negotiated";
    request_log(rq, Level::Info, format_args!("{message} while reading client request headers"));
    Err(421)
}

/// Refuses a request whose server wants another certificate than was shown (ngx_http_process_request).
pub fn check_client(rq: &Request) -> Result<(), u16> {
    let verify = *rq.srv().ssl.verify_client;
    if verify == Verify::Off || rq.conn.tls.is_none() {
        return Ok(());
    }
    match shown(rq) {
        Some((_, verdict)) if verdict.is_ok() => Ok(()),
        Some((_, verdict)) if verify == Verify::OptionalNoCa && verdict.is_untrusted() => Ok(()),
        Some((_, verdict)) => {
            request_log(
                rq,
                Level::Info,
                format_args!(
                    "client SSL certificate verify error: ({}:{}) while reading client request headers",
                    verdict.0,
                    verdict.reason()
                ),
            );
            Err(495)
        }
        None if verify == Verify::On => {
            let message = "client sent no required SSL certificate while reading client request headers";
            request_log(rq, Level::Info, format_args!("{message}"));
            Err(496)
        }
        None => Ok(()),
    }
}
