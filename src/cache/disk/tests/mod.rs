//! Files: what is written is read, and what is not what was written is found out.

mod broken;
mod found;
mod tier;

use super::*;
use crate::cache::entry::{Meta, Times};
use crate::cache::freshness::Lifetime;
use crate::cache::vary::Vary;
use crate::http::body::{Body, BodyError};
use crate::http::response::Fields;
use bytes::Bytes;
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
        purger: Pace::DEFAULT,
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
        body: EntryBody::Memory((!body.is_empty()).then_some(body).into_iter().collect()),
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
    disk.read(key, |size| size <= 1 << 20, &Clock::now())
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
fn what_waits_to_be_written_is_there_to_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody writes.
    let disk = disk(dir.path(), |_| {});
    let key = key("/a");
    disk.write(&key, Act::Store(Arc::new(entry(&key, pattern(1)))));
    assert!(disk.remove(&key) && !disk.remove(&key));
    disk.forget(&key);
    assert!(!disk.remove(&key));
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
    let kept = draft.commit(&key, entry(&key, Bytes::new()), || true).await.unwrap();
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
    let kept = draft.commit(&key, entry(&key, Bytes::new()), || true).await.unwrap();
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
        largest: bound / 8,
        inactive: Duration::from_secs(600),
        keys: 1 << 20,
    };
    let zone = Arc::new(Zone::with_disk(spec, disk.counters.clone(), Some(disk.clone())));
    disk.start(&zone, (*disk.settings()).clone(), None);
    zone
}
