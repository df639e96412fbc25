//! The upstream stand-ins: they answer what the case says, by path, and remember what they were asked.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::case::{Case, Reply, patterned, unescape};
use crate::http1::{Buffered, Head};

/// Ports of `{{upstream}}` and `{{upstream2}}`; nothing listens on `DEAD_PORT`.
pub const PORTS: [u16; 2] = [9000, 9001];
pub const DEAD_PORT: u16 = 9009;

/// The stand-ins of one side; they stop when this is dropped.
pub struct Upstreams {
    ip: Ipv4Addr,
    shared: Arc<Shared>,
}

struct Shared {
    replies: Vec<Reply>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// A line for each request, in the order in which their heads ended.
    seen: Vec<String>,
    /// How many there were in all.
    total: usize,
    /// How often each path of each stand-in was answered from its sections.
    answered: HashMap<(usize, String), usize>,
    released: bool,
    stopped: bool,
}

impl Upstreams {
    pub fn start(case: &Case, ip: Ipv4Addr) -> Result<Upstreams, String> {
        let shared = Arc::new(Shared {
            replies: case.replies.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        for (which, port) in PORTS.into_iter().enumerate() {
            let listener = TcpListener::bind((ip, port)).map_err(|e| format!("upstream {ip}:{port}: {e}"))?;
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if shared.state().stopped {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // What goes wrong on a connection shows at the server under test.
                    std::thread::spawn(move || serve(&shared, which, stream));
                }
            });
        }
        Ok(Upstreams { ip, shared })
    }

