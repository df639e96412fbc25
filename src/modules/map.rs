//! nginx's map module: a variable from another value.

use crate::conf::values::number_arg;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, Item};
use crate::http::regex::Regex;
use crate::http::regexes::Regexes;
use crate::http::request::Request;
use crate::http::template::Template;
use crate::http::vars::Computed;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("map", map, "a variable from another value"),
    Command::no_effect_of("map_hash_max_size", |_, d| number_arg(d, 0).map(drop), "tables grow as they need"),
    Command::no_effect_of(
        "map_hash_bucket_size",
        |_, d| number_arg(d, 0).map(drop),
        "tables grow as they need",
    ),
];

/// A `map` block.
struct Map {
    source: Template,
    hostnames: bool,
    volatile: bool,
    table: Table,
    /// The expressions, while the block is read.
    regexes: Vec<(Arc<Regex>, Template)>,
}

/// Values by key: names first, then expressions in order.
#[derive(Default)]
struct Table {
    default: Option<Template>,
    names: Names<Template>,
    regexes: Regexes<Template>,
}

/// The keys are the configuration's: no client adds any, so that a quick hash will do.
type ByName<V> = HashMap<Vec<u8>, V, foldhash::fast::RandomState>;

/// Values by name: exact ones first, then wildcards.
#[derive(Clone, Debug)]
pub struct Names<V> {
    /// By key in lower case.
    exact: ByName<V>,
    /// `*.example.org` by `example.org`; with true, `.example.org`, which is `example.org` too.
    heads: ByName<(V, bool)>,
    /// `www.example.*` by `www.example`
    tails: ByName<V>,
}

impl<V> Default for Names<V> {
    fn default() -> Names<V> {
        Names { exact: HashMap::default(), heads: HashMap::default(), tails: HashMap::default() }
    }
}

impl Computed for Map {
    fn compute(&self, rq: &Request, out: &mut Vec<u8>) -> bool {
        let source = self.source.eval(rq);
        let mut key: &[u8] = &source;
        if self.hostnames {
            key = key.strip_suffix(b".").unwrap_or(key);
        }
        let found = self.table.find(key, |regexes| regexes.capture(rq, key));
        if let Some(value) = found.or(self.table.default.as_ref()) {
            value.eval_into(rq, out);
        }
        true
    }

    fn volatile(&self) -> bool {
        self.volatile
    }

    fn pure(&self) -> bool {
        true
    }
}

impl Table {
    /// The value for `key`. An empty key is matched by no wildcard and no expression.
    fn find<'a>(
        &'a self,
        key: &[u8],
        first: impl Fn(&'a Regexes<Template>) -> Option<&'a Template>,
    ) -> Option<&'a Template> {
        let lower: Cow<'_, [u8]> = match key.iter().any(u8::is_ascii_uppercase) {
            true => key.to_ascii_lowercase().into(),
            false => key.into(),
        };
        self.names.find(&lower).or_else(|| if key.is_empty() { None } else { first(&self.regexes) })
    }
}

impl<V> Names<V> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.heads.is_empty() && self.tails.is_empty()
    }

    /// The value for `name`, which is in lower case. An empty name is matched by no wildcard.
    pub fn find(&self, name: &[u8]) -> Option<&V> {
        match self.exact.get(name) {
            None if !name.is_empty() => self.by_wildcard(name),
            found => found,
        }
    }

    /// The longest leading wildcard, then the longest trailing one.
    fn by_wildcard(&self, name: &[u8]) -> Option<&V> {
        if !self.heads.is_empty() {
            if let Some((value, true)) = self.heads.get(name) {
                return Some(value);
            }
            let mut suffixes = memchr::memchr_iter(b'.', name).map(|dot| &name[dot + 1..]);
            if let Some((value, _)) = suffixes.find_map(|suffix| self.heads.get(suffix)) {
                return Some(value);
            }
        }
        if self.tails.is_empty() {
            return None;
        }
        memchr::memrchr_iter(b'.', name).find_map(|dot| self.tails.get(&name[..dot]))
    }

    /// Adds a key; with `hostnames` it may be a wildcard (ngx_hash_add_key). One that is rejected
    /// changes nothing.
    pub fn add(&mut self, key: &str, value: V, hostnames: bool) -> Result<(), Rejected> {
        let name = key.to_ascii_lowercase().into_bytes();
        if hostnames {
            let stars = name.iter().filter(|b| **b == b'*').count();
            if stars > 1 || name.windows(2).any(|pair| pair == b"..") || name.contains(&0) {
                return Err(Rejected::Invalid(key.to_string()));
            }
            let (suffix, itself) = match &name[..] {
                [b'*', b'.', suffix @ ..] => (suffix, false),
                [b'.', suffix @ ..] => (suffix, true),
                _ => (&name[..0], false),
            };
            if !suffix.is_empty() {
                if itself && self.exact.contains_key(suffix) {
                    return Err(Rejected::Conflict(key.to_ascii_lowercase()));
                }
                return put(&mut self.heads, suffix, (value, itself), key);
            }
            if let [prefix @ .., b'.', b'*'] = &name[..]
                && !prefix.is_empty()
            {
                return put(&mut self.tails, prefix, value, key);
            }
            if stars > 0 {
                return Err(Rejected::Invalid(key.to_string()));
            }
            // `.example.org` is `example.org` already.
            if self.heads.get(&name).is_some_and(|(_, itself)| *itself) {
                return Err(Rejected::Conflict(key.to_ascii_lowercase()));
            }
        }
        put(&mut self.exact, &name, value, key)
    }
}

