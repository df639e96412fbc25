//! nginx's rewrite module: `rewrite`, `return`, `break`, `if`, `set`.
//!
//! The directives of a level become a list of steps that run in order, in the server before the
//! location is found and in the location after.

use crate::conf::values::number;
use crate::conf::{Builder, Command, ConfError, ConfResult, Context, Directive, LevelKind};
use crate::http::phases::Flow;
use crate::http::regex::Regex;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::template::Template;
use crate::http::uri::{self, Escape};
use crate::http::vars::VarId;
use crate::settings;
use bytes::Bytes;
use std::sync::Arc;

settings! {
    /// A level's steps.
    pub struct Conf {
        /// In order.
        own steps: Vec<Step> = Vec::new(),
    }
}

/// A step.
#[derive(Clone)]
pub enum Step {
    /// `set`
    Set(VarId, Template),
    /// `break`
    Break,
    /// `return`
    Return(Arc<Return>),
    /// `rewrite`
    Rewrite(Arc<Rewrite>),
    /// `if`: the condition, and the level and steps of its block.
    If(Arc<Condition>, usize),
}

/// As it is written, but for variables, which are numbers still.
impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Set(variable, value) => write!(f, "set $#{variable} {value:?}"),
            Step::Break => f.write_str("break"),
            Step::Return(r) => write!(f, "return {} {:?}", r.status, r.text),
            Step::Rewrite(r) => {
                let end = match (r.redirect, r.last, r.stop) {
                    (Some(status), ..) => status.to_string(),
                    (None, true, _) => "last".into(),
                    (None, false, true) => "break".into(),
                    (None, false, false) => "on".into(),
                };
                write!(f, "rewrite {:?} {:?} {:?} {end}", r.regex, r.uri, r.args)
            }
            Step::If(condition, _) => write!(f, "if ({condition:?})"),
        }
    }
}

/// `return code [text]` or `return code URL`.
pub struct Return {
    status: u16,
    text: Option<Template>,
}

/// `rewrite regex replacement [flag]`
pub struct Rewrite {
    regex: Arc<Regex>,
    /// The replacement; its query apart.
    uri: Template,
    args: Option<Template>,
    /// Whether the request's own query is added.
    keep_args: bool,
    /// A redirect to the client with this status.
    redirect: Option<u16>,
    /// `break`
    stop: bool,
    /// `last`
    last: bool,
}

/// The condition of an `if`.
pub enum Condition {
    /// `$x`: neither empty nor `0`.
    Truthy(VarId),
    /// `$x = y`, `$x != y`
    Equals(VarId, Template, bool),
    /// `$x ~ y` and the like
    Matches(VarId, Arc<Regex>, bool),
    /// `-f`, `-d`, `-e`, `-x` and their negations
    File(FileTest, Template, bool),
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = |wanted: &bool| if *wanted { "" } else { "!" };
        match self {
            Condition::Truthy(variable) => write!(f, "$#{variable}"),
            Condition::Equals(variable, value, wanted) => {
                write!(f, "$#{variable} {}= {value:?}", sign(wanted))
            }
            Condition::Matches(variable, regex, wanted) => {
                write!(f, "$#{variable} {}{regex:?}", sign(wanted))
            }
            Condition::File(test, path, wanted) => {
                write!(f, "{}{test:?} {path:?}", sign(wanted))
            }
        }
    }
}

/// What is asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTest {
    /// `-f`
    File,
    /// `-d`
    Directory,
    /// `-e`
    Exists,
    /// `-x`
    Executable,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("rewrite", rewrite, "replace the URI where it matches"),
    Command::works("return", return_, "answer here and now"),
    Command::works("break", break_, "no more rewriting here"),
    Command::works("if", if_, "directives under a condition"),
    Command::works("set", set, "a variable's value"),
    Command::no_effect("rewrite_log", "rewriting is not logged"),
    Command::no_effect(
        "uninitialized_variable_warn",
        "a variable without a value is empty, and not warned of",
    ),
];

