//! OpenSSL's cipher strings, read for the TLS 1.2 suites that rustls has.
//!
//! The rules are OpenSSL's (`ciphers(1)`): words joined by `+` all have to fit; a word adds suites
//! at the end, `-` takes them away for the time being, `!` for good, a leading `+` moves them to the
//! end, `@STRENGTH` sorts by key length. Suites that rustls lacks are told, not silently dropped.

use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::{CipherSuite, SupportedCipherSuite};

/// A suite as cipher strings see it.
struct Known {
    suite: SupportedCipherSuite,
    /// OpenSSL's name.
    name: &'static str,
    /// The IANA name.
    standard: &'static str,
    /// The words that fit it beside those in [`COMMON`].
    words: &'static [&'static str],
    /// Key length.
    bits: u16,
}

/// The words that fit every suite of TLS 1.2 that rustls has.
const COMMON: &[&str] = &["ALL", "DEFAULT", "HIGH", "TLSv1.2", "kECDHE", "kEECDH", "ECDHE", "EECDH", "ECDH"];

const AES128: &[&str] = &["AES", "AES128", "AESGCM", "FIPS"];
const AES256: &[&str] = &["AES", "AES256", "AESGCM", "FIPS"];
const CHACHA: &[&str] = &["CHACHA20"];
const ECDSA: &[&str] = &["aECDSA", "ECDSA"];
const RSA: &[&str] = &["aRSA"];

/// In OpenSSL's order of preference.
const SUITES: [(Known, &[&str]); 6] = [
    (
        Known {
            suite: suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            name: "ECDHE-ECDSA-AES256-GCM-SHA384",
            standard: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            words: AES256,
            bits: 256,
        },
        ECDSA,
    ),
    (
        Known {
            suite: suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            name: "ECDHE-RSA-AES256-GCM-SHA384",
            standard: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            words: AES256,
            bits: 256,
        },
        RSA,
    ),
    (
        Known {
            suite: suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            name: "ECDHE-ECDSA-CHACHA20-POLY1305",
            standard: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            words: CHACHA,
            bits: 256,
        },
        ECDSA,
    ),
    (
        Known {
            suite: suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            name: "ECDHE-RSA-CHACHA20-POLY1305",
            standard: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            words: CHACHA,
            bits: 256,
        },
        RSA,
    ),
    (
        Known {
            suite: suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            name: "ECDHE-ECDSA-AES128-GCM-SHA256",
            standard: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            words: AES128,
            bits: 128,
        },
        ECDSA,
    ),
    (
        Known {
            suite: suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            name: "ECDHE-RSA-AES128-GCM-SHA256",
            standard: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            words: AES128,
            bits: 128,
        },
        RSA,
    ),
];

/// What a cipher string comes to.
#[derive(Debug, Default)]
pub struct Chosen {
    /// The suites of TLS 1.2, in order of preference; none when nothing fits.
    pub suites: Vec<SupportedCipherSuite>,
    /// What was asked for and fits nothing here, as written.
    pub absent: Vec<String>,
}

/// Reads a cipher string.
pub fn parse(text: &str) -> Chosen {
    let mut list: Vec<(usize, bool)> = (0..SUITES.len()).map(|i| (i, false)).collect();
    let mut absent = Vec::new();
    for word in text.split([':', ',', ' ', ';']).filter(|w| !w.is_empty()) {
        match word.as_bytes()[0] {
            b'!' => list.retain(|(i, _)| !fits(*i, &word[1..])),
            b'-' => remove(&mut list, &word[1..]),
            b'+' => move_last(&mut list, |i, active| active && fits(i, &word[1..]), true),
            b'@' => {
                if word == "@STRENGTH" {
                    list.sort_by_key(|(i, active)| (!active, u16::MAX - SUITES[*i].0.bits));
                } else if !word.starts_with("@SECLEVEL=") {
                    absent.push(word.to_string());
                }
            }
            _ => {
                if !(0..SUITES.len()).any(|i| fits(i, word)) {
                    absent.push(word.to_string());
                }
                move_last(&mut list, |i, active| !active && fits(i, word), true);
            }
        }
    }
    let suites = list.iter().filter(|(_, active)| *active).map(|(i, _)| SUITES[*i].0.suite).collect();
    Chosen { suites, absent }
}

/// Takes what fits out of the choice; the next word that adds it finds it first.
fn remove(list: &mut Vec<(usize, bool)>, word: &str) {
    let (gone, mut kept): (Vec<_>, Vec<_>) = list.iter().partition(|(i, active)| *active && fits(*i, word));
    let mut next: Vec<_> = gone.into_iter().map(|(i, _)| (i, false)).collect();
    next.append(&mut kept);
    *list = next;
}

