//! What others put into the directory, what cannot be opened, and what is too much for the queue.

use super::*;
use crate::cache::purge::What;

/// Makes the file one that cannot be opened for now, and gives its content.
fn hide(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(path, path).unwrap();
    bytes
}

fn show(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_pipe_of_an_entrys_name_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/a");
    let file = path(&disk, &key);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    assert!(read(&disk, &key).is_none() && !file.exists());
    store(&disk, &key, &entry(&key, pattern(10))).unwrap();
    assert!(read(&disk, &key).is_some());
}

#[test]
fn what_cannot_be_opened_for_now_is_kept_and_found_later() {
    let dir = tempfile::tempdir().unwrap();
    let one = disk(dir.path(), |_| {});
    let key = key("/a");
    store(&one, &key, &entry(&key, pattern(10))).unwrap();
    let file = path(&one, &key);
    let bytes = hide(&file);
    assert!(read(&one, &key).is_none() && one.knows(&key.name()));
    let two = disk(dir.path(), |_| {});
    assert!(two.learn(&key.name(), &file) && two.knows(&key.name()), "the loader leaves it too");
    show(&file, &bytes);
    assert!(read(&one, &key).is_some() && read(&two, &key).is_some());
    std::fs::remove_file(&file).unwrap();
    assert!(read(&one, &key).is_none() && !one.knows(&key.name()), "what is gone is gone");
}

#[test]
fn what_a_sweep_cannot_look_into_goes_as_it_may_be_meant() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/a");
    store(&disk, &key, &entry(&key, pattern(10))).unwrap();
    let file = path(&disk, &key);
    hide(&file);
    disk.sweep(&mut |_| false);
    assert!(std::fs::symlink_metadata(&file).is_err() && !disk.knows(&key.name()));
}

#[test]
fn another_zones_place_below_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let below = disk(&dir.path().join("live"), |_| {});
    let keys: Vec<Key> = (0..5).map(|n| key(&format!("/{n}"))).collect();
    keys.iter().for_each(|key| store(&below, key, &entry(key, pattern(10))).unwrap());
    let above = disk(dir.path(), |_| {});
    let _zone = zone(&above, 1 << 20);
    until("it is loaded", || above.loaded.load(Ordering::Acquire));
    assert_eq!((above.held().0, files(&dir.path().join("live")).len()), (0, 5));
}

#[test]
fn the_bounds_hold_while_the_files_are_being_learned() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path(), |_| {});
    for n in 0..50 {
        let key = key(&format!("/{n}"));
        store(&first, &key, &entry(&key, pattern(10))).unwrap();
    }
    let hour = Duration::from_secs(3600);
    let again = disk(dir.path(), |s| {
        s.max_size = Some(10 * first.block);
        s.loader = Pace { files: 20, sleep: hour, threshold: hour };
    });
    let _zone = zone(&again, 1 << 20);
    until("twenty are learned and all but nine are gone", || files(dir.path()).len() == 39);
    assert!(again.held().0 == 9 && !again.loaded.load(Ordering::Acquire));
}

#[test]
fn what_is_forgotten_goes_though_the_queue_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let one = disk(dir.path(), |s| s.pending = 0);
    let (a, b) = (key("/a"), key("/b"));
    for key in [&a, &b] {
        store(&one, key, &entry(key, pattern(10))).unwrap();
        one.forget(key);
    }
    assert!(one.waiting(&a).is_none() && one.held().0 == 0, "it was not taken");
    assert!(read(&one, &a).is_none(), "nobody gets it");
    assert!(one.learn(&a.name(), &path(&one, &a)) && one.held().0 == 0, "nor does the loader find it");
    store(&one, &b, &entry(&b, pattern(11))).unwrap();
    one.tidy();
    assert!(!path(&one, &a).exists(), "nor does the next process");
    assert_eq!(read(&one, &b).unwrap().length, 11, "what is new stays");
}

