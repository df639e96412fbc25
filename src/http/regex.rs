//! Regular expressions of the configuration: a linear-time engine where it can be, a backtracking
//! one, bounded, for the look-around and back-references of PCRE.

use super::request::Request;
use super::vars::VarId;
use crate::conf::{Builder, ConfError, ConfResult};
use bytes::Bytes;
use smallvec::SmallVec;

/// Start and end of each group in the subject; group 0 is the whole match.
pub type Groups = SmallVec<[Option<(u32, u32)>; 10]>;

/// A compiled pattern and the variables its named groups write.
pub struct Regex {
    engine: Engine,
    names: Vec<(usize, VarId)>,
    caseless: bool,
    /// Whether there is a `$` in it.
    dollar: bool,
    /// The pattern as written.
    pub source: String,
}

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "~{:?}", self.source)
    }
}

#[derive(Debug)]
enum Engine {
    /// Works on bytes, in time linear in the subject.
    Linear(regex::bytes::Regex),
    /// Works on text, by backtracking with a limit on its steps.
    Backtracking(Box<fancy_regex::Regex>),
}

impl Engine {
    /// The linear one where it knows the pattern, spelled as `text`.
    fn of(pattern: &str, text: &str, caseless: bool) -> ConfResult<Engine> {
        let linear = regex::bytes::RegexBuilder::new(text).case_insensitive(caseless).unicode(false).build();
        if let Ok(regex) = linear {
            return Ok(Engine::Linear(regex));
        }
        let inline = if caseless { format!("(?i){text}") } else { text.to_string() };
        let regex = fancy_regex::RegexBuilder::new(&inline)
            .backtrack_limit(100_000)
            .build()
            .map_err(|e| ConfError::new(format!("pcre_compile() failed: {e} in \"{pattern}\"")))?;
        Ok(Engine::Backtracking(Box::new(regex)))
    }
}

impl Regex {
    /// One that writes no variables.
    #[cfg(test)]
    pub fn alone(pattern: &str, caseless: bool) -> ConfResult<Regex> {
        let text = &spelled(pattern);
        let engine = Engine::of(pattern, text, caseless)?;
        let names = Vec::new();
        Ok(Regex { engine, names, caseless, dollar: has_dollar(text), source: pattern.to_string() })
    }

    /// Compiles `pattern`. Its named groups become variables of the configuration.
    pub fn compile(pattern: &str, caseless: bool, builder: &mut Builder) -> ConfResult<Regex> {
        let text = &spelled(pattern);
        let engine = Engine::of(pattern, text, caseless)?;
        let names: Vec<(usize, String)> = match &engine {
            Engine::Linear(r) => named(r.capture_names()),
            Engine::Backtracking(r) => named(r.capture_names()),
        };
        if names.iter().any(|(_, name)| name.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(ConfError::new(format!(
                "pcre_compile() failed: subpattern name must start with a non-digit in \"{pattern}\""
            )));
        }
        if let Some((_, twice)) =
            names.iter().enumerate().find(|(i, (_, n))| names[..*i].iter().any(|(_, m)| m == n))
        {
            let name = &twice.1;
            return Err(ConfError::new(format!(
                "pcre_compile() failed: two named subpatterns have the same name (\"{name}\") in \"{pattern}\""
            )));
        }
        let names = names
            .into_iter()
            .map(|(group, name)| Ok((group, builder.vars.captured(&name)?)))
            .collect::<ConfResult<_>>()?;
        Ok(Regex { engine, names, caseless, dollar: has_dollar(text), source: pattern.to_string() })
    }

    /// Whether `subject` matches, without keeping the groups.
    pub fn is_match(&self, subject: &[u8]) -> bool {
        self.is_match_of(subject)
            || self.before_newline(subject).is_some_and(|subject| self.is_match_of(subject))
    }

