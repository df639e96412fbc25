//! nginx's gzip module: compression of responses.

use super::compress::{self, Encoder, Flush, MEMORY, WORTH};
use super::media_types::{self, Types};
use crate::conf::values::{buffers_arg, flag, number_arg, one_of, size_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::date;
use crate::http::filters::Filter;
use crate::http::head::Version;
use crate::http::regex::Regex;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::settings;
use flate2::{Compress, Compression, FlushCompress, Status};
use std::cell::RefCell;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `gzip`
        inherit enable: bool = false,
        /// From 1, fast, to 9, small.
        inherit level: u32 = 1,
        /// Bytes below which a body of known length is left alone.
        inherit min_length: u64 = 20,
        /// The types that are compressed.
        inherit types: Types = Types::html(),
        /// Whether `Vary: Accept-Encoding` is sent.
        inherit vary: bool = false,
        /// The lowest version of requests that get compressed responses.
        inherit http_version: Version = Version::Http11,
        /// What is compressed for a proxy: a set of the bits in [`proxied`].
        inherit proxied: u32 = proxied::OFF,
        /// User agents that get none.
        inherit disable: Disable = Disable { msie6: false, agents: Vec::new() },
    }
}

/// `gzip_disable`
#[derive(Clone, Debug)]
pub struct Disable {
    /// `msie6`
    msie6: bool,
    agents: Vec<Arc<Regex>>,
}

/// The bits of `gzip_proxied`.
#[allow(missing_docs)]
pub mod proxied {
    pub const OFF: u32 = 1;
    pub const EXPIRED: u32 = 2;
    pub const NO_CACHE: u32 = 4;
    pub const NO_STORE: u32 = 8;
    pub const PRIVATE: u32 = 16;
    pub const NO_LAST_MODIFIED: u32 = 32;
    pub const NO_ETAG: u32 = 64;
    pub const AUTH: u32 = 128;
    pub const ANY: u32 = 256;

    /// The words for them.
    pub const WORDS: [(&str, u32); 9] = [
        ("off", OFF),
        ("expired", EXPIRED),
        ("no-cache", NO_CACHE),
        ("no-store", NO_STORE),
        ("private", PRIVATE),
        ("no_last_modified", NO_LAST_MODIFIED),
        ("no_etag", NO_ETAG),
        ("auth", AUTH),
        ("any", ANY),
    ];
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "gzip",
        |b, d| {
            let v = flag(d)?;
            b.loc().gzip.enable.set(v)
        },
        "whether responses are compressed",
    ),
    Command::works("gzip_comp_level", comp_level, "from 1, fast, to 9, small"),
    Command::works(
        "gzip_min_length",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().gzip.min_length.set(v)
        },
        "bytes below which a body is left alone",
    ),
    Command::works(
        "gzip_types",
        |b, d| media_types::read(b, d, |loc| &mut loc.gzip.types),
        "the types that are compressed; text/html always is",
    ),
    Command::works(
        "gzip_vary",
        |b, d| {
            let v = flag(d)?;
            b.loc().gzip.vary.set(v)
        },
        "whether Vary: Accept-Encoding is sent",
    ),
    Command::works(
        "gzip_http_version",
        |b, d| {
            let v = one_of(d, &[("1.0", Version::Http10), ("1.1", Version::Http11)])?;
            b.loc().gzip.http_version.set(v)
        },
        "the lowest version of requests that get compressed responses",
    ),
    Command::works("gzip_proxied", gzip_proxied, "what is compressed for a proxy"),
    Command::works("gzip_disable", disable, "user agents that get nothing compressed"),
    Command::no_effect_of("gzip_buffers", |_, d| buffers_arg(d).map(drop), MEMORY),
    Command::no_effect_of("gzip_hash", |_, d| power_of_two(d, 512..=128 << 10), MEMORY),
    Command::no_effect_of("gzip_window", |_, d| power_of_two(d, 512..=32 << 10), MEMORY),
    Command::no_effect("gzip_no_buffer", MEMORY),
    Command::no_effect_of(
        "postpone_gzipping",
        |_, d| size_arg(d, 0).map(drop),
        "what is at hand is compressed together in any case",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] =
    &[Variable::new("gzip_ratio", |rq, _, out| compress::ratio(rq, "gzip", out))];

