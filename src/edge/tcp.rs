//! Options of TCP sockets that the socket crates do not have.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

/// `TCP_DEFER_ACCEPT`: seconds for which a connection without data is not accepted.
pub const DEFER_ACCEPT: i32 = libc::TCP_DEFER_ACCEPT;
/// `TCP_FASTOPEN`: connections that may wait with data of their first packet.
pub const FASTOPEN: i32 = libc::TCP_FASTOPEN;

/// What the kernel knows of a connection (`TCP_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Smoothed round-trip time in microseconds.
    pub rtt: u32,
    /// Its variation in microseconds.
    pub rttvar: u32,
    /// The congestion window in segments.
    pub snd_cwnd: u32,
    /// The receive window that is advertised, in bytes.
    pub rcv_space: u32,
    /// The backlog of a listening socket.
    pub backlog: u32,
}

/// Sets a TCP option whose value is a number.
pub fn set(socket: &impl AsRawFd, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes at the address of `value`, which lives until it returns; it
    // checks the descriptor itself.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel knows of the connection behind a descriptor; `None` when it is none of TCP.
pub fn info(descriptor: RawFd) -> Option<Info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `size` bytes, which is what there is. All of the structure
    // is numbers, for which zero, where the kernel writes nothing, is a value too. A descriptor that is
    // closed, or another's, is no danger to memory: the kernel fails, or tells of another socket.
    let info = unsafe {
        let result = libc::getsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        );
        if result != 0 {
            return None;
        }
        info.assume_init()
    };
    Some(Info {
        rtt: info.tcpi_rtt,
        rttvar: info.tcpi_rttvar,
        snd_cwnd: info.tcpi_snd_cwnd,
        rcv_space: info.tcpi_rcv_space,
        backlog: info.tcpi_sacked,
    })
}

/// Has the connection behind a descriptor reset, not finished, when it is closed: what has not been sent is
/// dropped. Nothing happens to what is no socket.
pub fn reset_on_close(descriptor: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes at the address of `linger`, which lives until it returns; it checks
    // the descriptor itself. Of one that is closed there is nothing to reset.
    unsafe {
        let value = (&raw const linger).cast();
        libc::setsockopt(descriptor, libc::SOL_SOCKET, libc::SO_LINGER, value, size);
    }
}

/// The value of an option that is a number.
#[cfg(test)]
pub fn get(socket: &impl AsRawFd, level: i32, option: i32) -> i32 {
    let (mut value, mut size) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: as in `info`.
    let result = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut size)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_a_round_trip_time_and_a_file_has_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = info(stream.as_raw_fd()).unwrap();
        assert!(info.rtt > 0 && info.snd_cwnd > 0 && info.rcv_space > 0, "{info:?}");
        assert_eq!(super::info(std::fs::File::open("/dev/null").unwrap().as_raw_fd()), None);
    }
}