fn set(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let name = d
        .arg(0)
        .strip_prefix('$')
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ConfError::new(format!("invalid variable name \"{}\"", d.arg(0))))?;
    let id = b.vars.slot(name)?;
    let value = b.template(d.arg(1))?;
    b.loc().rewrite.steps.push(Step::Set(id, value));
    Ok(())
}

fn break_(b: &mut Builder, _: &Directive) -> ConfResult<()> {
    b.loc().rewrite.steps.push(Step::Break);
    Ok(())
}

fn return_(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let first = d.arg(0);
    let is_url = |t: &str| t.starts_with("http://") || t.starts_with("https://") || t.starts_with("$scheme");
    let (status, text) = match number(first) {
        Some(code) if code <= 999 => (code as u16, d.args.get(1).map(|t| b.template(t)).transpose()?),
        _ if d.args.len() == 1 && is_url(first) => (302, Some(b.template(first)?)),
        _ => return Err(ConfError::new(format!("invalid return code \"{first}\""))),
    };
    // An empty text is a text only where a status has no page.
    let text = text.filter(|t| status < 400 || !t.is_empty());
    // A redirect without a target leads nowhere, but it has its field.
    let text = text.or_else(|| matches!(status, 301 | 302 | 303 | 307 | 308).then(Template::default));
    b.loc().rewrite.steps.push(Step::Return(Arc::new(Return { status, text })));
    Ok(())
}

fn rewrite(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.args.len() < 2 || d.args.len() > 3 {
        return Err(ConfError::new("invalid number of arguments in \"{}\" directive"));
    }
    let regex = b.regex(d.arg(0), false)?;
    let replacement = d.arg(1);
    let mut redirect = ["http://", "https://", "$scheme"]
        .iter()
        .any(|scheme| replacement.starts_with(scheme))
        .then_some(302);
    let (mut stop, mut last) = (false, redirect.is_some());
    match d.args.get(2).map(String::as_str) {
        None => {}
        Some("last") => last = true,
        Some("break") => (stop, last) = (true, true),
        Some("redirect") => (redirect, last) = (Some(302), true),
        Some("permanent") => (redirect, last) = (Some(301), true),
        Some(other) => return Err(ConfError::new(format!("invalid parameter \"{other}\""))),
    }
    // A `?` at the end drops the request's query.
    let (body, keep_args) = match replacement.strip_suffix('?') {
        Some(body) => (body, false),
        None => (replacement, true),
    };
    let (uri, args) = match body.split_once('?') {
        Some((uri, args)) => (uri, Some(b.template(args)?)),
        None => (body, None),
    };
    let uri = b.template(uri)?;
    let step = Rewrite { regex, uri, args, keep_args, redirect, stop, last };
    b.loc().rewrite.steps.push(Step::Rewrite(Arc::new(step)));
    Ok(())
}

fn if_(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let condition = condition(b, &d.args)?;
    let inner = match b.context {
        Context::SERVER => Context::SERVER_IF,
        _ => Context::LOCATION_IF,
    };
    let level = b.add_level(LevelKind::If, None);
    let server = b.server();
    b.enter(d, inner, level, server)?;
    b.loc().rewrite.steps.push(Step::If(Arc::new(condition), level));
    Ok(())
}

