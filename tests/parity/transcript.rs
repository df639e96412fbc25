//! What happened on one side, as lines that can be compared: what may differ between two servers or two runs
//! (dates, addresses, names and versions, boundaries, compressed bytes) is replaced.

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use crate::case::{Case, patterned};

/// An answer as the client read it.
pub struct Answer {
    /// The status line.
    pub line: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What else there is to say: trailers, how the connection ended.
    pub notes: Vec<String>,
    pub is_head: bool,
}

/// The lines of one side, and the statuses in the order of the answers.
pub struct Transcript {
    pub lines: Vec<String>,
    /// `closed` for a connection that ended without an answer.
    pub statuses: Vec<String>,
    /// Requests that the hit path answered, where that was asked.
    pub hits: u64,
    hidden: Vec<String>,
    masks: Vec<Regex>,
    /// Which lines of the error log are compared.
    errors: Option<Regex>,
    addresses: Vec<(String, &'static str)>,
}

/// Bodies up to this many bytes are shown as text.
const SHOWN: usize = 3000;

static SERVER_LINE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"<center>(nginx|edgewater)(/[\w.+-]+)?</center>").unwrap());
static SERVER_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(nginx|edgewater)(/[\w.+-]+)?$").unwrap());
/// `2026/01/02 03:04:05 [error] 12#34: *5 `
static ERROR_PREFIX: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[\d/]+ [\d:]+ \[(\w+)\] \d+#\d+: (?:\*\d+ )?").unwrap());

impl Transcript {
    pub fn new(case: &Case, dir: &Path, server: Ipv4Addr, upstream: Ipv4Addr) -> Result<Transcript, String> {
        let errors = case.errors.as_deref().map(Regex::new).transpose();
        let masks: Result<Vec<Regex>, _> = case.masks.iter().map(|m| Regex::new(m)).collect();
        Ok(Transcript {
            lines: vec![],
            statuses: vec![],
            hits: 0,
            hidden: case.hidden.clone(),
            masks: masks.map_err(|e| e.to_string())?,
            errors: errors.map_err(|e| e.to_string())?,
            addresses: vec![
                (server.to_string(), "<ip>"),
                (upstream.to_string(), "<upstream>"),
                (dir.display().to_string(), "<dir>"),
            ],
        })
    }

    /// A step begins.
    pub fn sent(&mut self, what: &str) {
        self.push(format!("> {what}"));
    }

    pub fn note(&mut self, what: &str) {
        self.push(format!("  {what}"));
    }

    pub fn closed(&mut self) {
        self.statuses.push("closed".into());
        self.note("closed without an answer");
    }

    /// The configuration was read again, and is in force or was refused.
    pub fn reloaded(&mut self, in_force: bool) {
        let verdict = if in_force { "ok" } else { "no" };
        self.statuses.push(verdict.into());
        self.note(verdict);
    }

    pub fn log(&mut self, text: &str) {
        for line in text.lines() {
            self.push(format!("log {line}"));
        }
    }

    /// The lines of the error log that the case compares: `[level] message`, without time, process and connection.
    pub fn errors(&mut self, text: &str) {
        let Some(wanted) = self.errors.clone() else { return };
        for line in text.lines() {
            let line = ERROR_PREFIX.replace(line, "[$1] ");
            if wanted.is_match(&line) {
                self.push(format!("logged {line}"));
            }
        }
    }

    pub fn answer(&mut self, mut answer: Answer) {
        self.statuses.push(answer.status.to_string());
        let encoded = header(&answer, "content-encoding").is_some();
        if encoded {
            decode(&mut answer);
        }
        boundaries(&mut answer);
        server_name(&mut answer);
        let date = header(&answer, "date").and_then(|d| httpdate::parse_http_date(d).ok());
        let mut headers: Vec<String> = vec![];
        for (name, value) in &answer.headers {
            let lower = name.to_ascii_lowercase();
            if self.hidden.contains(&lower) {
                continue;
            }
            let value = match lower.as_str() {
                "date" => {
                    if date.is_some() {
                        "<date>".into()
                    } else {
                        format!("not a date: {value}")
                    }
                }
                "expires" => since(value, date),
                "server" => match SERVER_NAME.captures(value) {
                    Some(parts) if parts.get(2).is_some() => "<server with version>".into(),
                    Some(_) => "<server>".into(),
                    None => value.clone(),
                },
                "content-length" if encoded => "<compressed>".into(),
                _ => value.clone(),
            };
            headers.push(format!("< {name}: {value}"));
        }
        // HTTP/1 shows the order in which the fields are sent. Stable: headers of one name keep theirs.
        if answer.line.starts_with("HTTP/2") {
            headers.sort_by_key(|h| h.split(':').next().unwrap_or_default().to_ascii_lowercase());
        }
        // A status line without a reason ends in a space, or with nginx in front of such an upstream, does not.
        self.push(format!("< {}", answer.line.trim_end()));
        for header in headers {
            self.push(header);
        }
        self.body(&answer.body);
        for note in &answer.notes {
            self.note(note);
        }
    }

