//! The case file: a configuration, the files and upstream replies it needs, and a script of requests.
//!
//! ```text
//! title: a directory asked for without its slash is redirected
//! mask: [0-9]+ms                     a regex whose matches are not compared (repeatable)
//! errors: \[error\].*denied           the error log's lines that match are compared, without what says when and where
//! hide: Accept-Ranges                a response header that is not compared (repeatable)
//! pending: auth_basic                what Edgewater has not got yet; such a case fails when it passes
//!
//! --- server                         inside `server { listen {{listen}}; … }`
//! root {{root}};
//! --- http                           inside `http { … }`, before that server; alone if it has servers itself
//! --- main                           lines of the main context
//! --- conf                           instead of all three: the whole nginx.conf
//! --- nginx-only http                as `http`, but for nginx only (what 1.22 needs said to act like 1.31)
//! --- server 2                       that part after the first `reload`; what is not given stays as it was before.
//!                                    Likewise `http 2`, `main 2`, `conf 2`, `nginx-only http 2`, and 3 and so on
//! --- file dir/index.html            a file below {{root}}; `size=N` instead of content makes N patterned bytes,
//!                                    `raw` after the path reads escapes as in `raw`
//! --- film a.mp4 stts+8=00ff         what ffmpeg makes of these arguments; then, if asked, bytes in hex in place of
//! -f lavfi -i testsrc -t 5           those so many after the first `stts`
//! --- link a/b ../c                   a symbolic link below {{root}} and where it leads
//! --- dir empty                      an empty directory below {{root}}
//! --- upstream /path                 what the stand-in answers on /path; a second section for it is the second
//! HTTP/1.1 200 OK                    answer, the last one repeats; without a section it echoes the request
//! Cache-Control: max-age=1
//!
//! body
//! --- script
//! GET /dir = 301                     a request on its own connection and the status nginx gives
//!   Accept: x                        a header (Host: localhost is sent unless given)
//!   @ conn=a http=1.0                options, see `Options`
//! raw = 400                          bytes as they are (Rust escapes), then as many answers as statuses;
//!   | GET / HTTP/1.1\r\n\r\n         `closed` for a connection that ends without one
//! frames NAME = 400                  HTTP/2 frames as they are: see `frames.rs`
//! read a = 200                       the answer to a request that was only sent (`@ conn=a send`)
//! pipe a ping                        writes the text and reads as many bytes back (after a 101)
//! peek a text                        reads until the text has come on the connection, and takes nothing away
//! await 2                            until the upstreams have seen 2 requests in all; what they saw is then sorted
//! release                            lets every `hold` reply go
//! reload = ok                        writes the next configuration, sends HUP, and waits until it is in force for new
//!                                    connections (`ok`), or has been refused (`no`)
//! rotate                             renames the access logs to NAME.1, sends USR1, and waits until they are let go
//! sleep 1100ms                       only where time itself is the event
//! --- check server                   instead of a script: pieces of configuration, one a line (⏎ is a line's end),
//! ok listen 127.0.0.1:80;            in this context, each tested with `-t`; `ok` and `no` say what nginx says,
//!                                    `{{port}}` is a free port,
//! no listen 70000;                   and the line that is named as wrong is compared; with `said` after the context, so
//!                                    is what is said of it
//! --- differs                        a difference on purpose: nginx's transcript line, ours, and why
//! why: 1.31 answers 431
//! nginx: < HTTP/1.1 400 Bad Request
//! ours: < HTTP/1.1 431 …             without `ours:` the line is dropped; `ours:` alone is an added line
//! step: GET /x => 502                a whole step that differs: only our status is checked
//! ```
//!
//! Placeholders: `{{listen}}` (port 28080), `{{listen2}}` (28081), `{{tls}}` (28443), `{{ip}}`, `{{upstream}}`,
//! `{{upstream2}}` (stand-ins; sections `--- upstream2 …`), `{{dead}}` (refuses), `{{root}}`, `{{dir}}`,
//! `{{log}}` and `{{log2}}` (their lines are compared), `{{loggz}}` (the same, decompressed), `{{syslog}}` and
//! `{{syslog_unix}}` (address and path of a syslog server, whose messages are compared), `{{cert}}`, `{{key}}`. Each
//! server has a loopback address of its own, so ports are the same on both sides.
//!
//! Words after an upstream path: `close` (no length, ends with the connection), `chunked`, `raw` (escapes as in
//! `raw`), `hang` (never answers), `drop` (closes at once), `hold` (answers after `release`), `upgrade` (after the
//! head, bytes are echoed), `pause` (at `~PAUSE~` in the body it waits for `release`), `note` (the request's head and
//! body are written down, not its line alone).