/// Reads `( … )`, the parentheses of which may stand alone or touch the words.
fn condition(b: &mut Builder, args: &[String]) -> ConfResult<Condition> {
    let invalid = |what: &str| ConfError::new(format!("invalid condition \"{what}\""));
    let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.first() {
        Some(first) if first.starts_with('(') => words[0] = &first[1..],
        first => return Err(invalid(first.unwrap_or(&""))),
    }
    match words.last() {
        Some(last) if last.ends_with(')') => {
            let n = words.len() - 1;
            words[n] = &words[n][..words[n].len() - 1];
        }
        last => return Err(invalid(last.unwrap_or(&""))),
    }
    // An empty word is left where a parenthesis stood alone; one between is a quoted empty text.
    if words.first() == Some(&"") {
        words.remove(0);
    }
    if words.len() > 1 && words.last() == Some(&"") && args.last().is_some_and(|a| a == ")") {
        words.pop();
    }
    let first = *words.first().ok_or_else(|| invalid(""))?;
    if let Some(name) = first.strip_prefix('$') {
        if name.is_empty() {
            return Err(invalid(first));
        }
        let id = b.variable(name);
        return match words.as_slice() {
            [_] => Ok(Condition::Truthy(id)),
            [_, op @ ("=" | "!="), value] => Ok(Condition::Equals(id, b.template(value)?, *op == "=")),
            [_, op @ ("~" | "~*" | "!~" | "!~*"), pattern] => {
                let regex = b.regex(pattern, op.ends_with('*'))?;
                Ok(Condition::Matches(id, regex, !op.starts_with('!')))
            }
            [_, op, ..] => Err(ConfError::new(format!("unexpected \"{op}\" in condition"))),
            [] => Err(invalid("")),
        };
    }
    let (negative, test) = match first.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, first),
    };
    let test = match test {
        "-f" => FileTest::File,
        "-d" => FileTest::Directory,
        "-e" => FileTest::Exists,
        "-x" => FileTest::Executable,
        _ => return Err(invalid(first)),
    };
    match words.as_slice() {
        [_, path] => Ok(Condition::File(test, b.template(path)?, !negative)),
        _ => Err(invalid(first)),
    }
}

/// Where steps are run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A server's, before the location is found.
    Server,
    /// A location's.
    Location,
}

/// What running the steps came to.
#[allow(clippy::large_enum_variant, reason = "it lives for a moment, on the stack")]
pub enum Ran {
    /// The URI stands; go on.
    Unchanged,
    /// The URI changed; find the location anew.
    Changed,
    /// An answer.
    Flow(Flow),
}

#[allow(clippy::large_enum_variant, reason = "it lives for a moment, on the stack")]
enum End {
    /// All steps ran.
    Done,
    /// `break`, or a rewrite with a flag.
    Stop,
    Flow(Flow),
}

/// Runs the steps of the level in force.
pub fn run(rq: &mut Request, place: Place) -> Ran {
    let level = rq.level;
    if rq.loc().rewrite.steps.is_empty() {
        return Ran::Unchanged;
    }
    let mut changed = false;
    match steps(rq, level, &mut changed) {
        End::Flow(flow) => Ran::Flow(flow),
        End::Done | End::Stop if changed => {
            if place == Place::Location {
                Ran::Changed
            } else {
                Ran::Unchanged
            }
        }
        End::Done | End::Stop => Ran::Unchanged,
    }
}

fn steps(rq: &mut Request, level: usize, changed: &mut bool) -> End {
    let local = rq.local.clone();
    for step in local.generation.http.levels[level].conf.rewrite.steps.iter() {
        match step {
            Step::Set(id, value) => {
                let value = eval(rq, value);
                rq.set_variable(*id, value);
            }
            Step::Break => {
                // A URI that was rewritten before it is used where it is, and is no longer the location's.
                if std::mem::take(changed) {
                    rq.valid_location = false;
                }
                return End::Stop;
            }
            Step::Return(answer) => return End::Flow(answer_with(rq, answer)),
            Step::Rewrite(rewrite) => match apply(rq, rewrite, changed) {
                End::Done => {}
                end => return end,
            },
            Step::If(condition, inner) => {
                if holds(rq, condition) {
                    rq.level = *inner;
                    match steps(rq, *inner, changed) {
                        End::Done => {}
                        end => return end,
                    }
                }
            }
        }
    }
    End::Done
}

