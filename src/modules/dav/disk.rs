//! What the methods do to files. Everything here waits for a disk.

use super::Depth;
use crate::conf::values::os_error;
use crate::http::rename::{Log, Rename, Told, copy_file, directory_access, set_times};
use crate::http::temp_file::TempFile;
use crate::observe::error_log::Level;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, FileTimes, Metadata, Permissions, ReadDir};
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// What is to be done.
pub(super) enum Job {
    /// Gives an upload its name.
    Put {
        file: Arc<TempFile>,
        to: Vec<u8>,
        access: u32,
        make_path: bool,
        /// The file's time, seconds since 1970.
        modified: Option<u64>,
    },
    /// Removes a file, or a directory with all that is in it.
    Delete { path: Vec<u8>, collection: bool, depth: Depth },
    /// Makes a directory.
    MakeDirectory { path: Vec<u8>, access: u32 },
    /// Copies or moves.
    Transfer(Transfer),
}

/// A COPY or a MOVE.
pub(super) struct Transfer {
    pub moves: bool,
    pub overwrite: bool,
    pub from: Vec<u8>,
    pub to: Vec<u8>,
    /// For the log.
    pub uri: String,
    pub method: String,
    pub destination: String,
    /// Permissions of directories that have to be made.
    pub access: u32,
}

/// What came of it.
pub(super) struct Done {
    pub status: u16,
    pub told: Vec<Told>,
    /// Lines beyond those.
    pub untold: u64,
}

impl Log {
    /// Tells of a failure and says with which status it is answered (ngx_http_dav_error).
    fn refuse(&mut self, e: &Error, missing: u16, call: &str, path: &Path) -> u16 {
        let (level, status) = match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => (Level::Error, missing),
            Some(libc::EACCES | libc::EPERM) => (Level::Error, 403),
            Some(libc::EEXIST) => (Level::Error, 405),
            Some(libc::ENOSPC) => (Level::Crit, 507),
            _ => (Level::Crit, 500),
        };
        self.failed(level, call, path, e);
        status
    }
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

impl Job {
    /// Does it.
    pub(super) fn run(self) -> Done {
        let mut log = Log::default();
        let status = match self {
            Job::Put { file, to, access, make_path, modified } => {
                put(&file, &path_of(to), access, make_path, modified, &mut log)
            }
            Job::Delete { path, collection, depth } => delete(path, collection, &depth, &mut log),
            Job::MakeDirectory { path, access } => {
                let path = path_of(path);
                match DirBuilder::new().mode(directory_access(access)).create(&path) {
                    Ok(()) => 201,
                    Err(e) => log.refuse(&e, 409, "mkdir()", &path),
                }
            }
            Job::Transfer(transfer) => transfer.run(&mut log),
        };
        Done { status, told: log.told, untold: log.untold }
    }
}

fn put(
    file: &TempFile,
    to: &Path,
    access: u32,
    make_path: bool,
    modified: Option<u64>,
    log: &mut Log,
) -> u16 {
    let status = match std::fs::metadata(to) {
        Err(_) => 201,
        Ok(is) if is.is_dir() => {
            let cause = os_error(&Error::from_raw_os_error(libc::EISDIR));
            log.tell(Level::Error, format!("\"{}\" could not be created ({cause})", to.display()));
            return 409;
        }
        Ok(_) => 204,
    };
    if let Err(e) = file.file().set_permissions(Permissions::from_mode(access)) {
        log.failed(Level::Crit, "chmod()", file.path(), &e);
        return 500;
    }
    let time = modified.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    if let Some(time) = time
        && let Err(e) = file.file().set_times(FileTimes::new().set_accessed(time).set_modified(time))
    {
        log.failed(Level::Crit, "utimes()", file.path(), &e);
        return 500;
    }
    let rename = Rename { access: Some(access), path_access: access, time, make_path };
    if rename.run(file.path(), to, log) { status } else { 500 }
}

