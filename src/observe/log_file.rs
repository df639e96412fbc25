//! Files that are appended to, reopened on request, and shared by whoever names the same path.
//!
//! Lines of requests go through a *batch*: each thread has one for each file, so that a busy worker
//! writes many lines at once and shares no buffer with another. A batch is written when its thread
//! has nothing else to do ([`flush_thread`]), when it is full, when a waiting line's time is up, and
//! when the control thread asks for it ([`reopen`], [`flush_all`]). A line stands whole in one batch, and a batch
//! goes out in one write, which appends it whole to a file; what may be taken in parts, a pipe, is written under a
//! lock: lines never mix. Workers wait for each other nowhere else; a batch's own lock is shared with the control
//! thread alone.

use super::error_log::{self, Level};
use crate::conf::values::os_error;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a batch that wait for the thread to be idle; more are written at once.
const BATCH: usize = 16 * 1024;
/// Files for which a thread keeps a batch; with more, the oldest makes room.
const MOST_FILES: usize = 256;
/// A failing file is reported once in this time, as nginx does.
const REPORT_AGAIN: Duration = Duration::from_secs(60);

/// A log file. Its descriptor can be replaced while others write.
pub struct LogFile {
    path: PathBuf,
    file: ArcSwapOption<Open>,
    /// Every thread's batch for this file.
    batches: Mutex<Vec<Arc<Mutex<Batch>>>>,
    /// Held while writing what may be taken in parts, which would mix otherwise.
    writing: Mutex<()>,
    reported: Mutex<Option<Instant>>,
}

/// A descriptor, and whether a write to it is whole: the kernel appends what is written to a file at once under the
/// lock of its inode.
struct Open {
    file: File,
    whole: bool,
}

impl std::fmt::Debug for LogFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.path)
    }
}

/// How long lines may wait in memory (`buffer=` and `flush=`), and whether they are then compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes of a thread's batch.
    pub size: usize,
    /// The longest time; `None` waits until the batch is full.
    pub time: Option<Duration>,
    /// The level of compression (`gzip=`): what is written at once is a gzip member of its own, and the
    /// file can be read at any time.
    pub gzip: Option<u8>,
}

/// Lines of one thread for one file.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Whether the lines may wait beyond the thread's next idle moment.
    waits: bool,
    /// When the oldest line came, for lines with a time.
    since: Option<Instant>,
    /// Whether a timer is set.
    timed: bool,
    /// See [`Waiting::gzip`].
    gzip: Option<u8>,
}

impl Batch {
    fn write_to(&mut self, file: &LogFile) {
        self.write_first(self.bytes.len(), file);
    }

    /// Writes the first `end` bytes.
    fn write_first(&mut self, end: usize, file: &LogFile) {
        match self.gzip {
            _ if end == 0 => {}
            None => file.write(&self.bytes[..end]),
            Some(level) => match compress(&self.bytes[..end], level) {
                Ok(member) => file.write(&member),
                Err(e) => file.report(&e),
            },
        }
        self.bytes.drain(..end);
        self.since = None;
    }
}

fn compress(bytes: &[u8], level: u8) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(bytes.len() / 4);
    let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::new(level.into()));
    encoder.write_all(bytes)?;
    encoder.finish()
}

