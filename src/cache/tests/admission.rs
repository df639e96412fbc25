//! Who stays when there is no room: live streams, crawlers and video on demand against the shelf, and
//! against what else it could be. The traces are made by a generator with a fixed seed; nothing here
//! depends on time.

use super::super::key::AsIs;
use super::super::shelf::Shelf;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Live,
    Crawler,
    Vod,
}

/// A request: when, by whom, for what.
type Asked = (f64, Who, u128);

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// At least 0, less than 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How long it takes until something happens that happens once in `mean` seconds.
    fn pause(&mut self, mean: f64) -> f64 {
        -(1.0 - self.share()).ln() * mean
    }
}

/// Seconds that a trace lasts.
const LENGTH: f64 = 30.0;

/// 100 streams with a new segment every two seconds; each is asked for by 20 viewers, on average four
/// seconds after it came, and then never again.
fn live(random: &mut Random, trace: &mut Vec<Asked>) {
    for stream in 0..100u128 {
        let mut at = random.share() * 2.0;
        let mut segment = 0;
        while at < LENGTH {
            for _ in 0..20 {
                trace.push((at + random.pause(4.0), Who::Live, spread(1, stream << 32 | segment)));
            }
            (at, segment) = (at + 2.0, segment + 1);
        }
    }
}

/// `rate` requests in a second, each for something that is never asked for again.
fn crawler(random: &mut Random, trace: &mut Vec<Asked>, rate: f64) {
    let (mut at, mut page) = (0.0, 0);
    while at < LENGTH {
        at += random.pause(1.0 / rate);
        page += 1;
        trace.push((at, Who::Crawler, spread(2, page)));
    }
}

/// 1,000 requests in a second for 20,000 titles, the n-th as often as 1 / n^0.9.
fn vod(random: &mut Random, trace: &mut Vec<Asked>) {
    let weights = (1..=20_000).map(|n| f64::from(n).powf(-0.9));
    let sums: Vec<f64> = weights.scan(0.0, |sum, w| (*sum += w, Some(*sum)).1).collect();
    let mut at = 0.0;
    while at < LENGTH {
        at += random.pause(0.001);
        let point = random.share() * sums[sums.len() - 1];
        trace.push((at, Who::Vod, spread(3, sums.partition_point(|sum| *sum < point) as u128)));
    }
}

/// A hash of a number; the same in each run.
fn spread(kind: u128, n: u128) -> u128 {
    (kind << 100 | n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).rotate_left(64)
}

/// What makes a part of a trace.
type Part<'a> = &'a dyn Fn(&mut Random, &mut Vec<Asked>);

fn trace(parts: &[Part]) -> Vec<Asked> {
    let (mut random, mut trace) = (Random(88_172_645_463_325_252), Vec::new());
    parts.iter().for_each(|part| part(&mut random, &mut trace));
    trace.sort_by(|a, b| a.0.total_cmp(&b.0));
    trace
}

/// The share of hits, by who asked, of a cache that says whether it had something and has it then.
fn ratios(trace: &[Asked], mut asks: impl FnMut(u128) -> bool) -> BTreeMap<Who, f64> {
    let mut counts: BTreeMap<Who, (u64, u64)> = BTreeMap::new();
    for (_, who, what) in trace {
        let (hits, all) = counts.entry(*who).or_default();
        *hits += u64::from(asks(*what));
        *all += 1;
    }
    counts.into_iter().map(|(who, (hits, all))| (who, hits as f64 / all as f64)).collect()
}

fn of_shelf(trace: &[Asked], room: u64) -> BTreeMap<Who, f64> {
    let shelf = Shelf::new(room);
    ratios(trace, |what| {
        let hit = shelf.get(what).is_some();
        if !hit {
            shelf.put(what, Arc::new(()), 1, false);
        }
        hit
    })
}

fn of_moka(trace: &[Asked], room: u64, policy: moka::policy::EvictionPolicy) -> BTreeMap<Who, f64> {
    let cache = moka::sync::Cache::builder().max_capacity(room).eviction_policy(policy);
    let cache: moka::sync::Cache<u128, (), AsIs> = cache.build_with_hasher(AsIs);
    ratios(trace, |what| {
        let hit = cache.get(&what).is_some();
        if !hit {
            cache.insert(what, ());
        }
        cache.run_pending_tasks();
        hit
    })
}

/// A window of a tenth under LRU before a main part under TinyLFU: W-TinyLFU.
fn of_windowed(trace: &[Asked], room: u64) -> BTreeMap<Who, f64> {
    let main = moka::sync::Cache::builder().max_capacity(room - room / 10);
    let main: moka::sync::Cache<u128, (), AsIs> = main.build_with_hasher(AsIs);
    let (mut order, mut places, mut n) = (BTreeMap::new(), HashMap::new(), 0u64);
    ratios(trace, |what| {
        n += 1;
        // moka's sketch counts this also where it is in the window or nowhere.
        let in_main = main.get(&what).is_some();
        let hit = in_main || places.contains_key(&what);
        if !in_main {
            if let Some(before) = places.insert(what, n) {
                order.remove(&before);
            }
            order.insert(n, what);
            if order.len() as u64 > room / 10
                && let Some((_, oldest)) = order.pop_first()
            {
                places.remove(&oldest);
                main.insert(oldest, ());
            }
        }
        main.run_pending_tasks();
        hit
    })
}