use crate::frames::Frame;
use std::path::Path;
use std::time::Duration;

/// One parsed case.
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    pub title: String,
    /// Regexes whose matches are replaced in both transcripts.
    pub masks: Vec<String>,
    /// Response headers, in lower case, that are not compared.
    pub hidden: Vec<String>,
    /// What has to exist before this case can pass.
    pub pending: Option<String>,
    /// What the lines of the error log match that are compared.
    pub errors: Option<String>,
    /// The configuration, then that of after each reload.
    pub confs: Vec<Parts>,
    pub files: Vec<(String, Vec<u8>)>,
    /// Names, arguments for ffmpeg, and changes.
    pub films: Vec<(String, String, Vec<String>)>,
    /// Links and where they lead.
    pub links: Vec<(String, String)>,
    pub dirs: Vec<String>,
    pub replies: Vec<Reply>,
    pub script: Vec<Step>,
    pub checks: Vec<Check>,
    pub differs: Vec<Difference>,
}

/// The parts of a configuration.
#[derive(Debug, Default, Clone)]
pub struct Parts {
    pub conf: Option<String>,
    pub main: String,
    pub http: String,
    pub nginx_http: String,
    pub server: Option<String>,
}

/// What an upstream stand-in answers on a path.
#[derive(Debug, Clone)]
pub struct Reply {
    /// 0 for `upstream`, 1 for `upstream2`.
    pub upstream: usize,
    pub path: String,
    pub words: Vec<String>,
    pub text: String,
}

/// A line, or a step, in which the two servers differ on purpose.
#[derive(Debug, Default)]
pub struct Difference {
    pub nginx: Option<String>,
    pub ours: Option<String>,
    /// The step, as the transcript names it, in which everything may differ but our status.
    pub step: Option<(String, String)>,
}

/// A piece of configuration, and whether nginx accepts it in that context.
#[derive(Debug)]
pub struct Check {
    pub context: String,
    pub text: String,
    pub accepted: bool,
    /// Whether the message is compared.
    pub said: bool,
}

/// One step of the script.
#[derive(Debug)]
pub enum Step {
    Request(Request),
    Raw { bytes: Vec<u8>, options: Options, expect: Vec<String> },
    Frames { name: String, frames: Vec<Frame>, options: Options, expect: Vec<String> },
    Read { conn: String, expect: Vec<String> },
    Pipe { conn: String, text: Vec<u8> },
    Peek { conn: String, text: Vec<u8> },
    Await(usize),
    Release,
    Reload { expect: Vec<String> },
    Rotate,
    Sleep(Duration),
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub options: Options,
    pub expect: Vec<String>,
}

/// The words of a step's `@` line.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// `conn=NAME`: the connection of that name, opened when it is first used and kept.
    pub conn: Option<String>,
    /// `reopen`: where the answer ends the connection of that name, the next request opens it anew.
    pub reopen: bool,
    /// `send`: only send, `read NAME` takes the answer.
    pub send: bool,
    /// `http=1.0`: the protocol version written in the request line.
    pub version: Option<String>,
    /// `tls`, `h2`: over TLS, over TLS with HTTP/2. `h2c`: HTTP/2 without TLS.
    pub tls: bool,
    pub h2: bool,
    pub h2c: bool,
    /// `sni=NAME`; localhost otherwise.
    pub sni: Option<String>,
    /// `port=N`; 28080, or 28443 with TLS.
    pub port: Option<u16>,
    /// `from=ADDRESS`: the client's address, 127.0.0.1 otherwise.
    pub from: Option<String>,
    /// `first=TEXT` (escapes as in `raw`, a blank is `\x20`): what a new connection begins with, before TLS.
    pub first: Vec<u8>,
    /// `nohost`: no Host header.
    pub nohost: bool,
    /// `body=TEXT` (to the end of the line, with escapes) or `body-size=N`.
    pub body: Option<Vec<u8>>,
    /// `chunked`: the body goes in chunks of 1000 bytes.
    pub chunked: bool,
    /// `later`: what the upstream sees is written down at the next `await`, since it comes when it comes.
    pub later: bool,
    /// `repeat=N`: the request is made N times.
    pub repeat: usize,
}

