use super::*;
use crate::cache::entry::{Meta, Times};
use crate::cache::freshness::Lifetime;
use crate::cache::vary::Vary;
use crate::http::body::{Body, BodyError};
use crate::http::response::Fields;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

/// A disk in a directory of its own, which is that of a process if [`again`] makes another of it.
pub fn disk(dir: &Path, change: impl FnOnce(&mut Settings)) -> Arc<Disk> {
    let mut settings = Settings {
        place: Place { root: dir.into(), levels: vec![1, 2] },
        temp: None,
        max_size: None,
        min_free: 0,
        inactive: Duration::from_secs(600),
        keys: 1000,
        pending: 64 << 20,
        manager: Pace::DEFAULT,
        loader: Pace::DEFAULT,
    };
    change(&mut settings);
    Disk::new("z".into(), settings, Arc::default())
}

pub fn key(text: &str) -> Key {
    Key::new(Bytes::copy_from_slice(text.as_bytes()))
}

pub fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i / 3 % 251) as u8).collect()
}

pub fn entry(key: &Key, body: Bytes) -> Entry {
    let mut fields = Fields::default();
    fields.add_static("Content-Type", "text/plain");
    fields.add_static("ETag", "\"1\"");
    let second = Duration::from_secs(1);
    let lifetime = Lifetime { fresh: 60 * second, updating: second, error: 2 * second };
    Entry {
        key: key.text.clone(),
        status: 200,
        reason: Bytes::from_static(b"OK"),
        fields,
        length: body.len() as u64,
        body: EntryBody::Memory(if body.is_empty() { Arc::default() } else { Arc::new([body]) }),
        vary: None,
        times: Times::new(tokio::time::Instant::now(), lifetime),
        failure: None,
        meta: Meta::default(),
    }
}

/// Writes an entry as the writer does.
fn store(disk: &Arc<Disk>, key: &Key, entry: &Entry) -> std::io::Result<()> {
    let EntryBody::Memory(pieces) = &entry.body else { panic!("a body in memory") };
    let mut writing = draft::Writing::new(disk, key.name())?;
    writing.append(pieces)?;
    disk.publish(writing.seal(entry, key.variant, &Clock::now())?, key, || true).map(drop)
}

fn read(disk: &Arc<Disk>, key: &Key) -> Option<Entry> {
    disk.read(key, 1 << 20, &Clock::now())
}

async fn text(body: Body) -> Result<Bytes, BodyError> {
    let mut body = body;
    body.collect(usize::MAX).await.map(Option::unwrap)
}

async fn body_of(entry: &Entry) -> Result<Bytes, BodyError> {
    text(entry.answer().unwrap().body).await
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn path(disk: &Disk, key: &Key) -> PathBuf {
    disk.settings().place.path_of(&key.name())
}

#[tokio::test]
async fn what_was_written_is_found_by_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let one = disk(dir.path(), |_| {});
    for (name, length) in [("/empty", 0), ("/a", 10), ("/block", BLOCK), ("/large", 3 * BLOCK + 1)] {
        let key = key(name);
        store(&one, &key, &entry(&key, pattern(length))).unwrap();
        let other = disk(dir.path(), |_| {});
        let found = read(&other, &key).unwrap();
        assert_eq!(body_of(&found).await.unwrap(), pattern(length));
        assert_eq!((found.status, &found.reason[..], found.length), (200, &b"OK"[..], length as u64));
        assert_eq!(found.fields.get("etag").unwrap(), "\"1\"");
        assert!(found.is_fresh(tokio::time::Instant::now()));
        assert_eq!(other.held().0, 1, "it is known from then on");
    }
    assert!(read(&one, &key("/b")).is_none());
}

#[test]
fn a_variant_is_another_entry() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let (main, other) = (key("/a"), key("/a").variant(7));
    let vary = Vary::from_parts(Box::new(["accept".into()]), 7);
    store(&disk, &main, &entry(&main, pattern(1))).unwrap();
    store(&disk, &other, &Entry { vary: Some(vary.clone()), ..entry(&other, pattern(2)) }).unwrap();
    assert_eq!(read(&disk, &main).unwrap().length, 1);
    let found = read(&disk, &other).unwrap();
    assert_eq!((found.length, found.vary), (2, Some(vary)));
    assert!(disk.remove(&other) && !disk.remove(&other));
    assert!(read(&disk, &main).is_some() && read(&disk, &other).is_none());
}

