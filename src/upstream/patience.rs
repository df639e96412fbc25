//! How long a wait may last, at the cost of a look at the clock.
//!
//! A timer that is set and taken back for each wait costs as much as the wait's system call's way
//! through the event loop. A worker keeps those that ran for nothing: each stays where it is in the
//! wheel, is lent to the next wait, and is set anew only when it fires before that wait's time.

use crate::edge::turn;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// The most timers a worker keeps; each is some hundred bytes.
const KEPT: usize = 512;

type Timer = Pin<Box<Sleep>>;

thread_local! {
    /// Timers that are set and nobody's, with the event loop they belong to.
    static TIMERS: RefCell<Vec<(Id, Timer)>> = const { RefCell::new(Vec::new()) };
    /// The one event loop of a thread that has no other.
    static HOME: Cell<Option<Id>> = const { Cell::new(None) };
}

/// Says that this thread has no other event loop than this one, so that it need not be asked for.
pub fn at_home() {
    HOME.set(Some(Handle::current().id()));
}

/// The time that each of several waits may take. It runs while something is waited for.
#[derive(Debug)]
pub struct Patience {
    each: Duration,
    waits: Option<(Instant, Id, Timer)>,
}

impl Patience {
    /// So long for each wait.
    pub fn new(each: Duration) -> Patience {
        Patience { each, waits: None }
    }

    /// Whether the present wait has lasted too long; to be asked whenever nothing has come. If not, the
    /// task is woken when it has.
    pub fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let each = self.each;
        let (until, _, timer) = self.waits.get_or_insert_with(|| {
            // What is too far to be told is far enough.
            let now = Instant::from_std(turn::now());
            let until = now.checked_add(each).unwrap_or_else(|| now + Duration::from_secs(86400 * 365));
            let (of, timer) = timer(until);
            (until, of, timer)
        });
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            if Instant::now() >= *until {
                return true;
            }
            // It was set for an earlier wait.
            timer.as_mut().reset(*until);
        }
    }

    /// Something has come: the next wait has its own time.
    pub fn rest(&mut self) {
        if let Some((_, of, timer)) = self.waits.take() {
            // At the end of the thread there is nothing to keep it for.
            let _ = TIMERS.try_with(|timers| {
                let mut timers = timers.borrow_mut();
                if timers.len() < KEPT {
                    timers.push((of, timer));
                }
            });
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.rest();
    }
}

/// A timer that fires no later than `until`.
fn timer(until: Instant) -> (Id, Timer) {
    let of = HOME.get().unwrap_or_else(|| Handle::current().id());
    let kept = TIMERS.with_borrow_mut(|timers| {
        while let Some((whose, timer)) = timers.pop() {
            // One of an event loop that has ended never fires.
            if whose == of {
                return Some(timer);
            }
        }
        None
    });
    match kept {
        Some(mut timer) => {
            if timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            (of, timer)
        }
        None => (of, Box::pin(sleep_until(until))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    async fn wait_out(patience: &mut Patience) {
        poll_fn(|cx| if patience.is_over(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Begins a wait and breaks it off.
    async fn glance(patience: &mut Patience) {
        let over = poll_fn(|cx| Poll::Ready(patience.is_over(cx))).await;
        assert!(!over);
        patience.rest();
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_takes_its_time_whatever_timer_it_is_lent() {
        let began = Instant::now();
        glance(&mut Patience::new(Duration::from_secs(1))).await;
        // This one is lent the timer of the first, which fires too early.
        let mut longer = Patience::new(Duration::from_secs(3));
        wait_out(&mut longer).await;
        assert_eq!(began.elapsed().as_secs(), 3);
        longer.rest();
        // And this one that of the second, whose time is long past.
        wait_out(&mut Patience::new(Duration::from_secs(2))).await;
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_set_too_late_is_set_anew() {
        glance(&mut Patience::new(Duration::from_secs(60))).await;
        let began = Instant::now();
        wait_out(&mut Patience::new(Duration::from_millis(20))).await;
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_timer_of_another_event_loop_is_not_lent() {
        for _ in 0..2 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                wait_out(&mut Patience::new(Duration::from_secs(1))).await;
                glance(&mut Patience::new(Duration::from_secs(1))).await;
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_time() {
        let mut patience = Patience::new(Duration::from_secs(2));
        for _ in 0..3 {
            glance(&mut patience).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let began = Instant::now();
        wait_out(&mut patience).await;
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
