//! The table behind [`super::Streams`]: one lock, held for as long as a version differs from the one before.

use super::{Effect, Purge};
use crate::cache::hls::playlist::{Facts, Kind, Role};
use crate::cache::hls::rewind::{self, Names, Step};
use crate::cache::key::{AsIs, Key};
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Of each resource at most so many entries are known: its variants. The newest stay.
const MOST_KEYS: usize = 8;

/// So many playlists are remembered that list a resource.
const MOST_LISTERS: usize = 16;

/// So many names of a stream are remembered for the day on which it rewinds.
const MOST_NAMES: usize = 32_768;

/// Of all streams together so many names, and listed resources, are remembered for each resource that is known.
const NAMES_EACH: usize = 32;

/// A version that may be an older copy is taken for a new beginning when so many in a row have gone on from
/// there: a copy that lags has caught up by then.
const PATIENCE: u32 = 4;

/// Between two purges of a stream pass at least so many target durations, and
const PURGE_TARGETS: u32 = 3;
/// at least this time.
const PURGE_PAUSE: Duration = Duration::from_secs(5);

/// What has not been heard of for so many target durations lists nothing any more.
const SILENCE: u32 = 8;

/// A listed resource: the hash of its origin, its number, what it is.
pub type Item = (u128, u64, Role);

type Map<T> = HashMap<u128, T, AsIs>;

pub struct Table {
    streams: Map<Stream>,
    resources: Map<Resource>,
    /// Which stream has something in a directory: the last that had.
    directories: Map<u128>,
    /// Of what came before this fill of the zone nothing is to be kept: by origin.
    voids: Map<u64>,
    /// Those, the oldest first.
    voided: VecDeque<u128>,
    /// Resources that no playlist lists, the longest first, with their tickets.
    unlisted: VecDeque<(u128, u64)>,
    tickets: u64,
    /// What all streams remember together: names, and what they list.
    remembered: usize,
    most_streams: usize,
    most_resources: usize,
}

struct Stream {
    facts: Facts,
    /// What its last version lists: numbers by hashes.
    listed: Map<u64>,
    /// What it lists or has listed, the oldest first.
    names: VecDeque<u128>,
    heard: Instant,
    /// How many versions in a row might be older copies, and the last of them.
    doubt: Option<(u32, Facts)>,
    /// No purge before then.
    quiet_until: Instant,
    /// Whether there is something to purge that had to wait.
    owed: Option<u64>,
    /// What was there before the last purge.
    before: Option<Facts>,
    /// What turned out to be a copy that stands still.
    frozen: Option<(u64, u64)>,
    /// Below this number names may be used for the second time: what came for them before this fill is void.
    again: Option<(u64, u64)>,
}

struct Resource {
    role: Role,
    number: u64,
    /// The stream that listed it last, or that has something beside it.
    stream: Option<u128>,
    /// Whether it was ever listed.
    named: bool,
    listers: SmallVec<[u128; 1]>,
    keys: SmallVec<[Key; 1]>,
    ticket: u64,
}

impl Table {
    pub fn new(most_streams: usize, most_resources: usize) -> Table {
        Table {
            streams: Map::default(),
            resources: Map::default(),
            directories: Map::default(),
            voids: Map::default(),
            voided: VecDeque::new(),
            unlisted: VecDeque::new(),
            tickets: 0,
            remembered: 0,
            most_streams,
            most_resources,
        }
    }

    pub fn known(&self) -> (usize, usize) {
        (self.streams.len(), self.resources.len())
    }

    pub fn facts(&self, stream: u128) -> Option<Facts> {
        self.streams.get(&stream).map(|stream| stream.facts)
    }

    pub fn role_of(&self, resource: u128) -> Option<(Role, u64)> {
        let resource = self.resources.get(&resource)?;
        resource.stream.map(|_| (resource.role, resource.number))
    }

    /// The facts of the stream that a resource belongs to.
    pub fn stream_of(&self, resource: u128) -> Option<Facts> {
        self.facts(self.resources.get(&resource)?.stream?)
    }

    /// The facts of a stream that has something in a directory.
    pub fn stream_in(&self, directory: u128) -> Option<Facts> {
        self.facts(*self.directories.get(&directory)?)
    }

    /// Whether what the fill `sequence` brought from `origin` may be of an earlier run of the encoder.
    pub fn is_void(&self, origin: u128, sequence: u64) -> bool {
        self.voids.get(&origin).is_some_and(|void| sequence <= *void)
    }

