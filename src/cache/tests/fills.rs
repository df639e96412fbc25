//! The growing answer itself, by its properties.

use super::super::fill::Fill;
use super::*;
use proptest::prelude::*;

proptest! {
    /// Whatever the pieces, whenever readers read, and whenever the held pieces are replaced by
    /// others of the same bytes: every reader gets the same bytes in the same order.
    #[test]
    fn every_reader_gets_every_byte(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..20),
        repack in 1usize..30,
        eager in prop::collection::vec(0usize..5, 20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fill = Fill::new(Bytes::new(), None);
            let mut readers = [fill.join().unwrap(), fill.join().unwrap()];
            let mut read = [Vec::new(), Vec::new()];
            let whole: Vec<u8> = parts.concat();
            for (n, part) in parts.iter().enumerate() {
                fill.push(Bytes::copy_from_slice(part)).await.unwrap();
                for _ in 0..eager[n % eager.len()] {
                    take(&mut readers[0], &mut read[0]);
                }
            }
            let packed: Vec<Bytes> = whole.chunks(repack).map(Bytes::copy_from_slice).collect();
            fill.replace(&packed);
            fill.finish(Ok(()));
            for (reader, read) in readers.iter_mut().zip(&mut read) {
                while take(reader, read) {}
                assert_eq!(*read, whole);
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
