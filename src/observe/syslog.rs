//! Lines to a syslog server: one datagram each, in nginx's form of RFC 3164, over UDP or a unix socket.
//!
//! A send never waits: what the socket does not take at once is lost, as datagrams are. A server
//! that cannot be reached is told of once a minute and tried again with the next line.

use super::error_log::{self, Level};
use crate::conf::values::{number, os_error};
use crate::conf::{ConfError, ConfResult};
use crate::modules::log::clock;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The port where none is named.
const PORT: u16 = 514;
/// The most characters of a tag.
const LONGEST_TAG: usize = 32;
/// The tag where none is named: nginx's, by which what it logged is sorted wherever it arrives.
const TAG: &str = "nginx";
/// A failing server is told of once in this time.
const REPORT_AGAIN: Duration = Duration::from_secs(60);

/// The facilities; a name's place is its code.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv", "ftp",
    "ntp", "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// A server that lines are sent to.
#[derive(Debug)]
pub struct Syslog {
    server: Server,
    facility: u8,
    severity: Level,
    tag: String,
    hostname: bool,
    socket: Mutex<Option<Socket>>,
    reported: Mutex<Option<Instant>>,
}

#[derive(Debug, PartialEq)]
enum Server {
    Udp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// What is written so far.
#[derive(Default)]
struct Parameters {
    server: Option<Server>,
    facility: Option<u8>,
    severity: Option<Level>,
    tag: Option<String>,
    nohostname: bool,
}

/// What was said with `what`, once.
fn once<T>(place: &mut Option<T>, what: &str, value: T) -> ConfResult<()> {
    if place.replace(value).is_some() {
        return Err(ConfError::new(format!("duplicate syslog \"{what}\"")));
    }
    Ok(())
}

impl Syslog {
    /// Reads what follows `syslog:`, parameters with commas between them. A host's name is looked up.
    pub fn parse(text: &str) -> ConfResult<Syslog> {
        let mut read = Parameters::default();
        for parameter in text.split(',') {
            match parameter.split_once('=') {
                Some(("server", value)) => once(&mut read.server, "server", server(value)?)?,
                Some(("facility", value)) => {
                    let code = FACILITIES.iter().position(|name| *name == value);
                    let code =
                        code.ok_or_else(|| ConfError::new(format!("unknown syslog facility \"{value}\"")))?;
                    once(&mut read.facility, "facility", code as u8)?;
                }
                Some(("severity", value)) => {
                    let level = Level::parse(value)
                        .ok_or_else(|| ConfError::new(format!("unknown syslog severity \"{value}\"")))?;
                    once(&mut read.severity, "severity", level)?;
                }
                Some(("tag", value)) => once(&mut read.tag, "tag", tag(value)?)?,
                None if parameter == "nohostname" => read.nohostname = true,
                _ => return Err(ConfError::new(format!("unknown syslog parameter \"{parameter}\""))),
            }
        }
        let server = read.server.ok_or_else(|| ConfError::new("no syslog server specified"))?;
        Ok(Syslog {
            server,
            facility: read.facility.unwrap_or(23),
            severity: read.severity.unwrap_or(Level::Info),
            tag: read.tag.unwrap_or_else(|| TAG.to_string()),
            hostname: !read.nohostname,
            socket: Mutex::default(),
            reported: Mutex::default(),
        })
    }

    /// Sends a line, without its end, at the configured severity. Returns false when that failed and
    /// it was not told for a minute.
    pub fn send(&self, line: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.send_at(self.severity, line)
    }