impl Step {
    /// Whether upstream requests may still come when the step is over; `await` is where they are then written down.
    pub fn is_open_ended(&self) -> bool {
        match self {
            Step::Request(Request { options, .. }) | Step::Raw { options, .. } => {
                options.send || options.later
            }
            Step::Frames { .. }
            | Step::Read { .. }
            | Step::Pipe { .. }
            | Step::Peek { .. }
            | Step::Await(_) => false,
            Step::Release | Step::Reload { .. } | Step::Rotate | Step::Sleep(_) => true,
        }
    }
}

impl Case {
    /// Reads a case file; errors name the line.
    pub fn read(path: &Path) -> Result<Case, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let case = parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Case { name, ..case })
    }

    /// How many answers the script reads.
    pub fn requests(&self) -> usize {
        let of = |step: &Step| match step {
            Step::Request(request) if !request.options.send => request.options.repeat,
            Step::Raw { expect, options, .. } if !options.send => expect.len(),
            Step::Read { expect, .. } | Step::Frames { expect, .. } => expect.len(),
            _ => 0,
        };
        self.script.iter().map(of).sum()
    }

    /// The parts that a section's head is about: `server 2` is part of the second configuration, which begins as a
    /// copy of the first.
    fn parts(&mut self, head: &[&str]) -> Result<&mut Parts, String> {
        let number = match head.last() {
            Some(word) if head.len() > 1 && word.starts_with(|c: char| c.is_ascii_digit()) => {
                word.parse().map_err(|_| "not a number")?
            }
            _ => 1usize,
        };
        if number == self.confs.len() + 1 {
            self.confs.extend(self.confs.last().cloned());
        }
        if number != self.confs.len() {
            return Err("configurations are not in order".into());
        }
        self.confs.last_mut().ok_or_else(|| "a case has a configuration".into())
    }
}

fn parse(text: &str) -> Result<Case, String> {
    let mut case = Case { confs: vec![Parts::default()], ..Case::default() };
    let mut sections: Vec<(String, Vec<&str>)> = vec![];
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("--- ") {
            sections.push((head.trim().to_owned(), vec![]));
        } else if let Some((_, lines)) = sections.last_mut() {
            lines.push(line);
        } else if let Some((key, value)) = line.split_once(": ") {
            match key {
                "title" => case.title = value.to_owned(),
                "mask" => case.masks.push(value.to_owned()),
                "errors" => case.errors = Some(value.to_owned()),
                "pending" => case.pending = Some(value.to_owned()),
                "hide" => case.hidden.push(value.trim().to_ascii_lowercase()),
                _ => return Err(format!("unknown key: {key}")),
            }
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            return Err(format!("neither a key nor a section: {line}"));
        }
    }
    for (head, lines) in sections {
        section(&mut case, &head, &lines).map_err(|e| format!("--- {head}: {e}"))?;
    }
    if case.title.is_empty() || (case.script.is_empty() && case.checks.is_empty()) {
        return Err("a case needs a title, and a script or checks".into());
    }
    Ok(case)
}

