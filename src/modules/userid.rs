//! nginx's userid module: a cookie by which a client is known again.

use crate::conf::values::{invalid_value, number_arg, one_of, time};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::base64;
use crate::http::date;
use crate::http::filters::Filter;
use crate::http::request::{Address, Request};
use crate::http::response::Response;
use crate::http::vars::{VarId, Variable};
use crate::observe::error_log::Level;
use crate::observe::{request_error, request_log};
use crate::settings;
use ::base64::Engine;
use bytes::Bytes;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `userid`
        inherit mode: Mode = Mode::Off,
        /// `userid_name`
        inherit name: Bytes = Bytes::from_static(b"uid"),
        /// `userid_domain`; empty is none.
        inherit domain: String = String::new(),
        /// `userid_path`
        inherit path: String = "/".into(),
        /// `userid_expires`
        inherit expires: Expires = Expires::Never,
        /// `userid_flags`
        inherit flags: Flags = Flags::default(),
        /// `userid_mark`
        inherit mark: Option<u8> = None,
        /// `userid_p3p`; empty is none.
        inherit p3p: Bytes = Bytes::new(),
        /// `userid_service`; the server's address where none is given.
        inherit service: Option<u32> = None,
        /// The variable that says whether clients get new identifiers.
        inherit reset: Option<VarId> = None,
    }
}

/// `userid`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing.
    Off,
    /// Cookies are read, for the log.
    Log,
    /// Cookies are given, with numbers in the machine's order.
    V1,
    /// Cookies are given, with numbers in the network's order.
    V2,
}

/// `userid_expires`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// The browser keeps it until it ends.
    Never,
    /// To the end of 2037.
    Max,
    /// So long from now.
    After(Duration),
}

/// `userid_flags`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    off: bool,
    secure: bool,
    httponly: bool,
    samesite: Option<&'static str>,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("userid", userid, "whether clients get an identifier in a cookie"),
    Command::works(
        "userid_name",
        |b, d| {
            let name = Bytes::copy_from_slice(d.arg(0).as_bytes());
            b.loc().userid.name.set(name)
        },
        "the cookie's name",
    ),
    Command::works("userid_domain", |b, d| b.loc().userid.domain.set(unless_none(d)), "the cookie's domain"),
    Command::works("userid_path", |b, d| b.loc().userid.path.set(d.arg(0).into()), "the cookie's path"),
    Command::works("userid_expires", expires, "how long browsers keep the cookie"),
    Command::works("userid_flags", flags, "the cookie's flags"),
    Command::works("userid_mark", mark, "a mark; a cookie without it is sent again"),
    Command::works("userid_p3p", |b, d| b.loc().userid.p3p.set(unless_none(d).into()), "the P3P field"),
    Command::works(
        "userid_service",
        |b, d| {
            // What is too large for it loses its upper bits, as in nginx.
            let service = number_arg(d, 0)? as u32;
            b.loc().userid.service.set(Some(service))
        },
        "the number of the server in identifiers",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::cached("uid_got", |rq, _, out| {
        *rq.loc().userid.mode >= Mode::Log && got(rq).is_some_and(|got| put(rq, &got.id, out))
    }),
    Variable::cached("uid_set", |rq, _, out| {
        *rq.loc().userid.mode >= Mode::V1 && given(rq).is_some_and(|id| put(rq, &id, out))
    }),
    Variable {
        name: RESET,
        prefix: false,
        cached: false,
        gives_way: false,
        pure: false,
        get: |rq, _, out| {
            let state = rq.userid.borrow();
            state.reset.as_ref().is_some_and(|value| {
                out.extend_from_slice(value);
                true
            })
        },
        set: Some(|rq, value| rq.userid.get_mut().reset = Some(value)),
    },
];

const RESET: &str = "uid_reset";

/// Gives the cookie, after the other fields were added.
pub const FILTER: Filter = Filter {
    wants: |loc| *loc.userid.mode >= Mode::V1,
    subrequests: false,
    pure: false,
    call: |rq, response| give(rq, response),
};