fn put<V>(table: &mut ByName<V>, name: &[u8], value: V, key: &str) -> Result<(), Rejected> {
    match table.entry(name.to_vec()) {
        Entry::Occupied(_) => Err(Rejected::Conflict(key.to_ascii_lowercase())),
        Entry::Vacant(free) => {
            free.insert(value);
            Ok(())
        }
    }
}

/// Why a table of names does not take a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It is there already; the key in lower case.
    Conflict(String),
    /// It is no wildcard as there may be; the key as written.
    Invalid(String),
}

impl From<Rejected> for ConfError {
    fn from(rejected: Rejected) -> ConfError {
        ConfError::new(match rejected {
            Rejected::Conflict(key) => format!("conflicting parameter \"{key}\""),
            Rejected::Invalid(key) => format!("invalid hostname or wildcard \"{key}\""),
        })
    }
}

fn map(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let source = b.template(d.arg(0))?;
    let name = variable_name(d.arg(1))?;
    let mut map =
        Map { source, hostnames: false, volatile: false, table: Table::default(), regexes: Vec::new() };
    for item in d.block.as_deref().unwrap_or_default() {
        let line = line(item)?;
        b.here = line.at.clone();
        entry(b, &mut map, line).map_err(|e| e.at(&line.at).text(|| line.summary()))?;
    }
    map.table.regexes = Regexes::new(std::mem::take(&mut map.regexes));
    b.here = d.at.clone();
    b.vars.computed(name, Arc::new(map))?;
    Ok(())
}

fn entry(b: &mut Builder, map: &mut Map, line: &Directive) -> ConfResult<()> {
    match (line.name.as_str(), line.args.as_slice()) {
        ("hostnames", []) => map.hostnames = true,
        ("volatile", []) => map.volatile = true,
        (key, [value]) => {
            let value = b.template(value)?;
            if key == "default" {
                if map.table.default.is_some() {
                    return Err(ConfError::new("duplicate default map parameter"));
                }
                map.table.default = Some(value);
            } else if let Some(pattern) = key.strip_prefix('~') {
                let (pattern, caseless) = match pattern.strip_prefix('*') {
                    Some(pattern) => (pattern, true),
                    None => (pattern, false),
                };
                let regex = b.regex(pattern, caseless)?;
                map.regexes.push((regex, value));
            } else {
                // A backslash lets a key be called `default` or begin with a `~`.
                map.table.names.add(key.strip_prefix('\\').unwrap_or(key), value, map.hostnames)?;
            }
        }
        _ => return Err(ConfError::new("invalid number of the map parameters")),
    }
    Ok(())
}

/// `$name` without its `$`.
pub fn variable_name(text: &str) -> ConfResult<&str> {
    text.strip_prefix('$')
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ConfError::new(format!("invalid variable name \"{text}\"")))
}

