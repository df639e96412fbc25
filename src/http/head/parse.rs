//! Reading the head of an HTTP/1 request.
//!
//! nginx's parser is followed (`ngx_http_parse.c` is the reference for what is accepted), so that the same bytes get the
//! same answer. It never allocates more than the head it reads.

use super::{Head, Span, Version, bit};
use crate::http::lines::{line_end, line_feed, plain_length};

/// Fields for which there is room at once.
const USUAL: usize = 16;

/// Why a head was refused. Each has nginx's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// 400: the first line is not one.
    BadLine,
    /// 400: a method that HTTP/0.9 has not got.
    BadOldLine,
    /// 400: a field is not one.
    BadField,
    /// 405: CONNECT with a target that only it has.
    Method,
    /// 414: the first line is longer than a large buffer.
    LongLine,
    /// 494, sent as 400: a field, or all of them, do not fit the large buffers.
    LongFields,
    /// 505: a major version of 2 or more.
    Version,
}

impl HeadError {
    /// nginx's status for it, before it is mapped for the wire (494 is sent as 400).
    pub fn status(self) -> u16 {
        match self {
            HeadError::BadLine | HeadError::BadOldLine | HeadError::BadField => 400,
            HeadError::Method => 405,
            HeadError::LongLine => 414,
            HeadError::LongFields => 494,
            HeadError::Version => 505,
        }
    }

    /// nginx's words for the error log.
    pub fn message(self) -> &'static str {
        match self {
            HeadError::BadLine => "client sent invalid request",
            HeadError::BadOldLine => "client sent invalid method in HTTP/0.9 request",
            HeadError::BadField => "client sent invalid header line",
            HeadError::Method => "client sent CONNECT or TRACE method",
            HeadError::LongLine => "client sent too long URI",
            HeadError::LongFields => "client sent too long header line",
            HeadError::Version => "client sent unsupported version",
        }
    }
}

/// The bounds of a head, from `client_header_buffer_size` and `large_client_header_buffers`.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of one line.
    pub line: usize,
    /// Bytes of the whole head.
    pub total: usize,
    /// Whether names may have underscores.
    pub underscores: bool,
    /// Whether invalid fields are left out rather than refused... they are kept when false.
    pub ignore_invalid: bool,
    /// The most fields a head may have (`max_headers`).
    pub fields: usize,
}

/// What reading so far came to.
pub enum Progress {
    /// More bytes are needed.
    More,
    /// The head is whole; it took so many bytes.
    Done(usize),
}

/// How far a head was read, kept between reads so that no byte is looked at twice.
#[derive(Default, Debug)]
pub struct HeadScan {
    pos: usize,
    line_seen: bool,
    line: Option<RequestLine>,
}

impl Head {
    /// Reads a head from the start of `input`; call again with more bytes until it is done. On
    /// success the head holds a copy of its bytes.
    pub fn read(
        &mut self,
        input: &[u8],
        scan: &mut HeadScan,
        limits: &HeadLimits,
    ) -> Result<Progress, HeadError> {
        // Empty lines before a request are skipped (RFC 9112 section 2.2).
        if scan.pos == 0 {
            while matches!(input.get(scan.pos), Some(b'\r' | b'\n')) {
                scan.pos += 1;
            }
        }
        let first = input.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(input.len());
        // They are bounded as a head is, however they arrive.
        if first > limits.total {
            return Err(HeadError::BadLine);
        }
        loop {
            let start = if scan.line_seen { scan.pos } else { first };
            let Some(end) = line_feed(input, scan.pos.max(start)) else {
                let partial = input.len() - start;
                let error = if scan.line_seen { HeadError::LongFields } else { HeadError::LongLine };
                if !scan.line_seen {
                    early_check(&input[first..])?;
                }
                if partial > limits.line || input.len() - first > limits.total {
                    return Err(match scan.line_seen {
                        true => earlier(&input[first..start], limits).unwrap_or(error),
                        false => error,
                    });
                }
                if !scan.line_seen {
                    scan.pos = first;
                }
                return Ok(Progress::More);
            };
            let line = &input[start..end];
            if line.len() > limits.line {
                if !scan.line_seen {
                    early_check(line)?;
                }
                return Err(if scan.line_seen {
                    earlier(&input[first..start], limits).unwrap_or(HeadError::LongFields)
                } else {
                    HeadError::LongLine
                });
            }
            if !scan.line_seen {
                scan.line_seen = true;
                scan.pos = end + 1;
                let parsed = request_line(line)?;
                scan.line = Some(parsed);
                // HTTP/0.9 has no fields.
                if parsed.version == Version::Http09 {
                    self.take(input, first, end + 1, limits, scan.line)?;
                    return Ok(Progress::Done(end + 1));
                }
                continue;
            }
            scan.pos = end + 1;
            if line.is_empty() || line == b"\r" {
                if end + 1 - first > limits.total {
                    return Err(HeadError::LongFields);
                }
                self.take(input, first, end + 1, limits, scan.line)?;
                return Ok(Progress::Done(end + 1));
            }
        }
    }

