use super::*;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Held by what writes out every file of the process against what watches lines wait.
static FLUSHES: RwLock<()> = RwLock::new(());

fn nobody_flushes() -> RwLockReadGuard<'static, ()> {
    FLUSHES.read()
}

fn nobody_waits() -> RwLockWriteGuard<'static, ()> {
    FLUSHES.write()
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn opened(path: &Path) -> Arc<LogFile> {
    let file = at(path);
    file.open().unwrap();
    file
}

fn line(file: &Arc<LogFile>, waiting: Option<Waiting>, text: &str) {
    append(file, waiting, |out| {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    });
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_path_is_one_file_for_everybody_until_nobody_holds_it() {
    let dir = dir();
    let path = dir.path().join("a.log");
    let first = opened(&path);
    assert!(Arc::ptr_eq(&first, &at(&path)));
    drop(first);
    assert!(!registry().lock().contains_key(&path));
    assert!(!at(&path).is_open());
}

#[test]
fn lines_wait_for_the_thread_to_be_idle_and_go_out_together() {
    let _guard = nobody_flushes();
    let dir = dir();
    let file = opened(&dir.path().join("a.log"));
    line(&file, None, "one");
    line(&file, None, "two");
    assert_eq!(read(file.path()), "");
    flush_thread();
    assert_eq!(read(file.path()), "one\ntwo\n");
}

#[test]
fn a_full_batch_does_not_wait() {
    let _guard = nobody_flushes();
    let dir = dir();
    let file = opened(&dir.path().join("a.log"));
    let long = "x".repeat(BATCH / 2);
    line(&file, None, &long);
    assert_eq!(read(file.path()).len(), 0);
    line(&file, None, &long);
    assert_eq!(read(file.path()).len(), 2 * (long.len() + 1));
}

#[test]
fn a_buffer_is_written_when_the_next_line_does_not_fit() {
    let _guard = nobody_flushes();
    let dir = dir();
    let file = opened(&dir.path().join("a.log"));
    let waiting = Some(Waiting { size: 10, time: None, gzip: None });
    line(&file, waiting, "1234");
    line(&file, waiting, "5678");
    flush_thread();
    assert_eq!(read(file.path()), "", "ten bytes fit, and they may wait");
    line(&file, waiting, "9");
    assert_eq!(read(file.path()), "1234\n5678\n");
    line(&file, waiting, "longer than the buffer");
    assert_eq!(read(file.path()), "1234\n5678\n9\nlonger than the buffer\n");
}

#[test]
fn the_end_of_a_thread_writes_what_waits() {
    let _guard = nobody_flushes();
    let dir = dir();
    let file = opened(&dir.path().join("a.log"));
    let other = file.clone();
    let thread = std::thread::spawn(move || {
        line(&other, Some(Waiting { size: 1000, time: None, gzip: None }), "last words");
        assert_eq!(read(other.path()), "");
    });
    thread.join().unwrap();
    assert_eq!(read(file.path()), "last words\n");
    assert!(file.batches.lock().is_empty());
}

#[test]
fn a_line_waits_no_longer_than_its_time() {
    let _guard = nobody_flushes();
    let dir = dir();
    let file = opened(&dir.path().join("a.log"));
    let waiting = Some(Waiting { size: 1000, time: Some(Duration::from_millis(20)), gzip: None });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        // The second line shows that the timer is set anew.
        for (before, after, text) in [("", "one\n", "one"), ("one\n", "one\ntwo\n", "two")] {
            line(&file, waiting, text);
            flush_thread();
            assert_eq!(read(file.path()), before, "the thread being idle is no reason yet");
            let begun = Instant::now();
            while read(file.path()) != after {
                assert!(begun.elapsed() < Duration::from_secs(20), "never written");
                tokio::task::yield_now().await;
            }
        }
    });
}

#[test]
fn renaming_and_reopening_loses_and_cuts_nothing() {
    let _guard = nobody_waits();
    const THREADS: usize = 4;
    const LINES: usize = 400;
    let dir = dir();
    let path = dir.path().join("a.log");
    let file = opened(&path);
    let writers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let file = file.clone();
            std::thread::spawn(move || {
                for n in 0..LINES {
                    line(&file, None, &format!("{thread}-{n}-{}", "x".repeat(n % 300)));
                    if n % 7 == 0 {
                        flush_thread();
                    }
                }
                release_thread();
            })
        })
        .collect();
    let mut old = Vec::new();
    while !writers.iter().all(|w| w.is_finished()) {
        let name = dir.path().join(format!("old-{}", old.len()));
        std::fs::rename(&path, &name).unwrap();
        old.push(name);
        assert!(reopen(None).iter().all(|(failed, _)| *failed != path));
    }
    writers.into_iter().for_each(|w| w.join().unwrap());
    let mut seen: Vec<String> = Vec::new();
    for part in old.iter().chain([&path]) {
        let text = read(part);
        assert!(text.is_empty() || text.ends_with('\n'), "a line is cut at the end of {}", part.display());
        seen.extend(text.lines().map(str::to_string));
    }
    let mut wanted: Vec<String> = (0..THREADS)
        .flat_map(|t| (0..LINES).map(move |n| format!("{t}-{n}-{}", "x".repeat(n % 300))))
        .collect();
    seen.sort();
    wanted.sort();
    assert!(seen == wanted, "{} lines of {}", seen.len(), wanted.len());
}

