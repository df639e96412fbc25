//! nginx's headers module: `add_header`, `add_trailer`, `expires`.

mod expires;
mod trailers;

use crate::conf::dump::Dump;
use crate::conf::values::one_of;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, Inherit, Setting};
use crate::http::filters::Filter;
use crate::http::request::Request;
use crate::http::response::{Mark, Modified, Response};
use crate::http::template::Template;
use crate::http::vars::Variable;
use bytes::Bytes;
use expires::{Expires, expires, set_expires};
use std::sync::Arc;

pub use trailers::{expects_trailers, joined, trailers};

/// What a level configures.
#[derive(Clone)]
pub struct Conf {
    /// `add_header`
    pub added: Setting<Vec<Arc<Added>>>,
    /// What becomes of the outer level's `add_header`s.
    pub added_inherit: Setting<InheritAdded>,
    /// `add_trailer`
    pub trailers: Setting<Vec<Arc<Added>>>,
    /// What becomes of the outer level's `add_trailer`s.
    pub trailers_inherit: Setting<InheritAdded>,
    /// `expires`
    pub expires: Setting<Expires>,
}

/// One `add_header` or `add_trailer`.
#[derive(Debug)]
pub struct Added {
    name: Bytes,
    value: Template,
    /// Whether the value is always the same.
    constant: bool,
    /// Whether it is added whatever the status.
    always: bool,
}

/// `add_header_inherit`, `add_trailer_inherit`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InheritAdded {
    /// The outer level's list, where a level has none of its own.
    On,
    /// Never.
    Off,
    /// The outer level's list after the level's own.
    Merge,
}

impl Default for Conf {
    fn default() -> Conf {
        Conf {
            added: Setting::new(Vec::new()),
            added_inherit: Setting::new(InheritAdded::On),
            trailers: Setting::new(Vec::new()),
            trailers_inherit: Setting::new(InheritAdded::On),
            expires: Setting::new(Expires::Off),
        }
    }
}

impl Inherit for Conf {
    fn inherit(&mut self, outer: &Conf) {
        self.expires.inherit(&outer.expires);
        self.added_inherit.inherit(&outer.added_inherit);
        take_over(&mut self.added, &outer.added, *self.added_inherit);
        self.trailers_inherit.inherit(&outer.trailers_inherit);
        take_over(&mut self.trailers, &outer.trailers, *self.trailers_inherit);
    }

    fn dump(&self, default: &Conf, name: &str, out: &mut Dump) {
        self.added.dump(&default.added, &out.join(name, "added"), out);
        self.added_inherit.dump(&default.added_inherit, &out.join(name, "added_inherit"), out);
        self.trailers.dump(&default.trailers, &out.join(name, "trailers"), out);
        self.trailers_inherit.dump(&default.trailers_inherit, &out.join(name, "trailers_inherit"), out);
        self.expires.dump(&default.expires, &out.join(name, "expires"), out);
    }
}

fn take_over(own: &mut Setting<Vec<Arc<Added>>>, outer: &Setting<Vec<Arc<Added>>>, how: InheritAdded) {
    match how {
        InheritAdded::Off => {}
        InheritAdded::On => own.inherit(outer),
        InheritAdded::Merge => own.edit().extend(outer.iter().cloned()),
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "add_header",
        |b, d| {
            let added = added(b, d)?;
            b.loc().headers.added.edit().push(added);
            Ok(())
        },
        "a field of responses",
    ),
    Command::works(
        "add_header_inherit",
        |b, d| b.loc().headers.added_inherit.set(inheritance(d)?),
        "what becomes of the outer level's add_header",
    ),
    Command::works(
        "add_trailer",
        |b, d| {
            let added = added(b, d)?;
            b.loc().headers.trailers.edit().push(added);
            Ok(())
        },
        "a field after the body of responses",
    ),
    Command::works(
        "add_trailer_inherit",
        |b, d| b.loc().headers.trailers_inherit.set(inheritance(d)?),
        "what becomes of the outer level's add_trailer",
    ),
    Command::works("expires", expires, "how long responses may be kept"),
];

/// The variables.
pub const VARIABLES: &[Variable] =
    &[Variable::prefix("sent_trailer_", |rq, name, out| joined(&rq.sent.trailers, name, out))];

fn inheritance(d: &Directive) -> ConfResult<InheritAdded> {
    use InheritAdded::{Merge, Off, On};
    one_of(d, &[("on", On), ("off", Off), ("merge", Merge)])
}

fn added(b: &mut Builder, d: &Directive) -> ConfResult<Arc<Added>> {
    let always = match d.args.get(2).map(String::as_str) {
        None => false,
        Some("always") => true,
        Some(other) => return Err(ConfError::new(format!("invalid parameter \"{other}\""))),
    };
    let value = b.template(d.arg(1))?;
    let name = Bytes::copy_from_slice(d.arg(0).as_bytes());
    let constant = value.constant().is_some();
    Ok(Arc::new(Added { name, value, constant, always }))
}

/// Whether a status is one that fields are added to without `always`.
fn is_plain(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// Whether a value that is added may depend on the response, so that the response must be known first.
pub fn reads_response(loc: &crate::modules::LocConf) -> bool {
    let conf = &loc.headers;
    matches!(*conf.expires, Expires::Variable { .. }) || conf.added.iter().any(|a| !a.constant)
}

/// Adds fields where there are some to add.
pub const FILTER: Filter = Filter {
    wants: |loc| {
        let conf = &loc.headers;
        let none = conf.added.is_empty() && conf.trailers.is_empty();
        !none || !matches!(*conf.expires, Expires::Off)
    },
    subrequests: false,
    pure: true,
    call: apply,
};

/// Adds what is configured to a response (ngx_http_headers_filter).
pub fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().headers;
    let plain = is_plain(response.status);
    response.trailers = conf.trailers.iter().any(|added| plain || added.always);
    if plain {
        set_expires(rq, &conf.expires, response);
    }
    for added in conf.added.iter().filter(|a| plain || a.always) {
        let value = added.value.eval(rq);
        if added.name.eq_ignore_ascii_case(b"last-modified") {
            set_last_modified(response, value);
        } else if added.name.eq_ignore_ascii_case(b"etag") {
            if response.etag.is_none() {
                response.fields.mark(Mark::ETag);
            }
            response.etag = (!value.is_empty()).then_some(value);
            response.write_usual_name(Mark::ETag);
        } else if !value.is_empty() {
            response.fields.add(added.name.clone(), value);
        }
    }
}

/// An empty value takes the field away. One that is no date is sent all the same, but nothing can be
/// compared with it.
fn set_last_modified(response: &mut Response, value: Bytes) {
    response.write_usual_name(Mark::LastModified);
    response.last_modified = (!value.is_empty()).then(|| Modified::Written(value));
    if !response.fields.is_marked(Mark::LastModified) {
        response.fields.mark(Mark::LastModified);
    }
}

#[cfg(test)]
mod tests;
