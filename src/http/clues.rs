//! What a subject must have for a regular expression to match it: texts of which one has to be at its beginning, at its end
//! or anywhere in it.
//!
//! A clue never misses: where there is a match, the text is there. Texts are in lower case and are looked for in a subject
//! in lower case. They are read from the expression as one that heeds case, whether it does or not: what matches without
//! regard to case is, but for the case of its letters, something that matches with it.

use super::regex::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::{ExtractKind, Extractor, Seq};
use regex_syntax::hir::{Hir, HirKind, Look};

/// Where a text has to be; in the order of the work of looking there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At the beginning.
    Begins,
    /// At the end.
    Ends,
    /// Anywhere.
    Within,
}

/// One of these texts has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clue {
    /// Where.
    pub place: Place,
    /// Which, each once.
    pub texts: Vec<Vec<u8>>,
}

/// Texts of a clue at most.
const TEXTS: usize = 64;

/// Clues of an expression at most.
const CLUES: usize = 8;

/// What is known of matches of `regex`, each clue by itself true of all of them. None of one that needs the backtracking
/// engine.
pub fn of(regex: &Regex) -> Vec<Clue> {
    let Some((pattern, _)) = regex.linear() else { return Vec::new() };
    // With the letters of all the world there is more that differs in case than the eye knows.
    if has_flag(&pattern, 'u') {
        return Vec::new();
    }
    // It was compiled with the same settings but for the case, so that it is read the same.
    let parsed = ParserBuilder::new().unicode(false).utf8(false).build().parse(&pattern);
    let Ok(hir) = parsed else { return Vec::new() };
    let mut clues = Vec::new();
    let place = |looks: regex_syntax::hir::LookSet, look, place| {
        if looks.contains(look) { place } else { Place::Within }
    };
    let extract = |kind| Extractor::new().kind(kind).limit_total(TEXTS).extract(&hir);
    let begins = place(hir.properties().look_set_prefix(), Look::Start, Place::Begins);
    clues.extend(clue(begins, extract(ExtractKind::Prefix)));
    let ends = place(hir.properties().look_set_suffix(), Look::End, Place::Ends);
    clues.extend(clue(ends, extract(ExtractKind::Suffix)));
    needed(&hir, &mut clues);
    clues.sort_by_key(|clue| clue.place as u8);
    clues
}

fn clue(place: Place, found: Seq) -> Option<Clue> {
    let literals = found.literals()?;
    let mut texts: Vec<Vec<u8>> = literals.iter().map(|text| text.as_bytes().to_ascii_lowercase()).collect();
    texts.sort();
    texts.dedup();
    // What nearly every path has tells nothing.
    let least = if place == Place::Within { 2 } else { 1 };
    let tells = |text: &Vec<u8>| text.len() >= least && text != b"/";
    (!texts.is_empty() && texts.iter().all(tells)).then_some(Clue { place, texts })
}

/// The texts that stand in an expression so that none of its matches is without them.
fn needed(hir: &Hir, clues: &mut Vec<Clue>) {
    if clues.len() >= CLUES {
        return;
    }
    match hir.kind() {
        HirKind::Literal(text) => {
            clues.extend(clue(Place::Within, Seq::new([&text.0])));
        }
        HirKind::Capture(capture) => needed(&capture.sub, clues),
        HirKind::Repetition(repeated) if repeated.min > 0 => needed(&repeated.sub, clues),
        HirKind::Concat(parts) => parts.iter().for_each(|part| needed(part, clues)),
        _ => {}
    }
}

/// Whether a pattern, or a group in it, may have this flag.
fn has_flag(pattern: &str, flag: char) -> bool {
    let flags =
        |group: &str| group.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-').any(|c| c == flag);
    pattern.split("(?").skip(1).any(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clues(pattern: &str) -> Vec<(Place, Vec<String>)> {
        let regex = Regex::alone(pattern, true).unwrap();
        let text = |text: &Vec<u8>| String::from_utf8(text.clone()).unwrap();
        of(&regex).iter().map(|clue| (clue.place, clue.texts.iter().map(text).collect())).collect()
    }

    #[test]
    fn what_is_needed_is_seen() {
        use Place::*;
        let has = |pattern: &str, place: Place, texts: &[&str]| {
            let all = clues(pattern);
            assert!(
                all.contains(&(place, texts.iter().map(|t| t.to_string()).collect())),
                "{pattern} {all:?}"
            );
        };
        has("^/Live/.*", Begins, &["/live/"]);
        has("\\.(gif|PNG)$", Ends, &[".gif", ".png"]);
        has("^/u/[0-9]+/items/[0-9]+$", Within, &["/items/"]);
        has("(ab)+[0-9]+/(cd|ef)", Within, &["ab"]);
        has("ab|cd", Within, &["ab", "cd"]);
        for nothing in
            ["", ".*", "^/", "[^a]+", "a?", "^/[^/]+$", "(?u)abc", "x{0}", "(?:abc)?", "(?=abc)abc", "ab|"]
        {
            assert_eq!(clues(nothing), [], "{nothing}");
        }
    }
}
