//! Lists of revoked certificates.

use super::certificates::{self, NamedFile};
use super::x509::{Cert, is_signed};
use crate::conf::ConfResult;
use aws_lc_rs::digest;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use std::collections::{HashMap, HashSet};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::AlgorithmIdentifier;

/// The lists, by their issuers' names.
#[derive(Debug, Default)]
pub struct Lists(HashMap<Vec<u8>, Vec<List>>);

#[derive(Debug)]
struct List {
    this_update: i64,
    next_update: Option<i64>,
    revoked: HashSet<Vec<u8>>,
    authority_key: Option<Vec<u8>>,
    has_unknown_critical: bool,
    /// The whole of it: what is signed and the signature are read out of it where they are needed.
    der: Vec<u8>,
}

const SIGNS_LISTS: u16 = 1 << 6;

/// The lists in a file, in PEM.
pub fn read(file: &NamedFile) -> ConfResult<Lists> {
    const WHAT: &str = "CRL";
    let text = certificates::read(WHAT, file)?;
    let mut lists = Lists::default();
    for der in CertificateRevocationListDer::pem_slice_iter(&text) {
        let der = der.map_err(|e| certificates::cannot(WHAT, file, &e.to_string()))?;
        if !lists.add(&der) {
            return Err(certificates::cannot(WHAT, file, "a list in it cannot be read"));
        }
    }
    match lists.is_empty() {
        true => Err(certificates::cannot(WHAT, file, "no start line: Expecting: X509 CRL")),
        false => Ok(lists),
    }
}

impl Lists {
    /// Adds a list; whether it could be read.
    pub fn add(&mut self, der: &[u8]) -> bool {
        let Ok((_, list)) = CertificateRevocationList::from_der(der) else { return false };
        let mut authority_key = None;
        let mut unknown = false;
        for extension in list.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(k) => {
                    authority_key = k.key_identifier.as_ref().map(|k| k.0.to_vec());
                }
                ParsedExtension::CRLNumber(_) => {}
                // One for some certificates only, or a change to another.
                _ => unknown |= extension.critical,
            }
        }
        let revoked = list.iter_revoked_certificates().map(|r| magnitude(r.raw_serial()).to_vec()).collect();
        unknown |= list.iter_revoked_certificates().any(|r| {
            let known = |e: &x509_parser::extensions::X509Extension<'_>| {
                matches!(
                    e.parsed_extension(),
                    ParsedExtension::ReasonCode(_) | ParsedExtension::InvalidityDate(_)
                )
            };
            r.extensions().iter().any(|e| e.critical && !known(e))
        });
        self.0.entry(list.issuer().as_raw().to_vec()).or_default().push(List {
            this_update: list.last_update().timestamp(),
            next_update: list.next_update().map(|t| t.timestamp()),
            revoked,
            authority_key,
            has_unknown_critical: unknown,
            der: der.to_vec(),
        });
        true
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what the lists are to a digest, in an order that does not change.
    pub fn digest(&self, hash: &mut digest::Context) {
        let mut all: Vec<_> =
            self.0.values().flatten().map(|l| digest::digest(&digest::SHA256, &l.der)).collect();
        all.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        all.iter().for_each(|d| hash.update(d.as_ref()));
    }

    /// Tells what the lists say of a certificate, whose issuer's certificate is `issuer`.
    pub fn check(&self, cert: &Cert<'_>, issuer: Option<&Cert<'_>>, now: i64, tell: &mut impl FnMut(u8)) {
        let lists = self.0.get(cert.x.issuer().as_raw()).map_or(&[][..], Vec::as_slice);
        let fits = |list: &&List| match (&list.authority_key, issuer.and_then(|i| i.subject_key)) {
            (Some(wanted), Some(is)) => wanted == is,
            _ => true,
        };
        // One that is valid now, and of those the newest.
        let list = lists.iter().filter(fits).max_by_key(|l| (l.is_current(now), l.this_update));
        let Some(list) = list else { return tell(3) };
        // Without the issuer, the signature is tried with the last certificate there is.
        let signer = issuer.unwrap_or_else(|| {
            tell(33);
            cert
        });
        if signer.usage.is_some_and(|u| u & SIGNS_LISTS == 0) {
            tell(35);
        }
        if list.this_update > now {
            tell(11);
        }
        if list.next_update.is_some_and(|t| t < now) {
            tell(12);
        }
        if !list.is_signed_by(signer) {
            tell(8);
        }
        if list.has_unknown_critical {
            tell(36);
        }
        if list.revoked.contains(magnitude(cert.x.raw_serial())) {
            tell(23);
        }
    }
}

/// A number's bytes without zeros before them.
fn magnitude(raw: &[u8]) -> &[u8] {
    let start = raw.iter().position(|b| *b != 0).unwrap_or(raw.len());
    &raw[start..]
}

impl List {
    fn is_current(&self, now: i64) -> bool {
        self.this_update <= now && self.next_update.is_none_or(|t| t >= now)
    }

    fn is_signed_by(&self, issuer: &Cert<'_>) -> bool {
        let Some((signed, algorithm, signature)) = parts(&self.der) else { return false };
        let Ok((_, algorithm)) = AlgorithmIdentifier::from_der(algorithm) else { return false };
        is_signed(issuer.x.public_key().raw, &algorithm, signed, signature)
    }
}

/// What is signed, by which algorithm, and the signature: the three parts of a signed structure.
/// They are found by their lengths, without reading a list that may be long again.
fn parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (_, inner, _) = element(der)?;
    let (signed, _, rest) = element(inner)?;
    let (algorithm, _, rest) = element(rest)?;
    let (_, signature, _) = element(rest)?;
    // The first byte of a bit string counts the bits that are not used.
    Some((signed, algorithm, signature.strip_prefix(&[0])?))
}

/// An element with its header, its contents, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let first = *der.get(1)?;
    let (header, length) = match first {
        0..=0x7f => (2, usize::from(first)),
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let bytes = der.get(2..2 + count)?;
            (2 + count, bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)))
        }
        _ => return None,
    };
    let end = header.checked_add(length)?;
    Some((der.get(..end)?, der.get(header..end)?, der.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = parts(&bytes);
            let mut lists = Lists::default();
            lists.add(&bytes);
        }
    }

    #[test]
    fn elements_by_their_lengths() {
        assert_eq!(element(&[0x30, 1, 7, 9]), Some((&[0x30, 1, 7][..], &[7][..], &[9][..])));
        assert_eq!(element(&[0x30, 0x81, 1, 7]), Some((&[0x30, 0x81, 1, 7][..], &[7][..], &[][..])));
        assert_eq!(element(&[0x30, 2, 7]), None);
        assert_eq!(element(&[0x30, 0x80]), None);
    }
}
