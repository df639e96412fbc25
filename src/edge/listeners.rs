//! Listening sockets: one per address and worker (SO_REUSEPORT), kept over reloads.

use super::tcp;
use crate::conf::values::os_error;
use crate::conf::{ConfError, ConfResult};
use crate::http::listens::{ListenAddr, ListenOptions, Listens};
use crate::observe::error_log::{Level, log};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// The sockets of one address, one for each worker. A unix socket is one, shared.
pub struct Group {
    /// The address.
    pub addr: Arc<ListenAddr>,
    sockets: Vec<Socket>,
    options: ListenOptions,
}

/// All listening sockets.
#[derive(Default)]
pub struct Listeners {
    groups: HashMap<ListenAddr, Group>,
}

/// What a reload changes: what to begin and what to end listening on.
pub struct Change {
    /// New addresses.
    pub added: Vec<Group>,
    /// Addresses no longer wanted.
    pub removed: Vec<ListenAddr>,
}

/// nginx's backlog.
const BACKLOG: u32 = 511;

impl Listeners {
    /// Binds what is wanted and not bound. Nothing is changed when one of them fails.
    pub fn prepare(&self, wanted: &Listens, workers: usize) -> ConfResult<Change> {
        let new: Vec<_> = wanted.bound.iter().filter(|b| !self.groups.contains_key(&b.addr)).collect();
        let mut added = Vec::new();
        // All are probed before any is bound: a wildcard of ours would make a probe of an address fail.
        for probing in [true, false] {
            for bound in &new {
                let result = if probing {
                    self.probe(&bound.addr, &bound.options)
                } else {
                    bind_group(&bound.addr, &bound.options, workers).map(|group| added.push(group))
                };
                result.map_err(|e| {
                    let what = if e.kind() == io::ErrorKind::AddrInUse
                        || e.kind() == io::ErrorKind::PermissionDenied
                    {
                        "bind()"
                    } else {
                        "listen()"
                    };
                    let error = ConfError::new(format!("{what} to {} failed ({})", bound.addr, os_error(&e)))
                        .at(&bound.at);
                    match e.kind() {
                        io::ErrorKind::AddrInUse => error.hint("another process listens there"),
                        io::ErrorKind::PermissionDenied => {
                            error.hint("ports below 1024 need root or CAP_NET_BIND_SERVICE")
                        }
                        _ => error,
                    }
                })?;
            }
        }
        let removed = self.groups.keys().filter(|addr| wanted.find(addr).is_none()).cloned().collect();
        Ok(Change { added, removed })
    }

    /// Two processes of one user may share a port with SO_REUSEPORT; to start twice by mistake must
    /// be an error all the same, as it is with nginx. So the port is tried without it first.
    fn probe(&self, addr: &ListenAddr, options: &ListenOptions) -> io::Result<()> {
        let ListenAddr::Inet(addr) = addr else { return Ok(()) };
        let ours = self.groups.keys().any(|g| matches!(g, ListenAddr::Inet(g) if g.port() == addr.port()));
        if ours {
            return Ok(());
        }
        let socket = inet_socket(*addr, options)?;
        // To bind is enough: it fails beside a socket that listens. To listen as well would take, and
        // lose, connections that come before the sockets that stay.
        socket.bind(&SockAddr::from(*addr))
    }

    /// Takes over what was bound and lets go of what is not wanted. Returns the sockets for the
    /// workers: `(worker, address, socket)`.
    pub fn commit(&mut self, change: Change) -> Vec<(usize, Arc<ListenAddr>, Socket)> {
        for addr in &change.removed {
            self.groups.remove(addr);
            remove_socket_file(addr);
        }
        let mut handed = Vec::new();
        for group in change.added {
            for (worker, socket) in group.sockets.iter().enumerate() {
                if let Ok(socket) = socket.try_clone() {
                    handed.push((worker, group.addr.clone(), socket));
                }
            }
            self.groups.insert((*group.addr).clone(), group);
        }
        handed
    }

    /// Applies options that can be changed while listening.
    pub fn retune(&mut self, wanted: &Listens) {
        for bound in &wanted.bound {
            if let Some(group) = self.groups.get_mut(&*bound.addr)
                && group.options != bound.options
            {
                let undefer = group.options.deferred && !bound.options.deferred;
                group.options = bound.options.clone();
                let backlog = bound.options.backlog.unwrap_or(BACKLOG) as i32;
                for socket in &group.sockets {
                    if undefer {
                        let _ = tcp::set(socket, tcp::DEFER_ACCEPT, 0);
                    }
                    tune(socket, &bound.addr, &bound.options);
                    let _ = socket.listen(backlog);
                }
            }
        }
    }

