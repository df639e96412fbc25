//! What of a level's requests and answers is known when the configuration has been read.

use super::{Conf, Pass};
use crate::http::Request;
use crate::http::h1::{append_line_safe, write_field};
use crate::http::template::Template;
use crate::http::vars::VarKind;
use std::sync::{Arc, OnceLock};

/// Names of fields, without regard to case, and whether one is among them.
#[derive(Default)]
pub struct Names {
    /// A bit for each name, by [`Names::bit`].
    bits: u64,
    names: Vec<Box<[u8]>>,
}

impl Names {
    fn add(&mut self, name: &[u8]) {
        self.bits |= Names::bit(name);
        self.names.push(name.into());
    }

    /// Length, first and last byte tell most names apart.
    #[inline]
    fn bit(name: &[u8]) -> u64 {
        let byte = |byte: Option<&u8>| byte.map_or(0, |byte| usize::from(byte | 0x20));
        1 << ((byte(name.first()) + 3 * byte(name.last()) + 5 * name.len()) % 64)
    }

    /// Whether it is one of them.
    #[inline]
    pub fn contain(&self, name: &[u8]) -> bool {
        // Most write a name as it is here.
        let is = |known: &[u8]| known == name || known.eq_ignore_ascii_case(name);
        self.bits & Names::bit(name) != 0 && self.names.iter().any(|known| is(known))
    }
}

impl<'a> FromIterator<&'a [u8]> for Names {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(all: I) -> Names {
        let mut names = Names::default();
        all.into_iter().for_each(|name| names.add(name));
        names
    }
}

/// Fields of the client that are its connection's, not the request's; `proxy_set_header` may set
/// them all the same.
const NOT_PASSED: [&str; 8] =
    ["host", "connection", "content-length", "transfer-encoding", "te", "keep-alive", "expect", "upgrade"];

/// What is hidden unless `proxy_pass_header` names it.
const HIDDEN: [&str; 8] = [
    "Date",
    "Server",
    "X-Pad",
    "X-Accel-Expires",
    "X-Accel-Redirect",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
];

/// A part of a request's head.
enum Part {
    /// Fields whose values are the same for all.
    Text(Vec<u8>),
    /// A field whose value is the request's: its name with the colon.
    Value(Vec<u8>, Template, Means),
    /// `Host`, where variables say who is asked.
    Host,
}

/// What a field says to us too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Nothing,
    Connection,
    Upgrade,
}

impl Means {
    fn of(name: &[u8]) -> Means {
        match name {
            _ if name.eq_ignore_ascii_case(b"connection") => Means::Connection,
            _ if name.eq_ignore_ascii_case(b"upgrade") => Means::Upgrade,
            _ => Means::Nothing,
        }
    }
}

/// What of a level's requests and answers is known.
pub struct Known {
    parts: Vec<Part>,
    /// Whether the fields that are the same for all ask to close the connection, or for a switch.
    closes: bool,
    upgrades: bool,
    /// Whether `proxy_set_header` says how long the body is.
    pub sets_length: bool,
    /// Fields of the client that do not go along.
    pub left_out: Names,
    /// Fields of an answer that are not for the client.
    pub hidden: Names,
    /// See [`Self::shows_fields`].
    shows_fields: OnceLock<bool>,
}

/// The fields of a head, and what they say to us.
pub struct Written {
    /// Whether the upstream is asked to close the connection.
    pub closes: bool,
    /// Whether it is asked to switch protocols.
    pub upgrades: bool,
}

impl Known {
    /// What is known of a level, once it is inherited.
    pub fn of(conf: &Conf) -> Known {
        let is_set = |name: &[u8]| conf.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut known = Known {
            parts: Vec::new(),
            closes: false,
            upgrades: false,
            sets_length: is_set(b"content-length") || is_set(b"transfer-encoding"),
            shows_fields: OnceLock::new(),
            left_out: NOT_PASSED
                .iter()
                .map(|n| n.as_bytes())
                .chain(conf.headers.iter().map(|(n, _)| &n[..]))
                .collect(),
            hidden: {
                let passed = |name: &str| conf.pass_headers.iter().any(|n| n.eq_ignore_ascii_case(name));
                let default = HIDDEN.iter().copied().filter(|name| !passed(name));
                default.chain(conf.hide.iter().map(String::as_str)).map(str::as_bytes).collect()
            },
        };
        for (name, value) in conf.headers.iter() {
            match value.constant() {
                Some(value) => known.constant(name, &value),
                None => {
                    let prefix = [&name[..], b": "].concat();
                    known.parts.push(Part::Value(prefix, value.clone(), Means::of(name)));
                }
            }
        }
        if !is_set(b"host") {
            match conf.pass.as_deref() {
                Some(Pass::Fixed { authority, .. }) => {
                    let mut field = Vec::new();
                    write_field(b"Host", authority, &mut field);
                    known.text(&field);
                }
                _ => known.parts.push(Part::Host),
            }
        }
        if *conf.http10 && !is_set(b"connection") {
            known.constant(b"Connection", b"close");
        }
        known
    }

    /// Whether anything may ask for the fields of an answer as they came (`$upstream_http_…`): a variable of the
    /// configuration, or a page that names one.
    pub fn shows_fields(&self, rq: &Request) -> bool {
        *self.shows_fields.get_or_init(|| {
            let asks = |kind: &VarKind| match kind {
                VarKind::Builtin(variable, _) => {
                    matches!(variable.name, "upstream_http_" | "upstream_cookie_")
                }
                VarKind::Unknown | VarKind::Slot(_) | VarKind::Computed(_) => false,
            };
            let http = rq.http();
            http.vars.iter().any(|def| asks(&def.kind))
                || http.levels.iter().any(|level| *level.conf.ssi.enable)
        })
    }

