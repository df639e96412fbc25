//! One handshake begins in a turn of a worker's loop.
//!
//! The first answer to a client costs as much as ten requests. Where many arrive at once they wait for one
//! another, in order, and what else is ready has its turn between two of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

thread_local! {
    static TURN: RefCell<Turn> = RefCell::default();
}

/// Where a worker stands.
#[derive(Default)]
struct Turn {
    /// Whether one has begun in this turn.
    taken: bool,
    waiting: VecDeque<(u64, Waker)>,
    /// A number for the next that waits.
    number: u64,
}

impl Turn {
    fn wake_next(&mut self) {
        if let Some((_, next)) = self.waiting.pop_front() {
            next.wake();
        }
    }
}

/// Waits for the turn to begin a handshake.
pub fn turn() -> impl Future<Output = ()> {
    Mine { number: None }
}

struct Mine {
    /// Its number once it has to wait.
    number: Option<u64>,
}

impl Future for Mine {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let begins = TURN.with_borrow_mut(|turn| {
            if !turn.taken && (self.number.is_some() || turn.waiting.is_empty()) {
                turn.taken = true;
                return true;
            }
            match self.number {
                // Polled for another reason, or its turn was taken by one that came just then.
                Some(number) => match turn.waiting.iter_mut().find(|(n, _)| *n == number) {
                    Some((_, waker)) => waker.clone_from(cx.waker()),
                    None => turn.waiting.push_front((number, cx.waker().clone())),
                },
                None => {
                    self.number = Some(turn.number);
                    turn.waiting.push_back((turn.number, cx.waker().clone()));
                    turn.number += 1;
                }
            }
            false
        });
        if !begins {
            return Poll::Pending;
        }
        if let Some(number) = self.number.take() {
            TURN.with_borrow_mut(|turn| turn.waiting.retain(|(n, _)| *n != number));
        }
        at_next_turn();
        Poll::Ready(())
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        // Fails when the thread is ending, and nobody waits.
        let _ = TURN.try_with(|turn| {
            let mut turn = turn.borrow_mut();
            match turn.waiting.iter().position(|(n, _)| *n == number) {
                Some(at) => drop(turn.waiting.remove(at)),
                // It was woken, and what it does not begin is the next one's.
                None if !turn.taken => turn.wake_next(),
                None => {}
            }
        });
    }
}

/// Begins a turn once the loop has looked for what else is ready: what yields is woken then.
fn at_next_turn() {
    struct Next;
    impl Wake for Next {
        fn wake(self: Arc<Self>) {
            TURN.with_borrow_mut(|turn| {
                turn.taken = false;
                turn.wake_next();
            });
        }
    }
    thread_local! {
        static NEXT: Waker = Waker::from(Arc::new(Next));
    }
    NEXT.with(|next| {
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(next));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    fn run(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, work);
    }

    #[test]
    fn one_begins_in_a_turn_and_they_keep_their_order() {
        run(async {
            let order = Rc::new(RefCell::new(Vec::new()));
            let others = Rc::new(Cell::new(0));
            let begin = |n| {
                let (order, others) = (order.clone(), others.clone());
                spawn_local(async move {
                    turn().await;
                    order.borrow_mut().push((n, others.get()));
                })
            };
            let handshakes: Vec<_> = (0..5).map(begin).collect();
            let other = others.clone();
            let other = spawn_local(async move {
                for _ in 0..50 {
                    other.set(other.get() + 1);
                    yield_now().await;
                }
            });
            for handshake in handshakes {
                handshake.await.unwrap();
            }
            other.await.unwrap();
            let order = order.borrow();
            assert!(order.iter().map(|(n, _)| *n).eq(0..5));
            // In each turn another task runs as well, before one of them or after it.
            assert!(order.windows(3).all(|turns| turns[0].1 < turns[2].1), "{order:?}");
        });
    }

    #[test]
    fn one_that_gives_up_does_not_stop_the_others() {
        run(async {
            let spawn = || spawn_local(turn());
            let handshakes: Vec<_> = (0..6).map(|_| spawn()).collect();
            yield_now().await;
            handshakes[1].abort();
            handshakes[2].abort();
            handshakes[5].abort();
            for (n, handshake) in handshakes.into_iter().enumerate() {
                assert_eq!(handshake.await.is_ok(), ![1, 2, 5].contains(&n), "{n}");
            }
            turn().await;
            turn().await;
        });
    }
}
