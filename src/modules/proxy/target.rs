//! `proxy_pass`: where a request goes, and with which URI.

use super::Redirect;
use crate::conf::{Builder, ConfError, ConfResult, Directive, LevelKind};
use crate::http::Request;
use crate::http::template::Template;
use crate::http::uri::{Escape, escape_into, needs_escape};
use crate::modules::upstream;
use crate::upstream::group::{Group, PeerAddr};
use crate::upstream::{Failure, FailureKind};
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A `proxy_pass`.
#[derive(Debug)]
pub enum Pass {
    /// Without variables.
    Fixed {
        /// Whether TLS is spoken.
        tls: bool,
        /// Host and port as written; `$proxy_host`.
        authority: Bytes,
        /// The port.
        port: u16,
        /// The group, an index.
        group: usize,
        /// The URI, when there is one.
        uri: Option<Bytes>,
    },
    /// With variables: evaluated for each request.
    Variable(Template),
}

/// Where one request goes.
#[derive(Debug)]
pub struct Target {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// `$proxy_host`
    pub authority: Bytes,
    /// `$proxy_port`
    pub port: u16,
    /// The request target.
    pub uri: Bytes,
}

/// Reads a `proxy_pass`.
pub fn proxy_pass(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if b.loc().proxy.pass.is_some() || b.loc().core.content.is_some() {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    let url = d.arg(0);
    let pass = if url.contains('$') { Pass::Variable(b.template(url)?) } else { fixed(b, url)? };
    let level = b.level();
    let without_prefix = {
        let (kind, core) = (&b.levels[level].kind, &b.levels[level].conf.core);
        let outer_regex = b.levels[level].outer.is_some_and(|o| *b.levels[o].conf.core.is_regex);
        matches!(kind, LevelKind::If | LevelKind::LimitExcept)
            || *core.is_regex
            || *core.is_named
            || outer_regex
    };
    if without_prefix && matches!(&pass, Pass::Fixed { uri: Some(_), .. }) {
        return Err(ConfError::new(
            "\"proxy_pass\" cannot have URI part in location given by regular expression, \
             or inside named location, or inside \"if\" statement, or inside \"limit_except\" block",
        ));
    }
    let loc = b.loc();
    loc.proxy.pass.0 = Some(Arc::new(pass));
    loc.core.content.0 = Some(super::handle);
    loc.core.content_redirects.0 = true;
    Ok(())
}

fn fixed(b: &mut Builder, url: &str) -> ConfResult<Pass> {
    let (tls, rest) = scheme(url).ok_or_else(|| ConfError::new("invalid URL prefix"))?;
    let default_port = if tls { 443 } else { 80 };
    let (authority, uri) = split(rest);
    if authority.is_empty() {
        return Err(ConfError::new(format!("no host in upstream \"{rest}\"")));
    }
    let port = upstream::split_host(authority, default_port).map_or(default_port, |(_, port)| port);
    let authority_text = authority.to_string();
    let pass = Pass::Fixed {
        tls,
        authority: Bytes::copy_from_slice(authority.as_bytes()),
        port,
        group: usize::MAX,
        uri: uri.map(|u| Bytes::copy_from_slice(u.as_bytes())),
    };
    // The group may be declared further down; hosts are looked up once all groups are known.
    let level = b.level();
    b.later(move |b| {
        let group = upstream::implied(b, &authority_text, default_port)?;
        if let Some(pass) = b.levels[level].conf.proxy.pass.0.as_mut().and_then(Arc::get_mut)
            && let Pass::Fixed { group: slot, .. } = pass
        {
            *slot = group;
        }
        Ok(())
    });
    Ok(pass)
}

fn scheme(url: &str) -> Option<(bool, &str)> {
    let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    if lower.starts_with("https://") {
        Some((true, &url[8..]))
    } else if lower.starts_with("http://") {
        Some((false, &url[7..]))
    } else {
        None
    }
}

/// Authority and URI; of a unix socket the URI begins after a colon.
fn split(rest: &str) -> (&str, Option<&str>) {
    if let Some(path) = rest.strip_prefix("unix:") {
        return match path.find(':') {
            Some(at) => (&rest[..5 + at], Some(&path[at + 1..]).filter(|u| !u.is_empty())),
            None => (rest, None),
        };
    }
    match rest.find(['/', '?']) {
        Some(at) => (&rest[..at], Some(&rest[at..])),
        None => (rest, None),
    }
}

impl Pass {
    /// Whether TLS is spoken, as far as is known before a request.
    pub fn is_tls(&self) -> bool {
        match self {
            Pass::Fixed { tls, .. } => *tls,
            Pass::Variable(url) => url.source.starts_with("https://"),
        }
    }

    /// The rule that `proxy_redirect default` stands for; there is none where variables stand.
    pub fn default_redirect(&self, location: &[u8]) -> Option<Redirect> {
        let Pass::Fixed { tls, authority, uri, .. } = self else { return None };
        let scheme = if *tls { "https" } else { "http" };
        let authority = String::from_utf8_lossy(authority);
        let (from, to) = match uri {
            Some(uri) => (
                format!("{scheme}://{authority}{}", String::from_utf8_lossy(uri)),
                String::from_utf8_lossy(location).into_owned(),
            ),
            None => (format!("{scheme}://{authority}/"), "/".to_string()),
        };
        Some(Redirect::Prefix(Template::literal(&from), Template::literal(&to)))
    }

    /// Where a request goes, where no variable has a say in it.
    pub fn fixed_target(&self, rq: &Request) -> Option<Target> {
        let Pass::Fixed { tls, authority, port, uri, .. } = self else { return None };
        let uri = request_target(rq, uri.as_ref());
        Some(Target { tls: *tls, authority: authority.clone(), port: *port, uri })
    }

    /// The same, with who is asked.
    pub fn fixed(&self, rq: &Request) -> Result<Option<(Target, Arc<Group>)>, Failure> {
        let (Pass::Fixed { group, .. }, Some(target)) = (self, self.fixed_target(rq)) else {
            return Ok(None);
        };
        // `proxy_pass` saw to it that there is one.
        let group = rq.generation().runtime.upstream.groups.get(*group).ok_or_else(internal)?;
        Ok(Some((target, group.clone())))
    }
}

/// Where this request goes as its variables say, and who is asked; `None` after an error that was logged.
pub async fn resolve(rq: &mut Request) -> Result<Option<(Target, Arc<Group>)>, Failure> {
    let Some(Pass::Variable(url)) = rq.loc().proxy.pass.as_deref() else { return Err(internal()) };
    let url = url.eval(rq);
    // A path may have any bytes; what stands before it is text.
    let valid = std::str::from_utf8(&url).map_or_else(|e| e.valid_up_to(), str::len);
    let text = String::from_utf8_lossy(&url[..valid]).into_owned();
    let Some((tls, rest)) = scheme(&text) else {
        crate::observe::request_error(rq, format_args!("invalid URL prefix in \"{text}\""));
        return Err(internal());
    };
    let default_port = if tls { 443 } else { 80 };
    let (authority, uri) = split(rest);
    let uri = uri.map(|uri| url.slice(valid - uri.len()..));
    if uri.is_none() && valid < url.len() {
        crate::observe::request_error(rq, format_args!("invalid host in upstream \"{rest}\""));
        return Err(internal());
    }
    let Some(group) = dynamic_group(rq, authority, default_port).await? else { return Ok(None) };
    let port = upstream::split_host(authority, default_port).map_or(default_port, |(_, p)| p);
    let uri = match uri {
        // What variables gave is used as it is.
        Some(uri) if uri.starts_with(b"?") => [b"/", &uri[..]].concat().into(),
        Some(uri) => uri,
        None => request_target(rq, None),
    };
    let authority = Bytes::copy_from_slice(authority.as_bytes());
    Ok(Some((Target { tls, authority, port, uri }, group)))
}

fn internal() -> Failure {
    Failure { status: 500, kind: FailureKind::Internal, message: String::new(), attempts: Vec::new() }
}

/// The group that a variable's value names: one of the configuration, a literal address, or a name
/// that the resolver knows.
async fn dynamic_group(
    rq: &mut Request,
    authority: &str,
    default_port: u16,
) -> Result<Option<Arc<Group>>, Failure> {
    let runtime = &rq.generation().runtime.upstream;
    let with_port = format!("{authority}:{default_port}");
    if let Some(group) = runtime.find(authority).or_else(|| runtime.find(&with_port)) {
        return Ok(Some(group.clone()));
    }
    if let Some(path) = authority.strip_prefix("unix:") {
        return Ok(Some(ephemeral(authority, vec![PeerAddr::Unix(path.into())])));
    }
    let Some((host, port)) = upstream::split_host(authority, default_port) else {
        crate::observe::request_error(rq, format_args!("invalid host in upstream \"{authority}\""));
        return Err(internal());
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Some(ephemeral(authority, vec![PeerAddr::Inet(SocketAddr::new(ip, port))])));
    }
    let conf = &rq.loc().resolver;
    let (resolver, timeout) = (conf.resolver.as_ref().cloned(), *conf.timeout);
    let Some(resolver) = resolver else {
        crate::observe::request_error(rq, format_args!("no resolver defined to resolve {host}"));
        return Ok(None);
    };
    match resolver.lookup(host, timeout).await {
        Ok(ips) => {
            let addrs = ips.into_iter().map(|ip| PeerAddr::Inet(SocketAddr::new(ip, port))).collect();
            Ok(Some(ephemeral(authority, addrs)))
        }
        Err(message) => {
            crate::observe::request_error(rq, format_args!("{message}"));
            Ok(None)
        }
    }
}

