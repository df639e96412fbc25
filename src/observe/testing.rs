//! A worker in the process of a test: what it logs and counts is looked at from outside and inside.

use crate::conf::build::load_text;
use crate::edge::worker::{self, Handle, Order, Worker};
use crate::edge::{Edge, Generation, Local};
use crate::http::head::{Head, Version};
use crate::http::listens::ListenAddr;
use crate::http::request::{Address, Conn, Downstream, Request};
use crate::modules::Shared;
use crate::observe::error_log::Target;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A worker that listens on a port of its own until it is dropped.
pub struct Running {
    /// What the worker shares.
    pub edge: Arc<Edge>,
    /// Where it listens.
    pub addr: SocketAddr,
    dir: tempfile::TempDir,
    handle: Handle,
}

impl Running {
    /// Starts a worker with `http { }` of this text, in which `LISTEN` is its address.
    pub fn start(http: &str) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(128).unwrap();
        socket.set_nonblocking(true).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let shared = Shared::default();
        let first = build(dir.path(), addr, 1, http, &shared);
        let edge = Arc::new(Edge::new(shared, first, vec![Arc::default()]));
        edge.generation().runtime.proxy_cache.start(&edge.shared.proxy_cache, None);
        let handle = worker::start(edge.clone(), 0, None).unwrap();
        handle.order(Order::Listen(Arc::new(ListenAddr::Inet(addr)), socket));
        Running { edge, addr, dir, handle }
    }

    /// A request for `path` at the first server, for what is tested without a connection.
    pub fn request(&self, path: &'static str) -> Request {
        let worker = Arc::new(Worker::new(&self.edge, 0));
        let local = Local::new(self.edge.generation(), worker, self.edge.clone());
        let conn = Conn {
            serial: 0,
            peer: Address::Inet(self.addr),
            local: Address::Inet(self.addr),
            listen: Arc::new(ListenAddr::Inet(self.addr)),
            proxied: None,
            tls: None,
            requests: Default::default(),
            descriptor: (-1).into(),
            accepted: Instant::now(),
        };
        let head = Head::from_parts(b"GET", path.as_bytes(), Version::Http11, std::iter::empty());
        let mut rq = Request::new(Arc::new(local), Arc::new(conn), head, Downstream::None);
        rq.uri = path.into();
        rq.level = rq.http().servers[0].level;
        rq
    }

    /// Puts another configuration in force.
    pub fn reload(&self, http: &str) {
        let number = self.edge.generation_number() + 1;
        self.edge.swap(build(self.dir.path(), self.addr, number, http, &self.edge.shared));
        self.edge.generation().runtime.proxy_cache.start(&self.edge.shared.proxy_cache, None);
    }

    /// Sends a request for `target` with these fields and returns the answer, head and body.
    pub fn get(&self, target: &str, fields: &str) -> String {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{fields}\r\n"))
    }

    /// Sends these bytes and returns what comes until the connection ends.
    pub fn send(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// What a file holds once it has `count` lines; what it has after twenty seconds otherwise.
    pub fn lines(&self, file: &str, count: usize) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read(self.dir.path().join(file)).unwrap_or_default();
            let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_string).collect();
            if lines.len() >= count || Instant::now() >= until {
                return lines;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.order(Order::Quit);
        let until = Instant::now() + Duration::from_secs(20);
        while !self.handle.is_finished() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

fn build(dir: &Path, addr: SocketAddr, number: u64, http: &str, shared: &Shared) -> Generation {
    let text = format!("events {{}} http {{ {} }}", http.replace("LISTEN", &addr.to_string()));
    let config = load_text(dir, &text).unwrap_or_else(|e| panic!("{e}"));
    Generation::build(number, config, shared, &Target::Stderr).unwrap_or_else(|e| panic!("{e}"))
}
