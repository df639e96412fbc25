//! A zone: the accounts of the keys, bounded, and the judgement of a request by several zones.

use super::account::{Account, NEVER, delay};
use crate::modules::limit_zone::declare::{room, slab};
use crate::modules::limit_zone::shards::{Entry, Place, Shards};
use crate::modules::limit_zone::table::{Slot, Table};
use crate::observe::metrics::Counter;
use smallvec::SmallVec;

/// Bytes of an entry in nginx, without its key.
const ENTRY: usize = 80;

/// A zone.
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Bytes, as configured.
    pub size: u64,
    /// The expression of its key, as written.
    pub key: String,
    /// What became of the requests that were counted here.
    pub results: Results,
    accounts: Shards<Account>,
}

/// Requests by what became of them.
#[derive(Default)]
pub struct Results {
    /// Passed at once.
    pub passed: Counter,
    /// Passed after a wait.
    pub delayed: Counter,
    /// Refused.
    pub rejected: Counter,
    /// Would have had to wait.
    pub delayed_dry_run: Counter,
    /// Would have been refused.
    pub rejected_dry_run: Counter,
}

enum Look {
    /// One more is more than the burst; what would be owed.
    Over(u64),
    /// Counted; what is owed.
    Counted(u64),
    /// There is room for one more; it is to be settled or released.
    Held(Entry),
    /// The zone has no room for the key.
    Full,
}

impl Zone {
    /// An empty zone of `size` bytes.
    pub fn new(name: &str, size: u64, key: &str) -> Zone {
        Zone {
            name: name.to_string(),
            size,
            key: key.to_string(),
            results: Results::default(),
            accounts: Shards::new(room(size, ENTRY), slab(ENTRY)),
        }
    }

    /// Keys that have an account.
    pub fn keys(&self) -> usize {
        self.accounts.len()
    }

    /// Looks whether `step` lets one more request through, and counts it at once if `count`.
    fn look(&self, step: &Step<'_>, now: u64, count: bool) -> Look {
        let place = self.accounts.place(step.key);
        let mut table = self.accounts.lock(place);
        if let Some(slot) = table.find(place.hash, step.key) {
            table.touch(slot);
            let account = table.get_mut(slot);
            let excess = account.with_one_more(step.rate, now);
            if excess > step.burst {
                return Look::Over(excess);
            }
            if count {
                account.count(excess, now);
                return Look::Counted(excess);
            }
            account.holds += 1;
            return Look::Held(Entry { place, slot });
        }
        if !self.make_room(&mut table, place, step, now) {
            return Look::Full;
        }
        let last = if count { now } else { NEVER };
        let account = Account { excess: 0, last, holds: u32::from(!count) };
        let slot = table.insert(place.hash, step.key, account);
        if count { Look::Counted(0) } else { Look::Held(Entry { place, slot }) }
    }

    /// Counts a request that looked before; what is owed.
    fn settle(&self, entry: Entry, rate: u64, now: u64) -> u64 {
        let mut table = self.accounts.lock(entry.place);
        let account = table.get_mut(entry.slot);
        let excess = account.with_one_more(rate, now);
        account.count(excess, now);
        account.holds -= 1;
        excess
    }

    /// Lets go of an entry without counting.
    fn release(&self, entry: Entry) {
        self.accounts.lock(entry.place).get_mut(entry.slot).holds -= 1;
    }

    /// Takes room for the step's key. As in nginx each new key pushes out up to two that owe
    /// nothing, and, when there is no room, the one that was not used for longest, whatever it owes.
    fn make_room(&self, table: &mut Table<Account>, place: Place, step: &Step<'_>, now: u64) -> bool {
        let bytes = cost(step.key);
        for _ in 0..2 {
            if !self.push_out(table, |account| account.is_idle(step.rate, now)) {
                break;
            }
        }
        while !self.accounts.take(bytes) {
            let pushed = self.push_out(table, |_| true)
                || self.accounts.elsewhere(place, |table| self.push_out(table, |_| true));
            if !pushed {
                return false;
            }
        }
        true
    }

    /// Removes the entry not used for longest, if nobody holds it and `may` agrees.
    fn push_out(&self, table: &mut Table<Account>, may: impl Fn(&Account) -> bool) -> bool {
        let fits = |slot: &Slot| {
            let account = table.get(*slot);
            account.holds == 0 && may(account)
        };
        let Some(slot) = table.oldest().filter(fits) else { return false };
        self.accounts.give(cost(table.key(slot)));
        table.remove(slot);
        true
    }
}

/// Bytes that nginx would need for the entry of a key.
fn cost(key: &[u8]) -> usize {
    slab(ENTRY + key.len())
}