fn delete(path: Vec<u8>, collection: bool, depth: &Depth, log: &mut Log) -> u16 {
    let mut path = path_of(path);
    let is = match std::fs::symlink_metadata(&path) {
        Ok(is) => is,
        Err(e) => {
            let missing = if e.raw_os_error() == Some(libc::ENOTDIR) { 409 } else { 404 };
            return log.refuse(&e, missing, "lstat()", &path);
        }
    };
    if is.is_dir() && !collection {
        let cause = os_error(&Error::from_raw_os_error(libc::EISDIR));
        log.tell(Level::Error, format!("DELETE \"{}\" failed ({cause})", path.display()));
        return 409;
    }
    let refusal = depth.refusal(!is.is_dir());
    if !refusal.is_empty() {
        refusal.into_iter().for_each(|text| log.tell(Level::Error, text));
        return 400;
    }
    if is.is_dir() {
        path = without_slash(path);
    }
    remove(&path, is.is_dir(), log).map_or_else(|status| status, |()| 204)
}

fn without_slash(path: PathBuf) -> PathBuf {
    let mut bytes = path.into_os_string().into_vec();
    if bytes.len() > 1 && bytes.ends_with(b"/") {
        bytes.pop();
    }
    path_of(bytes)
}

/// Removes a file, or a directory and what is in it (ngx_http_dav_delete_path).
fn remove(path: &Path, directory: bool, log: &mut Log) -> Result<(), u16> {
    if !directory {
        return std::fs::remove_file(path).map_err(|e| log.refuse(&e, 404, "unlink()", path));
    }
    walk(path, &mut Removing { log: &mut *log })?;
    std::fs::remove_dir(path).map_err(|e| log.refuse(&e, 404, "rmdir()", path))
}

/// What is done on a walk through a tree. Failures are told, and the walk goes on.
trait Visit {
    fn log(&mut self) -> &mut Log;
    fn file(&mut self, path: &Path);
    /// What is neither a file nor a directory, such as a link.
    fn other(&mut self, path: &Path);
    fn enter(&mut self, path: &Path, is: &Metadata);
    fn leave(&mut self, path: &Path, is: &Metadata);
}

/// Visits everything below a directory; links are not followed. The way down is kept here and not on
/// the stack: a tree may be as deep as names can be long.
fn walk(root: &Path, visit: &mut dyn Visit) -> Result<(), u16> {
    let open = |path: &Path, log: &mut Log| {
        std::fs::read_dir(path).map_err(|e| {
            log.failed(Level::Crit, "opendir()", path, &e);
            500u16
        })
    };
    let mut way: Vec<(ReadDir, PathBuf, Option<Metadata>)> =
        vec![(open(root, visit.log())?, root.to_owned(), None)];
    while let Some((entries, directory, is)) = way.last_mut() {
        let entry = match entries.next() {
            Some(Ok(entry)) => entry,
            Some(Err(e)) => {
                let directory = directory.clone();
                visit.log().failed(Level::Crit, "readdir()", &directory, &e);
                return Err(500);
            }
            None => {
                if let Some(is) = is {
                    visit.leave(directory, is);
                }
                way.pop();
                continue;
            }
        };
        let path = entry.path();
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(e) => {
                visit.log().failed(Level::Crit, "stat()", &path, &e);
                continue;
            }
        };
        // A link that leads nowhere is passed over, as by nginx, which looks where it leads.
        let is = match std::fs::metadata(&path) {
            Ok(is) => is,
            Err(e) => {
                visit.log().failed(Level::Crit, "stat()", &path, &e);
                continue;
            }
        };
        if kind.is_dir() {
            visit.enter(&path, &is);
            let entries = open(&path, visit.log())?;
            way.push((entries, path, Some(is)));
        } else if kind.is_file() {
            visit.file(&path);
        } else {
            visit.other(&path);
        }
    }
    Ok(())
}

struct Removing<'a> {
    log: &'a mut Log,
}

impl Visit for Removing<'_> {
    fn log(&mut self) -> &mut Log {
        self.log
    }

    fn file(&mut self, path: &Path) {
        if let Err(e) = std::fs::remove_file(path) {
            self.log.refuse(&e, 0, "unlink()", path);
        }
    }

    fn other(&mut self, path: &Path) {
        self.file(path);
    }

    fn enter(&mut self, _: &Path, _: &Metadata) {}

    fn leave(&mut self, path: &Path, _: &Metadata) {
        if let Err(e) = std::fs::remove_dir(path) {
            self.log.refuse(&e, 0, "rmdir()", path);
        }
    }
}

struct Copying<'a> {
    log: &'a mut Log,
    from: &'a Path,
    to: &'a Path,
}

