//! Walks the directives through the modules' setters and resolves what they leave.
//!
//! Levels (`http`, each `server`, `location`, `if`, `limit_except`) live in one arena, outer before
//! inner, so that inheritance is one pass at the end, after everything was read, as in nginx: the
//! order of directives within a level does not matter.

use super::diag::{At, ConfError, ConfResult, Note, NoteLevel};
use super::parser::{Directive, Item, Source};
use super::setting::Inherit;
use super::support;
use super::table::{self, Context, Support};
use crate::http::listens::Listens;
use crate::http::phases::Plan;
use crate::http::regex::Regex;
use crate::http::router::Locations;
use crate::http::template::Template;
use crate::http::vars::{VarDef, VarId, VarTable};
use crate::modules::{self, HttpConf, LocConf, MainConf, SrvConf};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Index of a level in [`Http::levels`].
pub type LevelId = usize;

/// What kind of block a level is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelKind {
    /// `http`
    Http,
    /// `server`
    Server,
    /// `location`, with its name as written (`/x/`, `~ \.php$`, `@name`).
    Location(String),
    /// `if` in a server or a location
    If,
    /// `limit_except`
    LimitExcept,
}

/// A level and its configuration, inherited once the build is finished.
#[derive(Clone)]
pub struct Level {
    /// What it is.
    pub kind: LevelKind,
    /// The level around it.
    pub outer: Option<LevelId>,
    /// The server it belongs to, if any.
    pub server: Option<usize>,
    /// What the modules configured.
    pub conf: LocConf,
    /// Where it begins.
    pub at: At,
    /// What has anything to do here.
    pub plan: Plan,
}

/// A `server` block.
pub struct Server {
    /// The server's own level.
    pub level: LevelId,
    /// Its modules' per-server configuration, inherited.
    pub conf: SrvConf,
    /// Where it begins.
    pub at: At,
}

/// What `http { }` describes.
pub struct Http {
    /// All levels; a [`LevelId`] is an index.
    pub levels: Vec<Level>,
    /// All servers, in file order.
    pub servers: Vec<Server>,
    /// The addresses to listen on, each with its servers by name.
    pub listens: Listens,
    /// All variables; a [`VarId`] is an index.
    pub vars: Vec<VarDef>,
    /// The modules' configuration of the whole of `http`.
    pub conf: HttpConf,
    /// What `http` says of its servers.
    pub srv: SrvConf,
}

/// A configuration, read, checked, inherited.
pub struct Config {
    /// The top level.
    pub main: MainConf,
    /// `http { }`, if there is one.
    pub http: Option<Http>,
    /// What the operator should know.
    pub notes: Vec<Note>,
    /// The files it was read from.
    pub sources: Vec<Source>,
    /// The prefix to which relative paths were joined.
    pub prefix: PathBuf,
}

/// Reads `file` (with the prefix `prefix` and the text of `-g` before it) into a configuration.
pub fn load(prefix: &Path, file: &Path, globals: &str) -> ConfResult<Config> {
    let mut builder = Builder::new(prefix, file);
    let globals = super::parser::parse_globals(globals);
    builder.walk(&globals)?;
    let parsed = super::parser::parse_file(file)?;
    builder.walk(&parsed.items)?;
    builder.finish(parsed.sources)
}

/// Reads a configuration from text, for tests: the file is called `test.conf`.
pub fn load_text(prefix: &Path, text: &str) -> ConfResult<Config> {
    let file = prefix.join("test.conf");
    std::fs::write(&file, text).map_err(|e| ConfError::new(e.to_string()))?;
    load(prefix, &file, "")
}

type Later = Box<dyn FnOnce(&mut Builder) -> ConfResult<()>>;

/// The configuration while it is being read; the setters' view of it.
pub struct Builder {
    /// The modules' configuration of the top level.
    pub main: MainConf,
    /// The modules' configuration of the whole of `http`.
    pub http: HttpConf,
    /// All levels so far.
    pub levels: Vec<Level>,
    /// All servers so far.
    pub servers: Vec<Server>,
    /// The variables named so far.
    pub vars: VarTable,
    /// The kind of block being read.
    pub context: Context,
    /// The prefix, to which relative paths are joined.
    pub prefix: PathBuf,
    /// The directory of the configuration file, to which some paths are joined.
    pub conf_dir: PathBuf,
    /// The place of the directive being read.
    pub here: At,
    /// The upstream block being read: an index into its module's list.
    pub upstream: usize,
    http_srv: SrvConf,
    http_seen: bool,
    level: LevelId,
    server: Option<usize>,
    later: Vec<(At, Later)>,
    notes: Vec<Note>,
    /// Knobs seen, by place, to find duplicates.
    knobs: HashSet<(LevelId, Option<usize>, u32, String)>,
    events_seen: bool,
}

