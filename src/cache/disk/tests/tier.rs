//! A zone with its disk: what is written when, found again, and removed.

use super::*;

#[tokio::test]
async fn what_is_kept_is_written_and_found_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (key("/a"), key("/b"));
    let one = zone(&disk(dir.path(), |_| {}), 1 << 20);
    one.keep(&a, Arc::new(entry(&a, pattern(1000))));
    one.keep(&b, Arc::new(entry(&b, pattern(1001))));
    one.forget(&b);
    one.disk.as_ref().unwrap().finish();
    drop(one);
    let two = zone(&disk(dir.path(), |_| {}), 1 << 20);
    assert!(two.store.get(&a).is_none());
    // However many ask, it is read once.
    let asked: Vec<_> = (0..50).map(|_| two.recall(&a)).collect();
    for found in futures_util::future::join_all(asked).await {
        assert_eq!(body_of(&found.unwrap()).await.unwrap(), pattern(1000));
    }
    assert_eq!(two.counters.disk.reads.get(), 1);
    assert!(two.store.get(&a).is_some(), "it is in memory from then on");
    assert!(two.recall(&b).await.is_none(), "what was forgotten is gone");
}

#[tokio::test]
async fn a_zone_whose_index_is_complete_does_not_ask_the_disk_for_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 1 << 20);
    until("it is loaded", || disk.loaded.load(Ordering::Acquire));
    assert!(!disk.may_have(&key("/a").name()));
    zone.keep(&key("/a"), Arc::new(entry(&key("/a"), pattern(5))));
    until("it is written", || disk.may_have(&key("/a").name()));
}

#[tokio::test]
async fn what_is_soon_out_of_date_does_not_leave_a_file_that_is_fresh_for_longer() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 1 << 20);
    until("it is loaded", || disk.loaded.load(Ordering::Acquire));
    let key = key("/a");
    let keep = |length: usize, fresh: u64| {
        let lifetime = Lifetime { fresh: Duration::from_secs(fresh), ..Lifetime::default() };
        let times = Times::new(tokio::time::Instant::now(), lifetime);
        zone.keep(&key, Arc::new(Entry { times, ..entry(&key, pattern(length)) }));
    };
    let written = |length: u64| read(&disk, &key).is_some_and(|entry| entry.length == length);
    keep(1, 3600);
    until("it is written", || written(1));
    keep(2, 5);
    until("it is written in its place", || written(2));
    // This one may wait for the next.
    keep(3, 8);
    assert!(disk.waiting(&key).is_some());
    zone.store.remove(key.hash);
    keep(4, 5);
    until("nobody knows how long the file would be fresh", || written(4));
}

#[tokio::test]
async fn what_memory_has_no_room_for_is_found_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 256 << 10);
    let keys: Vec<Key> = (0..100).map(|n| key(&format!("/{n}"))).collect();
    for (n, key) in keys.iter().enumerate() {
        zone.keep(key, Arc::new(entry(key, pattern(10_000 + n))));
    }
    until("all is written", || disk.held().0 == 100);
    assert!(zone.store.held().0 < 30);
    for (n, key) in keys.iter().enumerate() {
        let found = match zone.store.get(key) {
            Some(found) => found,
            None => zone.recall(key).await.unwrap(),
        };
        assert_eq!(body_of(&found).await.unwrap(), pattern(10_000 + n));
    }
    assert!(zone.store.held().1 <= 256 << 10);
}

