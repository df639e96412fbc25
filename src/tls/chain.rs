//! Chains of certificates, judged as OpenSSL judges them: the same path, the same checks in the same
//! order, the same words for what is wrong.
//!
//! As nginx's callback lets OpenSSL go on after an error, the last error found is the one that is
//! told. A chain that is found good here has to be good for webpki as well wherever webpki can read it.

use super::crl::Lists;
use super::x509::{self, Cert};
use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::collections::HashMap;
use std::time::Duration;
use x509_parser::extensions::GeneralName;

/// What came of a verification: a number of OpenSSL's (`X509_V_...`), of which 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(pub u8);

impl Verdict {
    /// Success.
    pub const OK: Verdict = Verdict(0);

    /// Whether it is success.
    pub fn is_ok(self) -> bool {
        self == Verdict::OK
    }

    /// Whether only the authority is not known, which `optional_no_ca` does not mind.
    pub fn is_untrusted(self) -> bool {
        matches!(self.0, 18..=21)
    }

    /// OpenSSL's words.
    pub fn reason(self) -> &'static str {
        match self.0 {
            0 => "ok",
            2 => "unable to get issuer certificate",
            3 => "unable to get certificate CRL",
            7 => "certificate signature failure",
            8 => "CRL signature failure",
            9 => "certificate is not yet valid",
            10 => "certificate has expired",
            11 => "CRL is not yet valid",
            12 => "CRL has expired",
            18 => "self-signed certificate",
            19 => "self-signed certificate in certificate chain",
            20 => "unable to get local issuer certificate",
            21 => "unable to verify the first certificate",
            23 => "certificate revoked",
            25 => "path length constraint exceeded",
            26 => "unsuitable certificate purpose",
            32 => "key usage does not include certificate signing",
            33 => "unable to get CRL issuer certificate",
            34 => "unhandled critical extension",
            35 => "key usage does not include CRL signing",
            36 => "unhandled critical CRL extension",
            41 => "invalid or inconsistent certificate extension",
            47 => "permitted subtree violation",
            48 => "excluded subtree violation",
            79 => "invalid CA certificate",
            _ => "unspecified certificate verification error",
        }
    }
}

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// By a client to us.
    Client,
    /// By an upstream to us.
    Server,
}

/// Who is trusted, and how far.
#[derive(Debug)]
pub struct Trust {
    authorities: Vec<CertificateDer<'static>>,
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
    lists: Option<Lists>,
    depth: u64,
    purpose: Purpose,
}

/// The most certificates of a path, whatever depth is allowed, and of those that a peer sends that are
/// looked at.
const MOST: usize = 100;

/// Bits of a key's usage.
const SIGNS: u16 = 1;
const ENCIPHERS: u16 = 1 << 2;
const AGREES: u16 = 1 << 4;
const SIGNS_CERTIFICATES: u16 = 1 << 5;

impl Trust {
    /// Trust in `authorities`, of which the self-signed ones are ends of paths; with lists, every
    /// certificate of a path has to be on none of them, and its issuer's has to be there.
    pub fn new(
        authorities: Vec<CertificateDer<'static>>,
        lists: Option<Lists>,
        depth: u64,
        purpose: Purpose,
    ) -> Trust {
        let mut by_subject: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (index, der) in authorities.iter().enumerate() {
            if let Some(cert) = Cert::parse(der) {
                by_subject.entry(cert.x.subject().as_raw().to_vec()).or_default().push(index);
            }
        }
        Trust { authorities, by_subject, lists, depth, purpose }
    }

