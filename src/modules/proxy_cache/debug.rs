//! `proxy_cache_debug`: tells chosen clients how the cache answered, in `Cache-Status` (RFC 9211) and
//! in `X-Cache`.

use super::{Before, Conf};
use crate::cache::CacheStatus;
use crate::cache::seen::Tier;
use crate::conf::cidr::{self, Cidr};
use crate::conf::{Builder, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::Request;
use crate::http::filters::Filter;
use crate::http::request::Address;
use crate::http::response::Response;
use sfv::{ItemSerializer, KeyRef, StringRef, TokenRef};
use std::fmt::Write;

/// How this cache is called in `Cache-Status`.
const NAME: &TokenRef = TokenRef::constant("Edgewater");

/// So much of a key is told, in characters as sent; a longer one is cut.
const LONGEST_KEY: usize = 256;

/// Who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Debug {
    /// Nobody.
    #[default]
    Off,
    /// Everybody.
    All,
    /// Clients of these networks.
    Of(Vec<Cidr>),
}

impl Debug {
    fn tells(&self, peer: &Address) -> bool {
        match (self, peer) {
            (Debug::Off, _) => false,
            (Debug::All, _) => true,
            (Debug::Of(list), Address::Inet(address)) => list.iter().any(|net| net.contains(address.ip())),
            (Debug::Of(list), Address::Unix(_)) => list.contains(&Cidr::Unix),
        }
    }
}

/// Reads `proxy_cache_debug off | all | network …`.
pub fn directive(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let debug = match d.args.as_slice() {
        [one] if one == "off" => Debug::Off,
        [one] if one == "all" => Debug::All,
        list => Debug::Of(list.iter().map(|text| network(b, text)).collect::<ConfResult<_>>()?),
    };
    b.loc().proxy_cache.debug.set(debug)
}

fn network(b: &mut Builder, text: &str) -> ConfResult<Cidr> {
    if text == "unix:" {
        return Ok(Cidr::Unix);
    }
    let parsed = cidr::parse(text).ok_or_else(|| {
        ConfError::new(format!("invalid parameter \"{text}\""))
            .hint("\"off\", \"all\", or addresses, networks as in 10.0.0.0/8, \"unix:\"")
    })?;
    if parsed.low_bits {
        b.note(NoteLevel::Warn, format!("low address bits of {text} are meaningless"));
    }
    Ok(parsed.cidr)
}

/// Adds the fields. It costs nothing where nobody is told.
pub const FILTER: Filter = Filter {
    wants: |loc| *loc.proxy_cache.debug != Debug::Off,
    subrequests: false,
    pure: false,
    call: |rq, response| {
        if wanted(rq)
            && let Some(told) = Told::of(rq)
        {
            tell(&told, response);
        }
    },
};

/// Whether this client is told.
pub fn wanted(rq: &Request) -> bool {
    rq.loc().proxy_cache.debug.tells(rq.peer())
}

fn tell(told: &Told<'_>, response: &mut Response) {
    // A response that takes another's place has its fields already.
    let has_ours = response.fields.all("cache-status").any(|v| v.starts_with(NAME.as_str().as_bytes()));
    if !has_ours {
        // A cache behind this one has said its own before (RFC 9211, 2).
        response.fields.add_static("Cache-Status", told.field());
        response.fields.add_static("X-Cache", told.status.map_or("MISS", CacheStatus::as_str));
    }
}

/// What is told.
#[derive(Debug, PartialEq, Eq)]
struct Told<'a> {
    /// nginx's word; `None` where the method is not one whose answers are kept.
    status: Option<CacheStatus>,
    /// Why it went upstream; `None` is a hit (RFC 9211, 2.1 and 2.2).
    forward: Option<&'static TokenRef>,
    /// What the upstream answered, if it was asked and answered.
    forward_status: Option<u16>,
    stored: bool,
    /// Whether it shares another's request to the upstream.
    collapsed: bool,
    /// Milliseconds.
    ttl: Option<i64>,
    key: &'a [u8],
    detail: Option<&'static str>,
}

