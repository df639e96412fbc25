//! A worker: a thread with its own event loop, its own listening sockets, its own connections.

use super::memory::Spare;
use super::privileges::Identity;
use super::{Edge, Generation, Local, connection};
use crate::cache::fill::Home;
use crate::http::listens::ListenAddr;
use crate::http::request::Address;
use crate::observe::error_log::{Level, log};
use crate::observe::metrics::{Gauge, WorkerMetrics};
use crate::upstream::group::Group;
use crate::upstream::names::Keeper;
use socket2::Socket;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc};

/// What a worker's connections share.
pub struct Worker {
    /// From 0.
    pub index: usize,
    /// Its counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Whether it is finishing: idle connections close, busy ones after their request.
    quitting: AtomicBool,
    /// Wakes what is idle when `quitting` is set.
    quit: Notify,
    /// Wakes the worker when its last connection is gone.
    empty: Notify,
    /// Readers, on any worker, of what this one receives for the cache.
    readers: Gauge,
}

impl Worker {
    /// A worker of `edge`, which has counters for it.
    pub fn new(edge: &Edge, index: usize) -> Worker {
        Worker {
            index,
            metrics: edge.workers[index].clone(),
            quitting: AtomicBool::new(false),
            quit: Notify::new(),
            empty: Notify::new(),
            readers: Gauge::default(),
        }
    }

    /// Whether the process is ending gracefully.
    pub fn quitting(&self) -> bool {
        self.quitting.load(Ordering::Relaxed)
    }

    /// Ends when the process begins to end gracefully. Register before looking at [`Self::quitting`].
    pub fn quit(&self) -> tokio::sync::futures::Notified<'_> {
        self.quit.notified()
    }
}

impl Worker {
    fn is_empty(&self) -> bool {
        self.metrics.connections.active.get() <= 0 && self.readers.get() <= 0
    }

    fn wake_if_empty(&self) {
        if self.quitting() && self.is_empty() {
            self.empty.notify_waiters();
            self.empty.notify_one();
        }
    }
}

/// A worker that ends gracefully goes on receiving what is still read.
impl Home for Worker {
    fn hold(&self) {
        self.readers.add(1);
    }

    fn release(&self) {
        self.readers.add(-1);
        self.wake_if_empty();
    }
}

/// What the control thread tells a worker.
pub enum Order {
    /// Accept on this socket too.
    Listen(Arc<ListenAddr>, Socket),
    /// No longer accept on this address.
    Unlisten(ListenAddr),
    /// Accept nothing more, finish what is open, end.
    Quit,
}

/// The control thread's handle on a worker.
pub struct Handle {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// Tells the worker something.
    pub fn order(&self, order: Order) {
        // A worker that is gone needs no orders.
        let _ = self.orders.send(order);
    }

    /// Whether the worker has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(|t| t.is_finished())
    }
}

/// Room for the deepest way of a request; a page is only taken when it is touched.
const STACK: usize = 8 << 20;

/// Starts a worker thread. It takes `identity` before anything else.
pub fn start(edge: Arc<Edge>, index: usize, identity: Option<Identity>) -> io::Result<Handle> {
    let (orders, inbox) = mpsc::unbounded_channel();
    let thread =
        std::thread::Builder::new().name(format!("worker-{index}")).stack_size(STACK).spawn(move || {
            if let Some(identity) = identity
                && let Err(e) = identity.assume()
            {
                log(Level::Emerg, format_args!("setuid() of worker {index} failed: {e}"));
                std::process::exit(2);
            }
            run(edge, index, inbox);
        })?;
    Ok(Handle { orders, thread: Some(thread) })
}

thread_local! {
    static LOCAL: RefCell<Option<Arc<Local>>> = const { RefCell::new(None) };
}

/// The worker's handle on the generation in force.
pub fn local(edge: &Arc<Edge>, worker: &Arc<Worker>) -> Arc<Local> {
    LOCAL.with_borrow_mut(|local| {
        if let Some(local) = local
            && local.generation.number == edge.generation_number()
        {
            return local.clone();
        }
        let generation = edge.generation();
        let fresh = Arc::new(Local::new(generation, worker.clone(), edge.clone()));
        *local = Some(fresh.clone());
        fresh
    })
}

fn run(edge: Arc<Edge>, index: usize, inbox: mpsc::UnboundedReceiver<Order>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(32)
        .thread_name(format!("files-{index}"))
        .on_thread_park(crate::modules::log::flush_worker)
        .on_thread_unpark(super::turn::begins)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            log(Level::Emerg, format_args!("worker {index} has no event loop: {e}"));
            std::process::exit(2);
        }
    };
    let worker = Arc::new(Worker::new(&edge, index));
    runtime.spawn(sweep(edge.clone(), worker.clone()));
    runtime.block_on(obey(edge, worker, inbox));
    crate::modules::log::flush_worker();
    runtime.shutdown_timeout(Duration::from_millis(100));
}

