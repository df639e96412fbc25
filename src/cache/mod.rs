//! What is kept in memory: responses of upstreams, open files.
//!
//! The response cache, from the inside out: a [`key`] names a response and a [`vary`] its variant;
//! [`freshness`] says whether it is kept and how long it lives, of what [`cache_control`] reads;
//! [`stale`] when it is served after that, [`update`] what a 304 makes of it, [`wishes`] what a client
//! may ask for; an [`entry`] is one that is whole, the [`store`] keeps entries in bounds, on a
//! [`shelf`] that knows which go first; a [`fill`] is one that still grows, with its readers; a
//! [`filler`] is the task
//! that asks the upstream and makes the fill grow; a [`zone`] is all of this under a name; [`serve`]
//! is the way of one request through it. Nothing here knows of a configuration file or of a socket.

mod aside;
pub mod cache_control;
mod codings;
pub mod counters;
pub mod disk;
pub mod entry;
pub mod file_body;
pub mod file_io;
pub mod files;
pub mod fill;
pub mod filler;
pub mod freshness;
mod freshness_nginx;
mod freshness_rfc;
pub mod hls;
pub mod key;
pub mod links;
pub mod memory;
pub mod pack;
pub mod passed;
pub mod policy;
pub mod pump;
pub mod purge;
pub mod reader;
pub mod seen;
pub mod serve;
pub mod shelf;
pub mod spill;
pub mod stale;
pub mod store;
pub mod streams;
pub mod update;
pub mod variants;
pub mod vary;
pub mod wishes;
pub mod zone;

#[cfg(test)]
mod tests;

/// How the cache answered (`$upstream_cache_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CacheStatus {
    Miss,
    Bypass,
    Expired,
    Stale,
    Updating,
    Revalidated,
    Hit,
}

impl CacheStatus {
    /// All of them, in the order of their numbers.
    pub const ALL: [CacheStatus; 7] = [
        CacheStatus::Miss,
        CacheStatus::Bypass,
        CacheStatus::Expired,
        CacheStatus::Stale,
        CacheStatus::Updating,
        CacheStatus::Revalidated,
        CacheStatus::Hit,
    ];

    /// nginx's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheStatus::Miss => "MISS",
            CacheStatus::Bypass => "BYPASS",
            CacheStatus::Expired => "EXPIRED",
            CacheStatus::Stale => "STALE",
            CacheStatus::Updating => "UPDATING",
            CacheStatus::Revalidated => "REVALIDATED",
            CacheStatus::Hit => "HIT",
        }
    }
}
