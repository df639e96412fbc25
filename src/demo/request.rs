//! Requests, read from a connection within bounds of size and time.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest request line and header lines together, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;
/// Most header lines.
const HEADER_LIMIT: usize = 64;
/// Longest body, in bytes.
const BODY_LIMIT: usize = 1024 * 1024;
/// Longest line between the chunks of a body, in bytes.
const CHUNK_LINE_LIMIT: usize = 1024;
/// How long a connection may rest between two requests: longer than an edge keeps one.
const IDLE: Duration = Duration::from_secs(75);
/// How long a request, once begun, may pause.
const PAUSE: Duration = Duration::from_secs(10);

/// A request, whole.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    /// As in the request line: path and query.
    pub target: String,
    /// The `x` of `HTTP/1.x`.
    pub minor: u8,
    /// Names as they came; values that are not UTF-8 have replacement characters.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why there is no request.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRequest {
    /// The client left, broke off, or was silent for too long: nobody to answer.
    Left,
    /// To be answered with this status, and the connection to be closed.
    Refused(u16),
}

impl Request {
    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of the query's first argument called `name`, as it stands.
    pub fn argument(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// The value of the first header called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// Whether the list in the header `name` has `token`, in any case.
    pub fn header_lists(&self, name: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// Whether the connection may carry another request after this one.
    pub fn keeps_alive(&self) -> bool {
        match self.minor {
            0 => self.header_lists("connection", "keep-alive"),
            _ => !self.header_lists("connection", "close"),
        }
    }
}

/// Reads the next request. `buffer` keeps what was read beyond it, from one call to the next.
pub async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Request, NoRequest> {
    let mut input = Input { stream, buffer };
    if input.buffer.is_empty() {
        input.more(IDLE).await?;
    }
    let mut request = loop {
        if let Some(request) = take_head(input.buffer)? {
            break request;
        }
        if input.buffer.len() > HEAD_LIMIT {
            return Err(NoRequest::Refused(431));
        }
        input.more(PAUSE).await?;
    };
    let length = body_length(&request)?;
    if length != Length::Known(0) && input.buffer.is_empty() && request.header_lists("expect", "100-continue")
    {
        let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
        let written = input.stream.write_all(go_on).await;
        written.map_err(|_| NoRequest::Left)?;
    }
    request.body = match length {
        Length::Known(length) => input.exactly(length).await?,
        Length::Chunked => input.chunked().await?,
    };
    Ok(request)
}

/// Takes a head off the front of `buffer`; `None` if it is not whole yet.
fn take_head(buffer: &mut BytesMut) -> Result<Option<Request>, NoRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
        Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            return Err(NoRequest::Refused(431));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(NoRequest::Refused(400)),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        minor: head.version.unwrap_or(0),
        headers: head.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
        body: Vec::new(),
    };
    buffer.advance(length);
    if request.minor == 1 && request.header("host").is_none() {
        return Err(NoRequest::Refused(400));
    }
    Ok(Some(request))
}

#[derive(Debug, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked,
}

/// How long the body is, by the rules of RFC 9112 (section 6); what could be read in two ways is refused.
fn body_length(request: &Request) -> Result<Length, NoRequest> {
    let mut lengths = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(NoRequest::Refused(400));
    }
    match (request.header("transfer-encoding"), length) {
        (None, None) => Ok(Length::Known(0)),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") && request.minor == 1 => {
            Ok(Length::Chunked)
        }
        (Some(_), _) => Err(NoRequest::Refused(400)),
        (None, Some((_, value))) => {
            if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(NoRequest::Refused(400));
            }
            match value.parse() {
                Ok(length) if length <= BODY_LIMIT => Ok(Length::Known(length)),
                // All digits: a number, if too great a one.
                _ => Err(NoRequest::Refused(413)),
            }
        }
    }
}

struct Input<'a> {
    stream: &'a mut TcpStream,
    buffer: &'a mut BytesMut,
}

