//! `proxy_cache_path` and `memory_cache`: the zones and how large they are.

use crate::cache::disk::names::Place;
use crate::cache::disk::{Pace, Settings};
use crate::conf::diag::At;
use crate::conf::values::{self, parameter};
use crate::conf::{Builder, ConfError, ConfResult, Directive};
use crate::modules::limit_zone::declare::PAGE;
use crate::modules::limit_zone::names::{self, Holds, Use};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The least size of a `keys_zone` that nginx starts with: two pages it asks for, and the third it needs.
const LEAST_KEYS: u64 = 3 * PAGE;

/// Longer than any `inactive` has to be: what counts it down takes no more than a thousand years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The least memory that is worth having.
const LEAST_MEMORY: u64 = 64 << 10;

/// A declared zone.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its name.
    pub name: Arc<str>,
    /// Where entries are kept on disk.
    pub path: PathBuf,
    /// Characters of the name for each level of directories.
    pub levels: Vec<usize>,
    /// Whether temporary files are made where `proxy_temp_path` says.
    pub use_temp_path: bool,
    /// The size of its keys in bytes.
    pub keys: u64,
    /// The most its entries may take, in bytes.
    pub max_size: Option<u64>,
    /// Bytes that are to be left free on the file system.
    pub min_free: u64,
    /// Entries not used for so long go.
    pub inactive: Duration,
    /// `manager_files`, `manager_sleep`, `manager_threshold`
    pub manager: Pace,
    /// `loader_files`, `loader_sleep`, `loader_threshold`
    pub loader: Pace,
    /// `purger`: whether purges keep to a pace.
    pub purges: bool,
    /// `purger_files`, `purger_sleep`, `purger_threshold`
    pub purger: Pace,
    /// Where it is declared.
    pub at: At,
}

/// Bytes of `keys_zone` that one key takes in nginx, about.
const KEY_SIZE: u64 = 128;

/// More than an entry takes beside its body.
const BESIDE_BODY: u64 = 256 << 10;

/// The part of the memory of a zone that may wait to be written, if its largest body is no more.
const PENDING_SHARE: u64 = 4;

impl Declared {
    /// What that says of the disk. The zone may take `bound` bytes of memory, `largest` of them for one
    /// body, and the first location that uses it makes temporary files in `temp`.
    pub fn settings(&self, bound: u64, largest: u64, temp: Option<PathBuf>) -> Settings {
        Settings {
            place: Place { root: self.path.clone(), levels: self.levels.clone() },
            temp: temp.filter(|_| self.use_temp_path),
            max_size: self.max_size,
            min_free: self.min_free,
            inactive: self.inactive,
            keys: usize::try_from(self.keys / KEY_SIZE).unwrap_or(usize::MAX).max(1),
            // What memory holds must have room there, or it would never be written.
            pending: (bound / PENDING_SHARE).max(largest.saturating_add(BESIDE_BODY)),
            manager: self.manager,
            loader: self.loader,
            // Somebody waits for the purge.
            purger: if self.purges { self.purger } else { Pace::SWIFT },
        }
    }
}

/// Reads `proxy_cache_path`.
pub fn proxy_cache_path(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut zone = Declared {
        name: Arc::from(""),
        path: b.path(d.arg(0).strip_suffix('/').unwrap_or(d.arg(0))),
        levels: Vec::new(),
        use_temp_path: true,
        keys: 0,
        max_size: None,
        min_free: 0,
        inactive: Duration::from_secs(600),
        manager: Pace::DEFAULT,
        loader: Pace::DEFAULT,
        purges: false,
        purger: Pace::PURGER,
        at: d.at.clone(),
    };
    for arg in &d.args[1..] {
        read_parameter(&mut zone, arg)?;
    }
    if zone.name.is_empty() {
        return Err(ConfError::new("\"{}\" must have \"keys_zone\" parameter"));
    }
    names::path(b, d.arg(0), Holds::Cache)?;
    // nginx compares texts and would have two zones in `/c` and `/c/`, each of which removes files of the
    // other.
    if let Some(other) = b.http.proxy_cache.zones.iter().find(|other| other.path == zone.path) {
        let path = zone.path.display();
        return Err(ConfError::new(format!("the same path name \"{path}\" used in {} and", other.at)));
    }
    names::zone(b, &zone.name, Use::Cache, zone.keys)?;
    let zones = &mut b.http.proxy_cache.zones;
    if zones.iter().any(|other| other.name == zone.name) {
        return Err(ConfError::new(format!("duplicate zone \"{}\"", zone.name)));
    }
    zones.push(zone);
    Ok(())
}

