//! Many requests at once, to see where a request limit bites.
use std::time::Instant;

use super::client::Client;

/// The answers to requests that were sent all at once, in order, on one connection.
#[derive(Debug)]
pub struct Burst {
    pub statuses: Vec<u16>,
    /// From before the first request was sent until the last answer was here.
    seconds: f64,
}

impl Burst {
    /// Sends `count` times the same GET.
    pub async fn of(client: &mut Client, count: usize, target: &str) -> Self {
        Self::with(client, count, &[], |_| target.to_string()).await
    }

    /// Sends `count` GETs with `headers`, the n-th, from 0, of `target(n)`.
    pub async fn with(
        client: &mut Client,
        count: usize,
        headers: &[(&str, &str)],
        target: impl Fn(usize) -> String,
    ) -> Self {
        let lines: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let requests: String = (0..count)
            .map(|n| {
                let target = target(n);
                format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", client.host)
            })
            .collect();
        let start = Instant::now();
        client.send(requests.as_bytes()).await;
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(client.response("GET").await.status);
        }
        Self { statuses, seconds: start.elapsed().as_secs_f64() }
    }

    /// How many were not answered with `rejection`.
    pub fn admitted(&self, rejection: u16) -> usize {
        self.statuses.iter().filter(|&&s| s != rejection).count()
    }

    /// Panics unless a limit of `rate` requests a second with `burst` was in force, exactly.
    ///
    /// The first 1 + `burst` must pass; after them as many as the time the burst took gives room for: none, if it
    /// took less than 1 / `rate` seconds.
    pub fn assert_limit(&self, rate: f64, burst: usize, rejection: u16) {
        let (first, rest) = self.statuses.split_at(burst + 1);
        assert!(!first.contains(&rejection), "rejected early: {self:?}");
        // Servers count in milliseconds.
        let room = (rate * (self.seconds + 0.005)).floor() as usize;
        let passed = rest.iter().filter(|&&status| status != rejection).count();
        assert!(passed <= room, "{passed} passed too many: {self:?}");
    }
}