impl Copying<'_> {
    fn target(&self, path: &Path) -> PathBuf {
        // What is walked through lies below where the walk began.
        let rest = path.as_os_str().as_bytes().get(self.from.as_os_str().len()..).unwrap_or_default();
        let mut target = self.to.as_os_str().to_owned();
        target.push(OsStr::from_bytes(rest));
        target.into()
    }
}

impl Visit for Copying<'_> {
    fn log(&mut self) -> &mut Log {
        self.log
    }

    fn file(&mut self, path: &Path) {
        let target = self.target(path);
        copy_file(path, &target, None, None, self.log);
    }

    fn other(&mut self, _: &Path) {}

    fn enter(&mut self, path: &Path, is: &Metadata) {
        let target = self.target(path);
        if let Err(e) = DirBuilder::new().mode(is.permissions().mode() & 0o777).create(&target) {
            self.log.refuse(&e, 0, "mkdir()", &target);
        }
    }

    fn leave(&mut self, path: &Path, is: &Metadata) {
        let target = self.target(path);
        let set = File::open(&target).and_then(|file| set_times(&file, is.modified().ok()));
        if let Err(e) = set {
            self.log.failed(Level::Crit, "utimes()", &target, &e);
        }
    }
}

impl Transfer {
    fn run(self, log: &mut Log) -> u16 {
        let slash = self.to.ends_with(b"/");
        let to = if slash { without_slash(path_of(self.to)) } else { path_of(self.to) };
        let from = path_of(self.from);
        let mut there = None;
        match std::fs::symlink_metadata(&to) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return log.refuse(&e, 404, "lstat()", &to),
            Ok(is) => {
                if is.is_dir() && !slash {
                    let (uri, method, destination) = (&self.uri, &self.method, &self.destination);
                    let verb = method.strip_suffix('E').unwrap_or(method);
                    let text = format!("\"{uri}\" could not be {verb}ed to collection \"{destination}\"");
                    log.tell(Level::Error, text);
                    return 409;
                }
                if !self.overwrite {
                    let cause = os_error(&Error::from_raw_os_error(libc::EEXIST));
                    log.tell(Level::Error, format!("\"{}\" could not be created ({cause})", to.display()));
                    return 412;
                }
                there = Some(is.is_dir());
            }
        }
        let is = match std::fs::symlink_metadata(&from) {
            Ok(is) => is,
            Err(e) => return log.refuse(&e, 404, "lstat()", &from),
        };
        // The same one, or a place inside itself: a copy would empty the file or never end.
        let same = if is.is_dir() { is_within(&to, &from) } else { !self.moves && is_same(&to, &from) };
        if same {
            let (uri, destination) = (&self.uri, &self.destination);
            log.tell(Level::Error, format!("\"{uri}\" and its destination \"{destination}\" are the same"));
            return 403;
        }
        if !is.is_dir() {
            let done = if self.moves {
                let rename = Rename { access: None, path_access: self.access, time: None, make_path: true };
                rename.run(&from, &to, log)
            } else {
                copy_file(&from, &to, None, None, log)
            };
            return if done { 204 } else { 500 };
        }
        if !from.as_os_str().as_bytes().ends_with(b"/") {
            log.tell(Level::Error, format!("\"{}\" is collection", self.uri));
            return 400;
        }
        if let Some(directory) = there
            && let Err(status) = remove(&to, directory, log)
        {
            return status;
        }
        let from = without_slash(from);
        if self.moves && std::fs::rename(&from, &to).is_ok() {
            return 201;
        }
        if let Err(e) = DirBuilder::new().mode(is.permissions().mode() & 0o777).create(&to) {
            return log.refuse(&e, 404, "mkdir()", &to);
        }
        if let Err(status) = walk(&from, &mut Copying { log: &mut *log, from: &from, to: &to }) {
            return status;
        }
        if self.moves
            && let Err(status) = remove(&from, true, log)
        {
            return status;
        }
        201
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    let of = |path| std::fs::metadata(path).map(|is| (is.dev(), is.ino())).ok();
    of(a).is_some_and(|a| of(b) == Some(a))
}