    /// As [`Syslog::send`], at `severity`.
    pub fn send_at(&self, severity: Level, line: impl FnOnce(&mut Vec<u8>)) -> bool {
        thread_local! {
            static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        // A line that reports a failed send is written while the first one's buffer is taken.
        let mut message = MESSAGE.take();
        message.clear();
        self.append_head(severity, &mut message);
        line(&mut message);
        if message.last() == Some(&b'\n') {
            message.pop();
        }
        let sent = self.transmit(&message);
        message.shrink_to(4096);
        MESSAGE.set(message);
        match sent {
            Ok(()) => true,
            Err((what, e)) => !self.report(what, &e),
        }
    }

    /// `<190>Nov 20 14:07:00 host nginx: `
    fn append_head(&self, severity: Level, out: &mut Vec<u8>) {
        let priority = u32::from(self.facility) * 8 + severity as u32;
        let _ = write!(out, "<{priority}>");
        clock::append_syslog(out);
        out.push(b' ');
        if self.hostname {
            out.extend_from_slice(hostname());
            out.push(b' ');
        }
        out.extend_from_slice(self.tag.as_bytes());
        out.extend_from_slice(b": ");
    }

    fn transmit(&self, message: &[u8]) -> Result<(), (&'static str, io::Error)> {
        let mut held = self.socket.lock();
        let socket = match &mut *held {
            Some(socket) => socket,
            none => none.insert(self.server.connect().map_err(|e| ("connect()", e))?),
        };
        match socket.send(message) {
            Ok(_) => Ok(()),
            Err(e) => {
                // A server that was started anew has another socket at the same path.
                if let Socket::Unix(_) = socket {
                    *held = None;
                }
                Err(("send()", e))
            }
        }
    }

    /// Tells the error log, if that is due. The error log may be this very server: the time is set,
    /// and the lock left, before it is told.
    fn report(&self, what: &str, e: &io::Error) -> bool {
        let now = Instant::now();
        {
            let mut reported = self.reported.lock();
            if reported.is_some_and(|at| now.duration_since(at) < REPORT_AGAIN) {
                return false;
            }
            *reported = Some(now);
        }
        let refused = matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset);
        let level = if refused { Level::Error } else { Level::Alert };
        error_log::log(level, format_args!("{what} failed ({})", os_error(e)));
        true
    }
}

impl Server {
    fn connect(&self) -> io::Result<Socket> {
        match self {
            Server::Udp(addr) => {
                let any = match addr {
                    SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                socket.connect(addr)?;
                Ok(Socket::Udp(socket))
            }
            Server::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                Ok(Socket::Unix(socket))
            }
        }
    }
}

impl Socket {
    fn send(&self, message: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Udp(socket) => socket.send(message),
            Socket::Unix(socket) => socket.send(message),
        }
    }
}

/// The name of this machine, in lower case as nginx has it.
fn hostname() -> &'static [u8] {
    static NAME: OnceLock<Vec<u8>> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = nix::unistd::gethostname().unwrap_or_default();
        name.to_string_lossy().to_ascii_lowercase().into_bytes()
    })
}

