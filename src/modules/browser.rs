//! nginx's browser module: whether a client's browser is a modern one, by what it says of itself.

use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::request::Request;
use crate::http::vars::Variable;
use crate::settings;
use bytes::Bytes;
use memchr::memmem;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `modern_browser`
        inherit modern: Moderns = Moderns::default(),
        /// `ancient_browser`
        inherit ancient: Ancients = Ancients::default(),
        /// `modern_browser_value`
        inherit modern_value: Bytes = Bytes::from_static(b"1"),
        /// `ancient_browser_value`
        inherit ancient_value: Bytes = Bytes::from_static(b"1"),
    }
}

/// What a level's `modern_browser` say.
#[derive(Clone, Debug, Default)]
pub struct Moderns {
    /// In the order in which browsers are looked for.
    versions: Vec<Modern>,
    /// Whether one of which nothing is said is a modern one.
    unlisted: bool,
}

/// What a level's `ancient_browser` say.
#[derive(Clone, Debug, Default)]
pub struct Ancients {
    /// Texts of which one is in the name of an ancient one.
    texts: Vec<Vec<u8>>,
    /// `netscape4`
    netscape4: bool,
}

/// The least version of a browser that is a modern one.
#[derive(Clone, Copy, Debug)]
pub struct Modern {
    /// Position in [`BROWSERS`].
    browser: usize,
    version: u64,
}

/// How a browser is told by the text of `User-Agent`.
struct Browser {
    name: &'static str,
    /// Bytes before which its mark does not stand.
    skip: usize,
    mark: &'static [u8],
    /// Bytes from the mark to the version.
    version: usize,
}

/// In the order in which they are looked for: Opera calls itself others as well.
const BROWSERS: [Browser; 5] = [
    Browser { name: "opera", skip: 0, mark: b"Opera", version: "Opera ".len() },
    Browser { name: "msie", skip: "Mozilla/4.0 (compatible; ".len(), mark: b"MSIE ", version: "MSIE ".len() },
    Browser { name: "gecko", skip: "Mozilla/5.0 (".len(), mark: b"rv:", version: "rv:".len() },
    Browser { name: "safari", skip: "Mozilla/5.0 (".len(), mark: b"Safari/", version: "Safari/".len() },
    Browser {
        name: "konqueror",
        skip: "Mozilla/5.0 (compatible; ".len(),
        mark: b"Konqueror/",
        version: "Konqueror/".len(),
    },
];

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("modern_browser", modern_browser, "the versions from which browsers are modern"),
    Command::works("ancient_browser", ancient_browser, "texts by which browsers are ancient"),
    Command::works(
        "modern_browser_value",
        |b, d| {
            let value = Bytes::copy_from_slice(d.arg(0).as_bytes());
            b.loc().browser.modern_value.replace(value);
            Ok(())
        },
        "the value of $modern_browser",
    ),
    Command::works(
        "ancient_browser_value",
        |b, d| {
            let value = Bytes::copy_from_slice(d.arg(0).as_bytes());
            b.loc().browser.ancient_value.replace(value);
            Ok(())
        },
        "the value of $ancient_browser",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::cached("modern_browser", |rq, _, out| {
        let conf = &rq.loc().browser;
        if conf.is_modern(agent(rq)) {
            out.extend_from_slice(&conf.modern_value);
        }
        true
    }),
    Variable::cached("ancient_browser", |rq, _, out| {
        let conf = &rq.loc().browser;
        if !conf.is_modern(agent(rq)) {
            out.extend_from_slice(&conf.ancient_value);
        }
        true
    }),
    Variable::cached("msie", |rq, _, out| {
        if agent(rq).is_some_and(is_msie) {
            out.push(b'1');
        }
        true
    }),
];

