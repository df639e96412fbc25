//! nginx's ssl module: certificates, protocols, suites, sessions. The handshake is [`crate::tls`].

mod finish;
mod variables;
pub mod verify;

pub use finish::finish;
pub use variables::VARIABLES;

use crate::conf::values::{flag, number, number_arg, os_error, size, size_arg, time_arg};
use crate::conf::{At, Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::modules::limit_zone::names::{self, Use};
use crate::settings;
use crate::tls::certificates::NamedFile;
use crate::tls::ciphers::{self, Chosen};
use crate::tls::config::ServerTls;
use crate::tls::groups::{self, Groups};
use crate::tls::keys::Passwords;
use crate::tls::tickets::FileKey;
use rustls::SupportedCipherSuite;
use std::sync::Arc;
use std::time::Duration;

settings! {
    /// What a server configures.
    pub struct Conf {
        /// Certificates, with keys in the same order.
        inherit certificates: Vec<NamedFile> = Vec::new(),
        /// See `certificates`.
        inherit keys: Vec<NamedFile> = Vec::new(),
        /// The protocols named; none is nginx's default, TLS 1.2 and 1.3.
        inherit protocols: Vec<Protocol> = Vec::new(),
        /// Suites of TLS 1.2, and where they are named.
        inherit ciphers: Option<(Arc<Chosen>, At)> = None,
        /// Whether our order of suites counts.
        inherit prefer_server_ciphers: bool = false,
        /// Key exchange groups.
        inherit groups: Groups = Groups::default(),
        /// The session cache.
        inherit session_cache: Cache = Cache::None,
        /// How long a session may be resumed.
        inherit session_timeout: Duration = Duration::from_secs(300),
        /// Whether tickets are given.
        inherit session_tickets: bool = true,
        /// The keys of tickets; none are the process's own.
        inherit ticket_keys: Vec<FileKey> = Vec::new(),
        /// The most bytes of a record's content.
        inherit buffer_size: u64 = 16 << 10,
        /// Whether handshakes for this server are refused.
        inherit reject_handshake: bool = false,
        /// Whether certificates of clients are asked for, and what they are good for.
        inherit verify_client: Verify = Verify::Off,
        /// The most intermediates between a client's certificate and an authority's.
        inherit verify_depth: u64 = 1,
        /// Authorities of clients, whose names are sent.
        inherit client_certificate: Option<NamedFile> = None,
        /// Authorities whose names are not.
        inherit trusted_certificate: Option<NamedFile> = None,
        /// Lists of what is revoked.
        inherit crl: Option<NamedFile> = None,
        /// The passwords of keys.
        inherit passwords: Passwords = Passwords::default(),
        /// `ssl_conf_command`s, which come last.
        inherit commands: Commands = Commands::default(),
        /// What handshakes are answered with; `None` without certificates.
        own tls: Option<Arc<ServerTls>> = None,
    }
}

/// A version of SSL or TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Protocol {
    Ssl2,
    Ssl3,
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

impl Protocol {
    /// The version of a name.
    pub fn parse(text: &str) -> Option<Protocol> {
        use Protocol::{Ssl2, Ssl3, Tls10, Tls11, Tls12, Tls13};
        let all = [
            ("SSLv2", Ssl2),
            ("SSLv3", Ssl3),
            ("TLSv1", Tls10),
            ("TLSv1.1", Tls11),
            ("TLSv1.2", Tls12),
            ("TLSv1.3", Tls13),
        ];
        all.into_iter().find(|(name, _)| *name == text).map(|(_, protocol)| protocol)
    }
}

/// `ssl_session_cache`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cache {
    /// `off` or `none`: no session is kept here. Tickets are another matter.
    None,
    /// `builtin`, with its size in sessions.
    Builtin(u64),
    /// `shared:name:size`, with its size in bytes.
    Shared(String, u64),
}

/// `ssl_verify_client`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// No certificate is asked for.
    Off,
    /// One that is good has to be shown.
    On,
    /// What is shown has to be good.
    Optional,
    /// What is shown has to be good, but for who issued it.
    OptionalNoCa,
}

