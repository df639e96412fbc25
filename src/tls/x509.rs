//! Certificates read, and their parts as text in OpenSSL's forms.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use std::fmt::Write;
use std::sync::OnceLock;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, NameConstraints, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, X509Name, X509Version};

/// The versions of a certificate.
pub const V1: X509Version = X509Version::V1;
/// See [`V1`].
pub const V3: X509Version = X509Version::V3;

/// A certificate, and what its extensions say.
#[derive(Debug)]
pub struct Cert<'a> {
    /// Its bytes.
    pub der: &'a [u8],
    /// All of it.
    pub x: X509Certificate<'a>,
    /// Whether it says that it is an authority's.
    pub authority: Option<bool>,
    /// The most intermediates below it.
    pub path_length: Option<u32>,
    /// What its key may be used for, in bits.
    pub usage: Option<u16>,
    /// What it may be shown for.
    pub extended: Option<ExtendedKeyUsage<'a>>,
    /// The identifier of its key.
    pub subject_key: Option<&'a [u8]>,
    /// The identifier of its issuer's key.
    pub authority_key: Option<&'a [u8]>,
    /// The serial number of its issuer's certificate.
    pub authority_serial: Option<&'a [u8]>,
    /// For which names it may issue.
    pub constraints: Option<NameConstraints<'a>>,
    /// Whether an extension that has to be understood is not.
    pub has_unknown_critical: bool,
    /// Whether an extension cannot be read.
    pub is_broken: bool,
}

impl<'a> Cert<'a> {
    /// Reads one.
    pub fn parse(der: &'a [u8]) -> Option<Cert<'a>> {
        let (rest, x) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let mut cert = Cert {
            der,
            authority: None,
            path_length: None,
            usage: None,
            extended: None,
            subject_key: None,
            authority_key: None,
            authority_serial: None,
            constraints: None,
            has_unknown_critical: false,
            is_broken: false,
            x,
        };
        let mut seen = Vec::new();
        for extension in cert.x.extensions() {
            // One that stands twice could be read in two ways.
            cert.is_broken |= seen.contains(&&extension.oid);
            seen.push(&extension.oid);
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(b) => {
                    cert.authority = Some(b.ca);
                    cert.path_length = b.path_len_constraint;
                }
                ParsedExtension::KeyUsage(u) => cert.usage = Some(u.flags),
                ParsedExtension::ExtendedKeyUsage(e) => cert.extended = Some(e.clone()),
                ParsedExtension::SubjectKeyIdentifier(k) => cert.subject_key = Some(k.0),
                ParsedExtension::AuthorityKeyIdentifier(k) => {
                    cert.authority_key = k.key_identifier.as_ref().map(|k| k.0);
                    cert.authority_serial = k.authority_cert_serial;
                }
                ParsedExtension::NameConstraints(n) => cert.constraints = Some(n.clone()),
                ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::CertificatePolicies(_)
                | ParsedExtension::PolicyMappings(_)
                | ParsedExtension::PolicyConstraints(_)
                | ParsedExtension::InhibitAnyPolicy(_)
                | ParsedExtension::NSCertType(_)
                | ParsedExtension::CRLDistributionPoints(_) => {}
                ParsedExtension::ParseError { .. } => cert.is_broken = true,
                _ => cert.has_unknown_critical |= extension.critical,
            }
        }
        Some(cert)
    }

    /// Its common name where that stands in for a name of a host: it has none, and that looks like one.
    pub fn common_host(&self) -> Option<&str> {
        let named = self.x.extensions().iter().any(|e| match e.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                names.general_names.iter().any(|n| matches!(n, GeneralName::DNSName(_)))
            }
            _ => false,
        });
        let looks = |cn: &&str| {
            cn.contains('.')
                && cn.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let mut names = self.x.subject().iter_common_name().filter_map(|cn| cn.as_str().ok());
        if named { None } else { names.find(looks) }
    }

    /// Whether it is for the host `name` (X509_check_host): one of its names of hosts is, or, where it
    /// has none, its common name.
    pub fn is_for(&self, name: &str) -> bool {
        let mut named = false;
        for extension in self.x.extensions() {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                continue;
            };
            for general in &names.general_names {
                if let GeneralName::DNSName(pattern) = general {
                    named = true;
                    if host_fits(pattern, name) {
                        return true;
                    }
                }
            }
        }
        !named
            && self.x.subject().iter_common_name().any(|cn| cn.as_str().is_ok_and(|cn| host_fits(cn, name)))
    }
}

/// Whether a host is a pattern's: the same, or with one label in the place of a leading `*`.
fn host_fits(pattern: &str, host: &str) -> bool {
    if host.is_empty() {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(wild), Some((label, domain))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    wild.contains('.') && !label.is_empty() && wild.eq_ignore_ascii_case(domain)
}

/// The algorithms of signatures.
pub fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    static ALL: OnceLock<WebPkiSupportedAlgorithms> = OnceLock::new();
    ALL.get_or_init(|| super::config::standard_provider().signature_verification_algorithms)
}

/// Whether `signature` of `message` was made with the key in `key`, a `SubjectPublicKeyInfo`.
pub fn is_signed(key: &[u8], algorithm: &AlgorithmIdentifier<'_>, message: &[u8], signature: &[u8]) -> bool {
    let key = SubjectPublicKeyInfoDer::from(key);
    let (Ok(key), Some(wanted)) = (webpki::RawPublicKeyEntity::try_from(&key), contents(algorithm)) else {
        return false;
    };
    algorithms()
        .all
        .iter()
        .filter(|a| a.signature_alg_id().as_ref() == wanted)
        .any(|a| key.verify_signature(*a, message, signature).is_ok())
}

