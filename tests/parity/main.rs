//! Parity with nginx: every `cases/*.case` is run against real nginx and against Edgewater, and the two
//! transcripts must be equal line for line.
//!
//! ```text
//! cargo test --test parity                    all cases
//! cargo test --test parity -- gzip            cases whose name contains "gzip"
//! CASE=gzip_vary cargo test --test parity     this one
//! SHOW=1 …                                    print nginx's transcript too
//! cargo test --test parity -- hits gzip       the same cases with `hit_path` on and off, see `hits.rs`
//! RANDOM_REQUESTS=10000 SEED=7 cargo test --test parity -- random     see `random/mod.rs`
//! UNDER_TEST=/usr/sbin/nginx …                nginx against itself: are the cases sound?
//! ```
//!
//! `case.rs` documents the case file. Without nginx installed, only the statuses that the cases state are checked.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A harness that is wrong may stop.

mod case;
mod check;
mod client;
mod collect;
mod compare;
mod frames;
mod hits;
mod http1;
mod http2;
mod loopback;
mod random;
mod running;
mod server;
mod transcript;
mod upstream;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use case::Case;
use server::Binary;

/// The nginx that answers for what is right; `NGINX` overrides it.
fn oracle() -> Option<Binary> {
    let path = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".into());
    Path::new(&path).exists().then(|| Binary::at(path))
}

fn under_test() -> Binary {
    Binary::at(std::env::var("UNDER_TEST").unwrap_or_else(|_| env!("CARGO_BIN_EXE_edgewater").into()))
}

fn main() {
    let mut filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let hits = filters.iter().any(|f| f == "hits");
    let all = filters.is_empty();
    filters.retain(|f| f != "hits");
    let only = std::env::var("CASE").ok();
    let names = case_files(&filters, only.as_deref());
    let random = only.is_none() && (filters.is_empty() || filters.iter().any(|f| f == "random"));
    if std::env::args().any(|a| a == "--list") {
        for (name, _) in &names {
            println!("{name}: test");
        }
        return;
    }
    if let Some(only) = &only
        && names.is_empty()
    {
        eprintln!("no case named {only}");
        std::process::exit(101);
    }
    if hits {
        std::process::exit(if hits::run(&names, &under_test().path) > 0 { 101 } else { 0 });
    }
    let oracle = oracle();
    if oracle.is_none() {
        println!("nginx is not installed: only the stated statuses are checked");
    }
    let mut failures = 0;
    if !random || !names.is_empty() {
        failures += run_all(&names, oracle.as_ref(), &under_test());
    }
    if all && only.is_none() && !under_test().is_nginx {
        failures += hits::run(&names, &under_test().path);
    }
    if random && let Some(nginx) = &oracle {
        failures += random::run(nginx, &under_test());
    }
    if failures > 0 {
        std::process::exit(101);
    }
}

/// Runs the cases side by side, prints a line for each and returns how many failed.
fn run_all(names: &[(String, PathBuf)], oracle: Option<&Binary>, ours: &Binary) -> usize {
    println!("\nrunning {} tests", names.len());
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let ignored = AtomicUsize::new(0);
    let requests = AtomicUsize::new(0);
    let pieces = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(4, |n| n.get() * 3).min(names.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((name, path)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let outcome = Case::read(path).and_then(|case| {
                        requests.fetch_add(case.requests(), Ordering::Relaxed);
                        pieces.fetch_add(case.checks.len(), Ordering::Relaxed);
                        run_one(&case, oracle, ours)
                    });
                    match outcome {
                        Ok(Outcome::Pending(what)) => {
                            ignored.fetch_add(1, Ordering::Relaxed);
                            println!("test {name} ... ignored, pending: {what}");
                        }
                        Ok(Outcome::Passed(note)) => {
                            println!("test {name} ... ok{note}{}", slow(began))
                        }
                        Err(why) => {
                            println!("test {name} ... FAILED");
                            failed.lock().unwrap().push((name.clone(), why));
                        }
                    }
                }
            });
        }
    });
    let ignored = ignored.into_inner();
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    if !failed.is_empty() {
        println!("\nfailures:");
        for (name, why) in &failed {
            println!("\n---- {name} ----\n{why}");
        }
        println!("\nfailures:");
        for (name, _) in &failed {
            println!("    {name}");
        }
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        names.len() - failed.len() - ignored,
        failed.len(),
        ignored,
        began.elapsed().as_secs_f64()
    );
    println!(
        "{} cases: {} requests and {} pieces of configuration {}\n",
        names.len(),
        requests.into_inner(),
        pieces.into_inner(),
        if oracle.is_some() { "compared with nginx" } else { "answered as stated" },
    );
    failed.len()
}

