//! Passwords against their hashes: nginx's own kinds, and those of crypt(3).
//!
//! What is expensive by design is done on threads that may wait, a bounded number at once, so that
//! guessing passwords takes no worker's time. A password that was right is remembered, under a key
//! that only this process has, so that a browser which sends it with every request pays once.

use base64::Engine;
use moka::sync::Cache;
use sha1::{Digest, Sha1};
use std::sync::OnceLock;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// What came of comparing a password with a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is the one.
    Right,
    /// It is not.
    Wrong,
    /// The hash is of a kind that cannot be compared with.
    UnknownKind,
}

/// The longest password that crypt(3) takes.
const LONGEST: usize = 511;

/// Compares a password with a hash as it stands in a file; `None` when the client was `gone` before its turn came.
/// Once it has begun it goes on to its end: one that will send nothing more looks as one that has left, and may
/// wait for its answer.
pub async fn check(hash: Vec<u8>, password: &[u8], gone: impl Future<Output = ()>) -> Option<Checked> {
    if let Some(right) = cheap(&hash, password) {
        return Some(if right { Checked::Right } else { Checked::Wrong });
    }
    if password.len() > LONGEST {
        return Some(Checked::Wrong);
    }
    // Hashes are text; one that is not is none.
    let Ok(hash) = String::from_utf8(hash) else { return Some(Checked::Wrong) };
    let key = remembered_as(&hash, password);
    // Asked for in this way its time of being idle begins anew.
    if REMEMBERED.get_or_init(remembered).get(&key).is_some() {
        return Some(Checked::Right);
    }
    let permit = tokio::select! {
        biased;
        permit = at_once().acquire() => permit,
        () = gone => return None,
    };
    // It is never closed.
    let Ok(permit) = permit else { return Some(Checked::Wrong) };
    let password = password.to_vec();
    let checking = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        expensive(&hash, &password)
    });
    // A panic of an algorithm over an odd hash lets nobody in.
    let checked = checking.await.unwrap_or(Checked::Wrong);
    if checked == Checked::Right {
        REMEMBERED.get_or_init(remembered).insert(key, ());
    }
    Some(checked)
}

/// How many hashes are computed at once: as many as there are cores.
fn at_once() -> &'static Semaphore {
    static AT_ONCE: OnceLock<Semaphore> = OnceLock::new();
    AT_ONCE.get_or_init(|| {
        Semaphore::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    })
}

/// Passwords that were right, by [`remembered_as`].
static REMEMBERED: OnceLock<Cache<[u8; 32], ()>> = OnceLock::new();

fn remembered() -> Cache<[u8; 32], ()> {
    // A while after its last use a password is no longer in any form in memory.
    Cache::builder().max_capacity(10_000).time_to_idle(Duration::from_secs(300)).build()
}

/// What stands for a hash and the password that it is of. Who reads the memory of this process
/// learns no password from it without guessing, and no other process can make the same.
fn remembered_as(hash: &str, password: &[u8]) -> [u8; 32] {
    static SECRET: OnceLock<aws_lc_rs::hmac::Key> = OnceLock::new();
    let secret = SECRET.get_or_init(|| {
        let halves: [[u8; 16]; 2] = [crate::edge::random::bytes(), crate::edge::random::bytes()];
        aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, halves.as_flattened())
    });
    let mut tag = aws_lc_rs::hmac::Context::with_key(secret);
    // A hash has no zero byte, so that none is another's beginning.
    tag.update(hash.as_bytes());
    tag.update(&[0]);
    tag.update(password);
    let mut key = [0; 32];
    key.copy_from_slice(tag.sign().as_ref());
    key
}

/// Compares where that costs next to nothing: `{PLAIN}`, `{SHA}`, `{SSHA}`. `None` for other kinds.
fn cheap(hash: &[u8], password: &[u8]) -> Option<bool> {
    // The digest of SHA-1 in base64 with its padding.
    const DIGEST: usize = 20;
    if let Some(plain) = hash.strip_prefix(b"{PLAIN}") {
        return Some(plain.ct_eq(password).into());
    }
    if let Some(text) = hash.strip_prefix(b"{SSHA}") {
        let decoded = crate::http::base64::decode(text).filter(|d| d.len() >= DIGEST);
        let Some(decoded) = decoded else { return Some(false) };
        let (digest, salt) = decoded.split_at(DIGEST);
        return Some(Sha1::new().chain_update(password).chain_update(salt).finalize().ct_eq(digest).into());
    }
    if let Some(text) = hash.strip_prefix(b"{SHA}") {
        let digest = base64::engine::general_purpose::STANDARD.encode(Sha1::digest(password));
        return Some(digest.as_bytes().ct_eq(text).into());
    }
    None
}

