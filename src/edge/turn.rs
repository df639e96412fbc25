//! A worker's clock. It is read once for what a turn of the event loop brings, as nginx's is, and not by each who asks.
//!
//! A turn may be long, and one that never ends is told of nowhere: what was read is told no longer than until the
//! kernel's next tick, which is cheaper to ask for.

use crate::http::tick;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

thread_local! {
    /// Whether turns are told of.
    static TURNS: Cell<bool> = const { Cell::new(false) };
    /// What the clock said last in this turn, and at which tick.
    static SAID: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// The present, as of this turn, and at most a tick ago. Where no turns are told of it is the present as it is.
pub fn now() -> Instant {
    match SAID.get() {
        Some((said, at)) if at == tick::uptime() => said,
        _ => read(),
    }
}

fn read() -> Instant {
    // Asked for first: another may come in between.
    let at = tick::uptime();
    // Tokio's, which tests may have stand still.
    let now = tokio::time::Instant::now().into_std();
    if TURNS.get() {
        SAID.set(Some((now, at)));
    }
    now
}

/// The time since then, as of this turn.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Another turn begins: time has passed.
pub fn begins() {
    TURNS.set(true);
    SAID.set(None);
}

/// How long a task works before it gives way to others that have something to do.
const SLICE: Duration = Duration::from_millis(2);

/// The time that a task has worked: what is compressed, say, takes long and never waits.
#[derive(Debug)]
pub struct Slice(Instant);

impl Slice {
    /// It begins to work.
    pub fn begin() -> Slice {
        Slice(now())
    }

    /// Whether it has worked for long.
    pub fn is_over(&self) -> bool {
        since(self.0) >= SLICE
    }

    /// Gives way, if it has worked for long.
    pub async fn pass(&mut self) {
        if self.is_over() {
            Box::pin(give_way()).await;
            self.0 = now();
        }
    }
}

/// Waits until the event loop has looked for what has come. To be woken is not enough: a task that others wake goes on
/// before that.
async fn give_way() {
    let mut yielding = pin!(tokio::task::yield_now());
    let mut looked: Option<Arc<Looked>> = None;
    poll_fn(|cx| match &looked {
        Some(looked) if looked.has.load(Ordering::Acquire) => Poll::Ready(()),
        Some(_) => Poll::Pending,
        None => {
            let here =
                looked.insert(Arc::new(Looked { has: AtomicBool::new(false), task: cx.waker().clone() }));
            // This waker is woken when the loop has looked, and by nobody else.
            yielding.as_mut().poll(&mut Context::from_waker(&here.clone().into()))
        }
    })
    .await;
}

/// Whether the event loop has looked.
struct Looked {
    has: AtomicBool,
    task: Waker,
}

impl Wake for Looked {
    fn wake(self: Arc<Self>) {
        self.has.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_for_a_turn_and_no_longer_than_a_tick() {
        // A thread of its own, for it keeps the clock.
        std::thread::spawn(|| {
            let before = Instant::now();
            assert!(now() >= before);
            // A tick may come at any time, but not at every.
            let stood = || {
                begins();
                let (first, at) = (now(), tick::uptime());
                while first.elapsed() < Duration::from_micros(50) {}
                let second = now();
                (first == second, at == tick::uptime() && at == SAID.get().unwrap().1, first)
            };
            assert!((0..100).any(|_| stood().0));
            assert!((0..100).map(|_| stood()).all(|(same, quiet, _)| same || !quiet));
            let (.., first) = stood();
            begins();
            assert!(now() > first && !since(first).is_zero());
            // The turn does not end, and yet time goes on.
            let first = now();
            while first.elapsed() < 3 * tick::LATE {}
            assert!(since(first) >= 2 * tick::LATE);
        })
        .join()
        .unwrap();
    }

    #[tokio::test]
    async fn who_works_long_gives_way_until_the_loop_has_looked() {
        let (mut ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let seen = std::rc::Rc::new(Cell::new(0));
        let (count, mut slice) = (seen.clone(), Slice::begin());
        let other = async move {
            let mut byte = [0];
            while tokio::io::AsyncReadExt::read_exact(&mut ours, &mut byte).await.is_ok() {
                count.set(count.get() + 1);
            }
        };
        let working = async {
            for number in 1..4 {
                let began = Instant::now();
                while began.elapsed() < SLICE + 2 * tick::LATE {}
                theirs.try_write(b"x").unwrap();
                let mut woken = false;
                let mut passing = pin!(slice.pass());
                poll_fn(|cx| {
                    // Others wake it at once.
                    if !std::mem::replace(&mut woken, true) {
                        cx.waker().wake_by_ref();
                    }
                    passing.as_mut().poll(cx)
                })
                .await;
                // The loop has seen the byte; the other has its turn.
                tokio::task::yield_now().await;
                assert_eq!(seen.get(), number);
            }
        };
        tokio::select! {
            biased;
            () = working => {}
            () = other => {}
        }
    }
}
