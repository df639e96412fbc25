//! nginx's addition module: the answers to subrequests before and after a response's body.

use crate::conf::{Builder, Command, ConfResult, Directive, Setting};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::filters::{self, Filter};
use crate::http::included::Included;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::modules::media_types::{self, Types};
use crate::settings;
use bytes::Bytes;
use std::collections::VecDeque;
use std::task::{Context, Poll};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// The URI whose answer stands before the body; none when empty.
        inherit before: Bytes = Bytes::new(),
        /// The URI whose answer stands after it; none when empty.
        inherit after: Bytes = Bytes::new(),
        /// The types that are added to.
        inherit types: Types = Types::html(),
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "add_before_body",
        |b, d| uri(b, d, |conf| &mut conf.before),
        "the URI whose answer stands before the body",
    ),
    Command::works(
        "add_after_body",
        |b, d| uri(b, d, |conf| &mut conf.after),
        "the URI whose answer stands after the body",
    ),
    Command::works(
        "addition_types",
        |b, d| media_types::read(b, d, |loc| &mut loc.addition.types),
        "the types that are added to; text/html always is",
    ),
];

/// Stands behind the filters that change text: they are not for what is added, which has had its own.
pub const FILTER: Filter = Filter {
    wants: |loc| !loc.addition.before.is_empty() || !loc.addition.after.is_empty(),
    subrequests: false,
    pure: false,
    call: apply,
};

fn uri(b: &mut Builder, d: &Directive, which: fn(&mut Conf) -> &mut Setting<Bytes>) -> ConfResult<()> {
    which(&mut b.loc().addition).set(Bytes::copy_from_slice(d.arg(0).as_bytes()))
}

fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().addition;
    if response.status != 200 || response.tunnel.is_some() || !conf.types.has(response) {
        return;
    }
    let mut parts = VecDeque::with_capacity(3);
    let answer = |uri: &Bytes| match rq.below(uri.clone(), Bytes::new()) {
        Some(below) => Body::Stream(Box::new(Included::new(below))),
        // Why is in the log; what is missing must be seen.
        None => Body::Stream(Box::new(Broken)),
    };
    if !conf.before.is_empty() {
        parts.push_back(answer(&conf.before));
    }
    parts.push_back(std::mem::take(&mut response.body));
    if !conf.after.is_empty() {
        parts.push_back(answer(&conf.after));
    }
    filters::changes_body(response);
    response.body = Body::chain(parts);
}

/// What could not be asked for.
struct Broken;

impl BodyStream for Broken {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(Some(Err(BodyError::Upstream("too many subrequests within each other".into()))))
    }
}
