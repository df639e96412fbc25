//! TLS towards upstreams: what a level's `proxy_ssl_*` come to, as configurations of rustls.
//!
//! The verifier lets nothing through that nginx would not: a request is sent only to a server whose
//! chain and name are good, where that is asked for.

use super::chain::{Trust, Verdict};
use super::clients::proves;
use super::x509::{self, Cert};
use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// What is offered to a server, and asked of it.
#[derive(Debug)]
pub struct Wanted {
    /// The versions of TLS.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Suites, in order of preference.
    pub suites: Vec<SupportedCipherSuite>,
    /// What the server's certificate has to be good under; without, any is taken.
    pub trust: Option<Trust>,
    /// Our own certificate, for a server that asks for one.
    pub own: Option<Arc<CertifiedKey>>,
    /// Whether sessions are resumed.
    pub reuse: bool,
}

/// Sessions that are remembered, by the names of servers.
const SESSIONS: usize = 256;

/// How servers are spoken to in TLS.
pub struct ServerTrust {
    named: Arc<ClientConfig>,
    unnamed: Arc<ClientConfig>,
    /// Whether certificates are checked.
    pub verifies: bool,
    /// What tells one way from another, over reloads.
    pub fingerprint: [u8; 32],
}

/// What the library keeps of it would fill pages.
impl std::fmt::Debug for ServerTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTrust").field("verifies", &self.verifies).finish_non_exhaustive()
    }
}

impl ServerTrust {
    /// Builds the configurations. The error is rustls's: the suites fit none of the versions.
    pub fn new(wanted: Wanted) -> Result<ServerTrust, Error> {
        let fingerprint = fingerprint(&wanted);
        let verifies = wanted.trust.is_some();
        let mut provider = super::config::standard_provider();
        provider.cipher_suites = wanted.suites;
        let builder = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&wanted.versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Judge(wanted.trust)));
        let mut config = match wanted.own {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        };
        config.resumption = match wanted.reuse {
            true => Resumption::in_memory_sessions(SESSIONS),
            false => Resumption::disabled(),
        };
        let named = Arc::new(config.clone());
        config.enable_sni = false;
        Ok(ServerTrust { named, unnamed: Arc::new(config), verifies, fingerprint })
    }

    /// The configuration that sends the name or does not.
    pub fn config(&self, sends_name: bool) -> &Arc<ClientConfig> {
        if sends_name { &self.named } else { &self.unnamed }
    }
}

fn fingerprint(wanted: &Wanted) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for version in &wanted.versions {
        hash.update(&u16::from(version.version).to_be_bytes());
    }
    for suite in &wanted.suites {
        hash.update(&u16::from(suite.suite()).to_be_bytes());
    }
    hash.update(&[u8::from(wanted.reuse), u8::from(wanted.trust.is_some()), u8::from(wanted.own.is_some())]);
    if let Some(trust) = &wanted.trust {
        hash.update(&trust.fingerprint());
    }
    for der in wanted.own.iter().flat_map(|own| &own.cert) {
        hash.update(digest::digest(&digest::SHA256, der).as_ref());
    }
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

/// Judges certificates of servers.
#[derive(Debug)]
struct Judge(Option<Trust>);

/// How what [`Judge`] refuses begins, in nginx's words.
pub const REFUSED: &str = "upstream SSL certificate ";

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.0 else { return Ok(ServerCertVerified::assertion()) };
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|der| CertificateDer::from(&der[..]))
            .collect();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let verdict = trust.verify(&chain, now);
        if verdict != Verdict::OK {
            let (code, reason) = (verdict.0, verdict.reason());
            return Err(Error::General(format!("{REFUSED}verify error: ({code}:{reason})")));
        }
        let name = name.to_str();
        match Cert::parse(end_entity).is_some_and(|cert| cert.is_for(&name)) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General(format!("{REFUSED}does not match \"{name}\""))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        proves(message, cert, dss, ProtocolVersion::TLSv1_2)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        proves(message, cert, dss, ProtocolVersion::TLSv1_3)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        x509::algorithms().supported_schemes()
    }
}