    /// Takes note of a version of a stream's playlist; `sequence` is the number of the zone's last fill.
    pub fn observe(
        &mut self,
        id: u128,
        (facts, items): (Facts, &[Item]),
        directories: &HashSet<u128, AsIs>,
        sequence: u64,
        now: Instant,
    ) -> (Step, Effect) {
        let mut effect = Effect::default();
        if !self.streams.contains_key(&id) {
            self.make_room(now);
        }
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(facts, now));
        let remembered = stream.remembered();
        let step = stream.step(&facts, items);
        stream.heard = now;
        if matches!(step, Step::Older | Step::Unsure) {
            return (step, effect);
        }
        let before = std::mem::replace(&mut stream.facts, facts);
        if step == Step::Rewound {
            stream.owed.get_or_insert(before.first);
        }
        if let Some(first) = stream.owed
            && now >= stream.quiet_until
        {
            stream.owed = None;
            stream.before = Some(before);
            stream.again = Some((before.next, sequence));
            stream.quiet_until = now + (facts.target * PURGE_TARGETS).max(PURGE_PAUSE);
            effect.purge = Some(self.purge(id, items, (first, facts.first), sequence));
        }
        self.relist(id, facts, items, now, &mut effect);
        if facts.kind == Kind::Media {
            self.note_directories(id, directories);
        }
        self.remembered -= remembered;
        self.remembered += self.streams.get(&id).map_or(0, Stream::remembered);
        self.forget_streams(id, now);
        self.forget_excess(&mut effect);
        (step, effect)
    }

    /// Where streams remember too much together, this one's names go, and then those streams that were not heard of
    /// for longest: who asks for one playlist in a thousand ways gets no more room by it.
    fn forget_streams(&mut self, id: u128, now: Instant) {
        let most = self.most_resources.saturating_mul(NAMES_EACH);
        if self.remembered > most
            && let Some(stream) = self.streams.get_mut(&id)
        {
            let before = stream.names.len();
            let listed = &stream.listed;
            stream.names.retain(|name| listed.contains_key(name));
            stream.names.shrink_to_fit();
            self.remembered -= before - stream.names.len();
        }
        while self.remembered > most && self.streams.len() > 1 {
            self.forget_stream(Some(id), now);
        }
    }

    /// What is to be removed of a stream that began anew: all it lists, has listed, and lists now.
    fn purge(&mut self, id: u128, items: &[Item], rewound: (u64, u64), sequence: u64) -> Purge {
        let names = self.streams.get_mut(&id).map(|stream| std::mem::take(&mut stream.names));
        let all = names.into_iter().flatten().chain(items.iter().map(|(hash, ..)| *hash));
        let origins: HashSet<u128, AsIs> = all.collect();
        let mut keys = Vec::new();
        for hash in &origins {
            if let Some(resource) = self.resources.get_mut(hash) {
                keys.extend(resource.keys.drain(..));
            }
            self.void(*hash, sequence);
        }
        Purge { keys, origins, rewound: Some(rewound) }
    }

    /// What came from `origin` before is void.
    fn void(&mut self, origin: u128, sequence: u64) {
        if self.voids.insert(origin, sequence).is_some() {
            return;
        }
        self.voided.push_back(origin);
        if self.voided.len() > self.most_resources
            && let Some(oldest) = self.voided.pop_front()
        {
            self.voids.remove(&oldest);
        }
    }

    /// Puts the resources of the new version in place of those of the last.
    fn relist(&mut self, id: u128, facts: Facts, items: &[Item], now: Instant, effect: &mut Effect) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut before = std::mem::take(&mut stream.listed);
        let mut after = Map::with_capacity_and_hasher(items.len(), AsIs);
        // What a delta update leaves out is still there.
        if facts.skipped > 0 {
            let left_out = facts.first..facts.first.saturating_add(facts.skipped);
            after
                .extend(before.iter().filter(|(_, number)| left_out.contains(number)).map(|(h, n)| (*h, *n)));
            after.keys().for_each(|hash| {
                before.remove(hash);
            });
        }
        let mut fresh = Vec::new();
        for (hash, number, role) in items {
            after.insert(*hash, *number);
            if before.remove(hash).is_none() {
                fresh.push((*hash, *number, *role));
            }
        }
        stream.names.extend(fresh.iter().map(|(hash, ..)| *hash));
        // The oldest name goes, unless it stands there all the time as that of an init segment does.
        for _ in 0..stream.names.len().saturating_sub(MOST_NAMES) {
            if let Some(hash) = stream.names.pop_front()
                && after.contains_key(&hash)
            {
                stream.names.push_back(hash);
            }
        }
        stream.listed = after;
        // The names of the earlier run that are not known any more are void as they come again: what is kept of
        // them on disk may be older than this process.
        let again = stream.again;
        stream.again = again.filter(|(number, _)| facts.next < *number);
        for (hash, number, role) in fresh {
            if let Some((_, sequence)) = again
                && !self.voids.contains_key(&hash)
            {
                self.void(hash, sequence);
                if let Some(resource) = self.resources.get_mut(&hash) {
                    let keys = resource.keys.drain(..);
                    effect.purge.get_or_insert_with(Purge::default).keys.extend(keys);
                }
            }
            if self.resources.len() >= self.most_resources && !self.resources.contains_key(&hash) {
                self.forget_one(effect);
            }
            if self.resources.len() < self.most_resources || self.resources.contains_key(&hash) {
                let resource = self.resources.entry(hash).or_insert_with(|| Resource::new(role, number));
                (resource.role, resource.number) = (role, number);
                (resource.stream, resource.named) = (Some(id), true);
                if !resource.listers.contains(&id) && resource.listers.len() < MOST_LISTERS {
                    resource.listers.push(id);
                }
            }
        }
        for hash in before.into_keys() {
            self.unlist(hash, id, now, effect);
        }
    }

    /// The stream `id` lists a resource no longer.
    fn unlist(&mut self, hash: u128, id: u128, now: Instant, effect: &mut Effect) {
        let Some(resource) = self.resources.get_mut(&hash) else { return };
        let streams = &self.streams;
        resource.listers.retain(|other| *other != id && streams.get(other).is_some_and(|s| s.is_heard(now)));
        if resource.listers.is_empty() {
            effect.left.extend(resource.keys.iter().cloned());
            self.tickets += 1;
            resource.ticket = self.tickets;
            self.unlisted.push_back((hash, self.tickets));
        }
    }

    /// An entry of a resource is kept under `key`. Of one that no playlist has listed yet the stream is known if
    /// its directory is.
    pub fn register(&mut self, hash: u128, directory: Option<u128>, key: &Key) -> Effect {
        let mut effect = Effect::default();
        if !self.resources.contains_key(&hash) {
            if self.resources.len() >= self.most_resources && !self.forget_one(&mut effect) {
                return effect;
            }
            let id = directory.and_then(|directory| self.directories.get(&directory).copied());
            let stream = id.and_then(|id| self.streams.get_mut(&id)).filter(|s| s.names.len() < MOST_NAMES);
            let number = stream.as_ref().map_or(0, |stream| stream.facts.next);
            let stream = stream.map(|stream| stream.names.push_back(hash)).and(id);
            self.remembered += usize::from(stream.is_some());
            self.tickets += 1;
            let ticket = self.tickets;
            self.resources.insert(hash, Resource { ticket, stream, ..Resource::new(Role::Segment, number) });
            self.unlisted.push_back((hash, ticket));
        }
        if let Some(resource) = self.resources.get_mut(&hash) {
            resource.keys.retain(|other| other.hash != key.hash);
            if resource.keys.len() == MOST_KEYS {
                resource.keys.remove(0);
            }
            resource.keys.push(key.clone());
        }
        self.forget_excess(&mut effect);
        effect
    }

    fn note_directories(&mut self, id: u128, directories: &HashSet<u128, AsIs>) {
        if self.directories.len() + directories.len() > self.most_resources {
            let streams = &self.streams;
            self.directories.retain(|_, stream| *stream != id && streams.contains_key(stream));
        }
        let room = self.most_resources.saturating_sub(self.directories.len());
        self.directories.extend(directories.iter().take(room).map(|directory| (*directory, id)));
    }

    /// Makes room for one more stream: the one not heard of for longest goes.
    fn make_room(&mut self, now: Instant) {
        if self.streams.len() < self.most_streams {
            return;
        }
        self.forget_stream(None, now);
    }

    /// Forgets the stream that was not heard of for longest, but not `other`.
    fn forget_stream(&mut self, other: Option<u128>, now: Instant) {
        let others = self.streams.iter().filter(|(id, _)| Some(**id) != other);
        let oldest = others.min_by_key(|(_, stream)| stream.heard).map(|(id, _)| *id);
        let Some((id, stream)) = oldest.and_then(|id| Some((id, self.streams.remove(&id)?))) else { return };
        self.remembered -= stream.remembered();
        for hash in stream.listed.into_keys() {
            // Nothing left its window: nobody looks at it.
            self.unlist(hash, id, now, &mut Effect::default());
        }
    }

    fn forget_excess(&mut self, effect: &mut Effect) {
        while self.resources.len() > self.most_resources {
            if !self.forget_one(effect) {
                break;
            }
        }
        // Those that were listed again since left their places in the queue.
        if self.unlisted.len() > 2 * self.most_resources {
            let resources = &self.resources;
            self.unlisted.retain(|(hash, ticket)| resources.get(hash).is_some_and(|r| r.ticket == *ticket));
        }
    }

    /// Forgets the resource that has been listed by nobody for longest. If it ever was, its entries go with it: were
    /// its name used again, nobody would know that they are old.
    fn forget_one(&mut self, effect: &mut Effect) -> bool {
        while let Some((hash, ticket)) = self.unlisted.pop_front() {
            let vacant = |resource: &Resource| resource.listers.is_empty() && resource.ticket == ticket;
            if self.resources.get(&hash).is_some_and(vacant)
                && let Some(resource) = self.resources.remove(&hash)
            {
                if resource.named && !resource.keys.is_empty() {
                    effect.purge.get_or_insert_with(Purge::default).keys.extend(resource.keys);
                }
                return true;
            }
        }
        false
    }
}

