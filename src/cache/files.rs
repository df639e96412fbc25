//! The open-file cache: descriptors, what is known of files, failures, the bytes of small ones.

use std::time::Duration;

/// A cache of open files.
pub struct FileCache {
    max: u64,
    inactive: Duration,
}

impl FileCache {
    /// A cache of at most `max` files, each forgotten when not used for `inactive`.
    pub fn new(max: u64, inactive: Duration) -> FileCache {
        FileCache { max, inactive }
    }

    /// The bounds: files, and how long an unused one stays.
    pub fn bounds(&self) -> (u64, Duration) {
        (self.max, self.inactive)
    }
}