impl Told<'_> {
    /// `None` where there is no cache, or it was not asked.
    fn of(rq: &Request) -> Option<Told<'_>> {
        let Conf { active, .. } = &rq.loc().proxy_cache;
        let last = rq.attempts.last();
        let forward_status = last.map(|attempt| attempt.status).filter(|status| *status > 0);
        let Some(status) = rq.cache_status else {
            let told = Told {
                status: None,
                forward: Some(TokenRef::constant("method")),
                forward_status,
                stored: false,
                collapsed: false,
                ttl: None,
                key: b"",
                detail: None,
            };
            return (active.is_some() && last.is_some() && !super::wants(rq)).then_some(told);
        };
        let seen = &rq.cache_seen;
        let filling = seen.source.is_some_and(|source| source.tier == Tier::Fill);
        // Only the one that started a fill has an attempt to show for it.
        let collapsed = filling && status == CacheStatus::Hit;
        let forward = match status {
            CacheStatus::Hit if collapsed => Some(TokenRef::constant("miss")),
            CacheStatus::Hit | CacheStatus::Updating => None,
            // A stale answer is a hit unless the upstream was asked first, in vain.
            CacheStatus::Stale => last.map(|_| TokenRef::constant("stale")),
            // It was fresh, and the client wanted more (`proxy_cache_rfc9111 on`).
            _ if seen.before == Before::Fresh && status != CacheStatus::Bypass => {
                Some(TokenRef::constant("request"))
            }
            CacheStatus::Expired | CacheStatus::Revalidated => Some(TokenRef::constant("stale")),
            CacheStatus::Bypass => Some(TokenRef::constant("bypass")),
            CacheStatus::Miss if seen.before == Before::OtherVariant => Some(TokenRef::constant("vary-miss")),
            CacheStatus::Miss => Some(TokenRef::constant("uri-miss")),
        };
        let detail = seen.source.map(|source| match source.refusal {
            Some(why) => why.as_str(),
            None => source.tier.as_str(),
        });
        Some(Told {
            status: Some(status),
            forward,
            forward_status: forward_status.filter(|_| forward.is_some()),
            stored: filling && !collapsed && seen.source.is_some_and(|source| source.refusal.is_none()),
            collapsed,
            ttl: seen.ttl(),
            key: &seen.key,
            detail,
        })
    }

    /// The field's value, a list of one.
    fn field(&self) -> String {
        const HIT: &KeyRef = KeyRef::constant("hit");
        const FORWARD: &KeyRef = KeyRef::constant("fwd");
        const FORWARD_STATUS: &KeyRef = KeyRef::constant("fwd-status");
        const STORED: &KeyRef = KeyRef::constant("stored");
        const COLLAPSED: &KeyRef = KeyRef::constant("collapsed");
        const TTL: &KeyRef = KeyRef::constant("ttl");
        const KEY: &KeyRef = KeyRef::constant("key");
        const DETAIL: &KeyRef = KeyRef::constant("detail");
        let mut item = ItemSerializer::new().bare_item(NAME);
        item = match self.forward {
            None => item.parameter(HIT, true),
            Some(why) => item.parameter(FORWARD, why),
        };
        if let Some(status) = self.forward_status {
            item = item.parameter(FORWARD_STATUS, status);
        }
        for (name, _) in [(STORED, self.stored), (COLLAPSED, self.collapsed)].iter().filter(|(_, on)| *on) {
            item = item.parameter(name, true);
        }
        // Whole seconds; what has just become stale is less than none.
        let ttl =
            self.ttl.map(|millis| millis.div_euclid(1000)).and_then(|ttl| sfv::Integer::try_from(ttl).ok());
        if let Some(ttl) = ttl {
            item = item.parameter(TTL, ttl);
        }
        if let Ok(key) = StringRef::from_str(&printable(self.key))
            && !self.key.is_empty()
        {
            item = item.parameter(KEY, key);
        }
        if let Some(Ok(detail)) = self.detail.map(TokenRef::from_str) {
            item = item.parameter(DETAIL, detail);
        }
        item.finish()
    }
}