impl LogFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it could be opened.
    pub fn is_open(&self) -> bool {
        self.file.load().is_some()
    }

    /// Appends `bytes`, whole lines, at once. A failure is not the request's fault; the error log
    /// says it once a minute.
    pub fn write(&self, bytes: &[u8]) {
        let open = self.file.load();
        let Some(open) = &*open else { return };
        if let Err(e) = self.write_to(open, bytes) {
            self.report(&e);
        }
    }

    fn write_to(&self, open: &Open, mut bytes: &[u8]) -> io::Result<()> {
        if open.whole {
            match (&open.file).write(bytes) {
                // The disk is full, or nearly so.
                Ok(n) if n < bytes.len() => bytes = &bytes[n..],
                Ok(_) => return Ok(()),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
        let _alone = self.writing.lock();
        write_all(&open.file, bytes)
    }

    /// The error log may be this very file: the time is set, and the lock left, before it is told.
    fn report(&self, e: &io::Error) {
        let now = Instant::now();
        {
            let mut reported = self.reported.lock();
            if reported.is_some_and(|at| now.duration_since(at) < REPORT_AGAIN) {
                return;
            }
            *reported = Some(now);
        }
        let path = self.path.display();
        error_log::log(Level::Alert, format_args!("write() to \"{path}\" failed ({})", os_error(e)));
    }

    /// Opens the file, anew if it is open: what was renamed or removed is left behind.
    pub fn open(&self) -> io::Result<()> {
        self.put(open(&self.path)?);
        Ok(())
    }

    /// Makes the file `owner`'s, and writable for it.
    fn give_to(&self, owner: Option<u32>) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        const OWNERS: u32 = 0o600;
        let (Some(owner), Some(open)) = (owner, self.file.load_full()) else { return Ok(()) };
        let file = &open.file;
        let found = file.metadata()?;
        // What is no file, /dev/stdout, belongs to somebody else.
        if !found.is_file() {
            return Ok(());
        }
        if found.uid() != owner {
            std::os::unix::fs::fchown(file, Some(owner), None)?;
        }
        if found.mode() & OWNERS != OWNERS {
            file.set_permissions(std::fs::Permissions::from_mode(found.mode() | OWNERS))?;
        }
        Ok(())
    }

    fn put(&self, file: File) {
        let whole = file.metadata().is_ok_and(|found| found.is_file());
        self.file.store(Some(Arc::new(Open { file, whole })));
    }

    /// Writes out every thread's batch.
    fn flush(&self) {
        let batches = self.batches.lock().clone();
        for batch in batches {
            batch.lock().write_to(self);
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let mut files = registry().lock();
        // Another may have been made for the same path meanwhile.
        if files.get(&self.path).is_some_and(|f| f.strong_count() == 0) {
            files.remove(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new().append(true).create(true).mode(0o644).open(path) {
        Ok(file) => Ok(file),
        // These cannot be opened where they are sockets (systemd's journal); the descriptor serves.
        Err(e) => match path.to_str() {
            Some("/dev/stdout") => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Some("/dev/stderr") => io::stderr().as_fd().try_clone_to_owned().map(File::from),
            _ => Err(e),
        },
    }
}

/// Writes everything. A reader of a pipe that somebody made non-blocking is given a second to make
/// room, so that a line is not cut.
fn write_all(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let second = Timespec { tv_sec: 1, tv_nsec: 0 };
                if poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&second))? == 0 {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Files by path, for as long as somebody holds them.
fn registry() -> &'static Mutex<HashMap<PathBuf, Weak<LogFile>>> {
    static FILES: OnceLock<Mutex<HashMap<PathBuf, Weak<LogFile>>>> = OnceLock::new();
    FILES.get_or_init(Mutex::default)
}

/// The log file at `path`, the same one for everybody; not opened yet if it is new.
pub fn at(path: &Path) -> Arc<LogFile> {
    let mut files = registry().lock();
    if let Some(file) = files.get(path).and_then(Weak::upgrade) {
        return file;
    }
    let file = Arc::new(LogFile {
        path: path.to_path_buf(),
        file: ArcSwapOption::empty(),
        batches: Mutex::default(),
        writing: Mutex::default(),
        reported: Mutex::default(),
    });
    files.insert(path.to_path_buf(), Arc::downgrade(&file));
    file
}

/// The files that somebody holds. Dropping the last hold on one takes the registry's lock, which
/// must not be held then.
fn live() -> Vec<Arc<LogFile>> {
    registry().lock().values().filter_map(Weak::upgrade).collect()
}

/// Opens the files of a configuration, also those that are open (nginx's reload does, and log rotation
/// relies on it). When one other than `optional` cannot be opened, nothing changes and the failure
/// is returned with its path; that `optional` could not be is returned as such.
pub fn open_all(
    files: &[&Arc<LogFile>],
    optional: Option<&Path>,
) -> Result<Option<io::Error>, (PathBuf, io::Error)> {
    let mut opened = Vec::new();
    let mut missing = None;
    for file in files {
        match open(&file.path) {
            Ok(descriptor) => opened.push((file, descriptor)),
            Err(e) if optional == Some(file.path()) => missing = Some(e),
            Err(e) => return Err((file.path.clone(), e)),
        }
    }
    for (file, descriptor) in opened {
        file.flush();
        file.put(descriptor);
    }
    Ok(missing)
}

/// Opens every file anew (`USR1`), after a rename by a log rotator. What was logged before goes to
/// the old file. With an owner, the user that requests are served under, the files are made that
/// user's, as nginx does. Returns what failed; such a file is written on as it was.
pub fn reopen(owner: Option<u32>) -> Vec<(PathBuf, io::Error)> {
    let reopen = |file: Arc<LogFile>| {
        file.flush();
        file.open().and_then(|()| file.give_to(owner)).err().map(|e| (file.path.clone(), e))
    };
    live().into_iter().filter_map(reopen).collect()
}

/// Writes out every batch of every thread; for the end of the process.
pub fn flush_all() {
    live().iter().for_each(|file| file.flush());
}

/// A thread's hold on its batch for a file.
struct Hold {
    file: Arc<LogFile>,
    batch: Arc<Mutex<Batch>>,
    /// Whether it is let go of once it is written.
    named: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.batch.lock().write_to(&self.file);
        self.file.batches.lock().retain(|b| !Arc::ptr_eq(b, &self.batch));
    }
}

thread_local! {
    /// The thread's batches, the oldest first.
    static HOLDS: RefCell<Vec<Hold>> = const { RefCell::new(Vec::new()) };
    /// Whether a batch has lines that are to be written when the thread is idle.
    static DIRTY: Cell<bool> = const { Cell::new(false) };
}

/// The file at `path` if the calling thread has lines for it. For paths that are known at request time
/// only.
pub fn named(path: &Path) -> Option<Arc<LogFile>> {
    HOLDS.with_borrow(|holds| holds.iter().find(|h| h.file.path == path).map(|h| h.file.clone()))
}

/// Adds what `line` appends to the calling thread's batch for a file of which nothing else knows: once
/// written, the thread lets go of it.
pub fn append_named(file: &Arc<LogFile>, line: impl FnOnce(&mut Vec<u8>)) {
    append(file, None, line);
    HOLDS.with_borrow_mut(|holds| {
        if let Some(hold) = holds.iter_mut().find(|h| Arc::ptr_eq(&h.file, file)) {
            hold.named = true;
        }
    });
}

/// Adds what `line` appends to the calling thread's batch for `file`.
pub fn append(file: &Arc<LogFile>, waiting: Option<Waiting>, line: impl FnOnce(&mut Vec<u8>)) {
    let timer = HOLDS.with_borrow_mut(|holds| {
        let batch = batch_of(holds, file);
        add(&mut batch.lock(), file, waiting, line).map(|time| (time, batch.clone()))
    });
    if let Some((time, batch)) = timer {
        flush_in(time, file.clone(), batch);
    }
}

/// Adds a line to a batch; a time for which a timer is to be set.
fn add(
    held: &mut Batch,
    file: &LogFile,
    waiting: Option<Waiting>,
    line: impl FnOnce(&mut Vec<u8>),
) -> Option<Duration> {
    let gzip = waiting.and_then(|waiting| waiting.gzip);
    if held.gzip != gzip {
        held.write_to(file);
        held.gzip = gzip;
    }
    let start = held.bytes.len();
    line(&mut held.bytes);
    held.waits = waiting.is_some();
    let Some(waiting) = waiting else {
        if held.bytes.len() >= BATCH {
            held.write_to(file);
        } else {
            DIRTY.set(true);
        }
        return None;
    };
    // As in nginx, the line that no longer fits waits and those before it are written.
    if held.bytes.len() > waiting.size && start > 0 {
        held.write_first(start, file);
    }
    if held.bytes.len() > waiting.size {
        held.write_to(file);
        return None;
    }
    let time = waiting.time?;
    held.since.get_or_insert_with(Instant::now);
    (!std::mem::replace(&mut held.timed, true)).then_some(time)
}

fn batch_of<'a>(holds: &'a mut Vec<Hold>, file: &Arc<LogFile>) -> &'a Arc<Mutex<Batch>> {
    let at = holds.iter().position(|h| Arc::ptr_eq(&h.file, file)).unwrap_or_else(|| {
        if holds.len() >= MOST_FILES {
            holds.remove(0);
        }
        let batch = Arc::<Mutex<Batch>>::default();
        file.batches.lock().push(batch.clone());
        holds.push(Hold { file: file.clone(), batch, named: false });
        holds.len() - 1
    });
    &holds[at].batch
}