fn power_of_two(d: &Directive, range: RangeInclusive<u64>) -> ConfResult<()> {
    let n = size_arg(d, 0)?;
    if !n.is_power_of_two() || !range.contains(&n) {
        let (least, most) = (range.start(), range.end() >> 10);
        return Err(ConfError::new(format!("must be {least}, 1k, 2k and so on, up to {most}k")));
    }
    Ok(())
}

fn comp_level(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let level = number_arg(d, 0)?;
    if !(1..=9).contains(&level) {
        return Err(ConfError::new("value must be between 1 and 9"));
    }
    b.loc().gzip.level.set(level as u32)
}

fn gzip_proxied(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    // A second one adds to the first.
    let set = b.loc().gzip.proxied.is_set();
    let mut bits = if set { *b.loc().gzip.proxied } else { 0 };
    for word in &d.args {
        let Some((_, bit)) = proxied::WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) else {
            return Err(ConfError::new(format!("invalid value \"{word}\"")));
        };
        if bits & bit != 0 {
            b.note(NoteLevel::Warn, format!("duplicate value \"{word}\""));
        }
        bits |= bit;
    }
    b.loc().gzip.proxied.replace(bits);
    Ok(())
}

fn disable(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    for pattern in &d.args {
        if pattern == "msie6" {
            b.loc().gzip.disable.edit().msie6 = true;
        } else {
            let regex = b.regex(pattern, true)?;
            b.loc().gzip.disable.edit().agents.push(regex);
        }
    }
    Ok(())
}

/// Compresses where it is on.
pub const FILTER: Filter =
    Filter { wants: |loc| *loc.gzip.enable, subrequests: false, pure: true, call: apply };

/// Compresses a response where that is configured and the client takes it
/// (ngx_http_gzip_header_filter).
fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().gzip;
    if !compress::is_worth(rq, response, *conf.min_length, &conf.types) {
        return;
    }
    response.vary = true;
    if client_takes(rq, response) {
        compress::apply::<Lease>(rq, response, "gzip", *conf.level);
    }
}

/// Whether the client takes gzip and may have it for this response (ngx_http_gzip_ok).
pub fn client_takes(rq: &Request, response: &Response) -> bool {
    let conf = &rq.loc().gzip;
    let agent = rq.head.get("user-agent");
    compress::client_takes(rq, b"gzip")
        && !(conf.disable.msie6 && agent.is_some_and(is_msie6))
        && rq.version() >= *conf.http_version
        && (rq.head.get("via").is_none() || proxied_takes(rq, response, *conf.proxied))
        && !agent.is_some_and(|agent| conf.disable.agents.iter().any(|regex| regex.is_match(agent)))
}

