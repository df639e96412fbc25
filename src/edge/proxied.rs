//! `listen … proxy_protocol`: the balancer's header, before TLS and before HTTP.

use super::Local;
use super::connection::Socket;
use crate::conf::values::os_error;
use crate::http::listens::{Bound, address_text};
use crate::http::proxy_protocol::{self, Header, LONGEST};
use crate::http::request::Address;
use crate::observe::error_log::Level;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::pin::pin;
use tokio::io::Interest;
use tokio::time::timeout;

/// Why a connection has no header. Displays as nginx logs it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("client timed out (110: Connection timed out)")]
    Timeout,
    #[error("client closed connection")]
    Left,
    #[error("recv() failed ({})", os_error(.0))]
    Io(#[from] io::Error),
    #[error("{0}")]
    Header(#[from] proxy_protocol::Error),
}

/// Takes the header off a connection, which has `client_header_timeout` to come; `Err` when the
/// connection is to be closed, which was logged.
pub async fn accept(
    local: &Local,
    bound: &Bound,
    socket: &Socket,
    serial: u64,
    peer: &Address,
) -> Result<Option<Box<Header>>, ()> {
    let server = &local.generation.http.servers[bound.names.default];
    let waiting = &local.worker.metrics.connections.waiting;
    waiting.add(1);
    let taken = timeout(*server.conf.core.client_header_timeout, take(local, socket)).await;
    waiting.add(-1);
    let failure = match taken {
        Ok(Ok(header)) => return Ok(header.map(Box::new)),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Timeout,
    };
    let level = match failure {
        Failure::Header(proxy_protocol::Error::Short) => Level::Debug,
        Failure::Header(_) => Level::Error,
        _ => Level::Info,
    };
    let targets = &local.generation.http.levels[server.level].conf.core.error_logs;
    let log = local.generation.error_log();
    if log.wants(targets, level) {
        let client = peer.ip().map_or_else(|| address_text(peer), |ip| ip.to_string());
        log.write(
            targets,
            level,
            format_args!(
                "*{serial} {failure} while reading PROXY protocol, client: {client}, server: {}",
                bound.addr
            ),
        );
    }
    Err(())
}

async fn take(local: &Local, socket: &Socket) -> Result<Option<Header>, Failure> {
    let mut quit = pin!(local.worker.quit());
    // Registered before looking, so that no wake-up is lost.
    quit.as_mut().enable();
    if local.worker.quitting() {
        return Err(Failure::Left);
    }
    tokio::select! {
        biased;
        header = read(socket) => header,
        () = quit => Err(Failure::Left),
    }
}

/// Reads the header; what comes behind it stays in the socket.
async fn read(socket: &Socket) -> Result<Option<Header>, Failure> {
    loop {
        match socket {
            Socket::Tcp(stream) => stream.readable().await?,
            Socket::Unix(stream) => stream.readable().await?,
        }
        // On the stack for no longer than it takes.
        let mut buffer = [0; LONGEST];
        let there = match receive(socket, &mut buffer, RecvFlags::PEEK) {
            Ok(0) => return Err(Failure::Left),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e.into()),
        };
        let read = proxy_protocol::read(&buffer[..there]);
        // What was seen is there. Unread bytes would make the end of the connection a reset.
        let used = read.as_ref().map_or(there, |(used, _)| *used);
        let taken = receive(socket, &mut buffer[..used], RecvFlags::empty())?;
        let (_, header) = read?;
        return if taken == used { Ok(header) } else { Err(Failure::Left) };
    }
}

fn receive(socket: &Socket, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    match socket {
        Socket::Tcp(s) => s.try_io(Interest::READABLE, || Ok(recv(s, buffer, flags)?.0)),
        Socket::Unix(s) => s.try_io(Interest::READABLE, || Ok(recv(s, buffer, flags)?.0)),
    }
}

#[cfg(test)]
mod tests {
    use crate::observe::testing::Running;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn running(directives: &str) -> Running {
        Running::start(&format!(
            "error_log errors info; server {{ listen LISTEN proxy_protocol; {directives} }}"
        ))
    }

    fn logs(running: &Running, want: &str) {
        let line = &running.lines("errors", 1)[0];
        let want =
            format!("{want} while reading PROXY protocol, client: 127.0.0.1, server: {}", running.addr);
        assert!(line.ends_with(&want), "{line}");
    }

    #[test]
    fn what_is_no_header_is_told_and_closed() {
        for (bytes, want) in [
            ("GET / HTTP/1.0\r\n\r\n", "[error] broken header: \"GET / HTTP/1.0\""),
            ("PROXY TCP4 1.2.3.4", "[error] broken header: \"PROXY TCP4 1.2.3.4\""),
            ("\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0", "[error] unknown PROXY protocol version: 1"),
            ("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "[error] header is too large"),
        ] {
            let running = running("");
            assert_eq!(running.send(bytes), "");
            let (level, message) = want.split_once(' ').unwrap();
            logs(&running, message);
            assert!(running.lines("errors", 1)[0].contains(level));
        }
    }

    #[test]
    fn a_client_that_says_nothing_is_timed_out() {
        let running = running("client_header_timeout 50ms;");
        let mut silent = TcpStream::connect(running.addr).unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
        logs(&running, "client timed out (110: Connection timed out)");
        let left = TcpStream::connect(running.addr).unwrap();
        drop(left);
        assert!(running.lines("errors", 2)[1].contains("client closed connection while reading PROXY"));
    }

    #[test]
    fn additional_fields_are_variables() {
        let running = running(
            "location / { return 200 \"$proxy_protocol_tlv_alpn $proxy_protocol_tlv_0x02 \
             $proxy_protocol_tlv_ssl_verify $proxy_protocol_tlv_ssl_cn;\"; } \
             location /bad { return 200 \"$proxy_protocol_tlv_nonsense;\"; }",
        );
        let ask = |path: &str| {
            let mut stream = TcpStream::connect(running.addr).unwrap();
            let ssl = b"\x20\0\x0a\x01\0\0\0\x02\x22\0\x02cn";
            let tlvs = [&b"\x01\0\x02h2\x02\0\x04host"[..], ssl].concat();
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".to_vec();
            header.push(12 + tlvs.len() as u8);
            header.extend([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]);
            header.extend(tlvs);
            header.extend(format!("GET {path} HTTP/1.0\r\n\r\n").bytes());
            stream.write_all(&header).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        assert!(ask("/").ends_with("\r\n\r\nh2 host 2 cn;"));
        assert!(ask("/bad").ends_with("\r\n\r\n;"));
    }
}
