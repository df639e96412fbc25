//! What a request came to, for another that is like it.

use super::{Captures, Request, Slot};
use crate::cache::CacheStatus;
use crate::conf::build::LevelId;
use crate::edge::Local;
use crate::http::head::Head;
use crate::http::request::{Conn, Downstream};
use bytes::Bytes;
use std::sync::Arc;

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
    written: Vec<(usize, Bytes)>,
    captures: Captures,
}

impl Request {
    /// What it came to. The texts are copies, and hold nothing larger in memory.
    pub fn facts(&self) -> Facts {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let captures = self.captures.borrow();
        let slots = self.slots.borrow();
        let written = slots.iter().enumerate().filter_map(|(at, slot)| match slot {
            Slot::Written(value) => Some((at, own(value))),
            Slot::Unset | Slot::Value(_) | Slot::Absent | Slot::Busy => None,
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
            written: written.collect(),
            captures: Captures { subject: own(&captures.subject), groups: captures.groups.clone() },
        }
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
        for (at, value) in &facts.written {
            rq.put_slot(*at, Slot::Written(value.clone()));
        }
        rq.captures.replace(facts.captures.clone());
        rq
    }
}
