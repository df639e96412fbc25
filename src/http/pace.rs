//! `limit_rate`: how fast a response may go.

use super::request::Request;
use std::time::{Duration, Instant};

/// The pace of a response.
pub struct Pace {
    /// Bytes a second.
    rate: u64,
    /// Bytes before the limit begins.
    after: u64,
    started: Instant,
}

impl Pace {
    /// The pace of this request's response, if it has one: `$limit_rate`, else `limit_rate`.
    pub fn of(rq: &Request) -> Option<Pace> {
        let core = &rq.loc().core;
        let read = |t: &Option<super::template::Template>| {
            let text = t.as_ref()?.eval(rq);
            crate::conf::values::size(std::str::from_utf8(&text).ok()?)
        };
        let rate = rq.limit_rate.or_else(|| read(&core.limit_rate)).filter(|r| *r > 0)?;
        let after = read(&core.limit_rate_after).unwrap_or(0);
        Some(Pace { rate, after, started: Instant::now() })
    }

    /// Waits until so many bytes may have been sent.
    pub async fn wait(&mut self, sent: u64) {
        let limited = sent.saturating_sub(self.after);
        let due = Duration::from_secs_f64(limited as f64 / self.rate as f64);
        tokio::time::sleep_until((self.started + due).into()).await;
    }
}
