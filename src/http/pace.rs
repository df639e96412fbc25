//! `limit_rate`: how fast a response may go.
//!
//! As in nginx each second lets another second's worth go, all of it at once where it is at hand: what may have been
//! sent is reckoned by the seconds of the clock, and after each turn there is a pause of the time that its bytes take.

use super::request::Request;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, Sleep};

/// The most of one turn, where files are sent by the kernel (`sendfile_max_chunk`).
const STRAIGHT: u64 = 2 << 20;

/// The most of one turn otherwise: what nginx reads of a file at once (`output_buffers`).
pub const READ: u64 = 32 << 10;

/// The pace of a response.
pub struct Pace {
    /// Bytes a second.
    rate: u64,
    /// Bytes before the limit begins.
    after: u64,
    /// When the second of the clock began in which the request did.
    second: Instant,
    /// The most bytes of one turn.
    most: u64,
    /// Bytes that were sent.
    sent: u64,
    /// The same when the present turn began.
    before: u64,
    /// Bytes that may still go in the present turn.
    left: u64,
    /// The pause between two turns, if there is one.
    pause: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// The pace of this request's response, if it has one: `$limit_rate`, else `limit_rate`. `straight`: whether files
    /// go to the client without being read.
    pub fn of(rq: &Request, straight: bool) -> Option<Box<Pace>> {
        let core = &rq.loc().core;
        let read = |t: &Option<super::template::Template>| {
            let text = t.as_ref()?.eval(rq);
            crate::conf::values::size(std::str::from_utf8(&text).ok()?)
        };
        let rate = rq.limit_rate.or_else(|| read(&core.limit_rate)).filter(|r| *r > 0)?;
        let after = read(&core.limit_rate_after).unwrap_or(0);
        let started = SystemTime::now() - rq.started.elapsed();
        // A clock that is before 1970 has seconds as well.
        let into = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        let started = Instant::from_std(rq.started);
        let second = started.checked_sub(Duration::from_nanos(into.into())).unwrap_or(started);
        let mut pace = Pace::new(rate, after, second, if straight { STRAIGHT } else { READ });
        // Its head, where that goes before it.
        pace.sent = rq.sent.bytes;
        Some(Box::new(pace))
    }

    /// So many bytes a second `after` the first, by seconds of which one began at `second`, and `most` in one turn.
    pub fn new(rate: u64, after: u64, second: Instant, most: u64) -> Pace {
        Pace { rate, after, second, most, sent: 0, before: 0, left: 0, pause: None, timer: None }
    }

