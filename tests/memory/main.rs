//! Small entries take what they are said to take; an hour of a hundred live streams, fast, takes no more
//! at its end than when the cache had become full. In a process of its own, with the server's allocator.
// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use edgewater::cache::counters::{Counters, Eviction};
use edgewater::cache::entry::{Entry, EntryBody, Meta, Times, pack_fields};
use edgewater::cache::freshness::Lifetime;
use edgewater::cache::key::Key;
use edgewater::cache::pack::Packer;
use edgewater::cache::pack::spare;
use edgewater::cache::store::Store;
use edgewater::http::response::Fields;
use std::sync::{Arc, Barrier};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BOUND: u64 = 128 << 20;
const STREAMS: usize = 100;
/// Two seconds each.
const SEGMENTS: usize = 1800;
const WORKERS: usize = 2;

/// Bytes of memory that the process has and that are no file's.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// An answer as it comes: its head and its body are parts of read buffers.
fn receive(key: &Key, length: usize) -> Arc<Entry> {
    let mut received = Vec::new();
    let mut left = length;
    while left > 0 {
        let buffer = Bytes::from(vec![7; 16 << 10]);
        received.push(buffer.slice(..left.min(buffer.len())));
        left -= received[received.len() - 1].len();
    }
    let mut fields = Fields::default();
    fields.add_static("Content-Type", "video/mp2t");
    fields.add_static("ETag", "\"5f1e-4e20\"");
    let mut packer = Packer::new(length);
    received.iter().for_each(|piece| packer.push(piece));
    Arc::new(Entry {
        key: key.text.clone(),
        status: 200,
        reason: Bytes::from_static(b"OK"),
        fields: pack_fields(&fields),
        body: EntryBody::Memory(packer.finish()),
        length: length as u64,
        vary: None,
        times: Times::new(Instant::now(), Lifetime::default()),
        failure: None,
        meta: Meta::default(),
    })
}

/// One worker's part of what happens in two seconds: new segments, their viewers, new playlists.
fn two_seconds(store: &Store, worker: usize, number: usize) {
    for stream in (worker..STREAMS).step_by(WORKERS) {
        let keep = |name: String, length| {
            let key = Key::new(Bytes::from(name));
            store.put(key.hash, receive(&key, length), false);
            assert!(store.get(&key).is_some());
        };
        // Streams of four qualities, whose segments are not all alike.
        let length = (8 << 10 << (stream % 4)) + (number * 7919 + stream * 104_729) % 8000;
        keep(format!("/live/{stream}/segment-{number}.ts"), length);
        keep(format!("/live/{stream}/index.m3u8"), 900 + number % 200);
        // Another's: what one worker received is used, and pushed out, by the other.
        let other = format!("/live/{}/segment-{}.ts", (stream + 1) % STREAMS, number.saturating_sub(1));
        store.get(&Key::new(Bytes::from(other)));
    }
}

/// What entries of all sizes are said to take is what they take: here most of it is not the body.
fn small_ones_are_weighed_right() {
    for (count, length) in [(60_000, 0), (40_000, 900), (20_000, 5000)] {
        let store = Store::new(4 << 30, &Arc::default());
        let before = resident();
        for n in 0..count {
            let key = Key::new(Bytes::from(format!("/articles/2026/{length}/a-rather-long-title-{n}.html")));
            store.put(key.hash, receive(&key, length), false);
        }
        let (taken, (_, said)) = (resident() - before, store.held());
        assert!(taken.abs_diff(said) <= said / 10, "{length}: {taken} taken, {said} said");
        // Freed memory would be taken by the next.
        std::mem::forget(store);
    }
}

/// Large bodies are pages of their own: they take what they are said to take, and are given back when no
/// other body has come for a second.
fn large_ones_are_weighed_right_and_given_back() {
    for (count, length) in [(300, 256 << 10), (100, (1 << 20) + 1), (20, 7_000_000)] {
        let store = Store::new(4 << 30, &Arc::default());
        let before = resident();
        let keys: Vec<_> = (0..count).map(|n| Key::new(Bytes::from(format!("/{length}/{n}.ts")))).collect();
        keys.iter().for_each(|key| store.put(key.hash, receive(key, length), false));
        let (taken, (_, said)) = (resident() - before, store.held());
        assert!(taken.abs_diff(said) <= said / 10, "{length}: {taken} taken, {said} said");
        keys[1..].iter().for_each(|key| drop(store.remove(key.hash)));
        // Two idle seconds of a server.
        (0..2).for_each(|_| spare::tend());
        let left = resident().saturating_sub(before);
        assert!(left <= store.held().1 + said / 10, "{length}: {left} left of {said}");
    }
}

#[test]
fn memory_is_honest_and_an_hour_of_live_streams_takes_no_more_than_its_first_minutes() {
    // One after the other: they share a process.
    small_ones_are_weighed_right();
    large_ones_are_weighed_right_and_given_back();
    let before = resident();
    let counters = Arc::new(Counters::default());
    let store = Store::new(BOUND, &counters);
    let barrier = Barrier::new(WORKERS);
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        let worker = |index: usize, mut sample: Box<dyn FnMut(usize) + Send>| {
            let (store, barrier) = (&store, &barrier);
            move || {
                for number in 0..SEGMENTS {
                    two_seconds(store, index, number);
                    barrier.wait();
                    sample(number);
                }
            }
        };
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(worker(0, Box::new(|_| {})));
        // Full after a minute and a half, and settled after three; then once in five minutes.
        let sample = move |number: usize| {
            if number >= 100 && (number - 100).is_multiple_of(150) {
                tell.send(resident()).unwrap();
            }
        };
        scope.spawn(worker(1, Box::new(sample)));
        samples.extend(told);
    });
    let (_, said) = store.held();
    assert!(said <= BOUND && said > BOUND - (1 << 20), "{said}");
    assert!(counters.evictions(Eviction::Size) > (STREAMS * SEGMENTS / 2) as u64);
    samples.iter_mut().for_each(|sample| *sample -= before);
    let (first, most) = (samples[0], samples.iter().copied().max().unwrap());
    assert!(most <= first + first / 10, "{samples:?}");
    // Segments of many sizes leave gaps; the allocator takes memory in large pages.
    assert!(most <= BOUND + BOUND / 3, "{samples:?}");
}
