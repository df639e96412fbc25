//! Values with variables in them (nginx's complex values), compiled once.

use super::request::Request;
use super::uri::{Escape, escape_into};
use super::vars::VarId;
use crate::conf::{Builder, ConfError, ConfResult};
use bytes::Bytes;

/// A compiled value: text, variables and captures, in order.
#[derive(Clone, Default)]
pub struct Template {
    parts: Vec<Part>,
    /// The text as written.
    pub source: String,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(Bytes),
    Variable(VarId),
    Capture(usize),
}

impl Template {
    /// A value without variables.
    pub fn literal(text: &str) -> Template {
        let parts =
            if text.is_empty() { vec![] } else { vec![Part::Text(Bytes::copy_from_slice(text.as_bytes()))] };
        Template { parts, source: text.to_string() }
    }

    /// Compiles `text`: `$name`, `${name}`, `$1`; a `$` before anything else is an error, as in nginx.
    pub fn compile(text: &str, builder: &mut Builder) -> ConfResult<Template> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            push_text(&mut parts, &rest[..dollar]);
            rest = &rest[dollar + 1..];
            let mut digit = false;
            let (name, after) = if let Some(braced) = rest.strip_prefix('{') {
                let close = braced.find('}').ok_or_else(|| {
                    ConfError::new(format!("the closing bracket in \"{braced}\" variable is missing"))
                })?;
                (&braced[..close], &braced[close + 1..])
            } else {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                // A capture is one digit; what follows it is text.
                digit = rest.starts_with(|c: char| ('1'..='9').contains(&c));
                let end = if digit { 1 } else { rest.find(|c| !is_name(c)).unwrap_or(rest.len()) };
                (&rest[..end], &rest[end..])
            };
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(ConfError::new("invalid variable name")
                    .hint("a \"$\" begins a variable; nginx has no way to write a literal one here"));
            }
            match name.parse::<usize>() {
                // In braces it is a name, and none that is known.
                Ok(n) if digit => parts.push(Part::Capture(n)),
                _ => parts.push(Part::Variable(builder.variable(name))),
            }
            rest = after;
        }
        push_text(&mut parts, rest);
        Ok(Template { parts, source: text.to_string() })
    }

    /// The text, when there is nothing to evaluate.
    pub fn constant(&self) -> Option<Bytes> {
        match self.parts.as_slice() {
            [] => Some(Bytes::new()),
            [Part::Text(text)] => Some(text.clone()),
            _ => None,
        }
    }

    /// Whether the value is the empty text.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether a capture (`$1` …) stands in it.
    pub fn uses_captures(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Capture(_)))
    }

    /// The value for `rq`.
    pub fn eval(&self, rq: &Request) -> Bytes {
        if let Some(text) = self.constant() {
            return text;
        }
        let mut out = Vec::with_capacity(64);
        self.eval_into(rq, &mut out);
        Bytes::from(out)
    }

    /// Appends the value for `rq`, its captures encoded: they come from a decoded path and go out
    /// in a redirect or to an upstream.
    pub fn eval_escaped(&self, rq: &Request, kind: Escape, out: &mut Vec<u8>) {
        let mut captured = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable(id) => {
                    rq.variable(*id, out);
                }
                Part::Capture(n) => {
                    captured.clear();
                    rq.capture(*n, &mut captured);
                    escape_into(&captured, kind, out);
                }
            }
        }
    }

    /// Appends the value for `rq`.
    pub fn eval_into(&self, rq: &Request, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable(id) => {
                    rq.variable(*id, out);
                }
                Part::Capture(n) => rq.capture(*n, out),
            }
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(Bytes::copy_from_slice(text.as_bytes())));
    }
}
