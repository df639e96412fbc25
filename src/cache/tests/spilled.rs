//! Answers that are more than memory may hold, in files; and readers that hold up others where there is
//! no file.

use super::super::counters::FillEnd;
use super::super::disk::tests::disk;
use super::super::freshness::Refusal;
use super::super::pump::WINDOW;
use super::*;
use crate::http::temp_file::TempPath;
use CacheStatus::Hit;

/// The piece of this number: 64 KB like no other, whose beginning is like nothing else in it.
fn piece(n: u64) -> Bytes {
    let mut piece = vec![n as u8; PIECE as usize];
    piece[..8].copy_from_slice(&n.to_be_bytes());
    piece.into()
}

const PIECE: u64 = 64 << 10;

/// The pieces of a whole body of so many.
fn body(pieces: u64) -> Vec<u8> {
    (0..pieces).map(piece).collect::<Vec<_>>().concat()
}

struct Spilling {
    site: Site,
    /// Where temporary files are.
    temp: tempfile::TempDir,
}

impl Spilling {
    /// A zone of 8 MB, with objects of 1 MB at most in memory, and files of this size.
    fn new(most: u64) -> Spilling {
        let temp = tempfile::tempdir().unwrap();
        let mut site = Site::sized(8 * MEGABYTE);
        site.policy.temporary.most = most;
        let directory = temp.path().to_owned();
        site.policy.temporary.path = Arc::new(TempPath { directory, levels: Vec::new(), shared: false });
        Spilling { site, temp }
    }

    /// The same with a disk on which files of `max_size` bytes may be kept.
    fn with_disk(most: u64, max_size: u64) -> (Spilling, tempfile::TempDir) {
        let (mut spilling, dir) = (Spilling::new(most), tempfile::tempdir().unwrap());
        let disk = disk(dir.path(), |settings| settings.max_size = Some(max_size));
        let spec = spilling.site.zone.spec.clone();
        let zone = Zone::with_disk(spec, Arc::default(), Some(disk));
        spilling.site.zone = Arc::new(zone);
        (spilling, dir)
    }

    /// A fill of `/big` with so many readers.
    async fn started(&mut self, readers: u64) -> (Pieces, Vec<Body>) {
        let before = self.site.zone.counters.readers.get();
        let viewers: Vec<_> = (0..readers).map(|_| self.site.get("/big")).collect();
        let call = self.site.call().await;
        self.site.readers(before + readers).await;
        let pieces = call.open(200, &[], None);
        let mut bodies = Vec::new();
        for viewer in viewers {
            bodies.push(viewer.await.unwrap().result.unwrap().body);
        }
        (pieces, bodies)
    }
}

/// Reads so many bytes.
async fn take(body: &mut Body, bytes: u64) -> Vec<u8> {
    let mut read = Vec::new();
    while (read.len() as u64) < bytes {
        read.extend(body.next().await.expect("more of the body").unwrap());
    }
    assert_eq!(read.len() as u64, bytes);
    read
}

async fn rest(mut body: Body) -> Vec<u8> {
    body.collect(usize::MAX).await.unwrap().unwrap().to_vec()
}