#[test]
fn another_text_under_the_same_name_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let (a, b) = (key("/a"), key("/b"));
    store(&disk, &a, &entry(&a, pattern(1))).unwrap();
    std::fs::create_dir_all(path(&disk, &b).parent().unwrap()).unwrap();
    std::fs::rename(path(&disk, &a), path(&disk, &b)).unwrap();
    assert!(read(&disk, &b).is_none());
    assert!(path(&disk, &b).exists(), "nothing is wrong with it");
}

#[test]
fn every_truncation_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/a");
    store(&disk, &key, &entry(&key, pattern(100))).unwrap();
    let file = path(&disk, &key);
    let bytes = std::fs::read(&file).unwrap();
    for length in 0..bytes.len() {
        std::fs::write(&file, &bytes[..length]).unwrap();
        assert!(read(&disk, &key).is_none(), "{length}");
        assert!(!file.exists(), "{length}");
    }
    std::fs::write(&file, &bytes).unwrap();
    assert!(read(&disk, &key).is_some());
    assert_eq!(disk.counters.disk.damaged(Damage::Truncated), bytes.len() as u64);
}

#[test]
fn every_flipped_bit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/a");
    store(&disk, &key, &entry(&key, pattern(100))).unwrap();
    let file = path(&disk, &key);
    let mut bytes = std::fs::read(&file).unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, &bytes).unwrap();
        assert!(read(&disk, &key).is_none(), "{bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    let damaged = |what| disk.counters.disk.damaged(what);
    assert_eq!(damaged(Damage::Block), 800);
    assert_eq!(damaged(Damage::Sums), 32);
    let all: u64 = Damage::ALL.into_iter().map(damaged).sum();
    assert_eq!(all, bytes.len() as u64 * 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_an_entry_or_not(junk: Vec<u8>, at in 0usize..400, kept in 0usize..400) {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path(), |_| {});
        let key = key("/a");
        store(&disk, &key, &entry(&key, pattern(100))).unwrap();
        let file = path(&disk, &key);
        let whole = std::fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        let at = at.min(bytes.len());
        let end = (at + kept).min(bytes.len());
        bytes.splice(at..end, junk.iter().copied());
        std::fs::write(&file, &bytes).unwrap();
        prop_assert_eq!(read(&disk, &key).is_some(), bytes == whole);
        std::fs::write(&file, &junk).unwrap();
        prop_assert!(read(&disk, &key).is_none());
    }
}

#[test]
fn what_nginx_left_is_known_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/a");
    let file = path(&disk, &key);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, [&5u64.to_ne_bytes()[..], &[0; 500]].concat()).unwrap();
    assert!(read(&disk, &key).is_none() && !file.exists());
    assert_eq!(disk.counters.disk.damaged(Damage::Foreign), 1);
}

#[tokio::test]
async fn a_draft_is_read_while_it_grows_and_becomes_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/large");
    let body = pattern(2 * (1 << 20) + 5);
    let mut draft = disk.draft(&key).await.unwrap();
    let file = draft.file();
    for piece in body.chunks(100_000) {
        draft.append(Bytes::copy_from_slice(piece)).await.unwrap();
        let written = draft.written() as usize;
        assert_eq!(text(file.read(50..written as u64)).await.unwrap(), body[50..written]);
    }
    assert!(read(&disk, &key).is_none(), "it is no entry yet");
    let kept = draft.commit(&key, entry(&key, Bytes::new())).await.unwrap();
    assert_eq!(kept.length, body.len() as u64);
    for entry in [kept, read(&disk, &key).unwrap()] {
        assert!(entry.holds_file());
        assert_eq!(body_of(&entry).await.unwrap(), body);
        assert!(entry.weight() < 4096);
        let Body::Stream(stream) = entry.answer().unwrap().body else { panic!("a stream") };
        for range in [0..1, 5..70_000, 65_535..65_537, 2_000_000..body.len() as u64, 9..9] {
            let part = stream.part(range.clone()).unwrap();
            assert_eq!(text(part).await.unwrap(), body[range.start as usize..range.end as usize]);
        }
        assert!(stream.part(0..body.len() as u64 + 1).is_none());
    }
    assert_eq!(files(dir.path()).len(), 1);
    assert_eq!(text(file.read(0..body.len() as u64)).await.unwrap(), body, "who read on reads on");
}