impl Input<'_> {
    /// Waits for more bytes, for no longer than `patience`.
    async fn more(&mut self, patience: Duration) -> Result<(), NoRequest> {
        match timeout(patience, self.stream.read_buf(self.buffer)).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0) | Err(_)) | Err(_) => Err(NoRequest::Left),
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, NoRequest> {
        while self.buffer.len() < length {
            self.more(PAUSE).await?;
        }
        Ok(self.buffer.split_to(length).to_vec())
    }

    async fn chunked(&mut self) -> Result<Vec<u8>, NoRequest> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = match httparse::parse_chunk_size(&line) {
                Ok(httparse::Status::Complete((_, size))) => size,
                _ => return Err(NoRequest::Refused(400)),
            };
            if size == 0 {
                return self.trailers().await.map(|()| body);
            }
            let size = match usize::try_from(size) {
                Ok(size) if size <= BODY_LIMIT - body.len() => size,
                _ => return Err(NoRequest::Refused(413)),
            };
            body.extend(self.exactly(size).await?);
            if self.exactly(2).await? != b"\r\n" {
                return Err(NoRequest::Refused(400));
            }
        }
    }

    /// Reads and forgets what may follow the last chunk, up to and with the empty line.
    async fn trailers(&mut self) -> Result<(), NoRequest> {
        for _ in 0..HEADER_LIMIT {
            if self.line().await? == b"\r\n" {
                return Ok(());
            }
        }
        Err(NoRequest::Refused(400))
    }

    /// Reads a line with its end.
    async fn line(&mut self) -> Result<Vec<u8>, NoRequest> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', self.buffer) {
                return Ok(self.buffer.split_to(end + 1).to_vec());
            }
            if self.buffer.len() > CHUNK_LINE_LIMIT {
                return Err(NoRequest::Refused(400));
            }
            self.more(PAUSE).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Request>, NoRequest> {
        take_head(&mut BytesMut::from(text))
    }

    fn length(headers: &str) -> Result<Length, NoRequest> {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        body_length(&head(&text).unwrap().unwrap())
    }

    #[test]
    fn a_head_is_taken_when_it_is_whole() {
        assert!(head("GET / HTTP/1.1\r\nHost: a\r\n").unwrap().is_none());
        let mut buffer = BytesMut::from("GET /a?b=1&c=2 HTTP/1.1\r\nHost: a\r\n\r\nrest");
        let request = take_head(&mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..], b"rest");
        assert_eq!(request.path(), "/a");
        assert_eq!(request.argument("c"), Some("2"));
        assert_eq!(request.argument("d"), None);
        assert_eq!(request.header("HOST"), Some("a"));
    }

    #[test]
    fn a_head_without_a_host_is_refused() {
        let refused = head("GET / HTTP/1.1\r\n\r\n").unwrap_err();
        assert_eq!(refused, NoRequest::Refused(400));
        assert!(head("GET / HTTP/1.0\r\n\r\n").unwrap().is_some());
    }

    #[test]
    fn too_many_headers_are_refused() {
        let many = "a: b\r\n".repeat(HEADER_LIMIT + 1);
        let refused = head(&format!("GET / HTTP/1.0\r\n{many}\r\n")).unwrap_err();
        assert_eq!(refused, NoRequest::Refused(431));
    }

    #[test]
    fn a_length_is_read_in_one_way_or_refused() {
        assert_eq!(length(""), Ok(Length::Known(0)));
        assert_eq!(length("Content-Length: 5\r\n"), Ok(Length::Known(5)));
        assert_eq!(length("Transfer-Encoding: chunked\r\n"), Ok(Length::Chunked));
        for bad in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: \r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
        ] {
            assert_eq!(length(bad), Err(NoRequest::Refused(400)), "{bad}");
        }
        assert_eq!(length("Content-Length: 99999999999999999999\r\n"), Err(NoRequest::Refused(413)));
    }

    #[test]
    fn a_connection_is_kept_as_its_version_has_it() {
        let keeps = |text: &str| head(text).unwrap().unwrap().keeps_alive();
        assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }
}
