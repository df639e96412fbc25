//! Loopback addresses: each server and each set of stand-ins gets one of its own, so that ports need no allocation
//! and the answers of both sides have the same length.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address in 127.100.100.100 - 127.199.199.199 that nobody else of us uses while this value lives.
pub struct Address {
    pub ip: Ipv4Addr,
    /// Holding this port is the reservation; nothing is ever sent.
    _reservation: UdpSocket,
}

const RESERVATION_PORT: u16 = 8;
const RESERVATION_PORT_UNPRIVILEGED: u16 = 10_008;

impl Address {
    pub fn reserve() -> Result<Address, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = std::process::id().wrapping_mul(7919);
        for _ in 0..10_000 {
            let n = base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 1_000_000;
            let part = |n: u32| 100 + u8::try_from(n % 100).expect("below 100");
            let ip = Ipv4Addr::new(127, part(n / 10_000), part(n / 100), part(n));
            let reserved = UdpSocket::bind((ip, RESERVATION_PORT))
                .or_else(|_| UdpSocket::bind((ip, RESERVATION_PORT_UNPRIVILEGED)));
            if let Ok(socket) = reserved {
                return Ok(Address { ip, _reservation: socket });
            }
        }
        Err("no loopback address could be reserved".into())
    }
}