fn tag(text: &str) -> ConfResult<String> {
    if text.len() > LONGEST_TAG {
        return Err(ConfError::new(format!("syslog tag length exceeds {LONGEST_TAG}")));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(ConfError::new("syslog \"tag\" only allows alphanumeric characters and underscore"));
    }
    Ok(text.to_string())
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, `unix:path`.
fn server(text: &str) -> ConfResult<Server> {
    let mistake = |what: &str| ConfError::new(format!("{what} in syslog server \"{text}\""));
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(mistake("no path in the unix domain socket"));
        }
        return Ok(Server::Unix(path.into()));
    }
    let port = |text: &str| {
        let port = number(text).and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
        port.ok_or_else(|| mistake("invalid port"))
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or_else(|| mistake("invalid host"))?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| mistake("invalid IPv6 address"))?;
        let port = match rest.strip_prefix(':') {
            Some(text) => port(text)?,
            None => PORT,
        };
        return Ok(Server::Udp((ip, port).into()));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, text)) => (host, port(text)?),
        None => (text, PORT),
    };
    if host.is_empty() {
        return Err(mistake("no host"));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Server::Udp((ip, port).into()));
    }
    let found = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
    Ok(Server::Udp(found.ok_or_else(|| mistake("host not found"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Syslog::parse(text).map_or_else(|e| e.message, |_| "none".to_string())
    }

    #[test]
    fn servers_as_nginx_reads_them() {
        let udp = |text: &str| Server::Udp(text.parse().unwrap());
        assert_eq!(server("127.0.0.1").unwrap(), udp("127.0.0.1:514"));
        assert_eq!(server("127.0.0.1:1514").unwrap(), udp("127.0.0.1:1514"));
        assert_eq!(server("[::1]").unwrap(), udp("[::1]:514"));
        assert_eq!(server("[::1]:99").unwrap(), udp("[::1]:99"));
        assert_eq!(server("unix:/dev/log").unwrap(), Server::Unix("/dev/log".into()));
        assert!(matches!(server("localhost:9").unwrap(), Server::Udp(addr) if addr.ip().is_loopback()));
    }

    #[test]
    fn mistakes_in_nginxs_words() {
        for (text, want) in [
            ("", "unknown syslog parameter \"\""),
            ("server=", "no host in syslog server \"\""),
            ("server=127.0.0.1:x", "invalid port in syslog server \"127.0.0.1:x\""),
            ("server=127.0.0.1:0", "invalid port in syslog server \"127.0.0.1:0\""),
            ("server=unix:", "no path in the unix domain socket in syslog server \"unix:\""),
            ("facility=user", "no syslog server specified"),
            ("server=::1,facility=local8", "invalid port in syslog server \"::1\""),
            ("server=127.0.0.1,facility=local8", "unknown syslog facility \"local8\""),
            ("server=127.0.0.1,severity=warning", "unknown syslog severity \"warning\""),
            ("server=127.0.0.1,tag=a-b", "syslog \"tag\" only allows alphanumeric characters and underscore"),
            ("server=127.0.0.1,tag=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "syslog tag length exceeds 32"),
            ("server=127.0.0.1,tag=,nohostname", "none"),
            ("server=127.0.0.1,", "unknown syslog parameter \"\""),
            ("server=127.0.0.1, nohostname", "unknown syslog parameter \" nohostname\""),
            ("server=127.0.0.1,server=127.0.0.1", "duplicate syslog \"server\""),
            ("server=127.0.0.1,nohostname,nohostname", "none"),
        ] {
            assert_eq!(error(text), want, "{text}");
        }
    }

    #[test]
    fn a_line_is_a_datagram_of_nginxs_form() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let at = server.local_addr().unwrap();
        let receive = || {
            let mut room = [0; 4096];
            let n = server.recv(&mut room).unwrap();
            String::from_utf8_lossy(&room[..n]).into_owned()
        };
        let syslog = Syslog::parse(&format!("server={at},tag=abc,facility=authpriv")).unwrap();
        assert!(syslog.send(|out| out.extend_from_slice(b"one line\n")));
        let shape = regex::Regex::new(r"^<86>[A-Z][a-z]{2} [ 0-3]\d \d\d:\d\d:\d\d \S+ abc: one line$");
        let text = receive();
        assert!(shape.unwrap().is_match(&text), "{text:?}");
        let syslog = Syslog::parse(&format!("server={at},nohostname")).unwrap();
        assert!(syslog.send_at(Level::Crit, |out| out.extend_from_slice(b"x")));
        let text = receive();
        let shape = regex::Regex::new(r"^<186>[A-Z][a-z]{2} [ 0-3]\d \d\d:\d\d:\d\d nginx: x$");
        assert!(shape.unwrap().is_match(&text), "{text:?}");
    }

    #[test]
    fn a_server_that_comes_back_is_found_and_one_that_does_not_take_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let syslog = Syslog::parse(&format!("server=unix:{}", path.display())).unwrap();
        let send = || syslog.send(|out| out.extend_from_slice(b"x"));
        assert!(!send(), "told");
        assert!(send(), "told before");
        let server = UnixDatagram::bind(&path).unwrap();
        assert!(syslog.transmit(b"first").is_ok());
        drop(server);
        std::fs::remove_file(&path).unwrap();
        assert!(syslog.transmit(b"lost").is_err());
        let server = UnixDatagram::bind(&path).unwrap();
        assert!(syslog.transmit(b"second").is_ok());
        let mut room = [0; 16];
        let n = server.recv(&mut room).unwrap();
        assert_eq!(&room[..n], b"second");
        // Nobody reads: the socket is full before long, and says so at once.
        let full = (0..100_000).find_map(|_| syslog.transmit(&[b'x'; 1000]).err());
        assert_eq!(full.map(|(_, e)| e.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