/// What stands in the sequence of an algorithm's identifier.
pub fn contents(algorithm: &AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let oid = algorithm.algorithm.as_bytes();
    let mut out = vec![6, u8::try_from(oid.len()).ok().filter(|n| *n < 128)?];
    out.extend_from_slice(oid);
    if let Some(parameters) = &algorithm.parameters {
        out.extend(parameters.to_der_vec().ok()?);
    }
    Some(out)
}

/// OpenSSL's short name of a part of a name.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.15" => "businessCategory",
        "2.5.4.16" => "postalAddress",
        "2.5.4.17" => "postalCode",
        "2.5.4.18" => "postOfficeBox",
        "2.5.4.20" => "telephoneNumber",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.45" => "x500UniqueIdentifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "2.5.4.72" => "role",
        "2.5.4.97" => "organizationIdentifier",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "1.2.840.113549.1.9.2" => "unstructuredName",
        "1.2.840.113549.1.9.8" => "unstructuredAddress",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.3" => "mail",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.3.6.1.4.1.311.60.2.1.1" => "jurisdictionL",
        "1.3.6.1.4.1.311.60.2.1.2" => "jurisdictionST",
        "1.3.6.1.4.1.311.60.2.1.3" => "jurisdictionC",
        _ => return None,
    })
}

/// A name as RFC 2253 has it: the last part first, what is not ASCII by its bytes in hex.
pub fn name_2253(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let values: Vec<_> = part.iter().collect();
        for (index, value) in values.iter().rev().enumerate() {
            if index > 0 {
                out.push('+');
            }
            let oid = value.attr_type().to_id_string();
            let known = short_name(&oid);
            out.push_str(known.unwrap_or(&oid));
            out.push('=');
            match characters(value.attr_value()).filter(|_| known.is_some()) {
                Some(text) => escape_2253(&text, &mut out),
                None => {
                    out.push('#');
                    hex(&value.attr_value().to_der_vec().unwrap_or_default(), &mut out);
                }
            }
        }
    }
    out
}

/// The characters of a value; none where it is no text.
fn characters(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String => std::str::from_utf8(value.data).ok().map(str::to_string),
        Tag::PrintableString
        | Tag::T61String
        | Tag::Ia5String
        | Tag::VisibleString
        | Tag::NumericString
        | Tag::GeneralString => Some(value.data.iter().map(|b| char::from(*b)).collect()),
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let units: Vec<u16> =
                value.data.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
            String::from_utf16(&units).ok()
        }
        Tag::UniversalString if value.data.len().is_multiple_of(4) => value
            .data
            .chunks_exact(4)
            .map(|c| char::from_u32(u32::from_be_bytes([c[0], c[1], c[2], c[3]])))
            .collect(),
        _ => None,
    }
}

fn escape_2253(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        let edge = byte == b' ' && (index == 0 || index == last) || byte == b'#' && index == 0;
        match byte {
            _ if edge => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}

/// A name as OpenSSL wrote them of old: `/C=XX/O=Y/CN=Z`.
pub fn name_oneline(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let parts = name.iter_rdn().flat_map(|part| part.iter().enumerate());
    for (index, value) in parts {
        let oid = value.attr_type().to_id_string();
        out.push(if index == 0 { '/' } else { '+' });
        out.push_str(short_name(&oid).unwrap_or(&oid));
        out.push('=');
        for byte in value.attr_value().data {
            match byte {
                b' '..=b'~' => out.push(char::from(*byte)),
                _ => {
                    let _ = write!(out, "\\x{byte:02X}");
                }
            }
        }
    }
    out
}

/// Bytes in capital hex.
fn hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "{byte:02X}");
    }
}

/// A serial number from its bytes, in hex.
pub fn serial(raw: &[u8]) -> String {
    let mut out = String::new();
    let mut magnitude = raw.to_vec();
    if raw.first().is_some_and(|b| b & 0x80 != 0) {
        out.push('-');
        // The two's complement.
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let start = magnitude.iter().position(|b| *b != 0).unwrap_or(magnitude.len().saturating_sub(1));
    hex(&magnitude[start..], &mut out);
    if magnitude.is_empty() {
        out.push_str("00");
    }
    out
}

/// A moment as OpenSSL prints it: `Nov  5 08:00:00 2026 GMT`.
pub fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(at) => at.strftime("%b %e %H:%M:%S %Y GMT").to_string(),
        Err(_) => "Bad time value".to_string(),
    }
}

/// A certificate in PEM.
pub fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_fit_as_openssl_has_it() {
        for (pattern, host, fits) in [
            ("a.example", "A.example", true),
            ("*.a.example", "x.a.example", true),
            ("*.a.example", "x.y.a.example", false),
            ("*.a.example", "a.example", false),
            ("*.example", "a.example", false),
            ("*.a.example", ".a.example", false),
            ("", "", false),
        ] {
            assert_eq!(host_fits(pattern, host), fits, "{pattern} {host}");
        }
    }

    #[test]
    fn serial_numbers_as_openssl_prints_them() {
        for (raw, want) in [
            (&[1u8][..], "01"),
            (&[0, 0x80], "80"),
            (&[0], "00"),
            (&[0xff], "-01"),
            (&[0x12, 0xab], "12AB"),
            (&[0xff, 0x00], "-0100"),
        ] {
            assert_eq!(serial(raw), want);
        }
    }

    #[test]
    fn moments_as_openssl_prints_them() {
        assert_eq!(time(0), "Jan  1 00:00:00 1970 GMT");
        assert_eq!(time(1_794_837_600), "Nov 16 14:00:00 2026 GMT");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Cert::parse(&bytes);
            let _ = serial(&bytes);
        }
    }
}