impl Builder {
    fn new(prefix: &Path, file: &Path) -> Builder {
        let here = At::command_line();
        let root = Level {
            kind: LevelKind::Http,
            outer: None,
            server: None,
            conf: LocConf::default(),
            at: here.clone(),
            plan: Plan::default(),
        };
        Builder {
            main: MainConf::default(),
            http: HttpConf::default(),
            levels: vec![root],
            servers: Vec::new(),
            vars: VarTable::new(),
            context: Context::MAIN,
            prefix: prefix.to_path_buf(),
            conf_dir: file.parent().map(Path::to_path_buf).unwrap_or_default(),
            here,
            upstream: 0,
            http_srv: SrvConf::default(),
            http_seen: false,
            level: 0,
            server: None,
            later: Vec::new(),
            notes: Vec::new(),
            knobs: HashSet::new(),
            events_seen: false,
        }
    }

    /// Runs every directive of a block in the present context.
    pub fn walk(&mut self, items: &[Item]) -> ConfResult<()> {
        for item in items {
            match item {
                Item::Error(error) => return Err(error.clone()),
                Item::Directive(d) => {
                    self.here = d.at.clone();
                    self.directive(d).map_err(|mut e| {
                        // Once, and only where a setter put it: the operator's own text may hold braces.
                        if let Some(rest) = e.message.strip_prefix("{}") {
                            e.message = format!("{}{rest}", d.name);
                        } else {
                            e.message = e.message.replacen("\"{}\"", &format!("\"{}\"", d.name), 1);
                        }
                        e.at(&d.at).text(|| d.summary())
                    })?;
                }
            }
        }
        Ok(())
    }

    fn directive(&mut self, d: &Directive) -> ConfResult<()> {
        let declared = table::declarations(&d.name);
        if declared.is_empty() {
            let mut error = ConfError::new(format!("unknown directive \"{}\"", d.name));
            if let Some(hint) = support::foreign(&d.name) {
                error = error.hint(hint);
            } else if let Some(near) = table::nearest(&d.name) {
                error = error.hint(format!("did you mean \"{near}\"?"));
            }
            return Err(error);
        }
        let Some(fitting) = declared.iter().find(|s| s.contexts.meets(self.context)) else {
            return Err(ConfError::new(format!("\"{}\" directive is not allowed here", d.name)));
        };
        if fitting.arity.block && d.block.is_none() {
            return Err(ConfError::new(format!("directive \"{}\" has no opening \"{{\"", d.name)));
        }
        if !fitting.arity.block && d.block.is_some() {
            return Err(ConfError::new(format!("directive \"{}\" is not terminated by \";\"", d.name)));
        }
        if !fitting.arity.takes(d.args.len()) {
            return Err(ConfError::new(format!("invalid number of arguments in \"{}\" directive", d.name)));
        }
        match table::commands().get(d.name.as_str()).map(|c| c.support) {
            Some(Support::Works(setter)) => setter(self, d),
            Some(support @ (Support::NoEffect(why) | Support::NoEffectOf(_, why))) => {
                self.check_knob(d, fitting.arity)?;
                if let Support::NoEffectOf(check, _) = support {
                    check(self, d)?;
                }
                self.note(NoteLevel::Notice, format!("\"{}\" has no effect: {why}", d.name));
                Ok(())
            }
            None => {
                let missing = support::missing_for(&d.name, fitting);
                let message = format!("directive \"{}\" is not supported: {}", d.name, missing.why);
                Err(ConfError::new(message).hint(missing.hint))
            }
        }
    }

    /// A knob without effect is still a directive: its mistakes are mistakes.
    fn check_knob(&mut self, d: &Directive, arity: super::table::Arity) -> ConfResult<()> {
        if arity.flag {
            super::values::flag(d)?;
        }
        let place = (self.level, self.server, self.context.0, d.name.clone());
        if !arity.at_least_one() && !self.knobs.insert(place) {
            return Err(ConfError::new("\"{}\" directive is duplicate"));
        }
        Ok(())
    }

    /// Reads a block in another context, at another level and server, and comes back.
    pub fn enter(
        &mut self,
        d: &Directive,
        context: Context,
        level: LevelId,
        server: Option<usize>,
    ) -> ConfResult<()> {
        let outer = (self.context, self.level, self.server, self.here.clone());
        (self.context, self.level, self.server) = (context, level, server);
        let result = self.walk(d.block.as_deref().unwrap_or_default());
        (self.context, self.level, self.server, self.here) = outer;
        result
    }

    /// Reads `events { }`.
    pub fn enter_events(&mut self, d: &Directive) -> ConfResult<()> {
        if std::mem::replace(&mut self.events_seen, true) {
            return Err(ConfError::new("\"{}\" directive is duplicate"));
        }
        let (level, server) = (self.level, self.server);
        self.enter(d, Context::EVENTS, level, server)
    }

    /// Reads `http { }`.
    pub fn enter_http(&mut self, d: &Directive) -> ConfResult<()> {
        if self.http_seen {
            return Err(ConfError::new("\"{}\" directive is duplicate"));
        }
        self.http_seen = true;
        self.levels[0].at = d.at.clone();
        self.enter(d, Context::HTTP, 0, None)
    }

