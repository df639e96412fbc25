//! The loop of an HTTP/2 connection.
//!
//! One task drives the connection: it reads frames, hands out requests, writes what they answer. A
//! request is first tried on the spot, which is all that an answer from memory takes; one that has to
//! wait goes on as a task of its own, so that no stream holds up another.
//!
//! The windows: a stream may send `http2_body_preread_size` bytes of its body, all of a connection
//! 1 MB, before handlers read them. Of all responses of a connection some 100 KB wait in memory for the client;
//! whose bytes these are is a matter of turns.

mod answer;
mod chunk;
mod cork;
mod frames;
mod head;
mod hits;
mod priority;
mod records;
mod reply;
mod resets;
mod send;
mod settings;
mod turns;

pub use chunk::Chunk;
pub use hits::Kept as KeptHead;

use super::io::Io;
use super::request::H2Body;
use crate::conf::values::os_error;
use crate::edge::connection::Access;
use crate::observe::error_log::Level;
use bytes::BytesMut;
use cork::Cork;
use h2::server::{Buffers, Connection, SendResponse};
use h2::{Reason, RecvStream};
use hits::Hit;
use parking_lot::Mutex;
use resets::Resets;
use settings::{builder, level, server};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, timeout};
use turns::Turns;

/// How long a client may take to leave once it was told to.
const LEAVING: Duration = Duration::from_secs(5);
/// How long between two looks whether a connection has had anything to do since.
const RESTED: Duration = Duration::from_secs(1);
/// How long the last words of a connection may take.
const CLOSING: Duration = Duration::from_secs(1);

/// Serves an HTTP/2 connection. `input` is what was read of it already.
pub fn serve(access: Access, io: Io, input: BytesMut) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    // Boxed for itself: what it takes to begin is large, and of no use later.
    let beginning = Box::pin(begin(access, Cork::new(io, input)));
    Box::pin(run(beginning))
}

/// What a connection's requests share with its driver.
#[derive(Default)]
struct Shared {
    /// Requests that have tasks of their own.
    active: AtomicUsize,
    turns: Turns,
    resets: Resets,
    /// The driver's, woken when the last task ends.
    waker: Mutex<Option<Waker>>,
}

impl Shared {
    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Has the driver's task woken when the last task ends.
    fn wake_at_end(&self, waker: &Waker) {
        let mut kept = self.waker.lock();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }
}

/// Counts a task for as long as it lives.
struct Active(Arc<Shared>);

impl Active {
    fn new(shared: Arc<Shared>) -> Active {
        shared.active.fetch_add(1, Ordering::Relaxed);
        Active(shared)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(waker) = self.0.waker.lock().take()
        {
            waker.wake();
        }
    }
}

/// How a connection ended.
enum End {
    /// In order, or because the client closed it.
    Done,
    /// By an error, which the client was told of if it was one of the protocol.
    Failed(h2::Error),
    /// Because the client cannot be written to.
    Broken(io::Error),
    /// The client took nothing, and sent nothing, for too long.
    TimedOut,
}

/// Says hello, and hears the client's; `None` when there is nobody to serve.
async fn begin(mut access: Access, cork: Cork) -> Option<Driver> {
    let (local, _) = access.current();
    let server = server(&local, &access.conn);
    let time = *server.conf.core.client_header_timeout;
    // Streams that were taken back may still be at work; twice as many as may be open are too many.
    let most = 2 * *server.conf.http2.max_concurrent_streams as usize;
    let mut hello = builder(server).handshake::<_, Chunk>(cork.clone());
    let hello = poll_fn(|cx| match Pin::new(&mut hello).poll(cx) {
        Poll::Ready(Ok(connection)) => Poll::Ready(Some(connection)),
        Poll::Ready(Err(_)) => Poll::Ready(None),
        // Our settings go out while the client's preface is waited for.
        Poll::Pending => match cork.poll_drain(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => Poll::Pending,
        },
    });
    // Who says nothing, or something else, has no connection to tell of.
    let connection = timeout(time, hello).await.ok()??;
    Some(Driver {
        access,
        connection,
        bare: false,
        cork,
        shared: Arc::default(),
        most,
        state: State::Fresh,
        quitting: false,
        leaving: false,
        closing: false,
        fault: None,
        due: Instant::now() + time,
        mark: 0,
        rest: Rest::Rested,
        timer: Box::pin(tokio::time::sleep(time)),
    })
}