#[tokio::test]
async fn what_a_clock_ahead_has_numbered_is_purged_too() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let keys = [key("/a/1"), key("/a/2"), key("/b")];
    for key in &keys {
        let meta = Meta { sequence: u64::MAX / 2, family: u64::MAX / 2, ..Meta::default() };
        store(&disk, key, &Entry { meta, ..entry(key, pattern(10)) }).unwrap();
    }
    let zone = zone(&disk, 1 << 20);
    let recalled = zone.recall(&keys[0]).await.unwrap();
    assert!(recalled.meta.sequence < zone.purges.last() && recalled.meta.family <= recalled.meta.sequence);
    // One of them is in memory too.
    assert_eq!(zone.purge(What::Prefix(Bytes::from_static(b"/a/"))).await, Ok(2));
    assert!(zone.recall(&keys[0]).await.is_none() && zone.recall(&keys[1]).await.is_none());
    assert!(zone.recall(&keys[2]).await.is_some());
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn with_nothing_to_stay_inactive_the_manager_does_not_go_round_what_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |s| s.inactive = Duration::ZERO);
    let spec = crate::cache::zone::Spec {
        name: "z".into(),
        bound: 1 << 20,
        largest: 1 << 17,
        inactive: Duration::from_secs(600),
        keys: 1 << 20,
    };
    let zone = Arc::new(Zone::with_disk(spec, disk.counters.clone(), Some(disk.clone())));
    *disk.memory.lock() = Arc::downgrade(&zone);
    for n in 0..5 {
        let key = key(&format!("/{n}"));
        store(&disk, &key, &entry(&key, pattern(10))).unwrap();
        zone.recall(&key).await.unwrap();
    }
    assert!(matches!(disk.tidy(), manager::Next::Wait(_)));
    assert_eq!(disk.held().0, 5);
}

#[tokio::test]
async fn a_sweep_does_not_wait_for_the_pauses_of_the_loader() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path(), |_| {});
    let keys = [key("/a"), key("/b"), key("/c")];
    keys.iter().for_each(|key| store(&first, key, &entry(key, pattern(10))).unwrap());
    let hour = Duration::from_secs(3600);
    let again = disk(dir.path(), |s| s.loader = Pace { files: 1, sleep: hour, threshold: hour });
    let zone = zone(&again, 1 << 20);
    assert_eq!(zone.purge(What::Prefix(Bytes::from_static(b"/"))).await, Ok(3));
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "what waits for it is on another thread")]
async fn a_purge_of_a_key_does_not_wait_for_a_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path(), |_| {});
    let keys = [key("/a"), key("/b"), key("/c")];
    keys.iter().for_each(|key| store(&first, key, &entry(key, pattern(10))).unwrap());
    let again = disk(dir.path(), |_| {});
    let zone = zone(&again, 1 << 20);
    // The sweep stops at this file.
    let held = again.stripe(&keys[1].name());
    let mut sweep = Box::pin(zone.purge(What::Prefix(Bytes::from_static(b"/b"))));
    assert!(futures_util::poll!(&mut sweep).is_pending());
    assert_eq!(zone.purge(What::Key(keys[0].text.clone())).await, Ok(1));
    assert!(zone.recall(&keys[0]).await.is_none() && !path(&again, &keys[0]).exists());
    assert!(zone.recall(&keys[2]).await.is_some());
    assert!(futures_util::poll!(&mut sweep).is_pending());
    drop(held);
    assert_eq!(sweep.await, Ok(1));
    assert!(zone.recall(&keys[1]).await.is_none() && !path(&again, &keys[1]).exists());
}

#[tokio::test]
async fn what_is_forgotten_and_not_yet_removed_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    // Its threads do not run.
    let disk = disk(dir.path(), |_| {});
    let keys = [key("/a"), key("/b"), key("/c")];
    for key in &keys[..2] {
        store(&disk, key, &entry(key, pattern(10))).unwrap();
        disk.forget(key);
    }
    disk.settings.store(Arc::new(Settings { pending: 0, ..(*disk.settings()).clone() }));
    store(&disk, &keys[2], &entry(&keys[2], pattern(10))).unwrap();
    disk.forget(&keys[2]);
    assert_eq!(disk.sweep(&mut |entry| entry.key != "/b"), 2);
    assert_eq!(files(dir.path()), [path(&disk, &keys[1])]);
}

#[tokio::test]
async fn a_draft_that_comes_to_nothing_does_not_save_what_was_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), |_| {});
    let key = key("/a");
    store(&disk, &key, &entry(&key, pattern(10))).unwrap();
    disk.forget(&key);
    let mut draft = disk.draft(&key).await.unwrap();
    draft.append(pattern(20)).await.unwrap();
    assert!(draft.commit(&key, entry(&key, Bytes::new()), || false).await.is_err());
    assert!(matches!(disk.waiting(&key), Some(Act::Remove)), "it goes all the same");
}
