//! Log files whose names have variables: opened when a line comes, kept open by `open_log_file_cache`.

use super::complain;
use crate::conf::values::{number, parameter, time};
use crate::conf::{Builder, ConfError, ConfResult, Directive};
use crate::http::Request;
use crate::http::template::Template;
use crate::observe::error_log::Level;
use crate::observe::log_file::{self, LogFile};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `open_log_file_cache`: what a worker keeps open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Tells one directive's files from another's.
    id: u64,
    /// The most files.
    max: usize,
    /// A file that was not used for this long is closed.
    inactive: Duration,
    /// For this long a file is written to before it is looked for anew.
    valid: Duration,
    /// Uses before a file is kept open.
    min_uses: u32,
}

/// Reads `open_log_file_cache`; `None` is `off`.
pub fn policy(d: &Directive) -> ConfResult<Option<Policy>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut policy = Policy {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        max: 0,
        inactive: Duration::from_secs(10),
        valid: Duration::from_secs(60),
        min_uses: 1,
    };
    let mut off = false;
    for arg in &d.args {
        let invalid = || ConfError::new(format!("invalid \"open_log_file_cache\" parameter \"{arg}\""));
        if let Some(text) = parameter(arg, "max") {
            policy.max = number(text).and_then(|n| usize::try_from(n).ok()).ok_or_else(invalid)?;
        } else if let Some(text) = parameter(arg, "inactive") {
            policy.inactive = time(text).ok_or_else(invalid)?;
        } else if let Some(text) = parameter(arg, "min_uses") {
            policy.min_uses = number(text).and_then(|n| u32::try_from(n).ok()).ok_or_else(invalid)?;
        } else if let Some(text) = parameter(arg, "valid") {
            policy.valid = time(text).ok_or_else(invalid)?;
        } else if arg == "off" {
            off = true;
        } else {
            return Err(invalid());
        }
    }
    if off {
        return Ok(None);
    }
    if policy.max == 0 {
        return Err(ConfError::new("\"open_log_file_cache\" must have \"max\" parameter"));
    }
    Ok(Some(policy))
}

/// Compiles a path with variables; as in nginx the prefix stands before one that does not begin with `/`.
pub fn path(b: &mut Builder, text: &str) -> ConfResult<Template> {
    let path = b.path(text).to_string_lossy().into_owned();
    b.template(&path)
}

/// The file of a name for `rq`, open. As in nginx there is none when the request's root is no
/// directory, so that a name taken from the host makes no files for hosts that are not served.
pub fn open(rq: &Request, name: &Template) -> Option<Arc<LogFile>> {
    let path = name.eval(rq);
    let path = Path::new(OsStr::from_bytes(&path));
    let mut root = Vec::new();
    if crate::modules::static_files::document_root(rq, &mut root) {
        // `root /` is kept without its slash.
        let root = Path::new(if root.is_empty() { OsStr::new("/") } else { OsStr::from_bytes(&root) });
        let missing = match std::fs::metadata(root) {
            Ok(found) if found.is_dir() => None,
            Ok(_) => Some(io::Error::from_raw_os_error(libc::ENOTDIR)),
            Err(e) => Some(e),
        };
        if let Some(e) = missing {
            complain(rq, Level::Error, "testing", "existence failed", root, &e);
            return None;
        }
    }
    let opened = match &*rq.loc().log.kept_open {
        Some(policy) => KEPT.with_borrow_mut(|kept| kept.of(*policy).get(path, Instant::now())),
        // What this thread has lines for goes to where the first of them goes.
        None => log_file::named(path).map_or_else(|| fresh(path), Ok),
    };
    opened.inspect_err(|e| complain(rq, Level::Crit, "open()", "failed", path, e)).ok()
}

/// The file as the path names it now.
fn fresh(path: &Path) -> io::Result<Arc<LogFile>> {
    let file = log_file::at(path);
    file.open()?;
    Ok(file)
}

/// Closes the calling thread's files.
pub fn forget() {
    let kept = KEPT.take();
    drop(kept);
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept(Vec::new())) };
}

/// The files of every policy in force.
#[derive(Default)]
struct Kept(Vec<(Policy, Files)>);