#[tokio::test]
async fn who_stops_reading_slows_nobody_and_still_gets_it_all() {
    let mut spilling = Spilling::new(1 << 30);
    let (pieces, mut bodies) = spilling.started(2).await;
    let (stopped, mut quick) = (bodies.remove(0), bodies.remove(0));
    // 16 MB; the second has each piece as it comes, though the first takes none.
    for n in 0..256 {
        pieces.send(Ok(piece(n))).unwrap();
        assert!(take(&mut quick, PIECE).await == piece(n));
        let held = spilling.site.zone.growing();
        assert!(held <= WINDOW + PIECE, "{held} bytes are held");
    }
    // One that comes late begins at the beginning.
    let late = spilling.site.get("/big").await.unwrap();
    assert_eq!(late.status, Hit);
    assert!(!spilling.site.was_asked());
    drop(pieces);
    assert!(quick.next().await.is_none());
    let whole = body(256);
    assert!(rest(stopped).await == whole);
    assert!(rest(late.result.unwrap().body).await == whole);
    spilling.site.idle().await;
    assert_eq!(spilling.site.zone.growing(), 0);
    // The file had no name from the beginning.
    assert_eq!(std::fs::read_dir(spilling.temp.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_drips_is_counted_with_what_its_pieces_cost() {
    let mut spilling = Spilling::new(1 << 30);
    let (pieces, mut bodies) = spilling.started(1).await;
    let mut quick = bodies.remove(0);
    let byte = |n: u64| Bytes::copy_from_slice(&[n as u8]);
    // 16 KB, far from the largest body; in pieces of a byte they take two megabytes.
    let all = 16 << 10;
    for n in 0..all {
        pieces.send(Ok(byte(n))).unwrap();
        assert_eq!(take(&mut quick, 1).await, [n as u8]);
        let held = spilling.site.zone.growing();
        let most = (1 << 20) + WINDOW / 8;
        assert!(held <= most, "{held} bytes are held after {n}");
        assert!(n > 4000 || held > 100 * n, "{held} bytes are held after {n}");
    }
    drop(pieces);
    assert!(quick.next().await.is_none());
    spilling.site.idle().await;
    // Memory had no room for it.
    assert_eq!(spilling.site.zone.counters.refusals(Refusal::TooLarge), 1);
    assert_eq!(spilling.site.zone.growing(), 0);
}

#[test]
fn what_is_on_its_way_to_a_slow_disk_is_part_of_the_window() {
    // One thread for files, and it is busy.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let mut spilling = Spilling::new(1 << 30);
        let (pieces, mut bodies) = spilling.started(1).await;
        let mut quick = bodies.remove(0);
        // The file is there.
        let before = WINDOW / PIECE + 2;
        for n in 0..before {
            pieces.send(Ok(piece(n))).unwrap();
            take(&mut quick, PIECE).await;
        }
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        for n in before..64 {
            pieces.send(Ok(piece(n))).unwrap();
        }
        settle().await;
        let held = spilling.site.zone.growing();
        assert!(held <= WINDOW + PIECE, "{held} bytes are held");
        drop(go);
        assert!(busy.await.unwrap().is_err());
        drop(pieces);
        assert!(rest(quick).await == body(64)[(before * PIECE) as usize..]);
    });
}

#[tokio::test]
async fn a_known_length_spills_from_the_first_byte() {
    let mut spilling = Spilling::new(1 << 30);
    let first = spilling.site.get("/big");
    let pieces = spilling.site.call().await.open(200, &[], Some(20 * PIECE));
    for n in 0..20 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    assert!(rest(first.await.unwrap().result.unwrap().body).await == body(20));
}

#[tokio::test]
async fn what_breaks_off_in_a_file_is_an_error_to_all_wherever_they_are() {
    let mut spilling = Spilling::new(1 << 30);
    let (pieces, mut bodies) = spilling.started(2).await;
    for n in 0..64 {
        pieces.send(Ok(piece(n))).unwrap();
        take(&mut bodies[0], PIECE).await;
    }
    pieces.send(Err(BodyError::Upstream("reset".into()))).unwrap();
    assert!(bodies[0].next().await.unwrap().is_err());
    // The other reads what there is, and then the error; never an end.
    assert!(take(&mut bodies[1], 64 * PIECE).await == body(64));
    assert!(bodies[1].next().await.unwrap().is_err());
    assert!(bodies[1].next().await.unwrap().is_err());
    spilling.site.idle().await;
    assert_eq!(spilling.site.zone.counters.fills(FillEnd::Aborted), 1);
    assert_eq!((spilling.site.zone.store.held(), spilling.site.zone.filling()), ((0, 0), 0));
}

#[tokio::test]
async fn what_is_not_stored_and_that_nobody_reads_any_more_ends() {
    let mut spilling = Spilling::new(1 << 30);
    let (pieces, bodies) = spilling.started(1).await;
    for n in 0..64 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(bodies);
    spilling.site.idle().await;
    assert_eq!(spilling.site.zone.counters.fills(FillEnd::Abandoned), 1);
}

#[tokio::test]
async fn beyond_the_largest_file_the_slowest_sets_the_pace() {
    let mut spilling = Spilling::new(2 * MEGABYTE);
    let (pieces, mut bodies) = spilling.started(2).await;
    for n in 0..256 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    let (slow, mut quick) = (bodies.remove(0), bodies.remove(0));
    let far = 2 * MEGABYTE + WINDOW;
    let mut read = take(&mut quick, far).await;
    settle().await;
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    assert!(quick.poll_next(cx).is_pending(), "no more is held for the slow one");
    // The slow one reads the file, then the window, and both get on.
    let slow = tokio::spawn(rest(slow));
    read.extend(rest(quick).await);
    assert!(read == body(256) && slow.await.unwrap() == body(256));
    // What passes is not joined.
    spilling.site.idle().await;
    assert_eq!(spilling.site.zone.counters.fills(FillEnd::Passed), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_done_without() {
    let mut spilling = Spilling::new(1 << 30);
    std::fs::remove_dir(spilling.temp.path()).unwrap();
    std::fs::write(spilling.temp.path(), "no directory").unwrap();
    let (pieces, bodies) = spilling.started(2).await;
    for n in 0..64 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    let readers: Vec<_> = bodies.into_iter().map(|body| tokio::spawn(rest(body))).collect();
    for reader in readers {
        assert!(reader.await.unwrap() == body(64));
    }
    std::fs::remove_file(spilling.temp.path()).unwrap();
    std::fs::create_dir(spilling.temp.path()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_file_who_takes_nothing_while_others_wait_is_cut_off() {
    let mut spilling = Spilling::new(0);
    let (pieces, mut bodies) = spilling.started(3).await;
    let (mut stopped, first, second) = (bodies.remove(0), bodies.remove(0), bodies.remove(0));
    for n in 0..256 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    let start = tokio::time::Instant::now();
    assert!(take(&mut stopped, PIECE).await == piece(0));
    let (first, second) = (tokio::spawn(rest(first)), tokio::spawn(rest(second)));
    assert!(first.await.unwrap() == body(256) && second.await.unwrap() == body(256));
    // Once, however much there was to come.
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(10), "{waited:?}");
    // It is not told that the body has ended.
    assert!(stopped.next().await.unwrap().is_err());
    assert!(stopped.next().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_and_reads_on_is_not_cut_off() {
    let mut spilling = Spilling::new(0);
    let (pieces, mut bodies) = spilling.started(2).await;
    for n in 0..100 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    let (mut slow, quick) = (bodies.remove(0), bodies.remove(0));
    let quick = tokio::spawn(rest(quick));
    for n in 0..100 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(take(&mut slow, PIECE).await == piece(n));
    }
    assert!(slow.next().await.is_none() && quick.await.unwrap() == body(100));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_nobody_is_cut_off() {
    let mut spilling = Spilling::new(0);
    let (pieces, bodies) = spilling.started(2).await;
    for n in 0..100 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for body in bodies.into_iter().map(|body| tokio::spawn(rest(body))).collect::<Vec<_>>() {
        assert_eq!(body.await.unwrap().len() as u64, 100 * PIECE);
    }
    // One alone is never held to account.
    let (pieces, mut bodies) = spilling.started(1).await;
    for n in 0..100 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rest(bodies.remove(0)).await.len() as u64, 100 * PIECE);
}

/// The files below a directory.
fn files(dir: &std::path::Path) -> usize {
    let paths = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    paths.map(|p| if p.is_dir() { files(&p) } else { 1 }).sum()
}

#[tokio::test]
async fn what_is_stored_on_disk_as_it_comes_is_the_entry_when_it_is_whole() {
    let (mut spilling, dir) = Spilling::with_disk(0, 1 << 30);
    let (pieces, mut bodies) = spilling.started(2).await;
    let (stopped, mut quick) = (bodies.remove(0), bodies.remove(0));
    for n in 0..64 {
        pieces.send(Ok(piece(n))).unwrap();
        assert!(take(&mut quick, PIECE).await == piece(n));
        assert!(spilling.site.zone.growing() <= WINDOW + PIECE);
    }
    // Nobody needs to read it any more for it to be stored.
    drop(quick);
    pieces.send(Ok(piece(64))).unwrap();
    drop(pieces);
    spilling.site.idle().await;
    assert_eq!(spilling.site.zone.counters.fills(FillEnd::Stored), 1);
    let kept = spilling.site.get("/big").await.unwrap();
    let answer = kept.result.unwrap();
    assert_eq!((kept.status, answer.length), (Hit, Some(65 * PIECE)));
    assert!(rest(answer.body).await == body(65) && rest(stopped).await == body(65));
    assert!(!spilling.site.was_asked());
    assert_eq!(files(dir.path()), 1);
    assert_eq!(spilling.site.zone.growing(), 0);
}

#[tokio::test]
async fn what_breaks_off_on_its_way_to_the_disk_leaves_nothing_there() {
    let (mut spilling, dir) = Spilling::with_disk(0, 1 << 30);
    let (pieces, bodies) = spilling.started(1).await;
    for n in 0..64 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    pieces.send(Err(BodyError::Upstream("reset".into()))).unwrap();
    let mut body = bodies.into_iter().next().unwrap();
    take(&mut body, 64 * PIECE).await;
    assert!(body.next().await.unwrap().is_err());
    spilling.site.idle().await;
    until(|| files(dir.path()) == 0).await;
    assert_eq!(spilling.site.zone.store.held(), (0, 0));
    assert_eq!(spilling.site.zone.disk.as_ref().unwrap().held().0, 0);
}

#[tokio::test]
async fn what_outgrows_the_disk_goes_on_in_the_same_file_and_is_not_stored() {
    let (mut spilling, dir) = Spilling::with_disk(1 << 30, 2 * MEGABYTE);
    let (pieces, mut bodies) = spilling.started(2).await;
    let (stopped, mut quick) = (bodies.remove(0), bodies.remove(0));
    for n in 0..100 {
        pieces.send(Ok(piece(n))).unwrap();
        assert!(take(&mut quick, PIECE).await == piece(n));
    }
    drop(pieces);
    assert!(rest(stopped).await == body(100));
    spilling.site.idle().await;
    assert_eq!(spilling.site.zone.counters.fills(FillEnd::Passed), 1);
    assert_eq!(spilling.site.zone.counters.refusals(Refusal::TooLarge), 1);
    until(|| files(dir.path()) == 0).await;
    // What says that it is so large is not begun there.
    let first = spilling.site.get("/larger");
    let pieces = spilling.site.call().await.open(200, &[], Some(100 * PIECE));
    for n in 0..100 {
        pieces.send(Ok(piece(n))).unwrap();
    }
    drop(pieces);
    assert!(rest(first.await.unwrap().result.unwrap().body).await == body(100));
    assert_eq!(files(dir.path()), 0);
}
