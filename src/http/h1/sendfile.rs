//! A large file goes from the page cache to a plain TCP socket without passing through the process.

use crate::cache::file_io::{Stop, Wait, read_at};
use crate::http::body::BodyError;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of a file from which on it is worth the calls.
pub(super) const WORTH: u64 = 64 * 1024;
/// Bytes asked for at once.
const WINDOW: u64 = 256 * 1024;
/// Bytes after which others get their turn.
const TURN: u64 = 2 * 1024 * 1024;

/// Sends the part `range` of a file; adds what was sent to `sent`. A pause between two steps is at most
/// `each`.
pub(super) async fn send_file(
    stream: &TcpStream,
    file: &Arc<File>,
    range: Range<u64>,
    each: Duration,
    sent: &mut u64,
) -> Result<(), BodyError> {
    let mut at = range.start;
    let mut turn = 0;
    while at < range.end {
        let window = (range.end - at).min(WINDOW);
        bring(file, at, window).await?;
        let mut offset = at;
        let step = || {
            let n = rustix::fs::sendfile(stream, file, Some(&mut offset), window as usize)?;
            Ok(n as u64)
        };
        match stream.try_io(Interest::WRITABLE, step) {
            // The file has become shorter than the client was told.
            Ok(0) => {
                let e = io::Error::new(io::ErrorKind::UnexpectedEof, "file was truncated");
                return Err(BodyError::File(e));
            }
            Ok(n) => {
                at += n;
                turn += n;
                *sent += n;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let ready = timeout(each, stream.writable()).await.map_err(|_| BodyError::ClientTimeout)?;
                ready.map_err(BodyError::Client)?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(BodyError::Client(e)),
        }
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Sees to it that the next bytes are in the page cache, so that sending them does not wait for a disk:
/// what is not at hand is read on a thread that may wait.
async fn bring(file: &Arc<File>, at: u64, window: u64) -> Result<(), BodyError> {
    let at_hand = |offset| read_at(file, &mut [0], offset, Wait::No) != Err(Stop::WouldWait);
    if at_hand(at) && at_hand(at + window - 1) {
        return Ok(());
    }
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; window as usize];
        read_at(&file, &mut bytes, at, Wait::Yes)
    });
    match read.await {
        Ok(Err(Stop::Failed(failure))) => Err(BodyError::File(failure.error())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncReadExt;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    fn file_of(length: usize) -> (Arc<File>, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (Arc::new(file), bytes)
    }

    #[tokio::test]
    async fn a_part_arrives_whole_however_slow_the_client() {
        let (file, bytes) = file_of(5_000_000);
        let (mut client, server) = pair().await;
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut sent = 0;
        send_file(&server, &file, 7..4_999_990, Duration::from_secs(10), &mut sent).await.unwrap();
        drop(server);
        assert_eq!(sent, 4_999_983);
        assert_eq!(reader.await.unwrap(), bytes[7..4_999_990]);
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_promised_is_an_error() {
        let (file, bytes) = file_of(100_000);
        let (mut client, server) = pair().await;
        let drain = tokio::spawn(async move {
            let mut got = Vec::new();
            let _ = client.read_to_end(&mut got).await;
            got.len()
        });
        let mut sent = 0;
        let result = send_file(&server, &file, 0..200_000, Duration::from_secs(10), &mut sent).await;
        assert!(matches!(result, Err(BodyError::File(_))));
        drop(server);
        assert_eq!((drain.await.unwrap(), sent), (bytes.len(), bytes.len() as u64));
    }
}
