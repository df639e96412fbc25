//! What a server logs elsewhere than in plain files: syslog messages, a compressed log.

use std::io::{self, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::transcript::Transcript;

/// Where the stand-in for a syslog server listens.
pub const SYSLOG_PORT: u16 = 28514;

/// Sockets of the stand-in; messages stay in them until they are written down.
pub struct Collected {
    udp: Option<UdpSocket>,
    unix: Option<UnixDatagram>,
}

impl Collected {
    /// Listens where the configuration sends to.
    pub fn listen(conf: &str, ip: Ipv4Addr, dir: &Path) -> io::Result<Collected> {
        let udp = conf
            .contains(&format!("{ip}:{SYSLOG_PORT}"))
            .then(|| UdpSocket::bind((ip, SYSLOG_PORT)))
            .transpose()?;
        let path = dir.join("syslog");
        let unix = conf
            .contains(&format!("unix:{}", path.display()))
            .then(|| UnixDatagram::bind(path))
            .transpose()?;
        udp.as_ref().map_or(Ok(()), |s| s.set_nonblocking(true))?;
        unix.as_ref().map_or(Ok(()), |s| s.set_nonblocking(true))?;
        Ok(Collected { udp, unix })
    }

    /// Writes down what has come; the server has ended.
    pub fn write_down(self, dir: &Path, transcript: &mut Transcript) {
        let mut room = vec![0; 70_000];
        let mut all = |what: &str, receive: &dyn Fn(&mut [u8]) -> io::Result<usize>| {
            while let Ok(n) = receive(&mut room) {
                transcript.log(&format!("{what}: {}", String::from_utf8_lossy(&room[..n])));
            }
        };
        if let Some(socket) = &self.udp {
            all("syslog", &|room| socket.recv(room));
        }
        if let Some(socket) = &self.unix {
            all("syslog unix", &|room| socket.recv(room));
        }
        if let Ok(bytes) = std::fs::read(dir.join("access.log.gz")) {
            let mut text = Vec::new();
            if let Err(e) = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text) {
                transcript.note(&format!("error: access.log.gz: {e}"));
            }
            transcript.log(&String::from_utf8_lossy(&text));
        }
    }
}