    /// Closes everything, and removes the files of unix sockets.
    pub fn close(&mut self) {
        for (addr, _) in self.groups.drain() {
            remove_socket_file(&addr);
        }
    }
}

fn remove_socket_file(addr: &ListenAddr) {
    if let ListenAddr::Unix(path) = addr {
        let _ = std::fs::remove_file(path);
    }
}

fn bind_group(addr: &Arc<ListenAddr>, options: &ListenOptions, workers: usize) -> io::Result<Group> {
    let mut sockets = Vec::new();
    match &**addr {
        ListenAddr::Inet(inet) => {
            for _ in 0..workers {
                sockets.push(bind_inet(*inet, options)?);
            }
        }
        ListenAddr::Unix(path) => {
            let socket = bind_unix(path, options)?;
            for _ in 1..workers {
                sockets.push(socket.try_clone()?);
            }
            sockets.push(socket);
        }
    }
    Ok(Group { addr: addr.clone(), sockets, options: options.clone() })
}

fn inet_socket(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let protocol = if options.multipath { Protocol::MPTCP } else { Protocol::TCP };
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(protocol))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!options.dual_stack)?;
    }
    Ok(socket)
}

fn bind_inet(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = inet_socket(addr, options)?;
    socket.set_reuse_port(true)?;
    tune(&socket, &ListenAddr::Inet(addr), options);
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(options.backlog.unwrap_or(BACKLOG) as i32)?;
    Ok(socket)
}

/// Sets the options; one that the kernel does not take is told and does without, as with nginx.
fn tune(socket: &Socket, addr: &ListenAddr, options: &ListenOptions) {
    let is_tcp = matches!(addr, ListenAddr::Inet(_));
    let told = |name: &str, result: io::Result<()>| {
        if let Err(e) = result {
            let e = os_error(&e);
            log(Level::Alert, format_args!("setsockopt({name}) {addr} failed, ignored ({e})"));
        }
    };
    if let Some(bytes) = options.rcvbuf {
        told("SO_RCVBUF", socket.set_recv_buffer_size(bytes));
    }
    if let Some(bytes) = options.sndbuf {
        told("SO_SNDBUF", socket.set_send_buffer_size(bytes));
    }
    if let Some(on) = options.keepalive {
        told("SO_KEEPALIVE", socket.set_keepalive(on.is_some()));
    }
    if let Some(Some((idle, interval, count))) = options.keepalive
        && is_tcp
    {
        for (name, option, value) in [
            ("TCP_KEEPIDLE", libc::TCP_KEEPIDLE, idle),
            ("TCP_KEEPINTVL", libc::TCP_KEEPINTVL, interval),
            ("TCP_KEEPCNT", libc::TCP_KEEPCNT, count),
        ] {
            if value > 0 {
                told(name, tcp::set(socket, option, value as i32));
            }
        }
    }
    if let Some(queue) = options.fastopen
        && is_tcp
    {
        told("TCP_FASTOPEN", tcp::set(socket, tcp::FASTOPEN, queue as i32));
    }
    if options.deferred && is_tcp {
        told("TCP_DEFER_ACCEPT", tcp::set(socket, tcp::DEFER_ACCEPT, 1));
    }
}

