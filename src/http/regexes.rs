//! The first of many regular expressions that matches, in the order of the configuration.
//!
//! They are not tried one by one. Most need a certain text at the beginning of what they match, at its end or within it
//! ([`clues`](super::clues)): one look at the subject finds the few whose text is there. Those that need none are asked
//! together where the linear engine can do that. What remains is tried in order, each by itself, so that the outcome is
//! that of trying all: same expression, same captures, and the same one that gives up.

use super::clues::{self, Clue, Place};
use super::prefixes::Prefixes;
use super::regex::Regex;
use super::request::Request;
use aho_corasick::AhoCorasick;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;

/// Below this number they are tried one by one.
const FEW: usize = 3;

/// A clue that more expressions than this have in common tells nothing.
const COMMON: usize = 32;

/// Expressions that are asked together, at most, and how many times so many: what a set remembers of its subjects is
/// bounded, and so is that of all sets.
const SET: usize = 64;
const SETS: usize = 16;
const REMEMBERED: usize = 256 << 10;

/// Bytes to which a set may be compiled.
const COMPILED: usize = 4 << 20;

/// Expressions with what each stands for, in order.
#[derive(Clone, Debug)]
pub struct Regexes<V> {
    all: Vec<(Arc<Regex>, V)>,
    index: Option<Arc<Index>>,
}

/// Which expressions may match, by position.
#[derive(Debug, Default)]
struct Index {
    /// By what a subject in lower case begins with.
    begins: Prefixes<Vec<u32>>,
    /// By what it ends with, read backwards.
    ends: Prefixes<Vec<u32>>,
    /// By what it has anywhere.
    within: Option<(AhoCorasick, Vec<Vec<u32>>)>,
    sets: Vec<(regex::bytes::RegexSet, Vec<u32>)>,
    /// Those that are always tried.
    always: Vec<u32>,
}

impl<V> Default for Regexes<V> {
    fn default() -> Regexes<V> {
        Regexes { all: Vec::new(), index: None }
    }
}

impl<V> Regexes<V> {
    /// Prepares them for searching.
    pub fn new(all: Vec<(Arc<Regex>, V)>) -> Regexes<V> {
        let index = (all.len() >= FEW).then(|| {
            let regexes: Vec<&Regex> = all.iter().map(|(regex, _)| &**regex).collect();
            Arc::new(Index::of(&regexes))
        });
        Regexes { all, index }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The first that matches; its groups become captures and variables of the request ([`Regex::capture`]).
    pub fn capture(&self, rq: &Request, subject: &[u8]) -> Option<&V> {
        self.first(subject, |regex| regex.capture(rq, subject))
    }

    /// The first that matches.
    pub fn find(&self, subject: &[u8]) -> Option<&V> {
        self.first(subject, |regex| regex.is_match(subject))
    }

    fn first(&self, subject: &[u8], matches: impl Fn(&Regex) -> bool) -> Option<&V> {
        let Some(index) = &self.index else {
            return self.all.iter().find(|(regex, _)| matches(regex)).map(|(_, value)| value);
        };
        let candidates = index.candidates(subject);
        let mut always = index.always.iter().copied().peekable();
        let mut found = candidates.into_iter().peekable();
        loop {
            // Of the two lists the lower one; no expression is in both.
            let next = match (found.peek(), always.peek()) {
                (Some(one), Some(other)) if other < one => always.next()?,
                (Some(_), _) => found.next()?,
                (None, _) => always.next()?,
            };
            let (regex, value) = &self.all[next as usize];
            if matches(regex) {
                return Some(value);
            }
        }
    }
}

impl Index {
    fn of(regexes: &[&Regex]) -> Index {
        let clues: Vec<Vec<Clue>> = regexes.iter().map(|regex| clues::of(regex)).collect();
        // How many expressions have a text at a place.
        let mut common: HashMap<(Place, &[u8]), usize> = HashMap::new();
        for clue in clues.iter().flatten() {
            for text in &clue.texts {
                *common.entry((clue.place, text)).or_default() += 1;
            }
        }
        let mut index = Index::default();
        let mut tables: [HashMap<Vec<u8>, Vec<u32>>; 3] = Default::default();
        let mut together = Vec::new();
        for (at, (regex, clues)) in regexes.iter().zip(&clues).enumerate() {
            let at = at as u32;
            let shared =
                |clue: &&Clue| clue.texts.iter().map(|text| common[&(clue.place, &text[..])]).sum::<usize>();
            // Among equals the one that is looked up with least work: they are in that order.
            let best =
                clues.iter().min_by_key(shared).filter(|clue| shared(clue) <= COMMON * clue.texts.len());
            match best {
                Some(clue) => {
                    for text in &clue.texts {
                        tables[clue.place as usize].entry(text.clone()).or_default().push(at);
                    }
                }
                None if regex.linear().is_some() => together.push(at),
                None => index.always.push(at),
            }
        }
        let [begins, ends, within] = tables;
        index.begins = Prefixes::build(begins.into_iter().collect());
        index.ends = Prefixes::build(
            ends.into_iter().map(|(text, at)| (text.into_iter().rev().collect(), at)).collect(),
        );
        let (texts, at): (Vec<_>, Vec<_>) = within.into_iter().unzip();
        if !texts.is_empty() {
            match AhoCorasick::new(&texts) {
                Ok(found) => index.within = Some((found, at)),
                Err(_) => index.always.extend(at.into_iter().flatten()),
            }
        }
        for group in together.chunks(SET) {
            match (group.len() >= FEW && index.sets.len() < SETS).then(|| set(regexes, group)).flatten() {
                Some(set) => index.sets.push((set, group.to_vec())),
                None => index.always.extend(group),
            }
        }
        index.always.sort_unstable();
        index.always.dedup();
        index
    }

