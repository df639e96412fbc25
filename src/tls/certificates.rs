//! Certificates and their keys: read from files, checked, chosen for a client.

use super::keys::{Passwords, private_key};
use super::sessions::Context;
use super::x509::Cert;
use crate::conf::values::os_error;
use crate::conf::{At, ConfError, ConfResult};
use rustls::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate's or a key's file, and the directive that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// As written.
    pub text: String,
    /// Joined to the directory of the configuration.
    pub path: PathBuf,
    /// Where it stands.
    pub at: At,
}

/// The certificates of a server, one for each kind of key.
#[derive(Debug)]
pub struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    /// Reads the pairs, keys that are encrypted with one of `passwords`. The error names the file that is missing, broken, or does not match.
    pub fn load(
        pairs: &[(NamedFile, NamedFile)],
        passwords: &Passwords,
        provider: &CryptoProvider,
    ) -> ConfResult<Certificates> {
        let mut all = Vec::new();
        for (certificate, key) in pairs {
            all.push(Arc::new(pair(certificate, key, passwords, provider)?));
        }
        // An ECDSA signature costs a tenth of an RSA one: where the client takes both, it is chosen.
        all.sort_by_key(|pair: &Arc<CertifiedKey>| pair.key.algorithm() == SignatureAlgorithm::RSA);
        Ok(Certificates(all))
    }

    /// The context of sessions under these certificates; `clients` says how clients are verified.
    pub fn context(&self, clients: &[u8]) -> Context {
        Context::of(self.0.iter().flat_map(|pair| pair.cert.iter()), clients)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        // Where none fits, rustls finds the words for it.
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}

/// Reads a certificate and its key, encrypted with one of `passwords` or not at all.
pub fn pair(
    certificate: &NamedFile,
    key: &NamedFile,
    passwords: &Passwords,
    provider: &CryptoProvider,
) -> ConfResult<CertifiedKey> {
    let chain = chain("certificate", certificate)?;
    let secret = private_key(key, passwords)?;
    let secret = provider.key_provider.load_private_key(secret).map_err(|e| {
        cannot("certificate key", key, &e.to_string())
            .hint("keys are RSA of 2048 bits and more, ECDSA P-256, P-384 and P-521, Ed25519")
    })?;
    // rustls's own comparison reads certificates of version 3 only.
    let first = chain.first().and_then(|der| Cert::parse(der));
    let first = first.ok_or_else(|| {
        cannot("certificate", certificate, "bad encoding").hint("the first certificate cannot be read")
    })?;
    let differs = secret.public_key().is_some_and(|public| public.as_ref() != first.x.public_key().raw);
    if differs {
        let path = key.path.display();
        return Err(ConfError::new(format!(
            "SSL_CTX_use_PrivateKey(\"{path}\") failed (key values mismatch)"
        ))
        .hint(format!(
            "this key does not belong to the first certificate in \"{}\"",
            certificate.path.display()
        ))
        .at(&key.at));
    }
    drop(first);
    Ok(CertifiedKey::new(chain, secret))
}

/// The certificates in a file; `what` they are is for the error.
pub fn chain(what: &str, file: &NamedFile) -> ConfResult<Vec<CertificateDer<'static>>> {
    let text = read(what, file)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| cannot(what, file, &e.to_string()))?;
    if chain.is_empty() {
        let error = cannot(what, file, "no start line: Expecting: CERTIFICATE");
        return Err(error.hint("the file must hold certificates in PEM, a server's own first"));
    }
    Ok(chain)
}

/// A file's bytes.
pub fn read(what: &str, file: &NamedFile) -> ConfResult<Vec<u8>> {
    crate::conf::files::read(&file.path).map_err(|e| {
        let reason = os_error(&e);
        let error = cannot(what, file, &format!("fopen() failed ({reason})"));
        match e.kind() {
            std::io::ErrorKind::NotFound => error.hint(missing(&file.path)),
            std::io::ErrorKind::PermissionDenied => {
                error.hint("it is read by the process as it is started, not by \"user\": start it as root")
            }
            _ => error,
        }
    })
}

fn missing(path: &Path) -> String {
    match path.parent() {
        Some(directory) if !directory.exists() => {
            format!("there is no directory {}; is it mounted?", directory.display())
        }
        _ => "there is no such file; relative paths begin at the configuration's directory".to_string(),
    }
}

/// An error about a file.
pub fn cannot(what: &str, file: &NamedFile, reason: &str) -> ConfError {
    ConfError::new(format!("cannot load {what} \"{}\": {reason}", file.path.display())).at(&file.at)
}
