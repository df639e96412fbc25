//! nginx's sub module: texts of a response replaced by others.

mod replace;

use super::media_types::{self, Types};
use crate::conf::values::flag;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::body::Body;
use crate::http::filters::{self, Filter};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::template::Template;
use crate::settings;
use replace::{Matcher, Replaced};
use std::sync::Arc;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `sub_filter`s in their order.
        inherit pairs: Vec<Arc<Pair>> = Vec::new(),
        /// Whether each text is replaced once only.
        inherit once: bool = true,
        /// The types in which texts are replaced.
        inherit types: Types = Types::html(),
        /// Whether `Last-Modified` stays.
        inherit last_modified: bool = false,
        /// The texts of `pairs`, when they are always the same.
        inherit matcher: Option<Arc<Matcher>> = None,
    }
}

/// One `sub_filter`.
#[derive(Debug)]
pub struct Pair {
    text: Template,
    replacement: Template,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("sub_filter", sub_filter, "a text of responses and what replaces it"),
    Command::works(
        "sub_filter_once",
        |b, d| {
            let v = flag(d)?;
            b.loc().sub.once.set(v)
        },
        "whether each text is replaced once only",
    ),
    Command::works(
        "sub_filter_types",
        |b, d| media_types::read(b, d, |loc| &mut loc.sub.types),
        "the types in which texts are replaced; text/html always is one",
    ),
    Command::works(
        "sub_filter_last_modified",
        |b, d| {
            let v = flag(d)?;
            b.loc().sub.last_modified.set(v)
        },
        "whether Last-Modified stays with what was changed",
    ),
];

fn sub_filter(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.arg(0).is_empty() {
        return Err(ConfError::new("empty search pattern"));
    }
    let (text, replacement) = (b.template(d.arg(0))?, b.template(d.arg(1))?);
    b.loc().sub.pairs.edit().push(Arc::new(Pair { text, replacement }));
    // Made once for each level that names texts, and inherited with them.
    let texts = b.loc().sub.pairs.iter().map(|pair| pair.text.constant()).collect::<Option<Vec<_>>>();
    b.loc().sub.matcher.replace(texts.map(|texts| Arc::new(Matcher::new(texts))));
    Ok(())
}

/// Replaces texts where there are some to replace; in the answers to subrequests too, each for itself.
pub const FILTER: Filter =
    Filter { wants: |loc| !loc.sub.pairs.is_empty(), subrequests: true, pure: false, call: apply };

fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().sub;
    // Of a 204 nothing says how long it is.
    let empty = filters::length(rq, response) == Some(0) && response.status != 204;
    if empty || !conf.types.has(response) || response.tunnel.is_some() {
        return;
    }
    if conf.pairs.iter().any(|pair| pair.replacement.constant().is_none()) {
        crate::http::h1::record(rq, response);
    }
    let conf = &rq.loc().sub;
    let (matcher, pairs) = match &*conf.matcher {
        Some(matcher) => (matcher.clone(), conf.pairs.iter().collect::<Vec<_>>()),
        None => {
            // A text that comes out empty is none.
            let texts = conf.pairs.iter().map(|pair| (pair.text.eval(rq), pair));
            let (texts, pairs): (Vec<_>, Vec<_>) = texts.filter(|(text, _)| !text.is_empty()).unzip();
            (Arc::new(Matcher::new(texts)), pairs)
        }
    };
    if pairs.is_empty() {
        return;
    }
    let replacements = pairs.iter().map(|pair| pair.replacement.eval(rq)).collect();
    let (once, keep) = (*conf.once, *conf.last_modified);
    response.length = None;
    response.ranges = false;
    if keep {
        filters::weaken(&mut response.etag);
    } else {
        response.etag = None;
        response.last_modified = None;
    }
    let body = std::mem::take(&mut response.body);
    response.body = Body::Stream(Box::new(Replaced::new(body, matcher, replacements, once)));
}
