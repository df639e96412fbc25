//! What is purged, and the purges that something kept may still fall under.

use super::tags;
use crate::cache::key::HEAD;
use crate::http::response::Fields;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// What a purge removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// What is kept under this key, in all variants, and the answer to HEAD.
    Key(Bytes),
    /// What is kept under the keys that begin so.
    Prefix(Bytes),
    /// What has any of these tags.
    Tags(Box<[Bytes]>),
}

/// The kinds of [`What`], for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Key,
    Wildcard,
    Tag,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Kind; 3] = [Kind::Key, Kind::Wildcard, Kind::Tag];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Key => "key",
            Kind::Wildcard => "wildcard",
            Kind::Tag => "tag",
        }
    }
}

impl What {
    /// What a key stands for: one that ends with an asterisk, all that begin like it; any other
    /// asterisk is itself.
    pub fn from_key(text: Bytes) -> What {
        match text.strip_suffix(b"*") {
            Some(prefix) => What::Prefix(text.slice(..prefix.len())),
            None => What::Key(text),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            What::Key(_) => Kind::Key,
            What::Prefix(_) => Kind::Wildcard,
            What::Tags(_) => Kind::Tag,
        }
    }

    /// Whether what is kept under the key with this text is meant; `None` when its tags decide.
    pub fn names(&self, text: &[u8]) -> Option<bool> {
        match self {
            What::Key(key) => Some(text.strip_suffix(HEAD).unwrap_or(text) == &key[..]),
            What::Prefix(prefix) => Some(text.starts_with(prefix)),
            What::Tags(_) => None,
        }
    }

    /// Whether an answer with this tag is meant.
    pub fn has_tag(&self, tag: &[u8]) -> bool {
        matches!(self, What::Tags(tags) if tags.iter().any(|own| own == tag))
    }

    /// Whether an answer with these fields, kept under the key with this text, is meant.
    pub fn means(&self, text: &[u8], fields: &Fields) -> bool {
        self.names(text).unwrap_or_else(|| tags::of(fields).any(|tag| self.has_tag(tag)))
    }

    /// Its texts.
    pub fn texts(&self) -> &[Bytes] {
        match self {
            What::Key(text) | What::Prefix(text) => std::slice::from_ref(text),
            What::Tags(tags) => tags,
        }
    }
}

/// Purges that are not worked off, each by its text and the number of its last purge.
#[derive(Debug, Default)]
pub struct Rules {
    keys: HashMap<Bytes, u64>,
    prefixes: BTreeMap<Bytes, u64>,
    tags: HashMap<Bytes, u64>,
    newest: u64,
    bytes: usize,
}

/// What a rule costs besides its text, about.
const OVERHEAD: usize = 96;

impl Rules {
    /// Adds a purge.
    pub fn add(&mut self, what: &What, sequence: u64) {
        self.newest = self.newest.max(sequence);
        for text in what.texts() {
            // The texts may be parts of a request's head, which they would keep from being freed.
            let own = || Bytes::copy_from_slice(text);
            let before = match what {
                What::Key(_) => self.keys.insert(own(), sequence),
                What::Prefix(_) => self.prefixes.insert(own(), sequence),
                What::Tags(_) => self.tags.insert(own(), sequence),
            };
            if before.is_none() {
                self.bytes += text.len() + OVERHEAD;
            }
        }
    }

    /// Bytes that they would take with this one added, at most.
    pub fn bytes_with(&self, what: &What) -> usize {
        self.bytes + what.texts().iter().map(|text| text.len() + OVERHEAD).sum::<usize>()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len() + self.prefixes.len() + self.tags.len()
    }

    /// Whether an answer under the key with this text and with these tags, that was asked for as
    /// number `sequence`, was purged since.
    pub fn ban<'a>(&self, text: &[u8], tags: impl IntoIterator<Item = &'a [u8]>, sequence: u64) -> bool {
        if self.newest <= sequence {
            return false;
        }
        let newer = |number: Option<&u64>| number.is_some_and(|number| *number > sequence);
        newer(self.keys.get(text.strip_suffix(HEAD).unwrap_or(text)))
            || self.prefixes_of(text).any(|number| number > sequence)
            || !self.tags.is_empty() && tags.into_iter().any(|tag| newer(self.tags.get(tag)))
    }

    /// The numbers of the prefixes that `text` has, the longest first. The prefixes are in order, so
    /// each look shortens what can still be one.
    fn prefixes_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
        let mut rest = Some(text);
        std::iter::from_fn(move || {
            loop {
                let bound: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Included(rest?));
                let (prefix, number) = self.prefixes.range::<[u8], _>(bound).next_back()?;
                let common = prefix.iter().zip(text).take_while(|(a, b)| a == b).count();
                if common == prefix.len() {
                    rest = common.checked_sub(1).map(|shorter| &text[..shorter]);
                    return Some(*number);
                }
                rest = Some(&text[..common]);
            }
        })
    }

    /// Drops the purges of keys up to this number.
    pub fn drop_keys(&mut self, until: u64) {
        let bytes = &mut self.bytes;
        self.keys.retain(|text, number| stays(bytes, text, *number > until));
    }

    /// Drops the purges of wildcards and of tags up to these numbers.
    pub fn drop_lasting(&mut self, wildcards: u64, tags: u64) {
        let bytes = &mut self.bytes;
        self.prefixes.retain(|text, number| stays(bytes, text, *number > wildcards));
        self.tags.retain(|text, number| stays(bytes, text, *number > tags));
    }
}

