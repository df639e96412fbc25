//! What is done once servers have inherited: certificates are read, and every server that needs one
//! is seen to have one.

use super::{Cache, Conf, Protocol, Verify};
use crate::conf::{Builder, ConfError, ConfResult, NoteLevel};
use crate::http::listens::Listens;
use crate::tls::certificates::{self, Certificates, NamedFile};
use crate::tls::chain::{Purpose, Trust};
use crate::tls::clients::Clients;
use crate::tls::config::{Offer, ServerTls, standard_provider};
use crate::tls::crl;
use crate::tls::keys::Passwords;
use std::collections::HashMap;
use std::sync::Arc;

/// Certificates already read: several servers often share a pair.
type Read = Vec<(Vec<(NamedFile, NamedFile)>, Passwords, Arc<Certificates>)>;

/// Reads certificates and builds what handshakes are answered with.
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    let mut read = Read::new();
    let mut caches = HashMap::new();
    for index in 0..b.servers.len() {
        let conf = b.servers[index].conf.ssl.clone();
        check_cache(&conf, &mut caches)?;
        if conf.certificates.is_empty() {
            continue;
        }
        let pairs = pairs(&conf)?;
        let known = read
            .iter()
            .find(|(p, w, _)| same_files(p, &pairs) && *w == *conf.passwords)
            .map(|(.., c)| c.clone());
        let certificates = match known {
            Some(certificates) => certificates,
            None => {
                let fresh = Arc::new(Certificates::load(&pairs, &conf.passwords, &standard_provider())?);
                read.push((pairs, (*conf.passwords).clone(), fresh.clone()));
                fresh
            }
        };
        let mut offer = offer(b, &conf, index)?;
        offer.clients = clients(b, &conf, index)?;
        let tls = ServerTls::build(certificates, &offer)
            .map_err(|e| ConfError::new(format!("SSL_CTX_new() failed ({e})")).at(&b.servers[index].at))?;
        b.servers[index].conf.ssl.tls.0 = Some(Arc::new(tls));
    }
    check_listens(b)
}

fn same_files(a: &[(NamedFile, NamedFile)], b: &[(NamedFile, NamedFile)]) -> bool {
    let paths = |p: &(NamedFile, NamedFile)| (p.0.path.clone(), p.1.path.clone());
    a.iter().map(paths).eq(b.iter().map(paths))
}

/// A shared cache has one size, whoever names it.
fn check_cache(conf: &Conf, sizes: &mut HashMap<String, u64>) -> ConfResult<()> {
    if let Cache::Shared(name, bytes) = &*conf.session_cache {
        let declared = *sizes.entry(name.clone()).or_insert(*bytes);
        if declared != *bytes {
            return Err(ConfError::new(format!(
                "the size {bytes} of shared memory zone \"{name}\" conflicts with already declared size {declared}"
            )));
        }
    }
    Ok(())
}

fn pairs(conf: &Conf) -> ConfResult<Vec<(NamedFile, NamedFile)>> {
    if conf.keys.len() < conf.certificates.len() {
        // `finish` has seen that there is a certificate.
        let Some(last) = conf.certificates.last() else { return Ok(Vec::new()) };
        let message = format!("no \"ssl_certificate_key\" is defined for certificate \"{}\"", last.text);
        return Err(ConfError::new(message).at(&last.at));
    }
    Ok(conf.certificates.iter().cloned().zip(conf.keys.iter().cloned()).collect())
}

/// How certificates of clients are asked for. What is named is read even where they are not.
fn clients(b: &Builder, conf: &Conf, server: usize) -> ConfResult<Option<Arc<Clients>>> {
    let verify = *conf.verify_client;
    let named = conf.client_certificate.is_some() || conf.trusted_certificate.is_some();
    if matches!(verify, Verify::On | Verify::Optional) && !named {
        let error = ConfError::new("no ssl_client_certificate for ssl_verify_client");
        return Err(error.at(&b.servers[server].at));
    }
    let read = |file: &Option<NamedFile>| match file {
        Some(file) => certificates::chain("certificate", file),
        None => Ok(Vec::new()),
    };
    let trusted = read(&conf.trusted_certificate)?;
    let lists = match &*conf.crl {
        Some(file) => Some(crl::read(file)?),
        None => None,
    };
    if verify == Verify::Off {
        return Ok(None);
    }
    let announced = read(&conf.client_certificate)?;
    let all = announced.iter().chain(&trusted).cloned().collect();
    let trust = Trust::new(all, lists, *conf.verify_depth, Purpose::Client);
    Ok(Some(Arc::new(Clients::new(trust, &announced, &format!("{verify:?}")))))
}