/// A limit as it meets a request.
pub struct Step<'a> {
    /// Where it is counted.
    pub zone: &'a Zone,
    /// Thousandths of a request a second.
    pub rate: u64,
    /// Thousandths that may be owed.
    pub burst: u64,
    /// Thousandths that may be owed without a wait.
    pub delay: u64,
    /// The key, which is not empty.
    pub key: &'a [u8],
}

/// What the limits of a level say together.
#[derive(Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Let it pass.
    Pass,
    /// Let it wait.
    Delay {
        /// The step that says so.
        step: usize,
        /// Thousandths owed there.
        excess: u64,
        /// For so long.
        millis: u64,
    },
    /// Refuse it.
    Reject {
        /// The step that says so.
        step: usize,
        /// Thousandths that would be owed there.
        excess: u64,
    },
    /// Refuse it: a zone has no room.
    Full {
        /// The step that says so.
        step: usize,
    },
}

/// Judges a request by all limits of its level. It is counted in every zone or, when one refuses
/// it, in none.
pub fn judge(steps: &[Step<'_>], now: u64) -> Judgement {
    let Some(last) = steps.len().checked_sub(1) else { return Judgement::Pass };
    let mut held: SmallVec<[Entry; 4]> = SmallVec::new();
    let mut excess = 0;
    for (number, step) in steps.iter().enumerate() {
        let refusal = match step.zone.look(step, now, number == last) {
            Look::Held(entry) => {
                held.push(entry);
                continue;
            }
            Look::Counted(owed) => {
                excess = owed;
                continue;
            }
            Look::Over(excess) => Judgement::Reject { step: number, excess },
            Look::Full => Judgement::Full { step: number },
        };
        for (step, entry) in steps.iter().zip(held) {
            step.zone.release(entry);
        }
        return refusal;
    }
    // The longest wait counts; of equal ones the one of the later limit.
    let wait = |step: usize, excess: u64| delay(excess, steps[step].delay, steps[step].rate);
    let mut longest = (wait(last, excess), last, excess);
    for (number, entry) in held.into_iter().enumerate().rev() {
        let excess = steps[number].zone.settle(entry, steps[number].rate, now);
        let millis = wait(number, excess);
        if millis > longest.0 {
            longest = (millis, number, excess);
        }
    }
    match longest {
        (0, ..) => Judgement::Pass,
        (millis, step, excess) => Judgement::Delay { step, excess, millis },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: u64 = u64::MAX;

    fn zone(size: u64) -> Zone {
        Zone::new("z", size, "$x")
    }

    fn step<'a>(zone: &'a Zone, key: &'a [u8], rate: u64, burst: u64, delay: u64) -> Step<'a> {
        Step { zone, rate: rate * 1000, burst: burst * 1000, delay: delay.saturating_mul(1000), key }
    }

    #[test]
    fn a_burst_then_refusals_then_the_rate() {
        let zone = zone(1 << 20);
        let ask = |now| judge(&[step(&zone, b"k", 2, 3, ALL)], now);
        assert_eq!([ask(1), ask(1), ask(1), ask(1)], [const { Judgement::Pass }; 4]);
        assert_eq!(ask(1), Judgement::Reject { step: 0, excess: 4000 });
        assert_eq!(ask(500), Judgement::Reject { step: 0, excess: 3002 });
        assert_eq!(ask(501), Judgement::Pass);
        assert_eq!(ask(501), Judgement::Reject { step: 0, excess: 4000 });
    }

    #[test]
    fn a_burst_waits_unless_told_otherwise() {
        let zone = zone(1 << 20);
        let ask = || judge(&[step(&zone, b"k", 10, 3, 1)], 1);
        assert_eq!([ask(), ask()], [const { Judgement::Pass }; 2]);
        assert_eq!(ask(), Judgement::Delay { step: 0, excess: 2000, millis: 100 });
        assert_eq!(ask(), Judgement::Delay { step: 0, excess: 3000, millis: 200 });
        assert_eq!(ask(), Judgement::Reject { step: 0, excess: 4000 });
    }

    #[test]
    fn what_one_zone_refuses_no_zone_counts() {
        let (wide, narrow) = (zone(1 << 20), zone(1 << 20));
        let ask = |now| judge(&[step(&wide, b"k", 1, 5, ALL), step(&narrow, b"k", 1, 1, ALL)], now);
        assert_eq!([ask(1), ask(1)], [const { Judgement::Pass }; 2]);
        for _ in 0..10 {
            assert_eq!(ask(1), Judgement::Reject { step: 1, excess: 2000 });
        }
        // Two were counted in the wide zone: four more have room.
        let alone = |now| judge(&[step(&wide, b"k", 1, 5, ALL)], now);
        assert_eq!([alone(1), alone(1), alone(1), alone(1)], [const { Judgement::Pass }; 4]);
        assert_eq!(alone(1), Judgement::Reject { step: 0, excess: 6000 });
    }

    #[test]
    fn the_longest_wait_of_several_counts() {
        let (slow, fast) = (zone(1 << 20), zone(1 << 20));
        let ask = || judge(&[step(&slow, b"k", 1, 5, 0), step(&fast, b"k", 10, 5, 0)], 1);
        assert_eq!(ask(), Judgement::Pass);
        assert_eq!(ask(), Judgement::Delay { step: 0, excess: 1000, millis: 1000 });
    }

    #[test]
    fn a_full_zone_forgets_the_oldest() {
        let zone = zone(32 << 10);
        let room = room(32 << 10, ENTRY) / 128;
        for n in 0..10_000u32 {
            assert_eq!(judge(&[step(&zone, &n.to_be_bytes(), 1, 0, 0)], 1), Judgement::Pass);
            assert!(zone.keys() <= room, "{} keys", zone.keys());
        }
        assert_eq!(zone.keys(), room);
        // The newest are remembered, as many as there is room for.
        for n in (10_000 - room as u32..10_000).rev() {
            let judgement = judge(&[step(&zone, &n.to_be_bytes(), 1, 0, 0)], 1);
            assert_eq!(judgement, Judgement::Reject { step: 0, excess: 1000 }, "{n}");
        }
        assert_eq!(judge(&[step(&zone, &0u32.to_be_bytes(), 1, 0, 0)], 1), Judgement::Pass);
    }

    #[test]
    fn a_zone_whose_keys_are_all_in_use_is_full() {
        let zone = zone(32 << 10);
        let mut held = Vec::new();
        let full = (0..10_000u32).find(|n| {
            let key = n.to_be_bytes();
            match zone.look(&step(&zone, &key, 1, 0, 0), 1, false) {
                Look::Held(entry) => held.push(entry),
                Look::Full => return true,
                Look::Counted(_) | Look::Over(_) => panic!("a new key was counted"),
            }
            false
        });
        assert_eq!(full, Some((room(32 << 10, ENTRY) / 128) as u32));
        zone.release(held[0]);
        assert_eq!(judge(&[step(&zone, b"new", 1, 0, 0)], 1), Judgement::Pass);
        for entry in held.into_iter().skip(1) {
            zone.release(entry);
        }
        assert_eq!(zone.keys(), room(32 << 10, ENTRY) / 128);
    }

    #[test]
    fn idle_keys_go_as_new_ones_come() {
        let zone = zone(10 << 20);
        for n in 0..200u32 {
            judge(&[step(&zone, &n.to_be_bytes(), 1, 0, 0)], 1);
        }
        for n in 1_000..1_400u32 {
            judge(&[step(&zone, &n.to_be_bytes(), 1, 0, 0)], 70_000);
        }
        assert_eq!(zone.keys(), 400);
    }

    #[test]
    fn many_threads_lose_nothing() {
        let zone = zone(1 << 20);
        let other = Zone::new("y", 1 << 20, "$y");
        let passed = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let steps = [step(&zone, b"k", 1, 9_999, ALL), step(&other, b"k", 1, 99, ALL)];
                        if judge(&steps, 1) == Judgement::Pass {
                            passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 100);
        let slot = |zone: &Zone| {
            let place = zone.accounts.place(b"k");
            let table = zone.accounts.lock(place);
            *table.get(table.find(place.hash, b"k").unwrap())
        };
        assert_eq!(slot(&zone), Account { excess: 99_000, last: 1, holds: 0 });
        assert_eq!(slot(&other), Account { excess: 99_000, last: 1, holds: 0 });
    }

    proptest! {
        /// Several limits on one key pass what the narrowest of them alone would.
        #[test]
        fn the_narrowest_limit_decides(
            rate in 1u64..20,
            bursts in proptest::collection::vec(0u64..10, 1..4),
            gaps in proptest::collection::vec(0u64..500, 1..60),
        ) {
            let zones: Vec<Zone> = bursts.iter().map(|_| zone(1 << 20)).collect();
            let alone = zone(1 << 20);
            let narrowest = bursts.iter().copied().min().unwrap_or(0);
            let mut now = 1_000;
            for gap in gaps {
                now += gap;
                let steps: Vec<Step<'_>> =
                    zones.iter().zip(&bursts).map(|(zone, burst)| step(zone, b"k", rate, *burst, ALL)).collect();
                let together = judge(&steps, now) == Judgement::Pass;
                let single = judge(&[step(&alone, b"k", rate, narrowest, ALL)], now) == Judgement::Pass;
                prop_assert_eq!(together, single);
            }
        }

        #[test]
        fn the_room_is_never_exceeded(keys in proptest::collection::vec("[a-z]{1,300}", 1..400)) {
            let zone = zone(32 << 10);
            for (now, key) in keys.iter().enumerate() {
                judge(&[step(&zone, key.as_bytes(), 1, 0, 0)], 1 + now as u64 * 1_000);
                prop_assert!(zone.accounts.used() <= room(32 << 10, ENTRY));
            }
        }
    }
}