#[tokio::test]
async fn a_draft_that_is_dropped_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |s| s.max_size = Some(1000));
    let mut draft = disk.draft(&key("/a")).await.unwrap();
    draft.append(pattern(900)).await.unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    let file = draft.file();
    let more = draft.append(pattern(101)).await.unwrap_err();
    assert_eq!(more.kind(), ErrorKind::FileTooLarge);
    assert!(draft.append(pattern(1)).await.is_err(), "nothing after that");
    assert!(!disk.health.is_failing(), "that is no fault of the disk");
    drop(draft);
    let until = Instant::now() + Duration::from_secs(20);
    while !files(dir.path()).is_empty() && Instant::now() < until {
        tokio::task::yield_now().await;
    }
    assert!(files(dir.path()).is_empty());
    assert_eq!(text(file.read(0..900)).await.unwrap(), pattern(900));
}

#[tokio::test]
async fn a_damaged_block_breaks_off_the_answer_and_ends_the_entry() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/large");
    let mut draft = disk.draft(&key).await.unwrap();
    let body = pattern((2 << 20) + 1);
    draft.append(body.clone()).await.unwrap();
    let kept = draft.commit(&key, entry(&key, Bytes::new())).await.unwrap();
    let file = File::options().write(true).open(path(&disk, &key)).unwrap();
    file.write_all_at(&[!body[100_000]], 100_000).unwrap();
    let mut answer = kept.answer().unwrap().body;
    assert_eq!(answer.next().await.unwrap().unwrap(), body[..BLOCK]);
    assert!(kept.is_sound());
    assert!(matches!(answer.next().await, Some(Err(BodyError::File(_)))));
    assert!(!kept.is_sound());
    let until = Instant::now() + Duration::from_secs(20);
    while path(&disk, &key).exists() && Instant::now() < until {
        tokio::task::yield_now().await;
    }
    assert!(read(&disk, &key).is_none());
    assert_eq!(disk.counters.disk.damaged(Damage::Block), 1);
}

/// Waits until something is true that other threads bring about.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A zone with this disk, whose threads run.
fn zone(disk: &Arc<Disk>, bound: u64) -> Arc<Zone> {
    let spec = crate::cache::zone::Spec {
        name: "z".into(),
        bound,
        inactive: Duration::from_secs(600),
        keys: 1 << 20,
    };
    let zone = Arc::new(Zone::with_disk(spec, disk.counters.clone(), Some(disk.clone())));
    disk.start(&zone, (*disk.settings()).clone(), None);
    zone
}

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
    let one = Arc::new(draft.commit(&key, entry(&key, Bytes::new())).await.unwrap());
    zone.keep(&key, one.clone());
    assert!(disk.waiting(&key).is_none(), "all is in the file");
    let inode = std::fs::metadata(path(&disk, &key)).unwrap().ino();
    zone.keep(&key, Arc::new(refreshed(&one, 7000)));
    until("it is written", || disk.counters.disk.writes.get() == 2);
    assert_eq!(std::fs::metadata(path(&disk, &key)).unwrap().ino(), inode);
    let found = disk.read(&key, 1000, &Clock::now()).unwrap();
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
    assert!(path(&disk, &hot).exists() && !path(&disk, &cold).exists());
    let mut draft = zone.draft(&large).await.unwrap();
    draft.append(pattern(100)).await.unwrap();
    zone.keep(&large, Arc::new(draft.commit(&large, entry(&large, Bytes::new())).await.unwrap()));
    disk.remove(&hot);
    disk.settings.store(Arc::new(Settings { keys: 0, ..(*disk.settings()).clone() }));
    while !matches!(disk.tidy(), manager::Next::Wait(_)) {}
    assert!(zone.store.get(&large).is_none(), "else its bytes would not be free");
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

#[test]
fn a_note_is_there_after_a_restart_or_is_known_to_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let one = disk(dir.path(), |_| {});
    assert_eq!(one.load_note("bans").unwrap(), None);
    one.save_note("bans", b"first").unwrap();
    one.save_note("bans", b"").unwrap();
    assert_eq!(one.load_note("bans").unwrap().as_deref(), Some(&b""[..]));
    one.save_note("bans", b"second").unwrap();
    let two = disk(dir.path(), |_| {});
    let _zone = zone(&two, 1 << 20);
    until("it is loaded", || two.loaded.load(Ordering::Acquire));
    assert_eq!(two.load_note("bans").unwrap().as_deref(), Some(&b"second"[..]));
    std::fs::write(dir.path().join(".edgewater-bans"), b"xx").unwrap();
    assert!(two.load_note("bans").is_err());
}
