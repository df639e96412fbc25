//! nginx's charset module: the charset of responses, told and changed.

mod map;
mod recode;

use super::media_types::{self, HTML, Types};
use crate::conf::values::flag;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, LevelKind, Setting};
use crate::http::body::Body;
use crate::http::filters::Filter;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::vars::VarId;
use crate::modules::LocConf;
use crate::observe::error_log::Level;
use crate::observe::request_log;
use crate::settings;
use bytes::Bytes;
use map::Table;
use recode::{Recoded, Recoder};
use std::sync::Arc;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// What responses are sent in.
        inherit charset: Charset = Charset::Off,
        /// What responses are written in, where they do not say it.
        inherit source: Charset = Charset::Off,
        /// Whether what an upstream says of its charset may be replaced.
        inherit overrides: bool = false,
        /// The types whose charset is told.
        inherit types: Types = default_types(),
    }
}

fn default_types() -> Types {
    const TEXT: [&[u8]; 5] =
        [b"text/xml", b"text/plain", b"text/vnd.wap.wml", b"application/javascript", b"application/rss+xml"];
    Types::These(std::iter::once(HTML).chain(TEXT.map(Bytes::from_static)).collect())
}

/// A charset in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// None.
    Off,
    /// An index into [`Http`]'s names.
    Named(usize),
    /// This variable's value.
    Variable(VarId),
}

/// The charsets and maps of the whole of `http`.
#[derive(Default)]
pub struct Http {
    names: Vec<Bytes>,
    tables: Vec<Arc<Table>>,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "charset",
        |b, d| charset(b, d, true, |loc| &mut loc.charset.charset),
        "the charset in which responses are sent",
    ),
    Command::works(
        "source_charset",
        |b, d| charset(b, d, false, |loc| &mut loc.charset.source),
        "the charset in which responses are written",
    ),
    Command::works(
        "override_charset",
        |b, d| {
            let v = flag(d)?;
            b.loc().charset.overrides.set(v)
        },
        "whether what an upstream says of its charset may be replaced",
    ),
    Command::works(
        "charset_types",
        |b, d| media_types::read(b, d, |loc| &mut loc.charset.types),
        "the types whose charset is told; text/html always is one",
    ),
    Command::works("charset_map", charset_map, "how the bytes of one charset are written in another"),
];

fn charset(
    b: &mut Builder,
    d: &Directive,
    may_be_off: bool,
    field: fn(&mut LocConf) -> &mut Setting<Charset>,
) -> ConfResult<()> {
    let charset = match d.arg(0) {
        "off" if may_be_off => Charset::Off,
        name => match name.strip_prefix('$') {
            Some(variable) => Charset::Variable(b.variable(variable)),
            None => Charset::Named(b.http.charset.named(name)),
        },
    };
    field(b.loc()).set(charset)
}

fn charset_map(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (from, to) = (b.http.charset.named(d.arg(0)), b.http.charset.named(d.arg(1)));
    let between = || format!("between the charsets \"{}\" and \"{}\"", d.arg(0), d.arg(1));
    if from == to {
        return Err(ConfError::new(format!("\"charset_map\" {}, which are the same", between())));
    }
    if b.http.charset.tables.iter().any(|t| t.is_between(from, to)) {
        return Err(ConfError::new(format!("duplicate \"charset_map\" {}", between())));
    }
    if is_utf8(d.arg(0).as_bytes()) {
        return Err(ConfError::new("utf-8 cannot be the first charset of \"charset_map\"")
            .hint("name it second: each line gives a byte and then its UTF-8 bytes"));
    }
    let table = Table::read(b, d, from, to, is_utf8(d.arg(1).as_bytes()))?;
    b.http.charset.tables.push(Arc::new(table));
    Ok(())
}

fn is_utf8(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"utf-8")
}

impl Http {
    /// The index of a charset, which is added if it is new.
    fn named(&mut self, name: &str) -> usize {
        self.find(name.as_bytes()).unwrap_or_else(|| {
            self.names.push(Bytes::copy_from_slice(name.as_bytes()));
            self.names.len() - 1
        })
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        self.names.iter().position(|n| n.eq_ignore_ascii_case(name))
    }

    /// What makes one charset of another; `None` without a map between them.
    fn recoder(&self, from: usize, to: usize) -> Option<Recoder> {
        let table = self.tables.iter().find(|t| t.is_between(from, to))?;
        Some(Recoder::new(table.clone(), from))
    }
}

/// What is to be recoded needs a map, which may stand anywhere in `http`.
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    for level in b.levels.iter().filter(|level| level.kind != LevelKind::Http) {
        let (to, from) = (*level.conf.charset.charset, *level.conf.charset.source);
        if let (Charset::Named(to), Charset::Named(from)) = (to, from)
            && from != to
            && b.http.charset.recoder(from, to).is_none()
        {
            let name = |of: usize| String::from_utf8_lossy(&b.http.charset.names[of]).into_owned();
            return Err(ConfError::new(format!(
                "no \"charset_map\" between the charsets \"{}\" and \"{}\"",
                name(from),
                name(to)
            ))
            .at(&level.at));
        }
    }
    Ok(())
}

/// Tells the charset, and recodes. An upstream may ask for it by `X-Accel-Charset`, wherever a
/// location has a handler of its own.
pub const FILTER: Filter = Filter {
    wants: |loc| {
        let off = *loc.charset.charset == Charset::Off && *loc.charset.source == Charset::Off;
        !off || loc.core.content.is_some()
    },
    subrequests: true,
    pure: true,
    call: apply,
};

