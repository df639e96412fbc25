//! Responses, and how they are written.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::Buf;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client may take nothing of what is written for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A response whose body is known.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Cow<'static, [u8]>,
}

/// How the end of a response is told.
#[derive(Debug, Clone, Copy)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// The connection ends with the body.
    Close,
    /// No body at all: the connection changes its protocol.
    None,
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { status, headers: vec![("Content-Type", content_type.to_owned())], body: body.into() }
    }

    /// A response that says no more than its status.
    pub fn bare(status: u16) -> Response {
        let text = format!("{status} {}\n", reason(status));
        Response::new(status, "text/plain; charset=utf-8", text.into_bytes())
    }

    /// The response with one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Writes it; for a HEAD request without the body.
    pub async fn write(&self, stream: &mut TcpStream, keep_alive: bool, head_only: bool) -> io::Result<()> {
        let framing = Framing::Length(self.body.len());
        let head = head(self.status, &self.headers, framing, keep_alive);
        let body: &[u8] = if head_only { &[] } else { &self.body };
        write_patiently(stream, head.as_bytes().chain(body)).await
    }
}

/// The head of a response, up to and with the empty line.
pub fn head(status: u16, headers: &[(&'static str, String)], framing: Framing, keep_alive: bool) -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut head =
        format!("HTTP/1.1 {status} {}\r\nServer: edgewater-demo\r\nDate: {date}\r\n", reason(status));
    // Writing to a String does not fail.
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = match framing {
        Framing::Length(length) => write!(head, "Content-Length: {length}\r\n"),
        Framing::Chunked => write!(head, "Transfer-Encoding: chunked\r\n"),
        Framing::Close | Framing::None => Ok(()),
    };
    if !keep_alive {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    head
}

/// Writes all of `bytes`; an error if the client takes nothing of them for too long.
pub async fn write_patiently(stream: &mut TcpStream, mut bytes: impl Buf) -> io::Result<()> {
    while bytes.has_remaining() {
        let written = timeout(PATIENCE, stream.write_buf(&mut bytes)).await;
        if written.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// The usual words for a status.
fn reason(status: u16) -> &'static str {
    let status = http::StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_how_the_body_ends() {
        let head_with = |framing, keep_alive| head(200, &[], framing, keep_alive);
        assert!(head_with(Framing::Length(7), true).contains("\r\nContent-Length: 7\r\n\r\n"));
        assert!(head_with(Framing::Chunked, true).ends_with("\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(head_with(Framing::Close, false).ends_with("\r\nConnection: close\r\n\r\n"));
        assert!(!head_with(Framing::None, true).contains("Connection"));
    }

    #[test]
    fn a_bare_response_says_its_status() {
        let response = Response::bare(404).with("X-Why", "gone");
        assert_eq!(&response.body[..], b"404 Not Found\n");
        let head = head(response.status, &response.headers, Framing::None, true);
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(head.contains("\r\nX-Why: gone\r\n"));
    }
}