/// Whether `path`, or what would hold it, is `directory` or lies in it.
fn is_within(path: &Path, directory: &Path) -> bool {
    path.ancestors().filter(|p| !p.as_os_str().is_empty()).any(|ancestor| is_same(ancestor, directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::temp_file::{Keep, TempPath};
    use std::io::Write;

    fn upload(directory: &Path, text: &str) -> Arc<TempFile> {
        let temp = TempPath { directory: directory.into(), levels: vec![1], shared: false };
        let file = temp.create(Keep::WhileUsed, 0o660).unwrap();
        file.file().write_all(text.as_bytes()).unwrap();
        Arc::new(file)
    }

    fn bytes(path: &Path) -> Vec<u8> {
        path.as_os_str().as_bytes().to_vec()
    }

    fn put_job(file: Arc<TempFile>, to: &Path) -> Job {
        Job::Put { file, to: bytes(to), access: 0o644, make_path: true, modified: Some(1_700_000_000) }
    }

    #[test]
    fn an_upload_takes_its_name_with_access_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a/b");
        let file = upload(dir.path(), "one");
        let at = file.path().to_owned();
        assert_eq!(put_job(file, &to).run().status, 201);
        assert!(!at.exists());
        let is = std::fs::metadata(&to).unwrap();
        assert_eq!((is.mtime(), is.mode() & 0o777), (1_700_000_000, 0o644));
        assert_eq!(put_job(upload(dir.path(), "two"), &to).run().status, 204);
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
    }

    #[test]
    fn an_upload_from_another_file_system_is_copied_beside_its_name_first() {
        let (dir, Ok(other)) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm")) else {
            return;
        };
        let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
        if device(dir.path()) == device(other.path()) {
            return;
        }
        let to = dir.path().join("a");
        let file = upload(other.path(), "text");
        let at = file.path().to_owned();
        assert_eq!(put_job(file, &to).run().status, 201);
        assert_eq!(std::fs::read(&to).unwrap(), b"text");
        assert_eq!(std::fs::metadata(&to).unwrap().mtime(), 1_700_000_000);
        assert!(!at.exists());
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["a"], "nothing is left beside it");
    }

    fn transfer(moves: bool, from: &Path, to: &Path) -> Done {
        let slash = |path: &Path| if from.is_dir() { [&bytes(path)[..], b"/"].concat() } else { bytes(path) };
        let text = String::new;
        let (uri, method, destination) = (text(), text(), text());
        let (from, to) = (slash(from), slash(to));
        let transfer = Transfer { moves, overwrite: true, from, to, uri, method, destination, access: 0o600 };
        Job::Transfer(transfer).run()
    }

    #[test]
    fn nothing_is_copied_into_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, file) = (dir.path().join("tree"), dir.path().join("tree/file"));
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&tree, dir.path().join("link")).unwrap();
        for to in ["tree", "tree/x", "link/x", "link/x/y"] {
            for moves in [false, true] {
                assert_eq!(transfer(moves, &tree, &dir.path().join(to)).status, 403, "{to}");
            }
        }
        assert_eq!(transfer(false, &file, &dir.path().join("link/file")).status, 403);
        assert_eq!(std::fs::read(&file).unwrap(), b"text");
        assert_eq!(transfer(false, &tree, &dir.path().join("tree2")).status, 201, "a longer name is another");
    }

    #[test]
    fn nobody_is_waited_for_at_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        std::fs::write(&file, "text").unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, 0o600.into(), 0).unwrap();
        assert_eq!(transfer(false, &file, &pipe).status, 500);
        assert_eq!(transfer(false, &pipe, &file).status, 204);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("file"), "text").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        assert_eq!(transfer(false, &tree, &dir.path().join("copy")).status, 201);
        assert!(!dir.path().join("copy/link").exists());
        let job =
            Job::Delete { path: [&bytes(&tree)[..], b"/"].concat(), collection: true, depth: Depth::Absent };
        assert_eq!(job.run().status, 204);
        assert!(!tree.exists() && outside.join("file").exists());
    }

    #[test]
    fn a_tree_as_deep_as_names_can_be_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().join("tree");
        while path.as_os_str().len() < 3000 {
            path.push("d");
        }
        std::fs::create_dir_all(&path).unwrap();
        let tree = [&bytes(&dir.path().join("tree"))[..], b"/"].concat();
        let done = Job::Delete { path: tree, collection: true, depth: Depth::Infinity }.run();
        assert_eq!(done.status, 204, "{:?}", done.told.first().map(|t| &t.text));
    }
}
