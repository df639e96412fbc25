//! Which location answers a request, by nginx's rules.

use super::prefixes::Prefixes;
use super::regex::Regex;
use super::regexes::Regexes;
use super::request::Request;
use crate::conf::build::LevelId;
use foldhash::fast::RandomState;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How a location is matched.
#[derive(Clone, Debug)]
pub enum Match {
    /// `= /x`
    Exact(Vec<u8>),
    /// `/x`, or `^~ /x` with `final_`.
    Prefix {
        /// The prefix.
        path: Vec<u8>,
        /// `^~`: no regular expression is tried after it.
        no_regex: bool,
    },
    /// `~ x`, `~* x`
    Regex(Arc<Regex>),
    /// `@x`
    Named(Vec<u8>),
}

/// A location found while reading.
#[derive(Clone, Debug)]
pub struct Found {
    /// How it is matched.
    pub by: Match,
    /// Its level.
    pub level: LevelId,
    /// Whether `/x` is answered by a redirect to this `/x/` (it has a proxy).
    pub auto_redirect: bool,
}

/// The locations of a level while it is read, in order.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    found: Vec<Found>,
    /// Those that there may be once, by kind and name.
    once: HashSet<(std::mem::Discriminant<Match>, Vec<u8>)>,
}

impl Gathered {
    /// Takes note that there is such a location; false when there is one already. Regular expressions may be repeated.
    pub fn is_first(&mut self, by: &Match) -> bool {
        match by {
            Match::Exact(name) | Match::Named(name) | Match::Prefix { path: name, .. } => {
                self.once.insert((std::mem::discriminant(by), name.clone()))
            }
            Match::Regex(_) => true,
        }
    }

    /// Adds a location.
    pub fn add(&mut self, found: Found) {
        self.found.push(found);
    }
}

/// The locations of one level, ready to be searched.
#[derive(Debug, Default)]
pub struct Locations {
    /// By path, with the path as the tree has it.
    places: Prefixes<Place>,
    regexes: Regexes<LevelId>,
    named: HashMap<Vec<u8>, LevelId, RandomState>,
}

/// What there is under a path.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    exact: Option<LevelId>,
    prefix: Option<Prefix>,
    /// Where there is a slash at its end, who redirects to it when that is left out.
    slashed: Option<LevelId>,
}

#[derive(Clone, Copy, Debug)]
struct Prefix {
    level: LevelId,
    no_regex: bool,
}

/// Where a search ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Located {
    /// At this level.
    Level(LevelId),
    /// At a location whose slash the client left out: redirect to the path with it.
    AddSlash(LevelId),
    /// Nowhere.
    Nowhere,
}

enum Static {
    Exact(LevelId),
    Prefix(Prefix),
    AddSlash(LevelId),
    Nothing,
}

impl Locations {
    /// Prepares the locations of a level for searching.
    pub fn build(gathered: Gathered) -> Locations {
        let mut locations = Locations::default();
        let mut places: HashMap<Vec<u8>, Place> = HashMap::new();
        let mut regexes = Vec::new();
        for Found { by, level, auto_redirect } in gathered.found {
            let redirects = auto_redirect.then_some(level);
            match by {
                Match::Exact(path) => {
                    let place = places.entry(path).or_default();
                    place.exact = Some(level);
                    // Of an exact location and another of the same name, the exact one says who may be sent there.
                    place.slashed = redirects.or(place.slashed.map(|_| level));
                }
                Match::Prefix { path, no_regex } => {
                    let place = places.entry(path).or_default();
                    place.prefix = Some(Prefix { level, no_regex });
                    place.slashed = place.slashed.or(redirects.map(|level| place.exact.unwrap_or(level)));
                }
                Match::Named(name) => {
                    locations.named.insert(name, level);
                }
                Match::Regex(regex) => regexes.push((regex, level)),
            }
        }
        locations.places = Prefixes::build(places.into_iter().collect());
        locations.regexes = Regexes::new(regexes);
        locations
    }

    /// Whether there are any that a path can reach.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.regexes.is_empty()
    }

    /// The level of `@name`.
    pub fn named(&self, name: &[u8]) -> Option<LevelId> {
        self.named.get(name).copied()
    }

    /// Whether there are named locations.
    pub fn has_named(&self) -> bool {
        !self.named.is_empty()
    }

    fn find_static(&self, path: &[u8]) -> Static {
        let mut best = None;
        let mut same = None;
        let end = self.places.walk(path, |length, place| {
            best = place.prefix.or(best);
            same = (length == path.len()).then_some(place);
        });
        if let Some(level) = same.and_then(|place| place.exact) {
            return Static::Exact(level);
        }
        // `/x` with a location `/x/` that asks for it; an equal prefix location `/x` comes first.
        if same.is_none_or(|place| place.prefix.is_none())
            && let Some(slashed) = end.and_then(|end| self.places.one_more(end, b'/'))
            && let Some(level) = slashed.slashed
        {
            return Static::AddSlash(level);
        }
        best.map_or(Static::Nothing, Static::Prefix)
    }
}