fn userid(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let choices = [("off", Mode::Off), ("log", Mode::Log), ("v1", Mode::V1), ("on", Mode::V2)];
    let mode = one_of(d, &choices)?;
    let reset = b.variable(RESET);
    b.loc().userid.reset.replace(Some(reset));
    b.loc().userid.mode.set(mode)
}

/// The argument; `none` is nothing.
fn unless_none(d: &Directive) -> String {
    if d.arg(0) == "none" { String::new() } else { d.arg(0).into() }
}

fn expires(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let expires = match d.arg(0) {
        "max" => Expires::Max,
        "off" => Expires::Never,
        text => match time(text).ok_or_else(invalid_value)? {
            Duration::ZERO => Expires::Never,
            span => Expires::After(span),
        },
    };
    b.loc().userid.expires.set(expires)
}

fn flags(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    const SAME_SITE: [&str; 3] = ["samesite=strict", "samesite=lax", "samesite=none"];
    for text in &d.args {
        let flags = b.loc().userid.flags.edit();
        let lower = text.to_ascii_lowercase();
        let duplicate = match lower.as_str() {
            "off" => std::mem::replace(&mut flags.off, true),
            "secure" => std::mem::replace(&mut flags.secure, true),
            "httponly" => std::mem::replace(&mut flags.httponly, true),
            other => match SAME_SITE.iter().find(|known| **known == other) {
                // The first one counts, as in nginx.
                Some(_) if flags.samesite.is_some() => true,
                Some(known) => {
                    flags.samesite = Some(known);
                    false
                }
                None => {
                    return Err(ConfError::new(format!("invalid value \"{text}\""))
                        .hint("off, secure, httponly, samesite=strict, samesite=lax or samesite=none"));
                }
            },
        };
        if duplicate {
            b.note(NoteLevel::Warn, format!("duplicate value \"{text}\""));
        }
    }
    Ok(())
}

fn mark(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mark = match d.arg(0).as_bytes() {
        b"off" => None,
        [mark] if mark.is_ascii_alphanumeric() || *mark == b'=' => Some(*mark),
        _ => {
            return Err(ConfError::new(
                "\"userid_mark\" directive value must be \"off\" or a single letter, digit or \"=\"",
            ));
        }
    };
    b.loc().userid.mark.set(mark)
}

/// What a request has to do with identifiers.
#[derive(Clone, Default)]
pub struct State {
    /// What `$uid_reset` was set to.
    reset: Option<Bytes>,
    /// What the client sent under this name.
    got: Option<(Bytes, Option<Got>)>,
    /// What it is given.
    given: Option<Id>,
}

/// An identifier: server, time, process, number.
type Id = [u8; 16];

/// An identifier that a client sent.
#[derive(Clone, Copy)]
struct Got {
    id: Id,
    /// What follows it in the cookie, where the mark stands.
    tail: Option<[u8; 2]>,
}

/// Characters of an identifier in base64, without padding.
const DIGITS: usize = 22;

/// The identifier that the client sent. What is wrong with its cookie is logged once.
fn got(rq: &Request) -> Option<Got> {
    let name = &*rq.loc().userid.name;
    if let Some((of, got)) = &rq.userid.borrow().got
        && of == name
    {
        return *got;
    }
    let got = read_cookie(rq, name);
    rq.userid.borrow_mut().got = Some((name.clone(), got));
    got
}

fn read_cookie(rq: &Request, name: &[u8]) -> Option<Got> {
    let (value, line) = super::core::cookie(rq, name)?;
    let bad = |what: &str| {
        let line = String::from_utf8_lossy(line);
        request_error(rq, format_args!("client sent {what} userid cookie \"{line}\""));
    };
    let Some((digits, tail)) = value.split_at_checked(DIGITS) else {
        bad("too short");
        return None;
    };
    let Some(decoded) = base64::decode(digits) else {
        bad("invalid");
        return None;
    };
    // So many digits are no more bytes than an identifier has; padding among them makes them fewer.
    let mut id = Id::default();
    id[..decoded.len()].copy_from_slice(&decoded);
    // One without a number is none.
    (id[12..] != [0; 4]).then(|| Got { id, tail: tail.first_chunk().copied() })
}

