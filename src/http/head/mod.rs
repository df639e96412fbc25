//! The head of a request: its first line and its fields, in one buffer.

mod parse;

pub use parse::{HeadError, HeadLimits, HeadScan, Progress};

use crate::http::hit::glance::Glance;
use crate::http::hit::watch::Reads;

/// The version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/0.9: a line, no head, an answer without one.
    Http09,
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As it stands in a request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http09 => "HTTP/0.9",
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2.0",
        }
    }
}

/// The methods that matter to an edge; the rest are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    Other,
}

impl Method {
    /// Reads a method; methods are case-sensitive (RFC 9110 section 9.1).
    pub fn of(text: &[u8]) -> Method {
        match text {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }
}

type Span = (u32, u32);

/// One of 64 bits for a name, however it is written: by its length, its first and its last letter. Those that nearly all
/// clients send have others than those that are asked for of every request.
const fn bit(name: &[u8]) -> u64 {
    let letters = match name {
        [first, .., last] => (*first | 0x20) as u32 + (*last | 0x20) as u32,
        [only] => 2 * (*only | 0x20) as u32,
        [] => 0,
    };
    1 << ((name.len() as u32 * 23 + letters) % 64)
}

/// A request's first line and fields.
#[derive(Clone, Debug)]
pub struct Head {
    buf: Vec<u8>,
    method: Span,
    target: Span,
    line: Span,
    protocol: Span,
    fields: Vec<(Span, Span)>,
    /// The names that may be there: a bit each, see [`bit`]. So a field that is not there is nearly never looked for.
    names: u64,
    /// The version.
    pub version: Version,
    /// Which fields were read, where that is watched.
    pub reads: Reads,
}

impl Default for Head {
    fn default() -> Self {
        let version = Version::Http09;
        Head {
            buf: Vec::new(),
            method: (0, 0),
            target: (0, 0),
            line: (0, 0),
            protocol: (0, 0),
            fields: Vec::new(),
            names: 0,
            version,
            reads: Reads::default(),
        }
    }
}

impl Head {
    /// The method's text.
    pub fn method(&self) -> &[u8] {
        self.slice(self.method)
    }

    /// The request target as the client sent it.
    pub fn target(&self) -> &[u8] {
        self.slice(self.target)
    }

    /// The first line as the client sent it (for HTTP/2, as nginx would write it).
    pub fn line(&self) -> &[u8] {
        self.slice(self.line)
    }

    /// The protocol as it stands in the first line; empty where none does.
    pub fn protocol(&self) -> &[u8] {
        self.slice(self.protocol)
    }

    /// The bytes the head took.
    pub fn size(&self) -> usize {
        self.buf.len()
    }

    /// The first field of this name (lower case).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let name = name.as_bytes();
        self.reads.note(name);
        if self.names & bit(name) == 0 {
            return None;
        }
        self.pairs().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// Every field of this name (lower case).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let name = name.as_bytes();
        self.reads.note(name);
        let fields = if self.names & bit(name) == 0 { &[] } else { &self.fields[..] };
        self.among(fields).filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// Every field, in order, names as sent.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.reads.note_all();
        self.pairs()
    }

    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.among(&self.fields)
    }

    fn among<'a>(&'a self, fields: &'a [(Span, Span)]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        fields.iter().map(|(n, v)| (self.slice(*n), self.slice(*v)))
    }

    fn slice(&self, span: Span) -> &[u8] {
        &self.buf[span.0 as usize..span.1 as usize]
    }

    /// Whether a field stands twice that may stand once: which of them holds would be a guess.
    pub fn repeats_single_field(&self) -> bool {
        const SINGLE: [&[u8]; 8] = [
            b"if-modified-since",
            b"if-unmodified-since",
            b"if-match",
            b"if-none-match",
            b"if-range",
            b"content-range",
            b"expect",
            b"authorization",
        ];
        const BITS: u64 = {
            let (mut bits, mut at) = (0, 0);
            while at < SINGLE.len() {
                bits |= bit(SINGLE[at]);
                at += 1;
            }
            bits
        };
        if self.names & BITS == 0 {
            return false;
        }
        let mut seen = 0u8;
        // Not noted as read: whoever repeats an answer for another request has seen that no known name is there twice.
        for (name, _) in self.pairs() {
            // Most names are told apart by length or first letter.
            if !matches!(name.len(), 6 | 8 | 13 | 17 | 19)
                || !matches!(name[0] | 32, b'a' | b'c' | b'e' | b'i')
            {
                continue;
            }
            if let Some(i) = SINGLE.iter().position(|single| name.eq_ignore_ascii_case(single)) {
                if seen & (1 << i) != 0 {
                    return true;
                }
                seen |= 1 << i;
            }
        }
        false
    }

    /// A head from parts, for HTTP/2 and for requests that the edge itself makes.
    pub fn from_parts<'a>(
        method: &[u8],
        target: &[u8],
        version: Version,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Head {
        let mut head = Head { version, ..Head::default() };
        head.method = head.push(method);
        head.buf.push(b' ');
        head.target = head.push(target);
        head.buf.push(b' ');
        head.protocol = head.push(version.as_str().as_bytes());
        head.line = (0, head.buf.len() as u32);
        for (name, value) in fields {
            head.add(name, value);
        }
        head
    }

    /// The head with which `input` begins, as it was seen there: what a glance takes for a head the parser takes for the
    /// same.
    pub fn seen(input: &[u8], found: &Glance<'_>) -> Head {
        let span = |part: &[u8]| {
            let start = (part.as_ptr().addr() - input.as_ptr().addr()) as u32;
            (start, start + part.len() as u32)
        };
        let target = span(found.target);
        let protocol = (target.1 + 1, target.1 + 1 + b"HTTP/1.1".len() as u32);
        let mut names = 0;
        let mut fields = Vec::with_capacity(found.values.len());
        for field in &found.values {
            names |= bit(field.name);
            fields.push((span(field.name), span(field.value)));
        }
        Head {
            buf: input[..found.length].to_vec(),
            method: (0, b"GET".len() as u32),
            target,
            line: (0, protocol.1),
            protocol,
            fields,
            names,
            version: found.version,
            reads: Reads::default(),
        }
    }

    /// Leaves out the fields, for the log of a request whose first line was refused before them.
    pub fn forget_fields(&mut self) {
        self.fields.clear();
        self.names = 0;
    }

    /// Leaves out the fields behind the first of this name, with which reading ended.
    pub fn forget_fields_behind(&mut self, name: &str) {
        let at = self.pairs().position(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        self.fields.truncate(at.map_or(self.fields.len(), |at| at + 1));
    }

    /// Where the line of the last field ends that is there.
    pub fn end_of_fields(&self) -> usize {
        let end = self.fields.last().map_or(self.line.1, |(_, value)| value.1) as usize;
        memchr::memchr(b'\n', &self.buf[end..]).map_or(self.buf.len(), |at| end + at + 1)
    }

    /// Adds a field.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let span = (self.push(name), self.push(value));
        self.names |= bit(name);
        self.fields.push(span);
    }

    fn push(&mut self, bytes: &[u8]) -> Span {
        let start = self.buf.len() as u32;
        self.buf.extend_from_slice(bytes);
        (start, self.buf.len() as u32)
    }
}