    /// The subject without a newline at its end, before which the `$` of PCRE matches too and that of the engines does
    /// not: a location that denies must not be got round by one.
    fn before_newline<'a>(&self, subject: &'a [u8]) -> Option<&'a [u8]> {
        subject.strip_suffix(b"\n").filter(|_| self.dollar)
    }

    fn is_match_of(&self, subject: &[u8]) -> bool {
        match &self.engine {
            Engine::Linear(regex) => regex.is_match(subject),
            Engine::Backtracking(regex) => match std::str::from_utf8(subject) {
                Ok(text) => regex.is_match(text).unwrap_or(false),
                Err(_) => regex.is_match(&bytes_as_text(subject).0).unwrap_or(false),
            },
        }
    }

    /// Matches `subject` and, on success, makes the groups the request's captures and writes the
    /// named ones to their variables.
    pub fn capture(&self, rq: &Request, subject: &[u8]) -> bool {
        let groups = match self.try_groups(subject) {
            Ok(Some(groups)) => groups,
            Ok(None) => return false,
            Err(GaveUp) => {
                rq.regex_gave_up.set(true);
                return false;
            }
        };
        for (group, id) in &self.names {
            let value = groups.get(*group).copied().flatten().map_or(Bytes::new(), |(start, end)| {
                Bytes::copy_from_slice(&subject[start as usize..end as usize])
            });
            rq.set_slot(*id, value);
        }
        rq.set_captures(subject, groups);
        true
    }

    /// Of one that the linear engine runs, the pattern in its words and whether it has no regard to case.
    pub fn linear(&self) -> Option<(String, bool)> {
        matches!(self.engine, Engine::Linear(_)).then(|| (spelled(&self.source), self.caseless))
    }

    /// Whether it has groups.
    pub fn has_groups(&self) -> bool {
        match &self.engine {
            Engine::Linear(regex) => regex.captures_len() > 1,
            Engine::Backtracking(regex) => regex.captures_len() > 1,
        }
    }

    /// The groups of the first match; none, too, where the engine gave up.
    pub fn groups(&self, subject: &[u8]) -> Option<Groups> {
        self.try_groups(subject).unwrap_or(None)
    }

    fn try_groups(&self, subject: &[u8]) -> Result<Option<Groups>, GaveUp> {
        let found = self.groups_of(subject)?;
        match self.before_newline(subject) {
            Some(shorter) if found.is_none() => self.groups_of(shorter),
            _ => Ok(found),
        }
    }

    fn groups_of(&self, subject: &[u8]) -> Result<Option<Groups>, GaveUp> {
        match &self.engine {
            Engine::Linear(regex) => Ok(regex
                .captures(subject)
                .map(|found| found.iter().map(|m| m.map(|m| (m.start() as u32, m.end() as u32))).collect())),
            Engine::Backtracking(regex) => {
                let group = |found: fancy_regex::Match<'_>| (found.start() as u32, found.end() as u32);
                match std::str::from_utf8(subject) {
                    Ok(text) => {
                        let found = regex.captures(text).map_err(|_| GaveUp)?;
                        Ok(found.map(|found| found.iter().map(|m| m.map(group)).collect()))
                    }
                    Err(_) => {
                        let (text, offsets) = bytes_as_text(subject);
                        let found = regex.captures(&text).map_err(|_| GaveUp)?;
                        let back =
                            |(start, end): (u32, u32)| (offsets[start as usize], offsets[end as usize]);
                        Ok(found.map(|found| found.iter().map(|m| m.map(group).map(back)).collect()))
                    }
                }
            }
        }
    }
}

/// The backtracking engine took more steps than it may. Neither a match nor none: the request is
/// answered 500, as nginx does, so that no rule is got round by a subject that is hard to match.
struct GaveUp;

/// A pattern in the spelling of the engines.
fn spelled(pattern: &str) -> String {
    if !pattern.contains("(?'") {
        return as_engines_read(pattern);
    }
    // PCRE knows one more spelling of named groups than the engines do.
    as_engines_read(&pattern.replace("(?'", "(?<").replace("'>", ">"))
}