    /// The expressions that may match besides those that are always tried, in order.
    fn candidates(&self, subject: &[u8]) -> SmallVec<[u32; 16]> {
        let mut found = SmallVec::new();
        // Clues are in lower case: they serve for expressions with and without regard to it.
        let lower: SmallVec<[u8; 256]> = subject.iter().map(u8::to_ascii_lowercase).collect();
        if !self.begins.is_empty() {
            self.begins.walk(&lower, |_, at| found.extend_from_slice(at));
        }
        if let Some((texts, at)) = &self.within {
            for text in texts.find_overlapping_iter(&lower[..]) {
                found.extend_from_slice(&at[text.pattern().as_usize()]);
            }
        }
        // The end may be before a newline: see `Regex::is_match`.
        let shorter = subject.strip_suffix(b"\n");
        for (set, members) in &self.sets {
            found.extend(set.matches(subject).iter().map(|at| members[at]));
            if let Some(shorter) = shorter {
                found.extend(set.matches(shorter).iter().map(|at| members[at]));
            }
        }
        if !self.ends.is_empty() {
            let mut backwards = lower;
            backwards.reverse();
            self.ends.walk(&backwards, |_, at| found.extend_from_slice(at));
            if shorter.is_some() {
                self.ends.walk(&backwards[1..], |_, at| found.extend_from_slice(at));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// These expressions as one; `None` when it would be too large.
fn set(regexes: &[&Regex], group: &[u32]) -> Option<regex::bytes::RegexSet> {
    let spelled =
        |(pattern, caseless): (String, bool)| if caseless { format!("(?i){pattern}") } else { pattern };
    let sources: Vec<_> = group.iter().filter_map(|at| regexes[*at as usize].linear().map(spelled)).collect();
    regex::bytes::RegexSetBuilder::new(sources)
        .unicode(false)
        .size_limit(COMPILED)
        .dfa_size_limit(REMEMBERED)
        .build()
        .ok()
        .filter(|set| set.len() == group.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compile(patterns: &[(String, bool)]) -> Vec<(Arc<Regex>, usize)> {
        let compile = |(pattern, caseless): &(String, bool)| Regex::alone(pattern, *caseless);
        let compiled = patterns.iter().map(compile).filter_map(Result::ok);
        compiled.enumerate().map(|(at, regex)| (Arc::new(regex), at)).collect()
    }

    fn agree(patterns: &[(String, bool)], subject: &[u8]) -> Result<(), TestCaseError> {
        let all = compile(patterns);
        let tried: Vec<_> =
            all.iter().filter(|(regex, _)| regex.is_match(subject)).map(|(_, at)| *at).collect();
        let regexes = Regexes::new(all);
        prop_assert_eq!(
            regexes.find(subject).copied(),
            tried.first().copied(),
            "{:?} of {:?}",
            subject,
            patterns
        );
        // Whatever matches is a candidate, not only the first.
        if let Some(index) = &regexes.index {
            let candidates = index.candidates(subject);
            for at in tried {
                let is_one = candidates.contains(&(at as u32)) || index.always.contains(&(at as u32));
                prop_assert!(is_one, "{:?} of {:?}", subject, patterns[at]);
            }
        }
        Ok(())
    }

    /// Parts of which patterns are made: what stands in locations, and what clues must not be misled by.
    fn pattern() -> impl Strategy<Value = (String, bool)> {
        let atom = prop::sample::select(vec![
            "/a",
            "/ab/",
            "b",
            "\\.ts",
            "[ab]",
            "[^a]",
            "(a|b/)",
            "(?:ab|ba)",
            "a*",
            "(ab)+",
            "b?",
            ".",
            ".*",
            "(/[^/]+)",
            "\\n",
            "[A-C]",
            "(?i:aB)",
            "(?i)",
            "(?-i)",
            "(?m)",
            "\\b",
            "x{0}",
            "(?:)",
            "A",
            "é",
            "$",
            "^",
            "(?=a)",
            "(?!b)",
            "(?<=a)",
            "\\.(ts|m4s|M3U8)",
            "[0-9]+",
            "(a|)",
            "\\z",
            "|",
            "(^a|b)",
            "(a$|b)",
            "(?s).",
            "(?x) a",
            "[[:alpha:]]",
        ]);
        let pattern = prop::collection::vec(atom, 1..5).prop_map(|atoms| atoms.concat());
        (any::<bool>(), pattern, any::<bool>(), any::<bool>()).prop_map(|(start, middle, end, caseless)| {
            let (start, end) = (if start { "^" } else { "" }, if end { "$" } else { "" });
            (format!("{start}{middle}{end}"), caseless)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
        #[test]
        fn together_they_are_what_they_are_one_by_one(
            patterns in prop::collection::vec(pattern(), 3..12),
            subjects in prop::collection::vec("(/|/a|/ab/|[abABC.\\n12é]|\\.ts|ba|\\.m3u8|\\n){0,6}", 8),
        ) {
            for subject in subjects {
                agree(&patterns, subject.as_bytes())?;
            }
        }
    }

    #[test]
    fn many_are_found_by_what_they_need() {
        for form in [
            "^/loc{}/([a-z]+)\\.ts$",
            "\\.e{}$",
            "^/live/.*/e{}$",
            "^/u/[0-9]+/i{}/[0-9]+$",
            "(?:^|/)x{}(?:/|$)",
        ] {
            let patterns: Vec<_> =
                (0..300).map(|n| (form.replace("{}", &n.to_string()), n % 2 == 0)).collect();
            let all = compile(&patterns);
            let regexes = Regexes::new(all.clone());
            let index = regexes.index.as_ref().unwrap();
            for subject in
                ["/loc234/abc.ts", "/a.e234", "/live/a/b/e234", "/u/17/i234/4", "/a/x234/b", "/other"]
            {
                let candidates = index.candidates(subject.as_bytes());
                assert!(
                    index.always.is_empty() && index.sets.is_empty() && candidates.len() < 8,
                    "{form} {subject}"
                );
                let expected = all.iter().position(|(regex, _)| regex.is_match(subject.as_bytes()));
                assert_eq!(regexes.find(subject.as_bytes()).copied(), expected);
            }
        }
    }

    #[test]
    fn what_needs_no_text_is_asked_together() {
        let patterns: Vec<_> = (1..100).map(|n| (format!("^/[a-z]{{{n}}}[0-9]+/?$"), false)).collect();
        let regexes = Regexes::new(compile(&patterns));
        let index = regexes.index.as_ref().unwrap();
        assert_eq!((index.sets.len(), index.always.len()), (2, 0));
        assert_eq!(regexes.find(b"/abcdefg123"), Some(&6));
        assert_eq!(regexes.find(b"/123/\n"), None);
        assert_eq!(regexes.find(b"/abc123/\n"), Some(&2), "the end may be before a newline");
    }
}
