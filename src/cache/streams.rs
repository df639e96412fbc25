//! The live streams that a zone knows: what their playlists list, which entries belong to them.
//!
//! A stream is known by the key of its playlist, whatever a request for it asks the server to wait for. A
//! resource (a segment, a part, a key) is known by its *origin*, the host and path of requests for it. From one
//! version of a playlist to the next it is seen what left the window, and whether the encoder began anew.
//!
//! Everything is bounded: so many streams, so many resources, so many entries of each. What is forgotten costs
//! precision: a segment is not evicted first, an encoder's restart is seen later.

mod table;

#[cfg(test)]
mod tests;

use super::hls::life;
use super::hls::playlist::{Facts, Kind, Mistake, Playlist, Role};
use super::hls::reference::{self, Place};
use super::hls::rewind::Step;
use super::key::{self, Key};
use crate::observe::metrics::Counter;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::time::Duration;
use table::Table;
use tokio::time::Instant;

/// Of each zone this many streams are known.
const MOST_STREAMS: usize = 4096;

/// And of all of them together, at least so many resources.
const LEAST_RESOURCES: u64 = 65_536;

/// Bytes of `keys_zone` that one more resource takes, about.
const RESOURCE_SIZE: u64 = 128;

/// Where a playlist came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which stream it is: a hash of its key without delivery directives.
    pub stream: u128,
    /// The host that is a part of origins; empty where keys do not tell hosts apart.
    pub site: Bytes,
    /// The host that was asked for.
    pub host: Bytes,
    /// Path and query as the client sent them.
    pub target: Bytes,
}

/// Host and path by which a resource is known.
pub fn origin(site: &[u8], path: &[u8]) -> Bytes {
    [site, path].concat().into()
}

/// What a new version of a playlist comes to.
#[derive(Debug, Default)]
pub struct Effect {
    /// What to evict first from now on.
    pub left: Vec<Key>,
    /// What to remove.
    pub purge: Option<Purge>,
}

/// What is to be removed because its name may mean something else from now on.
#[derive(Debug, Default)]
pub struct Purge {
    /// The entries known to be concerned.
    pub keys: Vec<Key>,
    /// Hashes of the origins ([`hash`]) of all that is concerned, known or not.
    pub origins: HashSet<u128, key::AsIs>,
    /// The media sequence before, and now; `None` when nothing was rewound, but names were forgotten.
    pub rewound: Option<(u64, u64)>,
}

/// What is known of a resource or playlist, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// `master`, `media`, `segment`, `part`, `init` or `key`.
    pub kind: &'static str,
    /// The media sequence of a media playlist, the number of a segment.
    pub sequence: Option<u64>,
    /// The target duration of its stream.
    pub target: Option<Duration>,
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Counters {
    parsed: [Counter; Kind::ALL.len()],
    mistakes: [Counter; Mistake::ALL.len()],
    /// Media sequences that went back.
    pub rewinds: Counter,
    /// Those whose segments were not purged because others had been a moment ago.
    pub limited: Counter,
    /// Playlists that were older than one before.
    pub older: Counter,
    /// Entries that left a window.
    pub demoted: Counter,
    /// Entries removed because of a rewind.
    pub purged: Counter,
    /// Answers that nothing is there, whose lifetime was cut.
    pub absences: Counter,
    /// When somebody may be told again of what is no playlist.
    quiet_until: Mutex<Option<Instant>>,
}

impl Counters {
    /// Playlists of this kind that were read.
    pub fn parsed(&self, kind: Kind) -> u64 {
        self.parsed[kind as usize].get()
    }

    /// What looked like a playlist and was none for this reason.
    pub fn mistakes(&self, why: Mistake) -> u64 {
        self.mistakes[why as usize].get()
    }

    /// Whether an operator is to be told of one more: once a minute.
    pub fn may_complain(&self, now: Instant) -> bool {
        let mut quiet_until = self.quiet_until.lock();
        let may = quiet_until.is_none_or(|until| now >= until);
        if may {
            *quiet_until = Some(now + Duration::from_secs(60));
        }
        may
    }

    /// One more that was none.
    pub fn mistake(&self, why: Mistake) {
        self.mistakes[why as usize].inc();
    }
}

/// The streams of a zone.
pub struct Streams {
    /// What is counted.
    pub counters: Counters,
    table: RwLock<Table>,
}

/// The hash of an origin.
pub fn hash(origin: &[u8]) -> u128 {
    key::hash(origin)
}