/// The identifier that the client is given; `None` when it has one that it may keep.
fn given(rq: &Request) -> Option<Id> {
    if let Some(id) = rq.userid.borrow().given {
        return Some(id);
    }
    let conf = &rq.loc().userid;
    let id = match got(rq) {
        Some(got) => {
            let reset = conf.reset.and_then(|id| rq.variable_value(id)).unwrap_or_default();
            if reset.is_empty() || reset == "0" {
                if conf.mark.is_none_or(|mark| got.tail == Some([mark, b'='])) {
                    return None;
                }
                got.id
            } else {
                if reset == "log" {
                    let mut text = Vec::new();
                    put(rq, &got.id, &mut text);
                    let text = String::from_utf8_lossy(&text);
                    request_log(rq, Level::Notice, format_args!("userid cookie \"{text}\" was reset"));
                }
                new_id(rq)
            }
        }
        None => new_id(rq),
    };
    rq.userid.borrow_mut().given = Some(id);
    Some(id)
}

/// An identifier that nobody has had.
fn new_id(rq: &Request) -> Id {
    // The first numbers of each version; what is below them is of older ones.
    const FIRST_V1: u32 = 1;
    const FIRST_V2: u32 = 0x0303_0302;
    static NEXT_V1: AtomicU32 = AtomicU32::new(FIRST_V1);
    static NEXT_V2: AtomicU32 = AtomicU32::new(FIRST_V2);
    static STARTED: OnceLock<u32> = OnceLock::new();
    let started = *STARTED
        .get_or_init(|| (date::since_epoch().subsec_micros() / 20) << 16 | (std::process::id() & 0xffff));
    let now = date::now() as u32;
    let conf = &rq.loc().userid;
    let numbers = if *conf.mode == Mode::V1 {
        let service = conf.service.unwrap_or(0);
        let number = NEXT_V1.fetch_add(1, Ordering::Relaxed).max(FIRST_V1);
        [service, now, started, number].map(u32::to_ne_bytes)
    } else {
        let service = conf.service.map_or_else(|| address(&rq.conn.local), u32::to_be_bytes);
        let next = |n: u32| Some(n.checked_add(0x100).unwrap_or(FIRST_V2));
        // It always has a next.
        let number = NEXT_V2.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(FIRST_V2);
        [service, now.to_be_bytes(), started.to_be_bytes(), number.to_be_bytes()]
    };
    let mut id = Id::default();
    id.copy_from_slice(numbers.as_flattened());
    id
}

/// The server's address, or the end of it.
fn address(local: &Address) -> [u8; 4] {
    match local.ip() {
        Some(IpAddr::V4(v4)) => v4.octets(),
        Some(IpAddr::V6(v6)) => v6.octets().last_chunk().copied().unwrap_or_default(),
        None => [0; 4],
    }
}

/// Appends `name=` and the identifier's four numbers, as nginx writes them to logs.
fn put(rq: &Request, id: &Id, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&rq.loc().userid.name);
    out.push(b'=');
    out.extend_from_slice(in_hex(id).as_bytes());
    true
}

fn in_hex(id: &Id) -> String {
    let mut text = String::with_capacity(32);
    for number in id.as_chunks::<4>().0 {
        let _ = write!(text, "{:08X}", u32::from_ne_bytes(*number));
    }
    text
}

fn give(rq: &mut Request, response: &mut Response) {
    let Some(id) = given(rq) else { return };
    let conf = &rq.loc().userid;
    response.fields.add_static("Set-Cookie", cookie(conf, &id, date::now()));
    if !conf.p3p.is_empty() {
        response.fields.add_static("P3P", Bytes::clone(&conf.p3p));
    }
}

