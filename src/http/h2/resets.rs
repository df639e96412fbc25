//! Tells a client that changes its mind from one that attacks.

use std::sync::atomic::{AtomicU32, Ordering};

/// Requests begun and then taken back by the client, less those carried through.
#[derive(Debug, Default)]
pub struct Resets(AtomicU32);

impl Resets {
    /// So many more taken back than carried through are an attack ("rapid reset").
    const MOST: u32 = 200;

    /// One was taken back.
    pub fn taken_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One was carried through.
    pub fn carried_through(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    /// Whether there are too many.
    pub fn is_attack(&self) -> bool {
        self.0.load(Ordering::Relaxed) > Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_forgiven_by_requests() {
        let resets = Resets::default();
        for _ in 0..1000 {
            resets.taken_back();
            resets.carried_through();
        }
        resets.carried_through();
        assert!(!resets.is_attack());
        (0..=Resets::MOST).for_each(|_| resets.taken_back());
        assert!(resets.is_attack());
    }
}
