//! Names that one configuration may use for one thing only: of shared memory, and of directories.

use super::declare::other_use;
use crate::conf::diag::At;
use crate::conf::{Builder, ConfError, ConfResult};
use std::path::Path;

/// What a zone of shared memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Use {
    LimitReq,
    LimitConn,
    Upstream,
    Cache,
    Sessions,
}

/// What a directory is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A cache.
    Cache,
    /// Temporary files, with these levels.
    Temporary(Vec<usize>),
}

/// The names that were used so far.
#[derive(Default)]
pub struct Names {
    /// With their sizes; 0 where none was given yet.
    zones: Vec<(String, Use, u64)>,
    paths: Vec<(String, Holds, At)>,
}

/// A zone is named, and perhaps declared with its `size`, else 0 (ngx_shared_memory_add).
pub fn zone(b: &mut Builder, name: &str, what: Use, size: u64) -> ConfResult<()> {
    let zones = &mut b.http.names.zones;
    let Some((_, known, before)) = zones.iter_mut().find(|(known, ..)| known == name) else {
        zones.push((name.to_string(), what, size));
        return Ok(());
    };
    if *known != what {
        return Err(other_use(name));
    }
    match *before {
        0 => *before = size,
        before if size > 0 && size != before => {
            return Err(ConfError::new(format!(
                "the size {size} of shared memory zone \"{name}\" conflicts with already declared size {before}"
            )));
        }
        _ => {}
    }
    Ok(())
}

/// A directory is named, as `text` says (ngx_add_path). Where that ends with a slash it is another text,
/// as in nginx.
pub fn path(b: &mut Builder, text: &str, holds: Holds) -> ConfResult<()> {
    let full = match Path::new(text).is_absolute() {
        true => text.to_string(),
        false => b.path(text.strip_suffix('/').unwrap_or(text)).display().to_string(),
    };
    let here = b.here.clone();
    let paths = &mut b.http.names.paths;
    let Some((_, known, at)) = paths.iter().find(|(known, ..)| *known == full) else {
        paths.push((full, holds, here));
        return Ok(());
    };
    let name = full.strip_suffix('/').unwrap_or(&full);
    match (known, &holds) {
        (Holds::Temporary(known), Holds::Temporary(levels)) if known == levels => Ok(()),
        (Holds::Temporary(_), Holds::Temporary(_)) => Err(ConfError::new(format!(
            "the same path name \"{name}\" in {at} has the different levels than"
        ))),
        _ => Err(ConfError::new(format!("the same path name \"{name}\" used in {at} and"))
            .hint("what a cache does not know it removes from its directory")),
    }
}
