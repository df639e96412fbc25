//! The directives that a level takes.

use super::path::{memory_cache, proxy_cache_path};
use super::predicate::Predicate;
use super::rfc9111;
use super::temporary;
use crate::cache::policy::{IgnoreHeaders, Valid};
use crate::conf::table::{Arity, HTTP_SERVER_LOCATION};
use crate::conf::values::{self, flag, size_arg, time_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Context, Directive, NoteLevel};
use crate::modules::limit_zone::names::{self, Use};
use crate::modules::proxy::store::Keeps;

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("proxy_cache_path", proxy_cache_path, "a cache zone"),
    Command::own(
        "memory_cache",
        Context::HTTP,
        Arity::SOME,
        memory_cache,
        "the memory that all cache zones together may take (size=bytes), and the largest body kept in it (max_object=bytes)",
    ),
    Command::works("proxy_cache", proxy_cache, "the zone in which answers are kept, or off"),
    Command::works("proxy_cache_key", key, "what an answer is kept under"),
    Command::works("proxy_cache_valid", valid, "how long answers live that do not say it"),
    Command::works("proxy_cache_methods", methods, "the methods whose answers are kept"),
    Command::works("proxy_cache_min_uses", min_uses, "the request by which an answer is kept"),
    Command::works(
        "proxy_cache_bypass",
        |b, d| {
            let predicates = predicates(b, d)?;
            b.loc().proxy_cache.bypass.edit().extend(predicates);
            Ok(())
        },
        "when not to answer from the cache",
    ),
    Command::own(
        "proxy_cache_purge",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        |b, d| {
            let predicates = predicates(b, d)?;
            b.loc().proxy_cache.purge.edit().extend(predicates);
            Ok(())
        },
        "when a request purges what is kept under its key, or, if that ends with *, under all that begin so",
    ),
    Command::own(
        "proxy_cache_purge_tags",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        |b, d| {
            for arg in &d.args {
                let tags = b.template(arg)?;
                b.loc().proxy_cache.purge_tags.edit().push(tags);
            }
            Ok(())
        },
        "the tags (Cache-Tag, Surrogate-Key) by which a purge request purges instead of its key",
    ),
    Command::works(
        "proxy_no_cache",
        |b, d| {
            let predicates = predicates(b, d)?;
            b.loc().proxy_cache.no_cache.edit().extend(predicates);
            Ok(())
        },
        "when not to keep an answer",
    ),
    Command::works(
        "proxy_cache_lock",
        |b, d| {
            let v = flag(d)?;
            b.loc().proxy_cache.lock.set(Some(v))
        },
        "one request to the upstream for many alike: so unless it is expressly off",
    ),
    Command::works(
        "proxy_cache_lock_timeout",
        |b, d| {
            let v = time_arg(d, 0)?;
            b.loc().proxy_cache.lock_timeout.set(v)
        },
        "how long to wait for another request's answer",
    ),
    Command::works(
        "proxy_cache_lock_age",
        |b, d| {
            let v = time_arg(d, 0)?;
            b.loc().proxy_cache.lock_age.set(v)
        },
        "how long an answer may take before another request is sent",
    ),
    Command::works("proxy_cache_use_stale", use_stale, "when a stale answer is served"),
    Command::works(
        "proxy_cache_background_update",
        |b, d| {
            let v = flag(d)?;
            b.loc().proxy_cache.background_update.set(v)
        },
        "whether stale answers are updated while they are served",
    ),
    Command::works(
        "proxy_cache_revalidate",
        |b, d| {
            let v = flag(d)?;
            b.loc().proxy_cache.revalidate.set(v)
        },
        "whether stale answers are asked for with their validators",
    ),
    Command::works(
        "proxy_cache_convert_head",
        |b, d| {
            let v = flag(d)?;
            b.loc().proxy_cache.convert_head.set(v)
        },
        "whether HEAD goes upstream as GET",
    ),
    Command::works(
        "proxy_cache_max_range_offset",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().proxy_cache.max_range_offset.set(Some(v))
        },
        "where a range may begin that is answered from the cache",
    ),
    Command::works("proxy_ignore_headers", ignore_headers, "fields of an answer that are not heeded"),
    Command::own(
        "proxy_cache_rfc9111",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        rfc9111::rfc9111,
        "whether RFC 9111 holds where nginx does otherwise: off, responses, on (requests too)",
    ),
    Command::own(
        "proxy_cache_heuristic",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        rfc9111::heuristic,
        "how long answers live that say only when they were changed last (<percent>% [max=<time>])",
    ),
    Command::own(
        "proxy_cache_targeted",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        rfc9111::targeted,
        "fields that hold in place of Cache-Control where they are there, as CDN-Cache-Control (RFC 9213)",
    ),
    Command::own(
        "proxy_cache_debug",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        super::debug::directive,
        "which clients are told how the cache answered, in Cache-Status and X-Cache (off, all, networks)",
    ),
    Command::works(
        "proxy_max_temp_file_size",
        temporary::max_temp_file_size,
        "bytes in a temporary file of an answer that is too large to be kept; 0: none",
    ),
    Command::works(
        "proxy_temp_file_write_size",
        temporary::temp_file_write_size,
        "bytes of an answer that are gathered before they are written to a file",
    ),
];