    fn body(&mut self, body: &[u8]) {
        match std::str::from_utf8(body) {
            Ok("") => {}
            Err(_) if body.len() <= SHOWN => self.push(format!("  | {}", body.escape_ascii())),
            Ok(text) if body.len() <= SHOWN && !is_pattern(body) => {
                for line in text.split('\n') {
                    self.push(format!("  | {}", line.replace('\r', "\\r")));
                }
            }
            _ => self.push(format!("  | {} bytes, crc32 {:08x}", body.len(), crc32fast::hash(body))),
        }
    }

    fn push(&mut self, mut line: String) {
        for (address, name) in &self.addresses {
            line = line.replace(address.as_str(), name);
        }
        for mask in &self.masks {
            line = mask.replace_all(&line, "<masked>").into_owned();
        }
        self.lines.push(line);
    }
}

/// Whether this is made by `size=N`: the count and the checksum say all about it.
fn is_pattern(body: &[u8]) -> bool {
    body.len() > 64 && patterned(body.len()) == body
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// A date as its distance from the answer's own, to five seconds.
fn since(value: &str, date: Option<std::time::SystemTime>) -> String {
    let (Ok(expires), Some(date)) = (httpdate::parse_http_date(value), date) else {
        return value.to_owned();
    };
    let seconds =
        |t: std::time::SystemTime| t.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let delta = seconds(expires) - seconds(date);
    if delta.abs() > 400 * 86_400 {
        return value.to_owned();
    }
    format!("<date{:+}s>", (delta as f64 / 5.0).round() as i64 * 5)
}

/// Two compressors give different bytes for the same text: the text is compared.
fn decode(answer: &mut Answer) {
    if answer.body.is_empty() || header(answer, "content-encoding") != Some("gzip") {
        return;
    }
    let mut plain = vec![];
    match flate2::read::MultiGzDecoder::new(answer.body.as_slice()).read_to_end(&mut plain) {
        Ok(_) => answer.body = plain,
        Err(e) => answer.notes.push(format!("not gzip: {e}")),
    }
}

/// Replaces a random multipart boundary, and its share of the length.
fn boundaries(answer: &mut Answer) {
    let Some(boundary) =
        header(answer, "content-type").and_then(|v| v.split_once("boundary=")).map(|(_, b)| b.to_owned())
    else {
        return;
    };
    let text = String::from_utf8_lossy(&answer.body).replace(&boundary, "<boundary>");
    let count = text.matches("<boundary>").count();
    answer.body = text.into_bytes();
    for (name, value) in &mut answer.headers {
        *value = value.replace(&boundary, "<boundary>");
        if name.eq_ignore_ascii_case("content-length")
            && let Ok(length) = value.parse::<usize>()
        {
            *value = format!("{} without boundaries", length.saturating_sub(count * boundary.len()));
        }
    }
}

/// Replaces the server's name on built-in pages, and its share of the length.
fn server_name(answer: &mut Answer) {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let page_of_a_head =
        answer.is_head && answer.status >= 300 && header(answer, "content-type") == Some("text/html");
    let saved = match SERVER_LINE.captures(&text) {
        Some(parts) => {
            let name = if parts.get(2).is_some() {
                "<center><server with version></center>"
            } else {
                "<center><server></center>"
            };
            let changed = SERVER_LINE.replace(&text, name).into_owned();
            let saved = parts[0].len();
            answer.body = changed.into_bytes();
            saved
        }
        None if page_of_a_head => 0,
        None => return,
    };
    for (name, value) in &mut answer.headers {
        if name.eq_ignore_ascii_case("content-length") {
            *value = match value.parse::<usize>() {
                Ok(_) if page_of_a_head => "<built-in page>".into(),
                Ok(length) => format!("{} without the server's name", length.saturating_sub(saved)),
                Err(_) => value.clone(),
            };
        }
    }
}
