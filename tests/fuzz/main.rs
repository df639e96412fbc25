//! A mutating fuzzer of the configuration loader: no panic, no hang, no boundless memory, whatever the text.
//!
//! ```text
//! cargo test --test fuzz                 what was found before, the seeds, then a few seconds from a fixed beginning
//! make fuzz                              minutes, from another beginning each time
//! FUZZ_SECONDS=600 FUZZ_SEED=7 …         so long, from this one
//! cargo test --test fuzz -- FILE         one input, in this process
//! ```
//!
//! The seeds are all configurations of this repository: parity cases, goldens, acceptance, examples. Inputs are
//! loaded in a child without network, whose memory is limited; the parent watches its pace. What breaks it is
//! kept below `target/fuzz`; with the mistake mended it belongs into `tests/fuzz/found`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A harness that is wrong may stop.

mod mutate;
mod seeds;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use edgewater::conf::lexer::{Lexer, Token};
use edgewater::conf::{build, dump};

use mutate::Mutator;

/// The longest that one input may take; a debug build on a busy machine is far below it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Address space of the child.
const MEMORY: u64 = 2 << 30;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") {
        println!("fuzz: test");
    } else if let Some(directory) = std::env::var_os("FUZZ_CHILD") {
        child(Path::new(&directory));
    } else if let Some(file) = words.iter().find(|word| Path::new(word).is_file()) {
        let place = Place::new();
        println!("{}", load(&place.0.path().join("work"), &std::fs::read(file).unwrap()));
    } else if words.is_empty() || words.iter().any(|word| "fuzz".contains(word.as_str())) {
        parent();
    }
}

/// The directories of a run: `work` with the files an input may include, and beside it the input itself.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir_all(work.join("conf.d")).unwrap();
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (from, to) in
            [("conf/mime.types", "mime.types"), ("certs/dev.pem", "dev.pem"), ("certs/dev.key", "dev.key")]
        {
            std::fs::copy(home.join(from), work.join(to)).unwrap();
        }
        std::fs::write(work.join("conf.d/a.conf"), "server { server_name a; }\n").unwrap();
        // A file that includes itself.
        std::fs::write(work.join("conf.d/again.inc"), "include conf.d/*.inc;\n").unwrap();
        Place(dir)
    }
}

fn parent() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("FUZZ_SECONDS").unwrap_or(4);
    let seed = number("FUZZ_SEED").unwrap_or(1);
    println!("\nrunning 1 test");
    let place = Place::new();
    let (ending, last) = watch(&place, Duration::from_secs(seconds), seed);
    match ending {
        Ok(()) => println!("test fuzz ... ok ({last})\n\ntest result: ok. 1 passed; 0 failed\n"),
        Err(why) => {
            let input = std::fs::read(place.0.path().join("input")).unwrap_or_default();
            let kept = keep(&input);
            println!("test fuzz ... FAILED\n\n{why}\nseed {seed}; the input is {}\n", kept.display());
            drop(place);
            std::process::exit(101);
        }
    }
}

/// Runs a child until its time is over, or it ends, or stands still.
fn watch(place: &Place, time: Duration, seed: u64) -> (Result<(), String>, String) {
    let mut child = spawn(place, time, seed);
    let lines = BufReader::new(child.stdout.take().unwrap());
    let (sender, pace) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut last = String::new();
    let ending = loop {
        match pace.recv_timeout(PATIENCE) {
            Ok(line) => last = line,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                break Err(format!("no answer within {PATIENCE:?}"));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break told(child.wait().unwrap()),
        }
    };
    (ending, last)
}

fn told(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("the child ended with {status}")) }
}

/// The child, in a network of its own where that may be had: names that inputs invent are asked of nobody.
fn spawn(place: &Place, time: Duration, seed: u64) -> Child {
    let this = std::env::current_exe().unwrap();
    let apart = Command::new("unshare").args(["-rn", "true"]).stderr(Stdio::null()).status();
    let mut command = match apart {
        Ok(status) if status.success() => {
            let mut command = Command::new("unshare");
            command.arg("-rn").arg(this);
            command
        }
        _ => Command::new(this),
    };
    command
        .env("FUZZ_CHILD", place.0.path())
        .env("FUZZ_SECONDS", time.as_secs().to_string())
        .env("FUZZ_SEED", seed.to_string())
        .env("RES_OPTIONS", "timeout:1 attempts:1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Puts an input where it outlives the run.
fn keep(input: &[u8]) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    std::fs::create_dir_all(&directory).unwrap();
    let name = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = directory.join(format!("{name:016x}.conf"));
    std::fs::write(&path, input).unwrap();
    path
}

fn child(place: &Path) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) }).unwrap();
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let work = place.join("work");
    let (mut tried, mut loaded) = (0u64, 0u64);
    let mut try_one = |input: &[u8]| {
        std::fs::write(place.join("input"), input).unwrap();
        loaded += u64::from(load(&work, input) == "loads");
        tried += 1;
        // A sign of life.
        println!("{tried} inputs, {loaded} of them load");
        std::io::stdout().flush().unwrap();
    };
    for input in seeds::found() {
        try_one(&input);
    }
    let seeds = seeds::all(&work);
    for seed in &seeds {
        try_one(seed);
    }
    let deadline = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS"));
    let mut mutator = Mutator::new(number("FUZZ_SEED"), seeds);
    while Instant::now() < deadline {
        let input = mutator.next();
        if stays_inside(&input) {
            try_one(&input);
        }
    }
}

/// Loads an input and says what came of it.
fn load(work: &Path, input: &[u8]) -> String {
    let file = work.join("test.conf");
    std::fs::write(&file, input).unwrap();
    match build::load(work, &file, "") {
        Ok(config) => {
            let _ = dump::dump(&config, &config);
            "loads".into()
        }
        Err(error) => error.to_string(),
    }
}

/// Whether an input keeps to its directory: what it includes or makes lies there, and nothing is of the system.
fn stays_inside(input: &[u8]) -> bool {
    let mut lexer = Lexer::new(input, "input".into(), 1);
    let mut reaches = false;
    while let Ok((token, _)) = lexer.next_token() {
        match token {
            Token::End => break,
            Token::Word(word) => {
                let system = ["/dev", "/proc", "/sys"].iter().any(|part| word.contains(part));
                if system || reaches && (word.starts_with('/') || word.contains("..")) {
                    return false;
                }
                reaches |= word == "include" || word.ends_with("_path");
            }
            _ => reaches = false,
        }
    }
    true
}