fn modern_browser(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let conf = &mut b.loc().browser;
    let [name, version] = d.args.as_slice() else {
        if d.arg(0) == "unlisted" {
            conf.modern.edit().unlisted = true;
            return Ok(());
        }
        return Err(ConfError::new("invalid number of arguments in \"{}\" directive")
            .hint("a browser and the version from which it is modern, or \"unlisted\""));
    };
    let parsed = parse_version(version)
        .ok_or_else(|| ConfError::new(format!("invalid browser version \"{version}\"")))?;
    let browser = BROWSERS
        .iter()
        .position(|known| known.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| ConfError::new(format!("unknown browser name \"{name}\"")))?;
    let modern = &mut conf.modern.edit().versions;
    modern.push(Modern { browser, version: parsed });
    modern.sort_by_key(|m| m.browser);
    Ok(())
}

fn ancient_browser(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let ancient = b.loc().browser.ancient.edit();
    for text in &d.args {
        if text == "netscape4" {
            ancient.netscape4 = true;
        } else {
            ancient.texts.push(text.as_bytes().to_vec());
        }
    }
    Ok(())
}

/// A version of the configuration; `None` where there is anything but digits and dots.
fn parse_version(text: &str) -> Option<u64> {
    let valid = |b: u8| b.is_ascii_digit() || b == b'.';
    text.bytes().all(valid).then(|| version(text.as_bytes()))
}

/// `1.2.3.4` as 1020304, read up to what is neither a digit nor a dot.
fn version(text: &[u8]) -> u64 {
    let (mut total, mut part, mut scale) = (0u64, 0u64, 1_000_000u64);
    for byte in text {
        match byte {
            b'0'..=b'9' => part = part.saturating_mul(10).saturating_add(u64::from(byte - b'0')),
            b'.' => {
                total = total.saturating_add(part.saturating_mul(scale));
                (part, scale) = (0, scale / 100);
            }
            _ => break,
        }
    }
    total.saturating_add(part.saturating_mul(scale))
}

fn agent(rq: &Request) -> Option<&[u8]> {
    rq.head.get("user-agent")
}

impl Conf {
    fn is_modern(&self, agent: Option<&[u8]>) -> bool {
        let Some(agent) = agent else { return self.modern.unlisted };
        for modern in &self.modern.versions {
            let browser = &BROWSERS[modern.browser];
            let Some(rest) = agent.get(browser.skip..) else { continue };
            let Some(at) = memmem::find(rest, browser.mark) else { continue };
            let Some(text) = rest.get(at + browser.version..).filter(|t| !t.is_empty()) else { continue };
            return version(text) >= modern.version;
        }
        let netscape4 = || {
            let digit = agent.strip_prefix(b"Mozilla/").and_then(|rest| rest.first());
            agent.len() > "Mozilla/4.72 ".len() && digit.is_some_and(|d| (b'1'..=b'4').contains(d))
        };
        if self.ancient.netscape4 && netscape4() {
            return false;
        }
        let ancient = self.ancient.texts.iter().any(|text| memmem::find(agent, text).is_some());
        !ancient && self.modern.unlisted
    }
}

/// Whether a browser is Internet Explorer and not one that says so for its own sake.
fn is_msie(agent: &[u8]) -> bool {
    const MARK: &[u8] = b"MSIE ";
    // A version of at least a digit, a dot and what follows.
    let marked = memmem::find(agent, MARK).is_some_and(|at| at + 7 < agent.len());
    marked && memmem::find(agent, b"Opera").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version(b"1.2.3.4"), 1_020_304);
        assert_eq!(version(b"5.5; Windows"), 5_050_000);
        assert_eq!(version(b"413"), 413_000_000);
        assert_eq!(version(b"1.2.3.4.5"), 1_020_304);
        assert_eq!(version(b""), 0);
        assert_eq!(parse_version("1.x"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_name_panics(agent in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let mut conf = Conf::default();
            for browser in 0..BROWSERS.len() {
                conf.modern.edit().versions.push(Modern { browser, version: 1 });
            }
            let _ = (conf.is_modern(Some(&agent)), is_msie(&agent), version(&agent));
        }
    }
}
