//! The hit path: an answer that was given is given again, where nothing it was made from has changed.
//!
//! The first requests for something go the full way: phases, handlers, filters. One of them is *watched*: which
//! fields of its head are read, which variables, whether anything is done that has to be done each time (a limit
//! that counts, a line in the error log, a file that is looked for). If nothing was, its answer follows from its
//! line, its host, the fields that were read, and what it was made of (a kept response, a file); so the encoded
//! head of the answer is kept under these ([`memo`]). The next request that reads the same is answered with that
//! head and with what lies in memory *now*: the kept response or the file is looked up anew each time, with all
//! that belongs to it (freshness, purges, `open_file_cache_valid`), and must be the very same one. So a hit runs no
//! phases and makes no head, allocates nothing, and yet can be no other answer than the full way's.
//!
//! Whoever adds a variable, a handler or a filter need do nothing: unless it says that it is `pure`, a request that
//! meets it goes the full way. The tables are a worker's own, bounded, and gone with the generation.

pub mod glance;
pub mod memo;
pub mod names;
pub mod pool;
pub mod table;
#[cfg(test)]
mod tests;
pub mod watch;

use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::cache::zone::Zone;
use std::sync::{Arc, Weak};

/// What an answer is made of that lies ready in memory.
#[derive(Clone)]
pub enum Ready {
    /// Something; which was not asked.
    Unwatched,
    /// A file that an open-file cache may hold.
    File {
        /// Its path.
        path: Box<[u8]>,
        /// When it was changed: seconds since 1970.
        modified: u64,
        /// Its bytes.
        size: u64,
        /// Where its content lies in memory.
        place: usize,
    },
    /// A kept response.
    Entry {
        /// Where it is kept.
        zone: Arc<Zone>,
        /// Under what.
        key: Key,
        /// The very one.
        entry: Weak<Entry>,
    },
}
