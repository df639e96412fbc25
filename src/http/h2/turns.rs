//! Whose turn it is to send (RFC 9218, 10): the most urgent first; of streams that are equally urgent those that are
//! of no use in parts one after the other as they came, and these by turns with each that is.
//!
//! A stream gives the `h2` crate a piece of its body when it is its turn, and no more than the connection can write
//! soon: what the crate has it sends in an order of its own. Who waits for its own window, for its body or for its
//! pace is not asked, and holds up nobody. Where nobody waits, nobody's priority is looked at.

use super::priority::Priority;
use parking_lot::Mutex;
use std::task::{Context, Poll, Waker};

/// The most bytes of a body at once: with its header a frame fills a TLS record.
pub const PIECE: usize = 16 * 1024 - 9;
/// Bytes that the crate may have of all streams together: what goes out in one write.
const ROOM: i64 = 3 * PIECE as i64;
/// Priorities said by PRIORITY_UPDATE that are kept; they may come before their streams do.
const UPDATES: usize = 256;

/// The turns of a connection's streams.
#[derive(Default)]
pub struct Turns(Mutex<Inner>);

struct Inner {
    /// Bytes given to the crate since the connection was last drained.
    given: i64,
    /// Bytes given to it in all.
    total: u64,
    /// Bytes that the connection's window let through when the driver last looked.
    window: i64,
    /// Turns so far, and one.
    round: u64,
    /// The last turns of the streams that take theirs one after the other, by urgency.
    lines: [u64; 8],
    waiting: Vec<Waiting>,
    updates: Vec<(u32, Priority)>,
}

impl Default for Inner {
    fn default() -> Inner {
        Inner {
            given: 0,
            total: 0,
            window: 65_535,
            round: 1,
            lines: [0; 8],
            waiting: Vec::new(),
            updates: Vec::new(),
        }
    }
}

/// A stream that has something to send.
struct Waiting {
    stream: u32,
    priority: Priority,
    /// Its last turn, or when it came.
    round: u64,
    waker: Waker,
}

/// A stream's place among the others.
pub struct Place<'a> {
    turns: &'a Turns,
    stream: u32,
    /// Its priority, once somebody had to know it.
    priority: Option<Priority>,
    round: u64,
    /// Whether it stands among those that wait.
    queued: bool,
    /// Whether others may wait for it to say that it has done.
    owes: bool,
}

impl Turns {
    /// Takes note of what the driver knows; `drained` when nothing is left of what was written.
    pub fn turned(&self, window: i64, updates: Vec<(u32, Priority)>, drained: bool) {
        let mut inner = self.0.lock();
        // What was given and has not been written is of the window too.
        inner.window = window;
        if drained {
            inner.given = 0;
        }
        for (stream, priority) in updates {
            inner.update(stream, priority);
        }
        inner.wake();
    }

    /// Takes a turn to send `length` bytes, no more than [`PIECE`], if nobody waits for one.
    pub fn try_take(&self, length: usize) -> bool {
        let mut inner = self.0.lock();
        let free = inner.waiting.is_empty() && inner.open() && inner.window - inner.given >= length as i64;
        if free {
            inner.take(length);
        }
        free
    }

    /// Gives back what was not used of a turn.
    pub fn give_back(&self, bytes: usize) {
        let mut inner = self.0.lock();
        inner.given -= bytes as i64;
        inner.total -= bytes as u64;
    }

    /// Bytes of bodies that were sent.
    pub fn total(&self) -> u64 {
        self.0.lock().total
    }

    /// Gives back the memory that turns took.
    pub fn rest(&self) {
        let mut inner = self.0.lock();
        if inner.waiting.is_empty() {
            inner.waiting = Vec::new();
            inner.updates.shrink_to_fit();
        }
    }

    /// A stream's place.
    pub fn place(&self, stream: u32) -> Place<'_> {
        Place { turns: self, stream, priority: None, round: 0, queued: false, owes: false }
    }
}

impl Inner {
    /// What may be given to the crate now.
    fn open(&self) -> bool {
        self.given < ROOM && self.given < self.window
    }

    fn take(&mut self, want: usize) -> usize {
        let n = want.min(PIECE).min(usize::try_from(self.window - self.given).unwrap_or(0));
        self.given += n as i64;
        self.total += n as u64;
        n
    }

    fn update(&mut self, stream: u32, priority: Priority) {
        if let Some(waiting) = self.waiting.iter_mut().find(|w| w.stream == stream) {
            waiting.priority = priority;
        }
        match self.updates.iter_mut().find(|(s, _)| *s == stream) {
            Some((_, kept)) => *kept = priority,
            None => {
                if self.updates.len() == UPDATES {
                    self.updates.remove(0);
                }
                self.updates.push((stream, priority));
            }
        }
    }

