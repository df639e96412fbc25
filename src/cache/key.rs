//! What a response is kept under: the text of `proxy_cache_key` and a 128-bit hash of it.

use bytes::Bytes;
use md5::{Digest, Md5};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// What the key of an answer to HEAD that was asked for as HEAD ends with: it has no body for others.
pub const HEAD: &[u8] = b"\0HEAD";

/// The text of a key as it was evaluated, made one that no answer to HEAD is kept under: what a client sends in a
/// body may be in it. Zero bytes follow where it would end as such a key does, one more than it has already.
pub fn apart(text: Bytes) -> Bytes {
    let zeros = text.iter().rev().take_while(|b| **b == 0).count();
    match text[..text.len() - zeros].ends_with(HEAD) {
        true => [&text[..], b"\0"].concat().into(),
        false => text,
    }
}

/// A cache key. The hash finds an entry, the text tells whether it is the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Two independent, randomly keyed 64-bit hashes of the text; good for this process only.
    pub hash: u128,
    /// The text, evaluated.
    pub text: Bytes,
    /// Which variant of the response (see [`super::vary`]); `None` is the main one.
    pub variant: Option<u128>,
}

impl Key {
    /// The key with this text.
    pub fn new(text: Bytes) -> Key {
        Key { hash: hash(&text), text, variant: None }
    }

    /// The key of a variant of this response (see [`super::vary`]).
    pub fn variant(&self, variant: u128) -> Key {
        let mut both = [0; 32];
        both[..16].copy_from_slice(&self.hash.to_le_bytes());
        both[16..].copy_from_slice(&variant.to_le_bytes());
        Key { hash: hash(&both), text: self.text.clone(), variant: Some(variant) }
    }

    /// What it is called on disk: the MD5 of its text, as in nginx, so that scripts which compute it
    /// find the file; a variant's follows from the text and the variant. Unlike [`Self::hash`] it is
    /// the same in every process. Who finds an entry by it compares the text.
    pub fn name(&self) -> [u8; 16] {
        let mut hasher = Md5::new().chain_update(&self.text);
        if let Some(variant) = self.variant {
            hasher.update(variant.to_be_bytes());
        }
        hasher.finalize().into()
    }
}

/// A 128-bit hash that nobody outside the process can aim at.
pub fn hash(bytes: &[u8]) -> u128 {
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let [high, low] = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
    let one = |state: &RandomState| {
        let mut hasher = state.build_hasher();
        hasher.write(bytes);
        u128::from(hasher.finish())
    };
    one(high) << 64 | one(low)
}

/// Hashes what already is a hash: takes it as it is.
#[derive(Clone, Copy, Default)]
pub struct AsIs;

impl BuildHasher for AsIs {
    type Hasher = AsIsHasher;
    fn build_hasher(&self) -> AsIsHasher {
        AsIsHasher(0)
    }
}

/// See [`AsIs`].
pub struct AsIsHasher(u64);

impl Hasher for AsIsHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_text_is_the_same_key_and_another_is_another(a in ".{0,40}", b in ".{0,40}") {
            let (ka, kb) = (Key::new(Bytes::from(a.clone())), Key::new(Bytes::from(b.clone())));
            prop_assert_eq!(ka == kb, a == b);
            prop_assert_eq!(ka.hash == kb.hash, a == b);
        }

        #[test]
        fn no_text_that_was_evaluated_is_that_of_an_answer_to_head(
            a in "(\0|\0HEAD|x){0,4}",
            b in "(\0|\0HEAD|x){0,4}",
        ) {
            let kept = |text: &str| apart(Bytes::from(text.to_owned()));
            let of_head = |text: &str| Bytes::from([&kept(text), HEAD].concat());
            prop_assert!(!kept(&a).ends_with(HEAD));
            prop_assert_eq!(kept(&a) == kept(&b), a == b);
            prop_assert_eq!(of_head(&a) == of_head(&b), a == b);
        }

        #[test]
        fn variants_of_a_key_are_apart(text in ".{0,20}", x: u128, y: u128) {
            let key = Key::new(Bytes::from(text));
            prop_assert_eq!(key.variant(x) == key.variant(y), x == y);
            prop_assert_ne!(key.variant(x).hash, key.hash);
        }
    }
}
