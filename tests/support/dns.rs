//! A name server whose answers change while it runs.
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::address;

/// Knows addresses of names, for a second at a time. It ends with its value.
pub struct Dns {
    addr: SocketAddr,
    names: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
    task: JoinHandle<()>,
}

impl Dns {
    /// Begins without a name.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind((address::fresh(), 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let names = Arc::<Mutex<HashMap<String, Vec<Ipv4Addr>>>>::default();
        let known = names.clone();
        let task = tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((size, from)) = socket.recv_from(&mut packet).await {
                let answer = answer(&packet[..size], &known.lock().unwrap());
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Self { addr, names, task }
    }

    /// Where it is asked.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a name has from now on; without an address there is no such name.
    pub fn set(&self, name: &str, addrs: &[Ipv4Addr]) {
        self.names.lock().unwrap().insert(name.into(), addrs.to_vec());
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(packet: &[u8], names: &HashMap<String, Vec<Ipv4Addr>>) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while packet[at] > 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let addrs = names.get(&labels.join(".")).map_or(&[][..], Vec::as_slice);
    let code = if addrs.is_empty() { 3 } else { 0 };
    let addrs = if packet[at + 2] == 1 { addrs } else { &[] };
    let records: Vec<u8> = addrs
        .iter()
        .flat_map(|addr| [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4], &addr.octets()[..]].concat())
        .collect();
    let head = [packet[0], packet[1], 0x81, 0x80 | code, 0, 1, 0, addrs.len() as u8, 0, 0, 0, 0];
    [&head[..], &packet[12..at + 5], &records].concat()
}
