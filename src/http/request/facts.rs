//! What a request came to, for another that is like it.

use super::{Captures, Request, Slot};
use crate::cache::CacheStatus;
use crate::conf::build::LevelId;
use crate::edge::Local;
use crate::http::head::Head;
use crate::http::phases::Gate;
use crate::http::request::{Conn, Downstream};
use bytes::Bytes;
use std::sync::Arc;

/// What was watched before a handler ran that decides each time.
pub struct Before {
    names: u64,
    kept: usize,
}

/// What the phases found out of a request: all that is read of it once it has been answered, but for what each
/// request has for itself (its connection, its head, its time).
#[derive(Clone)]
pub struct Facts {
    uri: Bytes,
    args: Bytes,
    has_uri: bool,
    has_args: bool,
    unparsed: Bytes,
    host: Bytes,
    /// The server, an index into `http().servers`.
    pub server: usize,
    /// The level.
    pub level: LevelId,
    internal: bool,
    pristine: bool,
    valid_location: bool,
    uri_below_alias: bool,
    proxy_target: Option<Arc<crate::modules::proxy::Target>>,
    cache_status: Option<CacheStatus>,
    /// Values of variables, by their indices: what was written, and what was computed before that changed.
    slots: Vec<(usize, Slot)>,
    captures: Captures,
}

impl Facts {
    /// Bytes of memory that the texts take.
    pub fn bytes(&self) -> usize {
        let slot = |(_, slot): &(usize, Slot)| match slot {
            Slot::Value(value) | Slot::Written(value) => size_of::<(usize, Slot)>() + value.len(),
            Slot::Unset | Slot::Absent | Slot::Busy => size_of::<(usize, Slot)>(),
        };
        let texts = [&self.uri, &self.args, &self.unparsed, &self.host, &self.captures.subject];
        texts.iter().map(|text| text.len()).sum::<usize>() + self.slots.iter().map(slot).sum::<usize>()
    }
}

impl Request {
    /// What it came to. The texts are copies, and hold nothing larger in memory.
    pub fn facts(&self) -> Facts {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let captures = self.captures.borrow();
        let slots = self.slots.borrow();
        let kept = slots.iter().enumerate().filter_map(|(at, slot)| match slot {
            Slot::Written(value) => Some((at, Slot::Written(own(value)))),
            Slot::Value(value) => Some((at, Slot::Value(own(value)))),
            Slot::Absent => Some((at, Slot::Absent)),
            Slot::Unset | Slot::Busy => None,
        });
        Facts {
            uri: own(&self.uri),
            args: own(&self.args),
            has_uri: self.has_uri,
            has_args: self.has_args,
            unparsed: own(&self.unparsed),
            host: own(&self.host),
            server: self.server,
            level: self.level,
            internal: self.internal,
            pristine: self.pristine,
            valid_location: self.valid_location,
            uri_below_alias: self.uri_below_alias,
            proxy_target: self.proxy_target.clone(),
            cache_status: self.cache_status,
            slots: kept.collect(),
            captures: Captures { subject: own(&captures.subject), groups: captures.groups.clone() },
        }
    }

    /// What was watched up to now, for [`Self::asks_again`].
    pub fn so_far(&self) -> Before {
        Before { names: self.head.reads.so_far(), kept: self.kept_values() }
    }

    /// A handler has decided that decides anew each time: what it read is no part of what the answer is made from.
    /// A value that it computed and that is kept for others would be, unseen; so that spoils it.
    pub fn asks_again(&self, gate: Gate, before: Before) {
        self.head.reads.put_back(before.names);
        self.watch.gate(gate);
        match self.kept_values() == before.kept {
            true => self.watch.clean(),
            false => self.watch.spoil(),
        }
    }

    /// How many variables have values that are kept.
    fn kept_values(&self) -> usize {
        self.slots.borrow().iter().filter(|slot| !matches!(slot, Slot::Unset)).count()
    }

    /// A request that came to the same.
    pub fn recalled(local: Arc<Local>, conn: Arc<Conn>, head: Head, facts: &Facts) -> Request {
        let mut rq = Request::new(local, conn, head, Downstream::None);
        rq.uri = facts.uri.clone();
        rq.args = facts.args.clone();
        (rq.has_uri, rq.has_args) = (facts.has_uri, facts.has_args);
        rq.unparsed = facts.unparsed.clone();
        rq.host = facts.host.clone();
        (rq.server, rq.level) = (facts.server, facts.level);
        (rq.internal, rq.pristine) = (facts.internal, facts.pristine);
        (rq.valid_location, rq.uri_below_alias) = (facts.valid_location, facts.uri_below_alias);
        rq.proxy_target = facts.proxy_target.clone();
        rq.cache_status = facts.cache_status;
        rq.keepalive = true;
        for (at, slot) in &facts.slots {
            rq.put_slot(*at, slot.clone());
        }
        rq.captures.replace(facts.captures.clone());
        rq
    }
}