/// Runs one case on both servers; `Ok` carries a note for the result line, `Err` the readable difference.
fn run_one(case: &Case, oracle: Option<&Binary>, ours: &Binary) -> Result<Outcome, String> {
    let compared = compare_one(case, oracle, ours);
    match (&case.pending, compared) {
        (Some(what), Err(Failure::Ours(_))) if !ours.is_nginx => Ok(Outcome::Pending(what.clone())),
        (Some(_), Ok(_)) if !ours.is_nginx => Err("this case passes: take `pending` out of it".into()),
        (_, Ok(note)) => Ok(Outcome::Passed(note)),
        (_, Err(Failure::Ours(why) | Failure::Case(why))) => Err(why),
    }
}

/// Says how long a case took, if that is remarkable.
fn slow(began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64();
    if seconds > 3.0 { format!(" <{seconds:.1}s>") } else { String::new() }
}

/// How a case that did not fail ended.
enum Outcome {
    /// With a note for the result line.
    Passed(String),
    /// It waits for what is named.
    Pending(String),
}

/// Who is to blame: the server under test, or the case.
enum Failure {
    Ours(String),
    Case(String),
}

fn compare_one(case: &Case, oracle: Option<&Binary>, ours: &Binary) -> Result<String, Failure> {
    let dir = tempfile::Builder::new().prefix("parity").tempdir();
    let dir = dir.map_err(|e| Failure::Case(e.to_string()))?;
    let (theirs, mine) = std::thread::scope(|scope| {
        let theirs = oracle.map(|nginx| {
            let dir = dir.path().join("a");
            scope.spawn(move || server::run(case, nginx, &dir))
        });
        let mine = server::run(case, ours, &dir.path().join("b"));
        (theirs.map(|t| t.join().expect("the nginx side does not panic")), mine)
    });
    let mine = mine.map_err(|e| Failure::Ours(format!("{} (under test): {e}", ours.path.display())));
    let Some(theirs) = theirs else {
        compare::statuses(case, &mine?).map_err(Failure::Ours)?;
        return Ok(" (statuses only)".into());
    };
    let theirs = theirs.map_err(|e| Failure::Case(format!("nginx: {e}")))?;
    let transcript = theirs.lines.join("\n");
    if std::env::var_os("SHOW").is_some() {
        println!("---- {} ----\n{transcript}", case.name);
    }
    compare::statuses(case, &theirs).map_err(|e| {
        Failure::Case(format!("the case does not show what it says, nginx answers otherwise:\n{e}"))
    })?;
    if let Some(error) = theirs.lines.iter().find(|l| l.trim_start().starts_with("error: ")) {
        return Err(Failure::Case(format!("the case does not work on nginx: {error}\n{transcript}")));
    }
    compare::transcripts(case, &theirs, &mine?, ours.is_nginx).map_err(Failure::Ours)?;
    let on_purpose = if case.differs.is_empty() || ours.is_nginx { "" } else { " (differs on purpose)" };
    Ok(on_purpose.into())
}

/// Name and path of each case file that passes the filters, sorted by name.
fn case_files(filters: &[String], only: Option<&str>) -> Vec<(String, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/cases");
    let mut found: Vec<(String, PathBuf)> = std::fs::read_dir(dir)
        .expect("tests/parity/cases is part of the repository")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "case"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .filter(|(name, _)| only.is_none_or(|only| only == name))
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())))
        .collect();
    found.sort();
    found
}