    /// A field whose value is the same for all; an empty one is none.
    fn constant(&mut self, name: &[u8], value: &[u8]) {
        if value.is_empty() {
            return;
        }
        match Means::of(name) {
            Means::Connection => self.closes |= value.eq_ignore_ascii_case(b"close"),
            Means::Upgrade => self.upgrades = true,
            Means::Nothing => {}
        }
        let mut field = Vec::new();
        write_field(name, value, &mut field);
        self.text(&field);
    }

    fn text(&mut self, field: &[u8]) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.extend_from_slice(field),
            _ => self.parts.push(Part::Text(field.to_vec())),
        }
    }

    /// Appends the fields that do not come from the client, but for the body's.
    pub fn write(&self, rq: &Request, out: &mut Vec<u8>) -> Written {
        let mut written = Written { closes: self.closes, upgrades: self.upgrades };
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Value(prefix, value, means) => {
                    let start = out.len();
                    out.extend_from_slice(prefix);
                    let from = out.len();
                    value.eval_into(rq, out);
                    if out.len() == from {
                        // Empty, it is none.
                        out.truncate(start);
                        continue;
                    }
                    match means {
                        Means::Connection => written.closes |= out[from..].eq_ignore_ascii_case(b"close"),
                        Means::Upgrade => written.upgrades = true,
                        Means::Nothing => {}
                    }
                    make_line_safe(out, from);
                    out.extend_from_slice(b"\r\n");
                }
                Part::Host => {
                    let authority = rq.proxy_target.as_ref().map(|t| &t.authority[..]).unwrap_or_default();
                    write_field(b"Host", authority, out);
                }
            }
        }
        written
    }
}

/// Encodes line ends in what follows `from`, which few have.
fn make_line_safe(out: &mut Vec<u8>, from: usize) {
    if memchr::memchr2(b'\r', b'\n', &out[from..]).is_some() {
        let value = out.split_off(from);
        append_line_safe(&value, out);
    }
}

/// [`Known`], where there is a `proxy_pass`. For who shows a configuration it is nothing.
#[derive(Clone, Default)]
pub struct Prepared(Option<Arc<Known>>);

impl std::fmt::Debug for Prepared {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl Prepared {
    /// Of a level that is inherited.
    pub fn of(conf: &Conf) -> Prepared {
        Prepared(Some(Arc::new(Known::of(conf))))
    }

    /// What is known.
    pub fn get(&self) -> Option<&Known> {
        self.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn conf(headers: &[(&'static str, &str)]) -> Conf {
        let mut conf = Conf::default();
        for (name, value) in headers {
            conf.headers.edit().push((Bytes::from_static(name.as_bytes()), Template::literal(value)));
        }
        conf
    }

    #[test]
    fn names_are_known_in_any_case() {
        let names: Names = [&b"Host"[..], b"TE", &[b'x'; 70]].into_iter().collect();
        for known in [&b"host"[..], b"tE", &[b'X'; 70]] {
            assert!(names.contain(known));
        }
        for other in [&b""[..], b"hosts", b"abcd", &[b'x'; 71]] {
            assert!(!names.contain(other));
        }
    }

    #[test]
    fn constant_fields_are_one_text() {
        let known =
            Known::of(&conf(&[("Connection", ""), ("X-A", "1\r\nB: 2"), ("host", "h"), ("X-C", "3")]));
        let [Part::Text(text)] = &known.parts[..] else { panic!("one text is made") };
        assert_eq!(text, b"X-A: 1%0D%0AB: 2\r\nhost: h\r\nX-C: 3\r\n");
        assert!(!known.closes && !known.upgrades && !known.sets_length);
        // What is set to nothing does not come from the client either.
        assert!(known.left_out.contain(b"connection") && known.left_out.contain(b"x-c"));
        assert!(!known.left_out.contain(b"x-d"));
    }

    #[test]
    fn what_fields_say_is_known() {
        let known = Known::of(&conf(&[("connection", "Close"), ("Upgrade", "x"), ("content-length", "1")]));
        assert!(known.closes && known.upgrades && known.sets_length);
        let mut old = conf(&[]);
        old.http10.replace(true);
        assert!(Known::of(&old).closes);
        assert!(matches!(Known::of(&old).parts[..], [Part::Host, Part::Text(_)]));
    }

    #[test]
    fn hidden_fields_are_the_usual_and_those_named() {
        let mut conf = conf(&[]);
        conf.pass_headers.edit().push("server".into());
        conf.hide.edit().push("x-secret".into());
        let hidden = Known::of(&conf).hidden;
        assert!(hidden.contain(b"Date") && hidden.contain(b"X-Secret") && hidden.contain(b"x-accel-expires"));
        assert!(!hidden.contain(b"Server") && !hidden.contain(b"etag"));
        conf.hide.edit().push("server".into());
        assert!(Known::of(&conf).hidden.contain(b"server"));
    }

    #[test]
    fn line_ends_are_encoded_where_they_are() {
        let mut out = b"a\r\nb".to_vec();
        make_line_safe(&mut out, 3);
        assert_eq!(out, b"a\r\nb");
        make_line_safe(&mut out, 0);
        assert_eq!(out, b"a%0D%0Ab");
    }
}
