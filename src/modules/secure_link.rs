//! nginx's secure_link module: links that cannot be made without a secret, and that may expire.

use crate::conf::dump::Dump;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, Inherit, Setting};
use crate::http::request::Request;
use crate::http::template::Template;
use crate::http::vars::Variable;
use bytes::Bytes;
use md5::{Digest, Md5};

/// What a level configures.
#[derive(Clone, Default)]
pub struct Conf {
    /// `secure_link`: the hash and, behind a comma, when the link expires.
    link: Setting<Option<Template>>,
    /// `secure_link_md5`: what the hash is of.
    md5: Setting<Option<Template>>,
    /// `secure_link_secret`: what follows the link in the hash, in the older form.
    secret: Setting<Option<Bytes>>,
}

impl Inherit for Conf {
    /// A level has either form, never both: a secret of its own keeps the outer level's expressions
    /// away, and an expression, its own or inherited, the outer level's secret.
    fn inherit(&mut self, outer: &Conf) {
        if self.secret.is_some() {
            return;
        }
        self.link.inherit(&outer.link);
        self.md5.inherit(&outer.md5);
        if self.link.is_none() && self.md5.is_none() {
            self.secret.inherit(&outer.secret);
        }
    }

    fn dump(&self, default: &Conf, name: &str, out: &mut Dump) {
        self.link.dump(&default.link, &out.join(name, "link"), out);
        self.md5.dump(&default.md5, &out.join(name, "md5"), out);
        out.inherited(&out.join(name, "secret"), &self.secret.is_some());
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("secure_link", |b, d| expression(b, d, |c| &mut c.link), "a link's hash and expiry"),
    Command::works("secure_link_md5", |b, d| expression(b, d, |c| &mut c.md5), "what the hash is of"),
    Command::works("secure_link_secret", secret, "a link's secret, in the older form of /p/hash/link"),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::cached("secure_link", |rq, _, out| {
        let conf = &rq.loc().secure_link;
        match &*conf.secret {
            Some(secret) => by_secret(rq, secret, out),
            None => by_expression(rq, out),
        }
    }),
    Variable::cached("secure_link_expires", |rq, _, out| match link(rq).and_then(|link| link.expires) {
        Some((text, _)) => {
            out.extend_from_slice(&text);
            true
        }
        None => false,
    }),
];

fn expression(
    b: &mut Builder,
    d: &Directive,
    field: fn(&mut Conf) -> &mut Setting<Option<Template>>,
) -> ConfResult<()> {
    let value = b.template(d.arg(0))?;
    field(&mut b.loc().secure_link).set(Some(value))?;
    refuse_mixture(b)
}

fn secret(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let secret = Bytes::copy_from_slice(d.arg(0).as_bytes());
    b.loc().secure_link.secret.set(Some(secret))?;
    refuse_mixture(b)
}

fn refuse_mixture(b: &mut Builder) -> ConfResult<()> {
    let conf = &b.loc().secure_link;
    if conf.secret.is_some() && (conf.link.is_some() || conf.md5.is_some()) {
        return Err(ConfError::new(
            "\"secure_link_secret\" cannot be mixed with \"secure_link\" and \"secure_link_md5\"",
        ));
    }
    Ok(())
}

/// What `secure_link` comes to for a request.
struct Link {
    hash: Bytes,
    /// The expiry as written, and in seconds since 1970.
    expires: Option<(Bytes, u64)>,
}

/// `None` where nothing is to be checked, or the expiry is no time.
fn link(rq: &Request) -> Option<Link> {
    let conf = &rq.loc().secure_link;
    let (Some(link), Some(_), None) = (&*conf.link, &*conf.md5, &*conf.secret) else { return None };
    let value = link.eval(rq);
    let Some(comma) = memchr::memchr(b',', &value) else { return Some(Link { hash: value, expires: None }) };
    let text = value.slice(comma + 1..);
    let at = std::str::from_utf8(&text).ok().and_then(crate::conf::values::number);
    // As a time of the system: signed.
    let at = at.filter(|at| (1..=i64::MAX as u64).contains(at))?;
    Some(Link { hash: value.slice(..comma), expires: Some((text, at)) })
}

/// `1` for a link that is right, `0` for one that was and has expired, nothing otherwise.
fn by_expression(rq: &Request, out: &mut Vec<u8>) -> bool {
    let (Some(link), Some(of)) = (link(rq), &*rq.loc().secure_link.md5) else { return false };
    let Some(given) = decode(&link.hash) else { return false };
    if !same(&given, &Md5::digest(of.eval(rq))) {
        return false;
    }
    let expired = link.expires.is_some_and(|(_, at)| at < crate::http::date::now());
    out.push(if expired { b'0' } else { b'1' });
    true
}

/// The 16 bytes of a hash in base64 for URLs, padded or not (ngx_decode_base64url).
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    // No more than a hash with its padding.
    if text.len() > 24 {
        return None;
    }
    crate::http::base64::decode_url(text).filter(|hash| hash.len() == 16)
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    a.ct_eq(b).into()
}

