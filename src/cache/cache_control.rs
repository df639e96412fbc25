//! The directives of `Cache-Control` (RFC 9111, 5.2), of requests and of responses, and of fields that
//! are meant for one kind of cache (RFC 9213).

use sfv::{BareItem, Dictionary, ListEntry, Parser, Version};
use std::borrow::Cow;
use std::time::Duration;

/// What a cache takes for more seconds than it can hold (RFC 9111, 1.2.2).
const MOST: u32 = 1 << 31;

/// What the directives come to. Of one that is given several times the most restrictive holds
/// (RFC 9111, 4.2.1). Times are seconds, at most 2^31.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `max-age`; 0 where the value is none.
    pub max_age: Option<u32>,
    /// `s-maxage`; 0 where the value is none.
    pub s_maxage: Option<u32>,
    /// `stale-while-revalidate` (RFC 5861, 3)
    pub stale_while_revalidate: Option<u32>,
    /// `stale-if-error` (RFC 5861, 4)
    pub stale_if_error: Option<u32>,
    /// `min-fresh`
    pub min_fresh: Option<u32>,
    /// `max-stale`; without a value it is all there can be.
    pub max_stale: Option<u32>,
    /// `no-cache`
    pub no_cache: Reach,
    /// `private`
    pub private: Reach,
    /// `no-store`
    pub no_store: bool,
    /// `must-understand`
    pub must_understand: bool,
    /// `must-revalidate`
    pub must_revalidate: bool,
    /// `proxy-revalidate`
    pub proxy_revalidate: bool,
    /// `public`
    pub public: bool,
    /// `immutable` (RFC 8246)
    pub immutable: bool,
    /// `only-if-cached`
    pub only_if_cached: bool,
}

/// What `no-cache` and `private` speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Nothing: they are not there.
    #[default]
    Nothing,
    /// These fields of the response, in lower case.
    Fields(Vec<Box<str>>),
    /// The whole response.
    Whole,
}

impl Reach {
    /// The fields it speaks of, unless it speaks of all.
    pub fn fields(&self) -> &[Box<str>] {
        match self {
            Reach::Fields(names) => names,
            Reach::Nothing | Reach::Whole => &[],
        }
    }

    /// Both of them hold.
    fn add(&mut self, other: Reach) {
        *self = match (std::mem::take(self), other) {
            (Reach::Whole, _) | (_, Reach::Whole) => Reach::Whole,
            (Reach::Fields(mut all), Reach::Fields(more)) => {
                all.extend(more);
                Reach::Fields(all)
            }
            (Reach::Fields(names), Reach::Nothing) | (Reach::Nothing, Reach::Fields(names)) => {
                Reach::Fields(names)
            }
            (Reach::Nothing, Reach::Nothing) => Reach::Nothing,
        };
    }
}

/// What stands behind a directive's `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Argument<'a> {
    None,
    Text(Cow<'a, [u8]>),
    /// Of a structured field: seconds.
    Number(i64),
    /// Of a structured field: what is no value of any directive.
    Other,
}

impl CacheControl {
    /// Reads the values of all `Cache-Control` fields. What is not known is passed over; what is not
    /// well formed is read as far as that can be, never as less restrictive than it says.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> CacheControl {
        let mut read = CacheControl::default();
        for value in values {
            for (name, argument) in members(value) {
                read.take(name, argument);
            }
        }
        read
    }

    /// Reads a targeted field, a dictionary (RFC 9213, 2.1). `None` when it is empty or malformed: then
    /// it does not count (2.2). A member whose value is of another type than its directive's is passed
    /// over.
    pub fn parse_targeted<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<CacheControl> {
        let text = values.into_iter().collect::<Vec<_>>().join(&b", "[..]);
        let parser = Parser::new(&text).with_version(Version::Rfc8941);
        let members: Dictionary = parser.parse().ok().filter(|members: &Dictionary| !members.is_empty())?;
        let mut read = CacheControl::default();
        for (name, value) in &members {
            let argument = match value {
                ListEntry::Item(item) => match &item.bare_item {
                    BareItem::Boolean(true) => Argument::None,
                    // Said to be not so.
                    BareItem::Boolean(false) => continue,
                    BareItem::Integer(n) => Argument::Number(i64::from(*n)),
                    BareItem::String(text) => Argument::Text(text.as_str().as_bytes().into()),
                    BareItem::Token(text) => Argument::Text(text.as_str().as_bytes().into()),
                    _ => Argument::Other,
                },
                ListEntry::InnerList(list) => {
                    let names = list.items.iter().filter_map(|item| match &item.bare_item {
                        BareItem::String(name) => Some(name.as_str()),
                        BareItem::Token(name) => Some(name.as_str()),
                        _ => None,
                    });
                    Argument::Text(names.collect::<Vec<_>>().join(",").into_bytes().into())
                }
            };
            let seconds = SECONDS.contains(&name.as_str());
            let fits = match argument {
                Argument::Number(n) => seconds && n >= 0,
                Argument::Text(_) => !seconds,
                Argument::None => !seconds || name.as_str() == "max-stale",
                Argument::Other => false,
            };
            if fits {
                read.take(name.as_str().as_bytes(), argument);
            }
        }
        Some(read)
    }

    fn take(&mut self, name: &[u8], argument: Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // The lesser of two times is the more restrictive one.
        let least = |known: &mut Option<u32>, new: u32| *known = Some(known.map_or(new, |n| n.min(new)));
        if is("max-age") {
            // Freshness that cannot be read is none (4.2.1).
            least(&mut self.max_age, seconds(&argument).unwrap_or(0));
        } else if is("s-maxage") {
            least(&mut self.s_maxage, seconds(&argument).unwrap_or(0));
        } else if is("stale-while-revalidate") {
            least(&mut self.stale_while_revalidate, seconds(&argument).unwrap_or(0));
        } else if is("stale-if-error") {
            least(&mut self.stale_if_error, seconds(&argument).unwrap_or(0));
        } else if is("max-stale") {
            let any = matches!(argument, Argument::None).then_some(MOST);
            least(&mut self.max_stale, any.or_else(|| seconds(&argument)).unwrap_or(0));
        } else if is("min-fresh") {
            let new = seconds(&argument).unwrap_or(0);
            self.min_fresh = Some(self.min_fresh.map_or(new, |n| n.max(new)));
        } else if is("no-cache") {
            self.no_cache.add(reach(&argument));
        } else if is("private") {
            self.private.add(reach(&argument));
        } else {
            let flags = [
                ("no-store", &mut self.no_store),
                ("must-understand", &mut self.must_understand),
                ("must-revalidate", &mut self.must_revalidate),
                ("proxy-revalidate", &mut self.proxy_revalidate),
                ("public", &mut self.public),
                ("immutable", &mut self.immutable),
                ("only-if-cached", &mut self.only_if_cached),
            ];
            for (known, flag) in flags {
                *flag |= is(known);
            }
        }
    }

    /// How long a response lives in a shared cache by these, if they say it.
    pub fn lifetime(&self) -> Option<Duration> {
        self.s_maxage.or(self.max_age).map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Whether a shared cache may not serve it once it is stale, whoever allows it (RFC 9111, 4.2.4).
    /// `s-maxage` means that too (5.2.2.10).
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate
            || self.proxy_revalidate
            || self.s_maxage.is_some()
            || self.no_cache == Reach::Whole
    }
}

