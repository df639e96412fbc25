//! Requests that were answered, for their memory.

use crate::http::head::Head;
use crate::http::request::Request;
use std::cell::RefCell;

/// How many a worker keeps.
const MOST: usize = 8;

/// The boxes are what is kept.
#[allow(clippy::vec_box, reason = "a request is large, and moves by its box")]
type Used = Vec<Box<Request>>;

thread_local! {
    static USED: RefCell<Used> = const { RefCell::new(Vec::new()) };
}

/// Memory for a request.
pub struct Place(Option<Box<Request>>);

impl Place {
    /// Puts a request there.
    pub fn put(self, rq: Request) -> Box<Request> {
        match self.0 {
            Some(mut place) => {
                *place = rq;
                place
            }
            None => Box::new(rq),
        }
    }
}

/// Memory for a request, and for its head.
pub fn take() -> (Place, Head) {
    let mut used = USED.with_borrow_mut(Vec::pop);
    let head = used.as_mut().map(|rq| std::mem::take(&mut rq.head)).unwrap_or_default();
    (Place(used), head)
}

/// Gives back a request that nobody asks any more.
pub fn give(mut rq: Box<Request>) {
    // What ends with it ends now.
    rq.guards.clear();
    USED.with_borrow_mut(|used| {
        if used.len() < MOST {
            used.push(rq);
        }
    });
}

/// Lets go of all: they hold their connections and the generation.
pub fn clear() {
    USED.with_borrow_mut(Vec::clear);
}