/// Of `/prefix/hash/link` the link, query and all, when the hash is of it and the secret.
fn by_secret(rq: &Request, secret: &[u8], out: &mut Vec<u8>) -> bool {
    let Some((hash, link)) = parts(&rq.unparsed) else { return false };
    let wanted = Md5::new().chain_update(link).chain_update(secret).finalize();
    if !same(&hash, &wanted) {
        return false;
    }
    out.extend_from_slice(link);
    true
}

fn parts(uri: &[u8]) -> Option<([u8; 16], &[u8])> {
    let rest = uri.get(1..)?;
    let rest = &rest[memchr::memchr(b'/', rest)? + 1..];
    let (hash, link) = rest.split_at(memchr::memchr(b'/', rest)?);
    let hex: &[u8; 32] = hash.try_into().ok()?;
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let mut hash = [0; 16];
    for (byte, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some((hash, &link[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    #[test]
    fn hashes_as_nginx_decodes_them() {
        let sixteen = base64::engine::general_purpose::URL_SAFE.encode([0xfb; 16]);
        assert_eq!(decode(sixteen.as_bytes()), Some(vec![0xfb; 16]));
        assert_eq!(decode(sixteen.trim_end_matches('=').as_bytes()), Some(vec![0xfb; 16]));
        for bad in ["", "AAAA", "+/v7+/v7+/v7+/v7+/v7+w", &"A".repeat(25), "-_v7-_v7-_v7-_v7-_v7!w"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_parts_of_an_older_link() {
        let uri = format!("/p/{}/a/b?c", "0aF".repeat(11).get(..32).unwrap());
        let (hash, link) = parts(uri.as_bytes()).unwrap();
        assert_eq!((hash[0], hash[1], link), (0x0a, 0xf0, &b"a/b?c"[..]));
        for bad in ["", "/", "/p", "/p/x/y", "/p/0123456789abcdef0123456789abcdeg/x", "*"] {
            assert!(parts(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_level_has_one_of_the_two_forms() {
        let conf = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("events {{}} http {{ server {{ {text} }} }}");
            let http = crate::conf::build::load_text(dir.path(), &text).unwrap().http.unwrap();
            let conf = http.levels.last().unwrap().conf.secure_link.clone();
            (conf.link.is_some(), conf.md5.is_some(), conf.secret.is_some())
        };
        assert_eq!(
            conf("secure_link a; secure_link_md5 b; location / { secure_link c; }"),
            (true, true, false)
        );
        assert_eq!(conf("secure_link a; location / { secure_link_secret c; }"), (false, false, true));
        assert_eq!(conf("secure_link_secret a; location / { secure_link c; }"), (true, false, false));
        assert_eq!(conf("secure_link_secret a; location / { }"), (false, false, true));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = (decode(&text), parts(&text));
        }
    }
}