impl Stream {
    fn new(facts: Facts, now: Instant) -> Stream {
        Stream {
            facts,
            listed: Map::default(),
            names: VecDeque::new(),
            heard: now,
            doubt: None,
            quiet_until: now,
            owed: None,
            before: None,
            frozen: None,
            again: None,
        }
    }

    /// How much it remembers.
    fn remembered(&self) -> usize {
        self.names.len() + self.listed.len()
    }

    /// Whether its last version is recent enough to say what is in the window. What has ended stays as it is.
    fn is_heard(&self, now: Instant) -> bool {
        self.facts.ended || now < self.heard + self.facts.target * SILENCE
    }

    /// What a version is after those before it.
    fn step(&mut self, next: &Facts, items: &[Item]) -> Step {
        if self.facts.kind != Kind::Media || next.kind != Kind::Media {
            return Step::Onward;
        }
        match rewind::step(&self.facts, next, self.names(items)) {
            Step::Onward => {
                // It goes on where it was before it rewound: what it rewound to is a copy that stands still.
                if let Some(before) = self.before
                    && next.first > self.facts.next
                    && (before.first..=before.next.saturating_add(u64::from(PATIENCE))).contains(&next.first)
                {
                    self.frozen = Some((self.facts.first, self.facts.next));
                    self.before = None;
                }
                self.doubt = None;
                Step::Onward
            }
            Step::Rewound if self.frozen == Some((next.first, next.next)) => Step::Older,
            Step::Unsure => {
                let (times, last) = self.doubt.unwrap_or((0, *next));
                let goes_on = next.first >= last.first && next.next > last.next;
                let times = match times {
                    0 => 1,
                    n if goes_on => n + 1,
                    n if next.next == last.next => n,
                    _ => 1,
                };
                self.doubt = (times < PATIENCE).then_some((times, *next));
                if times < PATIENCE { Step::Unsure } else { Step::Rewound }
            }
            certain => {
                self.doubt = None;
                certain
            }
        }
    }

    /// How the names of a version go with the last one's.
    fn names(&self, items: &[Item]) -> Names {
        let segments = || items.iter().filter(|(_, _, role)| *role == Role::Segment);
        let mut met =
            segments().filter_map(|(hash, number, _)| Some((*self.listed.get(hash)?, *number))).peekable();
        if met.peek().is_some() {
            return if met.all(|(was, is)| was == is) { Names::Same } else { Names::Different };
        }
        // No name is in both; a number may be.
        let numbers = self.facts.first..self.facts.next;
        if segments().any(|(_, number, _)| numbers.contains(number)) {
            Names::Different
        } else {
            Names::Apart
        }
    }
}

impl Resource {
    fn new(role: Role, number: u64) -> Resource {
        let (listers, keys) = (SmallVec::new(), SmallVec::new());
        Resource { role, number, stream: None, named: false, listers, keys, ticket: 0 }
    }
}

#[cfg(test)]
impl Table {
    pub fn queued(&self) -> usize {
        self.unlisted.len()
    }

    /// What streams remember, counted anew, and as it is known.
    pub fn remembered(&self) -> (usize, usize) {
        (self.streams.values().map(Stream::remembered).sum(), self.remembered)
    }
}
