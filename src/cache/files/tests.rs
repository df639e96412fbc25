//! What is held of files, and for how long.

use super::*;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const FOREVER: Policy = Policy { valid: Duration::from_secs(3600), min_uses: 1, errors: true };
const NEVER: Policy = Policy { valid: Duration::ZERO, ..FOREVER };

fn bytes(found: Result<Found, Stop>) -> Bytes {
    match found.unwrap().content {
        Content::Bytes(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn get(cache: &FileCache, path: &Path, policy: Policy) -> Bytes {
    bytes(cache.find(path.as_os_str().as_bytes(), Want::Content, policy, Wait::Yes))
}

/// Writes a file whose last change is long past.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

#[test]
fn a_change_is_seen_once_what_is_held_is_not_believed_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (path, next) = (dir.path().join("a"), dir.path().join("b"));
    let cache = FileCache::new(10, Duration::from_secs(60));
    write(&path, "one");
    assert_eq!(get(&cache, &path, FOREVER), "one");
    write(&next, "another");
    std::fs::rename(&next, &path).unwrap();
    assert_eq!(get(&cache, &path, FOREVER), "one", "the old file's bytes, not a mix");
    assert_eq!(get(&cache, &path, NEVER), "another");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(get(&cache, &path, FOREVER), "another");
    let gone = cache.find(path.as_os_str().as_bytes(), Want::Content, NEVER, Wait::Yes).unwrap_err();
    assert!(matches!(gone, Stop::Failed(f) if f.is_missing()));
    write(&path, "back");
    let held = cache.find(path.as_os_str().as_bytes(), Want::Content, FOREVER, Wait::Yes).unwrap_err();
    let words = |stop| match stop {
        Stop::Failed(f) => (f.errno, f.call),
        Stop::WouldWait => panic!(),
    };
    assert_eq!((words(gone), words(held)), ((2, "stat()"), (2, "open()")), "failures are held");
    assert_eq!(get(&cache, &path, NEVER), "back");
}

#[test]
fn failures_are_not_held_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let cache = FileCache::new(10, Duration::from_secs(60));
    let policy = Policy { errors: false, ..FOREVER };
    assert!(cache.find(path.as_os_str().as_bytes(), Want::Stat, policy, Wait::Yes).is_err());
    write(&path, "here");
    assert_eq!(get(&cache, &path, policy), "here");
}

#[test]
fn bytes_are_kept_within_a_bound_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FileCache::new(10, Duration::from_secs(60));
    let path = dir.path().join("a");
    write(&path, "12345");
    // The change time cannot be set, so that the file is as fresh as it is: keep by hand.
    let kept = cache.keep(get(&cache, &path, FOREVER)).unwrap();
    assert!(cache.kept.load(Ordering::Relaxed) >= 5);
    let before = cache.kept.load(Ordering::Relaxed);
    drop(kept);
    assert_eq!(cache.kept.load(Ordering::Relaxed), before - 5);
    assert!(cache.keep(Bytes::from(vec![0; KEPT as usize + 1])).is_none());
    assert_eq!(cache.kept.load(Ordering::Relaxed), before - 5, "what is not kept is not counted");
}

#[test]
fn a_descriptor_is_held_from_the_configured_use_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, next) = (dir.path().join("a"), dir.path().join("b"));
    let cache = FileCache::new(10, Duration::from_secs(60));
    let policy = Policy { min_uses: 2, ..FOREVER };
    write(&path, "one");
    assert_eq!(get(&cache, &path, policy), "one");
    write(&next, "two");
    std::fs::rename(&next, &path).unwrap();
    assert_eq!(get(&cache, &path, policy), "two", "the first use held nothing");
    write(&next, "three");
    std::fs::rename(&next, &path).unwrap();
    assert_eq!(get(&cache, &path, policy), "two", "the second did");
}

#[test]
fn a_file_cut_short_in_place_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let cache = FileCache::new(10, Duration::from_secs(60));
    std::fs::write(&path, "long enough").unwrap();
    assert_eq!(get(&cache, &path, FOREVER), "long enough");
    std::fs::write(&path, "short").unwrap();
    assert_eq!(get(&cache, &path, FOREVER), "short", "a body is one state of a file");
}

