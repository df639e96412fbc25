//! Memory to a socket without copying it: its pages are put into a pipe, and from there into the socket's
//! queue. Every thread has a pipe for it, which is empty between two calls.
#![allow(unsafe_code)]

use super::pages::Lasting;
use super::spare;
use rustix::io::Errno;
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, vmsplice};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are asked for in a pipe: the most that one may hold for who is not root.
const ROOM: usize = 1 << 20;

/// Systems that imitate Linux, and sandboxes, may not have it.
static REFUSED: AtomicBool = AtomicBool::new(false);

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static PIPE: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one takes more calls: so it is where a user has too many large ones.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Ok(Pipe { read, write })
    }

    /// Puts the beginning of `bytes` into the pipe. Returns how many.
    fn fill(&self, bytes: &Lasting) -> Result<usize, Errno> {
        let slices = [IoSliceRaw::from_slice(bytes)];
        spare::lend();
        // SAFETY: the kernel only reads this memory, which is borrowed for the call. That it reads it later,
        // too, by the pages, is what `Lasting` is for: nobody writes to those, and when they are unmapped the
        // pipe and the socket have references of their own. (`GIFT`, for which the call is unsafe, would give
        // the pages away; it is not set.)
        unsafe { vmsplice(&self.write, &slices, SpliceFlags::NONBLOCK) }
    }
}

/// Sends as much of `bytes` as the socket, which must not wait, takes at once. Returns how much; less than all
/// means that the socket is full.
///
/// # Errors
/// `WouldBlock` when it takes nothing, `Unsupported` when it is to be written instead; others are the socket's.
pub fn send(socket: &impl AsFd, bytes: &Lasting) -> io::Result<usize> {
    if REFUSED.load(Ordering::Relaxed) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    PIPE.with_borrow_mut(|slot| {
        let pipe = match slot.take() {
            Some(pipe) => pipe,
            // There are no more descriptors, maybe.
            None => Pipe::new().map_err(|_| io::ErrorKind::Unsupported)?,
        };
        let mut sent = 0;
        while sent < bytes.len() {
            let filled = match pipe.fill(&bytes.slice(sent..)) {
                Ok(filled) => filled,
                Err(Errno::INTR) => continue,
                Err(e) => {
                    if is_refusal(e) {
                        REFUSED.store(true, Ordering::Relaxed);
                    }
                    return if sent > 0 { Ok(sent) } else { Err(io::ErrorKind::Unsupported.into()) };
                }
            };
            let more = if sent + filled < bytes.len() { SpliceFlags::MORE } else { SpliceFlags::empty() };
            match splice(&pipe.read, None, socket, None, filled, SpliceFlags::NONBLOCK | more) {
                Ok(n) if n == filled => sent += n,
                // What is left in the pipe goes with it: the next bytes may be of another body.
                Ok(n) => return Ok(sent + n),
                Err(_) if sent > 0 => return Ok(sent),
                Err(e) => return Err(e.into()),
            }
        }
        *slot = Some(pipe);
        Ok(sent)
    })
}

/// Whether it will be no other the next time; there may be memory again.
fn is_refusal(e: Errno) -> bool {
    matches!(e, Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::super::pages::{Filling, WORTH};
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server)
    }

    fn body(length: usize, seed: usize) -> (Lasting, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + n / 251 + seed) as u8).collect();
        let mut pages = Filling::new(length).unwrap();
        assert!(pages.push(&bytes).is_empty());
        (pages.finish(), bytes)
    }

    /// Sends until the socket is full.
    fn send_most(server: &TcpStream, bytes: &Lasting) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match send(server, &bytes.slice(sent..)) {
                Ok(n) => sent += n,
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        sent
    }

    #[test]
    fn what_waits_in_a_socket_is_the_old_body_when_its_memory_is_anothers() {
        const LENGTH: usize = 3 * WORTH + 5;
        let (mut client, server) = pair();
        let (first, bytes) = body(LENGTH, 1);
        let place = first.as_ptr();
        let sent = send_most(&server, &first);
        assert!(sent > 0);
        drop(first);
        // The system gives the same addresses again, mostly.
        let others: Vec<_> = (0..8).map(|n| body(LENGTH, 100 + n)).collect();
        let reused = others.iter().any(|(other, _)| other.as_ptr() == place);
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got == bytes[..sent], "addresses used again: {reused}");
    }

    #[test]
    fn what_a_full_socket_did_not_take_is_not_sent_to_another() {
        let (first, bytes) = body(16 << 20, 2);
        let (mut client, server) = pair();
        let sent = send_most(&server, &first);
        assert!(sent < bytes.len(), "a socket that takes anything");
        let (mut other_client, other) = pair();
        let (second, other_bytes) = body(WORTH, 77);
        let other_sent = send_most(&other, &second.slice(10..));
        drop((server, other));
        let (mut got, mut other_got) = (Vec::new(), Vec::new());
        client.read_to_end(&mut got).unwrap();
        other_client.read_to_end(&mut other_got).unwrap();
        assert!(got == bytes[..sent] && other_got == other_bytes[10..10 + other_sent]);
    }

    #[test]
    fn what_passes_is_no_refusal() {
        assert!([Errno::NOSYS, Errno::PERM, Errno::INVAL].into_iter().all(is_refusal));
        assert!(![Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::AGAIN].into_iter().any(is_refusal));
    }

    #[test]
    fn who_has_left_is_an_error() {
        let (client, server) = pair();
        drop(client);
        let (bytes, _) = body(WORTH, 3);
        let failed = (0..1000).find_map(|_| send(&server, &bytes).err());
        let kind = failed.unwrap().kind();
        assert!(matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{kind}");
    }
}
