//! nginx's auth_request module: a subrequest says whether the client may have what it asks for.

use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};
use crate::http::phases::{self, Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::template::Template;
use crate::http::vars::VarId;
use crate::settings;
use bytes::Bytes;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// The URI that is asked; none with `off`.
        inherit uri: Option<Bytes> = None,
        /// Variables and what they become once it has answered. A level that has any has none of the
        /// outer level's.
        inherit variables: Vec<(VarId, Template)> = Vec::new(),
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("auth_request", auth_request, "the URI that is asked whether a request is let in"),
    Command::works("auth_request_set", auth_request_set, "a variable taken from its answer"),
];

/// Runs in its phase.
pub const HANDLER: Handler = Handler {
    phase: Phase::Access,
    wants: |loc| loc.auth_request.uri.is_some(),
    call: Call::Later(handle),
    pure: false,
    gate: None,
};

fn auth_request(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let uri = match d.arg(0) {
        "off" => None,
        uri => Some(Bytes::copy_from_slice(uri.as_bytes())),
    };
    b.loc().auth_request.uri.set(uri)
}

fn auth_request_set(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d.arg(0).strip_prefix('$').filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| ConfError::new(format!("invalid variable name \"{}\"", d.arg(0))))?;
    let id = b.vars.slot(name)?;
    let value = b.template(d.arg(1))?;
    b.loc().auth_request.variables.edit().push((id, value));
    Ok(())
}

fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(run(rq))
}

async fn run(rq: &mut Request) -> Flow {
    let Some(uri) = (*rq.loc().auth_request.uri).clone() else { return Flow::Continue };
    let Some(mut below) = rq.below(uri, Bytes::new()) else { return Flow::status(500) };
    let response = tokio::select! {
        // One that sends nothing more is not left alone with an answer that is at hand.
        biased;
        response = phases::subrequest(&mut below) => response,
        () = rq.downstream.gone() => return Flow::status(499),
    };
    // `$status` of the answer is for the variables to read.
    crate::http::h1::record(&mut below, &response);
    take_over(rq, &mut below);
    verdict(rq, &below, &response)
}

/// Takes over what the subrequest left in the variables, and what is to be taken from its answer.
fn take_over(rq: &mut Request, below: &mut Request) {
    // By a handle of our own: writing a variable may change the request.
    let local = rq.local.clone();
    let variables = &local.generation.http.levels[rq.level].conf.auth_request.variables;
    let mut values = Vec::with_capacity(variables.len());
    for (id, value) in variables.iter() {
        let value = value.eval(below);
        // The next one may be made of this.
        below.set_variable(*id, value.clone());
        values.push((*id, value));
    }
    rq.take_variables(below);
    for (id, value) in values {
        rq.set_variable(id, value);
    }
}

/// What the answer's status means for the request.
fn verdict(rq: &Request, below: &Request, response: &Response) -> Flow {
    match response.status {
        200..=299 => Flow::Allow,
        403 => Flow::status(403),
        401 => Flow::special(challenge(below, response)),
        // The connection is done with, as it is where the request itself has such an answer.
        status @ (408 | 444 | 499) if response.silent => Flow::status(status),
        status => {
            crate::observe::request_error(rq, format_args!("auth request unexpected status: {status}"));
            Flow::status(500)
        }
    }
}

/// A 401 with the challenges of the answer, or, where it hides them, of the upstream's.
fn challenge(below: &Request, response: &Response) -> Response {
    const NAME: &str = "WWW-Authenticate";
    let mut refusal = Response::new(401);
    let shown = if response.fields.get(NAME).is_some() {
        Some(&response.fields)
    } else {
        below.upstream_fields.as_deref()
    };
    for value in shown.iter().flat_map(|fields| fields.all(NAME)) {
        refusal.fields.add_static(NAME, value.clone());
    }
    refusal
}