/// Compares by computing the hash anew: what crypt(3) knows, and Apache's `$apr1$`.
fn expensive(hash: &str, password: &[u8]) -> Checked {
    // What has no salt or no digest must not equal one that is computed without.
    let kind = hash.strip_prefix('$').and_then(|rest| rest.split('$').next());
    let computed = match kind {
        Some("apr1") => apr1(hash, password),
        Some("y") => return yescrypt(hash, password),
        Some("1" | "2a" | "2b" | "2y" | "5" | "6" | "sha1") => pwhash::unix::crypt(password, hash).ok(),
        Some(_) => return Checked::UnknownKind,
        // DES, and its extended form `_…`.
        None => pwhash::unix::crypt(password, hash).ok(),
    };
    let right = computed.is_some_and(|computed| computed.as_bytes().ct_eq(hash.as_bytes()).into());
    if right { Checked::Right } else { Checked::Wrong }
}

fn yescrypt(hash: &str, password: &[u8]) -> Checked {
    use ::yescrypt::{PasswordVerifier, Yescrypt};
    // 32 bytes in its base64. The verifier compares as many bytes as there are, even none.
    const DIGEST: usize = 43;
    let whole = hash.rsplit('$').next().is_some_and(|digest| digest.len() == DIGEST);
    if whole && Yescrypt::default().verify_password(password, hash).is_ok() {
        Checked::Right
    } else {
        Checked::Wrong
    }
}