    /// Splits the whole head `input[first..end]` into its parts; of the first line they are known.
    fn take(
        &mut self,
        input: &[u8],
        first: usize,
        end: usize,
        limits: &HeadLimits,
        parsed: Option<RequestLine>,
    ) -> Result<(), HeadError> {
        self.buf.clear();
        self.fields.clear();
        self.names = 0;
        self.buf.extend_from_slice(&input[first..end]);
        self.take_line(&parsed.ok_or(HeadError::BadLine)?);
        let line = line_feed(&self.buf, 0).unwrap_or(self.buf.len());
        self.line = (0, trim_cr(&self.buf[..line]).len() as u32);
        self.fields.reserve(USUAL);
        let mut at = line + 1;
        while let Some(end) = line_feed(&self.buf, at) {
            let (here, line) = (at, &self.buf[at..end]);
            at = end + 1;
            if line.is_empty() || line == b"\r" {
                break;
            }
            if let Some((name, value)) = field(line, limits)? {
                let shift = |s: Span| (s.0 + here as u32, s.1 + here as u32);
                if self.fields.len() >= limits.fields {
                    return Err(HeadError::LongFields);
                }
                self.names |= bit(&line[name.0 as usize..name.1 as usize]);
                self.fields.push((shift(name), shift(value)));
            }
        }
        Ok(())
    }

    fn take_line(&mut self, parsed: &RequestLine) {
        self.version = parsed.version;
        self.method = parsed.method;
        self.target = parsed.target;
        self.protocol = parsed.protocol;
    }

    /// A head of which only the first line is known, for the log of what was refused; its parts, where
    /// it is one.
    pub fn raw_line(line: &[u8]) -> Head {
        let mut head = Head { version: Version::Http11, ..Head::default() };
        head.line = head.push(line);
        match request_line(line) {
            Ok(parsed) => head.take_line(&parsed),
            Err(HeadError::BadOldLine) => head.version = Version::Http09,
            // To HEAD there is no body in any case.
            Err(_) => head.method = method_of_bad_line(line),
        }
        head
    }

    /// The beginning of a first line that did not come to its end.
    pub fn cut_line(line: &[u8]) -> Head {
        let mut head = Head { version: Version::Http11, ..Head::default() };
        head.line = head.push(line);
        head.method = method_of_bad_line(line);
        head
    }

