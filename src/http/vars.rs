//! Variables: their names, where they come from, how they are read.

use super::request::Request;
use crate::conf::{At, ConfError, ConfResult};
use crate::modules;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Index of a variable in the configuration's list.
pub type VarId = u32;

/// Appends the variable's value to the buffer and returns true, or returns false when there is
/// none. The text is what follows a prefix variable's prefix (`arg_` in `$arg_token`: `token`).
pub type Getter = fn(&Request, &str, &mut Vec<u8>) -> bool;

/// A variable in a module's table.
pub struct Variable {
    /// The name without `$`; a prefix ends with `_` and has `prefix` set.
    pub name: &'static str,
    /// Whether any name that begins with `name` is this variable.
    pub prefix: bool,
    /// Whether its first value is its value for the rest of the request, whatever becomes of the
    /// location (a variable that nginx does not flag as one that may not be cached).
    pub cached: bool,
    /// Whether it is ours and not nginx's: a configuration that sets a variable of this name has its own.
    pub gives_way: bool,
    /// Whether its value follows from the request's line, its host, the fields that it reads by name, and the answer
    /// ([`crate::http::hit`]).
    pub pure: bool,
    /// Reads it.
    pub get: Getter,
    /// Writes it, for the few that `set` may change.
    pub set: Option<fn(&mut Request, bytes::Bytes)>,
}

impl Variable {
    /// A variable that can be read.
    pub const fn new(name: &'static str, get: Getter) -> Variable {
        Variable { name, prefix: false, cached: false, gives_way: false, pure: false, get, set: None }
    }

    /// A variable that nginx does not have.
    pub const fn own(name: &'static str, get: Getter) -> Variable {
        Variable { gives_way: true, ..Variable::new(name, get) }
    }

    /// A variable that is read once in a request.
    pub const fn cached(name: &'static str, get: Getter) -> Variable {
        Variable { name, prefix: false, cached: true, gives_way: false, pure: false, get, set: None }
    }

    /// The same, and [`Variable::pure`].
    pub const fn pure(self) -> Variable {
        Variable { pure: true, ..self }
    }

    /// All variables that begin with `name`.
    pub const fn prefix(name: &'static str, get: Getter) -> Variable {
        Variable { name, prefix: true, cached: false, gives_way: false, pure: false, get, set: None }
    }
}

/// A variable that a block of the configuration defines (`map`, `geo`, `split_clients`).
pub trait Computed: Send + Sync {
    /// Appends the value for `rq`; false when there is none.
    fn compute(&self, rq: &Request, out: &mut Vec<u8>) -> bool;
    /// Whether it is computed anew at each reading rather than once a request.
    fn volatile(&self) -> bool {
        false
    }
    /// Whether it is made of nothing but other variables ([`crate::http::hit`]).
    fn pure(&self) -> bool {
        false
    }
}

/// Where a variable's value comes from.
#[derive(Clone)]
pub enum VarKind {
    /// Nothing defines it.
    Unknown,
    /// A module; the text is what follows a prefix.
    Builtin(&'static Variable, String),
    /// `set` or a named group: a slot of the request. Before it is written it is empty, or if a named group writes
    /// it (true), there is none.
    Slot(bool),
    /// A block of the configuration.
    Computed(Arc<dyn Computed>),
}

impl VarKind {
    /// See [`Variable::pure`]. What the configuration itself writes comes of what it reads.
    pub fn is_pure(&self) -> bool {
        match self {
            VarKind::Unknown | VarKind::Slot(_) => true,
            VarKind::Builtin(variable, _) => variable.pure,
            VarKind::Computed(computed) => computed.pure(),
        }
    }
}

/// A variable of a configuration.
#[derive(Clone)]
pub struct VarDef {
    /// Its name without `$`.
    pub name: String,
    /// Where its value comes from.
    pub kind: VarKind,
    used: Option<At>,
}

/// The variables named while a configuration is read.
#[derive(Default)]
pub struct VarTable {
    ids: HashMap<String, VarId>,
    defs: Vec<VarDef>,
}

impl VarTable {
    /// An empty table.
    pub fn new() -> VarTable {
        VarTable::default()
    }