/// Apache's variant of the MD5-based crypt: `$apr1$salt$`, then the digest; a thousand rounds.
fn apr1(hash: &str, password: &[u8]) -> Option<String> {
    use md5::Md5;
    let salt = hash.strip_prefix("$apr1$")?.split('$').next()?;
    let salt = salt.get(..salt.len().min(8))?.as_bytes();
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update("$apr1$").chain_update(salt);
    for piece in password.chunks(inner.len()) {
        outer.update(&inner[..piece.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000 {
        let mut md5 = Md5::new();
        let turn = |md5: &mut Md5, odd: bool| {
            if odd { md5.update(password) } else { md5.update(digest) }
        };
        turn(&mut md5, round % 2 == 1);
        if round % 3 != 0 {
            md5.update(salt);
        }
        if round % 7 != 0 {
            md5.update(password);
        }
        turn(&mut md5, round % 2 == 0);
        digest = md5.finalize();
    }
    let salt = std::str::from_utf8(salt).ok()?;
    Some(format!("$apr1${salt}${}", digits(&digest)))
}

/// A digest of 16 bytes in crypt's digits, in crypt's order.
fn digits(digest: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const ORDER: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    let mut out = String::with_capacity(22);
    let mut put = |value: u32, count: u32| {
        out.extend((0..count).map(|n| char::from(DIGITS[(value >> (6 * n)) as usize & 63])));
    };
    for [high, middle, low] in ORDER {
        let byte = |at: usize| u32::from(digest[at]);
        put(byte(high) << 16 | byte(middle) << 8 | byte(low), 4);
    }
    put(u32::from(digest[11]), 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `secret`, by the crypt(3) of Debian 12 and by `openssl passwd -apr1`.
    const HASHES: [&str; 10] = [
        "abNANd1rDfiNc",
        "_J9..abcd/H6HLCcf7nw",
        "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1",
        "$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA",
        "$6$rounds=1000$saltsalt$LAV5VE5Y7w1d73x1mFNspYWUpazfmwv2SoepNXNKJ/otop/Zok96Hr8Q13LEv0DRY/x8v0/crpIjl8NJSAqXV/",
        "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$GmcwIgvdUC9qLWcKCi6gklUa1dM3ziD43YxYNURLKy0",
        "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
        "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
        "$sha1$10$abcdefgh$41EkvKkD4PWC.8ByTKAlEQom/1WD",
        "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
    ];

    #[test]
    fn hashes_of_other_implementations() {
        for hash in HASHES {
            assert_eq!(expensive(hash, b"secret"), Checked::Right, "{hash}");
            assert_eq!(expensive(hash, b"Secret"), Checked::Wrong, "{hash}");
            assert_eq!(expensive(hash, b""), Checked::Wrong, "{hash}");
        }
    }

    /// By `openssl passwd -apr1`: a text, how often, and the hash.
    #[test]
    fn apr1_of_passwords_of_any_length() {
        for (text, times, hash) in [
            ("x", 1, "$apr1$a$CwOs8ZUV1Vmp.iAwImfTn1"),
            ("x", 15, "$apr1$longsalt$2ORlJlIojhA4S7qgoaMB.0"),
            ("x", 16, "$apr1$longsalt$NndJDN/fhHZR5r1md/V7z."),
            ("y", 17, "$apr1$longsalt$IIRZUqbHinkA2Wbp0UTYn/"),
            ("z", 33, "$apr1$./Az09$u2vbFWsnIFoRIINcMb18z/"),
            ("pass word", 1, "$apr1$longsalt$QgoHb6s6epk4QrqCUfIz3."),
            ("p", 255, "$apr1$12345678$67VEpQo6w06fM4Nfdx3AC/"),
        ] {
            assert_eq!(apr1(hash, text.repeat(times).as_bytes()).as_deref(), Some(hash), "{text} {times}");
        }
    }

    #[test]
    fn a_hash_that_is_not_whole_is_nobodys() {
        for hash in HASHES {
            for end in 0..hash.len() {
                let part = &hash[..end];
                let cost = if part.starts_with("$y") || part.starts_with("$6") { 8 } else { 1 };
                if end % cost == 0 || end + 3 > hash.len() || part.ends_with('$') {
                    assert_ne!(expensive(part, b"secret"), Checked::Right, "{part}");
                }
            }
        }
        for hash in ["*0", "*", "x", "$", "$$", "$9$x", "$2y$99$abcdefghijklmnopqrstuu", "\u{e9}\u{e9}\u{e9}"]
        {
            assert_ne!(expensive(hash, b""), Checked::Right, "{hash}");
        }
    }

    #[test]
    fn nginxs_own_kinds() {
        for (hash, want) in [
            ("{PLAIN}secret", Some(true)),
            ("{PLAIN}", Some(false)),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", Some(true)),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ", Some(false)),
            ("{SSHA}", Some(false)),
            ("{SSHA}AAAA", Some(false)),
            ("{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0", Some(true)),
            ("{MD5}x", None),
            ("secret", None),
        ] {
            assert_eq!(cheap(hash.as_bytes(), b"secret"), want, "{hash}");
        }
    }

    #[tokio::test]
    async fn who_leaves_in_the_queue_is_not_checked_and_who_leaves_later_is() {
        let (hash, gone) = (HASHES[3].to_string(), std::future::ready);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all = at_once().acquire_many(cores as u32).await.unwrap();
        assert_eq!(check(hash.clone().into(), b"secret", gone(())).await, None);
        drop(all);
        assert_eq!(check(hash.into(), b"secret", gone(())).await, Some(Checked::Right));
    }

    #[tokio::test]
    async fn what_was_right_is_remembered_and_nothing_else() {
        use std::future::pending;
        let hash = HASHES[2];
        let held =
            |password: &[u8]| REMEMBERED.get_or_init(remembered).contains_key(&remembered_as(hash, password));
        assert_eq!(check(hash.into(), b"wrong", pending()).await, Some(Checked::Wrong));
        assert!(!held(b"wrong") && !held(b"secret"));
        assert_eq!(check(hash.into(), b"secret", pending()).await, Some(Checked::Right));
        assert!(held(b"secret") && !held(b"secre"));
        assert_eq!(check(hash.into(), b"secret", pending()).await, Some(Checked::Right));
        assert_eq!(check(HASHES[3].into(), b"Secret", pending()).await, Some(Checked::Wrong));
        assert_eq!(check("{PLAIN}x".into(), &[b'x'; 600], pending()).await, Some(Checked::Wrong));
        assert_eq!(check(hash.into(), &[b'x'; 600], pending()).await, Some(Checked::Wrong));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        /// The digest that `apr1` makes is one that it takes.
        #[test]
        fn apr1_of_anything(salt in "[a-zA-Z./]{0,12}", password in proptest::collection::vec(1u8..255, 0..40)) {
            let hash = apr1(&format!("$apr1${salt}$"), &password).unwrap();
            proptest::prop_assert_eq!(hash.rsplit('$').next().map(str::len), Some(22));
            proptest::prop_assert_eq!(apr1(&hash, &password), Some(hash));
        }
    }
}