    /// The order of those who wait: less is sooner.
    fn rank(&self, stream: u32, priority: Priority, round: u64) -> (u8, u64, u32) {
        let urgency = priority.urgency.min(7);
        let round = if priority.incremental { round } else { self.lines[usize::from(urgency)] };
        (urgency, round, stream)
    }

    fn first(&self) -> Option<&Waiting> {
        self.waiting.iter().min_by_key(|w| self.rank(w.stream, w.priority, w.round))
    }

    /// Wakes who comes first, where there is room.
    fn wake(&self) {
        if self.open()
            && let Some(first) = self.first()
        {
            first.waker.wake_by_ref();
        }
    }

    fn remove(&mut self, stream: u32) {
        if let Some(at) = self.waiting.iter().position(|w| w.stream == stream) {
            self.waiting.swap_remove(at);
        }
    }
}

impl Place<'_> {
    /// Asks for a turn to send `want` bytes; how many may be. `said` is the priority that request and response say.
    pub fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
        said: impl FnOnce() -> Priority,
    ) -> Poll<usize> {
        let turns = self.turns;
        let mut inner = turns.0.lock();
        if inner.waiting.is_empty() && inner.open() {
            return Poll::Ready(inner.take(want));
        }
        let priority = self.comes(&inner, said);
        let rank = inner.rank(self.stream, priority, self.round);
        let others = inner.waiting.iter().filter(|w| w.stream != self.stream);
        let first = others.map(|w| inner.rank(w.stream, w.priority, w.round)).all(|other| rank < other);
        if first && inner.open() {
            if std::mem::take(&mut self.queued) {
                inner.remove(self.stream);
            }
            inner.round += 1;
            let round = inner.round;
            match priority.incremental {
                true => self.round = round,
                false => inner.lines[usize::from(priority.urgency.min(7))] = round,
            }
            self.owes = !inner.waiting.is_empty();
            return Poll::Ready(inner.take(want));
        }
        self.queue(&mut inner, priority, cx.waker());
        if !first {
            inner.wake();
        }
        Poll::Pending
    }

    /// Says that it has something to send, and will ask for its turn when it is woken.
    pub fn stay(&mut self, waker: &Waker, said: impl FnOnce() -> Priority) {
        let turns = self.turns;
        let mut inner = turns.0.lock();
        let priority = self.comes(&inner, said);
        self.queue(&mut inner, priority, waker);
    }

    /// Its priority; when it comes for the first time that is noted.
    fn comes(&mut self, inner: &Inner, said: impl FnOnce() -> Priority) -> Priority {
        if self.round == 0 {
            self.round = inner.round;
        }
        match inner.updates.iter().find(|(s, _)| *s == self.stream) {
            Some((_, priority)) => *priority,
            None => *self.priority.get_or_insert_with(said),
        }
    }

    fn queue(&mut self, inner: &mut Inner, priority: Priority, waker: &Waker) {
        let (stream, round) = (self.stream, self.round);
        match inner.waiting.iter_mut().find(|w| w.stream == stream) {
            Some(own) => {
                own.priority = priority;
                own.waker.clone_from(waker);
            }
            None => inner.waiting.push(Waiting { stream, priority, round, waker: waker.clone() }),
        }
        self.queued = true;
        self.owes = false;
    }

    /// Gives back what was not used of a turn.
    pub fn give_back(&mut self, bytes: usize) {
        self.turns.give_back(bytes);
    }

    /// Says that it has nothing to send for now.
    pub fn pass(&mut self) {
        if self.queued || self.owes {
            let mut inner = self.turns.0.lock();
            inner.remove(self.stream);
            inner.wake();
            (self.queued, self.owes) = (false, false);
        }
    }

    /// A number that changes when anybody sends.
    pub fn progress(&self) -> u64 {
        self.turns.total()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pass();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A stream that always has something to send.
    struct Stream<'a> {
        place: Place<'a>,
        priority: Priority,
        woken: Arc<Count>,
    }

    fn stream(turns: &Turns, number: u32, urgency: u8, incremental: bool) -> Stream<'_> {
        let priority = Priority { urgency, incremental };
        Stream { place: turns.place(number), priority, woken: Arc::default() }
    }

    impl Stream<'_> {
        fn ask(&mut self, want: usize) -> Option<usize> {
            let waker = Waker::from(self.woken.clone());
            match self.place.poll_turn(&mut Context::from_waker(&waker), want, || self.priority) {
                Poll::Ready(n) => Some(n),
                Poll::Pending => None,
            }
        }

        fn woken(&self) -> bool {
            self.woken.0.swap(0, Ordering::Relaxed) > 0
        }
    }

    fn open(turns: &Turns) {
        turns.turned(1 << 30, Vec::new(), true);
    }

    /// Who sends, in order, when all always have a piece more, `count` times.
    fn order(turns: &Turns, streams: &mut [Stream<'_>], count: usize) -> Vec<u32> {
        while streams[0].ask(PIECE).is_some() {}
        streams.iter_mut().for_each(|s| assert_eq!(s.ask(PIECE), None));
        let mut order = Vec::new();
        while order.len() < count {
            open(turns);
            while let Some(at) = streams.iter().position(Stream::woken) {
                while streams[at].ask(PIECE).is_some() {
                    order.push(streams[at].place.stream);
                }
            }
        }
        order.truncate(count);
        order
    }

    #[test]
    fn who_is_alone_is_not_asked() {
        let turns = Turns::default();
        let mut place = turns.place(1);
        let waker = Waker::noop();
        let mut cx = Context::from_waker(waker);
        let ask = place.poll_turn(&mut cx, 100, || unreachable!("nobody waits"));
        assert_eq!(ask, Poll::Ready(100));
        assert_eq!(turns.total(), 100);
        place.give_back(40);
        assert_eq!(turns.total(), 60);
    }

    #[test]
    fn no_more_is_given_than_there_is_room_and_window() {
        let turns = Turns::default();
        let mut one = stream(&turns, 1, 3, false);
        for _ in 0..3 {
            assert_eq!(one.ask(1 << 20), Some(PIECE));
        }
        assert_eq!(one.ask(1 << 20), None);
        let left = 65_535 - 3 * PIECE;
        turns.turned(left as i64, Vec::new(), true);
        assert!(one.woken());
        assert_eq!(one.ask(1 << 20), Some(PIECE));
        assert_eq!(one.ask(1 << 20), Some(left - PIECE));
        assert_eq!(one.ask(1 << 20), None);
        turns.turned(0, Vec::new(), true);
        assert!(!one.woken());
        turns.turned(7, Vec::new(), true);
        assert!(one.woken());
        assert_eq!(one.ask(1 << 20), Some(7));
    }

    #[test]
    fn the_urgent_come_first() {
        let turns = Turns::default();
        let mut all = [stream(&turns, 1, 5, true), stream(&turns, 3, 1, false), stream(&turns, 5, 0, false)];
        assert_eq!(order(&turns, &mut all, 3), [5, 5, 5]);
    }

    #[test]
    fn who_is_of_no_use_in_parts_is_sent_whole() {
        let turns = Turns::default();
        let mut all = [stream(&turns, 1, 3, false), stream(&turns, 5, 3, false), stream(&turns, 3, 3, false)];
        assert_eq!(order(&turns, &mut all, 4), [1, 1, 1, 1]);
        let [one, rest @ ..] = all;
        drop(one);
        open(&turns);
        assert!(!rest[0].woken() && rest[1].woken());
    }

    #[test]
    fn who_is_of_use_in_parts_takes_turns() {
        let turns = Turns::default();
        let mut all = [
            stream(&turns, 1, 3, true),
            stream(&turns, 3, 3, false),
            stream(&turns, 5, 3, true),
            stream(&turns, 7, 3, false),
        ];
        let order = order(&turns, &mut all, 30);
        let count = |n: u32| order.iter().filter(|s| **s == n).count();
        assert_eq!((count(1), count(3), count(5), count(7)), (10, 10, 10, 0), "{order:?}");
    }

    #[test]
    fn who_has_nothing_to_send_holds_up_nobody() {
        let turns = Turns::default();
        let mut first = stream(&turns, 1, 0, false);
        let mut second = stream(&turns, 3, 7, false);
        while first.ask(PIECE).is_some() {}
        assert_eq!(second.ask(PIECE), None);
        open(&turns);
        assert!(first.woken() && !second.woken());
        assert_eq!(first.ask(PIECE), Some(PIECE));
        first.place.give_back(PIECE);
        first.place.pass();
        assert!(second.woken());
        assert_eq!(second.ask(PIECE), Some(PIECE));
    }

    #[test]
    fn priorities_change() {
        let turns = Turns::default();
        let early = Priority { urgency: 1, incremental: false };
        // Before its stream is there.
        turns.turned(1 << 30, vec![(5, early)], true);
        let mut all = [stream(&turns, 1, 3, false), stream(&turns, 3, 3, false), stream(&turns, 5, 3, false)];
        assert_eq!(order(&turns, &mut all, 2), [5, 5]);
        // While it waits.
        turns.turned(1 << 30, vec![(3, Priority { urgency: 0, incremental: false })], false);
        assert_eq!(order(&turns, &mut all, 2), [3, 3]);
        let many = (0..10_000).map(|n| (n, early)).collect();
        turns.turned(1 << 30, many, false);
        assert_eq!(turns.0.lock().updates.len(), UPDATES);
    }
}
