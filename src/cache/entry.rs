//! A response that is kept: whole, and with the times at which it gets old.

use super::disk::FileBlocks;
use super::freshness::Lifetime;
use super::key::HEAD;
use super::pack::Packed;
use super::seen::{Source, Tier};
use super::vary::Vary;
use crate::http::body::Body;
use crate::http::date;
use crate::http::head::Head;
use crate::http::response::Fields;
use crate::upstream::{Answer, Failure, FailureKind};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What an entry costs beside its texts: structures, the map's and the lists' share.
const OVERHEAD: usize = 736;

/// The field of an answer to HEAD that is kept for its value.
const LENGTH: &str = "Content-Length";

/// The longest entity tag that an upstream is asked with (NGX_HTTP_CACHE_ETAG_LEN).
const LONGEST_TAG: usize = 128;

/// A kept response.
#[derive(Debug)]
pub struct Entry {
    /// The text of its key.
    pub key: Bytes,
    /// Its status.
    pub status: u16,
    /// The reason phrase.
    pub reason: Bytes,
    /// What the upstream sent, but for the connection's own fields.
    pub fields: Fields,
    /// Its body.
    pub body: EntryBody,
    /// Bytes of the body.
    pub length: u64,
    /// What it varies by.
    pub vary: Option<Vary>,
    /// When it gets old.
    pub times: Times,
    /// Why there was no answer: such an entry is a 502 or 504 of our own making, and has no fields
    /// and no body.
    pub failure: Option<FailureKind>,
    /// Where and when it came from.
    pub meta: Meta,
}

/// A kept body.
#[derive(Clone, Debug)]
pub enum EntryBody {
    /// In pieces, [packed](super::pack).
    Memory(Packed),
    /// In a file of the zone's directory: it is too large for memory.
    File(Arc<FileBlocks>),
}

impl Default for EntryBody {
    fn default() -> EntryBody {
        EntryBody::Memory(Packed::default())
    }
}

impl EntryBody {
    /// All of it, to be read from its beginning.
    fn read(&self) -> Body {
        match self {
            EntryBody::Memory(pieces) => match (pieces.lasting(), &**pieces) {
                (Some(whole), _) => Body::Lasting(whole),
                (None, []) => Body::Empty,
                (None, [one]) => Body::Bytes(one.clone()),
                (None, _) => Body::Kept(pieces.clone(), 0),
            },
            EntryBody::File(blocks) => blocks.read(0..blocks.length()),
        }
    }

    /// Its pieces, where it is in memory.
    pub fn pieces(&self) -> Option<&Packed> {
        match self {
            EntryBody::Memory(pieces) => Some(pieces),
            EntryBody::File(_) => None,
        }
    }

    /// Whether it is the very same, and not only alike.
    pub fn is_same(&self, other: &EntryBody) -> bool {
        match (self, other) {
            (EntryBody::Memory(one), EntryBody::Memory(other)) => {
                let place = |piece: &Bytes| (piece.as_ptr(), piece.len());
                one.len() == other.len() && one.iter().zip(other.iter()).all(|(a, b)| place(a) == place(b))
            }
            (EntryBody::File(one), EntryBody::File(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether nothing was found wrong with it.
    fn is_sound(&self) -> bool {
        match self {
            EntryBody::Memory(_) => true,
            EntryBody::File(blocks) => blocks.is_sound(),
        }
    }

    /// Bytes of memory it takes, structures included.
    fn size(&self) -> usize {
        match self {
            EntryBody::Memory(pieces) => pieces.weight(),
            EntryBody::File(blocks) => blocks.size(),
        }
    }
}

/// What is known of an entry beside the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// When its head was received or last confirmed: milliseconds since 1970, by this machine's clock.
    pub received: u64,
    /// How old it was by then (RFC 9111, 4.2.3).
    pub initial_age: Duration,
    /// The number of its fill in this zone; what was purged later does not come back.
    pub sequence: u64,
    /// Of a main entry: the number of the first of those that followed each other under this key.
    /// Variants from before it are not its own: the main entry from then was purged.
    pub family: u64,
    /// Host and path of the request that brought it, where a live stream is known; else empty.
    pub origin: Bytes,
}

/// When an entry gets old.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Stale from then on.
    pub fresh_until: Instant,
    /// Servable until then while it is updated, whatever `proxy_cache_use_stale` says.
    pub updating_until: Instant,
    /// Servable until then when the upstream fails, whatever `proxy_cache_use_stale` says.
    pub error_until: Instant,
}

impl Times {
    /// The times of what lives for `lifetime` from `now` on.
    pub fn new(now: Instant, lifetime: Lifetime) -> Times {
        let fresh_until = now + lifetime.fresh;
        Times {
            fresh_until,
            updating_until: fresh_until + lifetime.updating,
            error_until: fresh_until + lifetime.error,
        }
    }
}

/// What a kept response is asked for again with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// For `If-None-Match`.
    pub etag: Option<Bytes>,
    /// For `If-Modified-Since`.
    pub last_modified: Option<Bytes>,
}

impl Entry {
    /// A failure that is kept for `fresh`.
    pub fn failure(key: Bytes, failure: &Failure, now: Instant, fresh: Duration) -> Entry {
        Entry {
            key,
            status: failure.status,
            reason: Bytes::new(),
            fields: Fields::default(),
            body: EntryBody::default(),
            length: 0,
            vary: None,
            times: Times::new(now, Lifetime { fresh, ..Lifetime::default() }),
            failure: Some(failure.kind),
            meta: Meta::default(),
        }
    }

