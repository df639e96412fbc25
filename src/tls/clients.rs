//! Certificates of clients: asked for in the handshake, judged after it.
//!
//! The handshake proves that a client has the key of what it shows, and goes through whatever that
//! is: nginx answers the request, not the handshake, by what the verification came to.

use super::chain::{Trust, Verdict};
use super::x509;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, ProtocolVersion, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How a server asks for certificates of clients.
#[derive(Debug)]
pub struct Clients {
    /// Who is trusted.
    trust: Trust,
    /// The names that are sent.
    hints: Vec<DistinguishedName>,
    /// What tells one way from another.
    pub fingerprint: Vec<u8>,
}

impl Clients {
    /// Asks with the names of `authorities` as hints. `mode` is part of what tells one from another.
    pub fn new(trust: Trust, authorities: &[CertificateDer<'static>], mode: &str) -> Clients {
        let subject = |der: &CertificateDer<'static>| {
            let (_, cert) = X509Certificate::from_der(der).ok()?;
            Some(DistinguishedName::from(cert.subject().as_raw().to_vec()))
        };
        let mut hints: Vec<DistinguishedName> = Vec::new();
        for hint in authorities.iter().filter_map(subject) {
            if !hints.iter().any(|h| h.as_ref() == hint.as_ref()) {
                hints.push(hint);
            }
        }
        let mut fingerprint = trust.fingerprint();
        fingerprint.extend_from_slice(mode.as_bytes());
        Clients { trust, hints, fingerprint }
    }

    fn judge(&self, chain: &[CertificateDer<'_>]) -> Verdict {
        let now = i64::try_from(crate::http::date::now()).unwrap_or(i64::MAX);
        self.trust.verify(chain, now)
    }
}

/// What a client showed.
#[derive(Debug)]
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// What it came to, and under which way of asking.
    judged: Mutex<(Arc<Clients>, Verdict)>,
}

impl ClientCertificate {
    /// Judges what a client showed. A resumed session is judged anew: what was revoked since, or is
    /// over, is not carried along.
    pub fn new(chain: &[CertificateDer<'_>], clients: &Arc<Clients>) -> ClientCertificate {
        let chain: Vec<_> = chain.iter().map(|der| der.clone().into_owned()).collect();
        let verdict = clients.judge(&chain);
        ClientCertificate { chain, judged: Mutex::new((clients.clone(), verdict)) }
    }

    /// The certificate, in DER.
    pub fn der(&self) -> &[u8] {
        self.chain.first().map_or(&[], |der| der.as_ref())
    }

    /// What it comes to, under the way in force now: a reload may have changed it since the handshake.
    pub fn verdict(&self, now: Option<&Arc<Clients>>) -> Verdict {
        let mut judged = self.judged.lock();
        if let Some(now) = now
            && !Arc::ptr_eq(&judged.0, now)
        {
            if judged.0.fingerprint != now.fingerprint {
                judged.1 = now.judge(&self.chain);
            }
            judged.0 = now.clone();
        }
        judged.1
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match x509::Cert::parse(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(Error::InvalidCertificate(rustls::CertificateError::BadEncoding)),
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

/// Whether the peer has the key of the certificate it shows. The key alone is taken out of it: rustls's
/// own way reads certificates of version 3 only, and those of version 1 are what many still make.
pub fn proves(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    version: ProtocolVersion,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = || Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
    let (_, cert) = X509Certificate::from_der(cert).map_err(|_| bad())?;
    let key = SubjectPublicKeyInfoDer::from(cert.public_key().raw);
    if version == ProtocolVersion::TLSv1_3 {
        return rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, dss, x509::algorithms());
    }
    let key = webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| bad())?;
    let found = x509::algorithms().mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
    let Some((_, algorithms)) = found else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    match algorithms.iter().any(|a| key.verify_signature(*a, message, dss.signature()).is_ok()) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(Error::InvalidCertificate(rustls::CertificateError::BadSignature)),
    }
}
