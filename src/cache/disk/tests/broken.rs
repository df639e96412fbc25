//! A disk that is full or cannot be written to.

use super::*;
use std::process::Command;

/// A file system of one megabyte; `None` where that may not be made.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], dir.path()).then_some(Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    let run = Command::new("mount").args(options).arg(at).output();
    run.is_ok_and(|run| run.status.success())
}

fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|n| key(&format!("/{n}"))).collect()
}

#[tokio::test]
async fn a_full_disk_leaves_the_memory_and_is_used_again_when_there_is_room() {
    let Some(small) = Small::new() else { return };
    let disk = disk(small.0.path(), |_| {});
    let zone = zone(&disk, 64 << 20);
    let keys = keys(30);
    for key in &keys {
        zone.keep(key, Arc::new(entry(key, pattern(100_000))));
    }
    until("all was tried", || disk.held().0 + disk.counters.disk.dropped.get() == 30);
    let written = disk.held().0;
    assert!((5..11).contains(&written), "{written}");
    assert_eq!(disk.counters.disk.failures.get(), 1, "after the first nothing is tried for a while");
    for key in &keys {
        let found = zone.store.get(key).expect("in memory");
        assert_eq!(body_of(&found).await.unwrap(), pattern(100_000));
    }
    assert!(zone.draft(&key("/large")).await.is_none());
    let names = files(small.0.path());
    assert_eq!(names.len() as u64, written, "nothing is left of what could not be written");
    // What is there is read as before.
    let on_disk = keys.iter().find(|key| disk.may_have(&key.name()) && path(&disk, key).exists()).unwrap();
    assert!(read(&disk, on_disk).is_some());
    keys.iter().for_each(|key| _ = disk.remove(key));
    zone.keep(&keys[0], Arc::new(entry(&keys[0], pattern(10))));
    until("that is dropped", || disk.counters.disk.dropped.get() == 30 - written + 1);
    disk.health.retry_now();
    zone.keep(&keys[1], Arc::new(entry(&keys[1], pattern(10))));
    until("it is written", || disk.held().0 == 1);
    assert!(!disk.health.is_failing());
}

#[tokio::test]
async fn a_draft_on_a_full_disk_fails_and_what_was_written_can_be_read() {
    let Some(small) = Small::new() else { return };
    let disk = disk(small.0.path(), |_| {});
    let key = key("/large");
    let mut draft = disk.draft(&key).await.unwrap();
    let file = draft.file();
    let mut failed = None;
    for _ in 0..20 {
        if let Err(e) = draft.append(pattern(100_000)).await {
            failed = Some(e);
            break;
        }
    }
    assert_eq!(failed.unwrap().kind(), ErrorKind::StorageFull);
    assert!(draft.written() >= 500_000 && disk.health.is_failing());
    assert_eq!(text(file.read(0..100_000)).await.unwrap(), pattern(100_000));
    assert!(draft.commit(&key, entry(&key, Bytes::new()), || true).await.is_err());
    until("its name is gone", || files(small.0.path()).is_empty());
}

#[tokio::test]
async fn a_description_that_finds_no_room_leaves_the_old_one() {
    let Some(small) = Small::new() else { return };
    let disk = disk(small.0.path(), |_| {});
    let zone = zone(&disk, 64 << 20);
    let key = key("/a");
    let one = Arc::new(entry(&key, pattern(1000)));
    zone.keep(&key, one.clone());
    until("it is written", || disk.held().0 == 1);
    // A page that is begun has room; so the entry is to grow beyond it.
    let rest = std::fs::File::create(small.0.path().join("rest")).unwrap();
    let mut at = 0;
    while rest.write_all_at(&[1; 4096], at).is_ok() {
        at += 4096;
    }
    let mut large = one.refreshed(one.times);
    large.fields.add_static("X-Large", "x".repeat(8000));
    zone.keep(&key, Arc::new(large));
    until("it failed", || disk.counters.disk.failures.get() == 1);
    until("it was given up", || disk.counters.disk.dropped.get() == 1);
    assert!(read(&disk, &key).is_none(), "what is there was not the newest, and went");
    assert_eq!(disk.counters.disk.damaged(Damage::Truncated), 0);
}

#[tokio::test]
async fn a_disk_that_can_only_be_read_is_read() {
    let Some(small) = Small::new() else { return };
    let disk = disk(small.0.path(), |_| {});
    let zone = zone(&disk, 64 << 20);
    let keys = keys(3);
    for key in &keys[..2] {
        store(&disk, key, &entry(key, pattern(1000))).unwrap();
    }
    let damaged = File::options().write(true).open(path(&disk, &keys[1])).unwrap();
    damaged.write_all_at(&[9; 9], 0).unwrap();
    drop(damaged);
    assert!(mount(&["-o", "remount,ro"], small.0.path()));
    zone.keep(&keys[2], Arc::new(entry(&keys[2], pattern(1000))));
    until("it failed", || disk.counters.disk.failures.get() == 1);
    assert!(zone.recall(&keys[0]).await.is_some());
    // It cannot be removed, and yet nobody gets it.
    assert!(zone.recall(&keys[1]).await.is_none());
    assert!(zone.recall(&keys[1]).await.is_none());
    assert!(mount(&["-o", "remount,rw"], small.0.path()));
}