    fn id(&mut self, name: &str) -> VarId {
        // Names are case-insensitive in nginx.
        let name = name.to_ascii_lowercase();
        if let Some(id) = self.ids.get(&name) {
            return *id;
        }
        let id = self.defs.len() as VarId;
        self.ids.insert(name.clone(), id);
        self.defs.push(VarDef { name, kind: VarKind::Unknown, used: None });
        id
    }

    /// A variable that is read at `at`.
    pub fn used(&mut self, name: &str, at: &At) -> VarId {
        let id = self.id(name);
        self.defs[id as usize].used.get_or_insert_with(|| at.clone());
        id
    }

    /// A variable that a named group writes.
    pub fn captured(&mut self, name: &str) -> ConfResult<VarId> {
        let id = self.slot(name)?;
        if let VarKind::Slot(captured) = &mut self.defs[id as usize].kind {
            *captured = true;
        }
        Ok(id)
    }

    /// A variable that `set` or a named group writes. A built-in one that cannot be written is
    /// nginx's `the duplicate "…" variable`.
    pub fn slot(&mut self, name: &str) -> ConfResult<VarId> {
        let id = self.id(name);
        let def = &mut self.defs[id as usize];
        match &def.kind {
            VarKind::Slot(_) => {}
            VarKind::Builtin(variable, _) if variable.set.is_some() => {}
            VarKind::Unknown | VarKind::Builtin(..) => match builtin(&def.name) {
                Some((variable, rest)) if !variable.prefix && !variable.gives_way => {
                    if variable.set.is_none() {
                        return Err(duplicate(&def.name));
                    }
                    def.kind = VarKind::Builtin(variable, rest.to_string());
                }
                _ => def.kind = VarKind::Slot(false),
            },
            // `set` of a mapped variable overrides it for the request.
            VarKind::Computed(_) => {}
        }
        Ok(id)
    }

    /// A variable that a block defines.
    pub fn computed(&mut self, name: &str, computed: Arc<dyn Computed>) -> ConfResult<VarId> {
        let id = self.id(name);
        let def = &mut self.defs[id as usize];
        let is_fixed =
            |variable: &Variable| !variable.prefix && !variable.gives_way && variable.set.is_none();
        if builtin(&def.name).is_some_and(|(variable, _)| is_fixed(variable)) {
            return Err(duplicate(&def.name));
        }
        def.kind = VarKind::Computed(computed);
        Ok(id)
    }

    /// All variables, each with a source; one that nothing defines is an error.
    pub fn resolve(self) -> ConfResult<Vec<VarDef>> {
        let mut defs = self.defs;
        for def in &mut defs {
            if !matches!(def.kind, VarKind::Unknown) {
                continue;
            }
            match builtin(&def.name) {
                Some((variable, rest)) => def.kind = VarKind::Builtin(variable, rest.to_string()),
                None => {
                    let mut error = ConfError::new(format!("unknown \"{}\" variable", def.name));
                    error.at = def.used.clone();
                    return Err(match nearest(&def.name) {
                        Some(near) => error.hint(format!("did you mean \"${near}\"?")),
                        None => error,
                    });
                }
            }
        }
        Ok(defs)
    }
}

fn duplicate(name: &str) -> ConfError {
    ConfError::new(format!("the duplicate \"{name}\" variable")).hint("this variable cannot be redefined")
}

/// The module variable of this name, and what follows its prefix.
pub(super) fn builtin(name: &str) -> Option<(&'static Variable, &str)> {
    static TABLE: OnceLock<HashMap<&'static str, &'static Variable>> = OnceLock::new();
    let all = || modules::VARIABLES.iter().flat_map(|table| table.iter());
    let table = TABLE.get_or_init(|| all().filter(|v| !v.prefix).map(|v| (v.name, v)).collect());
    if let Some(variable) = table.get(name) {
        return Some((variable, ""));
    }
    // The longest prefix wins: `upstream_http_` before a shorter one.
    all()
        .filter(|v| v.prefix && name.len() > v.name.len() && name.starts_with(v.name))
        .max_by_key(|v| v.name.len())
        .map(|v| (v, &name[v.name.len()..]))
}

fn nearest(name: &str) -> Option<&'static str> {
    let all = modules::VARIABLES.iter().flat_map(|table| table.iter()).filter(|v| !v.prefix);
    let (distance, best) = all.map(|v| (strsim::damerau_levenshtein(name, v.name), v.name)).min()?;
    (distance <= 1 + name.len() / 5).then_some(best)
}