fn cookie(conf: &Conf, id: &Id, now: u64) -> Vec<u8> {
    let mut out = conf.name.to_vec();
    out.push(b'=');
    let mut text = ::base64::engine::general_purpose::STANDARD_NO_PAD.encode(id);
    text.push(char::from(conf.mark.unwrap_or(b'=')));
    text.push('=');
    match *conf.expires {
        Expires::Never => {}
        Expires::Max => text.push_str("; expires=Thu, 31-Dec-37 23:55:55 GMT"),
        Expires::After(span) => {
            let _ = write!(text, "; expires={}", cookie_time(now.saturating_add(span.as_secs())));
        }
    }
    if !conf.domain.is_empty() {
        let _ = write!(text, "; domain={}", *conf.domain);
    }
    let _ = write!(text, "; path={}", *conf.path);
    for (flag, set) in [("secure", conf.flags.secure), ("httponly", conf.flags.httponly)] {
        if set {
            let _ = write!(text, "; {flag}");
        }
    }
    if let Some(samesite) = conf.flags.samesite {
        let _ = write!(text, "; {samesite}");
    }
    out.extend_from_slice(text.as_bytes());
    out
}

/// A time as old browsers take it in cookies: two digits of the year up to 2037 (ngx_http_cookie_time).
fn cookie_time(at: u64) -> String {
    // Beyond the calendar it is its end.
    let at = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let at = at.unwrap_or(jiff::Timestamp::MAX);
    let at = jiff::tz::TimeZone::UTC.to_datetime(at);
    let year = if at.year() > 2037 { "%Y" } else { "%y" };
    at.strftime(&format!("%a, %d-%b-{year} %H:%M:%S GMT")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = [0, 0, 1, 2, 0x6b, 0, 0x5c, 0xc0, 0x9e, 0x68, 0x4a, 0x7c, 3, 3, 15, 2];

    /// As nginx 1.22 wrote it, on a machine that stores the low byte first.
    #[test]
    #[cfg(target_endian = "little")]
    fn an_identifier_in_logs() {
        assert_eq!(in_hex(&ID), "02010000C05C006B7C4A689E020F0303");
    }

    #[test]
    fn cookies_as_nginx_writes_them() {
        let mut conf = Conf::default();
        let text = |conf: &Conf| String::from_utf8(cookie(conf, &ID, 1_700_000_000)).unwrap();
        assert_eq!(text(&conf), "uid=AAABAmsAXMCeaEp8AwMPAg==; path=/");
        conf.mark.replace(Some(b'A'));
        conf.domain.replace("example.com".into());
        conf.path.replace("/p".into());
        conf.expires.replace(Expires::After(Duration::from_secs(86_400)));
        conf.flags.replace(Flags { off: true, secure: true, httponly: true, samesite: Some("samesite=lax") });
        assert_eq!(
            text(&conf),
            "uid=AAABAmsAXMCeaEp8AwMPAgA=; expires=Wed, 15-Nov-23 22:13:20 GMT; domain=example.com; \
             path=/p; secure; httponly; samesite=lax"
        );
    }

    #[test]
    fn times_of_cookies() {
        assert_eq!(cookie_time(0), "Thu, 01-Jan-70 00:00:00 GMT");
        assert_eq!(cookie_time(2_145_916_800), "Fri, 01-Jan-2038 00:00:00 GMT");
        assert!(cookie_time(u64::MAX).ends_with(" GMT"));
    }

    #[test]
    fn the_end_of_an_address() {
        let of = |text: &str| address(&Address::Inet(text.parse().unwrap()));
        assert_eq!(of("1.2.3.4:80"), [1, 2, 3, 4]);
        assert_eq!(of("[2001:db8::1:203]:80"), [0, 1, 2, 3]);
        assert_eq!(address(&Address::Unix("/x".into())), [0; 4]);
    }
}
