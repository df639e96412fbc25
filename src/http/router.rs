//! Which location answers a request, by nginx's rules.

use super::regex::Regex;
use super::request::Request;
use crate::conf::build::LevelId;
use std::collections::HashMap;
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

/// The locations of one level, ready to be searched.
#[derive(Debug, Default)]
pub struct Locations {
    exact: HashMap<Vec<u8>, LevelId>,
    /// Of both kinds, the paths that end in a slash and are redirected to when it is left out.
    slashed: HashMap<Vec<u8>, LevelId>,
    /// Sorted by path. Each knows the longest other one that is a prefix of it, so that a search is
    /// one bisection and a short walk.
    prefixes: Vec<Prefix>,
    regexes: Vec<(Arc<Regex>, LevelId)>,
    named: HashMap<Vec<u8>, LevelId>,
}

#[derive(Debug)]
struct Prefix {
    path: Vec<u8>,
    level: LevelId,
    no_regex: bool,
    parent: Option<usize>,
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
    Prefix(usize),
    AddSlash(LevelId),
    Nothing,
}

impl Locations {
    /// Prepares the locations of a level for searching.
    pub fn build(found: Vec<Found>) -> Locations {
        let mut locations = Locations::default();
        for location in found {
            if let Match::Exact(path) | Match::Prefix { path, .. } = &location.by
                && location.auto_redirect
            {
                locations.slashed.insert(path.clone(), location.level);
            }
            match location.by {
                Match::Exact(path) => {
                    locations.exact.insert(path, location.level);
                }
                Match::Named(name) => {
                    locations.named.insert(name, location.level);
                }
                Match::Regex(regex) => locations.regexes.push((regex, location.level)),
                Match::Prefix { path, no_regex } => {
                    locations.prefixes.push(Prefix { path, level: location.level, no_regex, parent: None })
                }
            }
        }
        // Of an exact location and another of the same name, the exact one says who may be sent there.
        for (path, level) in &mut locations.slashed {
            if let Some(exact) = locations.exact.get(path) {
                *level = *exact;
            }
        }
        locations.prefixes.sort_by(|a, b| a.path.cmp(&b.path));
        let mut open: Vec<usize> = Vec::new();
        for at in 0..locations.prefixes.len() {
            while let Some(top) = open.last() {
                if locations.prefixes[at].path.starts_with(&locations.prefixes[*top].path) {
                    break;
                }
                open.pop();
            }
            locations.prefixes[at].parent = open.last().copied();
            open.push(at);
        }
        locations
    }

    /// Whether there are any that a path can reach.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty()
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
        if let Some(level) = self.exact.get(path) {
            return Static::Exact(*level);
        }
        let mut at = self.prefixes.partition_point(|p| p.path.as_slice() <= path).checked_sub(1);
        while let Some(i) = at {
            if path.starts_with(&self.prefixes[i].path) {
                break;
            }
            at = self.prefixes[i].parent;
        }
        // `/x` with a location `/x/` that asks for it; an equal prefix location `/x` comes first.
        let same = at.is_some_and(|i| self.prefixes[i].path.len() == path.len());
        if !same && !self.slashed.is_empty() {
            let mut slashed = path.to_vec();
            slashed.push(b'/');
            if let Some(level) = self.slashed.get(&slashed) {
                return Static::AddSlash(*level);
            }
        }
        at.map_or(Static::Nothing, Static::Prefix)
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
        Static::Prefix(i) => {
            let prefix = &locations.prefixes[i];
            no_regex = prefix.no_regex;
            match descend(rq, prefix.level) {
                Outcome::Final(located) => return Outcome::Final(located),
                Outcome::Open(inner) => best = Outcome::Open(inner),
                Outcome::None => best = Outcome::Open(prefix.level),
            }
        }
        Static::Nothing => {}
    }
    if !no_regex {
        for (regex, level) in &locations.regexes {
            if regex.capture(rq, &rq.uri) {
                let inner = match descend(rq, *level) {
                    Outcome::Final(located) => located,
                    Outcome::Open(inner) => Located::Level(inner),
                    Outcome::None => Located::Level(*level),
                };
                return Outcome::Final(inner);
            }
        }
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
        let locations =
            Locations::build(vec![prefix("/", 1), prefix("/ab", 2), prefix("/abc/d", 3), prefix("/x/", 4)]);
        let at = |path: &str| match locations.find_static(path.as_bytes()) {
            Static::Prefix(i) => locations.prefixes[i].level as i32,
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
}
