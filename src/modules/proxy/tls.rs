//! `proxy_ssl_*`: TLS towards upstreams.

use super::{Conf, Pass};
use crate::conf::values::{flag, number_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::modules::ssl::Protocol;
use crate::tls::certificates::{self, NamedFile};
use crate::tls::chain::{Purpose, Trust};
use crate::tls::ciphers;
use crate::tls::config::standard_provider;
use crate::tls::crl;
use crate::tls::keys::Passwords;
use crate::tls::upstream::{ServerTrust, Wanted};
use std::sync::Arc;

macro_rules! set {
    ($name:literal, $field:ident, $read:expr, $doc:literal) => {
        Command::works(
            $name,
            |b, d| {
                let value = $read(b, d)?;
                b.loc().proxy.$field.set(value)
            },
            $doc,
        )
    };
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    set!(
        "proxy_ssl_name",
        ssl_name,
        |b: &mut Builder, d: &Directive| b.template(d.arg(0)).map(Some),
        "the name asked for in TLS"
    ),
    set!("proxy_ssl_server_name", ssl_server_name, |_: &Builder, d| flag(d), "whether the name is sent"),
    set!(
        "proxy_ssl_verify",
        ssl_verify,
        |_: &Builder, d| flag(d),
        "whether the upstream's certificate is checked"
    ),
    set!("proxy_ssl_trusted_certificate", ssl_trusted, file, "authorities of upstreams"),
    set!("proxy_ssl_crl", ssl_crl, file, "lists of revoked certificates"),
    set!(
        "proxy_ssl_verify_depth",
        ssl_verify_depth,
        |_: &Builder, d| number_arg(d, 0),
        "how many intermediates an upstream's chain may have"
    ),
    set!(
        "proxy_ssl_certificate",
        ssl_certificate,
        own_file,
        "our certificate, for an upstream that asks for one"
    ),
    set!("proxy_ssl_certificate_key", ssl_certificate_key, own_file, "our certificate's key"),
    set!("proxy_ssl_password_file", ssl_passwords, passwords, "passwords of our key"),
    Command::works("proxy_ssl_protocols", protocols, "versions of TLS"),
    set!("proxy_ssl_ciphers", ssl_ciphers, suites, "suites of TLS 1.2"),
    set!(
        "proxy_ssl_session_reuse",
        ssl_session_reuse,
        |_: &Builder, d| flag(d),
        "whether sessions are resumed"
    ),
    Command::no_effect(
        "proxy_ssl_certificate_cache",
        "certificates are read when the configuration is loaded",
    ),
];

fn file(b: &mut Builder, d: &Directive) -> ConfResult<Option<NamedFile>> {
    let text = d.arg(0);
    Ok((!text.is_empty()).then(|| NamedFile { text: text.into(), path: b.conf_path(text), at: d.at.clone() }))
}

fn own_file(b: &mut Builder, d: &Directive) -> ConfResult<Option<NamedFile>> {
    if d.arg(0).contains('$') {
        return Err(ConfError::new("variables in \"{}\" are not supported yet")
            .hint("certificates are read when the configuration is loaded; name the file"));
    }
    if let Some(scheme) = ["data:", "engine:", "store:"].iter().find(|s| d.arg(0).starts_with(**s)) {
        return Err(ConfError::new(format!("\"{scheme}\" in \"{}\" is not supported yet", d.name)));
    }
    // An empty name is one like any other here: it is not found.
    let text = d.arg(0);
    Ok(Some(NamedFile { text: text.into(), path: b.conf_path(text), at: d.at.clone() }))
}

fn passwords(b: &mut Builder, d: &Directive) -> ConfResult<Passwords> {
    Passwords::read(&NamedFile { text: d.arg(0).into(), path: b.conf_path(d.arg(0)), at: d.at.clone() })
}

fn protocols(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut old = Vec::new();
    for arg in &d.args {
        let protocol =
            Protocol::parse(arg).ok_or_else(|| ConfError::new(format!("invalid value \"{arg}\"")))?;
        if b.loc().proxy.ssl_protocols.contains(&protocol) {
            b.note(NoteLevel::Warn, format!("duplicate value \"{arg}\""));
            continue;
        }
        b.loc().proxy.ssl_protocols.edit().push(protocol);
        if protocol < Protocol::Tls12 {
            old.push(arg.as_str());
        }
    }
    if !old.is_empty() {
        let text =
            format!("{} cannot be spoken: TLSv1.2 is the oldest version there is here", old.join(", "));
        b.note(NoteLevel::Warn, text);
    }
    Ok(())
}

fn suites(b: &mut Builder, d: &Directive) -> ConfResult<Option<Arc<ciphers::Chosen>>> {
    let chosen = ciphers::parse(d.arg(0));
    if !chosen.absent.is_empty() {
        let absent = chosen.absent.join(", ");
        b.note(
            NoteLevel::Notice,
            format!("no suite can be offered for {absent}: ECDHE with AES-GCM or ChaCha20 is what there is"),
        );
    }
    Ok(Some(Arc::new(chosen)))
}

/// Levels whose settings come to the same, by what is written there.
pub type Known = Vec<(String, Arc<ServerTrust>)>;

/// Completes a level that may speak TLS.
pub fn finish(b: &mut Builder, id: usize, known: &mut Known) -> ConfResult<()> {
    let level = &b.levels[id];
    let may = match level.conf.proxy.pass.as_deref() {
        None => false,
        Some(Pass::Variable(_)) => true,
        Some(pass) => pass.is_tls(),
    };
    if !may {
        return Ok(());
    }
    let conf = &level.conf.proxy;
    let key = format!(
        "{:?}",
        (
            (&*conf.ssl_verify, &*conf.ssl_trusted, &*conf.ssl_crl, &*conf.ssl_verify_depth),
            (&*conf.ssl_certificate, &*conf.ssl_certificate_key, &*conf.ssl_passwords),
            (&*conf.ssl_protocols, &*conf.ssl_ciphers, &*conf.ssl_session_reuse),
        )
    );
    let made = match known.iter().find(|(k, _)| *k == key) {
        Some((_, made)) => made.clone(),
        None => {
            let wanted = wanted(conf).map_err(|e| e.at(&level.at))?;
            let made = ServerTrust::new(wanted)
                .map_err(|e| ConfError::new(format!("SSL_CTX_new() failed ({e})")).at(&level.at))?;
            let made = Arc::new(made);
            known.push((key, made.clone()));
            made
        }
    };
    b.levels[id].conf.proxy.ssl.0 = Some(made);
    Ok(())
}

fn wanted(conf: &Conf) -> ConfResult<Wanted> {
    let has = |p: Protocol| conf.ssl_protocols.is_empty() || conf.ssl_protocols.contains(&p);
    let (mut tls12, tls13) = (has(Protocol::Tls12), has(Protocol::Tls13));
    if !tls12 && !tls13 {
        return Err(ConfError::new("no version of \"proxy_ssl_protocols\" can be spoken")
            .hint("TLSv1.2 and TLSv1.3 can; older ones are broken and are not implemented"));
    }
    let (mut old, new): (Vec<_>, Vec<_>) =
        standard_provider().cipher_suites.into_iter().partition(|s| s.tls13().is_none());
    if let Some(chosen) = &*conf.ssl_ciphers {
        old = chosen.suites.clone();
        if old.is_empty() && tls12 && !tls13 {
            return Err(ConfError::new("none of the suites of \"proxy_ssl_ciphers\" can be offered")
                .hint("ECDHE with AES-GCM or ChaCha20 can, as in HIGH:!aNULL; or allow TLSv1.3"));
        }
        tls12 &= !old.is_empty();
    }
    let versions = [(tls12, &rustls::version::TLS12), (tls13, &rustls::version::TLS13)];
    Ok(Wanted {
        versions: versions.into_iter().filter_map(|(on, version)| on.then_some(version)).collect(),
        suites: new.into_iter().chain(old).collect(),
        trust: trust(conf)?,
        own: own(conf)?,
        reuse: *conf.ssl_session_reuse,
    })
}

fn trust(conf: &Conf) -> ConfResult<Option<Trust>> {
    if !*conf.ssl_verify {
        return Ok(None);
    }
    let Some(trusted) = &*conf.ssl_trusted else {
        return Err(ConfError::new("no proxy_ssl_trusted_certificate for proxy_ssl_verify"));
    };
    let authorities = certificates::chain("certificate", trusted)?;
    let lists = match &*conf.ssl_crl {
        Some(file) => Some(crl::read(file)?),
        None => None,
    };
    Ok(Some(Trust::new(authorities, lists, *conf.ssl_verify_depth, Purpose::Server)))
}

fn own(conf: &Conf) -> ConfResult<Option<Arc<rustls::sign::CertifiedKey>>> {
    let Some(certificate) = &*conf.ssl_certificate else { return Ok(None) };
    let Some(key) = &*conf.ssl_certificate_key else {
        let message =
            format!("no \"proxy_ssl_certificate_key\" is defined for certificate \"{}\"", certificate.text);
        return Err(ConfError::new(message).at(&certificate.at));
    };
    certificates::pair(certificate, key, &conf.ssl_passwords, &standard_provider())
        .map(|pair| Some(Arc::new(pair)))
}
