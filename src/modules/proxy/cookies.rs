//! The upstream's cookies as the client gets them: `proxy_cookie_domain`, `proxy_cookie_path`,
//! `proxy_cookie_flags`.

use super::Conf;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::Request;
use crate::http::regex::Regex;
use crate::http::template::Template;
use crate::observe::error_log::Level;
use crate::observe::request_log;
use bytes::Bytes;
use std::sync::Arc;

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("proxy_cookie_domain", domain, "the domain of the upstream's cookies"),
    Command::works("proxy_cookie_path", path, "the path of the upstream's cookies"),
    Command::works("proxy_cookie_flags", flags, "flags that the upstream's cookies get or lose"),
];

/// What a rule is about: a domain, the beginning of a path, the name of a cookie.
#[derive(Clone, Debug)]
pub enum Subject {
    /// This text.
    Text(Template),
    /// What this expression matches.
    Pattern(Arc<Regex>),
}

/// `proxy_cookie_domain` or `proxy_cookie_path`: what is replaced, and by what.
pub type Rule = (Subject, Template);

/// `proxy_cookie_flags`: which cookies, and the flags.
pub type FlagRule = (Subject, Vec<Template>);

fn domain(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if is_off(d)? {
        b.loc().proxy.cookie_domains.edit().clear();
        return Ok(());
    }
    let subject = match d.arg(0).strip_prefix('~') {
        Some(pattern) => Subject::Pattern(b.regex(pattern, true)?),
        // A dot before a domain says nothing.
        None => Subject::Text(b.template(without_dot(d.arg(0)))?),
    };
    let by = b.template(without_dot(d.arg(1)))?;
    b.loc().proxy.cookie_domains.edit().push((subject, by));
    Ok(())
}

fn path(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if is_off(d)? {
        b.loc().proxy.cookie_paths.edit().clear();
        return Ok(());
    }
    let subject = match d.arg(0).strip_prefix('~') {
        Some(pattern) => {
            let caseless = pattern.strip_prefix('*');
            Subject::Pattern(b.regex(caseless.unwrap_or(pattern), caseless.is_some())?)
        }
        None => Subject::Text(b.template(d.arg(0))?),
    };
    let by = b.template(d.arg(1))?;
    b.loc().proxy.cookie_paths.edit().push((subject, by));
    Ok(())
}

fn flags(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if is_off(d)? {
        b.loc().proxy.cookie_flags.edit().clear();
        return Ok(());
    }
    let subject = match d.arg(0).strip_prefix('~') {
        Some(pattern) => Subject::Pattern(b.regex(pattern, true)?),
        None => Subject::Text(b.template(d.arg(0))?),
    };
    let mut list = Vec::with_capacity(d.args.len() - 1);
    for flag in &d.args[1..] {
        if !flag.contains('$') && Flag::of(flag.as_bytes()).is_none() {
            // nginx finds out with the first cookie.
            b.note(NoteLevel::Warn, format!("invalid proxy_cookie_flags flag \"{flag}\""));
        }
        list.push(b.template(flag)?);
    }
    b.loc().proxy.cookie_flags.edit().push((subject, list));
    Ok(())
}

fn is_off(d: &Directive) -> ConfResult<bool> {
    match (d.args.len(), d.arg(0)) {
        (1, "off") => Ok(true),
        (1, other) => Err(ConfError::new(format!("invalid parameter \"{other}\""))),
        _ => Ok(false),
    }
}

fn without_dot(domain: &str) -> &str {
    domain.strip_prefix('.').unwrap_or(domain)
}

/// A flag of `proxy_cookie_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    Secure(bool),
    HttpOnly(bool),
    /// With its value, or taken away.
    SameSite(Option<&'static str>),
}

/// The flags' names, in the order in which they are added.
const KINDS: [&str; 3] = ["Secure", "HttpOnly", "SameSite"];

impl Flag {
    fn kind(self) -> &'static str {
        match self {
            Flag::Secure(_) => KINDS[0],
            Flag::HttpOnly(_) => KINDS[1],
            Flag::SameSite(_) => KINDS[2],
        }
    }

    fn of(text: &[u8]) -> Option<Flag> {
        Some(match text.to_ascii_lowercase().as_slice() {
            b"secure" => Flag::Secure(true),
            b"nosecure" => Flag::Secure(false),
            b"httponly" => Flag::HttpOnly(true),
            b"nohttponly" => Flag::HttpOnly(false),
            b"samesite=strict" => Flag::SameSite(Some("Strict")),
            b"samesite=lax" => Flag::SameSite(Some("Lax")),
            b"samesite=none" => Flag::SameSite(Some("None")),
            b"nosamesite" => Flag::SameSite(None),
            _ => return None,
        })
    }
}

/// An attribute of a cookie; the first is its name and value.
struct Attribute {
    name: Bytes,
    value: Option<Bytes>,
}