fn section(case: &mut Case, head: &str, lines: &[&str]) -> Result<(), String> {
    let text = lines.join("\n").trim_end_matches('\n').to_owned();
    let words: Vec<&str> = head.split_whitespace().collect();
    match *words.first().unwrap_or(&"") {
        "conf" => case.parts(&words)?.conf = Some(text),
        "main" => case.parts(&words)?.main = text,
        "http" => case.parts(&words)?.http = text,
        "nginx-only" => case.parts(&words)?.nginx_http = text,
        "server" => case.parts(&words)?.server = Some(text),
        "file" => {
            // A path may contain spaces.
            let path = head.split_once(' ').ok_or("no path")?.1;
            let (path, size) = path.rsplit_once(" size=").map_or((path, None), |(p, n)| (p, Some(n)));
            let (path, raw) = path.strip_suffix(" raw").map_or((path, false), |path| (path, true));
            let content = match size {
                Some(n) => patterned(n.parse().map_err(|_| "size is not a number")?),
                None if raw => unescape(&text)?,
                None => text.into_bytes(),
            };
            case.files.push((path.to_owned(), content));
        }
        "film" => {
            let name = (*words.get(1).ok_or("no name")?).to_owned();
            case.films.push((name, text, words[2..].iter().map(|w| (*w).to_owned()).collect()));
        }
        "link" => {
            let word = |n: usize| words.get(n).map(|w| (*w).to_owned()).ok_or("a link and where it leads");
            case.links.push((word(1)?, word(2)?));
        }
        "dir" => case.dirs.push((*words.get(1).ok_or("no path")?).to_owned()),
        "upstream" | "upstream2" => case.replies.push(Reply {
            upstream: usize::from(words[0] == "upstream2"),
            path: (*words.get(1).ok_or("no path")?).to_owned(),
            words: words[2..].iter().map(|w| (*w).to_owned()).collect(),
            text,
        }),
        "check" => {
            let context = *words.get(1).ok_or("no context")?;
            for line in lines.iter().filter(|l| !l.trim().is_empty()) {
                let (verdict, text) = line.split_once(' ').ok_or("ok TEXT or no TEXT")?;
                let accepted = match verdict {
                    "ok" => true,
                    "no" => false,
                    _ => return Err(format!("neither ok nor no: {line}")),
                };
                case.checks.push(Check {
                    context: context.to_owned(),
                    text: text.replace('⏎', "\n"),
                    accepted,
                    said: words.get(2) == Some(&"said"),
                });
            }
        }
        "script" => case.script = script(lines)?,
        "differs" => case.differs = differs(lines)?,
        other => return Err(format!("unknown section {other}")),
    }
    Ok(())
}

/// `size` bytes, each different from its neighbours, so that a shifted or repeated piece shows.
pub fn patterned(size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 16);
    let mut n = 0u64;
    while bytes.len() < size {
        bytes.extend_from_slice(format!("{n:07}\n").as_bytes());
        n += 1;
    }
    bytes.truncate(size);
    bytes
}

fn script(lines: &[&str]) -> Result<Vec<Step>, String> {
    let mut steps = vec![];
    let mut lines = lines.iter().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        if line.starts_with(' ') {
            return Err(format!("an indented line without a step: {line}"));
        }
        let mut more = vec![];
        while let Some(line) = lines.next_if(|l| l.starts_with(' ')) {
            more.push(line.trim_start());
        }
        steps.push(step(line, &more).map_err(|e| format!("{line}: {e}"))?);
    }
    Ok(steps)
}

