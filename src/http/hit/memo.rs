//! An answer that may be repeated: what it was made from, and its encoded head.

use super::glance::Glance;
use super::table::Mark;
use super::{Ready, names};
use crate::cache::CacheStatus;
use crate::cache::entry::Entry;
use crate::cache::pack::Packed;
use crate::cache::pack::pages::Lasting;
use crate::edge::Local;
use crate::http::body::Body;
use crate::http::head::{Head, HeadLimits, HeadScan, Method, Progress, Version};
use crate::http::listens::ListenAddr;
use crate::http::pace::Pace;
use crate::http::phases::Gate;
use crate::http::request::{Conn, Facts, Request, Sent};
use crate::http::response::{Fields, Modified, Response};
use crate::modules::ssl::Verify;
use crate::modules::static_files;
use bytes::Bytes;
use std::sync::Arc;
use tokio::time::Instant;

/// Bounds of what is remembered, bytes: of a target, of a value that was read, of the head of an answer.
const TARGET: usize = 2048;
const VALUE: usize = 512;
const HEAD: usize = 4096;

/// Where a client's connection arrives: what an answer may follow from besides the request itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Door {
    listen: Arc<ListenAddr>,
    tls: bool,
    server_name: Option<Arc<str>>,
}

impl Door {
    fn of(conn: &Conn) -> Door {
        Door {
            listen: conn.listen.clone(),
            tls: conn.tls.is_some(),
            server_name: conn.tls.as_ref().and_then(|tls| tls.server_name.clone()),
        }
    }

    fn is_of(&self, conn: &Conn) -> bool {
        let name = conn.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        (Arc::ptr_eq(&self.listen, &conn.listen) || self.listen == conn.listen)
            && self.tls == conn.tls.is_some()
            && self.server_name.as_deref() == name
    }
}

/// The encoded head of an answer, with the place where the date stands if it is ours to say.
pub struct Encoded {
    /// What stands before the date; all of it, where there is none.
    pub before: Box<[u8]>,
    /// Whether the date follows.
    pub dated: bool,
    /// What stands behind it.
    pub after: Box<[u8]>,
}

/// An answer that may be repeated.
pub struct Memo {
    door: Door,
    version: Version,
    host: Box<[u8]>,
    target: Box<[u8]>,
    /// The fields that were read, a bit each.
    read: u64,
    /// Those of them that were there, a bit each.
    present: u64,
    /// And their values.
    values: Box<[(u8, Box<[u8]>)]>,
    ready: Ready,
    /// Bytes of the body.
    length: u64,
    mark: Mark,
    /// The bounds that hold for heads where it arrives.
    limits: HeadLimits,
    /// The head.
    pub head: Encoded,
    /// The head of an answer in HTTP/2; `head` is empty then.
    pub h2: Option<crate::http::h2::KeptHead>,
    /// What the request came to.
    pub facts: Facts,
    /// Whether the requests are logged.
    pub logged: bool,
    /// What has to be asked about each of them, in order.
    pub gates: Box<[Gate]>,
    sent: Sent,
    upstream_fields: Option<Arc<Fields>>,
}

/// A body that lies in memory.
pub enum Content {
    /// In one piece.
    Bytes(Bytes),
    /// In several.
    Pieces(Packed),
    /// In pages of its own.
    Lasting(Lasting),
}

/// When what lies in memory was received, if it was kept: milliseconds since 1970.
pub struct Received(Option<u64>);

impl Content {
    /// As the body of a response.
    pub fn into_body(self) -> Body {
        match self {
            Content::Bytes(bytes) => bytes.into(),
            Content::Pieces(pieces) => Body::Kept(pieces, 0),
            Content::Lasting(whole) => Body::Lasting(whole),
        }
    }
}

