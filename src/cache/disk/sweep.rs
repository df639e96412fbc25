//! For purging: every entry is looked at, and what is meant goes.

use super::clock::Clock;
use super::names::{self, Name};
use super::{Disk, description, format};
use crate::cache::entry::Entry;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often it is looked whether the index is complete.
const LOOK: Duration = Duration::from_millis(20);

impl Disk {
    /// Shows every entry on disk, and every one that is about to be written, and removes those that
    /// are `meant`; how many. What is shown has key, fields, times and meta, and no body. Waits for
    /// the disk, pauses as `purger_*` say, and waits until the loader has found all there is: for a thread that may
    /// take its time.
    pub fn sweep(&self, meant: &mut dyn FnMut(&Entry) -> bool) -> u64 {
        let mut removed = self.threads.queue.cancel_if(meant);
        // Whoever asked for the purge is not to wait for the pauses of `loader_sleep`.
        self.threads.signal.hurry();
        while !self.loaded.load(Ordering::Acquire) && self.started.load(Ordering::Acquire) {
            std::thread::sleep(LOOK);
        }
        // What is forgotten is still there until its turn comes, and would be if the process fell now.
        let mut names = self.threads.queue.removals();
        names.extend(self.index.lock().names());
        let pace = self.settings.load().purger;
        let (mut began, mut files) = (Instant::now(), 0);
        for name in names {
            removed += u64::from(self.remove_if(&name, meant));
            files += 1;
            if files >= pace.files.max(1) || began.elapsed() >= pace.threshold {
                std::thread::sleep(pace.sleep);
                (began, files) = (Instant::now(), 0);
            }
        }
        removed
    }

    fn remove_if(&self, name: &Name, meant: &mut dyn FnMut(&Entry) -> bool) -> bool {
        let path = self.settings.load().place.path_of(name);
        let locked = self.stripe(name);
        let described = names::open(&path).ok().and_then(|(file, size)| {
            let ends = format::read_ends(&file, size).ok()?;
            description::decode(ends.description, &Clock::now())
        });
        let meant = described.as_ref().is_some_and(|described| meant(&described.entry));
        // What cannot be read now, as there are too many files open, may be readable later and be meant.
        if meant || described.is_none() {
            self.index.lock().remove(name);
            let _ = std::fs::remove_file(&path);
        }
        drop(locked);
        meant
    }
}