/// What `ssl_conf_command` changes.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// `CipherString`
    ciphers: Option<(Arc<Chosen>, At)>,
    /// `Ciphersuites`
    tls13: Option<Vec<SupportedCipherSuite>>,
    /// `Groups`, `Curves`
    groups: Option<Groups>,
    /// `MinProtocol`
    least: Option<Protocol>,
    /// `MaxProtocol`
    most: Option<Protocol>,
    /// `NumTickets`
    tickets: Option<usize>,
    /// `Options ServerPreference`
    prefer_server: Option<bool>,
    /// `Options SessionTicket`
    session_tickets: Option<bool>,
}

const NO_STAPLE: &str = "no OCSP response is stapled; clients ask the authority themselves";

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("ssl_certificate", certificate, "a server's certificate, with its chain after it"),
    Command::works("ssl_certificate_key", certificate_key, "the certificate's key"),
    Command::works("ssl_protocols", protocols, "versions of TLS"),
    Command::works("ssl_ciphers", ssl_ciphers, "suites of TLS 1.2"),
    Command::works(
        "ssl_prefer_server_ciphers",
        |b, d| {
            let v = flag(d)?;
            b.srv().ssl.prefer_server_ciphers.set(v)
        },
        "whether our order of suites counts",
    ),
    Command::works("ssl_ecdh_curve", ecdh_curve, "key exchange groups"),
    Command::works("ssl_session_cache", session_cache, "where sessions are kept"),
    Command::works(
        "ssl_session_timeout",
        |b, d| {
            let v = time_arg(d, 0)?;
            b.srv().ssl.session_timeout.set(v)
        },
        "how long a session may be resumed",
    ),
    Command::works(
        "ssl_session_tickets",
        |b, d| {
            let v = flag(d)?;
            b.srv().ssl.session_tickets.set(v)
        },
        "whether tickets are given",
    ),
    Command::works("ssl_session_ticket_key", ticket_key, "a key of tickets, shared by several hosts"),
    Command::works(
        "ssl_buffer_size",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.srv().ssl.buffer_size.set(v)
        },
        "bytes of a record",
    ),
    Command::works(
        "ssl_reject_handshake",
        |b, d| {
            let v = flag(d)?;
            b.srv().ssl.reject_handshake.set(v)
        },
        "whether handshakes are refused",
    ),
    Command::works("ssl_verify_client", verify_client, "whether clients must show certificates"),
    Command::works(
        "ssl_verify_depth",
        |b, d| {
            let v = number_arg(d, 0)?;
            b.srv().ssl.verify_depth.set(v)
        },
        "how many intermediates a client's chain may have",
    ),
    Command::works(
        "ssl_client_certificate",
        |b, d| {
            let v = plain_file(b, d, 0);
            b.srv().ssl.client_certificate.set(v)
        },
        "authorities of clients, whose names are sent",
    ),
    Command::works(
        "ssl_trusted_certificate",
        |b, d| {
            let v = plain_file(b, d, 0);
            b.srv().ssl.trusted_certificate.set(v)
        },
        "authorities of clients, whose names are not sent",
    ),
    Command::works(
        "ssl_crl",
        |b, d| {
            let v = plain_file(b, d, 0);
            b.srv().ssl.crl.set(v)
        },
        "lists of revoked certificates",
    ),
    Command::works(
        "ssl_password_file",
        |b, d| {
            let file = NamedFile { text: d.arg(0).into(), path: b.conf_path(d.arg(0)), at: d.at.clone() };
            let v = Passwords::read(&file)?;
            b.srv().ssl.passwords.set(v)
        },
        "passwords of keys, one of which opens each",
    ),
    Command::works("ssl_conf_command", conf_command, "commands of OpenSSL that have a counterpart"),
    Command::no_effect("ssl_dhparam", "key exchange is by elliptic curves only; no DHE suite is offered"),
    Command::no_effect("ssl_early_data", "early data is not accepted: it could be replayed"),
    Command::no_effect("ssl_stapling", NO_STAPLE),
    Command::no_effect("ssl_stapling_file", NO_STAPLE),
    Command::no_effect("ssl_stapling_responder", NO_STAPLE),
    Command::no_effect("ssl_stapling_verify", NO_STAPLE),
    Command::no_effect("ssl_certificate_cache", "certificates are read when the configuration is loaded"),
    Command::no_effect("ssl_certificate_compression", "certificates are sent as they are"),
    Command::no_effect("ssl_object_cache_inheritable", "certificates are read anew at each reload"),
];