#[tokio::test]
async fn what_waits_is_bounded_and_only_the_newest_waits() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |s| s.pending = 50_000);
    let keys: Vec<Key> = (0..10).map(|n| key(&format!("/{n}"))).collect();
    // Nothing is written yet: the threads do not run.
    for key in &keys {
        disk.write(key, Act::Store(Arc::new(entry(key, pattern(10_000)))));
    }
    assert!(disk.waiting_bytes() <= 100_000, "{}", disk.waiting_bytes());
    let dropped = disk.counters.disk.dropped.get();
    assert!((5..8).contains(&dropped), "{dropped}");
    let newest = |n: usize| Arc::new(entry(&keys[0], pattern(n)));
    (0..20).for_each(|n| disk.write(&keys[0], Act::Store(newest(n))));
    assert!(matches!(disk.waiting(&keys[0]), Some(Act::Store(entry)) if entry.length == 19));
    assert!(matches!(disk.waiting(&keys[9]), Some(Act::Remove)), "an older file is not the newest");
    let zone = zone(&disk, 1 << 20);
    disk.finish();
    assert_eq!(zone.recall(&keys[0]).await.unwrap().length, 19);
    assert!(zone.recall(&keys[9]).await.is_none());
}

/// Times that end so many seconds from now.
fn refreshed(one: &Entry, seconds: u64) -> Entry {
    let lifetime = Lifetime { fresh: Duration::from_secs(seconds), ..Lifetime::default() };
    one.refreshed(Times::new(tokio::time::Instant::now(), lifetime))
}

fn left(entry: &Entry) -> u64 {
    (entry.times.fresh_until - tokio::time::Instant::now()).as_secs()
}

#[tokio::test]
async fn a_confirmed_entry_is_described_anew_and_its_body_stays() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 1 << 20);
    let key = key("/a");
    let one = Arc::new(entry(&key, pattern(1000)));
    zone.keep(&key, one.clone());
    until("it is written", || disk.counters.disk.writes.get() == 1);
    let inode = std::fs::metadata(path(&disk, &key)).unwrap().ino();
    let mut last = one;
    for n in 1..100u64 {
        last = Arc::new(refreshed(&last, 1000 * n));
        zone.keep(&key, last.clone());
        until("it is written", || disk.counters.disk.writes.get() == n + 1);
        let found = read(&disk, &key).unwrap();
        assert_eq!((left(&found) + 500) / 1000, n);
        assert_eq!(body_of(&found).await.unwrap(), pattern(1000));
        if n == 1 {
            assert_eq!(std::fs::metadata(path(&disk, &key)).unwrap().ino(), inode);
        }
    }
    let size = std::fs::metadata(path(&disk, &key)).unwrap().len();
    assert!(size < 20_000, "old descriptions do not pile up: {size}");
    assert_eq!(disk.held(), (1, size.div_ceil(disk.block) * disk.block));
}

#[tokio::test]
async fn a_crash_while_an_entry_is_described_anew_leaves_it_whole_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 1 << 20);
    let key = key("/a");
    let one = Arc::new(entry(&key, pattern(1000)));
    zone.keep(&key, one.clone());
    until("it is written", || disk.counters.disk.writes.get() == 1);
    let before = std::fs::metadata(path(&disk, &key)).unwrap().len();
    zone.keep(&key, Arc::new(refreshed(&one, 5000)));
    until("it is written", || disk.counters.disk.writes.get() == 2);
    let whole = std::fs::read(path(&disk, &key)).unwrap();
    for length in before as usize..=whole.len() {
        std::fs::write(path(&disk, &key), &whole[..length]).unwrap();
        let found = read(&disk, &key);
        assert_eq!(found.is_some(), length == before as usize || length == whole.len(), "{length}");
        if let Some(found) = found {
            assert_eq!(body_of(&found).await.unwrap(), pattern(1000));
        }
    }
}