/// A pattern of PCRE's in the words of the engines, which take `&&`, `--`, `~~` and `[` in a class for operations on
/// sets, `\<` and `\>` for the ends of words, and `\h` for a digit: each would quietly match something else.
fn as_engines_read(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.char_indices();
    // Whether it is in a class, and whether at its beginning; whether the last character began a range.
    let (mut class, mut range) = (None, false);
    while let Some((at, c)) = chars.next() {
        let begins = class == Some(true);
        let after_dash = std::mem::take(&mut range);
        match (c, class) {
            ('\\', _) => {
                match (chars.next().map(|(_, c)| c), class) {
                    (Some(c @ ('<' | '>')), _) => out.push(c),
                    (Some('h'), Some(_)) => out.push_str(" \\t"),
                    (Some('h'), None) => out.push_str("[ \\t]"),
                    (Some('H'), None) => out.push_str("[^ \\t]"),
                    (next, _) => {
                        out.push('\\');
                        out.extend(next);
                    }
                }
                class = class.map(|_| false);
                continue;
            }
            ('[', None) => {
                class = Some(true);
                out.push(c);
                continue;
            }
            ('^', Some(true)) => {
                out.push(c);
                continue;
            }
            (']', Some(false)) => {
                class = None;
                out.push(c);
                continue;
            }
            ('[', Some(_)) if pattern[at..].starts_with("[:") && pattern[at..].contains(":]") => {
                // The name of a class, up to its end.
                out.push(c);
                for (_, c) in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            ('-', Some(_)) if !begins && !after_dash => {
                range = true;
                out.push(c);
            }
            ('[' | ']' | '&' | '~' | '-', Some(_)) => out.extend(['\\', c]),
            _ => out.push(c),
        }
        class = class.map(|_| false);
    }
    out
}

/// Whether a pattern has a `$` that stands for the end.
fn has_dollar(pattern: &str) -> bool {
    let mut bytes = pattern.bytes();
    let mut class = None;
    while let Some(byte) = bytes.next() {
        match (byte, class) {
            (b'\\', _) => {
                bytes.next();
                class = class.map(|_| false);
            }
            (b'$', None) => return true,
            (b'[', None) => class = Some(true),
            // At the beginning of a class it is one of its characters.
            (b']', Some(false)) => class = None,
            (b'^', Some(true)) => {}
            (_, Some(_)) => class = Some(false),
            (_, None) => {}
        }
    }
    false
}

fn named<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Vec<(usize, String)> {
    names.enumerate().filter_map(|(group, name)| name.map(|n| (group, n.to_string()))).collect()
}

/// Bytes that are not UTF-8, each as a character, and of each offset in the text the one in the bytes.
/// They have to match what bytes match: a location that denies must not be got round by them.
fn bytes_as_text(subject: &[u8]) -> (String, Vec<u32>) {
    let mut text = String::with_capacity(2 * subject.len());
    let mut offsets = Vec::with_capacity(2 * subject.len() + 1);
    for (at, byte) in subject.iter().enumerate() {
        text.push(char::from(*byte));
        offsets.resize(text.len(), at as u32);
    }
    offsets.push(subject.len() as u32);
    (text, offsets)
}

#[cfg(test)]
mod tests {
    use super::{as_engines_read, has_dollar};

    #[test]
    fn patterns_mean_what_they_mean_to_pcre() {
        let is = |pattern: &str, text: &str| {
            let regex = regex::bytes::RegexBuilder::new(&as_engines_read(pattern)).unicode(false).build();
            regex.unwrap().is_match(text.as_bytes())
        };
        for (pattern, yes, no) in [
            ("^a[b&&c]d$", "a&d", "axd"),
            ("^a[b&&c]d$", "abd", "ad"),
            ("^e[+--]f$", "e,f", "e.f"),
            ("^g[~~]h$", "g~h", "gh"),
            ("^[--/]$", ".", "0"),
            ("^i\\hj$", "i j", "iaj"),
            ("^i[\\hx]j$", "i\tj", "iaj"),
            ("^k[l[]m$", "k[m", "km"),
            ("^[^[]+$", "a", "a["),
            ("^[]a]+$", "]a", "b"),
            ("^[^]a]$", "b", "]"),
            ("^p\\<q$", "p<q", "pq"),
            ("^[[:alpha:]_-]+$", "a_-", "1"),
            ("^[\\w.-]+@x$", "a.b-c@x", "a b@x"),
            ("^[a-z0-9-]+$", "a-9", "A"),
            ("^[a-f]-[0-9]$", "b-1", "b1"),
            ("^a\\[b\\]&&~~--$", "a[b]&&~~--", "a[b]"),
        ] {
            assert!(is(pattern, yes) && !is(pattern, no), "{pattern} {}", as_engines_read(pattern));
        }
        for pattern in ["", "^/a/(.*)\\.php$", "[a-z]{2,}[^/]+", "(?<n>[0-9a-f]+)x\\d", "é[à-ü]"] {
            assert_eq!(as_engines_read(pattern), pattern);
        }
    }

    #[test]
    fn dollars_that_stand_for_the_end() {
        for pattern in ["a$", "$", "(a$|b)", "[$]$", "[]$]$", "[^]$]$", "\\\\$", "[\\]$]a$", "a$b"] {
            assert!(has_dollar(pattern), "{pattern}");
        }
        for pattern in ["", "a", "\\$", "[$]", "[]$]", "[^]$]", "[^$]", "[a\\]$]", "\\\\\\$", "[$"] {
            assert!(!has_dollar(pattern), "{pattern}");
        }
    }
}
