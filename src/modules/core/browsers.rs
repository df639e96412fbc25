//! `keepalive_disable`: browsers that are said to misbehave on kept connections.

use crate::conf::{Builder, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::head::Method;
use crate::http::request::Request;
use crate::modules::gzip::is_msie6;
use memchr::memmem::find;

/// The browsers whose connections are not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disable {
    /// After a POST of MSIE 6 and older.
    msie6: bool,
    /// Safari on macOS.
    safari: bool,
}

impl Disable {
    /// nginx's default.
    pub const DEFAULT: Disable = Disable { msie6: true, safari: false };

    /// Whether the connection of this request is not to be kept.
    pub fn fits(self, rq: &Request) -> bool {
        let posts = rq.method == Method::Post;
        if !(self.msie6 && posts || self.safari) {
            return false;
        }
        let Some(agent) = rq.head.get("user-agent") else { return false };
        self.msie6 && posts && is_msie6(agent) || self.safari && is_safari(agent)
    }
}

/// Reads `keepalive_disable`.
pub fn keepalive_disable(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    // The default is no part of a level's own list, which may be told in parts.
    let own = &b.loc().core.keepalive_disable;
    let mut disable = if own.is_set() { **own } else { Disable::default() };
    let mut given: Vec<&str> = Vec::new();
    for arg in &d.args {
        match arg.as_str() {
            "none" => {}
            "msie6" => disable.msie6 = true,
            "safari" => disable.safari = true,
            other => return Err(ConfError::new(format!("invalid value \"{other}\""))),
        }
        if given.contains(&arg.as_str()) {
            b.note(NoteLevel::Warn, format!("duplicate value \"{arg}\""));
        }
        given.push(arg);
    }
    b.loc().core.keepalive_disable.replace(disable);
    Ok(())
}

/// Safari on macOS, and none that says so for its own sake (ngx_http_process_user_agent).
fn is_safari(agent: &[u8]) -> bool {
    let has = |word: &[u8]| find(agent, word).is_some();
    let other = has(b"MSIE ") || has(b"Opera") || has(b"Gecko/");
    !other && !has(b"Chrome/") && has(b"Safari/") && has(b"Mac OS X")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_by_their_names() {
        assert!(is_safari(b"Mozilla/5.0 (Macintosh; Intel Mac OS X) AppleWebKit (KHTML, like it) Safari/1"));
        assert!(!is_safari(b"Mozilla/5.0 (Macintosh; Intel Mac OS X) Chrome/1 Safari/1"));
    }
}