/// The location for `rq.uri`, from `level` inwards (ngx_http_core_find_location).
pub fn locate(rq: &Request, level: LevelId) -> Located {
    match descend(rq, level) {
        Outcome::Final(located) => located,
        Outcome::Open(level) => Located::Level(level),
        Outcome::None => Located::Nowhere,
    }
}

enum Outcome {
    /// An exact match, a regular expression or a redirect: the search is over.
    Final(Located),
    /// A prefix: an outer level's regular expressions may still win.
    Open(LevelId),
    /// Nothing here.
    None,
}

fn descend(rq: &Request, level: LevelId) -> Outcome {
    let locations = &rq.http().levels[level].conf.core.locations;
    if locations.is_empty() {
        return Outcome::None;
    }
    let mut best = Outcome::None;
    let mut no_regex = false;
    match locations.find_static(&rq.uri) {
        Static::Exact(level) => return Outcome::Final(Located::Level(level)),
        Static::AddSlash(level) => return Outcome::Final(Located::AddSlash(level)),
        Static::Prefix(prefix) => {
            no_regex = prefix.no_regex;
            match descend(rq, prefix.level) {
                Outcome::Final(located) => return Outcome::Final(located),
                Outcome::Open(inner) => best = Outcome::Open(inner),
                Outcome::None => best = Outcome::Open(prefix.level),
            }
        }
        Static::Nothing => {}
    }
    if !no_regex && let Some(level) = locations.regexes.capture(rq, &rq.uri) {
        return Outcome::Final(match descend(rq, *level) {
            Outcome::Final(located) => located,
            Outcome::Open(inner) => Located::Level(inner),
            Outcome::None => Located::Level(*level),
        });
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(path: &str, level: LevelId) -> Found {
        let by = Match::Prefix { path: path.as_bytes().to_vec(), no_regex: false };
        Found { by, level, auto_redirect: path.ends_with('/') }
    }

    #[test]
    fn the_longest_prefix_wins_and_a_missing_slash_is_seen() {
        let found = vec![prefix("/", 1), prefix("/ab", 2), prefix("/abc/d", 3), prefix("/x/", 4)];
        let locations = Locations::build(Gathered { found, ..Gathered::default() });
        let at = |path: &str| match locations.find_static(path.as_bytes()) {
            Static::Prefix(prefix) => prefix.level as i32,
            Static::AddSlash(_) => -1,
            Static::Exact(_) | Static::Nothing => -2,
        };
        assert_eq!(at("/"), 1);
        assert_eq!(at("/abz"), 2);
        assert_eq!(at("/abc/"), 2);
        assert_eq!(at("/abc/de"), 3);
        assert_eq!(at("/x/y"), 4);
        assert_eq!(at("/x"), -1);
        assert_eq!(at("/zz"), 1);
    }

    #[test]
    fn an_exact_location_comes_first_and_says_who_adds_the_slash() {
        let exact = |path: &str, level, auto_redirect| {
            let by = Match::Exact(path.as_bytes().to_vec());
            Found { by, level, auto_redirect }
        };
        let orders = [
            vec![prefix("/a/", 1), exact("/a/", 2, false), prefix("/b", 3), exact("/b/", 4, true)],
            vec![exact("/b/", 4, true), exact("/a/", 2, false), prefix("/b", 3), prefix("/a/", 1)],
        ];
        for found in orders {
            let locations = Locations::build(Gathered { found, ..Gathered::default() });
            assert!(matches!(locations.find_static(b"/a"), Static::AddSlash(2)));
            assert!(matches!(locations.find_static(b"/a/"), Static::Exact(2)));
            assert!(matches!(locations.find_static(b"/a/x"), Static::Prefix(Prefix { level: 1, .. })));
            assert!(matches!(locations.find_static(b"/b"), Static::Prefix(Prefix { level: 3, .. })));
            assert!(matches!(locations.find_static(b"/b/"), Static::Exact(4)));
            assert!(matches!(locations.find_static(b"/"), Static::Nothing));
        }
    }

    #[test]
    fn a_place_is_taken_once() {
        let mut gathered = Gathered::default();
        let prefix = |path: &str, no_regex| Match::Prefix { path: path.into(), no_regex };
        assert!(gathered.is_first(&prefix("/a", false)) && gathered.is_first(&Match::Exact(b"/a".to_vec())));
        assert!(gathered.is_first(&Match::Named(b"/a".to_vec())) && gathered.is_first(&prefix("/b", true)));
        assert!(!gathered.is_first(&prefix("/a", true)) && !gathered.is_first(&Match::Exact(b"/a".to_vec())));
    }
}