fn stays(bytes: &mut usize, text: &Bytes, stays: bool) -> bool {
    if !stays {
        *bytes -= text.len() + OVERHEAD;
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(s: &str) -> Bytes {
        Bytes::copy_from_slice(s.as_bytes())
    }

    fn tags(list: &[&str]) -> What {
        What::Tags(list.iter().map(|t| text(t)).collect())
    }

    fn ban(rules: &Rules, key: &str, tags: &[&str], sequence: u64) -> bool {
        rules.ban(key.as_bytes(), tags.iter().map(|t| t.as_bytes()), sequence)
    }

    #[test]
    fn only_an_asterisk_at_the_end_is_a_wildcard() {
        assert_eq!(What::from_key(text("/a*")), What::Prefix(text("/a")));
        assert_eq!(What::from_key(text("*")), What::Prefix(text("")));
        assert_eq!(What::from_key(text("/a**")), What::Prefix(text("/a*")));
        assert_eq!(What::from_key(text("/a*b")), What::Key(text("/a*b")));
        assert_eq!(What::from_key(text("/a%2A")), What::Key(text("/a%2A")));
        assert_eq!(What::from_key(text("")), What::Key(text("")));
    }

    #[test]
    fn a_key_means_the_answer_to_head_too_and_nothing_longer() {
        let what = What::Key(text("/a"));
        assert_eq!(what.names(b"/a"), Some(true));
        assert_eq!(what.names(b"/a\0HEAD"), Some(true));
        assert_eq!(what.names(b"/ab"), Some(false));
        assert_eq!(what.names(b"/"), Some(false));
    }

    #[test]
    fn what_came_later_is_not_banned() {
        let mut rules = Rules::default();
        rules.add(&What::Key(text("/k")), 5);
        rules.add(&What::Prefix(text("/p")), 6);
        rules.add(&tags(&["t", "u"]), 7);
        for (key, list, number) in [("/k", &[][..], 5), ("/p/x", &[], 6), ("/z", &["s", "u"], 7)] {
            assert!(ban(&rules, key, list, number - 1), "{key}");
            assert!(!ban(&rules, key, list, number), "{key}");
        }
        assert!(!ban(&rules, "/k/x", &["T"], 0), "no prefix, and tags are compared exactly");
        rules.drop_keys(5);
        assert!(!ban(&rules, "/k", &[], 0));
        rules.drop_lasting(6, 6);
        assert!(!ban(&rules, "/p/x", &[], 0) && ban(&rules, "/p/x", &["t"], 0));
        rules.drop_lasting(7, 7);
        assert_eq!(rules.len(), 0);
        assert_eq!(rules.bytes, 0);
    }

    #[test]
    fn the_same_purge_again_takes_no_more_room() {
        let mut rules = Rules::default();
        rules.add(&tags(&["a"]), 1);
        let bytes = rules.bytes;
        rules.add(&tags(&["a"]), 2);
        assert_eq!((rules.bytes, rules.len()), (bytes, 1));
        rules.drop_lasting(1, 1);
        assert!(ban(&rules, "/", &["a"], 1));
    }

    proptest! {
        #[test]
        fn prefixes_are_found_as_by_looking_at_each(
            prefixes in prop::collection::vec("[ab*]{0,5}", 0..12),
            key in "[ab*]{0,7}",
            sequence in 0u64..12,
        ) {
            let mut rules = Rules::default();
            let mut last = HashMap::new();
            for (number, prefix) in prefixes.iter().enumerate() {
                rules.add(&What::Prefix(text(prefix)), number as u64);
                last.insert(prefix, number as u64);
            }
            let wanted = last.iter().any(|(prefix, n)| key.starts_with(prefix.as_str()) && *n > sequence);
            prop_assert_eq!(ban(&rules, &key, &[], sequence), wanted);
        }
    }
}