async fn run(beginning: Pin<Box<impl Future<Output = Option<Driver>>>>) {
    let Some(mut driver) = beginning.await else { return };
    let worker = driver.access.worker().clone();
    let mut quit = pin!(worker.quit());
    // Registered before looking, so that no wake-up is lost.
    quit.as_mut().enable();
    driver.gauge(1);
    if worker.quitting() {
        driver.leave();
    }
    let end = poll_fn(|cx| {
        if !driver.quitting && quit.as_mut().poll(cx).is_ready() {
            driver.quitting = true;
            driver.leave();
        }
        driver.poll(cx)
    })
    .await;
    let time = driver.end(&end);
    // The requests notice that the connection is gone. It counts as open until they are logged.
    let Driver { access, connection, cork, shared, .. } = driver;
    drop(connection);
    Box::pin(linger(access, cork, shared, time)).await;
}

/// Waits for what the client still sends, for as long as `time`, and for the requests that have not ended.
async fn linger(access: Access, cork: Cork, shared: Arc<Shared>, time: Option<Duration>) {
    if let Some(time) = time {
        let _ = timeout(time, cork.linger()).await;
    }
    access.forget_descriptor();
    drop(cork);
    poll_fn(|cx| {
        shared.wake_at_end(cx.waker());
        if shared.active() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    drop(access);
}

/// What the connection is doing, for its deadline and its gauge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request has come yet.
    Fresh,
    /// No request is being answered.
    Idle,
    /// Requests are being answered.
    Busy,
}

/// How long a connection has had nothing to do.
enum Rest {
    /// It had since the timer went off last.
    Worked,
    /// It had not.
    Rests,
    /// It had not for so long that the room of streams was given back.
    Rested,
}

struct Driver {
    access: Access,
    connection: Connection<Cork, Chunk>,
    /// Whether the connection's buffers have been lent.
    bare: bool,
    cork: Cork,
    shared: Arc<Shared>,
    /// The most requests with tasks of their own.
    most: usize,
    state: State,
    /// The end of the worker was seen.
    quitting: bool,
    /// The client was told to send no more requests.
    leaving: bool,
    /// The connection is being closed.
    closing: bool,
    /// What the client did wrong.
    fault: Option<Reason>,
    /// When to look whether the connection has been idle, or stuck, for too long. The timer may go
    /// off earlier, and is set anew then: deadlines move with every request, timers should not.
    due: Instant,
    /// The cork's progress when `due` was set.
    mark: u64,
    rest: Rest,
    timer: Pin<Box<Sleep>>,
}

thread_local! {
    /// The buffers of the connection that had nothing to do last, for the next that has.
    static SPARE: Cell<Option<Buffers>> = const { Cell::new(None) };
}

impl Driver {
    /// A turn of the connection. It has buffers for as long as this takes, or until what is in them is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if std::mem::take(&mut self.bare) {
            self.connection.put_buffers(SPARE.take().unwrap_or_default());
        }
        let end = self.turn(cx);
        if let Some(buffers) = self.connection.take_buffers() {
            self.bare = true;
            SPARE.set(Some(buffers));
        }
        end
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.cork.begin_turn();
        let drained = loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.begin(cx, request, respond);
                    continue;
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(End::Failed(e)),
                Poll::Ready(None) => return Poll::Ready(End::Done),
                Poll::Pending => {}
            }
            match self.cork.poll_drain(cx) {
                Poll::Ready(Err(e)) => return Poll::Ready(End::Broken(e)),
                // A write waited for the room that there is now.
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => break true,
                Poll::Pending => break false,
            }
        };
        self.take_news(drained);
        let attack = self.is_attack().then_some(Reason::ENHANCE_YOUR_CALM);
        if let Some(reason) = self.fault.or(attack)
            && !self.closing
        {
            self.close(reason);
            cx.waker().wake_by_ref();
        }
        self.shared.wake_at_end(cx.waker());
        self.watch(cx)
    }

    /// Sees what the client said of windows and priorities, and lets the streams know.
    fn take_news(&mut self, drained: bool) {
        let news = self.cork.news();
        self.fault = self.fault.or(news.fault);
        self.shared.turns.turned(news.window, news.updates, drained);
    }

    /// Begins to answer a request.
    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        request: http::Request<RecvStream>,
        respond: SendResponse<Chunk>,
    ) {
        if self.state != State::Busy {
            self.take_news(false);
        }
        self.enter(State::Busy);
        let closing = self.access.is_closing();
        self.access.worker().metrics.connections.requests.inc();
        let (local, conn) = (self.access.local(), &self.access.conn);
        let requests = conn.requests.load(Ordering::Relaxed) + 1;
        conn.requests.store(requests, Ordering::Relaxed);
        let core = level(local, conn);
        let over = requests >= *core.keepalive_requests || conn.accepted.elapsed() >= *core.keepalive_time;
        if closing || over {
            self.leave();
        }
        let (local, conn) = (self.access.local(), &self.access.conn);
        let (parts, body) = request.into_parts();
        let stream = H2Body { body, respond };
        let work = match hits::attempt(local, conn, &parts, stream, &self.shared) {
            Hit::Done => None,
            Hit::Begun(work) => Some(work),
            Hit::Unknown(mark, stream) => {
                let (local, conn, shared) = (local.clone(), conn.clone(), self.shared.clone());
                let work = answer::answer(local, conn, parts, stream, mark, shared);
                Some(Box::pin(work) as Pin<Box<dyn Future<Output = ()> + Send>>)
            }
        };
        if let Some(mut work) = work
            && work.as_mut().poll(cx).is_pending()
        {
            let active = Active::new(self.shared.clone());
            tokio::spawn(async move {
                work.await;
                drop(active);
            });
        }
    }

    /// Tells the client to send no more requests, and closes when those it sent are answered.
    fn leave(&mut self) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        if self.is_idle() && self.state != State::Busy {
            self.close(Reason::NO_ERROR);
        } else {
            self.connection.graceful_shutdown();
        }
    }

    /// Closes the connection as soon as the client has been told.
    fn close(&mut self, reason: Reason) {
        self.closing = true;
        self.connection.abrupt_shutdown(reason);
        self.due = Instant::now() + CLOSING;
        self.timer.as_mut().reset(self.due);
    }

    fn is_idle(&self) -> bool {
        self.shared.active() == 0 && !self.connection.has_streams() && self.cork.is_empty()
    }

    fn is_attack(&self) -> bool {
        if self.closing {
            return false;
        }
        let what = if self.shared.resets.is_attack() || self.shared.active() > self.most {
            "client sent too many stream resets"
        } else if self.cork.is_flood(self.shared.turns.total()) {
            "http2 flood detected"
        } else {
            return false;
        };
        self.log(Level::Info, what);
        true
    }

    /// Sees to the deadline.
    fn watch(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.state == State::Busy && self.is_idle() {
            self.shared.turns.rest();
            self.enter(State::Idle);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.due {
                if self.closing || self.leaving && self.state == State::Idle {
                    return Poll::Ready(End::TimedOut);
                }
                match self.state {
                    State::Fresh | State::Idle => {
                        self.close(Reason::NO_ERROR);
                        // The connection has to be driven for it to happen.
                        cx.waker().wake_by_ref();
                        continue;
                    }
                    State::Busy if self.is_stuck() => return Poll::Ready(End::TimedOut),
                    State::Busy => {
                        self.due = now + self.send_timeout();
                        self.mark = self.cork.progress();
                    }
                }
            }
            let next = self.next_look(now);
            self.timer.as_mut().reset(next);
        }
    }

    /// When the timer is to go off next. Room is not given back after each request, for it would be taken again.
    fn next_look(&mut self, now: Instant) -> Instant {
        if self.state != State::Idle {
            return self.due;
        }
        match self.rest {
            Rest::Worked => {
                self.rest = Rest::Rests;
                return self.due.min(now + RESTED);
            }
            Rest::Rests => {
                self.connection.shrink();
                self.rest = Rest::Rested;
            }
            Rest::Rested => {}
        }
        self.due
    }

    /// Whether only the client can get us on, and it has done nothing since the deadline was set.
    fn is_stuck(&self) -> bool {
        let waits = !self.cork.is_empty() || self.shared.active() == 0;
        waits && self.cork.progress() == self.mark
    }

    fn send_timeout(&mut self) -> Duration {
        let (local, _) = self.access.current();
        *level(&local, &self.access.conn).send_timeout
    }

    fn enter(&mut self, state: State) {
        if self.state == state || self.closing {
            return;
        }
        self.gauge(-1);
        self.state = state;
        self.gauge(1);
        let (local, _) = self.access.current();
        let core = level(&local, &self.access.conn);
        let time = match state {
            State::Busy => *core.send_timeout,
            _ if self.leaving => LEAVING,
            _ => *core.keepalive_timeout,
        };
        let now = Instant::now();
        self.due = now + time;
        self.mark = self.cork.progress();
        let mut look = self.due;
        if state == State::Idle {
            self.rest = Rest::Worked;
            look = look.min(now + RESTED);
        }
        if look < self.timer.deadline() {
            self.timer.as_mut().reset(look);
        }
    }

    fn gauge(&self, by: i64) {
        let connections = &self.access.worker().metrics.connections;
        match self.state {
            State::Fresh => connections.reading.add(by),
            State::Idle => connections.waiting.add(by),
            State::Busy => connections.writing.add(by),
        }
    }

    /// Counts and logs the end; how long the client may still send.
    fn end(&mut self, end: &End) -> Option<Duration> {
        self.gauge(-1);
        self.tell(end);
        if matches!(end, End::TimedOut) && self.state == State::Busy {
            let (local, _) = self.access.current();
            if *level(&local, &self.access.conn).reset_timedout_connection {
                crate::edge::tcp::reset_on_close(self.access.conn.descriptor.load(Ordering::Relaxed));
            }
        }
        self.linger(end)
    }

    /// How long the client may still send, once it has been told the end.
    fn linger(&mut self, end: &End) -> Option<Duration> {
        let (local, quitting) = self.access.current();
        let core = level(&local, &self.access.conn);
        let told = matches!(end, End::Done | End::Failed(_));
        let time = *core.lingering_timeout;
        (told && *core.lingering_close).then_some(if quitting { time.min(CLOSING) } else { time })
    }

    /// Logs an end that is not in order, as nginx does, below what an operator usually reads.
    fn tell(&self, end: &End) {
        match end {
            End::Done => {}
            End::Failed(e) => self.log(Level::Info, &e.to_string()),
            End::Broken(e) => self.log(Level::Info, &format!("send() failed ({})", os_error(e))),
            End::TimedOut if self.state == State::Busy => {
                self.log(Level::Info, "client timed out (110: Connection timed out)");
            }
            End::TimedOut => {}
        }
    }

    fn log(&self, level: Level, message: &str) {
        let conn = &self.access.conn;
        let client = match conn.peer.ip() {
            Some(ip) => ip.to_string(),
            None => crate::http::listens::address_text(&conn.peer),
        };
        crate::observe::error_log::log(
            level,
            format_args!(
                "*{} {message} while processing HTTP/2 connection, client: {client}, server: {}",
                conn.serial, conn.listen
            ),
        );
    }
}

#[cfg(test)]
mod tests;