/// The directives whose value is a time.
const SECONDS: [&str; 6] =
    ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "max-stale", "min-fresh"];

/// delta-seconds (RFC 9111, 1.2.2), quoted or not.
fn seconds(argument: &Argument<'_>) -> Option<u32> {
    match argument {
        Argument::Text(digits) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let text = std::str::from_utf8(digits).ok()?;
            // Only too many digits are left to fail.
            Some(text.parse().map_or(MOST, |n: u32| n.min(MOST)))
        }
        Argument::Number(n) => u32::try_from((*n).clamp(0, MOST.into())).ok(),
        _ => None,
    }
}

/// A list of names, in quotes or not; an empty one is no list.
fn reach(argument: &Argument<'_>) -> Reach {
    let Argument::Text(list) = argument else { return Reach::Whole };
    let names: Vec<Box<str>> = list
        .split(|b| matches!(b, b',' | b' ' | b'\t'))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase().into())
        .collect();
    if names.is_empty() { Reach::Whole } else { Reach::Fields(names) }
}

/// The first non-negative number that a field's value gives (`Age`; RFC 9111, 5.1).
pub fn first_number(value: &[u8]) -> Option<u32> {
    let first = value.split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
    seconds(&Argument::Text(first.into()))
}

/// Names and arguments. Between directives stand commas; a blank or a semicolon there is as good, so
/// that none is lost behind one.
fn members(value: &[u8]) -> impl Iterator<Item = (&[u8], Argument<'_>)> {
    let mut rest = value;
    std::iter::from_fn(move || {
        rest = &rest[rest.iter().take_while(|b| separates(**b) || **b == b'=').count()..];
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|b| separates(*b) || *b == b'=').unwrap_or(rest.len());
        let name = &rest[..end];
        let behind = blanks(&rest[end..]);
        let Some(argument) = behind.strip_prefix(b"=") else {
            rest = &rest[end..];
            return Some((name, Argument::None));
        };
        let argument = blanks(argument);
        if let Some(quoted) = argument.strip_prefix(b"\"") {
            let (text, after) = unquote(quoted);
            rest = after;
            return Some((name, Argument::Text(text)));
        }
        let end = argument.iter().position(|b| separates(*b)).unwrap_or(argument.len());
        rest = &argument[end..];
        Some((name, Argument::Text(Cow::Borrowed(&argument[..end]))))
    })
}

fn separates(byte: u8) -> bool {
    matches!(byte, b',' | b';' | b' ' | b'\t')
}

fn blanks(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|b| matches!(b, b' ' | b'\t')).count()..]
}

/// What stands before the closing quote, and what follows it; without one it is all that is left.
fn unquote(text: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let Some(end) = text.iter().position(|b| matches!(b, b'"' | b'\\')) else {
        return (text.into(), &[]);
    };
    if text[end] == b'"' {
        return (Cow::Borrowed(&text[..end]), &text[end + 1..]);
    }
    let mut plain = text[..end].to_vec();
    let mut at = end;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return (plain.into(), &text[at + 1..]),
            b'\\' => {
                plain.extend(text.get(at + 1));
                at += 2;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    (plain.into(), &[])
}

#[cfg(test)]
#[path = "cache_control_tests.rs"]
mod tests;
