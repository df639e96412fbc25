//! `server`, `server_name`, `location`, `limit_except`

use crate::conf::{Builder, ConfError, ConfResult, Context, Directive, LevelKind};
use crate::http::listens::ServerName;
use crate::http::router::{Found, Match};

/// A virtual server in `http`; in an `upstream`, one of its servers.
pub fn server(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if b.context == Context::UPSTREAM { crate::modules::upstream::server(b, d) } else { b.enter_server(d) }
}

/// The names of a server.
pub fn server_name(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    for name in &d.args {
        let bytes = name.as_bytes();
        let wrong = match bytes.first() {
            Some(b'*') => bytes.len() < 3 || bytes[1] != b'.',
            Some(b'.') => bytes.len() < 2,
            _ => false,
        };
        if wrong {
            return Err(ConfError::new(format!("server name \"{name}\" is invalid")));
        }
        if name.contains('/') {
            let message = format!("server name \"{name}\" has suspicious symbols");
            b.note(crate::conf::NoteLevel::Warn, message);
        }
        let (shown, name) = if let Some(pattern) = name.strip_prefix('~') {
            if pattern.is_empty() {
                return Err(ConfError::new(format!("empty regex in server name \"{name}\"")));
            }
            // Host names have no case, so a pattern without capitals is matched against lower case.
            let caseless = pattern.bytes().any(|c| c.is_ascii_uppercase());
            (name.clone(), ServerName::Regex(b.regex(pattern, caseless)?))
        } else if name == "$hostname" {
            let host = nix::unistd::gethostname()
                .map_err(|e| ConfError::new(format!("gethostname() failed: {e}")))?;
            let host = host.to_string_lossy().to_ascii_lowercase();
            (host.clone(), ServerName::Text(host))
        } else {
            let lower = name.to_ascii_lowercase();
            (lower.strip_prefix('.').unwrap_or(&lower).to_string(), ServerName::Text(lower))
        };
        let core = &mut b.srv().core;
        if core.names.is_empty() {
            core.name.0 = shown;
        }
        core.names.push(name);
    }
    Ok(())
}

/// A part of the URIs.
pub fn location(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (modifier, name) = split_name(d)?;
    let by = match modifier {
        "=" => Match::Exact(name.as_bytes().to_vec()),
        "^~" => Match::Prefix { path: name.as_bytes().to_vec(), no_regex: true },
        "~" => Match::Regex(b.regex(name, false)?),
        "~*" => Match::Regex(b.regex(name, true)?),
        "@" => Match::Named(name.as_bytes().to_vec()),
        _ => Match::Prefix { path: name.as_bytes().to_vec(), no_regex: false },
    };
    check_nesting(b, modifier, name, &by)?;
    if !b.loc().core.found.0.is_first(&by) {
        return Err(ConfError::new(format!("duplicate location \"{}\"", d.args.join(" "))));
    }
    let level = b.add_level(LevelKind::Location(d.args.join(" ")), None);
    let core = &mut b.levels[level].conf.core;
    core.name.0 = name.as_bytes().to_vec();
    core.is_regex.0 = matches!(by, Match::Regex(_));
    core.is_named.0 = matches!(by, Match::Named(_));
    core.is_exact.0 = matches!(by, Match::Exact(_));
    let server = b.server();
    b.enter(d, Context::LOCATION, level, server)?;
    let core = &b.levels[level].conf.core;
    let auto_redirect = core.content.is_some() && *core.content_redirects && name.ends_with('/');
    b.loc().core.found.0.add(Found { by, level, auto_redirect });
    Ok(())
}

/// The modifier and the name, which nginx allows to stand together (`=/x`, `~\.php$`, `@x`).
fn split_name(d: &Directive) -> ConfResult<(&str, &str)> {
    if d.args.len() == 2 {
        let modifier = d.arg(0);
        if !matches!(modifier, "=" | "^~" | "~" | "~*") {
            return Err(ConfError::new(format!("invalid location modifier \"{modifier}\"")));
        }
        return Ok((modifier, d.arg(1)));
    }
    let name = d.arg(0);
    for modifier in ["=", "^~", "~*", "~", "@"] {
        if let Some(rest) = name.strip_prefix(modifier) {
            return Ok((modifier, rest));
        }
    }
    Ok(("", name))
}

fn check_nesting(b: &mut Builder, modifier: &str, name: &str, by: &Match) -> ConfResult<()> {
    if b.context != Context::LOCATION {
        return Ok(());
    }
    let outer = &b.loc().core;
    let outer_name = String::from_utf8_lossy(&outer.name).into_owned();
    if *outer.is_exact {
        return Err(ConfError::new(format!(
            "location \"{name}\" cannot be inside the exact location \"{outer_name}\""
        )));
    }
    if *outer.is_named {
        return Err(ConfError::new(format!(
            "location \"{name}\" cannot be inside the named location \"@{outer_name}\""
        )));
    }
    if modifier == "@" {
        return Err(ConfError::new(format!("named location \"@{name}\" can be on the server level only")));
    }
    if !matches!(by, Match::Regex(_)) && !*outer.is_regex && !name.starts_with(&outer_name) {
        return Err(ConfError::new(format!("location \"{name}\" is outside location \"{outer_name}\"")));
    }
    Ok(())
}

/// Access rules for the methods that are not named.
pub fn limit_except(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if b.loc().core.limit_except.is_some() {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    let mut free: Vec<String> = d.args.iter().map(|m| m.to_ascii_uppercase()).collect();
    const KNOWN: [&str; 15] = [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "MKCOL",
        "COPY",
        "MOVE",
        "OPTIONS",
        "PROPFIND",
        "PROPPATCH",
        "LOCK",
        "UNLOCK",
        "PATCH",
        "TRACE",
    ];
    if let Some(bad) = free.iter().find(|m| !KNOWN.contains(&m.as_str())) {
        return Err(ConfError::new(format!("invalid method \"{bad}\"")));
    }
    // To allow GET is to allow HEAD.
    if free.iter().any(|m| m == "GET") {
        free.push("HEAD".into());
    }
    let level = b.add_level(LevelKind::LimitExcept, None);
    b.loc().core.limit_except.0 = Some((free.into(), level));
    let server = b.server();
    b.enter(d, Context::LIMIT_EXCEPT, level, server)
}
