//! HLS through the cache: playlists live as long as they say, and their segments go when they say so.
//!
//! It is ours. nginx's commercial edition has an `hls` without arguments, which packages MP4 files; of the two the
//! argument says which is meant. What is done with a playlist is in [`crate::cache::hls`].

mod args;
mod metrics;

pub use metrics::metrics;

use crate::cache::hls::Hls;
use crate::cache::hls::life::{Live, Rules};
use crate::cache::key::{self, HEAD, Key};
use crate::cache::streams::{self, Described, Source};
use crate::conf::table::{Arity, HTTP_SERVER_LOCATION};
use crate::conf::values::{self, flag, parameter};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::request::Request;
use crate::http::uri::{self, Escape, escape};
use crate::http::vars::Variable;
use crate::settings;
use args::{Pattern, directives};
use bytes::Bytes;
use std::io::Write;
use std::time::Duration;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `hls`
        inherit on: bool = false,
        /// `hls_playlist_valid`
        inherit valid: Rules = Rules { live: Live::Percent(50), master: Duration::from_secs(10) },
        /// `hls_ignore_args`
        inherit ignore_args: Vec<Pattern> = Vec::new(),
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::own(
        "hls",
        HTTP_SERVER_LOCATION,
        Arity::NONE_OR_ONE,
        hls,
        "whether the cache reads playlists and heeds what they say (on, off)",
    ),
    Command::own(
        "hls_playlist_valid",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        playlist_valid,
        "how long a live playlist is kept: percent of its target duration, or a time; and a master playlist (master=time)",
    ),
    Command::own(
        "hls_ignore_args",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        ignore_args,
        "parameters of the query that are not part of the cache's key; a * at the end of a name is any end",
    ),
];

fn hls(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.args.is_empty() {
        return Err(ConfError::new("invalid number of arguments in \"{}\" directive").hint(
            "MP4 files are not packaged here as nginx's commercial edition does; \
             \"hls on;\" makes the cache heed playlists that an upstream makes",
        ));
    }
    let on = flag(d)?;
    b.loc().hls.on.set(on)
}

fn playlist_valid(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (mut live, mut master) = (None, None);
    for arg in &d.args {
        let again = match parameter(arg, "master") {
            Some(value) => master.replace(time(arg, value)?).is_some(),
            None => {
                let value = match arg.strip_suffix('%') {
                    Some(share) => Live::Percent(percent(arg, share)?),
                    None => Live::Time(time(arg, arg)?),
                };
                live.replace(value).is_some()
            }
        };
        if again {
            return Err(values::invalid_parameter(arg).hint("it stands there twice"));
        }
    }
    let default = Rules::default();
    let rules = Rules { live: live.unwrap_or(default.live), master: master.unwrap_or(default.master) };
    b.loc().hls.valid.set(rules)
}

fn percent(arg: &str, share: &str) -> ConfResult<u32> {
    let share = values::number(share).filter(|share| (1..=100).contains(share));
    // The range check has made it fit.
    share.map(|share| share as u32).ok_or_else(|| {
        values::invalid_parameter(arg)
            .hint("a share of the target duration is from 1% to 100%; 50% is the default")
    })
}

fn time(arg: &str, value: &str) -> ConfResult<Duration> {
    values::time(value).filter(|time| !time.is_zero()).ok_or_else(|| {
        values::invalid_parameter(arg)
            .hint("a time that is not zero, as in 1s or 500ms, or a share, as in 50%")
    })
}

fn ignore_args(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    for arg in &d.args {
        let pattern = Pattern::read(arg)?;
        b.loc().hls.ignore_args.edit().push(pattern);
    }
    Ok(())
}

/// How a value is evaluated: with the request's query as it is, or as this function leaves it of another.
pub type Shown<'a> = Option<&'a dyn Fn(&[u8]) -> Option<Bytes>>;

/// The key of a request, where playlists are known: what is ignored of the query is not part of it, and what is
/// asked of a server that can wait always is. `text` evaluates it; a query that it takes from elsewhere than from
/// variables it takes through the function it is given.
pub fn key(rq: &Request, text: impl Fn(Shown<'_>) -> Bytes) -> Key {
    let ignored = |name: &[u8]| args::is_ignored(&rq.loc().hls.ignore_args, name);
    let key = args::evaluated(rq, &ignored, &text);
    // That it is of an answer to HEAD stays its end.
    let (mut key, end) = match key.strip_suffix(HEAD) {
        Some(rest) => (key.slice(..rest.len()), HEAD),
        None => (key, &b""[..]),
    };
    // No path has such a byte: what is added is not what another request has in its path.
    let mut separator = b'\0';
    for pair in args::pairs(&rq.args).filter(|pair| args::is_directive(args::name(pair))) {
        if !args::has_whole(&key, pair) {
            key = [&key[..], &[separator], pair].concat().into();
            separator = b'&';
        }
    }
    Key::new(if end.is_empty() { key } else { [&key[..], end].concat().into() })
}

/// What a request brings along where playlists are known; `key` is its key, `text` as of [`key`].
pub fn of(rq: &Request, key: &Key, text: impl Fn(Shown<'_>) -> Bytes) -> Hls {
    let asked = directives(&rq.args);
    let stream = if args::pairs(&rq.args).any(|pair| args::is_directive(args::name(pair))) {
        let ignored =
            |name: &[u8]| args::is_directive(name) || args::is_ignored(&rq.loc().hls.ignore_args, name);
        key::hash(&args::evaluated(rq, &ignored, &text))
    } else {
        key.hash
    };
    let target = target(rq);
    let path = uri::split(&target, true).map_or_else(|| rq.uri.clone(), |(path, _)| path);
    // Where the key does not tell hosts apart, one host's segments are those of all.
    let in_key = memchr::memmem::find(&key.text.to_ascii_lowercase(), &rq.host).is_some();
    let site = if in_key { rq.host.clone() } else { Bytes::new() };
    let origin = streams::origin(&site, &path);
    let source = Source { stream, site, host: rq.host.clone(), target };
    Hls { rules: *rq.loc().hls.valid, source, asked, origin }
}

/// The URI as the client sent it, whatever it was rewritten to; of a part of a page, the part's.
fn target(rq: &Request) -> Bytes {
    if rq.depth == 0 || rq.pristine {
        return rq.unparsed.clone();
    }
    let mut target = escape(&rq.uri, Escape::Uri);
    if !rq.args.is_empty() {
        target.push(b'?');
        target.extend_from_slice(&rq.args);
    }
    target.into()
}

/// The variables. They are ours; in a log they are `-` where nothing is known.
pub const VARIABLES: &[Variable] = &[
    Variable::own("hls_kind", |rq, _, out| {
        described(rq).is_some_and(|it| out.write_all(it.kind.as_bytes()).is_ok())
    }),
    Variable::own("hls_media_sequence", |rq, _, out| {
        described(rq).and_then(|it| it.sequence).is_some_and(|n| write!(out, "{n}").is_ok())
    }),
    Variable::own("hls_target_duration", |rq, _, out| {
        let target = described(rq).and_then(|it| it.target).map(|target| target.as_millis());
        target.is_some_and(|ms| write!(out, "{}.{:03}", ms / 1000, ms % 1000).is_ok())
    }),
];

/// What is known of what a request asked for.
fn described(rq: &Request) -> Option<Described> {
    let zone = rq.cache_seen.zone.as_ref()?;
    let hls = crate::modules::proxy_cache::hls(rq)?;
    zone.streams.describe(hls.source.stream, &hls.origin)
}

#[cfg(test)]
mod tests;