#[tokio::test]
async fn a_large_entry_is_confirmed_without_its_body_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 1 << 20);
    let key = key("/large");
    let mut draft = zone.draft(&key).await.unwrap();
    draft.append(pattern(500_000)).await.unwrap();
    let one = Arc::new(draft.commit(&key, entry(&key, Bytes::new()), || true).await.unwrap());
    zone.keep(&key, one.clone());
    assert!(disk.waiting(&key).is_none(), "all is in the file");
    let inode = std::fs::metadata(path(&disk, &key)).unwrap().ino();
    zone.keep(&key, Arc::new(refreshed(&one, 7000)));
    until("it is written", || disk.counters.disk.writes.get() == 2);
    assert_eq!(std::fs::metadata(path(&disk, &key)).unwrap().ino(), inode);
    let found = disk.read(&key, |_| false, &Clock::now()).unwrap();
    assert!(found.holds_file() && left(&found) > 6000);
    assert_eq!(body_of(&found).await.unwrap(), pattern(500_000));
    // A recalled one is confirmed too.
    zone.keep(&key, Arc::new(refreshed(&found, 9000)));
    until("it is written", || disk.counters.disk.writes.get() == 3);
    assert!(left(&read(&disk, &key).unwrap()) > 8000);
}

#[test]
fn what_is_too_much_goes_the_least_used_first() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |s| s.max_size = Some(10 * 4096));
    let keys: Vec<Key> = (0..20).map(|n| key(&format!("/{n}"))).collect();
    for key in &keys {
        store(&disk, key, &entry(key, pattern(10))).unwrap();
        read(&disk, &keys[0]);
        disk.tidy();
    }
    let there = |n: usize| path(&disk, &keys[n]).exists();
    assert!(there(0), "it was used all the time");
    assert!((12..20).all(there) && !(1..11).any(there));
    assert_eq!(files(dir.path()).len(), 9, "nginx stays below max_size");
    assert_eq!(disk.counters.disk.evictions(crate::cache::counters::DiskEviction::Size), 11);
}

#[test]
fn what_left_its_window_goes_before_what_was_used_less_lately() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |s| s.max_size = Some(10 * 4096));
    let keys: Vec<Key> = (0..12).map(|n| key(&format!("/{n}"))).collect();
    keys[..8].iter().for_each(|key| store(&disk, key, &entry(key, pattern(10))).unwrap());
    disk.expend(&keys[5]);
    disk.expend(&keys[6]);
    disk.tidy();
    let there = |n: usize| path(&disk, &keys[n]).exists();
    assert!((0..8).all(there), "there is room");
    keys[8..].iter().for_each(|key| store(&disk, key, &entry(key, pattern(10))).unwrap());
    disk.tidy();
    assert!(!there(5) && !there(6) && !there(0) && (1..5).all(there) && (7..12).all(there));
}

#[test]
fn there_are_no_more_files_than_keys_and_none_that_nobody_uses() {
    use crate::cache::counters::DiskEviction;
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |s| s.keys = 5);
    let keys: Vec<Key> = (0..9).map(|n| key(&format!("/{n}"))).collect();
    keys.iter().for_each(|key| store(&disk, key, &entry(key, pattern(10))).unwrap());
    assert!(matches!(disk.tidy(), manager::Next::Wait(_)));
    assert_eq!((disk.held().0, disk.counters.disk.evictions(DiskEviction::Keys)), (5, 4));
    let settings = Settings { inactive: Duration::ZERO, ..(*disk.settings()).clone() };
    let slow = Settings { manager: Pace { files: 2, ..Pace::DEFAULT }, ..settings };
    disk.settings.store(Arc::new(slow));
    assert_eq!(disk.tidy(), manager::Next::Pause(Pace::DEFAULT.sleep), "two at once");
    assert_eq!(disk.held().0, 3);
    while disk.tidy() == manager::Next::Pause(Pace::DEFAULT.sleep) {}
    assert_eq!((disk.held().0, disk.counters.disk.evictions(DiskEviction::Inactive)), (0, 5));
    assert!(files(dir.path()).is_empty());
}

#[test]
fn so_much_is_left_free() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |s| s.min_free = u64::MAX);
    store(&disk, &key("/a"), &entry(&key("/a"), pattern(10))).unwrap();
    disk.tidy();
    assert_eq!(disk.held().0, 0);
    assert_eq!(disk.counters.disk.evictions(crate::cache::counters::DiskEviction::Free), 1);
}