impl Memo {
    /// Remembers the answer to a request that was watched; `None` where it may not be repeated, or is not worth it.
    /// `head` is the answer's as it was encoded, `date` where in it our date stands.
    pub fn of(
        mark: Mark,
        rq: &Request,
        response: &Response,
        head: &[u8],
        date: Option<usize>,
    ) -> Option<Memo> {
        let plain = *rq.loc().hit_path.on
            && rq.method == Method::Get
            && matches!(rq.head.version, Version::Http11 | Version::Http2)
            && rq.keepalive
            && rq.depth == 0
            && !rq.has_body
            && response.status == 200
            && !response.trailers
            && !response.close
            && !response.silent
            && response.tunnel.is_none()
            // Whose address stands in it depends on more.
            && response.fields.get("location").is_none()
            && response.fields.get("refresh").is_none();
        // Asked before it is seen what was read: a rate may depend on variables.
        let paced = Pace::of(rq, true).is_some();
        let ready = rq.ready.as_ref()?;
        let length = response.content_length()?;
        if !plain || paced || !rq.watch.is_clean() || !lies_there(ready, &response.body, length) {
            return None;
        }
        let path = match ready {
            Ready::File { path, .. } => Some(&path[..]),
            Ready::Entry { .. } | Ready::Unwatched => None,
        };
        if !rq.watch.is_all(rq.level, path) {
            return None;
        }
        let client = rq.conn.tls.as_ref().and_then(|tls| tls.client.as_ref());
        if client.is_some() || *rq.srv().ssl.verify_client != Verify::Off {
            return None;
        }
        let logged = crate::modules::log::is_logged(rq.loc());
        let names = |prefix: &str| rq.http().vars.iter().any(|var| var.name.starts_with(prefix));
        if logged && (names("cache_") || names("hls_")) {
            return None;
        }
        let mut sent = Sent {
            status: response.status,
            content_type: response.content_type.as_ref().map(own),
            length: Some(length),
            last_modified: response.last_modified.as_ref().map(Modified::own),
            etag: response.etag.as_ref().map(own),
            accept_ranges: response.accept_ranges,
            ..Sent::default()
        };
        if names("sent_http_") {
            sent.fields = own_fields(&response.fields);
        }
        let upstream_fields = rq
            .upstream_fields
            .as_ref()
            .filter(|_| logged && (names("upstream_http_") || names("upstream_cookie_")));
        let default = crate::edge::connection::bound(&rq.local, &rq.conn).names.default;
        let host = rq.head.get("host")?;
        let read = rq.head.reads.all_known()?;
        let mut values: Vec<(u8, Box<[u8]>)> = Vec::new();
        let mut present = 0;
        for number in (0..63).filter(|n| read & (1 << n) != 0) {
            if let Some(value) = rq.head.get(names::name(number)) {
                present |= 1 << number;
                values.push((number, Box::from(value)));
            }
        }
        if rq.head.target().len() > TARGET
            || head.len() > HEAD
            || values.iter().any(|(_, value)| value.len() > VALUE)
        {
            return None;
        }
        Some(Memo {
            door: Door::of(&rq.conn),
            version: rq.head.version,
            host: host.into(),
            target: rq.head.target().into(),
            read,
            present,
            values: values.into(),
            ready: ready.clone(),
            length,
            mark,
            limits: crate::http::h1::head_limits(&rq.http().servers[default].conf.core),
            head: Encoded::split(head, date),
            h2: None,
            facts: rq.facts(),
            logged,
            gates: rq.watch.gates(),
            sent,
            upstream_fields: upstream_fields.map(|fields| Arc::new(own_fields(fields))),
        })
    }

    /// Whether a request that looks like this reads the same.
    pub fn fits(&self, conn: &Conn, asked: &Glance<'_>) -> bool {
        asked.present & self.read == self.present
            && asked.version == self.version
            && asked.longest <= self.limits.line
            && asked.length <= self.limits.total
            && asked.fields <= self.limits.fields
            && *self.target == *asked.target
            && *self.host == *asked.host
            && self.values.iter().all(|(number, value)| {
                asked.values.iter().any(|field| *number == field.number && **value == *field.value)
            })
            && self.door.is_of(conn)
    }

    /// Whether it stands for the same requests as another.
    pub fn is_like(&self, other: &Memo) -> bool {
        self.read == other.read
            && self.version == other.version
            && self.values == other.values
            && self.target == other.target
            && self.host == other.host
            && self.door == other.door
    }

    /// The body as it lies in memory now; `None` when it is gone, old, or another one. Who gets it is counted by
    /// [`Self::count`].
    pub fn content(&self, local: &Local, now: Instant) -> Option<(Content, Received)> {
        match &self.ready {
            Ready::Unwatched => None,
            Ready::File { path, modified, size, .. } => {
                let level = &local.generation.http.levels[self.facts.level];
                let bytes = static_files::bytes_now(&level.conf, path, *modified, *size)?;
                Some((Content::Bytes(bytes), Received(None)))
            }
            Ready::Entry { zone, key, entry } => {
                let kept = zone.in_memory(key)?;
                if !std::ptr::eq(Arc::as_ptr(&kept), entry.as_ptr()) || !kept.is_fresh(now) {
                    return None;
                }
                Some((content_of(&kept)?, Received(Some(kept.meta.received))))
            }
        }
    }

    /// Counts a request that gets the answer.
    pub fn count(&self, local: &Local, received: &Received, now: Instant) {
        local.worker.metrics.connections.hits.inc();
        if let (Ready::Entry { zone, .. }, Received(Some(received))) = (&self.ready, received) {
            zone.counters.served(*received, now);
            zone.counters.request(CacheStatus::Hit);
        }
    }