fn certificate(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let file = named_file(b, d)?;
    b.srv().ssl.certificates.edit().push(file);
    Ok(())
}

fn certificate_key(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let file = named_file(b, d)?;
    b.srv().ssl.keys.edit().push(file);
    Ok(())
}

fn named_file(b: &Builder, d: &Directive) -> ConfResult<NamedFile> {
    let text = d.arg(0);
    if text.contains('$') {
        return Err(ConfError::new("variables in \"{}\" are not supported yet")
            .hint("certificates are read when the configuration is loaded; name the file"));
    }
    if let Some(scheme) = ["data:", "engine:", "store:"].iter().find(|s| text.starts_with(**s)) {
        return Err(ConfError::new(format!("\"{scheme}\" in \"{}\" is not supported yet", d.name)));
    }
    Ok(NamedFile { text: text.to_string(), path: b.conf_path(text), at: d.at.clone() })
}

/// A file that is named, not empty.
fn plain_file(b: &Builder, d: &Directive, index: usize) -> Option<NamedFile> {
    let text = d.arg(index);
    (!text.is_empty()).then(|| NamedFile { text: text.into(), path: b.conf_path(text), at: d.at.clone() })
}

fn protocols(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut old = Vec::new();
    for arg in &d.args {
        let protocol =
            Protocol::parse(arg).ok_or_else(|| ConfError::new(format!("invalid value \"{arg}\"")))?;
        if b.srv().ssl.protocols.contains(&protocol) {
            b.note(NoteLevel::Warn, format!("duplicate value \"{arg}\""));
            continue;
        }
        b.srv().ssl.protocols.edit().push(protocol);
        if protocol < Protocol::Tls12 {
            old.push(arg.as_str());
        }
    }
    if !old.is_empty() {
        let text =
            format!("{} cannot be offered: TLSv1.2 is the oldest version there is here", old.join(", "));
        b.note(NoteLevel::Warn, text);
    }
    Ok(())
}

fn ssl_ciphers(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let chosen = read_ciphers(b, d.arg(0));
    b.srv().ssl.ciphers.set(chosen)
}

fn read_ciphers(b: &mut Builder, text: &str) -> Option<(Arc<Chosen>, At)> {
    let chosen = ciphers::parse(text);
    if !chosen.absent.is_empty() {
        let absent = chosen.absent.join(", ");
        b.note(
            NoteLevel::Notice,
            format!("no suite can be offered for {absent}: ECDHE with AES-GCM or ChaCha20 is what there is"),
        );
    }
    Some((Arc::new(chosen), b.here.clone()))
}

fn ecdh_curve(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let groups = read_groups(b, d.arg(0))?;
    b.srv().ssl.groups.set(groups)
}

fn read_groups(b: &mut Builder, text: &str) -> ConfResult<Groups> {
    let groups = groups::parse(text).map_err(|bad| {
        ConfError::new(format!("SSL_CTX_set1_curves_list(\"{text}\") failed (group '{bad}' cannot be set)"))
    })?;
    if groups.found.is_empty() && !groups.absent.is_empty() {
        return Err(ConfError::new(format!("none of the groups \"{text}\" can be offered"))
            .hint("X25519MLKEM768, X25519, prime256v1 and secp384r1 can"));
    }
    if !groups.absent.is_empty() {
        b.note(NoteLevel::Notice, format!("the groups {} cannot be offered", groups.absent.join(", ")));
    }
    Ok(groups)
}

fn session_cache(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    const LEAST: u64 = 8 * 4096;
    let mut cache = Cache::None;
    for arg in &d.args {
        let invalid = || ConfError::new(format!("invalid session cache \"{arg}\""));
        match arg.as_str() {
            "off" | "none" => cache = Cache::None,
            "builtin" => merge(&mut cache, Cache::Builtin(20_480)),
            _ => {
                if let Some(count) = arg.strip_prefix("builtin:") {
                    merge(&mut cache, Cache::Builtin(number(count).ok_or_else(invalid)?));
                } else if let Some((name, bytes)) =
                    arg.strip_prefix("shared:").and_then(|rest| rest.split_once(':'))
                {
                    let bytes = size(bytes).filter(|_| !name.is_empty()).ok_or_else(invalid)?;
                    if bytes < LEAST {
                        return Err(ConfError::new(format!("session cache \"{arg}\" is too small")));
                    }
                    names::zone(b, name, Use::Sessions, bytes)?;
                    merge(&mut cache, Cache::Shared(name.to_string(), bytes));
                } else {
                    return Err(invalid());
                }
            }
        }
    }
    b.srv().ssl.session_cache.set(cache)
}