#[tokio::test]
async fn what_is_used_in_memory_stays_on_disk_and_what_goes_there_frees_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 1 << 20);
    let (hot, cold, large) = (key("/hot"), key("/cold"), key("/large"));
    for key in [&hot, &cold] {
        store(&disk, key, &entry(key, pattern(10))).unwrap();
    }
    zone.recall(&hot).await.unwrap();
    disk.index.lock().touch(&cold.name(), Instant::now());
    disk.settings.store(Arc::new(Settings { keys: 1, ..(*disk.settings()).clone() }));
    disk.tidy();
    // The manager's own thread may be the one that does it.
    until("the cold one is gone", || !path(&disk, &cold).exists());
    assert!(path(&disk, &hot).exists());
    let mut draft = zone.draft(&large).await.unwrap();
    draft.append(pattern(100)).await.unwrap();
    zone.keep(&large, Arc::new(draft.commit(&large, entry(&large, Bytes::new()), || true).await.unwrap()));
    disk.remove(&hot);
    disk.settings.store(Arc::new(Settings { keys: 0, ..(*disk.settings()).clone() }));
    while !matches!(disk.tidy(), manager::Next::Wait(_)) {}
    until("it is gone from memory, else its bytes would not be free", || zone.store.get(&large).is_none());
}

#[test]
fn the_loader_learns_what_is_there_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path(), |_| {});
    let keys: Vec<Key> = (0..30).map(|n| key(&format!("/{n}"))).collect();
    keys.iter().for_each(|key| store(&first, key, &entry(key, pattern(10))).unwrap());
    let put = |path: PathBuf, bytes: &[u8]| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let nginx = [&5u64.to_ne_bytes()[..], &[0; 500]].concat();
    put(path(&first, &key("/nginx")), &nginx);
    put(path(&first, &key("/cut")), b"cut");
    // Where other levels had put it.
    put(dir.path().join(names::hex(&key("/moved").name())), &std::fs::read(path(&first, &keys[0])).unwrap());
    put(dir.path().join("notes.txt"), b"not ours");
    let (abandoned, abandoned_path) = first.settings().place.create(&key("/x").name()).unwrap();
    let (open, open_path) = first.settings().place.create(&key("/y").name()).unwrap();
    drop(abandoned);
    let again =
        disk(dir.path(), |s| s.loader = Pace { files: 7, sleep: Duration::from_millis(1), ..Pace::DEFAULT });
    let _zone = zone(&again, 1 << 20);
    until("it is loaded", || again.loaded.load(Ordering::Acquire));
    assert_eq!(again.held(), first.held());
    assert!(!abandoned_path.exists() && open_path.exists());
    assert!(dir.path().join("notes.txt").exists());
    assert_eq!(files(dir.path()).len(), 30 + 2);
    assert_eq!(again.counters.disk.damaged(Damage::Foreign), 2);
    assert_eq!(again.counters.disk.damaged(Damage::Truncated), 1);
    drop(open);
}

#[test]
fn the_loader_keeps_to_the_number_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path(), |_| {});
    for n in 0..50 {
        let key = key(&format!("/{n}"));
        store(&first, &key, &entry(&key, pattern(10))).unwrap();
    }
    let again = disk(dir.path(), |s| s.keys = 8);
    let _zone = zone(&again, 1 << 20);
    until("it is loaded", || again.loaded.load(Ordering::Acquire));
    until("the rest is gone", || files(dir.path()).len() == 8);
    assert_eq!(again.held().0, 8);
}