/// A key in the characters that a string of a field may have: the others as in a URL.
fn printable(key: &[u8]) -> String {
    let mut out = String::new();
    for byte in key {
        if out.len() + 3 > LONGEST_KEY {
            out.push_str("...");
            break;
        }
        match byte {
            b' '..=b'~' => out.push(char::from(*byte)),
            // Writing to memory does not fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::freshness::Refusal;
    use crate::cache::seen::Source;
    use crate::observe::testing::Running;
    use proptest::prelude::*;
    use sfv::{List, Parser};

    const PLAIN: Told<'_> = Told {
        status: Some(CacheStatus::Hit),
        forward: None,
        forward_status: None,
        stored: false,
        collapsed: false,
        ttl: None,
        key: b"",
        detail: None,
    };

    fn error(directives: &str) -> ConfError {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("events {{}}\nhttp {{\n{directives}\n}}");
        crate::conf::build::load_text(dir.path(), &text).err().unwrap()
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("proxy_cache_debug on;", "invalid parameter \"on\""),
            ("proxy_cache_debug off 10.0.0.1;", "invalid parameter \"off\""),
            ("proxy_cache_debug 10.0.0.0/33;", "invalid parameter \"10.0.0.0/33\""),
            ("proxy_cache_debug;", "invalid number of arguments in \"proxy_cache_debug\" directive"),
            ("proxy_cache_debug all; proxy_cache_debug all;", "\"proxy_cache_debug\" directive is duplicate"),
        ] {
            let error = error(text);
            assert_eq!((error.message.as_str(), error.at.map(|at| at.line)), (message, Some(3)), "{text}");
        }
        assert!(
            error("proxy_cache_debug on;").to_string().contains("= hint: \"off\", \"all\", or addresses")
        );
    }

    #[test]
    fn who_is_told() {
        let of = |text: &str| Debug::Of(text.split(' ').map(|t| cidr::parse(t).unwrap().cidr).collect());
        let inet = |text: &str| Address::Inet(std::net::SocketAddr::new(text.parse().unwrap(), 1));
        let unix = Address::Unix("/run/x".into());
        assert!(!Debug::Off.tells(&inet("127.0.0.1")) && Debug::All.tells(&inet("127.0.0.1")));
        assert!(Debug::All.tells(&unix) && !of("::/0").tells(&unix));
        assert!(Debug::Of(vec![Cidr::Unix]).tells(&unix));
        assert!(of("10.0.0.0/8 ::1").tells(&inet("10.9.9.9")) && of("10.0.0.0/8 ::1").tells(&inet("::1")));
        assert!(!of("10.0.0.0/8 ::1").tells(&inet("11.0.0.1")));
    }

    #[test]
    fn fields_as_the_standard_has_them() {
        let token = TokenRef::constant;
        let hit = Told { ttl: Some(9_999), key: b"http://o/a b\"c", detail: Some("memory"), ..PLAIN };
        let stale = Told { ttl: Some(-1), detail: Some("memory"), ..PLAIN };
        let miss = Told {
            forward: Some(token("uri-miss")),
            forward_status: Some(200),
            stored: true,
            detail: Some("fill"),
            ..PLAIN
        };
        let shared = Told { forward: Some(token("miss")), collapsed: true, key: b"\0\xc3\xa4\\", ..PLAIN };
        for (told, field) in [
            (hit, r#"Edgewater;hit;ttl=9;key="http://o/a b\"c";detail=memory"#),
            (stale, "Edgewater;hit;ttl=-1;detail=memory"),
            (miss, "Edgewater;fwd=uri-miss;fwd-status=200;stored;detail=fill"),
            (shared, r#"Edgewater;fwd=miss;collapsed;key="%00%C3%A4\\""#),
        ] {
            assert_eq!(told.field(), field);
        }
    }

    proptest! {
        #[test]
        fn any_key_makes_a_field_that_can_be_read(key: Vec<u8>, ttl in prop::option::of(any::<i64>())) {
            let told = Told { key: &key, ttl, ..PLAIN };
            let field = told.field();
            let list: List = Parser::new(&field).parse().unwrap();
            prop_assert_eq!(list.len(), 1);
            prop_assert!(printable(&key).len() <= LONGEST_KEY + 3);
        }
    }

    #[test]
    fn why_it_went_upstream() {
        let running = Running::start(
            "proxy_cache_path c keys_zone=z:1m;
             server { listen LISTEN; proxy_cache z; }",
        );
        let mut rq = running.request("/");
        rq.attempts.push(crate::http::request::Attempt { status: 503, ..Default::default() });
        let source = |tier| Some(Source { tier, ..Source::default() });
        let refused = Some(Source { refusal: Some(Refusal::SetCookie), ..Source::default() });
        use CacheStatus::{Bypass, Expired, Hit, Miss, Revalidated, Stale, Updating};
        for (status, source, asked, wanted) in [
            (Hit, source(Tier::Memory), false, "hit;detail=memory"),
            (Hit, source(Tier::Fill), false, "fwd=miss;collapsed;detail=fill"),
            (Hit, None, false, "hit"),
            (Updating, source(Tier::Disk), false, "hit;detail=disk"),
            (Stale, source(Tier::Memory), false, "hit;detail=memory"),
            (Stale, source(Tier::Memory), true, "fwd=stale;fwd-status=503;detail=memory"),
            (Revalidated, source(Tier::Memory), true, "fwd=stale;fwd-status=503;detail=memory"),
            (Expired, source(Tier::Fill), true, "fwd=stale;fwd-status=503;stored;detail=fill"),
            (Bypass, source(Tier::Origin), true, "fwd=bypass;fwd-status=503;detail=origin"),
            (Miss, source(Tier::Fill), true, "fwd=uri-miss;fwd-status=503;stored;detail=fill"),
            (Miss, refused, true, "fwd=uri-miss;fwd-status=503;detail=set_cookie"),
            (Miss, None, true, "fwd=uri-miss;fwd-status=503"),
        ] {
            let mut rq = rq.copy();
            rq.cache_status = Some(status);
            rq.cache_seen.source = source;
            if !asked {
                rq.attempts.clear();
            }
            assert_eq!(Told::of(&rq).unwrap().field(), format!("Edgewater;{wanted}"), "{status:?}");
        }
        rq.cache_status = Some(Miss);
        rq.cache_seen.before = Before::OtherVariant;
        assert_eq!(Told::of(&rq).unwrap().field(), "Edgewater;fwd=vary-miss;fwd-status=503");
        (rq.cache_status, rq.cache_seen.before) = (Some(Revalidated), Before::Fresh);
        assert_eq!(Told::of(&rq).unwrap().field(), "Edgewater;fwd=request;fwd-status=503");
    }
}
