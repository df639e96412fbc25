//! nginx's random_index module: any file of a directory for the directory.

use super::autoindex::{at_once, directory_of, open, refuse};
use super::static_files::{Mapped, map};
use crate::cache::file_io::Failure;
use crate::conf::Command;
use crate::conf::values::flag;
use crate::http::head::Method;
use crate::http::phases::{Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::settings;
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `random_index`
        inherit on: bool = false,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[Command::works(
    "random_index",
    |b, d| {
        let on = flag(d)?;
        b.loc().random_index.on.set(on)
    },
    "any file of a directory answers for it",
)];

/// Runs in its phase, before `index`.
pub const HANDLER: Handler = Handler {
    phase: Phase::Content,
    wants: |loc| *loc.random_index.on,
    call: Call::Later(handle),
    pure: true,
    gate: None,
};

fn handle(rq: &mut Request) -> Deciding<'_> {
    if !rq.uri.ends_with(b"/") || !matches!(rq.method, Method::Get | Method::Head | Method::Post) {
        return Box::pin(std::future::ready(Flow::Continue));
    }
    Box::pin(choose(rq))
}

async fn choose(rq: &mut Request) -> Flow {
    rq.watch.spoil();
    let Some(Mapped { path, .. }) = map(rq) else { return Flow::status(500) };
    let directory = directory_of(&path).to_vec();
    let choosing = directory.clone();
    match at_once(move || any_file(&choosing)).await.unwrap_or_else(Err) {
        Ok(None) => Flow::Continue,
        Ok(Some(name)) => Flow::Internal { uri: [&rq.uri[..], &name].concat().into(), args: rq.args.clone() },
        Err(failure) => refuse(rq, &directory, &failure),
    }
}

/// A file of a directory, each as likely as any other. May wait. However many there are, only one is
/// held: the n-th takes the place of the one before it in one case of n.
fn any_file(directory: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut dir = open(directory)?;
    let (mut chosen, mut seen) = (None, 0u64);
    while let Some(next) = dir.read() {
        let next = next.map_err(|e| Failure::of("readdir()", e))?;
        let name = next.file_name();
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        let kind = match next.file_type() {
            FileType::Unknown | FileType::Symlink => {
                let at = dir.fd().map_err(|e| Failure::of("readdir()", e))?;
                match statat(at, name, AtFlags::empty()) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // A link that leads nowhere.
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(Failure::of("stat()", e)),
                }
            }
            kind => kind,
        };
        if kind != FileType::RegularFile {
            continue;
        }
        seen += 1;
        if u128::from_ne_bytes(crate::edge::random::bytes()).is_multiple_of(u128::from(seen)) {
            chosen = Some(name.to_bytes().to_vec());
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn every_file_and_nothing_else_is_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().as_os_str().as_bytes();
        assert_eq!(any_file(path).unwrap(), None);
        for file in ["a", "b", "c", ".hidden"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink("dir", dir.path().join("dirlink")).unwrap();
        let mut counts = std::collections::BTreeMap::<Vec<u8>, u32>::new();
        for _ in 0..400 {
            *counts.entry(any_file(path).unwrap().unwrap()).or_default() += 1;
        }
        let names: Vec<&[u8]> = counts.keys().map(Vec::as_slice).collect();
        assert_eq!(names, [&b"a"[..], b"b", b"c", b"link"]);
        // A hundred each are expected; forty less would be seven standard deviations.
        assert!(counts.values().all(|n| *n > 40), "{counts:?}");
    }
}
