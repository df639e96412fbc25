//! nginx's referer module: whether the page that a request comes from is one of those that may send
//! it.

use super::map::Names;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::listens::ServerName;
use crate::http::regex::Regex;
use crate::http::vars::Variable;
use crate::settings;
use std::sync::Arc;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `valid_referers`: those that are valid; `None` where all are.
        inherit valid: Option<Arc<Valid>> = None,
        /// What has been read of the level's own.
        own reading: Option<Reading> = None,
    }
}

/// What a level's `valid_referers` say, while they are read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    valid: Valid,
    server_names: bool,
}

/// The valid pages.
#[derive(Clone, Debug, Default)]
pub struct Valid {
    /// A request without the field is as good.
    none: bool,
    /// So is one with something else in it than an address.
    blocked: bool,
    /// By host: what the path must begin with, if anything.
    hosts: Names<Option<Vec<u8>>>,
    /// Names of the server that are expressions; they are for the host.
    names: Vec<Arc<Regex>>,
    /// For what follows the scheme.
    regexes: Vec<Arc<Regex>>,
}

const TABLES: &str = "tables size themselves";

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("valid_referers", valid_referers, "the pages from which requests may come"),
    Command::no_effect_of(
        "referer_hash_max_size",
        |_, d| crate::conf::values::number_arg(d, 0).map(drop),
        TABLES,
    ),
    Command::no_effect_of(
        "referer_hash_bucket_size",
        |_, d| crate::conf::values::number_arg(d, 0).map(drop),
        TABLES,
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[Variable::cached("invalid_referer", |rq, _, out| {
    if let Some(valid) = &*rq.loc().referer.valid
        && !valid.allows(rq.head.get("referer"))
    {
        out.push(b'1');
    }
    true
})
.pure()];

fn valid_referers(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let first = b.loc().referer.reading.is_none();
    let mut reading = b.loc().referer.reading.take().unwrap_or_default();
    for text in &d.args {
        let valid = &mut reading.valid;
        match text.as_str() {
            "" => return Err(ConfError::new("invalid referer \"\"")),
            "none" => valid.none = true,
            "blocked" => valid.blocked = true,
            "server_names" => reading.server_names = true,
            text => match text.strip_prefix('~') {
                Some("") => return Err(ConfError::new("empty regex in \"~\"")),
                Some(pattern) => valid.regexes.push(b.regex(pattern, true)?),
                None => valid.add(text)?,
            },
        }
    }
    b.loc().referer.reading.0 = Some(reading);
    if first {
        // The names of the server may be given further down.
        let (level, server) = (b.level(), b.server());
        b.later(move |b| complete(b, level, server));
    }
    Ok(())
}

/// Adds the server's names once they are all known, and looks whether there is anything to compare.
fn complete(b: &mut Builder, level: usize, server: Option<usize>) -> ConfResult<()> {
    let Some(Reading { mut valid, server_names }) = b.levels[level].conf.referer.reading.take() else {
        return Ok(());
    };
    if server_names && let Some(server) = server {
        for name in &b.servers[server].conf.core.names.0 {
            match name {
                ServerName::Text(name) => valid.hosts.add(name, None, true)?,
                ServerName::Regex(regex) => valid.names.push(regex.clone()),
            }
        }
    }
    if (valid.none || valid.blocked) && valid.hosts.is_empty() && !server_names {
        return Err(ConfError::new(
            "the \"none\" or \"blocked\" referers are specified in the \"valid_referers\" directive \
             without any valid referer",
        ));
    }
    b.levels[level].conf.referer.valid.set(Some(Arc::new(valid)))
}

impl Valid {
    fn add(&mut self, text: &str) -> ConfResult<()> {
        let (host, path) = match text.find('/') {
            Some(slash) => (&text[..slash], Some(text.as_bytes()[slash..].to_vec())),
            None => (text, None),
        };
        Ok(self.hosts.add(host, path, true)?)
    }

    /// Whether a request with this field may come.
    fn allows(&self, referer: Option<&[u8]>) -> bool {
        // The longest host that is looked up (nginx has a buffer of this size for it).
        const HOST: usize = 256;
        let Some(referer) = referer else { return self.none };
        let Some(rest) = address(referer) else { return self.blocked };
        let host = &rest[..rest.iter().position(|b| matches!(b, b'/' | b':')).unwrap_or(rest.len())];
        if host.len() > HOST {
            return false;
        }
        let host = host.to_ascii_lowercase();
        if let Some(path) = self.hosts.find(&host) {
            let begins = |prefix: &Vec<u8>| {
                let slash = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
                rest[slash..].starts_with(prefix)
            };
            return path.as_ref().is_none_or(begins);
        }
        self.names.iter().any(|r| r.is_match(&host)) || self.regexes.iter().any(|r| r.is_match(rest))
    }
}

/// What follows the scheme of an address; `None` for what is no address of the web.
fn address(referer: &[u8]) -> Option<&[u8]> {
    if referer.len() < b"http://i.ru".len() {
        return None;
    }
    let after = |scheme: &[u8]| {
        let (start, rest) = referer.split_at(scheme.len());
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    after(b"http://").or_else(|| after(b"https://"))
}
