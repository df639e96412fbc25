//! nginx's mp4 module: a part of a film by its times, as a file of its own.
//!
//! `?start=` and `?end=` are seconds. What is sent are the boxes that describe the film, cut to the
//! part, and then the bytes of its media, straight from the file. [`boxes`] reads them, [`cut`] cuts
//! them; both on a thread that may wait for a disk.

mod boxes;
mod cut;
#[cfg(test)]
mod tests;

use super::static_files::{answer, film};
use crate::cache::file_body::Headed;
use crate::cache::file_io::{Stop, Wait, read_at};
use crate::cache::files::{Content, Found};
use crate::conf::values::{flag, size_arg};
use crate::conf::{Builder, Command, ConfResult, Directive};
use crate::http::body::Body;
use crate::http::phases::{Deciding, Flow};
use crate::http::request::Request;
use crate::http::uri::arg;
use crate::observe::error_log::Level;
use crate::observe::request_log;
use crate::settings;
use bytes::Bytes;
pub use cut::Cut;
use std::fs::File;
use std::io::{Error, ErrorKind, Result as IoResult};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// Bytes read at first.
        inherit buffer_size: u64 = 512 << 10,
        /// The largest description of a film that is cut.
        inherit max_buffer_size: u64 = 10 << 20,
        /// Whether a part begins with a key frame.
        inherit start_key_frame: bool = false,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("mp4", mp4, "answers with parts of films"),
    Command::works(
        "mp4_buffer_size",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().mp4.buffer_size.set(v)
        },
        "bytes read at first",
    ),
    Command::works(
        "mp4_max_buffer_size",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().mp4.max_buffer_size.set(v)
        },
        "the largest description of a film",
    ),
    Command::works(
        "mp4_start_key_frame",
        |b, d| {
            let v = flag(d)?;
            b.loc().mp4.start_key_frame.set(v)
        },
        "whether a part begins with a key frame",
    ),
];

fn mp4(b: &mut Builder, _: &Directive) -> ConfResult<()> {
    b.loc().core.content.0 = Some(handle);
    Ok(())
}

/// What is wanted of a film.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Milliseconds from its beginning.
    pub start: u64,
    /// Milliseconds; 0 is up to its end.
    pub length: u64,
    /// Whether to begin with the key frame before the start.
    pub key_frame: bool,
    /// Bytes read at first.
    pub buffer_size: u64,
    /// The largest `moov` that is read.
    pub max_buffer_size: u64,
    /// The file's name, for the log.
    pub name: String,
}

/// Why a film is not cut.
#[derive(Debug, PartialEq, Eq)]
pub enum Fail {
    /// It is to be sent as it is.
    Whole,
    /// It is no film that can be cut, or not at that time; the words for the log.
    Error(String),
    /// It could not be read.
    Critical(String),
}

/// Something with the bytes of a film.
pub trait Media {
    /// Bytes in all.
    fn size(&self) -> u64;
    /// Fills `buffer` with the bytes from `offset` on.
    fn read(&self, buffer: &mut [u8], offset: u64) -> IoResult<()>;
}

impl Media for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> IoResult<()> {
        let end = usize::try_from(offset).ok().and_then(|at| at.checked_add(buffer.len()));
        match end.and_then(|end| self.get(end - buffer.len()..end)) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => return Err(ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

/// A file and its size.
pub struct OnDisk<'a>(pub &'a File, pub u64);

impl Media for OnDisk<'_> {
    fn size(&self) -> u64 {
        self.1
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> IoResult<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match read_at(self.0, &mut buffer[filled..], offset + filled as u64, Wait::Yes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(Stop::Failed(failure)) => return Err(failure.error()),
                // Only a read that may not wait says so.
                Err(Stop::WouldWait) => return Err(Error::from(ErrorKind::WouldBlock)),
            }
        }
        Ok(())
    }
}

/// Cuts a film.
pub fn cut(media: &dyn Media, wanted: &Wanted) -> Result<Cut, Fail> {
    cut::cut(boxes::read(media, wanted)?, wanted, media.size())
}

fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(async move {
        let (path, found) = match film(rq).await {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        serve(rq, &path, found).await
    })
}

async fn serve(rq: &mut Request, path: &[u8], found: Found) -> Flow {
    let Some((start, length)) = times(&rq.args) else { return Flow::respond(answer(rq, found)) };
    let conf = &rq.loc().mp4;
    let wanted = Wanted {
        start,
        length,
        key_frame: *conf.start_key_frame,
        buffer_size: *conf.buffer_size,
        max_buffer_size: *conf.max_buffer_size,
        name: String::from_utf8_lossy(path).into_owned(),
    };
    let (content, size) = (found.content.clone(), found.stat.size);
    let cutting = tokio::task::spawn_blocking(move || match &content {
        Content::File(file) => cut(&OnDisk(file, size), &wanted),
        Content::Bytes(bytes) => cut(bytes, &wanted),
        Content::None => Err(Fail::Whole),
    });
    let cut = match cutting.await {
        Ok(Ok(cut)) => Some(cut),
        Ok(Err(Fail::Whole)) => None,
        Ok(Err(Fail::Error(text))) => return refuse(rq, Level::Error, &text),
        Ok(Err(Fail::Critical(text))) => return refuse(rq, Level::Crit, &text),
        Err(_) => return Flow::status(500),
    };
    let mtime = found.stat.mtime();
    let content = found.content.clone();
    let mut response = answer(rq, found);
    response.single_range = true;
    if let Some(Cut { head, media }) = cut {
        let length = head.len() as u64 + (media.end - media.start);
        response.length = Some(length);
        if response.etag.is_some() {
            response.etag = Some(format!("\"{mtime:x}-{length:x}\"").into());
        }
        let head = Bytes::from(head);
        response.body = match content {
            Content::File(file) => Body::Stream(Box::new(Headed::new(head, file, media))),
            Content::Bytes(bytes) => {
                let media = bytes.slice(media.start as usize..media.end as usize);
                Body::Pieces([head, media].into())
            }
            Content::None => Body::Empty,
        };
    }
    Flow::respond(response)
}

fn refuse(rq: &Request, level: Level, text: &str) -> Flow {
    request_log(rq, level, format_args!("{text}"));
    Flow::status(500)
}

/// The start and the length that a query asks for, in milliseconds; `None` when the whole is meant.
fn times(args: &[u8]) -> Option<(u64, u64)> {
    let start = arg(args, b"start").and_then(milliseconds);
    match arg(args, b"end").and_then(milliseconds) {
        Some(end) if end > 0 => {
            let start = start.unwrap_or(0);
            Some((start, end.saturating_sub(start)))
        }
        _ => Some((start?, 0)),
    }
}

/// Reads seconds with a fraction of any length, of which three digits count (ngx_http_mp4_atofp).
fn milliseconds(text: &[u8]) -> Option<u64> {
    const MOST: u64 = i64::MAX as u64;
    let (mut value, mut dot, mut left) = (0u64, false, 3);
    if text.is_empty() {
        return None;
    }
    for byte in text {
        match byte {
            b'.' if !dot => dot = true,
            b'0'..=b'9' if left == 0 => {}
            b'0'..=b'9' => {
                value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0')).filter(|v| *v <= MOST)?;
                left -= i32::from(dot);
            }
            _ => return None,
        }
    }
    for _ in 0..left {
        value = value.checked_mul(10).filter(|v| *v <= MOST)?;
    }
    Some(value)
}
