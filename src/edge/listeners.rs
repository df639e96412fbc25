//! Listening sockets: one per address and worker (SO_REUSEPORT), kept over reloads.

use crate::conf::values::os_error;
use crate::conf::{ConfError, ConfResult};
use crate::http::router::{ListenAddr, ListenOptions, Listens};
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
                group.options = bound.options.clone();
                let backlog = bound.options.backlog.unwrap_or(BACKLOG) as i32;
                for socket in &group.sockets {
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
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!options.dual_stack)?;
    }
    Ok(socket)
}

fn bind_inet(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = inet_socket(addr, options)?;
    socket.set_reuse_port(true)?;
    tune(&socket, options)?;
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(options.backlog.unwrap_or(BACKLOG) as i32)?;
    Ok(socket)
}

fn tune(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    if let Some(bytes) = options.rcvbuf {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.sndbuf {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some((idle, interval, count)) = options.keepalive {
        let mut keepalive = socket2::TcpKeepalive::new();
        if let Some(idle) = idle {
            keepalive = keepalive.with_time(std::time::Duration::from_secs(idle.into()));
        }
        if let Some(interval) = interval {
            keepalive = keepalive.with_interval(std::time::Duration::from_secs(interval.into()));
        }
        if let Some(count) = count {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

fn bind_unix(path: &std::path::Path, options: &ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
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
