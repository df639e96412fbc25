//! HTTP/1 messages read from a stream: heads, and bodies in their three framings.

use std::io::{ErrorKind, Read, Write};

/// A stream with what has been read from it too early.
pub struct Buffered<S> {
    pub stream: S,
    /// Whether the end of the stream has been read.
    pub has_ended: bool,
    buf: Vec<u8>,
}

/// A head: its first line and its headers, as sent.
pub struct Head {
    pub line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"))
    }

    pub fn content_length(&self) -> Option<usize> {
        self.header("content-length")?.trim().parse().ok()
    }
}

impl<S: Read + Write> Buffered<S> {
    pub fn new(stream: S) -> Self {
        Buffered { stream, has_ended: false, buf: vec![] }
    }

    /// Reads more; `Ok(false)` at the end of the stream, which a reset counts as too.
    fn fill(&mut self) -> Result<bool, String> {
        let more = self.read_more()?;
        self.has_ended |= !more;
        Ok(more)
    }

    fn read_more(&mut self) -> Result<bool, String> {
        let mut piece = [0; 16 * 1024];
        loop {
            return match self.stream.read(&mut piece) {
                Ok(0) => Ok(false),
                Ok(n) => {
                    self.buf.extend_from_slice(&piece[..n]);
                    Ok(true)
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
                    ) =>
                {
                    Ok(false)
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    Err("nothing came in time".into())
                }
                Err(e) => Err(e.to_string()),
            };
        }
    }

    /// The next head; `None` if the stream ends before a byte of it.
    pub fn head(&mut self) -> Result<Option<Head>, String> {
        let end = loop {
            if let Some(at) = find(&self.buf, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill()? {
                if self.buf.is_empty() {
                    return Ok(None);
                }
                return Err(format!(
                    "the stream ended inside a head: {:?}",
                    String::from_utf8_lossy(&self.buf)
                ));
            }
        };
        let head: Vec<u8> = self.buf.drain(..end).collect();
        // One char for each byte: bytes above 127 survive the way through a `String`.
        let text: String = head.iter().map(|b| char::from(*b)).collect();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .map(|l| {
                l.split_once(':')
                    .map_or((l.to_owned(), String::new()), |(n, v)| (n.to_owned(), v.trim().to_owned()))
            })
            .collect();
        Ok(Some(Head { line, headers }))
    }

    /// Reads until `text` has come, and keeps all of it for the next reader.
    pub fn until(&mut self, text: &[u8]) -> Result<(), String> {
        while find(&self.buf, text).is_none() {
            if !self.fill()? {
                return Err("the stream ended before".into());
            }
        }
        Ok(())
    }

    /// Exactly `n` bytes, or fewer if the stream ends.
    pub fn exactly(&mut self, n: usize) -> Result<Vec<u8>, String> {
        while self.buf.len() < n {
            if !self.fill()? {
                break;
            }
        }
        let n = n.min(self.buf.len());
        Ok(self.buf.drain(..n).collect())
    }

    pub fn until_end(&mut self) -> Result<Vec<u8>, String> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.buf))
    }

    /// The next line without its end; `None` if the stream ends before.
    fn line(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(at) = find(&self.buf, b"\r\n") {
                let line: Vec<u8> = self.buf.drain(..at + 2).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..at]).into_owned()));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// A chunked body and its trailer lines; if the stream ends inside it, what came.
    pub fn chunked(&mut self) -> Result<Chunked, String> {
        let mut chunked = Chunked::default();
        loop {
            let Some(line) = self.line()? else { return Ok(chunked) };
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| format!("bad chunk size {line:?}"))?;
            if size == 0 {
                break;
            }
            chunked.body.extend(self.exactly(size)?);
            match self.line()? {
                Some(end) if end.is_empty() => {}
                Some(more) => return Err(format!("a chunk is longer than it says: {more:?}")),
                None => return Ok(chunked),
            }
        }
        while let Some(line) = self.line()? {
            if line.is_empty() {
                chunked.is_whole = true;
                break;
            }
            chunked.trailers.push(line);
        }
        Ok(chunked)
    }
}

/// A body that came in chunks.
#[derive(Default)]
pub struct Chunked {
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
    /// Whether its end came.
    pub is_whole: bool,
}

/// Where `needle` first occurs.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}