/// Belady's: what is asked for last goes first, and what is never asked for again is not kept.
fn optimum(trace: &[Asked], room: usize) -> BTreeMap<Who, f64> {
    let mut last = HashMap::new();
    let mut next: Vec<Option<usize>> =
        trace.iter().enumerate().rev().map(|(i, (_, _, what))| last.insert(*what, i)).collect();
    next.reverse();
    let (mut held, mut order, mut i) = (HashMap::new(), BTreeSet::new(), 0);
    ratios(trace, |what| {
        let before: Option<usize> = held.remove(&what);
        if let Some(at) = before {
            order.remove(&(at, what));
        }
        if let Some(at) = next[i] {
            held.insert(what, at);
            order.insert((at, what));
            if held.len() > room
                && let Some((_, latest)) = order.pop_last()
            {
                held.remove(&latest);
            }
        }
        i += 1;
        before.is_some()
    })
}

/// Room for the segments of 20 seconds.
const ROOM: u64 = 1000;

#[test]
fn a_crawler_costs_the_live_edge_little() {
    let alone = trace(&[&live]);
    let crawled = trace(&[&live, &|r, t| crawler(r, t, 5000.0)]);
    // Nineteen of twenty can be hits at most.
    let best = optimum(&crawled, ROOM as usize)[&Who::Live];
    assert!((0.949..=0.951).contains(&best), "{best}");
    let (quiet, hunted) = (of_shelf(&alone, ROOM)[&Who::Live], of_shelf(&crawled, ROOM)[&Who::Live]);
    assert!(quiet > best - 0.015, "{quiet} of {best} alone");
    assert!(hunted > quiet - 0.06, "{hunted} while crawled at five times the rate, {quiet} without");
    // At the same rate as the viewers it is half of that.
    let slow = trace(&[&live, &|r, t| crawler(r, t, 1000.0)]);
    let slowly = of_shelf(&slow, ROOM)[&Who::Live];
    assert!(slowly > quiet - 0.035, "{slowly} while crawled, {quiet} without");
    // What else it could be is flushed, or does not let new segments in.
    use moka::policy::EvictionPolicy;
    let lru = of_moka(&crawled, ROOM, EvictionPolicy::lru())[&Who::Live];
    assert!(lru < hunted - 0.4, "LRU: {lru}, the shelf {hunted}");
    let tiny = of_moka(&alone, ROOM, EvictionPolicy::tiny_lfu())[&Who::Live];
    assert!(tiny < quiet - 0.04, "TinyLFU without a crawler: {tiny}, the shelf {quiet}");
    let tiny = of_moka(&crawled, ROOM, EvictionPolicy::tiny_lfu())[&Who::Live];
    let windowed = of_windowed(&crawled, ROOM)[&Who::Live];
    assert!(tiny < hunted - 0.1 && windowed < hunted - 0.1, "{tiny}, {windowed}, the shelf {hunted}");
}

#[test]
fn what_is_popular_for_long_stays_as_well() {
    use moka::policy::EvictionPolicy;
    let alone = trace(&[&vod]);
    let (shelf, best) = (of_shelf(&alone, ROOM)[&Who::Vod], optimum(&alone, ROOM as usize)[&Who::Vod]);
    let tiny = of_moka(&alone, ROOM, EvictionPolicy::tiny_lfu())[&Who::Vod];
    let lru = of_moka(&alone, ROOM, EvictionPolicy::lru())[&Who::Vod];
    assert!(shelf > lru + 0.05, "LRU {lru}, the shelf {shelf}, the optimum {best}");
    assert!(shelf > tiny - 0.02, "TinyLFU {tiny}, the shelf {shelf}, the optimum {best}");
    assert!(shelf < best);
    let crawled = of_shelf(&trace(&[&vod, &|r, t| crawler(r, t, 5000.0)]), ROOM)[&Who::Vod];
    assert!(crawled > shelf - 0.07, "{crawled} while crawled, {shelf} without");
}

#[test]
fn live_streams_and_titles_share_the_room() {
    let all = trace(&[&live, &vod, &|r, t| crawler(r, t, 3000.0)]);
    let (shelf, lru) = (of_shelf(&all, 1500), of_moka(&all, 1500, moka::policy::EvictionPolicy::lru()));
    let windowed = of_windowed(&all, 1500);
    for who in [Who::Live, Who::Vod] {
        assert!(shelf[&who] > lru[&who] + 0.1, "{who:?}: LRU {}, the shelf {}", lru[&who], shelf[&who]);
        assert!(shelf[&who] > windowed[&who] + 0.02, "{who:?}: {} {}", windowed[&who], shelf[&who]);
    }
    assert!(shelf[&Who::Live] > 0.88, "{}", shelf[&Who::Live]);
}