    /// What is different whenever another trust could judge otherwise.
    pub fn fingerprint(&self) -> Vec<u8> {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&self.depth.to_be_bytes());
        for der in &self.authorities {
            hash.update(&(der.len() as u64).to_be_bytes());
            hash.update(der);
        }
        if let Some(lists) = &self.lists {
            hash.update(b"lists");
            lists.digest(&mut hash);
        }
        hash.finish().as_ref().to_vec()
    }

    /// Judges a chain, whose first is the peer's own, at a moment in seconds since 1970.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: i64) -> Verdict {
        let Some((first, sent)) = chain.split_first() else { return Verdict(1) };
        let Some(leaf) = Cert::parse(first) else { return Verdict(1) };
        let sent: Vec<Cert<'_>> = sent.iter().take(MOST).filter_map(|der| Cert::parse(der)).collect();
        let (path, mut verdict) = self.path(leaf, sent, now);
        let mut tell = |code: u8| verdict = code;
        self.check_extensions(&path, &mut tell);
        if let Some(lists) = &self.lists {
            for (index, cert) in path.iter().enumerate() {
                let issuer = path.get(index + 1).or(Some(cert).filter(|c| c.is_self_signed()));
                lists.check(cert, issuer, now, &mut tell);
            }
        }
        check_signatures(&path, now, &mut tell);
        let verdict = Verdict(verdict);
        if !verdict.is_ok() && !verdict.is_untrusted() {
            return verdict;
        }
        // Names that are constrained are so under an authority that is not known as well.
        match self.second_opinion(&path, now) {
            other if verdict.is_ok() || matches!(other.0, 47 | 48) => other,
            _ => verdict,
        }
    }

    /// The path from the leaf up, and what is wrong with it as a path.
    fn path<'a>(&'a self, leaf: Cert<'a>, mut sent: Vec<Cert<'a>>, now: i64) -> (Vec<Cert<'a>>, u8) {
        let limit = usize::try_from(self.depth).unwrap_or(MOST).min(MOST) + 1;
        let mut path = vec![leaf];
        let mut known = 0;
        loop {
            let last = &path[path.len() - 1];
            let self_signed = last.is_self_signed();
            if self_signed && self.authorities.iter().any(|a| a.as_ref() == last.der) {
                return (path, 0);
            }
            let too_long = path.len() > limit;
            if !self_signed && !too_long {
                if let Some(issuer) = self.issuer(last, &path, now) {
                    known += 1;
                    path.push(issuer);
                    continue;
                }
                if let Some(index) = sent.iter().position(|c| last.is_issued_by(c)) {
                    path.push(sent.swap_remove(index));
                    continue;
                }
            }
            // That a path is too long is told first, and so is never what is told last.
            let code = match (self_signed, path.len()) {
                (true, 1) => 18,
                (true, _) => 19,
                _ if known > 0 => 2,
                _ => 20,
            };
            return (path, code);
        }
    }

    /// The authority that issued a certificate: one that is valid now, or else any.
    fn issuer(&self, cert: &Cert<'_>, path: &[Cert<'_>], now: i64) -> Option<Cert<'_>> {
        let candidates = self.by_subject.get(cert.x.issuer().as_raw())?;
        let mut fallback = None;
        for index in candidates {
            let Some(candidate) = Cert::parse(&self.authorities[*index]) else { continue };
            if !cert.is_issued_by(&candidate) || path.iter().any(|c| c.der == candidate.der) {
                continue;
            }
            if candidate.time_code(now) == 0 {
                return Some(candidate);
            }
            fallback.get_or_insert(candidate);
        }
        fallback
    }

    fn check_extensions(&self, path: &[Cert<'_>], tell: &mut impl FnMut(u8)) {
        let mut below = 0;
        for (index, cert) in path.iter().enumerate() {
            if cert.has_unknown_critical {
                tell(34);
            }
            if cert.is_broken {
                tell(41);
            }
            if index > 0 && !cert.is_authority() {
                tell(79);
            }
            let purpose = cert.extended.as_ref().is_none_or(|e| match self.purpose {
                Purpose::Client => e.client_auth,
                Purpose::Server => e.server_auth,
            });
            let usage = match self.purpose {
                Purpose::Client => SIGNS | AGREES,
                Purpose::Server => SIGNS | AGREES | ENCIPHERS,
            };
            let usable = match index {
                0 => cert.usage.is_none_or(|u| u & usage != 0),
                _ => cert.is_authority(),
            };
            if !purpose || !usable {
                tell(26);
            }
            if index > 1 && cert.path_length.is_some_and(|most| below > u64::from(most)) {
                tell(25);
            }
            // Those that a name issued for itself do not count.
            if index > 0 && !cert.is_self_issued() {
                below += 1;
            }
        }
    }

    /// What webpki says of a path found good here. Certificates of version 1, and those of authorities
    /// shown as a peer's own, are nothing it reads: they pass where no names are constrained.
    fn second_opinion(&self, path: &[Cert<'_>], now: i64) -> Verdict {
        let (Some(leaf), Some(anchor)) = (path.first(), path.last()) else { return Verdict(1) };
        let unreadable = path.len() == 1
            || leaf.is_authority()
            || path[..path.len() - 1].iter().any(|c| c.x.version() != x509::V3);
        if let Some(code) = check_names(path) {
            return Verdict(code);
        }
        if unreadable {
            return if path.iter().any(|c| c.constraints.is_some()) { Verdict(47) } else { Verdict::OK };
        }
        let ders: Vec<CertificateDer<'_>> = path.iter().map(|c| CertificateDer::from(c.der)).collect();
        let anchor = CertificateDer::from(anchor.der);
        let Ok(anchor) = webpki::anchor_from_trusted_cert(&anchor) else { return Verdict(1) };
        let Ok(leaf) = webpki::EndEntityCert::try_from(&ders[0]) else { return Verdict(1) };
        let usage = match self.purpose {
            Purpose::Client => webpki::KeyUsage::client_auth(),
            Purpose::Server => webpki::KeyUsage::server_auth(),
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
        let algorithms = x509::algorithms().all;
        let between = &ders[1..ders.len() - 1];
        match leaf.verify_for_usage(algorithms, &[anchor], between, now, usage, None, None) {
            Ok(_) => Verdict::OK,
            Err(webpki::Error::NameConstraintViolation) => Verdict(47),
            Err(_) => Verdict(1),
        }
    }
}

/// What webpki does not see to of names that are constrained: it knows those of hosts and addresses, and
/// does not take a common name for a host's. Other kinds of constraints nobody here could keep to.
fn check_names(path: &[Cert<'_>]) -> Option<u8> {
    let host = path.first()?.common_host();
    let within = |base: &GeneralName<'_>| {
        let (GeneralName::DNSName(base), Some(host)) = (base, host) else { return false };
        let (base, host) = (base.trim_start_matches('.').to_ascii_lowercase(), host.to_ascii_lowercase());
        base.is_empty() || host == base || host.strip_suffix(&base).is_some_and(|h| h.ends_with('.'))
    };
    let is_host = |base: &GeneralName<'_>| matches!(base, GeneralName::DNSName(_));
    for constraints in path.iter().filter_map(|c| c.constraints.as_ref()) {
        let permitted = constraints.permitted_subtrees.as_deref().unwrap_or_default();
        let excluded = constraints.excluded_subtrees.as_deref().unwrap_or_default();
        let known = |base: &GeneralName<'_>| is_host(base) || matches!(base, GeneralName::IPAddress(_));
        if !permitted.iter().chain(excluded).all(|s| known(&s.base)) {
            return Some(47);
        }
        let limits = host.is_some() && permitted.iter().any(|s| is_host(&s.base));
        if limits && !permitted.iter().any(|s| within(&s.base)) {
            return Some(47);
        }
        if excluded.iter().any(|s| within(&s.base)) {
            return Some(48);
        }
    }
    None
}

/// Signatures and times, from the top down.
fn check_signatures(path: &[Cert<'_>], now: i64, tell: &mut impl FnMut(u8)) {
    let Some(top) = path.last() else { return };
    let alone = path.len() == 1 && !top.is_self_signed();
    if alone {
        tell(21);
    }
    // What an anchor signs of itself is not looked at.
    if alone || top.is_self_signed() {
        check_time(top, now, tell);
    }
    for index in (0..path.len() - 1).rev() {
        if path[index + 1].usage.is_some_and(|u| u & SIGNS_CERTIFICATES == 0) {
            tell(32);
        }
        if !path[index].is_signed_by(&path[index + 1]) {
            tell(7);
        }
        check_time(&path[index], now, tell);
    }
}

fn check_time(cert: &Cert<'_>, now: i64, tell: &mut impl FnMut(u8)) {
    match cert.time_code(now) {
        0 => {}
        code => tell(code),
    }
}

impl Cert<'_> {
    /// 0, or what is wrong with the time.
    fn time_code(&self, now: i64) -> u8 {
        let validity = self.x.validity();
        match (validity.not_before.timestamp() > now, validity.not_after.timestamp() < now) {
            (true, _) => 9,
            (_, true) => 10,
            _ => 0,
        }
    }

    fn is_self_issued(&self) -> bool {
        self.x.subject().as_raw() == self.x.issuer().as_raw()
    }

    /// Whether it is its own issuer, by its names and identifiers.
    fn is_self_signed(&self) -> bool {
        self.is_self_issued() && self.identifies(self)
    }

    /// Whether the identifiers of its authority are those of `issuer`, as far as there are any.
    fn identifies(&self, issuer: &Cert<'_>) -> bool {
        let key = match (self.authority_key, issuer.subject_key) {
            (Some(wanted), Some(is)) => wanted == is,
            _ => true,
        };
        key && self.authority_serial.is_none_or(|s| s == issuer.x.raw_serial())
    }

    fn is_issued_by(&self, issuer: &Cert<'_>) -> bool {
        self.x.issuer().as_raw() == issuer.x.subject().as_raw() && self.identifies(issuer)
    }

    /// Whether it may issue others: it says so, or is of a time when nothing was said.
    fn is_authority(&self) -> bool {
        if self.usage.is_some_and(|u| u & SIGNS_CERTIFICATES == 0) {
            return false;
        }
        match self.authority {
            Some(authority) => authority,
            None => self.usage.is_some() || self.x.version() == x509::V1 && self.is_self_signed(),
        }
    }

    fn is_signed_by(&self, issuer: &Cert<'_>) -> bool {
        x509::is_signed(
            issuer.x.public_key().raw,
            &self.x.signature_algorithm,
            self.x.tbs_certificate.as_ref(),
            &self.x.signature_value.data,
        )
    }
}