impl Streams {
    /// No streams; `keys` is the size of `keys_zone` in bytes, from which bounds follow.
    pub fn new(keys: u64) -> Streams {
        let resources = usize::try_from((keys / RESOURCE_SIZE).max(LEAST_RESOURCES)).unwrap_or(usize::MAX);
        Streams::bounded(MOST_STREAMS, resources)
    }

    fn bounded(streams: usize, resources: usize) -> Streams {
        Streams { counters: Counters::default(), table: RwLock::new(Table::new(streams, resources)) }
    }

    /// Takes note of a playlist; `sequence` is the number of the zone's last fill.
    pub fn observe(&self, source: &Source, playlist: &Playlist, sequence: u64) -> Effect {
        self.counters.parsed[playlist.facts.kind as usize].inc();
        // Hashing is the most of the work, and needs no lock.
        let own = reference::resolve(&source.target, "").map(|place| origin(&source.site, &place.path));
        let mut directories = HashSet::default();
        let mut listed = Vec::with_capacity(playlist.listed.len());
        for item in &playlist.listed {
            let Some(Place { host, path }) = reference::resolve(&source.target, &item.uri) else { continue };
            let site = match &host {
                Some(host) if !source.site.is_empty() && host.as_bytes() != source.host => host.as_bytes(),
                _ => &source.site[..],
            };
            let origin = origin(site, &path);
            directories.insert(hash(directory(&origin)));
            listed.push((hash(&origin), item.number, item.role));
        }
        directories.extend(own.as_ref().map(|own| hash(directory(own))));
        let version = (playlist.facts, &listed[..]);
        let (step, effect) =
            self.table.write().observe(source.stream, version, &directories, sequence, Instant::now());
        match step {
            Step::Onward => {}
            Step::Older | Step::Unsure => self.counters.older.inc(),
            Step::Rewound => {
                self.counters.rewinds.inc();
                if effect.purge.as_ref().is_none_or(|purge| purge.rewound.is_none()) {
                    self.counters.limited.inc();
                }
            }
        }
        effect
    }

    /// An entry is kept under `key` for requests for `origin`.
    pub fn register(&self, origin: &[u8], key: &Key) -> Effect {
        // Playlists belong to no window.
        if origin.is_empty() || origin.ends_with(b".m3u8") {
            return Effect::default();
        }
        let directory = ancestors(origin).next().map(hash);
        self.table.write().register(hash(origin), directory, key)
    }

    /// Whether what the fill `sequence` brought from `origin` may be of an earlier run of an encoder that uses its
    /// names again.
    pub fn is_void(&self, origin: &[u8], sequence: u64) -> bool {
        !origin.is_empty() && self.table.read().is_void(hash(origin), sequence)
    }

    /// What the stream's last playlist said.
    pub fn facts(&self, stream: u128) -> Option<Facts> {
        self.table.read().facts(stream)
    }

    /// How long it may be remembered that there is nothing at `origin`.
    pub fn absence(&self, origin: &[u8]) -> Duration {
        let table = self.table.read();
        let known = table.stream_of(hash(origin)).or_else(|| {
            // The directory of the next hour is known by the one around it.
            ancestors(origin).find_map(|directory| table.stream_in(hash(directory)))
        });
        known.map_or(life::UNKNOWN_ABSENCE, |facts| life::of_absence(&facts))
    }

    /// What is known of the playlist of `stream`, if that is one, else of what is had from `origin`.
    pub fn describe(&self, stream: u128, origin: &[u8]) -> Option<Described> {
        let table = self.table.read();
        if let Some(facts) = table.facts(stream) {
            let media = facts.kind == Kind::Media;
            return Some(Described {
                kind: facts.kind.as_str(),
                sequence: media.then_some(facts.first),
                target: media.then_some(facts.target),
            });
        }
        let hash = hash(origin);
        let (role, number) = table.role_of(hash)?;
        Some(Described {
            kind: role.as_str(),
            sequence: matches!(role, Role::Segment | Role::Part).then_some(number),
            target: table.stream_of(hash).map(|facts| facts.target),
        })
    }

    /// Streams known, and resources.
    pub fn known(&self) -> (usize, usize) {
        self.table.read().known()
    }
}

/// The directory of an origin, with its last slash.
fn directory(origin: &[u8]) -> &[u8] {
    &origin[..origin.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1)]
}

/// The directories around an origin, the nearest first. Only so many: who asks chooses the path.
fn ancestors(origin: &[u8]) -> impl Iterator<Item = &[u8]> {
    const MOST: usize = 16;
    let mut at = origin;
    let next = move || {
        let found = directory(at);
        at = found.split_last().map_or(&[][..], |(_, rest)| rest);
        (!found.is_empty()).then_some(found)
    };
    std::iter::from_fn(next).take(MOST)
}
