//! Freshness by RFC 9111 where nginx does otherwise: `proxy_cache_rfc9111`, `proxy_cache_heuristic` and
//! `proxy_cache_targeted`. Without the first the cache does what nginx's does, and the others do nothing.

use super::Conf;
use crate::cache::policy::{Heuristic, Policy, Rfc9111};
use crate::cache::wishes;
use crate::conf::build::LevelId;
use crate::conf::values;
use crate::conf::{Builder, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::head::Head;
use std::time::Duration;

/// The most a heuristic lifetime is unless `max` says otherwise: a day.
const MOST: Duration = Duration::from_secs(86_400);

/// Reads `proxy_cache_rfc9111 off | responses | on`.
pub fn rfc9111(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let how = match d.arg(0) {
        "off" => Rfc9111::Off,
        "responses" => Rfc9111::Responses,
        "on" => Rfc9111::On,
        other => {
            return Err(ConfError::new(format!("invalid value \"{other}\"")).hint(
                "\"off\" (as nginx), \"responses\" (what answers say), \"on\" (also what requests say)",
            ));
        }
    };
    b.loc().proxy_cache.rfc9111.set(how)
}

/// Reads `proxy_cache_heuristic off | <percent>% [max=<time>]`.
pub fn heuristic(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let invalid = |text: &str| {
        ConfError::new(format!("invalid parameter \"{text}\"")).hint(
            "\"off\", or a share of the time since the last change and the most it comes to: 10% max=1h",
        )
    };
    let heuristic = match d.args.as_slice() {
        [one] if one == "off" => None,
        [share, rest @ ..] if rest.len() < 2 => {
            let percent = share.strip_suffix('%').and_then(values::number);
            let percent = percent.filter(|n| (1..=100).contains(n)).ok_or_else(|| invalid(share))?;
            let max = match rest.first() {
                None => MOST,
                Some(max) => max.strip_prefix("max=").and_then(values::time).ok_or_else(|| invalid(max))?,
            };
            Some(Heuristic { percent, max })
        }
        list => return Err(invalid(&list.join(" "))),
    };
    b.loc().proxy_cache.heuristic.set(heuristic)
}

/// Reads `proxy_cache_targeted off | <field> …`.
pub fn targeted(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.args.iter().any(|name| name == "off") && d.args.len() > 1 {
        return Err(ConfError::new("\"off\" stands alone in \"{}\""));
    }
    let mut names: Vec<Box<str>> = Vec::new();
    for name in d.args.iter().filter(|name| *name != "off") {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err(ConfError::new(format!("invalid field name \"{name}\""))
                .hint("names of fields such as CDN-Cache-Control, the first before the others"));
        }
        let name: Box<str> = name.to_ascii_lowercase().into();
        if matches!(&*name, "cache-control" | "expires") {
            return Err(ConfError::new(format!("\"{name}\" is no targeted field"))
                .hint("it is heeded where none of the fields named here is there"));
        }
        if names.contains(&name) {
            b.note(NoteLevel::Warn, format!("duplicate value \"{name}\""));
        } else {
            names.push(name);
        }
    }
    b.loc().proxy_cache.targeted.set(names)
}

/// What these directives make of a level's policy.
pub fn apply(conf: &Conf, policy: &mut Policy) {
    policy.rfc9111 = *conf.rfc9111;
    if policy.rfc9111 == Rfc9111::Off {
        return;
    }
    policy.heuristic = *conf.heuristic;
    policy.targeted = conf.targeted.to_vec();
    // Validation is the RFC's way to learn that what is stale is still right (4.3).
    policy.revalidate = *conf.revalidate || !conf.revalidate.is_set();
}

/// What a level whose cache keeps to the RFC changes in the proxy's settings: an upstream's `Date` is sent
/// on, for it is what a client's cache counts an answer's age and `Expires` from.
pub fn pass_date(b: &mut Builder, level: LevelId) {
    let conf = &mut b.levels[level].conf;
    if *conf.proxy_cache.rfc9111 != Rfc9111::Off && !conf.proxy.pass_headers.iter().any(|n| n == "date") {
        conf.proxy.pass_headers.edit().push("date".into());
    }
}

/// Whether what a request says may make what is kept not good enough for it.
pub fn asks(policy: &Policy, asked: &Head) -> bool {
    policy.rfc9111 == Rfc9111::On && wishes::any(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::build::{Config, load_text};

    fn load(directives: &str) -> ConfResult<Config> {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "events {{ }}\nhttp {{ proxy_cache_path c keys_zone=z:1m; proxy_cache z; server {{ listen 127.0.0.1:1;\n{directives}\n}} }}\n"
        );
        load_text(dir.path(), &text)
    }

    fn policy(directives: &str) -> Policy {
        let config = load(directives).unwrap();
        let http = config.http.as_ref().unwrap();
        let conf = &http.levels[http.servers[0].level].conf.proxy_cache;
        (*conf.active.as_ref().unwrap().policy).clone()
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("proxy_cache_rfc9111 yes;", "invalid value \"yes\""),
            (
                "proxy_cache_rfc9111 on; proxy_cache_rfc9111 on;",
                "\"proxy_cache_rfc9111\" directive is duplicate",
            ),
            ("proxy_cache_heuristic 10;", "invalid parameter \"10\""),
            ("proxy_cache_heuristic 0%;", "invalid parameter \"0%\""),
            ("proxy_cache_heuristic 101%;", "invalid parameter \"101%\""),
            ("proxy_cache_heuristic 10% max=x;", "invalid parameter \"max=x\""),
            ("proxy_cache_heuristic 10% least=1h;", "invalid parameter \"least=1h\""),
            ("proxy_cache_heuristic 10% max=1h max=1h;", "invalid parameter \"10% max=1h max=1h\""),
            ("proxy_cache_targeted 'a b';", "invalid field name \"a b\""),
            ("proxy_cache_targeted Cache-Control;", "\"cache-control\" is no targeted field"),
            ("proxy_cache_targeted off x;", "\"off\" stands alone in \"proxy_cache_targeted\""),
        ] {
            let error = load(text).err().unwrap_or_else(|| panic!("{text} loads"));
            assert_eq!(error.message, wanted, "{text}");
            assert_eq!(error.at.map(|at| at.line), Some(3), "{text}");
        }
    }

    #[test]
    fn without_the_first_the_others_do_nothing() {
        let policy = policy("proxy_cache_heuristic 10%; proxy_cache_targeted CDN-Cache-Control;");
        assert_eq!((policy.rfc9111, policy.heuristic, policy.revalidate), (Rfc9111::Off, None, false));
        assert!(policy.targeted.is_empty());
    }

    #[test]
    fn a_level_has_what_it_says() {
        let policy = policy(
            "proxy_cache_rfc9111 responses; proxy_cache_heuristic 10% max=2h;
             proxy_cache_targeted Edge-Cache-Control CDN-Cache-Control;",
        );
        assert_eq!(policy.rfc9111, Rfc9111::Responses);
        assert_eq!(policy.heuristic, Some(Heuristic { percent: 10, max: Duration::from_secs(7200) }));
        assert_eq!(policy.targeted, [Box::from("edge-cache-control"), Box::from("cdn-cache-control")]);
        assert!(policy.revalidate);
    }

    #[test]
    fn validation_can_be_switched_off_and_a_day_is_the_most() {
        let policy = policy("proxy_cache_rfc9111 on; proxy_cache_revalidate off; proxy_cache_heuristic 50%;");
        assert!(!policy.revalidate);
        assert_eq!(policy.heuristic, Some(Heuristic { percent: 50, max: MOST }));
    }
}
