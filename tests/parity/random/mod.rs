//! Random configurations and requests, played on nginx and on Edgewater.
//!
//! ```text
//! cargo test --test parity                            the cases, then a small sample with a fixed seed
//! cargo test --test parity -- random                  only the sample
//! RANDOM_REQUESTS=10000 SEED=7 cargo test --test parity -- random
//! RANDOM_ONLY=123 SEED=7 …                            only the configuration of that number
//! ```
//!
//! A configuration is asked 50 requests on kept connections. Status, headers, body and a line of the access log are
//! compared. Where they differ, configuration and requests are made as small as they get and are printed as a case.
//!
//! Every fourth configuration is about caches (`caches.rs`), the others about where requests lead.
//!
//! What is not generated, since nginx itself has no answer that could be right, or since we differ on purpose:
//! `grammar.rs` and `asks.rs` generate none of
//!
//! - line ends in paths (`%0A`, `%0D`): nginx 1.22 writes them into header fields (`crlf_in_redirect.case`);
//! - `alias` in a location where a rewrite has no flag: nginx 1.22 takes the location's length off the new URI
//!   unchecked, in `$request_filename` and after a `break`, and reads what happens to be behind it, or dies;
//! - `alias` with `proxy_pass` in a location that ends in a slash: asked without it, 1.22 does the same in
//!   `$request_filename`;
//! - maps whose values are of themselves: nginx gives the text a hundred times and then up;
//! - `$args` in the access log: where `try_files` or `error_page` leave no query, 1.22 says `-` or nothing by what
//!   happens to be on its stack;
//! - `$document_root` and maps in the access log: evaluating one may change the captures of which the other is made,
//!   after nginx has taken their lengths;
//! - captures and maps in one text, for the same reason: nginx answers 500 when the lengths no longer fit;
//! - `$request_completion` and `$sent_http_…`: nginx remembers what they were when they were first read, here they
//!   are what they are;
//! - `CONNECT`: 1.22 refuses what 1.31 may be told to do (`connect.case`).

mod asks;
mod caches;
mod dice;
mod grammar;
mod shrink;
mod tree;
mod trial;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use self::dice::Dice;
use self::trial::{Outcome, Trial, all_files};
use crate::server::Binary;

/// Requests to one configuration.
const REQUESTS: usize = 50;

/// Of so many configurations one is about caches.
const CACHES: usize = 4;

/// Differences that are made small; more are only told. `RANDOM_SHRINK` overrides it.
const SHRUNK: usize = 4;

/// Plays `RANDOM_REQUESTS` requests, or 1000; returns how many configurations gave a difference.
pub fn run(nginx: &Binary, ours: &Binary) -> usize {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<usize>().ok());
    let seed = number("SEED").unwrap_or(1) as u64;
    let count = number("RANDOM_REQUESTS").unwrap_or(1000).div_ceil(REQUESTS);
    let (first, end) = number("RANDOM_ONLY").map_or((0, count), |n| (n, n + 1));
    let to_shrink = number("RANDOM_SHRINK").unwrap_or(SHRUNK);
    let began = Instant::now();
    let next = AtomicUsize::new(first);
    let shrinking = AtomicUsize::new(0);
    let [same, refused, differing] = [const { AtomicUsize::new(0) }; 3];
    let failures = Mutex::new(vec![]);
    let workers = std::thread::available_parallelism().map_or(4, |n| n.get() * 2);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= end {
                        return;
                    }
                    let trial = make(seed, n);
                    match trial.run(nginx, ours) {
                        Outcome::Same => same.fetch_add(1, Ordering::Relaxed),
                        Outcome::BothRefuse(why) => {
                            if std::env::var_os("SHOW").is_some() {
                                println!(
                                    "---- random, seed {seed}, configuration {n} is refused by both\n{why}"
                                );
                            }
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        Outcome::Differs(kind, said) => {
                            let text = if shrinking.fetch_add(1, Ordering::Relaxed) < to_shrink {
                                let (small, said) = shrink::shrink(trial, kind, nginx, ours);
                                let title = format!("seed {seed}, configuration {n}");
                                let text = small.case_text(&title, &small.statuses(nginx));
                                format!("{text}\n{said}\n")
                            } else {
                                format!("seed {seed}, configuration {n}: {kind:?}\n{said}\n")
                            };
                            println!("---- random, {text}");
                            failures.lock().expect("no thread panics with the lock held").push(n);
                            differing.fetch_add(1, Ordering::Relaxed)
                        }
                        Outcome::Broken(why) => {
                            println!(
                                "---- random, seed {seed}, configuration {n}: it could not be played\n{why}"
                            );
                            failures.lock().expect("no thread panics with the lock held").push(n);
                            differing.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
    });
    let [same, refused, differing] = [same, refused, differing].map(AtomicUsize::into_inner);
    let mut failures = failures.into_inner().expect("no thread panics with the lock held");
    failures.sort_unstable();
    println!(
        "random: seed {seed}, {} requests to {} configurations compared with nginx: {same} the same, {differing} \
         differ{}; {refused} more were refused by both; {:.1}s\n",
        (same + differing) * REQUESTS,
        same + differing,
        if failures.is_empty() { String::new() } else { format!(" {failures:?}") },
        began.elapsed().as_secs_f64()
    );
    differing
}

fn make(seed: u64, n: usize) -> Trial {
    let mut dice = Dice::new(seed, n as u64);
    if n % CACHES == CACHES - 1 {
        let varies = dice.chance(50);
        let http = caches::http(&mut dice, varies);
        let replies = caches::replies(&mut dice, varies);
        let requests = (0..REQUESTS).map(|n| caches::request(&mut dice, n)).collect();
        return Trial { http, files: vec![], replies, requests };
    }
    let http = grammar::http(&mut dice);
    let requests = (0..REQUESTS).map(|n| asks::request(&mut dice, n)).collect();
    Trial { http, files: all_files(), replies: vec![], requests }
}