    /// Waits until something may be sent; how many bytes, which are more than 0.
    pub fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        while self.left == 0 {
            if let Some(until) = self.pause {
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                ready!(timer.as_mut().poll(cx));
                self.pause = None;
            }
            self.before = self.sent;
            let now = Instant::now();
            match self.limit(now.saturating_duration_since(self.second).as_secs()) {
                Ok(limit) => self.left = limit.min(self.most),
                Err(over) => self.pause = Some(now + self.time(over) + Duration::from_millis(1)),
            }
        }
        Poll::Ready(self.left)
    }

    /// Takes note that bytes of a turn were sent, and others with them that nobody asks for (the heads of frames).
    pub fn went(&mut self, bytes: u64, with: u64) {
        self.sent += bytes + with;
        self.left = self.left.saturating_sub(bytes);
        if self.left == 0 {
            self.rest();
        }
    }

    /// Ends a turn: all that was at hand was sent, or the client takes no more for now.
    pub fn rest(&mut self) {
        let limited = |sent: u64| sent.saturating_sub(self.after);
        let time = self.time(limited(self.sent) - limited(self.before));
        if !time.is_zero() {
            self.pause = Some(Instant::now() + time);
        }
        (self.before, self.left) = (self.sent, 0);
    }

    /// How many bytes may be sent so many seconds after the first; those that were too many where none may.
    fn limit(&self, seconds: u64) -> Result<u64, u64> {
        let may = self.rate.saturating_mul(seconds.saturating_add(1)).saturating_add(self.after);
        if may > self.sent { Ok(may - self.sent) } else { Err(self.sent - may) }
    }

    /// The time that so many bytes take, in whole milliseconds.
    fn time(&self, bytes: u64) -> Duration {
        Duration::from_millis(bytes.saturating_mul(1000) / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// When it sends how much, where all is at hand: milliseconds and bytes.
    async fn curve(mut pace: Pace, mut total: u64, with: u64) -> Vec<(u128, u64)> {
        let (start, mut curve) = (Instant::now(), Vec::new());
        while total > 0 {
            let turn = poll_fn(|cx| pace.poll_turn(cx)).await.min(total);
            curve.push((start.elapsed().as_millis(), turn));
            pace.went(turn, with);
            total -= turn;
        }
        curve
    }

    #[tokio::test(start_paused = true)]
    async fn a_seconds_worth_goes_at_once() {
        let pace = Pace::new(1024, 0, Instant::now(), STRAIGHT);
        assert_eq!(curve(pace, 3249, 0).await, [(0, 1024), (1000, 1024), (2000, 1024), (3000, 177)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_before_the_limit_goes_with_the_first_second() {
        let pace = Pace::new(10_240, 20_480, Instant::now(), STRAIGHT);
        assert_eq!(curve(pace, 50_000, 0).await, [(0, 30_720), (1000, 10_240), (2000, 9040)]);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_bounded() {
        let pace = Pace::new(51_200, 0, Instant::now(), READ);
        let expected = [(0, 32_768), (640, 18_432), (1000, 32_768), (1640, 18_432), (2000, 10)];
        assert_eq!(curve(pace, 102_410, 0).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_seconds_are_those_of_the_clock() {
        let second = Instant::now();
        tokio::time::advance(Duration::from_millis(500)).await;
        let pace = Pace::new(51_200, 0, second, READ);
        // At 640 ms the clock's next second lets all of the next turn go.
        let expected = [(0, 32_768), (640, 32_768), (1280, 32_768), (1920, 4096)];
        assert_eq!(curve(pace, 102_400, 0).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_with_it_counts() {
        let pace = Pace::new(1000, 0, Instant::now(), STRAIGHT);
        let expected = [(0, 1000), (1500, 500), (2500, 500)];
        assert_eq!(curve(pace, 2000, 500).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_too_much_is_waited_for() {
        let mut pace = Pace::new(1000, 0, Instant::now(), STRAIGHT);
        pace.went(0, 3500);
        // The pause that they take, and then until the clock lets more go.
        let start = Instant::now();
        assert_eq!(poll_fn(|cx| pace.poll_turn(cx)).await, 500);
        assert_eq!(start.elapsed(), Duration::from_millis(3500));
        let mut pace = Pace::new(1000, 0, Instant::now(), STRAIGHT);
        pace.sent = 3500;
        let start = Instant::now();
        assert_eq!(poll_fn(|cx| pace.poll_turn(cx)).await, 500);
        assert_eq!(start.elapsed(), Duration::from_millis(3002));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_ends_early_makes_a_shorter_pause() {
        let mut pace = Pace::new(1000, 0, Instant::now(), STRAIGHT);
        let start = Instant::now();
        assert_eq!(poll_fn(|cx| pace.poll_turn(cx)).await, 1000);
        pace.went(300, 0);
        assert_eq!(poll_fn(|cx| pace.poll_turn(cx)).await, 700);
        pace.rest();
        pace.rest();
        assert_eq!(poll_fn(|cx| pace.poll_turn(cx)).await, 700);
        assert_eq!(start.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_is_too_large() {
        let pace = Pace::new(u64::MAX, u64::MAX, Instant::now(), STRAIGHT);
        assert_eq!(curve(pace, 5 << 20, 0).await, [(0, 2 << 20), (0, 2 << 20), (0, 1 << 20)]);
    }
}