#[test]
fn what_waits_goes_to_the_old_file_when_logs_are_reopened() {
    let _guard = nobody_waits();
    let dir = dir();
    let path = dir.path().join("a.log");
    let file = opened(&path);
    line(&file, Some(Waiting { size: 1000, time: None, gzip: None }), "before");
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    reopen(None);
    line(&file, Some(Waiting { size: 1000, time: None, gzip: None }), "after");
    flush_all();
    assert_eq!((read(&dir.path().join("old")).as_str(), read(&path).as_str()), ("before\n", "after\n"));
}

#[test]
fn a_configuration_opens_all_of_its_files_or_leaves_them_as_they_were() {
    let dir = dir();
    let path = dir.path().join("a.log");
    let good = opened(&path);
    let bad = at(&dir.path().join("no/such"));
    let default = at(&dir.path().join("nor/this"));
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    let (failed, e) = open_all(&[&good, &bad], Some(default.path())).unwrap_err();
    assert_eq!((failed.as_path(), e.kind()), (bad.path(), io::ErrorKind::NotFound));
    good.write(b"still the old one\n");
    assert_eq!(read(&dir.path().join("old")), "still the old one\n");
    let missing = open_all(&[&default, &good], Some(default.path())).unwrap();
    assert_eq!(missing.unwrap().kind(), io::ErrorKind::NotFound);
    good.write(b"new\n");
    assert_eq!(read(&path), "new\n");
}

#[test]
fn a_thread_keeps_a_bounded_number_of_files() {
    let dir = dir();
    let first = opened(&dir.path().join("first"));
    line(&first, None, "kept");
    for n in 0..MOST_FILES {
        line(&at(&dir.path().join(n.to_string())), None, "x");
    }
    assert_eq!(HOLDS.with_borrow(Vec::len), MOST_FILES);
    assert_eq!(read(first.path()), "kept\n", "what made room was written");
}

#[test]
fn a_pipe_that_is_full_for_a_moment_cuts_nothing() {
    use std::io::Read;
    let (mut reader, writer) = io::pipe().unwrap();
    let writer = File::from(std::os::fd::OwnedFd::from(writer));
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let text = vec![b'x'; 300_000];
    let expected = text.len();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all.len()
    });
    write_all(&writer, &text).unwrap();
    drop(writer);
    assert_eq!(reading.join().unwrap(), expected);
}

#[test]
fn a_compressed_file_can_be_read_whenever_it_was_written() {
    use std::io::Read;
    let _guard = nobody_waits();
    let dir = dir();
    let path = dir.path().join("a.gz");
    let file = opened(&path);
    let waiting = Some(Waiting { size: 100, time: None, gzip: Some(1) });
    let read = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        text
    };
    let long = "x".repeat(200);
    line(&file, waiting, "one");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    line(&file, waiting, &long);
    assert_eq!(read(&path), format!("one\n{long}\n"), "each is written as it no longer fits");
    line(&file, waiting, "two");
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    reopen(None);
    line(&file, waiting, "three");
    flush_all();
    assert_eq!(read(&dir.path().join("old")), format!("one\n{long}\ntwo\n"));
    assert_eq!(read(&path), "three\n");
}

#[test]
fn a_file_without_compression_begins_where_compressed_lines_end() {
    let _guard = nobody_waits();
    let dir = dir();
    let file = opened(&dir.path().join("a"));
    line(&file, Some(Waiting { size: 100, time: None, gzip: Some(9) }), "packed");
    line(&file, None, "plain");
    flush_thread();
    let bytes = std::fs::read(file.path()).unwrap();
    assert!(bytes.starts_with(&[0x1f, 0x8b]) && bytes.ends_with(b"plain\n"), "{bytes:?}");
}

#[test]
fn a_file_of_a_passing_name_is_closed_once_it_is_written() {
    let dir = dir();
    let path = dir.path().join("a");
    let file = opened(&path);
    append_named(&file, |out| out.extend_from_slice(b"line\n"));
    drop(file);
    assert!(named(&path).is_some(), "there is a line for it");
    flush_thread();
    assert!(named(&path).is_none());
    assert_eq!(read(&path), "line\n");
    assert!(!registry().lock().contains_key(&path));
}

#[test]
fn reopened_files_belong_to_who_serves_requests() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = dir();
    let file = opened(&dir.path().join("a"));
    let us = rustix::process::geteuid().as_raw();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o444)).unwrap();
    file.give_to(Some(us)).unwrap();
    assert_eq!(std::fs::metadata(file.path()).unwrap().mode() & 0o777, 0o644);
    // Only root may give files away.
    if us == 0 {
        file.give_to(Some(65_534)).unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().uid(), 65_534);
    }
}