    /// Adds the fields with which `input`, a head that is not whole or not right, begins in order; how many bytes
    /// they and the first line take. 0 where that line is none.
    pub fn add_fields_in_order(&mut self, input: &[u8], limits: &HeadLimits) -> usize {
        let mut length = 0;
        for line in input.split_inclusive(|b| *b == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else { break };
            if length == 0 {
                if request_line(text).is_err() {
                    break;
                }
            } else if text.len() > limits.line || self.fields.len() >= limits.fields {
                break;
            } else {
                let part = |span: Span| &text[span.0 as usize..span.1 as usize];
                match field(text, limits) {
                    Ok(Some((name, value))) => self.add(part(name), part(value)),
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
            length += line.len();
        }
        length
    }
}

#[derive(Clone, Copy, Debug)]
struct RequestLine {
    method: Span,
    target: Span,
    protocol: Span,
    version: Version,
}

fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What is wrong with the lines before one that is too long.
fn earlier(lines: &[u8], limits: &HeadLimits) -> Option<HeadError> {
    let fields = lines.split(|b| *b == b'\n').skip(1).filter(|line| !line.is_empty());
    fields.map(|line| field(line, limits)).find_map(Result::err)
}

/// Refuses what can no longer become a request line, so that garbage is answered at once.
fn early_check(partial: &[u8]) -> Result<(), HeadError> {
    match partial.iter().position(|b| !matches!(b, b'A'..=b'Z' | b'_' | b'-')) {
        Some(0) => Err(HeadError::BadLine),
        Some(n) if partial[n] != b' ' => Err(HeadError::BadLine),
        _ => Ok(()),
    }
}

fn method_length(line: &[u8]) -> usize {
    line.iter().position(|b| !matches!(b, b'A'..=b'Z' | b'_' | b'-')).unwrap_or(line.len())
}

/// The method at the beginning of what is no request line, if a blank follows it.
fn method_of_bad_line(line: &[u8]) -> Span {
    let length = method_length(line);
    if line.get(length) == Some(&b' ') { (0, length as u32) } else { (0, 0) }
}

fn request_line(line: &[u8]) -> Result<RequestLine, HeadError> {
    let line = trim_cr(line);
    let method_end = method_length(line);
    if method_end == 0 || line.get(method_end) != Some(&b' ') {
        return Err(HeadError::BadLine);
    }
    let method = (0, method_end as u32);
    let start = method_end + line[method_end..].iter().take_while(|b| **b == b' ').count();
    let rest = &line[start..];
    let absolute = rest.first().is_some_and(u8::is_ascii_alphabetic);
    if !(rest.first() == Some(&b'/') || absolute && has_scheme(rest)) {
        return Err(if matches!(&line[..method_end], b"CONNECT") {
            HeadError::Method
        } else {
            HeadError::BadLine
        });
    }
    let target_length = rest.iter().position(|b| *b <= 0x20 || *b == 0x7f).unwrap_or(rest.len());
    if rest.get(target_length).is_some_and(|b| *b != b' ') {
        return Err(HeadError::BadLine);
    }
    let target_span = (start as u32, (start + target_length) as u32);
    let after = &rest[target_length..];
    let after = &after[after.iter().take_while(|b| **b == b' ').count()..];
    // Blanks may follow the version.
    let trimmed = after.len() - after.iter().rev().take_while(|b| **b == b' ').count();
    let version = version(&after[..trimmed])?;
    if version == Version::Http09 && &line[..method_end] != b"GET" {
        return Err(HeadError::BadOldLine);
    }
    let protocol_start = (line.len() - after.len()) as u32;
    let protocol = (protocol_start, line.len() as u32);
    Ok(RequestLine { method, target: target_span, protocol, version })
}

fn has_scheme(target: &[u8]) -> bool {
    let length = target
        .iter()
        .position(|b| !matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
        .unwrap_or(target.len());
    target[length..].starts_with(b"://")
}

fn version(text: &[u8]) -> Result<Version, HeadError> {
    match text {
        b"HTTP/1.1" => return Ok(Version::Http11),
        b"" => return Ok(Version::Http09),
        _ => {}
    }
    let numbers = text.strip_prefix(b"HTTP/").ok_or(HeadError::BadLine)?;
    let dot = numbers.iter().position(|b| *b == b'.').ok_or(HeadError::BadLine)?;
    let digits = |d: &[u8]| -> Option<u32> {
        let fine = !d.is_empty() && d.len() <= 3 && d.iter().all(u8::is_ascii_digit);
        fine.then(|| d.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')))
    };
    let major = digits(&numbers[..dot]).ok_or(HeadError::BadLine)?;
    if numbers[0] == b'0' {
        return Err(HeadError::BadLine);
    }
    if major > 1 {
        return Err(HeadError::Version);
    }
    match digits(&numbers[dot + 1..]).ok_or(HeadError::BadLine)? {
        0 => Ok(Version::Http10),
        _ => Ok(Version::Http11),
    }
}

/// A field's name and value, as offsets into the line; `None` for one that is left out.
fn field(line: &[u8], limits: &HeadLimits) -> Result<Option<(Span, Span)>, HeadError> {
    let text = trim_cr(line);
    // A carriage return ends the line or is an error.
    if line_end(text, 0) < text.len() {
        return Err(HeadError::BadField);
    }
    let mut colon = plain_length(text);
    if text.get(colon) != Some(&b':') {
        colon = memchr::memchr(b':', text).unwrap_or(text.len());
        let name = &text[..colon];
        if name.iter().any(|b| *b <= 0x20 || *b == 0x7f) {
            return Err(HeadError::BadField);
        }
        let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || (*b == b'_' && limits.underscores);
        if limits.ignore_invalid && !name.iter().all(plain) {
            return Ok(None);
        }
    }
    if colon == 0 {
        return Err(HeadError::BadField);
    }
    let value = text.get(colon + 1..).unwrap_or_default();
    let lead = value.iter().take_while(|b| **b == b' ').count();
    let length = value.len() - value.iter().rev().take_while(|b| **b == b' ').count();
    let start = (colon + 1 + lead).min(text.len());
    let end = (colon + 1 + length).max(start).min(text.len());
    Ok(Some(((0, colon as u32), (start as u32, end as u32))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { line: 8192, total: 33_792, underscores: false, ignore_invalid: true, fields: 1000 };

    fn read(text: &str) -> Result<Head, HeadError> {
        let mut head = Head::default();
        match head.read(text.as_bytes(), &mut HeadScan::default(), &LIMITS)? {
            Progress::Done(_) => Ok(head),
            Progress::More => panic!("more wanted"),
        }
    }

    #[test]
    fn a_plain_request() {
        let head = read("\r\nGET /a?b HTTP/1.1\r\nHost: x\r\nX-A:  y \r\nbad_name: z\r\n\r\n").unwrap();
        assert_eq!((head.method(), head.target()), (&b"GET"[..], &b"/a?b"[..]));
        assert_eq!(head.line(), b"GET /a?b HTTP/1.1");
        assert_eq!(head.get("x-a"), Some(&b"y"[..]));
        assert_eq!(head.iter().count(), 2);
    }

    #[test]
    fn a_head_in_pieces_is_the_same_head() {
        let text = b"GET / HTTP/1.0\nA: b\n\nrest";
        for cut in 0..text.len() {
            let (mut head, mut scan) = (Head::default(), HeadScan::default());
            if let Progress::Done(n) = head.read(&text[..cut], &mut scan, &LIMITS).unwrap() {
                assert_eq!(n, 21);
                continue;
            }
            assert!(matches!(head.read(text, &mut scan, &LIMITS), Ok(Progress::Done(21))), "{cut}");
            assert_eq!(head.get("a"), Some(&b"b"[..]));
        }
    }

    #[test]
    fn what_nginx_refuses() {
        for (text, error) in [
            ("get / HTTP/1.1\r\n\r\n", HeadError::BadLine),
            ("GET x HTTP/1.1\r\n\r\n", HeadError::BadLine),
            ("OPTIONS * HTTP/1.1\r\n\r\n", HeadError::BadLine),
            ("GET / HTTP/2.0\r\n\r\n", HeadError::Version),
            ("GET /a b HTTP/1.1\r\n\r\n", HeadError::BadLine),
            ("POST /\r\n", HeadError::BadOldLine),
            ("CONNECT a:1 HTTP/1.1\r\n\r\n", HeadError::Method),
            ("GET / HTTP/1.1\r\n folded: x\r\n\r\n", HeadError::BadField),
            ("GET / HTTP/1.1\r\n: x\r\n\r\n", HeadError::BadField),
            ("GET / HTTP/1.1\r\na b: x\r\n\r\n", HeadError::BadField),
        ] {
            assert_eq!(read(text).unwrap_err(), error, "{text:?}");
        }
        assert_eq!(
            read(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(8200))).unwrap_err(),
            HeadError::LongLine
        );
        let long = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "a".repeat(8200));
        assert_eq!(read(&long).unwrap_err(), HeadError::LongFields);
    }

    #[test]
    fn empty_lines_before_a_request_are_bounded() {
        let (mut head, mut scan, mut input) = (Head::default(), HeadScan::default(), Vec::new());
        let refused = (0..100).find(|_| {
            input.extend_from_slice(&b"\r\n".repeat(500));
            head.read(&input, &mut scan, &LIMITS).is_err()
        });
        assert_eq!(refused, Some(33));
    }

    #[test]
    fn http_0_9_is_one_line() {
        assert_eq!(read("GET /\r\n").unwrap().version, Version::Http09);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Head::default().read(&bytes, &mut HeadScan::default(), &LIMITS);
        }
    }
}
