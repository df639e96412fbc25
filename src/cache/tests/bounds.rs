//! Memory is bounded: objects, fills together, what passes through where there are no files.

use super::super::counters::FillEnd;
use super::super::freshness::Refusal;
use super::super::pump::WINDOW;
use super::*;
use CacheStatus::Miss;
use std::sync::atomic::{AtomicU64, Ordering};

/// A body of so many pieces of 64 KB, that counts what is taken from it.
struct Endless {
    left: u64,
    taken: Arc<AtomicU64>,
}

const PIECE: u64 = 64 << 10;

impl BodyStream for Endless {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(PIECE, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Bytes::from(vec![self.left as u8; PIECE as usize]))))
    }
}

fn endless(call: Call, pieces: u64) -> Arc<AtomicU64> {
    let taken = Arc::new(AtomicU64::new(0));
    let body = Endless { left: pieces, taken: taken.clone() };
    call.answer(200, &[], None, Body::Stream(Box::new(body)));
    taken
}

impl Site {
    /// A zone of 8 MB, with objects of 1 MB at most, and no temporary files.
    fn without_files() -> Site {
        let mut site = Site::sized(8 * MEGABYTE);
        site.policy.temporary.most = 0;
        site
    }
}

#[tokio::test]
async fn what_says_that_it_is_too_large_is_shared_and_not_held() {
    let mut site = Site::without_files();
    let (first, second) = (site.get("/big"), site.get("/big"));
    let call = site.call().await;
    site.readers(2).await;
    let pieces = call.open(200, &[], Some(MEGABYTE + 1));
    let mut first = first.await.unwrap().result.unwrap();
    let mut second = second.await.unwrap().result.unwrap();
    assert_eq!((first.length, second.length), (Some(MEGABYTE + 1), Some(MEGABYTE + 1)));
    for length in [MEGABYTE as usize, 1] {
        pieces.send(Ok(Bytes::from(vec![7; length]))).unwrap();
        for answer in [&mut first, &mut second] {
            assert_eq!(answer.body.next().await.unwrap().unwrap().len(), length);
        }
    }
    drop(pieces);
    assert!(first.body.next().await.is_none());
    site.idle().await;
    assert_eq!(site.zone.store.held(), (0, 0));
    assert_eq!(site.zone.counters.refusals(Refusal::TooLarge), 1);
}

#[tokio::test]
async fn what_turns_out_too_large_passes_at_the_pace_of_its_slowest_reader() {
    // This one has 16 MB.
    let mut site = Site::without_files();
    let first = site.get("/big");
    let second = site.get("/big");
    let call = site.call().await;
    site.readers(2).await;
    let taken = endless(call, 256);
    let mut quick = first.await.unwrap().result.unwrap().body;
    let mut slow = second.await.unwrap().result.unwrap().body;
    settle().await;
    let ahead = taken.load(Ordering::Relaxed);
    assert!(ahead <= MEGABYTE + WINDOW + PIECE, "{ahead} bytes are held for readers that read nothing");
    assert!(site.zone.growing() <= MEGABYTE + WINDOW, "what is held is counted");
    // Nobody joins it any more when its beginning is forgotten.
    let (mut read, mut behind) = (0, 0);
    while taken.load(Ordering::Relaxed) == ahead {
        read += quick.next().await.unwrap().unwrap().len() as u64;
        behind += slow.next().await.unwrap().unwrap().len() as u64;
        settle().await;
    }
    let third = site.get("/big");
    drop(site.call().await);
    assert_eq!(failed(third).await, (Miss, 502));
    loop {
        // The slow one reads only when the quick one cannot go on.
        tokio::select! {
            biased;
            piece = quick.next() => match piece {
                Some(piece) => read += piece.unwrap().len() as u64,
                None => break,
            },
            piece = slow.next() => behind += piece.unwrap().unwrap().len() as u64,
        }
        assert!(taken.load(Ordering::Relaxed) - behind <= MEGABYTE + WINDOW + 2 * PIECE);
    }
    while let Some(piece) = slow.next().await {
        behind += piece.unwrap().len() as u64;
    }
    assert_eq!((read, behind), (256 * PIECE, 256 * PIECE));
    site.idle().await;
    assert_eq!(site.zone.counters.fills(FillEnd::Passed), 1);
    assert_eq!(site.zone.store.held(), (0, 0));
}

#[tokio::test]
async fn a_reader_that_leaves_frees_the_others_of_its_pace() {
    let mut site = Site::without_files();
    let (first, second) = (site.get("/big"), site.get("/big"));
    let call = site.call().await;
    site.readers(2).await;
    let taken = endless(call, 256);
    let quick = first.await.unwrap().result.unwrap();
    let slow = second.await.unwrap().result.unwrap();
    let reading = tokio::spawn(async move {
        let mut body = quick.body;
        let mut read = 0;
        while let Some(piece) = body.next().await {
            read += piece.unwrap().len() as u64;
        }
        read
    });
    settle().await;
    assert!(!reading.is_finished() && taken.load(Ordering::Relaxed) < 4 * MEGABYTE);
    drop(slow);
    assert_eq!(reading.await.unwrap(), 256 * PIECE);
}

#[tokio::test]
async fn what_passes_ends_when_nobody_reads_it() {
    let mut site = Site::without_files();
    let first = site.get("/live.flv");
    let taken = endless(site.call().await, 1024);
    drop(first.await.unwrap().result.unwrap());
    site.idle().await;
    assert!(taken.load(Ordering::Relaxed) <= 2 * MEGABYTE + WINDOW);
    assert_eq!(site.zone.counters.fills(FillEnd::Abandoned), 1);
}