fn proxy_cache(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let zone = match d.arg(0) {
        "off" => None,
        "" => return Err(ConfError::new("zero size shared memory zone \"\"")),
        name => {
            crate::modules::proxy::store::choose(b, Keeps::Cache)?;
            let zone = b.template(name)?;
            if zone.constant().is_some() {
                names::zone(b, name, Use::Cache, 0)?;
            }
            Some((zone, d.at.clone()))
        }
    };
    b.loc().proxy_cache.zone.set(zone)
}

fn key(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let key = b.template(d.arg(0))?;
    b.loc().proxy_cache.key.set(Some(key))
}

/// `[code …|any] time`; without codes 200, 301 and 302.
fn valid(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let Some((last, codes)) = d.args.split_last() else { return Err(values::invalid_value()) };
    let time =
        values::seconds(last).ok_or_else(|| ConfError::new(format!("invalid time value \"{last}\"")))?;
    let statuses: Vec<Option<u16>> = match codes {
        [] => vec![Some(200), Some(301), Some(302)],
        codes => codes.iter().map(|code| status(code)).collect::<ConfResult<_>>()?,
    };
    b.loc().proxy_cache.valid.edit().extend(statuses.into_iter().map(|status| Valid { status, time }));
    Ok(())
}

fn status(code: &str) -> ConfResult<Option<u16>> {
    if code == "any" {
        return Ok(None);
    }
    let code_number = values::number(code).filter(|n| (100..=599).contains(n));
    // The range check has made it fit.
    code_number.map(|n| Some(n as u16)).ok_or_else(|| ConfError::new(format!("invalid status \"{code}\"")))
}

fn methods(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    for method in &d.args {
        // GET and HEAD are always kept.
        match method.to_ascii_uppercase().as_str() {
            "GET" | "HEAD" => {
                b.loc().proxy_cache.methods.edit();
            }
            "POST" => b.loc().proxy_cache.methods.edit().post = true,
            _ => return Err(ConfError::new(format!("invalid value \"{method}\""))),
        }
    }
    Ok(())
}

fn min_uses(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let n = values::number(d.arg(0)).ok_or_else(|| ConfError::new("\"{}\" directive invalid number"))?;
    b.loc().proxy_cache.min_uses.set(u32::try_from(n).unwrap_or(u32::MAX))
}

fn predicates(b: &mut Builder, d: &Directive) -> ConfResult<Vec<Predicate>> {
    d.args.iter().map(|text| Predicate::compile(text, b)).collect()
}

fn use_stale(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    for word in &d.args {
        let (stale, off) = b.loc().proxy_cache.use_stale.edit();
        let again = match word.to_ascii_lowercase().as_str() {
            "error" => std::mem::replace(&mut stale.error, true),
            "timeout" => std::mem::replace(&mut stale.timeout, true),
            "invalid_header" => std::mem::replace(&mut stale.invalid_header, true),
            "updating" => std::mem::replace(&mut stale.updating, true),
            "off" => std::mem::replace(off, true),
            // A word of the list that nginx has for this and for proxy_next_upstream; it says nothing here.
            "non_idempotent" => false,
            other => {
                let code = other.strip_prefix("http_").and_then(|code| code.parse().ok());
                match code {
                    Some(code @ (500 | 502 | 503 | 504 | 403 | 404 | 429)) => {
                        let again = stale.statuses.contains(&code);
                        stale.statuses.push(code);
                        again
                    }
                    _ => return Err(ConfError::new(format!("invalid value \"{word}\""))),
                }
            }
        };
        warn_if(again, word, b);
    }
    Ok(())
}

fn ignore_headers(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    for name in &d.args {
        let ignore: &mut IgnoreHeaders = b.loc().proxy_cache.ignore_headers.edit();
        let flag = match name.to_ascii_lowercase().as_str() {
            "x-accel-redirect" => &mut ignore.x_accel_redirect,
            "x-accel-expires" => &mut ignore.x_accel_expires,
            "x-accel-limit-rate" => &mut ignore.x_accel_limit_rate,
            "x-accel-buffering" => &mut ignore.x_accel_buffering,
            "x-accel-charset" => &mut ignore.x_accel_charset,
            "expires" => &mut ignore.expires,
            "cache-control" => &mut ignore.cache_control,
            "set-cookie" => &mut ignore.set_cookie,
            "vary" => &mut ignore.vary,
            _ => return Err(ConfError::new(format!("invalid value \"{name}\""))),
        };
        let again = std::mem::replace(flag, true);
        warn_if(again, name, b);
    }
    Ok(())
}

fn warn_if(again: bool, word: &str, b: &mut Builder) {
    if again {
        b.note(NoteLevel::Warn, format!("duplicate value \"{word}\""));
    }
}