    /// Whether it may be served with nothing else asked.
    pub fn is_fresh(&self, now: Instant) -> bool {
        now < self.times.fresh_until
    }

    /// Whether nothing was found wrong with it; else it is as good as gone.
    pub fn is_sound(&self) -> bool {
        self.body.is_sound()
    }

    /// Whether it holds a file open.
    pub fn holds_file(&self) -> bool {
        matches!(self.body, EntryBody::File(_))
    }

    /// Whether it is the variant for the request `asked` of a main entry of this `family`.
    pub fn is_variant(&self, family: u64, asked: &Head) -> bool {
        self.meta.sequence >= family && self.vary.as_ref().is_none_or(|vary| vary.suits(asked))
    }

    /// What to ask for it again with, if it has anything.
    pub fn validators(&self) -> Option<Validators> {
        // What is not one says nothing to an upstream either; so much of an entity tag nginx keeps.
        let own = |name| self.fields.get(name).cloned();
        let validators = Validators {
            etag: own("etag").filter(|tag| (1..=LONGEST_TAG).contains(&tag.len())),
            last_modified: own("last-modified").filter(|time| date::parse_http_date(time).is_some()),
        };
        (self.status == 200 && validators != Validators::default()).then_some(validators)
    }

    /// The same response with other times.
    pub fn refreshed(&self, times: Times) -> Entry {
        Entry {
            key: self.key.clone(),
            status: self.status,
            reason: self.reason.clone(),
            fields: self.fields.clone(),
            body: self.body.clone(),
            length: self.length,
            vary: self.vary.clone(),
            times,
            failure: self.failure,
            meta: self.meta.clone(),
        }
    }

    /// The response, or the failure, as if it came from the upstream now.
    pub fn answer(&self) -> Result<Answer, Failure> {
        if let Some(kind) = self.failure {
            let message = "the upstream failed a short while ago".to_string();
            return Err(Failure { status: self.status, kind, message, attempts: Vec::new() });
        }
        let (fields, length) = match self.key.ends_with(HEAD) {
            true => self.without_body(),
            false => (self.fields.clone(), Some(self.length)),
        };
        Ok(Answer {
            status: self.status,
            reason: self.reason.clone(),
            fields,
            length,
            body: self.body.read(),
            ranges: takes_ranges(&self.fields),
            kept: true,
            source: self.source(),
            tunnel: None,
            attempts: Vec::new(),
        })
    }

    /// The upstream has said how long the body is that an answer to HEAD does not have. Of other entries that
    /// is known; so here alone the field is one of those that are kept.
    pub fn state_length(&mut self, length: u64) {
        self.fields.set(LENGTH, length.to_string());
    }

    /// The fields of an answer to HEAD, and the length that they state.
    fn without_body(&self) -> (Fields, Option<u64>) {
        let mut fields = self.fields.clone();
        let length = fields.get("content-length").and_then(|n| std::str::from_utf8(n).ok()?.parse().ok());
        fields.remove("content-length");
        (fields, length)
    }

    fn source(&self) -> Source {
        Source {
            tier: match self.body {
                EntryBody::Memory(_) => Tier::Memory,
                EntryBody::File(_) => Tier::Disk,
            },
            fresh_until: Some(self.times.fresh_until),
            received: self.meta.received,
            initial_age: self.meta.initial_age,
            ..Source::default()
        }
    }

    /// Bytes of memory it takes, about, and rather more than less.
    pub fn weight(&self) -> u64 {
        let body = self.body.size();
        // Each field is two handles besides its text.
        let fields = self.fields.size() + self.fields.len() * 2 * size_of::<Bytes>();
        let vary = self.vary.as_ref().map_or(0, Vary::size);
        (body + fields + vary + self.key.len() + OVERHEAD) as u64
    }
}

/// Whether ranges may be cut from a kept answer: as in nginx, where the upstream says that it can do
/// it itself.
pub fn takes_ranges(fields: &Fields) -> bool {
    fields.get("accept-ranges").is_some()
}

/// The same fields in one stretch of memory that holds nothing else. As received they are parts of
/// a read buffer, which they would keep from being freed.
pub fn pack_fields(fields: &Fields) -> Fields {
    let mut text = BytesMut::with_capacity(fields.iter().map(|(n, v)| n.len() + v.len()).sum());
    for (name, value) in fields.iter() {
        text.extend_from_slice(name);
        text.extend_from_slice(value);
    }
    let mut text = text.freeze();
    let mut packed = Fields::default();
    for (name, value) in fields.iter() {
        let name = text.split_to(name.len());
        packed.add(name, text.split_to(value.len()));
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_fields_are_the_same_fields() {
        let mut fields = Fields::default();
        fields.add_static("Content-Type", "text/plain");
        fields.add_static("X-Empty", "");
        fields.add_static("ETag", "\"1\"");
        let packed = pack_fields(&fields);
        let list = |f: &Fields| f.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>();
        assert_eq!(list(&packed), list(&fields));
        assert!(pack_fields(&Fields::default()).is_empty());
    }
}