#[tokio::test]
async fn fills_together_hold_no_more_than_half_the_zone() {
    // 8 MB: 4 MB for fills, 1 MB for each.
    let mut site = Site::without_files();
    let mut open = Vec::new();
    for n in 0..6 {
        let request = site.get(&format!("/{n}"));
        let pieces = site.call().await.open(200, &[], None);
        let answer = request.await.unwrap().result.unwrap();
        for _ in 0..14 {
            pieces.send(Ok(Bytes::from(vec![n; PIECE as usize]))).unwrap();
        }
        settle().await;
        // Beyond it a fill that passes has a window, as long as its readers are slow.
        assert!(site.zone.growing() <= 4 * MEGABYTE + 2 * WINDOW);
        open.push((pieces, answer));
    }
    // The first four are kept; the others pass, and their readers get every byte all the same.
    for (n, (pieces, answer)) in open.into_iter().enumerate() {
        drop(pieces);
        let mut body = answer.body;
        let bytes = body.collect(usize::MAX).await.unwrap().unwrap();
        assert!(bytes.len() as u64 == 14 * PIECE && bytes.iter().all(|b| *b == n as u8));
    }
    site.idle().await;
    assert_eq!(site.zone.growing(), 0);
    assert_eq!(site.zone.counters.fills(FillEnd::Stored), 4);
    assert_eq!(site.zone.counters.fills(FillEnd::Passed), 2);
}

#[tokio::test]
async fn a_large_body_is_kept_in_pages_and_whole() {
    let mut site = Site::new();
    let first = site.get("/a");
    let pieces = site.call().await.open(200, &[], None);
    let bytes: Vec<u8> = (0..5 * MEGABYTE as usize / 2).map(|n| (n % 251) as u8).collect();
    for part in bytes.chunks(10_007) {
        pieces.send(Ok(Bytes::copy_from_slice(part))).unwrap();
    }
    drop(pieces);
    let read = first.await.unwrap().result.unwrap().body.collect(usize::MAX).await.unwrap().unwrap();
    assert!(read[..] == bytes[..]);
    site.idle().await;
    let kept = site.get("/a").await.unwrap().result.unwrap();
    assert_eq!(kept.length, Some(bytes.len() as u64));
    assert!(matches!(&kept.body, Body::Lasting(whole) if whole.len() == bytes.len()));
    let mut body = kept.body;
    assert!(body.collect(usize::MAX).await.unwrap().unwrap()[..] == bytes[..]);
}

#[tokio::test]
async fn parts_are_cut_from_what_grows_and_fail_when_it_is_no_longer_held() {
    let mut site = Site::without_files();
    let first = site.get("/a");
    let pieces = site.call().await.open(200, &[], None);
    let first = first.await.unwrap().result.unwrap();
    let second = site.get("/a").await.unwrap().result.unwrap();
    let part = |body: &Body, range| match body {
        Body::Stream(stream) => stream.part(range),
        _ => None,
    };
    assert!(part(&first.body, 0..0).is_none(), "nginx cuts one range from what it is receiving");
    let mut late = part(&second.body, 3..7).unwrap();
    let mut early = part(&second.body, 0..2).unwrap();
    drop(second);
    for text in ["0123", "4567", "89"] {
        pieces.send(Ok(Bytes::from_static(text.as_bytes()))).unwrap();
    }
    assert_eq!(late.collect(100).await.unwrap().unwrap(), "3456");
    // Now it turns out larger than may be kept, and goes at the pace of its one whole reader.
    for _ in 0..64 {
        pieces.send(Ok(Bytes::from(vec![0; PIECE as usize]))).unwrap();
    }
    drop(pieces);
    let mut body = first.body;
    assert_eq!(body.collect(usize::MAX).await.unwrap().unwrap().len() as u64, 10 + 64 * PIECE);
    assert!(early.next().await.unwrap().is_err());
}

#[tokio::test]
async fn what_is_kept_and_what_is_still_read_are_the_same_memory() {
    let mut site = Site::new();
    let slow = site.get("/a");
    let pieces = site.call().await.open(200, &[], None);
    for text in ["in ", "several ", "pieces"] {
        pieces.send(Ok(Bytes::from_static(text.as_bytes()))).unwrap();
    }
    drop(pieces);
    let mut slow = slow.await.unwrap().result.unwrap().body;
    site.idle().await;
    let Body::Bytes(kept) = site.get("/a").await.unwrap().result.unwrap().body else {
        panic!("a small body is kept in one piece");
    };
    let read = slow.next().await.unwrap().unwrap();
    assert_eq!((read.as_ptr(), read.len()), (kept.as_ptr(), kept.len()));
}

#[tokio::test]
async fn what_was_kept_a_moment_ago_is_not_asked_for_again() {
    let mut site = Site::new();
    site.kept("/a", &[], "new").await;
    let key = Key::new(Bytes::from_static(b"/a"));
    let patience = Duration::from_secs(5);
    let new = || super::super::fill::Fill::new(Bytes::new(), None);
    let kept = site.zone.store.get(&key).unwrap();
    // One who saw nothing there, and one who saw something older, look again.
    use super::super::zone::Begun;
    let older = Arc::new(kept.refreshed(kept.times));
    assert!(matches!(site.zone.begin((&key, 0), patience, None, new), Begun::Changed));
    assert!(matches!(site.zone.begin((&key, 0), patience, Some(&older), new), Begun::Changed));
    assert!(matches!(site.zone.begin((&key, 0), patience, Some(&kept), new), Begun::Started(_)));
}