#[tokio::test]
async fn large_files_come_as_descriptors_and_directories_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big");
    std::fs::write(&path, vec![1; SMALL as usize + 1]).unwrap();
    let cache = Arc::new(FileCache::new(10, Duration::from_secs(60)));
    for cache in [None, Some(&cache), Some(&cache)] {
        let found = find(cache, FOREVER, path.as_os_str().as_bytes(), Want::Content).await.unwrap();
        assert!(matches!(found.content, Content::File(_)));
        assert_eq!(found.stat.size, SMALL + 1);
        let dir = find(cache, FOREVER, dir.path().as_os_str().as_bytes(), Want::Content).await.unwrap();
        assert_eq!(dir.stat.kind, Kind::Directory);
    }
}

#[test]
fn what_is_at_hand_is_given_with_its_texts_as_long_as_the_cache_would() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FileCache::new(10, Duration::from_secs(60));
    let path = dir.path().join("big");
    let name = path.as_os_str().as_bytes();
    std::fs::write(&path, vec![1; SMALL as usize + 1]).unwrap();
    cache.find(name, Want::Content, FOREVER, Wait::Yes).unwrap();
    let at_hand = |policy| {
        let give = |answer: &mut Answer| answer.give(Want::Content, policy, ticks());
        aside::get(&cache.bounds, name, ticks(), give)
    };
    assert!(at_hand(FOREVER).is_none());
    // Where the kernel does not tell whether it would wait, nothing is ever at hand.
    let Ok(first) = cache.find(name, Want::Content, FOREVER, Wait::No) else { return };
    let found = at_hand(FOREVER).unwrap().unwrap();
    assert_eq!((found.stat, first.texts), (first.stat, None));
    let texts = found.texts.unwrap();
    let (modified, size) = (found.stat.mtime(), SMALL + 1);
    assert_eq!(texts.modified, crate::http::date::http_date(modified));
    assert_eq!(texts.etag, format!("\"{modified:x}-{size:x}\""));
    assert_eq!(texts.length, size.to_string());
    assert!(Arc::ptr_eq(&texts, &at_hand(FOREVER).unwrap().unwrap().texts.unwrap()), "made once");
    assert!(at_hand(NEVER).is_none(), "each location believes as long as it says");
    assert!(
        aside::get(&cache.bounds, name, ticks() + 2000, |_| Some(())).is_none(),
        "the cache is asked again"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(cache.find(name, Want::Content, FOREVER, Wait::No).is_ok());
    assert!(cache.find(name, Want::Content, NEVER, Wait::Yes).is_err());
    assert!(at_hand(FOREVER).is_none(), "what was refuted is dropped");
    assert!(cache.find(name, Want::Content, FOREVER, Wait::No).is_err());
    assert!(matches!(at_hand(FOREVER), Some(Err(Stop::Failed(failure))) if failure.is_missing()));
}

#[test]
fn bytes_at_hand_are_the_caches_and_leave_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FileCache::new(10, Duration::from_secs(60));
    let path = dir.path().join("a");
    let name = path.as_os_str().as_bytes();
    write(&path, "12345");
    let read = get(&cache, &path, FOREVER);
    let entry = cache.entries.get(name).unwrap();
    assert!(Answer::of(&entry, 0).is_none(), "a file changed a moment ago is read each time");
    let _ = entry.bytes.set(cache.keep(read).unwrap());
    aside::put(&cache.bounds, name, 0, &entry, || Answer::of(&entry, 0));
    let give = |answer: &mut Answer| Some(answer.give(Want::Content, FOREVER, ticks()));
    assert_eq!(bytes(aside::get(&cache.bounds, name, 999, give).unwrap().unwrap()), "12345");
    let other = FileCache::new(10, Duration::from_secs(60));
    assert!(aside::get(&other.bounds, name, 0, |_| Some(())).is_none(), "each cache has its own");
    aside::put(&other.bounds, b"x", 1_000_000, &entry, || None);
    assert!(aside::get(&cache.bounds, name, 0, |_| Some(())).is_none(), "what is idle is dropped");
}