/// A line of a block whose lines are no directives but keys with values.
pub fn line(item: &Item) -> ConfResult<&Directive> {
    match item {
        Item::Error(error) => Err(error.clone()),
        Item::Directive(d) if d.block.is_some() => {
            Err(ConfError::new("unexpected \"{\"").at(&d.at).text(|| d.summary()))
        }
        Item::Directive(d) => Ok(d),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hostnames: bool, keys: &[&str]) -> ConfResult<Table> {
        let mut table = Table::default();
        for key in keys {
            table.names.add(key, Template::literal(key), hostnames)?;
        }
        Ok(table)
    }

    fn find<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
        table.find(key.as_bytes(), |regexes| regexes.find(key.as_bytes())).map(|value| value.source.as_str())
    }

    fn error(block: &str) -> ConfError {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("events {{}}\nhttp {{\nmap $uri $x {{\n{block}\n}}\n}}\n");
        crate::conf::build::load_text(dir.path(), &text).err().expect("a mistake")
    }

    #[test]
    fn keys_have_no_case() {
        let table = table(false, &["Ab", "", "*.x"]).unwrap();
        assert_eq!(find(&table, "aB"), Some("Ab"));
        assert_eq!(find(&table, ""), Some(""));
        assert_eq!(find(&table, "b.x"), None, "a wildcard needs `hostnames`");
        assert_eq!(find(&table, "*.X"), Some("*.x"));
    }

    #[test]
    fn wildcards_the_longest_first_the_leading_before_the_trailing() {
        let keys = ["*.org", "*.example.org", ".both.org", "www.*", "www.example.*", "www.exact.org"];
        let table = table(true, &keys).unwrap();
        assert_eq!(find(&table, "a.org"), Some("*.org"));
        assert_eq!(find(&table, "example.org"), Some("*.org"));
        assert_eq!(find(&table, "a.b.example.org"), Some("*.example.org"));
        assert_eq!(find(&table, "both.org"), Some(".both.org"));
        assert_eq!(find(&table, "x.both.org"), Some(".both.org"));
        assert_eq!(find(&table, "WWW.exact.org"), Some("www.exact.org"));
        assert_eq!(find(&table, "www.example.com"), Some("www.example.*"));
        assert_eq!(find(&table, "www.example.co.uk"), Some("www.example.*"));
        assert_eq!(find(&table, "www.other.com"), Some("www.*"));
        assert_eq!(find(&table, "www"), None);
        assert_eq!(find(&table, "org"), None);
    }

    #[test]
    fn conflicts_as_nginx_sees_them() {
        let message = |keys: &[&str]| table(true, keys).err().map(|e| e.message);
        for pair in [["a.b", "A.b"], ["*.a.b", ".a.b"], [".a.b", "a.b"], ["a.b", ".a.b"], ["a.*", "A.*"]] {
            let expected = format!("conflicting parameter \"{}\"", pair[1].to_ascii_lowercase());
            assert_eq!(message(&pair), Some(expected), "{pair:?}");
        }
        assert_eq!(message(&["a.b", "*.a.b", "a.b.*"]), None);
        for bad in ["a..b", "*.*.b", "a*", "*", "a.*.b"] {
            let expected = format!("invalid hostname or wildcard \"{bad}\"");
            assert_eq!(message(&[bad]), Some(expected));
        }
    }

    #[test]
    fn mistakes_in_nginxs_words_and_at_their_line() {
        let cases = [
            ("a 1;\nA 2;", "conflicting parameter \"a\"", 5),
            ("default 1;\ndefault 2;", "duplicate default map parameter", 5),
            ("a;", "invalid number of the map parameters", 4),
            ("a b c;", "invalid number of the map parameters", 4),
            ("a { b; }", "unexpected \"{\"", 4),
            ("a $nosuch;", "unknown \"nosuch\" variable", 4),
        ];
        for (block, message, line) in cases {
            let error = error(block);
            assert_eq!(error.message, message, "{block}");
            assert_eq!(error.at.unwrap().line, line, "{block}");
        }
        assert!(error("~( 1;").message.starts_with("pcre_compile() failed"), "a broken expression");
    }

    proptest::proptest! {
        /// Against the definition: the longest key that is the name, its end or its beginning.
        #[test]
        fn wildcards_as_defined(
            heads in proptest::collection::hash_set("[ab](\\.[ab]){0,2}", 0..5),
            tails in proptest::collection::hash_set("[ab](\\.[ab]){0,2}", 0..5),
            name in "[ab](\\.[ab]){0,4}",
        ) {
            let keys: Vec<String> = heads.iter().map(|k| format!("*.{k}"))
                .chain(tails.iter().map(|k| format!("{k}.*"))).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let table = table(true, &keys).unwrap();
            let head = heads.iter().filter(|k| name.ends_with(&format!(".{k}")))
                .max_by_key(|k| k.len()).map(|k| format!("*.{k}"));
            let tail = tails.iter().filter(|k| name.starts_with(&format!("{k}.")))
                .max_by_key(|k| k.len()).map(|k| format!("{k}.*"));
            let expected = head.or(tail);
            proptest::prop_assert_eq!(find(&table, &name), expected.as_deref());
        }
    }
}