fn answer_with(rq: &mut Request, answer: &Return) -> Flow {
    let status = answer.status;
    let Some(text) = &answer.text else {
        if matches!(status, 200..=399) {
            return Flow::respond(empty(rq, status));
        }
        return Flow::status(status);
    };
    // `$status` in the text is the status it is sent with.
    rq.sent.status = status;
    let value = text.eval(rq);
    if matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Flow::redirect(status, value);
    }
    let mut response = empty(rq, status);
    if status != 204 {
        response.length = Some(value.len() as u64);
        response.body = value.into();
    }
    Flow::respond(response)
}

/// An answer without a body; its type is that of the URI.
fn empty(rq: &Request, status: u16) -> Response {
    let mut response = Response::new(status);
    if status != 204 {
        response.content_type = crate::modules::static_files::content_type(rq);
        response.length = Some(0);
    }
    response
}

/// A value of this module's directives. Captures come from the decoded path; they are encoded again when the
/// client's own path was (ngx_http_script_copy_capture_code).
fn eval(rq: &Request, template: &Template) -> Bytes {
    let path = rq.unparsed.split(|b| *b == b'?').next().unwrap_or_default();
    if memchr::memchr2(b'%', b'+', path).is_none() {
        return template.eval(rq);
    }
    let mut out = Vec::new();
    template.eval_escaped(rq, Escape::Args, &mut out);
    out.into()
}

fn apply(rq: &mut Request, rewrite: &Rewrite, changed: &mut bool) -> End {
    let subject = rq.uri.clone();
    if !rewrite.regex.capture(rq, &subject) {
        rq.forget_captures();
        return End::Done;
    }
    let mut new_args = rewrite.args.as_ref().map(|a| Vec::from(eval(rq, a)));
    if rewrite.keep_args && !rq.args.is_empty() {
        match &mut new_args {
            Some(args) => {
                args.push(b'&');
                args.extend_from_slice(&rq.args);
            }
            None => new_args = Some(rq.args.to_vec()),
        }
    }
    if let Some(status) = rewrite.redirect {
        let mut location = uri::unescape_redirect(&eval(rq, &rewrite.uri));
        if let Some(args) = new_args {
            location.push(b'?');
            location.extend_from_slice(&args);
        }
        return End::Flow(Flow::redirect(status, location));
    }
    rq.uri = rewrite.uri.eval(rq);
    rq.pristine = false;
    rq.internal = true;
    rq.has_uri = true;
    rq.has_args |= new_args.is_some() || !rq.args.is_empty();
    match (new_args, rewrite.keep_args) {
        (Some(args), _) => rq.args = args.into(),
        (None, true) => {}
        (None, false) => rq.args = Bytes::new(),
    }
    if rq.uri.is_empty() {
        crate::observe::request_error(rq, format_args!("the rewritten URI has a zero length"));
        return End::Flow(Flow::status(500));
    }
    // With `break` the location stays; the rewritten URI is used where it is.
    if rewrite.stop {
        rq.valid_location = false;
        *changed = false;
    } else {
        *changed = true;
    }
    if rewrite.last { End::Stop } else { End::Done }
}

fn holds(rq: &mut Request, condition: &Condition) -> bool {
    match condition {
        Condition::Truthy(id) => {
            let value = rq.variable_value(*id).unwrap_or_default();
            !value.is_empty() && &value[..] != b"0"
        }
        Condition::Equals(id, value, wanted) => {
            let left = rq.variable_value(*id).unwrap_or_default();
            (left == eval(rq, value)) == *wanted
        }
        Condition::Matches(id, regex, wanted) => {
            let value = rq.variable_value(*id).unwrap_or_default();
            let matched = regex.capture(rq, &value);
            if !matched {
                rq.forget_captures();
            }
            matched == *wanted
        }
        Condition::File(test, path, wanted) => {
            let path = eval(rq, path);
            rq.watch.spoil();
            file_test(*test, &path) == *wanted
        }
    }
}

fn file_test(test: FileTest, path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    match test {
        FileTest::File => metadata.is_file(),
        FileTest::Directory => metadata.is_dir(),
        FileTest::Exists => true,
        FileTest::Executable => metadata.permissions().mode() & 0o100 != 0,
    }
}