    /// Bytes of memory that it takes, without what others hold as well.
    pub fn bytes(&self) -> usize {
        let fields =
            |fields: &Fields| fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        size_of::<Memo>()
            + self.host.len()
            + self.target.len()
            + self.values.iter().map(|value| size_of_val(value) + value.1.len()).sum::<usize>()
            + self.head.size()
            + self.h2.as_ref().map_or(0, crate::http::h2::KeptHead::bytes)
            + self.facts.bytes()
            + fields(&self.sent.fields)
            + self.upstream_fields.as_deref().map_or(0, fields)
    }

    /// Its request in the table, to be watched once more.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// A request like the one that was watched, as it is once it has been answered; `None` where `head` is none.
    /// It is read into `parsed`; `started` is when it came.
    pub fn request(
        &self,
        local: Arc<Local>,
        conn: Arc<Conn>,
        mut parsed: Head,
        head: &[u8],
        started: std::time::Instant,
    ) -> Option<Request> {
        let Ok(Progress::Done(length)) = parsed.read(head, &mut HeadScan::default(), &self.limits) else {
            return None;
        };
        let mut rq = self.recall(local, conn, parsed, started);
        rq.length = length as u64;
        Some(rq)
    }

    /// As [`Self::request`], of a head that was parsed.
    pub fn recall(
        &self,
        local: Arc<Local>,
        conn: Arc<Conn>,
        head: Head,
        started: std::time::Instant,
    ) -> Request {
        let mut rq = Request::recalled(local, conn, head, &self.facts);
        rq.started = started;
        rq.upstream_fields = self.upstream_fields.clone();
        rq.sent = Sent {
            status: self.sent.status,
            fields: self.sent.fields.clone(),
            content_type: self.sent.content_type.clone(),
            length: self.sent.length,
            last_modified: self.sent.last_modified.clone(),
            etag: self.sent.etag.clone(),
            accept_ranges: self.sent.accept_ranges,
            ..Sent::default()
        };
        rq
    }
}

impl Encoded {
    fn split(head: &[u8], date: Option<usize>) -> Encoded {
        match date.and_then(|at| Some((head.get(..at)?, head.get(at + DATE..)?))) {
            Some((before, after)) => Encoded { before: before.into(), dated: true, after: after.into() },
            None => Encoded { before: head.into(), dated: false, after: Box::default() },
        }
    }

    /// Bytes of it.
    pub fn size(&self) -> usize {
        self.before.len() + if self.dated { DATE } else { 0 } + self.after.len()
    }

    /// Appends it, as of now.
    pub fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before);
        if self.dated {
            crate::http::date::append_now(out);
            out.extend_from_slice(&self.after);
        }
    }
}

/// Bytes of a date, `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE: usize = 29;

/// Whether the body is the whole of what lies ready, and not something made of it.
fn lies_there(ready: &Ready, body: &Body, length: u64) -> bool {
    if body.known_length() != Some(length) {
        return false;
    }
    let Some(place) = place(body) else { return false };
    match ready {
        Ready::Unwatched => false,
        Ready::File { size, place: own, .. } => *size == length && (length == 0 || place == *own),
        Ready::Entry { entry, .. } => {
            let kept = entry.upgrade().and_then(|entry| content_of(&entry)).map(Content::into_body);
            kept.is_some_and(|kept| kept.known_length() == Some(length) && self::place(&kept) == Some(place))
        }
    }
}

/// Where a body that lies in memory begins, 0 for one that is empty; `None` for others and for parts.
fn place(body: &Body) -> Option<usize> {
    let first = match body {
        Body::Empty => None,
        Body::Bytes(bytes) => Some(bytes),
        Body::Kept(pieces, 0) => pieces.first(),
        Body::Lasting(whole) => Some(&**whole),
        Body::Kept(..) | Body::Pieces(_) | Body::Stream(_) => return None,
    };
    Some(first.map_or(0, |bytes| bytes.as_ptr() as usize))
}

fn content_of(entry: &Entry) -> Option<Content> {
    let pieces = entry.body.pieces()?;
    Some(match (pieces.lasting(), &**pieces) {
        (Some(whole), _) => Content::Lasting(whole),
        (None, []) => Content::Bytes(Bytes::new()),
        (None, [one]) => Content::Bytes(one.clone()),
        (None, _) => Content::Pieces(pieces.clone()),
    })
}

fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn own_fields(fields: &Fields) -> Fields {
    let mut copy = Fields::default();
    for (name, value) in fields.iter() {
        copy.add(own(name), own(value));
    }
    copy
}
