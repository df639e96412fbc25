//! HKDF for the key schedule of TLS 1.3, on aws-lc's HMAC.
//!
//! A handshake derives some thirty secrets, several from each key. rustls's own way begins HMAC anew
//! for each; here a key is made ready once, which is half of the hashing of a short message. What does
//! not depend on the handshake, the secret without a pre-shared key, is made once.

use aws_lc_rs::hmac::{self, Context, HMAC_SHA256, HMAC_SHA384, Key};
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};
use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

/// The suite with this key schedule, where it is one of TLS 1.3.
pub fn with_ready_keys(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(known) = suite else { return suite };
    match SUITES.get(&u16::from(known.common.suite)) {
        Some(ready) => SupportedCipherSuite::Tls13(ready),
        None => suite,
    }
}

static SUITES: LazyLock<HashMap<u16, Tls13CipherSuite>> = LazyLock::new(|| {
    let all = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    let ready = all.iter().filter_map(|suite| {
        let SupportedCipherSuite::Tls13(known) = suite else { return None };
        let hkdf = match known.common.hash_provider.output_len() {
            32 => &SHA256,
            48 => &SHA384,
            _ => return None,
        };
        let common = CipherSuiteCommon {
            suite: known.common.suite,
            hash_provider: known.common.hash_provider,
            confidentiality_limit: known.common.confidentiality_limit,
        };
        let ready =
            Tls13CipherSuite { common, hkdf_provider: hkdf, aead_alg: known.aead_alg, quic: known.quic };
        Some((u16::from(known.common.suite), ready))
    });
    ready.collect()
});

static SHA256: Ready = Ready { algorithm: HMAC_SHA256, without_psk: OnceLock::new() };
static SHA384: Ready = Ready { algorithm: HMAC_SHA384, without_psk: OnceLock::new() };

struct Ready {
    algorithm: hmac::Algorithm,
    /// The early secret where there is no pre-shared key: a constant.
    without_psk: OnceLock<Key>,
}

/// As many zeroes as the longest hash has bytes.
const ZEROES: [u8; OkmBlock::MAX_LEN] = [0; OkmBlock::MAX_LEN];

impl Ready {
    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> Key {
        let salt = salt.unwrap_or(&ZEROES[..self.algorithm.tag_len()]);
        let secret = hmac::sign(&Key::new(self.algorithm, salt), secret);
        Key::new(self.algorithm, secret.as_ref())
    }
}

impl Hkdf for Ready {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        let zeroes = &ZEROES[..self.algorithm.tag_len()];
        let key = match salt {
            None => self.without_psk.get_or_init(|| self.extract(None, zeroes)).clone(),
            Some(_) => self.extract(salt, zeroes),
        };
        Box::new(Expander(key))
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        Box::new(Expander(self.extract(salt, secret)))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Expander(Key::new(self.algorithm, okm.as_ref())))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        Tag::new(hmac::sign(&Key::new(self.algorithm, key.as_ref()), message).as_ref())
    }
}

struct Expander(Key);

impl Expander {
    /// RFC 5869, 2.3. `output` is not too long.
    fn fill(&self, info: &[&[u8]], output: &mut [u8]) {
        let mut last: Option<hmac::Tag> = None;
        for (n, chunk) in output.chunks_mut(self.hash_len()).enumerate() {
            let mut context = Context::with_key(&self.0);
            if let Some(last) = &last {
                context.update(last.as_ref());
            }
            info.iter().for_each(|part| context.update(part));
            context.update(&[n as u8 + 1]);
            let term = context.sign();
            chunk.copy_from_slice(&term.as_ref()[..chunk.len()]);
            last = Some(term);
        }
    }
}

impl HkdfExpander for Expander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        if output.len() > 255 * self.hash_len() {
            return Err(OutputLengthError);
        }
        self.fill(info, output);
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let mut block = [0; OkmBlock::MAX_LEN];
        let block = &mut block[..self.hash_len()];
        self.fill(info, block);
        OkmBlock::new(block)
    }

    fn hash_len(&self) -> usize {
        self.0.algorithm().tag_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way into the key schedule comes to what aws-lc's own HKDF does.
    #[test]
    fn the_secrets_are_those_of_rustls() {
        for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
            let SupportedCipherSuite::Tls13(theirs) = suite else {
                assert_eq!(format!("{:?}", with_ready_keys(*suite)), format!("{suite:?}"));
                continue;
            };
            let SupportedCipherSuite::Tls13(ours) = with_ready_keys(*suite) else { panic!() };
            assert!(!std::ptr::eq(ours, *theirs));
            assert_eq!(ours.common.suite, theirs.common.suite);
            let (ours, theirs) = (ours.hkdf_provider, theirs.hkdf_provider);
            let okm = OkmBlock::new(&[7; 32]);
            type Way<'a> = &'a dyn Fn(&dyn Hkdf) -> Box<dyn HkdfExpander>;
            let ways: [Way<'_>; 6] = [
                &|h| h.extract_from_zero_ikm(None),
                &|h| h.extract_from_zero_ikm(None),
                &|h| h.extract_from_zero_ikm(Some(b"salt")),
                &|h| h.extract_from_secret(None, b"secret"),
                &|h| h.extract_from_secret(Some(&[1; 48]), b"secret"),
                &|h| h.expander_for_okm(&okm),
            ];
            for way in ways {
                let (ours, theirs) = (way(ours), way(theirs));
                assert_eq!(ours.hash_len(), theirs.hash_len());
                let info: [&[u8]; 3] = [b"\0\x20", b"tls13 derived", b""];
                assert_eq!(ours.expand_block(&info).as_ref(), theirs.expand_block(&info).as_ref());
                for length in [0, 12, 16, 32, 48, 49, 200] {
                    let (mut a, mut b) = (vec![0; length], vec![1; length]);
                    ours.expand_slice(&info, &mut a).unwrap();
                    theirs.expand_slice(&info, &mut b).unwrap();
                    assert_eq!(a, b);
                }
                assert!(ours.expand_slice(&info, &mut vec![0; 255 * 48 + 1]).is_err());
            }
            assert_eq!(ours.hmac_sign(&okm, b"m").as_ref(), theirs.hmac_sign(&okm, b"m").as_ref());
        }
    }
}