    /// Takes the lines seen since the last call.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().seen)
    }

    /// Waits until `n` requests have been seen in all.
    pub fn await_seen(&self, n: usize) -> Result<(), String> {
        let state = self.shared.state();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, Duration::from_secs(10), |s| s.total < n)
            .expect("no thread panics with the lock held");
        if timeout.timed_out() {
            Err(format!("only {} of {n} upstream requests came", state.total))
        } else {
            Ok(())
        }
    }

    pub fn release(&self) {
        self.shared.state().released = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Upstreams {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
        for port in PORTS {
            // Wakes the accepting thread, which then sees that it is over.
            let _ = TcpStream::connect((self.ip, port));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock held")
    }

    /// Waits for `release`; `None` when it is over before.
    fn await_release(&self) -> Option<()> {
        let state = self.changed.wait_while(self.state(), |s| !s.released && !s.stopped).ok()?;
        if state.stopped { None } else { Some(()) }
    }

    /// The reply that is due for this path, if the case has one.
    fn due(&self, which: usize, path: &str) -> Option<&Reply> {
        let all: Vec<&Reply> =
            self.replies.iter().filter(|r| r.upstream == which && r.path == path).collect();
        let mut state = self.state();
        let count = state.answered.entry((which, path.to_owned())).or_default();
        let due = all.get((*count).min(all.len().saturating_sub(1))).copied();
        *count += 1;
        due
    }
}

fn serve(shared: &Shared, which: usize, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut conn = Buffered::new(stream);
    while let Ok(Some(head)) = conn.head() {
        if exchange(shared, which, &mut conn, &head).is_none() {
            let _ = conn.stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Answers one request; `None` when the connection is over.
fn exchange(shared: &Shared, which: usize, conn: &mut Buffered<TcpStream>, head: &Head) -> Option<()> {
    if head.header("expect").is_some() {
        conn.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let body = if head.is_chunked() {
        conn.chunked().ok().filter(|c| c.is_whole)?.body
    } else {
        conn.exactly(head.content_length().unwrap_or(0)).ok()?
    };
    let mut words = head.line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let name = if which == 0 { "upstream" } else { "upstream2" };
    let path = target.split('?').next().unwrap_or(target);
    let reply = shared.due(which, path);
    let mut seen = format!("{name}: {method} {target}");
    if reply.is_some_and(|r| r.words.iter().any(|w| w == "note")) {
        seen = format!("{name}: {}", described(head, &body).trim_end().replace('\n', " | "));
    }
    {
        let mut state = shared.state();
        state.seen.push(seen);
        state.total += 1;
    }
    shared.changed.notify_all();
    let Some(reply) = reply else {
        return echo(conn, head, method, &body);
    };
    let has = |word: &str| reply.words.iter().any(|w| w == word);
    if has("drop") {
        return None;
    }
    if has("hang") {
        let _ = conn.stream.read(&mut [0]);
        return None;
    }
    if has("hold") {
        shared.await_release()?;
    }
    if has("raw") {
        conn.stream.write_all(&unescape(&reply.text.replace('\n', "")).ok()?).ok()?;
        return if has("close") { None } else { Some(()) };
    }
    for (n, part) in message(reply, method, has("close"), has("chunked")).iter().enumerate() {
        if n > 0 {
            shared.await_release()?;
        }
        conn.stream.write_all(part).ok()?;
    }
    if has("upgrade") {
        loop {
            let bytes = conn.exactly(1).ok().filter(|b| !b.is_empty())?;
            conn.stream.write_all(&bytes).ok()?;
        }
    }
    if has("close") { None } else { Some(()) }
}

/// The reply's text as a message, CRLF in the head and framed; in parts between which it pauses.
fn message(reply: &Reply, method: &str, close: bool, chunked: bool) -> Vec<Vec<u8>> {
    let (head, body) = reply.text.split_once("\n\n").unwrap_or((&reply.text, ""));
    let size = reply.words.iter().find_map(|w| w.strip_prefix("size="));
    let parts: Vec<Vec<u8>> = match size {
        Some(n) => vec![patterned(n.parse().unwrap_or(0))],
        None => body.split("~PAUSE~").map(|part| part.as_bytes().to_vec()).collect(),
    };
    let lower = head.to_ascii_lowercase();
    let mut out = head.trim_end().replace('\n', "\r\n").into_bytes();
    let bodyless = ["HTTP/1.1 204", "HTTP/1.1 304", "HTTP/1.1 1"].iter().any(|s| head.starts_with(s));
    if chunked {
        out.extend_from_slice(b"\r\nTransfer-Encoding: chunked");
    } else if !close && !bodyless && !lower.contains("content-length:") {
        let length: usize = parts.iter().map(Vec::len).sum();
        out.extend_from_slice(format!("\r\nContent-Length: {length}").as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
    let mut messages = vec![out];
    if method == "HEAD" || bodyless {
        return messages;
    }
    for (n, part) in parts.iter().enumerate() {
        let mut bytes = vec![];
        if chunked {
            for piece in part.chunks(1000) {
                bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            if n + 1 == parts.len() {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        } else {
            bytes.extend_from_slice(part);
        }
        match messages.first_mut() {
            Some(first) if n == 0 => first.extend(bytes),
            _ => messages.push(bytes),
        }
    }
    messages
}

/// The request as it came: its line, its headers sorted by name, its body.
///
/// Left out is what says how the server keeps its upstream connections, in which nginx's versions differ: the
/// protocol version, and `Connection: close`.
fn described(head: &Head, body: &[u8]) -> String {
    let mut lines: Vec<String> = head
        .headers
        .iter()
        .filter(|(n, v)| !(n.eq_ignore_ascii_case("connection") && v == "close"))
        .map(|(n, v)| format!("{n}: {v}"))
        .collect();
    lines.sort_by_key(|l| l.to_ascii_lowercase());
    let line = head.line.rsplit_once(' ').map_or(head.line.as_str(), |(l, _)| l);
    let mut text = format!("{line}\n{}\n", lines.join("\n"));
    if !body.is_empty() {
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(body));
        text.push('\n');
    }
    text
}

/// Answers with the request as it came.
fn echo(conn: &mut Buffered<TcpStream>, head: &Head, method: &str, body: &[u8]) -> Option<()> {
    let text: Vec<u8> = described(head, body).into_bytes();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", text.len());
    conn.stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        conn.stream.write_all(&text).ok()?;
    }
    Some(())
}
