//! What the commands of a page do: nginx's, in its words.

use super::escape::{entities, url_encoded};
use super::parser::{Command, MOST_PARAMETERS};
use crate::http::request::Request;
use crate::http::uri;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the pages of one answer share: a page that includes others, and these.
#[derive(Default)]
pub struct Shared {
    /// What `set` wrote: names in lower case.
    variables: Mutex<Vec<(Vec<u8>, Bytes)>>,
    /// The blocks, by name.
    blocks: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
    /// What was read of pages since others on the worker had their turn, in bytes.
    work: AtomicUsize,
}

/// Bytes of pages that are read before others on the worker have their turn: nothing of them may be
/// sent, so that no client's connection bounds it.
const TURN: usize = 256 * 1024;

/// The most variables and blocks of an answer, and the most bytes of all its blocks.
const MOST_NAMES: usize = 1000;
const MOST_BLOCK_BYTES: usize = 256 * 1024;
/// The most bytes of a text with its variables in their places, where no answer that a variable takes
/// may be larger: a variable that is made of itself twice is soon larger than any memory.
const MOST_TEXT: usize = 64 * 1024;
/// The most bytes of all variables of an answer, likewise.
const MOST_VARIABLE_BYTES: usize = 1024 * 1024;

/// A page while it is read.
pub struct Page {
    /// The request whose answer it is.
    pub rq: Request,
    shared: Arc<Shared>,
    error_message: Bytes,
    time_format: Vec<u8>,
    encoding: Encoding,
    condition: Condition,
    /// Whether a branch of the present `if` was taken.
    chosen: bool,
    /// Whether text is sent.
    output: bool,
    /// The block that is being recorded: its place in [`Shared`].
    block: Option<usize>,
    captures: Vec<Bytes>,
    silent_errors: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    None,
    Url,
    Entity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    None,
    If,
    Else,
}

/// What a command comes to.
pub enum Outcome {
    /// Text.
    Text(Bytes),
    /// The answer to another request.
    Include(Box<Include>),
    /// Nothing that is seen.
    Nothing,
}

/// An `include`.
pub struct Include {
    /// What is asked.
    pub below: Request,
    /// Whether nothing after it is looked at before it has ended.
    pub wait: bool,
    /// The variable that takes its answer.
    pub set: Option<Vec<u8>>,
    /// What stands in its place when it has no body.
    pub stub: Option<Bytes>,
}

/// An error of a command; the words are for the log, where they are not there already.
type Did = Result<Outcome, Option<String>>;