/// Both may stand side by side; all workers share the one process, so the shared one is what counts.
fn merge(cache: &mut Cache, next: Cache) {
    if !matches!((&cache, &next), (Cache::Shared(..), Cache::Builtin(_))) {
        *cache = next;
    }
}

fn ticket_key(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let path = b.conf_path(d.arg(0));
    let bytes = crate::conf::files::read(&path)
        .map_err(|e| ConfError::new(format!("open() \"{}\" failed ({})", path.display(), os_error(&e))))?;
    let key = FileKey::new(&bytes)
        .ok_or_else(|| ConfError::new(format!("\"{}\" must be 48 or 80 bytes", path.display())))?;
    b.srv().ssl.ticket_keys.edit().push(key);
    Ok(())
}

fn verify_client(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let verify = match d.arg(0) {
        "off" => Verify::Off,
        "on" => Verify::On,
        "optional" => Verify::Optional,
        "optional_no_ca" => Verify::OptionalNoCa,
        other => return Err(ConfError::new(format!("invalid value \"{other}\""))),
    };
    b.srv().ssl.verify_client.set(verify)
}

fn conf_command(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (name, value) = (d.arg(0), d.arg(1));
    let failed = |why: &str| ConfError::new(format!("SSL_CONF_cmd(\"{name}\", \"{value}\") failed ({why})"));
    let version = || match value {
        "None" => Ok(None),
        _ => Protocol::parse(value).map(Some).ok_or_else(|| failed("bad value")),
    };
    match name.to_ascii_lowercase().as_str() {
        "ciphersuites" => {
            let chosen = ciphers::parse_tls13(value);
            if chosen.suites.is_empty() {
                return Err(failed("no cipher match"));
            }
            if !chosen.absent.is_empty() {
                b.note(NoteLevel::Notice, format!("{} cannot be offered", chosen.absent.join(", ")));
            }
            b.srv().ssl.commands.edit().tls13 = Some(chosen.suites);
        }
        "cipherstring" => {
            let chosen = read_ciphers(b, value);
            b.srv().ssl.commands.edit().ciphers = chosen;
        }
        "groups" | "curves" => {
            let groups = read_groups(b, value)?;
            b.srv().ssl.commands.edit().groups = Some(groups);
        }
        "minprotocol" => b.srv().ssl.commands.edit().least = version()?,
        "maxprotocol" => b.srv().ssl.commands.edit().most = version()?,
        "numtickets" => {
            let n = number(value).filter(|n| *n <= 16).ok_or_else(|| failed("bad value"))?;
            b.srv().ssl.commands.edit().tickets = Some(n as usize);
        }
        "options" => {
            for option in value.split(',') {
                let (on, bare) = match option.strip_prefix('-') {
                    Some(bare) => (false, bare),
                    None => (true, option.trim_start_matches('+')),
                };
                match bare {
                    "ServerPreference" => b.srv().ssl.commands.edit().prefer_server = Some(on),
                    "SessionTicket" => b.srv().ssl.commands.edit().session_tickets = Some(on),
                    _ => b.note(NoteLevel::Notice, format!("the option \"{option}\" has no effect")),
                }
            }
        }
        // These choose what is proved or who is trusted.
        "protocol" | "verifymode" | "verifycafile" | "verifycapath" | "verifycastore" | "chaincafile"
        | "chaincapath" | "clientcafile" | "clientcapath" | "requestcafile" | "certificate"
        | "privatekey" => {
            return Err(ConfError::new(format!(
                "the \"{name}\" command of \"{}\" is not supported yet",
                d.name
            )));
        }
        "signaturealgorithms"
        | "clientsignaturealgorithms"
        | "dhparameters"
        | "ecdhparameters"
        | "recordpadding" => {
            b.note(NoteLevel::Warn, format!("the \"{name}\" command has no counterpart, ignored"));
        }
        _ => return Err(failed("unknown cmd name")),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
