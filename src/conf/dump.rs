//! What a configuration came to: every level with what is in force there.
//!
//! `name = value` differs from the level around, `name < value` is as it is there; what is nowhere
//! other than by default is left out. Names and values are those of the modules'
//! [`settings!`](crate::settings).

use super::build::{Config, Http, Level, LevelId, LevelKind};
use super::setting::Inherit;
use crate::http::listens::{Bound, ListenOptions, ServerName};
use crate::modules::{LocConf, MainConf, SrvConf};
use std::collections::{HashMap, HashSet};
use std::fmt::{Debug, Write};

/// What the heading of a level or the nesting shows already, tables without an order, and what is
/// made of other fields.
const LEFT_OUT: [&str; 13] = [
    "core.name",
    "core.is_regex",
    "core.is_named",
    "core.is_exact",
    "core.found",
    "core.locations",
    "core.listens",
    "core.names",
    "core.types",
    "core.content",
    "proxy_cache.active",
    "static_files.prefix",
    "ssl.tls",
];

/// A level's settings as text, by name.
type Texts = HashMap<String, String>;

/// The text as it is being written.
#[derive(Default)]
pub struct Dump {
    text: String,
    indent: usize,
    /// What every configuration says, as defaults that depend on the prefix.
    defaults: HashSet<(String, String)>,
    /// All of the level around, and those of it that were written.
    outer: Texts,
    outer_shown: HashSet<String>,
    /// The same of the level being written.
    this: Texts,
    this_shown: HashSet<String>,
}

impl Dump {
    /// A value that belongs to its level alone.
    pub fn own(&mut self, name: &str, value: &dyn Debug, default: &dyn Debug) {
        let text = format!("{value:?}");
        if text != format!("{default:?}") {
            self.setting(name, '=', &text);
        }
    }

    /// A value that goes on to inner levels.
    pub fn inherited(&mut self, name: &str, value: &dyn Debug) {
        let text = format!("{value:?}");
        let same = self.outer.get(name) == Some(&text);
        let shown = match same {
            true => self.outer_shown.contains(name),
            false => {
                self.outer_shown.contains(name) || !self.defaults.contains(&(name.to_string(), text.clone()))
            }
        };
        if shown {
            self.setting(name, if same { '<' } else { '=' }, &text);
            self.this_shown.insert(name.to_string());
        }
        self.this.insert(name.to_string(), text);
    }

    /// The name of a field of a module's, or of a module.
    pub fn join(&self, outer: &str, inner: &str) -> String {
        if outer.is_empty() { inner.into() } else { format!("{outer}.{inner}") }
    }

    fn setting(&mut self, name: &str, sign: char, text: &str) {
        if !LEFT_OUT.contains(&name) {
            self.line(&format!("{name} {sign} {text}"));
        }
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{:width$}{text}", "", width = self.indent * 2);
    }

    fn block(&mut self, heading: &str, inside: impl FnOnce(&mut Dump)) {
        self.line(heading);
        self.indent += 1;
        inside(self);
        self.indent -= 1;
    }

    /// Takes what was just written as the level around of what `inside` writes.
    fn within(&mut self, inside: impl FnOnce(&mut Dump)) {
        let texts = std::mem::take(&mut self.this);
        let shown = std::mem::take(&mut self.this_shown);
        let outer = std::mem::replace(&mut self.outer, texts);
        let outer_shown = std::mem::replace(&mut self.outer_shown, shown);
        inside(self);
        (self.outer, self.outer_shown) = (outer, outer_shown);
        (self.this, self.this_shown) = Default::default();
    }
}

/// The whole of `config`. What `plain` says too, one with a server and a location and no more, is
/// by default.
pub fn dump(config: &Config, plain: &Config) -> String {
    let mut out = Dump { defaults: texts_of(plain), ..Dump::default() };
    out.block("main", |out| config.main.dump(&MainConf::default(), "", out));
    let Some(http) = &config.http else { return out.text };
    for bound in &http.listens.bound {
        listen(http, bound, &mut out);
    }
    for group in &http.conf.upstream.groups {
        out.block(&format!("upstream {:?}", group.name), |out| {
            out.line(&format!("method = {:?}", group.method));
            out.line(&format!("keepalive = {:?}", group.keepalive));
            for peer in &group.peers {
                out.line(&format!("{peer:?}"));
            }
            for name in &group.names {
                out.line(&format!("{name:?}"));
            }
        });
    }
    out.within(|out| level(http, 0, out));
    named_variables(http, &out.text)
}

/// Every setting of every level, as text.
fn texts_of(config: &Config) -> HashSet<(String, String)> {
    let mut out = Dump::default();
    config.main.dump(&MainConf::default(), "", &mut out);
    let mut all: HashSet<_> = out.this.drain().collect();
    if let Some(http) = &config.http {
        http.srv.dump(&SrvConf::default(), "", &mut out);
        for level in &http.levels {
            level.conf.dump(&LocConf::default(), "", &mut out);
            all.extend(out.this.drain());
        }
    }
    all
}

fn listen(http: &Http, bound: &Bound, out: &mut Dump) {
    out.block(&format!("listen {}", bound.addr), |out| {
        out.line(&format!("ssl = {}, http2 = {}", bound.ssl, bound.http2));
        if bound.options != ListenOptions::default() {
            out.line(&format!("{:?}", bound.options));
        }
        out.line(&format!("default server of line {}", http.servers[bound.names.default].at.line));
        let lines: Vec<_> = bound.servers.iter().map(|s| http.servers[*s].at.line.to_string()).collect();
        out.line(&format!("servers of lines {}", lines.join(", ")));
    });
}

/// A level and those inside it, in the order of the file.
fn level(http: &Http, id: LevelId, out: &mut Dump) {
    let this = &http.levels[id];
    out.block(&heading(http, this), |out| {
        let server = http.servers.iter().find(|s| s.level == id).map(|s| &s.conf);
        if let Some(srv) = server.or_else(|| (id == 0).then_some(&http.srv)) {
            srv.dump(&SrvConf::default(), "", out);
        }
        this.conf.dump(&LocConf::default(), "", out);
        out.within(|out| {
            for inner in (0..http.levels.len()).filter(|i| http.levels[*i].outer == Some(id)) {
                level(http, inner, out);
            }
        });
    });
}

fn heading(http: &Http, level: &Level) -> String {
    let line = level.at.line;
    match &level.kind {
        LevelKind::Http => format!("http, line {line}"),
        LevelKind::Location(name) => format!("location {name}, line {line}"),
        LevelKind::If => format!("if, line {line}"),
        LevelKind::LimitExcept => format!("limit_except, line {line}"),
        LevelKind::Server => {
            let server = level.server.map(|s| &http.servers[s].conf.core);
            let names = server.iter().flat_map(|core| core.names.iter()).map(server_name);
            let names = names.fold(String::new(), |all, name| format!("{all} {name}"));
            format!("server{names}, line {line}")
        }
    }
}

fn server_name(name: &ServerName) -> String {
    match name {
        ServerName::Text(name) => format!("{name:?}"),
        ServerName::Regex(regex) => format!("{regex:?}"),
    }
}

/// Variables are numbers until the whole configuration is read: `$#3` becomes `$name`.
fn named_variables(http: &Http, text: &str) -> String {
    let mut parts = text.split("$#");
    let mut out = String::from(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let known = part[..digits].parse().ok().and_then(|id: usize| http.vars.get(id));
        let _ = match known {
            Some(def) => write!(out, "${}{}", def.name, &part[digits..]),
            None => write!(out, "$#{part}"),
        };
    }
    out
}