fn bind_unix(path: &std::path::Path, options: &ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    tune(&socket, &ListenAddr::Unix(path.to_path_buf()), options);
    let addr = SockAddr::unix(path)?;
    if let Err(e) = socket.bind(&addr) {
        // A file nobody listens on is left from a process that was killed.
        let dead =
            e.kind() == io::ErrorKind::AddrInUse && std::os::unix::net::UnixStream::connect(path).is_err();
        if !dead {
            return Err(e);
        }
        std::fs::remove_file(path)?;
        socket.bind(&addr)?;
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    socket.listen(options.backlog.unwrap_or(BACKLOG) as i32)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// The sockets of what a server listens on, by the address.
    fn bound(listen: &str, workers: usize) -> Listeners {
        let mut listeners = Listeners::default();
        let change = listeners.prepare(&listens(listen), workers).unwrap_or_else(|e| panic!("{e}"));
        listeners.commit(change);
        listeners
    }

    fn listens(listen: &str) -> Listens {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("events {{}} http {{ server {{ listen {listen}; }} }}");
        let config = crate::conf::build::load_text(dir.path(), &text).unwrap_or_else(|e| panic!("{e}"));
        config.http.unwrap().listens
    }

    /// A port that was free a moment ago.
    fn free(host: &str) -> u16 {
        std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port()
    }

    fn sockets(listeners: &Listeners) -> Vec<&Socket> {
        listeners.groups.values().flat_map(|g| &g.sockets).collect()
    }

    #[test]
    fn every_option_reaches_each_worker_s_socket() {
        let address = format!("127.0.0.1:{}", free("127.0.0.1"));
        let options = "rcvbuf=32k sndbuf=24k so_keepalive=30:7:3 fastopen=9 deferred backlog=77";
        let mut listeners = bound(&format!("{address} {options}"), 2);
        let of = |listeners: &Listeners, level, option| -> Vec<i32> {
            sockets(listeners).iter().map(|s| tcp::get(*s, level, option)).collect()
        };
        let (socket, ip) = (libc::SOL_SOCKET, libc::IPPROTO_TCP);
        // The kernel doubles a buffer's size for its own needs.
        assert_eq!(of(&listeners, socket, libc::SO_RCVBUF), [2 * 32 * 1024; 2]);
        assert_eq!(of(&listeners, socket, libc::SO_SNDBUF), [2 * 24 * 1024; 2]);
        assert_eq!(of(&listeners, socket, libc::SO_KEEPALIVE), [1; 2]);
        assert_eq!(of(&listeners, socket, libc::SO_REUSEPORT), [1; 2]);
        assert_eq!(of(&listeners, ip, libc::TCP_KEEPIDLE), [30; 2]);
        assert_eq!(of(&listeners, ip, libc::TCP_KEEPINTVL), [7; 2]);
        assert_eq!(of(&listeners, ip, libc::TCP_KEEPCNT), [3; 2]);
        assert_eq!(of(&listeners, ip, libc::TCP_FASTOPEN), [9; 2]);
        assert_eq!(of(&listeners, ip, libc::TCP_DEFER_ACCEPT), [1; 2]);
        let backlogs = |listeners: &Listeners| -> Vec<u32> {
            sockets(listeners).iter().map(|s| tcp::info(s.as_raw_fd()).unwrap().backlog).collect()
        };
        assert_eq!(backlogs(&listeners), [77; 2]);
        // A reload changes what can be changed.
        listeners.retune(&listens(&format!("{address} backlog=5 so_keepalive=off")));
        assert_eq!(backlogs(&listeners), [5; 2]);
        assert_eq!(of(&listeners, socket, libc::SO_KEEPALIVE), [0; 2]);
        assert_eq!(of(&listeners, ip, libc::TCP_DEFER_ACCEPT), [0; 2]);
    }

    #[test]
    fn without_options_the_kernel_s_are_left() {
        let listeners = bound(&format!("127.0.0.1:{}", free("127.0.0.1")), 1);
        let plain = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        for (level, option) in [
            (libc::SOL_SOCKET, libc::SO_SNDBUF),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
            (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
        ] {
            assert_eq!(tcp::get(sockets(&listeners)[0], level, option), tcp::get(&plain, level, option));
        }
    }

    #[test]
    fn an_ipv6_wildcard_takes_ipv4_only_when_told() {
        for (option, only) in [("", 1), ("ipv6only=on", 1), ("ipv6only=off", 0)] {
            let listeners = bound(&format!("[::]:{} {option}", free("::")), 1);
            let got = tcp::get(sockets(&listeners)[0], libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
            assert_eq!(got, only, "{option}");
        }
    }

    #[test]
    fn multipath_is_a_protocol_of_its_own() {
        // Not every kernel speaks it; one that does not says so.
        let mptcp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).is_ok();
        let wanted = listens(&format!("127.0.0.1:{} protocol=mptcp", free("127.0.0.1")));
        match Listeners::default().prepare(&wanted, 1) {
            Ok(change) => {
                let socket = &change.added[0].sockets[0];
                assert_eq!(tcp::get(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL), libc::IPPROTO_MPTCP);
            }
            Err(e) => assert!(!mptcp && e.message.contains("failed"), "{e}"),
        }
    }
}
