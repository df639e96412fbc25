//! Private keys, encrypted or not.

use super::certificates::{NamedFile, cannot, read};
use crate::conf::values::os_error;
use crate::conf::{ConfError, ConfResult};
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;

/// The passwords of `ssl_password_file`: each is tried.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passwords(Arc<Vec<Vec<u8>>>);

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passwords", self.0.len())
    }
}

impl Passwords {
    /// The lines of a file.
    pub fn read(file: &NamedFile) -> ConfResult<Passwords> {
        let text = crate::conf::files::read(&file.path).map_err(|e| {
            let (path, reason) = (file.path.display(), os_error(&e));
            ConfError::new(format!("open() \"{path}\" failed ({reason})")).at(&file.at)
        })?;
        let lines = text.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
        Ok(Passwords(Arc::new(lines.filter(|l| !l.is_empty()).map(<[u8]>::to_vec).collect())))
    }
}

/// The key in a file.
pub fn private_key(file: &NamedFile, passwords: &Passwords) -> ConfResult<PrivateKeyDer<'static>> {
    const WHAT: &str = "certificate key";
    let text = read(WHAT, file)?;
    let holds = |what: &[u8]| memchr::memmem::find(&text, what).is_some();
    if holds(b"Proc-Type: 4,ENCRYPTED") {
        return Err(cannot(WHAT, file, "it is encrypted in the old way of PEM, which is not supported")
            .hint("\"openssl pkcs8 -topk8 -in KEY -out NEW\" encrypts it as PKCS#8, which is read with ssl_password_file"));
    }
    if let Some(sealed) = encrypted(&text) {
        let sealed = sealed.ok_or_else(|| cannot(WHAT, file, "the encrypted key is no PEM"))?;
        return decrypt(&sealed, file, passwords);
    }
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|e| cannot(WHAT, file, &e.to_string()).hint("the file must hold a private key in PEM"))
}

/// The bytes of an encrypted key, where the first key in a file is one; within, none where it is broken.
fn encrypted(text: &[u8]) -> Option<Option<Vec<u8>>> {
    const BEGIN: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    const END: &[u8] = b"-----END ENCRYPTED PRIVATE KEY-----";
    let start = memchr::memmem::find(text, BEGIN)? + BEGIN.len();
    let end = memchr::memmem::find(&text[start..], END).map(|n| start + n);
    Some(end.and_then(|end| {
        let body: Vec<u8> = text[start..end].iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).ok()
    }))
}

fn decrypt(sealed: &[u8], file: &NamedFile, passwords: &Passwords) -> ConfResult<PrivateKeyDer<'static>> {
    const WHAT: &str = "certificate key";
    let info = EncryptedPrivateKeyInfoRef::try_from(sealed)
        .map_err(|e| cannot(WHAT, file, &format!("the encrypted key cannot be read ({e})")))?;
    if passwords.0.is_empty() {
        return Err(cannot(WHAT, file, "it is encrypted, and there is no password for it")
            .hint("name a file with its password by ssl_password_file; nobody can be asked for one here"));
    }
    let mut why = String::new();
    for password in passwords.0.iter() {
        match info.decrypt(password) {
            Ok(opened) => {
                return Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(opened.as_bytes().to_vec())));
            }
            Err(e) => why = e.to_string(),
        }
    }
    Err(cannot(WHAT, file, &format!("no password of \"ssl_password_file\" opens it ({why})")))
}