/// What the directives come to, with `ssl_conf_command` last.
fn offer(b: &mut Builder, conf: &Conf, server: usize) -> ConfResult<Offer> {
    let commands = &conf.commands;
    let named =
        if conf.protocols.is_empty() { &[Protocol::Tls12, Protocol::Tls13] } else { &conf.protocols[..] };
    let within = |p: Protocol| {
        commands.least.is_none_or(|least| p >= least) && commands.most.is_none_or(|most| p <= most)
    };
    let has = |p: Protocol| named.contains(&p) && within(p);
    let (mut tls12, tls13) = (has(Protocol::Tls12), has(Protocol::Tls13));
    if !tls12 && !tls13 {
        return Err(ConfError::new("no version of \"ssl_protocols\" can be offered")
            .hint("TLSv1.2 and TLSv1.3 can; older ones are broken and are not implemented")
            .at(&b.servers[server].at));
    }
    let (mut old, mut new): (Vec<_>, Vec<_>) =
        standard_provider().cipher_suites.into_iter().partition(|s| s.tls13().is_none());
    if let Some((chosen, at)) = commands.ciphers.as_ref().or(conf.ciphers.as_ref()) {
        old = chosen.suites.clone();
        if old.is_empty() && tls12 {
            if !tls13 {
                return Err(ConfError::new("none of the suites of \"ssl_ciphers\" can be offered")
                    .hint("ECDHE with AES-GCM or ChaCha20 can, as in HIGH:!aNULL; or allow TLSv1.3")
                    .at(at));
            }
            tls12 = false;
            let here = std::mem::replace(&mut b.here, at.clone());
            b.note(
                NoteLevel::Warn,
                "none of the suites of \"ssl_ciphers\" can be offered, so TLSv1.2 is not",
            );
            b.here = here;
        }
    }
    if let Some(chosen) = &commands.tls13 {
        new = chosen.clone();
    }
    let groups = commands.groups.as_ref().unwrap_or(&conf.groups);
    Ok(Offer {
        tls12,
        tls13,
        suites: new.into_iter().chain(old).collect(),
        groups: groups.found.clone(),
        prefer_server: commands.prefer_server.unwrap_or(*conf.prefer_server_ciphers),
        cache: match &*conf.session_cache {
            Cache::None => None,
            // nginx counts sessions here; one takes some 256 bytes.
            Cache::Builtin(count) => Some((format!("builtin:{count}"), count * 256)),
            Cache::Shared(name, bytes) => Some((format!("shared:{name}"), *bytes)),
        },
        timeout: *conf.session_timeout,
        tickets: commands.session_tickets.unwrap_or(*conf.session_tickets),
        ticket_count: commands.tickets.unwrap_or(2),
        ticket_keys: conf.ticket_keys.to_vec(),
        record_size: *conf.buffer_size,
        clients: None,
    })
}

/// An address with `ssl` needs a certificate: the default server's, or, where that one refuses
/// handshakes, every other's (ngx_http_ssl_init).
fn check_listens(b: &Builder) -> ConfResult<()> {
    let listens = Listens::build(&b.servers)?;
    for bound in listens.bound.iter().filter(|bound| bound.ssl) {
        let missing = |server: &usize| {
            let ssl = &b.servers[*server].conf.ssl;
            ssl.certificates.is_empty() && !*ssl.reject_handshake
        };
        let default = bound.names.default;
        let found = if missing(&default) {
            Some(default)
        } else if b.servers[default].conf.ssl.certificates.is_empty() {
            bound.servers.iter().copied().find(missing)
        } else {
            None
        };
        if let Some(server) = found {
            return Err(ConfError::new(
                "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive",
            )
            .hint(format!("{} is a TLS address: give this server a certificate and its key", bound.addr))
            .at(&b.servers[server].at));
        }
    }
    Ok(())
}