impl Kept {
    fn of(&mut self, policy: Policy) -> Cache<'_> {
        let at = self.0.iter().position(|(other, _)| other.id == policy.id).unwrap_or_else(|| {
            self.0.push((policy, Files::default()));
            self.0.len() - 1
        });
        Cache { policy, files: &mut self.0[at].1 }
    }
}

#[derive(Default)]
struct Files {
    by_path: HashMap<PathBuf, Entry>,
    swept: Option<Instant>,
}

struct Entry {
    /// Closed while it has not been used often enough.
    file: Option<Arc<LogFile>>,
    opened: Instant,
    used: Instant,
    uses: u32,
}

struct Cache<'a> {
    policy: Policy,
    files: &'a mut Files,
}

impl Cache<'_> {
    fn get(self, path: &Path, now: Instant) -> io::Result<Arc<LogFile>> {
        let Cache { policy, files } = self;
        let sweep = policy.inactive.min(Duration::from_secs(1));
        if files.swept.is_none_or(|at| now.duration_since(at) >= sweep) {
            files.swept = Some(now);
            files.by_path.retain(|_, entry| now.duration_since(entry.used) <= policy.inactive);
        }
        if let Some(entry) = files.by_path.get_mut(path) {
            entry.uses = entry.uses.saturating_add(1);
            entry.used = now;
            let file = match &entry.file {
                Some(file) if now.duration_since(entry.opened) < policy.valid => return Ok(file.clone()),
                Some(_) | None => fresh(path)?,
            };
            entry.opened = now;
            entry.file = (entry.uses >= policy.min_uses).then(|| file.clone());
            return Ok(file);
        }
        let file = fresh(path)?;
        if files.by_path.len() >= policy.max {
            let oldest =
                files.by_path.iter().min_by_key(|(_, entry)| entry.used).map(|(path, _)| path.clone());
            oldest.and_then(|path| files.by_path.remove(&path));
        }
        let kept = (policy.min_uses <= 1).then(|| file.clone());
        let entry = Entry { file: kept, opened: now, used: now, uses: 1 };
        files.by_path.insert(path.to_path_buf(), entry);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(max: usize, min_uses: u32) -> (Kept, Policy, tempfile::TempDir) {
        let seconds = Duration::from_secs;
        let policy = Policy { id: 1, max, inactive: seconds(10), valid: seconds(60), min_uses };
        (Kept::default(), policy, tempfile::tempdir().unwrap())
    }

    #[test]
    fn a_file_is_kept_while_it_is_valid_and_used() {
        let (mut kept, policy, dir) = cache(10, 1);
        let path = dir.path().join("a.log");
        let start = Instant::now();
        let mut get = |seconds| {
            let now = start + Duration::from_secs(seconds);
            kept.of(policy).get(&path, now).unwrap().write(b"x");
        };
        get(0);
        std::fs::remove_file(&path).unwrap();
        get(9);
        assert!(!path.exists(), "the file that was open is written to");
        for n in 2..8 {
            get(n * 9);
        }
        assert!(path.exists(), "after its validity it is looked for");
        std::fs::remove_file(&path).unwrap();
        get(63 + 11);
        assert!(path.exists(), "it was closed when nobody had used it");
    }

    #[test]
    fn files_are_bounded_and_the_longest_unused_makes_room() {
        let (mut kept, policy, dir) = cache(2, 1);
        let start = Instant::now();
        for (n, name) in ["a", "b", "a", "c"].into_iter().enumerate() {
            let now = start + Duration::from_millis(n as u64);
            kept.of(policy).get(&dir.path().join(name), now).unwrap();
        }
        let mut names: Vec<_> =
            kept.0[0].1.by_path.keys().map(|path| path.file_name().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["a", "c"]);
    }

    #[test]
    fn a_file_is_kept_open_once_it_was_used_often_enough() {
        let (mut kept, policy, dir) = cache(10, 3);
        let path = dir.path().join("a.log");
        let open = |kept: &Kept| kept.0[0].1.by_path[&path].file.is_some();
        for (use_of_it, want) in [false, false, true, true].into_iter().enumerate() {
            kept.of(policy).get(&path, Instant::now()).unwrap();
            assert_eq!(open(&kept), want, "{use_of_it}");
        }
    }
}