fn read_parameter(zone: &mut Declared, arg: &str) -> ConfResult<()> {
    let bad = |name: &str| ConfError::new(format!("invalid {name} value \"{arg}\""));
    let size = |text: &str, name: &str| values::size(text).ok_or_else(|| bad(name));
    let time = |text: &str, name: &str| values::time(text).ok_or_else(|| bad(name));
    if let Some(value) = parameter(arg, "keys_zone") {
        let invalid = || ConfError::new(format!("invalid keys zone size \"{arg}\""));
        let (name, keys) = value.split_once(':').ok_or_else(invalid)?;
        zone.name = Arc::from(name);
        zone.keys = values::size(keys).ok_or_else(invalid)?;
        if zone.keys < LEAST_KEYS {
            return Err(
                ConfError::new(format!("keys zone \"{arg}\" is too small")).hint("it has at least 12k")
            );
        }
    } else if arg == "levels=" {
        // None at all, as without it.
        zone.levels = Vec::new();
    } else if let Some(value) = parameter(arg, "levels") {
        let level = |text: &str| match text {
            "1" => Some(1),
            "2" => Some(2),
            _ => None,
        };
        let levels = value.split(':').map(level).collect::<Option<Vec<usize>>>();
        zone.levels = levels
            .filter(|levels| levels.len() <= 3)
            .ok_or_else(|| ConfError::new(format!("invalid \"levels\" \"{arg}\"")))?;
    } else if let Some(value) = parameter(arg, "max_size") {
        zone.max_size = Some(size(value, "max_size")?);
    } else if let Some(value) = parameter(arg, "inactive") {
        zone.inactive = values::seconds(value).ok_or_else(|| bad("inactive"))?.min(LONGEST);
    } else if let Some(value) = parameter(arg, "min_free") {
        zone.min_free = size(value, "min_free")?;
    } else if let Some(value) = parameter(arg, "use_temp_path") {
        zone.use_temp_path = flag(value, "use_temp_path", arg)?;
    } else if let Some(value) = parameter(arg, "purger") {
        zone.purges = flag(value, "purger", arg)?;
    } else if let Some((name, value)) = arg.split_once('=')
        && let Some((who, what)) = name.split_once('_')
        && matches!(who, "loader" | "manager" | "purger")
        && matches!(what, "files" | "sleep" | "threshold")
    {
        let pace = match who {
            "loader" => &mut zone.loader,
            "manager" => &mut zone.manager,
            _ => &mut zone.purger,
        };
        match what {
            "files" => pace.files = values::number(value).ok_or_else(|| bad(name))?,
            "sleep" => pace.sleep = time(value, name)?,
            _ => pace.threshold = time(value, name)?,
        }
    } else {
        return Err(values::invalid_parameter(arg));
    }
    Ok(())
}

fn flag(value: &str, name: &str, arg: &str) -> ConfResult<bool> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ConfError::new(format!("invalid {name} value \"{arg}\", it must be \"on\" or \"off\""))),
    }
}

/// `memory_cache`
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Bytes that all zones together may take; `None`: a share of what the container has.
    pub size: Option<u64>,
    /// Bytes of the largest body; `None`: an eighth of its zone's share.
    pub max_object: Option<u64>,
}

impl Memory {
    /// Bytes of the largest body in memory, of a zone that may take `bound`. What is received may take
    /// half of it.
    pub fn largest(&self, bound: u64) -> u64 {
        self.max_object.unwrap_or(bound / 8).min(bound / 2)
    }
}

/// Reads `memory_cache [size=…] [max_object=…]`.
pub fn memory_cache(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut memory = Memory::default();
    for arg in &d.args {
        let (value, field, least, hint) = if let Some(value) = parameter(arg, "size") {
            (value, &mut memory.size, LEAST_MEMORY, "a size in bytes, at least 64k, as in size=128m")
        } else if let Some(value) = parameter(arg, "max_object") {
            (value, &mut memory.max_object, 1, "a size in bytes, as in max_object=8m")
        } else {
            let known = "memory_cache [size=<bytes>] [max_object=<bytes>];";
            return Err(values::invalid_parameter(arg).hint(known));
        };
        let size = values::size(value).filter(|size| *size >= least);
        let size = size.ok_or_else(|| values::invalid_value().hint(hint))?;
        if field.replace(size).is_some() {
            return Err(ConfError::new(format!("duplicate parameter \"{arg}\"")));
        }
    }
    if let (Some(size), Some(object)) = (memory.size, memory.max_object)
        && object > size / 2
    {
        let message = "\"max_object\" must not be larger than half of \"size\"";
        return Err(ConfError::new(message).hint("what is received may take half of the memory"));
    }
    if b.http.proxy_cache.memory.replace(memory).is_some() {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    Ok(())
}