/// Closes idle upstream connections that are too old or that the other side has closed, and those of
/// groups that a reload took away. The first worker keeps the groups' names resolved and has the caches
/// tended.
async fn sweep(edge: Arc<Edge>, worker: Arc<Worker>) {
    let mut known: Vec<Weak<Group>> = Vec::new();
    let mut names = Keeper::default();
    let mut number = u64::MAX;
    let mut spare = Spare::default();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let changed = edge.changed();
        if number == edge.generation_number() {
            tokio::select! {
                _ = every.tick() => {}
                () = changed => {}
            }
        }
        // An idle worker lets go of the old generation here.
        let local = local(&edge, &worker);
        crate::http::hit::table::forget(&local.generation);
        spare.tend(&worker.metrics.connections);
        let groups = &local.generation.runtime.upstream.groups;
        for group in groups {
            group.pool.sweep(worker.index);
        }
        if worker.index == 0 {
            tend_caches(&local.generation);
        }
        if number != local.generation.number {
            number = local.generation.number;
            let gone = |old: &Arc<Group>| !groups.iter().any(|group| Arc::ptr_eq(group, old));
            known.iter().filter_map(Weak::upgrade).filter(gone).for_each(|old| old.pool.retire(true));
            groups.iter().for_each(|group| group.pool.retire(false));
            known = groups.iter().map(Arc::downgrade).collect();
            // What is found is for all workers.
            if worker.index == 0 {
                names.keep(groups);
            }
        }
    }
}

/// Large caches take milliseconds, so it is not done on the worker's thread.
fn tend_caches(generation: &Generation) {
    for zone in generation.runtime.proxy_cache.zones() {
        let zone = zone.clone();
        // Nobody waits for it; a zone that is still being tended is left alone.
        drop(tokio::task::spawn_blocking(move || zone.tend()));
    }
}

async fn obey(edge: Arc<Edge>, worker: Arc<Worker>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    crate::upstream::patience::at_home();
    let mut listening: HashMap<ListenAddr, tokio::task::JoinHandle<()>> = HashMap::new();
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Listen(addr, socket) => {
                let task = tokio::spawn(accept(edge.clone(), worker.clone(), addr.clone(), socket));
                listening.insert((*addr).clone(), task);
            }
            Order::Unlisten(addr) => {
                if let Some(task) = listening.remove(&addr) {
                    task.abort();
                }
            }
            Order::Quit => break,
        }
    }
    for task in listening.into_values() {
        task.abort();
    }
    worker.quitting.store(true, Ordering::Relaxed);
    worker.quit.notify_waiters();
    loop {
        let empty = worker.empty.notified();
        if worker.is_empty() {
            return;
        }
        empty.await;
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Connections that are accepted before others get their turn.
const ACCEPTED: u32 = 8;

async fn accept(edge: Arc<Edge>, worker: Arc<Worker>, addr: Arc<ListenAddr>, socket: Socket) {
    // What is accepted inherits it.
    if matches!(*addr, ListenAddr::Inet(_)) {
        let _ = socket.set_tcp_nodelay(true);
    }
    // Our end is known beforehand where it is one address.
    let own = match &*addr {
        ListenAddr::Inet(own) if !own.ip().is_unspecified() => Some(*own),
        _ => None,
    };
    let listener = match &*addr {
        ListenAddr::Inet(_) => TcpListener::from_std(socket.into()).map(Listener::Tcp),
        ListenAddr::Unix(_) => UnixListener::from_std(socket.into()).map(Listener::Unix),
    };
    let listener = match listener {
        Ok(listener) => listener,
        Err(e) => {
            log(Level::Alert, format_args!("worker {} cannot listen on {addr}: {e}", worker.index));
            return;
        }
    };
    let mut turn = 0;
    loop {
        if turn == ACCEPTED {
            turn = 0;
            tokio::task::yield_now().await;
        }
        turn += 1;
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, peer)| {
                let own = own.unwrap_or_else(|| stream.local_addr().unwrap_or(peer));
                (connection::Socket::Tcp(stream), Address::Inet(peer), Address::Inet(own))
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                let path: Arc<str> = Arc::from(match &*addr {
                    ListenAddr::Unix(path) => path.to_string_lossy().into_owned(),
                    ListenAddr::Inet(a) => a.to_string(),
                });
                (connection::Socket::Unix(stream), Address::Unix(Arc::from("")), Address::Unix(path))
            }),
        };
        match accepted {
            Ok((socket, peer, local)) => admit(&edge, &worker, &addr, socket, peer, local),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                // Out of descriptors: what is open must end before more can be taken.
                log(Level::Crit, format_args!("accept4() failed ({})", crate::conf::values::os_error(&e)));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// Counts a connection for as long as it lives.
pub struct Open(Arc<Worker>);

impl Open {
    fn new(worker: Arc<Worker>) -> Open {
        worker.metrics.connections.active.add(1);
        Open(worker)
    }

    /// The worker that accepted it.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.active.add(-1);
        self.0.wake_if_empty();
    }
}

fn admit(
    edge: &Arc<Edge>,
    worker: &Arc<Worker>,
    addr: &Arc<ListenAddr>,
    socket: connection::Socket,
    peer: Address,
    own: Address,
) {
    let counters = &worker.metrics.connections;
    counters.accepted.inc();
    let local = local(edge, worker);
    let limit = *local.generation.main.worker_connections;
    if counters.active.get() >= limit as i64 {
        log(Level::Alert, format_args!("{limit} worker_connections are not enough"));
        return;
    }
    counters.handled.inc();
    let open = Open::new(worker.clone());
    connection::serve(
        connection::Arrival { edge: edge.clone(), open, addr: addr.clone(), peer, own },
        local,
        socket,
    );
}