/// A group for one request: nothing is known of it and no connection of it is kept.
fn ephemeral(name: &str, addrs: Vec<PeerAddr>) -> Arc<Group> {
    let mut conf = upstream::implied_group(name.to_string(), name, addrs);
    conf.keepalive.connections = 0;
    Arc::new(Group::new(conf))
}

/// The request target (ngx_http_proxy_create_request): the original one where there is no URI and
/// nothing rewrote it, else the location's prefix replaced by the URI.
fn request_target(rq: &Request, uri: Option<&Bytes>) -> Bytes {
    let (start, path): (&[u8], &[u8]) = match uri {
        None if rq.pristine => return rq.unparsed.clone(),
        Some(uri) if rq.valid_location => (uri, &rq.uri[rq.loc().core.name.len().min(rq.uri.len())..]),
        _ => (b"", &rq.uri[..]),
    };
    // As a rule it takes no more.
    let query = if rq.args.is_empty() { 0 } else { 1 + rq.args.len() };
    let mut out = Vec::with_capacity(start.len() + path.len() + query);
    out.extend_from_slice(start);
    let quoted = rq.internal || rq.unparsed.contains(&b'%');
    if quoted && needs_escape(path, Escape::Uri) {
        escape_into(path, Escape::Uri, &mut out);
    } else {
        out.extend_from_slice(path);
    }
    if !rq.args.is_empty() {
        out.push(b'?');
        out.extend_from_slice(&rq.args);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_split_into_authority_and_uri() {
        assert_eq!(split("a:80/x?y"), ("a:80", Some("/x?y")));
        assert_eq!(split("a"), ("a", None));
        assert_eq!(split("unix:/run/s.sock:/x"), ("unix:/run/s.sock", Some("/x")));
        assert_eq!(split("unix:/run/s.sock:"), ("unix:/run/s.sock", None));
        assert_eq!(scheme("HTTPS://a"), Some((true, "a")));
        assert_eq!(scheme("ftp://a"), None);
    }
}