/// A command: its parameters, and whether it must be there.
type Known = (&'static str, &'static [(&'static str, bool)]);

const COMMANDS: [Known; 10] = [
    ("include", &[("virtual", false), ("file", false), ("wait", false), ("set", false), ("stub", false)]),
    ("echo", &[("var", true), ("default", false), ("encoding", false)]),
    ("config", &[("errmsg", false), ("timefmt", false)]),
    ("set", &[("var", true), ("value", true)]),
    ("if", &[("expr", true)]),
    ("elif", &[("expr", true)]),
    ("else", &[]),
    ("endif", &[]),
    ("block", &[("name", true)]),
    ("endblock", &[]),
];

fn lossy(text: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(text)
}

impl Page {
    /// The page that answers `rq`.
    pub fn new(rq: Request, shared: Arc<Shared>, silent_errors: bool) -> Page {
        Page {
            rq,
            shared,
            error_message: Bytes::from_static(b"[an error occurred while processing the directive]"),
            time_format: super::TIME_FORMAT.to_vec(),
            encoding: Encoding::Entity,
            condition: Condition::None,
            chosen: false,
            output: true,
            block: None,
            captures: Vec::new(),
            silent_errors,
        }
    }

    /// The page of a block that stands for the answer to `below`.
    pub fn below(&self, below: Request) -> Page {
        Page::new(below, self.shared.clone(), self.silent_errors)
    }

    /// Notes that so much was read of this page or those within it.
    pub fn work(&self, bytes: usize) {
        self.shared.work.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether it is the turn of others.
    pub fn is_turn_over(&self) -> bool {
        self.shared.work.load(Ordering::Relaxed) >= TURN
    }

    /// Begins another turn.
    pub fn begin_turn(&self) {
        self.shared.work.store(0, Ordering::Relaxed);
    }

    /// What becomes of text.
    pub fn text(&mut self, text: Bytes) -> Option<Bytes> {
        if let Some(block) = self.block {
            self.record(block, &text);
            return None;
        }
        self.output.then_some(text)
    }

    /// What becomes of a command that could not be read.
    pub fn broken(&mut self, why: &str) -> Outcome {
        self.log(why);
        self.error()
    }

    /// Does what a command says.
    pub fn run(&mut self, command: &Command) -> Outcome {
        match self.try_run(command) {
            Ok(outcome) => outcome,
            Err(why) => {
                if let Some(why) = why {
                    self.log(&why);
                }
                self.error()
            }
        }
    }

    fn error(&self) -> Outcome {
        if self.silent_errors { Outcome::Nothing } else { Outcome::Text(self.error_message.clone()) }
    }

    fn log(&self, why: &str) {
        crate::observe::request_error(&self.rq, format_args!("{why} while sending response to client"));
    }

    fn try_run(&mut self, command: &Command) -> Did {
        let name = lossy(&command.name);
        let Some((known, parameters)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
            return match self.output {
                true => Err(Some(format!("invalid SSI command: \"{name}\""))),
                false => Ok(Outcome::Nothing),
            };
        };
        let structural = matches!(*known, "if" | "elif" | "else" | "endif" | "block" | "endblock");
        if !self.output && !structural {
            if let Some(block) = self.block {
                let mut text = Vec::new();
                command.rewritten(&mut text);
                self.record(block, &text);
            }
            return Ok(Outcome::Nothing);
        }
        let fits = match *known {
            "elif" | "else" => self.condition == Condition::If,
            "endif" => self.condition != Condition::None,
            _ => true,
        };
        if !fits {
            return Err(Some(format!("invalid context of SSI command: \"{name}\"")));
        }
        if command.parameters.len() > MOST_PARAMETERS {
            return Err(Some(format!("too many SSI command parameters: \"{name}\"")));
        }
        let mut values: [Option<&[u8]>; 5] = [None; 5];
        for (key, value) in &command.parameters {
            let at = parameters.iter().position(|(known, _)| known.as_bytes() == &key[..]);
            let Some(slot) = at.and_then(|at| values.get_mut(at)) else {
                let key = lossy(key);
                return Err(Some(format!("invalid parameter name: \"{key}\" in \"{name}\" SSI command")));
            };
            if slot.is_some() {
                let key = lossy(key);
                return Err(Some(format!("duplicate \"{key}\" parameter in \"{name}\" SSI command")));
            }
            *slot = Some(value);
        }
        for ((key, mandatory), value) in parameters.iter().zip(values) {
            if *mandatory && value.is_none() {
                return Err(Some(format!(
                    "mandatory \"{key}\" parameter is absent in \"{name}\" SSI command"
                )));
            }
        }
        let first = values[0].unwrap_or_default();
        match *known {
            "include" => self.include(values),
            "echo" => self.echo(first, values[1], values[2]),
            "config" => self.config(values[0], values[1]),
            "set" => self.set(first, values[1].unwrap_or_default()),
            "if" => self.condition(first, true),
            "elif" => self.condition(first, false),
            "else" => {
                self.output = !self.chosen;
                self.condition = Condition::Else;
                Ok(Outcome::Nothing)
            }
            "endif" => {
                (self.output, self.chosen, self.condition) = (true, false, Condition::None);
                Ok(Outcome::Nothing)
            }
            "block" => {
                let mut blocks = self.shared.blocks.lock();
                if blocks.len() == MOST_NAMES {
                    return Err(Some("too many SSI blocks".into()));
                }
                blocks.push((first.to_vec(), Vec::new()));
                self.block = Some(blocks.len() - 1);
                self.output = false;
                Ok(Outcome::Nothing)
            }
            _ => {
                (self.output, self.block) = (true, None);
                Ok(Outcome::Nothing)
            }
        }
    }

    fn record(&self, block: usize, text: &[u8]) {
        let mut blocks = self.shared.blocks.lock();
        let total: usize = blocks.iter().map(|(_, text)| text.len()).sum();
        if total + text.len() <= MOST_BLOCK_BYTES
            && let Some((_, kept)) = blocks.get_mut(block)
        {
            kept.extend_from_slice(text);
        }
    }

    fn include(&mut self, values: [Option<&[u8]>; 5]) -> Did {
        let [uri, file, wait, set, stub] = values;
        let (target, mut wait) = match (uri, file, wait) {
            (Some(uri), Some(file), _) => {
                let (uri, file) = (lossy(uri), lossy(file));
                return Err(Some(format!("inclusion may be either virtual=\"{uri}\" or file=\"{file}\"")));
            }
            (None, None, _) => return Err(Some("no parameter in \"include\" SSI command".into())),
            (None, Some(file), Some(_)) if set.is_none() || stub.is_none() => {
                return Err(Some(format!("\"wait\" cannot be used with file=\"{}\"", lossy(file))));
            }
            (Some(uri), None, wait) => match wait {
                None | Some(b"no") => (uri, false),
                Some(b"yes") => (uri, true),
                Some(other) => {
                    return Err(Some(format!(
                        "invalid value \"{}\" in the \"wait\" parameter",
                        lossy(other)
                    )));
                }
            },
            (None, Some(file), _) => (file, true),
        };
        if set.is_some() && stub.is_some() {
            return Err(Some(
                "\"set\" and \"stub\" cannot be used together in \"include\" SSI command".into(),
            ));
        }
        let evaluated = self.evaluate(target, true)?;
        let decoded = uri::unescape(&evaluated);
        let (path, args) = match memchr::memchr(b'?', &decoded) {
            Some(at) => (decoded[..at].to_vec(), decoded[at + 1..].to_vec()),
            None => (decoded, Vec::new()),
        };
        if path.is_empty() || path.contains(&0) || path.split(|b| *b == b'/').any(|part| part == b"..") {
            return Err(Some(format!("unsafe URI \"{}\" was detected", lossy(&evaluated))));
        }
        let stub = match stub {
            None => None,
            Some(name) => {
                let blocks = self.shared.blocks.lock();
                let Some((_, text)) = blocks.iter().find(|(n, _)| n == name) else {
                    let name = lossy(name);
                    return Err(Some(format!("\"stub\"=\"{name}\" for \"include\" not found")));
                };
                Some(Bytes::copy_from_slice(text))
            }
        };
        let Some(mut below) = self.rq.below(path.into(), args.into()) else { return Err(None) };
        below.guards.push(Box::new(self.shared.clone()));
        wait |= set.is_some();
        below.bare_errors = stub.is_some();
        let set = set.map(<[u8]>::to_ascii_lowercase);
        Ok(Outcome::Include(Box::new(Include { below, wait, set, stub })))
    }

    fn echo(&mut self, name: &[u8], default: Option<&[u8]>, encoding: Option<&[u8]>) -> Did {
        let value = match (self.variable(&name.to_ascii_lowercase()), default) {
            (Some(value), _) => value,
            (None, Some(default)) => Bytes::copy_from_slice(default),
            (None, None) => Bytes::from_static(b"(none)"),
        };
        if value.is_empty() {
            return Ok(Outcome::Nothing);
        }
        match encoding {
            None => {}
            Some(b"none") => self.encoding = Encoding::None,
            Some(b"url") => self.encoding = Encoding::Url,
            Some(b"entity") => self.encoding = Encoding::Entity,
            Some(other) => {
                self.log(&format!("unknown encoding \"{}\" in the \"echo\" command", lossy(other)));
            }
        }
        Ok(Outcome::Text(match self.encoding {
            Encoding::None => value,
            Encoding::Url => url_encoded(&value).into(),
            Encoding::Entity => entities(&value).into(),
        }))
    }

    fn config(&mut self, message: Option<&[u8]>, format: Option<&[u8]>) -> Did {
        if let Some(format) = format {
            self.time_format = format.to_vec();
        }
        if let Some(message) = message {
            self.error_message = Bytes::copy_from_slice(message);
        }
        Ok(Outcome::Nothing)
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Did {
        let value = self.evaluate(value, false)?;
        self.assign(name.to_ascii_lowercase(), value.into());
        Ok(Outcome::Nothing)
    }

    /// Writes a variable of the pages.
    pub fn assign(&self, name: Vec<u8>, value: Bytes) {
        let mut variables = self.shared.variables.lock();
        let others: usize = variables.iter().filter(|(n, _)| *n != name).map(|(_, v)| v.len()).sum();
        if others + value.len() > MOST_VARIABLE_BYTES.max(self.set_length()) {
            drop(variables);
            return self.log(&format!("too large SSI variables, \"{}\" is not set", lossy(&name)));
        }
        match variables.iter().position(|(n, _)| *n == name) {
            Some(at) => variables[at].1 = value,
            None if variables.len() < MOST_NAMES => variables.push((name, value)),
            None => {}
        }
    }

    /// Bytes of an answer that a variable takes.
    fn set_length(&self) -> usize {
        *self.rq.loc().ssi.set_length as usize
    }

    /// `if` and `elif`
    fn condition(&mut self, text: &[u8], first: bool) -> Did {
        if first && self.condition != Condition::None {
            return Err(Some("the \"if\" command inside the \"if\" command".into()));
        }
        if self.chosen {
            self.output = false;
            return Ok(Outcome::Nothing);
        }
        let invalid = || Some(format!("invalid expression in \"{}\"", lossy(text)));
        let in_left =
            |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'{' | b'}' | b'"' | b'\'');
        let end = text.iter().take_while(|b| in_left(b)).count();
        let (left, rest) = (self.evaluate(&text[..end], false)?, text[end..].trim_ascii_start());
        let holds = match rest {
            [] => !left.is_empty(),
            [b'=', right @ ..] => self.equals(&left, right, invalid)?,
            [b'!', b'=', right @ ..] => !self.equals(&left, right, invalid)?,
            _ => return Err(invalid()),
        };
        (self.output, self.chosen) = (holds, holds);
        self.condition = Condition::If;
        Ok(Outcome::Nothing)
    }

    fn equals(
        &mut self,
        left: &[u8],
        right: &[u8],
        invalid: impl Fn() -> Option<String>,
    ) -> Result<bool, Option<String>> {
        let skipped = right.iter().take_while(|b| **b == b' ').count();
        let right = &right[skipped..];
        let Some(pattern) = right.strip_prefix(b"/").filter(|rest| !rest.is_empty()) else {
            // A slash that begins a text is quoted.
            let right = if right.starts_with(b"\\/") { &right[1..] } else { right };
            return Ok(self.evaluate(right, false)? == left);
        };
        let Some(pattern) = pattern.strip_suffix(b"/") else { return Err(invalid()) };
        let pattern = self.evaluate(pattern, false)?;
        self.matches(&pattern, left)
    }

    /// Matches a pattern, whose groups `$0` and the like then are.
    fn matches(&mut self, pattern: &[u8], subject: &[u8]) -> Result<bool, Option<String>> {
        let text = lossy(pattern).into_owned();
        let compiled = regex::bytes::RegexBuilder::new(&text).unicode(false).size_limit(1 << 20).build();
        let regex = compiled.map_err(|e| {
            // The engine shows where; its last line says what.
            let why = e.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Some(format!("pcre_compile() failed: {why} in \"{text}\""))
        })?;
        let Some(groups) = regex.captures(subject) else { return Ok(false) };
        let owned =
            |m: Option<regex::bytes::Match>| m.map_or(Bytes::new(), |m| Bytes::copy_from_slice(m.as_bytes()));
        self.captures = groups.iter().take(10).map(owned).collect();
        for name in regex.capture_names().flatten() {
            self.assign(name.to_ascii_lowercase().into_bytes(), owned(groups.name(name)));
        }
        Ok(true)
    }

    /// A variable: of the pages, of the last pattern, of the request; its name in lower case.
    fn variable(&self, name: &[u8]) -> Option<Bytes> {
        if let [digit @ b'0'..=b'9'] = name
            && let Some(group) = self.captures.get(usize::from(digit - b'0'))
        {
            return Some(group.clone());
        }
        if let Some((_, value)) = self.shared.variables.lock().iter().find(|(n, _)| n == name) {
            return Some(value.clone());
        }
        match name {
            b"date_local" => Some(super::date(&self.time_format, true).into()),
            b"date_gmt" => Some(super::date(&self.time_format, false).into()),
            _ => self.rq.variable_named(std::str::from_utf8(name).ok()?),
        }
    }

    /// The value of a text with variables (ngx_http_ssi_evaluate_string). A target that does not
    /// begin with a slash stands below the directory of the page.
    fn evaluate(&self, text: &[u8], target: bool) -> Result<Vec<u8>, Option<String>> {
        let mut out = Vec::with_capacity(text.len());
        let most = MOST_TEXT.max(self.set_length());
        let mut quoted = false;
        let mut at = 0;
        while let Some(byte) = text.get(at).copied() {
            at += 1;
            if quoted {
                quoted = false;
                if !matches!(byte, b'\\' | b'\'' | b'"' | b'$') {
                    out.push(b'\\');
                }
                out.push(byte);
            } else if byte == b'\\' {
                quoted = true;
            } else if byte == b'$' {
                at = self.expand(text, at, &mut out)?;
                if out.len() > most {
                    return Err(Some(format!("too long value of \"{}\"", lossy(text))));
                }
            } else {
                out.push(byte);
            }
        }
        if target && out.first() != Some(&b'/') {
            let directory = memchr::memrchr(b'/', &self.rq.uri).map_or(0, |slash| slash + 1);
            out.splice(..0, self.rq.uri[..directory].iter().copied());
        }
        Ok(out)
    }

    /// Appends the variable whose name begins at `at`, behind its `$`; where the text goes on.
    fn expand(&self, text: &[u8], at: usize, out: &mut Vec<u8>) -> Result<usize, Option<String>> {
        let braced = text.get(at) == Some(&b'{');
        let start = at + usize::from(braced);
        let rest = text.get(start..).unwrap_or_default();
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let name = &rest[..length];
        let mut end = start + length;
        if braced {
            if text.get(end) != Some(&b'}') {
                let name = lossy(name);
                return Err(Some(format!("the closing bracket in \"{name}\" variable is missing")));
            }
            end += 1;
        }
        if name.is_empty() {
            return Err(Some(format!("invalid variable name in \"{}\"", lossy(text))));
        }
        if let Some(value) = self.variable(&name.to_ascii_lowercase()) {
            out.extend_from_slice(&value);
        }
        Ok(end)
    }
}
