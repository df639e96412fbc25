//! What a worker has at hand of the open-file caches: the last answers it gave, under their paths. A hit takes no lock and
//! writes to no memory that another core reads.
//!
//! The cache itself decides what is held. An answer is taken from there again once a second, so that the cache knows what
//! is used, and what it let go goes here too.

use super::file_io::{Failure, Stat};
use super::files::{Content, Entry};
use crate::http::date;
use bytes::Bytes;
use foldhash::fast::RandomState;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// How long an answer is given without asking the cache, milliseconds.
const TOUCH: u64 = 1000;

/// Answers of one cache that a worker has at hand at most; they are dropped together.
const MOST: u64 = 4096;

/// Every so often, milliseconds, what was not used for as long is dropped, and its descriptor closed.
const SWEEP: u64 = 10_000;

/// The texts that an answer with a file needs, made once.
#[derive(Debug, PartialEq, Eq)]
pub struct Texts {
    /// `ETag` (ngx_http_set_etag).
    pub etag: Bytes,
    /// `Last-Modified`
    pub modified: Bytes,
    /// `Content-Length` of the whole.
    pub length: Bytes,
}

impl Texts {
    /// Those of a file.
    pub fn of(stat: &Stat) -> Texts {
        Texts {
            etag: format!("\"{:x}-{:x}\"", stat.mtime(), stat.size).into(),
            modified: Bytes::copy_from_slice(&date::text(stat.mtime())),
            length: stat.size.to_string().into(),
        }
    }
}

/// A cache and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The cache's number, which no other ever has.
    pub cache: u64,
    /// Its files.
    pub max: u64,
    /// Milliseconds after which it forgets what is not used.
    pub inactive: u64,
}

impl Bounds {
    fn touch(&self) -> u64 {
        TOUCH.min(self.inactive / 4)
    }
}

/// An answer: what was found, and of a file its content.
pub struct Answer {
    /// The cache's entry that it was taken from.
    pub entry: Arc<Entry>,
    /// What was found.
    pub found: Result<Stat, Failure>,
    /// The content, counted by this worker alone.
    pub content: Content,
    /// Made when they are needed for the first time.
    pub texts: Option<Arc<Texts>>,
    /// When the cache was asked for it.
    pub touched: u64,
}

/// The answers of one cache.
#[derive(Default)]
struct Table {
    inactive: u64,
    answers: HashMap<Box<[u8]>, Answer, RandomState>,
}

/// A worker's answers, of all caches.
#[derive(Default)]
struct Aside {
    tables: HashMap<u64, Table, RandomState>,
    swept: u64,
}

thread_local! {
    static ASIDE: RefCell<Aside> = RefCell::default();
}

/// What `give` makes of the answer for `path`, if there is one that the cache was asked for not long before `now`.
pub fn get<T>(
    bounds: &Bounds,
    path: &[u8],
    now: u64,
    give: impl FnOnce(&mut Answer) -> Option<T>,
) -> Option<T> {
    ASIDE.with_borrow_mut(|aside| {
        let answer = aside.tables.get_mut(&bounds.cache)?.answers.get_mut(path)?;
        if now.saturating_sub(answer.touched) < bounds.touch() { give(answer) } else { None }
    })
}

/// Has the cache's present `entry` for `path` at hand: the answer from it that is there already, or the one that `make`
/// makes; none where it makes none.
pub fn put(
    bounds: &Bounds,
    path: &[u8],
    now: u64,
    entry: &Arc<Entry>,
    make: impl FnOnce() -> Option<Answer>,
) {
    ASIDE.with_borrow_mut(|aside| {
        aside.sweep(now);
        if let Some(table) = aside.tables.get_mut(&bounds.cache)
            && let Some(answer) = table.answers.get_mut(path)
        {
            if Arc::ptr_eq(&answer.entry, entry) {
                answer.touched = now;
                return;
            }
            table.answers.remove(path);
        }
        let Some(answer) = make() else { return };
        let table = aside.tables.entry(bounds.cache).or_default();
        table.inactive = bounds.inactive;
        if table.answers.len() as u64 >= bounds.max.min(MOST) {
            table.answers.clear();
        }
        table.answers.insert(path.into(), answer);
    });
}

/// Drops the answer for `path`.
pub fn remove(bounds: &Bounds, path: &[u8]) {
    ASIDE.with_borrow_mut(|aside| {
        if let Some(table) = aside.tables.get_mut(&bounds.cache) {
            table.answers.remove(path);
        }
    });
}

impl Aside {
    /// Drops what was not used for long, that of caches too that are gone.
    fn sweep(&mut self, now: u64) {
        if now.saturating_sub(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        self.tables.retain(|_, table| {
            let idle = SWEEP.min(table.inactive);
            table.answers.retain(|_, answer| now.saturating_sub(answer.touched) < idle);
            !table.answers.is_empty()
        });
    }
}