/// Writes a batch once its oldest line has waited for `time`. A thread without an event loop has
/// nobody to wake it: its lines do not wait.
fn flush_in(time: Duration, file: Arc<LogFile>, batch: Arc<Mutex<Batch>>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        let mut batch = batch.lock();
        batch.timed = false;
        batch.write_to(&file);
        return;
    };
    runtime.spawn(async move {
        loop {
            let due = {
                let mut batch = batch.lock();
                match batch.since.map(|since| since + time) {
                    Some(due) if due > Instant::now() => due,
                    _ => {
                        batch.timed = false;
                        return batch.write_to(&file);
                    }
                }
            };
            tokio::time::sleep_until(due).await;
        }
    });
}

/// Writes out what the calling thread has gathered and what need not wait.
pub fn flush_thread() {
    if !DIRTY.replace(false) {
        return;
    }
    // What is dropped closes its file: that takes no hold of its own.
    HOLDS.with_borrow_mut(|holds| {
        holds.retain(|hold| {
            let mut batch = hold.batch.lock();
            if !batch.waits {
                batch.write_to(&hold.file);
            }
            !hold.named
        });
    });
}

/// Writes out everything of the calling thread and lets go of its files: those that nothing names
/// any more are closed.
pub fn release_thread() {
    DIRTY.set(false);
    let holds = HOLDS.with_borrow_mut(std::mem::take);
    drop(holds);
}

#[cfg(test)]
mod tests;