/// A `Set-Cookie` as the rules make it (ngx_http_proxy_rewrite_set_cookie).
pub fn rewrite(rq: &Request, conf: &Conf, cookie: &Bytes) -> Bytes {
    if conf.cookie_domains.is_empty() && conf.cookie_paths.is_empty() && conf.cookie_flags.is_empty() {
        return cookie.clone();
    }
    let mut attributes = parse(cookie);
    let mut changed = false;
    for attribute in attributes.iter_mut().skip(1) {
        let Some(value) = &attribute.value else { continue };
        let replaced = if attribute.name.eq_ignore_ascii_case(b"domain") {
            replace_domain(rq, &conf.cookie_domains, value)
        } else if attribute.name.eq_ignore_ascii_case(b"path") {
            replace_path(rq, &conf.cookie_paths, value)
        } else {
            None
        };
        if let Some(value) = replaced {
            attribute.value = Some(value);
            changed = true;
        }
    }
    // What has no value is no cookie.
    let name = Some(&attributes[0]).filter(|a| a.value.is_some()).map(|a| a.name.clone());
    let rule = name.and_then(|name| conf.cookie_flags.iter().find(|(of, _)| names(rq, of, &name)));
    if let Some((_, flags)) = rule {
        let flags: Vec<Flag> = flags.iter().filter_map(|flag| read(rq, flag)).collect();
        for kind in KINDS {
            // Of two that contradict each other the later holds.
            if let Some(flag) = flags.iter().rev().find(|f| f.kind() == kind) {
                apply(*flag, &mut attributes);
            }
        }
        changed = true;
    }
    if changed { join(&attributes) } else { cookie.clone() }
}

fn parse(cookie: &Bytes) -> Vec<Attribute> {
    let part = |text: &[u8]| cookie.slice_ref(text);
    let attribute = |text: &[u8]| match memchr::memchr(b'=', text) {
        Some(at) => Attribute {
            name: part(text[..at].trim_ascii_end()),
            value: Some(part(text[at + 1..].trim_ascii_start())),
        },
        None => Attribute { name: part(text), value: None },
    };
    cookie.split(|b| *b == b';').map(|text| attribute(text.trim_ascii())).collect()
}

fn join(attributes: &[Attribute]) -> Bytes {
    let mut out = Vec::new();
    for (i, attribute) in attributes.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(&attribute.name);
        if let Some(value) = &attribute.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    out.into()
}

fn replace_domain(rq: &Request, rules: &[Rule], value: &Bytes) -> Option<Bytes> {
    let bare = value.strip_prefix(b".").unwrap_or(value);
    rules.iter().find_map(|(of, by)| {
        let fits = match of {
            Subject::Text(text) => text.eval(rq).eq_ignore_ascii_case(bare),
            Subject::Pattern(regex) => regex.capture(rq, value),
        };
        // The dot before what was compared stays.
        let lead = match of {
            Subject::Text(_) => &value[..value.len() - bare.len()],
            Subject::Pattern(_) => b"",
        };
        fits.then(|| Bytes::from([lead, &by.eval(rq)].concat()))
    })
}

fn replace_path(rq: &Request, rules: &[Rule], value: &Bytes) -> Option<Bytes> {
    rules.iter().find_map(|(of, by)| match of {
        Subject::Text(text) => {
            let rest = value.strip_prefix(&text.eval(rq)[..])?;
            Some([&by.eval(rq)[..], rest].concat().into())
        }
        Subject::Pattern(regex) => regex.capture(rq, value).then(|| by.eval(rq)),
    })
}

fn names(rq: &Request, subject: &Subject, name: &[u8]) -> bool {
    match subject {
        Subject::Text(text) => text.eval(rq).eq_ignore_ascii_case(name),
        Subject::Pattern(regex) => regex.capture(rq, name),
    }
}

fn read(rq: &Request, flag: &Template) -> Option<Flag> {
    let text = flag.eval(rq);
    let flag = Flag::of(&text);
    if flag.is_none() && !text.is_empty() {
        let text = String::from_utf8_lossy(&text);
        request_log(rq, Level::Error, format_args!("invalid proxy_cookie_flags flag \"{text}\""));
    }
    flag
}

fn apply(flag: Flag, attributes: &mut Vec<Attribute>) {
    let (set, value) = match flag {
        Flag::Secure(set) | Flag::HttpOnly(set) => (set, None),
        Flag::SameSite(value) => (value.is_some(), value.map(|v| Bytes::from_static(v.as_bytes()))),
    };
    let name = flag.kind();
    let is = |a: &Attribute| a.name.eq_ignore_ascii_case(name.as_bytes());
    // The first attribute is the cookie itself, whatever it is called.
    let Some(at) = attributes.iter().skip(1).position(is).map(|at| at + 1) else {
        if set {
            attributes.push(Attribute { name: Bytes::from_static(name.as_bytes()), value });
        }
        return;
    };
    if !set {
        let mut index = 0..;
        attributes.retain(|a| index.next() == Some(0) || !is(a));
    } else if value.is_some() {
        attributes[at].value = value;
    }
}
