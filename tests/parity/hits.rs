//! The hit path against the full way: every case is played on Edgewater with `hit_path` on and with it off, each
//! request several times, and the two transcripts must be equal line for line.
//!
//! ```text
//! cargo test --test parity -- hits            all cases
//! cargo test --test parity -- hits gzip       cases whose name contains "gzip"
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::case::{Case, Options, Request, Step};
use crate::compare;
use crate::server::{self, Binary};

/// How often a request is made on a connection that is kept; then once more on one of its own. An answer is
/// noticed, watched, and repeated from the third on.
const TIMES: usize = 3;

/// Cases in which answers are repeated, of each kind of what they are made of. Were they not, nothing would be shown.
const REPEATED: [&str; 8] = [
    "cache_basics",
    "cache_key",
    "gzip_vary_and_types",
    "h2_basics",
    "log_variables_request",
    "open_file_cache",
    "static_headers",
    "tls_files",
];

/// Where the counters are read, below the directory of a server.
const FIGURES: &str = "figures";

/// What stands at the beginning of `http { }`.
pub fn directives(on: bool) -> String {
    let switch = if on { "on" } else { "off" };
    let server =
        format!("listen unix:{{{{dir}}}}/{FIGURES}; access_log off; location = /figures {{ prometheus; }}");
    format!("server {{ {server} }}\nhit_path {switch};")
}

/// How many requests a server answered by the hit path; 0 where its configuration lets nobody ask.
pub fn counted(dir: &Path) -> u64 {
    let ask = || {
        let mut stream = UnixStream::connect(dir.join(FIGURES)).ok()?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).ok()?;
        stream.write_all(b"GET /figures HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("edgewater_hit_path_requests_total "))?;
        line.trim().parse().ok()
    };
    ask().unwrap_or(0)
}

/// Plays all cases and returns how many failed.
pub fn run(names: &[(String, PathBuf)], ours: &Path) -> usize {
    println!("\nplaying {} cases with the hit path on and off", names.len());
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let repeated = Mutex::new(BTreeMap::new());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(4, |n| n.get() * 3) {
            scope.spawn(|| {
                while let Some((name, path)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match Case::read(path).and_then(|case| compare_one(case, ours)) {
                        Ok(hits) => {
                            repeated.lock().unwrap().insert(name.as_str(), hits);
                        }
                        Err(why) => failed.lock().unwrap().push((name.as_str(), why)),
                    }
                }
            });
        }
    });
    let repeated = repeated.into_inner().unwrap();
    let mut failed = failed.into_inner().unwrap();
    for name in REPEATED {
        if repeated.get(name) == Some(&0) {
            failed.push((name, "no answer was repeated".into()));
        }
    }
    failed.sort();
    for (name, why) in &failed {
        println!("\n---- {name}, with the hit path on and off ----\n{why}");
    }
    let total: u64 = repeated.values().sum();
    let with = repeated.values().filter(|hits| **hits > 0).count();
    println!("{total} answers were repeated, in {with} cases; {} cases differ", failed.len());
    println!("finished in {:.2}s\n", began.elapsed().as_secs_f64());
    if std::env::var_os("SHOW").is_some() {
        println!("{repeated:?}");
    }
    failed.len()
}

/// How many answers were repeated; the readable difference otherwise.
fn compare_one(mut case: Case, ours: &Path) -> Result<u64, String> {
    // What an upstream sees of a request that is only sent stands where it happened to come.
    if case.script.is_empty() || case.script.iter().any(is_sent) {
        return Ok(0);
    }
    // What nobody waits for comes when it comes; more of it would come in any order.
    if !case.script.iter().any(is_later) {
        case.script = case.script.into_iter().flat_map(several).collect();
    }
    // Seconds that pass between the two are no difference.
    case.masks.push(r"<date[-+][0-9]{5,}s>".into());
    let dir = tempfile::Builder::new().prefix("parity").tempdir().map_err(|e| e.to_string())?;
    let side = |on: bool| {
        let mut binary = Binary::at(ours);
        binary.http = directives(on);
        server::run(&case, &binary, &dir.path().join(if on { "a" } else { "b" }))
    };
    let (on, off) = std::thread::scope(|scope| {
        let on = scope.spawn(|| side(true));
        let off = side(false);
        (on.join().expect("a side does not panic"), off)
    });
    let (on, off) = (on?, off?);
    if off.hits > 0 {
        return Err(format!("switched off, it answered {} requests", off.hits));
    }
    compare::transcripts(&case, &off, &on, true).map_err(|why| why.replace("nginx", "off"))?;
    Ok(on.hits)
}

/// A step as often as it takes for its answer to be repeated; once, where a second time would be another thing.
fn several(step: Step) -> Vec<Step> {
    match step {
        Step::Request(request) if is_plain(&request.options) && request.options.body.is_none() => {
            let mut kept = Request { expect: vec![], ..request.clone() };
            kept.options.repeat = TIMES;
            if kept.options.conn.is_some() {
                return vec![Step::Request(kept)];
            }
            kept.options.conn = Some(format!("{:?}", request.options));
            kept.options.reopen = true;
            vec![Step::Request(kept), Step::Request(request)]
        }
        Step::Raw { bytes, options, expect } if is_plain(&options) && options.conn.is_none() => {
            let raw = || Step::Raw { bytes: bytes.clone(), options: options.clone(), expect: expect.clone() };
            (0..=TIMES).map(|_| raw()).collect()
        }
        other => vec![other],
    }
}

fn is_later(step: &Step) -> bool {
    matches!(step, Step::Request(Request { options, .. }) | Step::Raw { options, .. } if options.later)
}

fn is_sent(step: &Step) -> bool {
    matches!(step, Step::Request(Request { options, .. }) | Step::Raw { options, .. } if options.send)
}

fn is_plain(options: &Options) -> bool {
    !options.send && !options.later && options.repeat == 1
}