    /// Reads a `server { }` in `http`.
    pub fn enter_server(&mut self, d: &Directive) -> ConfResult<()> {
        let server = self.servers.len();
        let level = self.add_level(LevelKind::Server, Some(server));
        self.servers.push(Server { level, conf: SrvConf::default(), at: d.at.clone() });
        self.enter(d, Context::SERVER, level, Some(server))
    }

    /// Adds a level inside the present one.
    pub fn add_level(&mut self, kind: LevelKind, server: Option<usize>) -> LevelId {
        let level = Level {
            kind,
            outer: Some(self.level),
            server: server.or(self.server),
            conf: LocConf::default(),
            at: self.here.clone(),
            plan: Plan::default(),
        };
        self.levels.push(level);
        self.levels.len() - 1
    }

    /// Whether a block was read that the list of modules must be known for.
    pub fn modules_used(&self) -> bool {
        self.events_seen || self.http_seen
    }

    /// The level being read.
    pub fn level(&self) -> LevelId {
        self.level
    }

    /// The server being read, if any.
    pub fn server(&self) -> Option<usize> {
        self.server
    }

    /// The modules' configuration of the level being read.
    pub fn loc(&mut self) -> &mut LocConf {
        &mut self.levels[self.level].conf
    }

    /// The modules' per-server configuration of the server being read, or of `http`.
    pub fn srv(&mut self) -> &mut SrvConf {
        match self.server {
            Some(server) => &mut self.servers[server].conf,
            None => &mut self.http_srv,
        }
    }

    /// Runs `step` once all of `http` has been read, before inheritance; for what refers to things
    /// that may be declared further down.
    pub fn later(&mut self, step: impl FnOnce(&mut Builder) -> ConfResult<()> + 'static) {
        self.later.push((self.here.clone(), Box::new(step)));
    }

    /// Tells the operator something.
    pub fn note(&mut self, level: NoteLevel, message: impl Into<String>) {
        self.notes.push(Note { level, message: message.into(), at: self.here.clone() });
    }

    /// A value with variables, compiled.
    pub fn template(&mut self, text: &str) -> ConfResult<Template> {
        Template::compile(text, self)
    }

    /// A regular expression, compiled; its named groups become variables.
    pub fn regex(&mut self, pattern: &str, caseless: bool) -> ConfResult<Arc<Regex>> {
        Regex::compile(pattern, caseless, self).map(Arc::new)
    }

    /// The variable called `name`, to be read; it may be defined further down.
    pub fn variable(&mut self, name: &str) -> VarId {
        let here = self.here.clone();
        self.vars.used(name, &here)
    }

    /// `path` joined to the prefix.
    pub fn path(&self, path: &str) -> PathBuf {
        self.prefix.join(path)
    }

    /// `path` joined to the directory of the configuration file.
    pub fn conf_path(&self, path: &str) -> PathBuf {
        self.conf_dir.join(path)
    }

    fn finish(mut self, sources: Vec<Source>) -> ConfResult<Config> {
        if !self.events_seen {
            return Err(ConfError::new("no \"events\" section in configuration")
                .hint("an empty one will do: events { }"));
        }
        for (at, step) in std::mem::take(&mut self.later) {
            self.here = at.clone();
            step(&mut self).map_err(|e| e.at(&at))?;
        }
        self.inherit();
        for finish in modules::FINISH {
            finish(&mut self)?;
        }
        let http = if self.http_seen { Some(self.finish_http()?) } else { None };
        Ok(Config { main: self.main, http, notes: self.notes, sources, prefix: self.prefix })
    }

    fn inherit(&mut self) {
        for id in 1..self.levels.len() {
            let (outer, rest) = self.levels.split_at_mut(id);
            let level = &mut rest[0];
            // The arena holds outer levels first, and only the root has no outer level.
            if let Some(outer) = level.outer.map(|o| &outer[o]) {
                let implicit = matches!(level.kind, LevelKind::If | LevelKind::LimitExcept);
                level.conf.inherit(&outer.conf);
                if implicit {
                    level.conf.core.inherit_implicit(&outer.conf.core);
                }
            }
        }
        for server in &mut self.servers {
            server.conf.inherit(&self.http_srv);
        }
    }

    fn finish_http(&mut self) -> ConfResult<Http> {
        for level in &mut self.levels {
            let found = std::mem::take(&mut level.conf.core.found.0);
            level.conf.core.locations.0 = Arc::new(Locations::build(found));
            level.plan = Plan::of(&level.conf);
        }
        let mut listens = Listens::build(&self.servers)?;
        for (at, message) in std::mem::take(&mut listens.conflicts) {
            self.notes.push(Note { level: NoteLevel::Warn, message, at });
        }
        let vars = std::mem::take(&mut self.vars).resolve()?;
        Ok(Http {
            levels: std::mem::take(&mut self.levels),
            servers: std::mem::take(&mut self.servers),
            listens,
            vars,
            conf: std::mem::take(&mut self.http),
            srv: std::mem::take(&mut self.http_srv),
        })
    }
}