#[test]
fn a_disk_that_is_no_longer_needed_ends_its_threads_and_keeps_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 1 << 20);
    let key = key("/a");
    zone.keep(&key, Arc::new(entry(&key, pattern(10))));
    until("it is written", || path(&disk, &key).exists());
    let (queue, signal) = (disk.threads.queue.clone(), disk.threads.signal.clone());
    drop((zone, disk));
    until("the threads have ended", || Arc::strong_count(&queue) == 1 && Arc::strong_count(&signal) == 1);
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn a_sweep_shows_what_is_there_and_what_is_to_come() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let keys: Vec<Key> = (0..6).map(|n| key(&format!("/{n}"))).collect();
    keys[..4].iter().for_each(|key| store(&disk, key, &entry(key, pattern(10))).unwrap());
    for key in &keys[4..] {
        disk.write(key, Act::Store(Arc::new(entry(key, pattern(10)))));
    }
    let mut seen = Vec::new();
    let removed = disk.sweep(&mut |entry| {
        assert_eq!(entry.fields.get("etag").unwrap(), "\"1\"");
        seen.push(entry.key.clone());
        entry.key == "/1" || entry.key == "/5"
    });
    seen.sort();
    assert_eq!(seen, ["/0", "/1", "/2", "/3", "/4", "/5"]);
    assert_eq!((removed, disk.held().0), (2, 3));
    assert!(disk.waiting(&keys[5]).is_none() && disk.waiting(&keys[4]).is_some());
    assert!(read(&disk, &keys[1]).is_none() && read(&disk, &keys[2]).is_some());
}

#[tokio::test]
async fn what_is_read_has_room_in_memory_or_stays_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let zone = zone(&disk, 8 << 20);
    let keys = [key("/a"), key("/b"), key("/c")];
    keys.iter().for_each(|key| store(&disk, key, &entry(key, pattern(900_000))).unwrap());
    assert!(!zone.recall(&keys[0]).await.unwrap().holds_file());
    assert_eq!(zone.growing(), 0, "it was given back");
    // Fills hold all that may grow.
    assert!(zone.reserve(4 << 20));
    let large = zone.recall(&keys[1]).await.unwrap();
    assert!(large.holds_file());
    assert_eq!(body_of(&large).await.unwrap(), pattern(900_000));
    zone.release(4 << 20);
    assert!(!zone.recall(&keys[2]).await.unwrap().holds_file());
}

/// What a key's entry of this version holds.
fn version_of(key: usize, version: usize) -> Bytes {
    let word = format!("{key}/{version};");
    word.repeat(500 * (1 + (key + version) % 4)).into()
}

#[test]
fn two_processes_in_one_directory_do_each_other_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let rounds = 300;
    let run = |seed: usize| {
        let disk = disk(dir.path(), |s| s.max_size = Some(60_000));
        // Memory holds next to nothing, so what is found is what the disk has.
        let zone = zone(&disk, 4096);
        let keys: Vec<Key> = (0..12).map(|n| key(&format!("/{n}"))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut found = 0;
        for round in 0..rounds {
            let n = (round * 7 + seed * 5) % keys.len();
            let key = &keys[n];
            match (round + seed) % 5 {
                0 => drop(disk.remove(key)),
                1 | 2 => store(&disk, key, &entry(key, version_of(n, round))).unwrap(),
                3 => zone.keep(key, Arc::new(refreshed(&entry(key, version_of(n, round)), 5000))),
                _ => {
                    let Some(entry) = runtime.block_on(zone.recall(key)) else { continue };
                    let body = runtime.block_on(body_of(&entry)).unwrap();
                    let version = std::str::from_utf8(&body).unwrap().split(['/', ';']).nth(1).unwrap();
                    assert_eq!(body, version_of(n, version.parse().unwrap()), "a mix");
                    found += 1;
                }
            }
        }
        disk.finish();
        let damaged: u64 = Damage::ALL.into_iter().map(|d| disk.counters.disk.damaged(d)).sum();
        (found, damaged)
    };
    let both = std::thread::scope(|scope| {
        [1, 2].map(|seed| scope.spawn(move || run(seed))).map(|thread| thread.join().unwrap())
    });
    assert!(both.iter().map(|(found, _)| found).sum::<usize>() > 5, "{both:?}");
    assert!(both.iter().all(|(_, damaged)| *damaged == 0), "{both:?}");
}