/// Whether a request that came by a proxy gets this response compressed.
fn proxied_takes(rq: &Request, response: &Response, bits: u32) -> bool {
    let has = |bit| bits & bit != 0;
    if has(proxied::OFF) {
        return false;
    }
    if has(proxied::ANY) || has(proxied::AUTH) && rq.head.get("authorization").is_some() {
        return true;
    }
    if let Some(expires) = response.fields.get("expires") {
        let now = match &response.date {
            Some(date) => date::parse_http_date(date),
            None => Some(date::now()),
        };
        let expired = date::parse_http_date(expires).zip(now).is_some_and(|(at, now)| at < now);
        return has(proxied::EXPIRED) && expired;
    }
    if response.fields.get("cache-control").is_some() {
        let says = |word: &str| {
            let mut words = response.fields.all("cache-control").flat_map(|v| v.split(|b| *b == b','));
            words.any(|w| w.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        return has(proxied::NO_CACHE) && says("no-cache")
            || has(proxied::NO_STORE) && says("no-store")
            || has(proxied::PRIVATE) && says("private");
    }
    !(has(proxied::NO_LAST_MODIFIED) && response.last_modified.is_some()
        || has(proxied::NO_ETAG) && response.etag.is_some())
}

/// Internet Explorer 4 to 6, but for its second service pack.
pub fn is_msie6(agent: &[u8]) -> bool {
    let Some(at) = memchr::memmem::find(agent, b"MSIE ") else { return false };
    match &agent[at + 5..] {
        [b'4' | b'5', b'.', _, ..] => true,
        [b'6', b'.', rest @ ..] if !rest.is_empty() => memchr::memmem::find(rest, b"SV1").is_none(),
        _ => false,
    }
}

impl Encoder for Lease {
    type Settings = u32;

    fn new(level: u32) -> io::Result<Lease> {
        Ok(Lease::take(level))
    }

    fn encode(&mut self, input: &[u8], flush: Flush, out: &mut Vec<u8>) -> io::Result<()> {
        // It is there until it is dropped.
        let Lease(Some(Levelled { encoder, .. })) = self else { return Ok(()) };
        let flush = match flush {
            Flush::None => FlushCompress::None,
            Flush::Sync => FlushCompress::Sync,
            Flush::Finish => FlushCompress::Finish,
        };
        let mut rest = input;
        loop {
            out.reserve(WORTH);
            let before = encoder.total_in();
            let status = encoder.compress_vec(rest, out, flush).map_err(io::Error::other)?;
            rest = &rest[(encoder.total_in() - before) as usize..];
            // Room that is left says that nothing is held back for want of it.
            let all = rest.is_empty() && out.len() < out.capacity();
            if status == Status::StreamEnd || all {
                return Ok(());
            }
        }
    }
}

/// An encoder and its level.
struct Levelled {
    encoder: Compress,
    level: u32,
}

/// An encoder of the worker's, given back when it is dropped: making one clears a quarter of a
/// megabyte.
struct Lease(Option<Levelled>);

thread_local! {
    static IDLE: RefCell<Vec<Levelled>> = const { RefCell::new(Vec::new()) };
}

/// Idle encoders that a worker keeps.
const IDLE_ENCODERS: usize = 8;

impl Lease {
    fn take(level: u32) -> Lease {
        let idle = IDLE.with_borrow_mut(|idle| {
            let at = idle.iter().position(|e| e.level == level)?;
            Some(idle.swap_remove(at))
        });
        let new = || Levelled { encoder: Compress::new_gzip(Compression::new(level), 15), level };
        Lease(Some(idle.unwrap_or_else(new)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut idle) = self.0.take() {
            idle.encoder.reset();
            // A thread that ends keeps nothing.
            let _ = IDLE.try_with(|all| {
                let mut all = all.borrow_mut();
                if all.len() < IDLE_ENCODERS {
                    all.push(idle);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn inflate(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(bytes);
        // What is missing at the end of a flushed part is no error here.
        let _ = decoder.read_to_end(&mut out);
        out
    }

    #[test]
    fn bodies_are_compressed() {
        compress::tests::keeps_the_rules::<Lease>(1, inflate);
        compress::tests::keeps_the_rules::<Lease>(6, inflate);
    }

    #[test]
    fn an_encoder_is_used_again() {
        for _ in 0..3 {
            let mut out = Vec::new();
            let mut encoder = Lease::new(3).unwrap();
            encoder.encode(b"text", Flush::Finish, &mut out).unwrap();
            assert_eq!(inflate(&out), b"text");
        }
        assert_eq!(IDLE.with_borrow(|idle| idle.iter().filter(|e| e.level == 3).count()), 1);
    }
}
