//! The growing answer itself, by its properties.

use super::super::fill::Fill;
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::task::{Wake, Waker};

proptest! {
    /// Whatever the pieces, whenever readers read, whenever what is in the file is forgotten and the
    /// held pieces are replaced by others of the same bytes: every reader gets the same bytes in the
    /// same order.
    #[test]
    fn every_reader_gets_every_byte(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..20),
        repack in 1usize..30,
        eager in prop::collection::vec(0usize..5, 20),
        spills in prop::option::of(0u64..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fill = Fill::new(Bytes::new(), None);
            let file = Arc::new(tempfile::tempfile().unwrap());
            if spills.is_some() {
                fill.spill(file.clone());
            }
            let mut readers = [fill.join().unwrap(), fill.join().unwrap()];
            let mut read = [Vec::new(), Vec::new()];
            let whole: Vec<u8> = parts.concat();
            let mut written = 0;
            for (n, part) in parts.iter().enumerate() {
                fill.push(Bytes::copy_from_slice(part));
                for _ in 0..eager[n % eager.len()] {
                    take(&mut readers[0], &mut read[0]);
                }
                if let Some(window) = spills {
                    file.write_all_at(part, written).unwrap();
                    written += part.len() as u64;
                    assert!(fill.wrote(written, window) <= window.max(part.len() as u64));
                }
            }
            if spills.is_none() {
                let packed: Vec<Bytes> = whole.chunks(repack).map(Bytes::copy_from_slice).collect();
                fill.replace(packed.iter().cloned());
            }
            fill.finish(Ok(()));
            for (reader, mut read) in readers.into_iter().zip(read) {
                read.extend(Body::Stream(Box::new(reader)).collect(usize::MAX).await.unwrap().unwrap());
                assert_eq!(read, whole);
            }
        });
    }
}

/// Reads one piece if there is one.
fn take(reader: &mut super::super::fill::Reader, read: &mut Vec<u8>) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match reader.poll_next(&mut cx) {
        Poll::Ready(Some(piece)) => {
            read.extend_from_slice(&piece.unwrap());
            true
        }
        Poll::Ready(None) | Poll::Pending => false,
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_piece_wakes_who_waits_once_and_nobody_else() {
    let fill = Fill::new(Bytes::new(), None);
    let wakers: Vec<_> = (0..1000).map(|_| Arc::new(Woken::default())).collect();
    let mut readers: Vec<_> = wakers.iter().map(|_| fill.join().unwrap()).collect();
    let mut poll = |n: usize| {
        let waker = Waker::from(wakers[n].clone());
        readers[n].poll_next(&mut Context::from_waker(&waker)).is_ready()
    };
    let woken = || -> usize { wakers.iter().map(|w| w.0.load(std::sync::atomic::Ordering::Relaxed)).sum() };
    assert!((0..1000).all(|n| !poll(n)));
    fill.push(Bytes::from_static(b"one"));
    assert_eq!(woken(), 1000);
    // Who has not come back yet is not woken again.
    assert!((0..10).all(|n| poll(n) && !poll(n)));
    fill.push(Bytes::from_static(b"two"));
    assert_eq!(woken(), 1010);
    // Who reads wakes nobody, and neither does who comes or leaves.
    assert!((0..1000).all(&mut poll));
    drop(fill.join());
    assert_eq!(woken(), 1010);
}