/// A charset that a response is in or shall be in.
struct Named {
    name: Bytes,
    /// Its index, when the configuration knows it.
    index: Option<usize>,
}

impl Named {
    fn new(rq: &Request, name: Bytes) -> Named {
        let index = rq.http().conf.charset.find(&name);
        Named { name, index }
    }
}

/// Why nothing comes of it.
enum No {
    /// The response stays as it is.
    Change,
    /// A variable has no value: nginx closes the connection.
    Answer,
}

/// ngx_http_charset_header_filter
fn apply(rq: &mut Request, response: &mut Response) {
    let off = *rq.loc().charset.charset == Charset::Off && response.charset_override.is_none();
    // Without tables nothing will be recoded for the charset of the whole either.
    if off && (rq.depth == 0 && rq.http().conf.charset.tables.is_empty()) {
        return;
    }
    match charsets(rq, response) {
        Ok((to, from)) => change(rq, response, to, from),
        Err(No::Change) => {
            if let Some(own) = media_types::split(response).1 {
                rq.tell_charset(Bytes::copy_from_slice(own));
            }
        }
        Err(No::Answer) => {
            *response = Response { silent: true, ..Response::new(500) };
        }
    }
}

/// What the response shall be in, and what it is in; `None` for the latter when nothing says it.
fn charsets(rq: &Request, response: &Response) -> Result<(Named, Option<Named>), No> {
    let to = match rq.depth {
        0 => destination(rq, response)?,
        // A part of another response is in that one's charset.
        _ => Named::new(rq, rq.told_charset().ok_or(No::Change)?),
    };
    let from = match media_types::split(response).1 {
        Some(own) => Some(Bytes::copy_from_slice(own)),
        None => configured(rq, *rq.loc().charset.source)?,
    };
    Ok((to, from.map(|name| Named::new(rq, name))))
}

/// ngx_http_destination_charset
fn destination(rq: &Request, response: &Response) -> Result<Named, No> {
    if response.content_type.as_ref().is_none_or(Bytes::is_empty) {
        return Err(No::Change);
    }
    if let Some(name) = response.charset_override.as_ref().filter(|name| !name.is_empty()) {
        let named = Named::new(rq, name.clone());
        if named.index.is_none() {
            let name = String::from_utf8_lossy(name);
            request_log(rq, Level::Error, format_args!("unknown charset \"{name}\" to override"));
            return Err(No::Change);
        }
        return Ok(named);
    }
    let conf = &rq.loc().charset;
    if *conf.charset == Charset::Off {
        return Err(No::Change);
    }
    let may = match media_types::split(response).1 {
        Some(_) => *conf.overrides,
        None => conf.types.has(response),
    };
    if !may {
        return Err(No::Change);
    }
    configured(rq, *conf.charset)?.map(|name| Named::new(rq, name)).ok_or(No::Change)
}

fn configured(rq: &Request, charset: Charset) -> Result<Option<Bytes>, No> {
    match charset {
        Charset::Off => Ok(None),
        Charset::Named(index) => Ok(Some(rq.http().conf.charset.names[index].clone())),
        Charset::Variable(id) => rq.variable_value(id).map(Some).ok_or(No::Answer),
    }
}

fn change(rq: &mut Request, response: &mut Response, to: Named, from: Option<Named>) {
    let Some(from) = from else { return tell(rq, response, to.name) };
    let recoder = match (to.index, from.index) {
        (Some(to_index), Some(from_index)) if to_index == from_index => {
            cut_own(response);
            return tell(rq, response, to.name);
        }
        (Some(to_index), Some(from_index)) => {
            if response.fields.get("content-encoding").is_some_and(|coding| !coding.is_empty()) {
                return;
            }
            rq.http().conf.charset.recoder(from_index, to_index)
        }
        (None, None)
            if from.name.len() >= to.name.len()
                && from.name[..to.name.len()].eq_ignore_ascii_case(&to.name) =>
        {
            return tell(rq, response, to.name);
        }
        _ => None,
    };
    let Some(recoder) = recoder else {
        let (from, to) = (String::from_utf8_lossy(&from.name), String::from_utf8_lossy(&to.name));
        let text = format_args!("no \"charset_map\" between the charsets \"{from}\" and \"{to}\"");
        request_log(rq, Level::Error, text);
        return;
    };
    cut_own(response);
    tell(rq, response, to.name);
    if recoder.changes_length() {
        response.length = None;
        response.ranges = false;
    } else {
        // The body is another one, as long.
        response.length = response.content_length();
    }
    let body = std::mem::take(&mut response.body);
    response.body = Body::Stream(Box::new(Recoded::new(body, recoder)));
}

/// Takes the charset that an upstream told away.
fn cut_own(response: &mut Response) {
    let own = media_types::split(response).0.len();
    if let Some(kind) = &mut response.content_type {
        kind.truncate(own);
    }
    response.type_length = None;
}

/// Adds the charset to `Content-Type`, where none stands (ngx_http_set_charset).
fn tell(rq: &mut Request, response: &mut Response, name: Bytes) {
    // Old browsers took the charset of a redirect for that of the page it leads to.
    if rq.depth > 0 || matches!(response.status, 301 | 302) {
        return;
    }
    if let (Some(kind), None) = (&response.content_type, media_types::split(response).1)
        && !name.is_empty()
    {
        response.type_length = Some(kind.len());
        response.content_type = Some([&kind[..], b"; charset=", &name[..]].concat().into());
    }
    rq.tell_charset(name);
}