fn step(line: &str, more: &[&str]) -> Result<Step, String> {
    let (command, expect) = match line.rsplit_once(" = ") {
        Some((command, statuses)) => (command, statuses.split_whitespace().map(str::to_owned).collect()),
        None => (line, vec![]),
    };
    let mut options = Options { repeat: 1, ..Options::default() };
    let mut headers = vec![];
    let mut bytes = vec![];
    let mut frames = vec![];
    for line in more {
        if let Some(words) = line.strip_prefix("@ ") {
            options.take(words)?;
        } else if let (Some(frame), true) = (line.strip_prefix("| "), command.starts_with("frames ")) {
            frames.push(frame.to_owned());
        } else if let Some(piece) = line.strip_prefix("| ") {
            bytes.extend(unescape(piece)?);
        } else {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("not a header: {line}"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
    let needs_status = || {
        if expect.is_empty() && !options.send { Err("no ` = STATUS`") } else { Ok(()) }
    };
    Ok(match word {
        "raw" => {
            needs_status()?;
            Step::Raw { bytes, options, expect }
        }
        "frames" => {
            needs_status()?;
            let frames = crate::frames::parse(&frames, unescape)?;
            Step::Frames { name: rest.to_owned(), frames, options, expect }
        }
        "read" => {
            needs_status()?;
            Step::Read { conn: rest.to_owned(), expect }
        }
        "pipe" => {
            let (conn, text) = rest.split_once(' ').ok_or("pipe CONN TEXT")?;
            Step::Pipe { conn: conn.to_owned(), text: unescape(text)? }
        }
        "peek" => {
            let (conn, text) = rest.split_once(' ').ok_or("peek CONN TEXT")?;
            Step::Peek { conn: conn.to_owned(), text: unescape(text)? }
        }
        "await" => Step::Await(rest.parse().map_err(|_| "await NUMBER")?),
        "release" => Step::Release,
        "reload" => {
            needs_status()?;
            Step::Reload { expect }
        }
        "rotate" => Step::Rotate,
        "sleep" => {
            let ms = rest.strip_suffix("ms").and_then(|n| n.parse().ok()).ok_or("sleep NNNms")?;
            Step::Sleep(Duration::from_millis(ms))
        }
        _ => {
            needs_status()?;
            let target = if rest.is_empty() {
                return Err("no target".into());
            } else {
                rest
            };
            Step::Request(Request {
                method: word.to_owned(),
                target: target.to_owned(),
                headers,
                options,
                expect,
            })
        }
    })
}

impl Options {
    fn take(&mut self, words: &str) -> Result<(), String> {
        let (words, body) = match words.split_once("body=") {
            Some((words, body)) => (words, Some(body)),
            None => (words, None),
        };
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "conn" => self.conn = Some(value.to_owned()),
                "reopen" => self.reopen = true,
                "send" => self.send = true,
                "later" => self.later = true,
                "http" => self.version = Some(value.to_owned()),
                "tls" => self.tls = true,
                "h2" => self.h2 = true,
                "h2c" => self.h2c = true,
                "sni" => self.sni = Some(value.to_owned()),
                "port" => self.port = Some(value.parse().map_err(|_| "port=N")?),
                "from" => self.from = Some(value.to_owned()),
                "first" => self.first = unescape(value)?,
                "nohost" => self.nohost = true,
                "body-size" => self.body = Some(patterned(value.parse().map_err(|_| "body-size=N")?)),
                "chunked" => self.chunked = true,
                "repeat" => self.repeat = value.parse().map_err(|_| "repeat=N")?,
                _ => return Err(format!("unknown option {word}")),
            }
        }
        if let Some(body) = body {
            self.body = Some(unescape(body)?);
        }
        Ok(())
    }
}

/// `\r \n \t \0 \\ \xHH` and `\{N}X` (the byte X, N times).
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = vec![];
    let mut rest = text.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'0') => out.push(0),
            Some(b'\\') => out.push(b'\\'),
            Some(b'x') => {
                let digits = [rest.next().unwrap_or(b'?'), rest.next().unwrap_or(b'?')];
                let digits = std::str::from_utf8(&digits).map_err(|e| e.to_string())?;
                out.push(u8::from_str_radix(digits, 16).map_err(|_| format!("bad escape in {text}"))?);
            }
            Some(b'{') => {
                let count: Vec<u8> = rest.by_ref().take_while(|b| *b != b'}').collect();
                let count: usize =
                    String::from_utf8_lossy(&count).parse().map_err(|_| format!("bad count in {text}"))?;
                let byte = rest.next().ok_or("nothing to repeat")?;
                out.extend(std::iter::repeat_n(byte, count));
            }
            other => return Err(format!("unknown escape {other:?} in {text}")),
        }
    }
    Ok(out)
}

fn differs(lines: &[&str]) -> Result<Vec<Difference>, String> {
    let mut found: Vec<Difference> = vec![];
    let mut reasons = 0;
    let mut open = false;
    for line in lines.iter().filter(|l| !l.trim().is_empty()) {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("no key: {line}"))?;
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match key {
            "why" => reasons += 1,
            "nginx" => {
                found.push(Difference { nginx: Some(value), ..Difference::default() });
                open = true;
            }
            "ours" if open => {
                if let Some(last) = found.last_mut() {
                    last.ours = Some(value);
                }
                open = false;
            }
            "ours" => found.push(Difference { ours: Some(value), ..Difference::default() }),
            "step" => {
                let (step, status) = value.split_once(" => ").ok_or("step: STEP => STATUS")?;
                let step = Some((step.to_owned(), status.to_owned()));
                found.push(Difference { step, ..Difference::default() });
            }
            _ => return Err(format!("unknown key: {key}")),
        }
    }
    if reasons == 0 { Err("no `why:`".into()) } else { Ok(found) }
}