/// Moves what `which` picks to the end.
fn move_last(list: &mut Vec<(usize, bool)>, which: impl Fn(usize, bool) -> bool, active: bool) {
    let (moved, mut kept): (Vec<_>, Vec<_>) = list.iter().partition(|(i, on)| which(*i, *on));
    kept.extend(moved.into_iter().map(|(i, _)| (i, active)));
    *list = kept;
}

/// Whether every part of `word` fits the suite.
fn fits(index: usize, word: &str) -> bool {
    let (known, auth) = &SUITES[index];
    word.split('+').all(|part| {
        part == known.name
            || part == known.standard
            || COMMON.contains(&part)
            || known.words.contains(&part)
            || auth.contains(&part)
    })
}

/// The suites of TLS 1.3 named in `Ciphersuites`, and the names that are not to be had.
pub fn parse_tls13(text: &str) -> Chosen {
    let mut chosen = Chosen::default();
    for word in text.split(':').filter(|w| !w.is_empty()) {
        let found = [
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ]
        .into_iter()
        .find(|s| name(s.suite()) == word);
        match found {
            Some(suite) => chosen.suites.push(suite),
            None => chosen.absent.push(word.to_string()),
        }
    }
    chosen
}

/// OpenSSL's name of a suite; empty for one that rustls does not have.
pub fn name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => SUITES.iter().find(|(k, _)| k.suite.suite() == other).map_or("", |(k, _)| k.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> String {
        let chosen = parse(text);
        chosen.suites.iter().map(|s| name(s.suite())).collect::<Vec<_>>().join(":")
    }

    const E256: &str = "ECDHE-ECDSA-AES256-GCM-SHA384";
    const R256: &str = "ECDHE-RSA-AES256-GCM-SHA384";
    const ECC: &str = "ECDHE-ECDSA-CHACHA20-POLY1305";
    const RCC: &str = "ECDHE-RSA-CHACHA20-POLY1305";
    const E128: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";
    const R128: &str = "ECDHE-RSA-AES128-GCM-SHA256";

    /// Each was given to `openssl ciphers`, and what rustls lacks was taken out of the answer. (The
    /// IANA name is taken by newer ones only.)
    #[test]
    fn strings_choose_what_openssl_chooses() {
        let all = [E256, R256, ECC, RCC, E128, R128].join(":");
        for (text, want) in [
            ("HIGH:!aNULL:!MD5", all.clone()),
            ("DEFAULT", all.clone()),
            ("ALL:!RC4:!kRSA", all.clone()),
            ("EECDH+AESGCM:EDH+AESGCM", [E256, R256, E128, R128].join(":")),
            ("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256", [R128, E128].join(":")),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", R128.to_string()),
            ("ECDHE+CHACHA20:ECDHE+AESGCM", [ECC, RCC, E256, R256, E128, R128].join(":")),
            ("HIGH:+AES256", [ECC, RCC, E128, R128, E256, R256].join(":")),
            ("AES128:CHACHA20:@STRENGTH", [ECC, RCC, E128, R128].join(":")),
            ("HIGH:-AES128:AES128", all.clone()),
            ("HIGH:-ECDSA:ALL", [R256, RCC, R128, E256, ECC, E128].join(":")),
            ("HIGH:!ECDSA:ALL", [R256, RCC, R128].join(":")),
            ("aRSA+AES256", R256.to_string()),
            ("SHA384:SHA256:RSA:DHE:LOW", String::new()),
            ("", String::new()),
        ] {
            assert_eq!(names(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_to_be_had_is_told() {
        let chosen = parse("ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256:DHE+AES:!aNULL:FOO:@SECLEVEL=2");
        assert_eq!(chosen.absent, ["ECDHE-RSA-AES128-SHA", "DHE+AES", "FOO"]);
        assert_eq!(chosen.suites.len(), 1);
    }

    #[test]
    fn tls13_suites_by_name() {
        let chosen = parse_tls13("TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256");
        assert_eq!(chosen.suites.len(), 1);
        assert_eq!(chosen.absent, ["TLS_AES_128_CCM_SHA256"]);
    }

    proptest::proptest! {
        #[test]
        fn any_string_is_read(text in "[A-Z0-9+:!@-]{0,60}|.{0,20}") {
            let suites = parse(&text).suites;
            let mut seen: Vec<_> = suites.iter().map(|s| format!("{:?}", s.suite())).collect();
            seen.sort();
            seen.dedup();
            proptest::prop_assert_eq!(seen.len(), suites.len());
        }
    }
}
