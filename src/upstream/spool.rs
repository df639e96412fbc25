//! A request's body, read whole before it goes upstream: in memory, or in a file when it is large.

use crate::http::Request;
use crate::http::body::BodyError;
use crate::http::phases::Flow;
use crate::http::request::Downstream;
use crate::http::temp_file::{Keep, TempFile};
use crate::observe::error_log::Level;
use crate::observe::request_log;
use bytes::{Bytes, BytesMut};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A body that can be sent more than once.
#[derive(Clone, Default)]
pub enum Spooled {
    /// There is none.
    #[default]
    None,
    /// In memory.
    Memory(Bytes),
    /// In a file, of so many bytes.
    File(Arc<TempFile>, u64),
}

/// Bytes read from the file at once.
const PIECE: u64 = 128 * 1024;

impl Spooled {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        match self {
            Spooled::None => 0,
            Spooled::Memory(bytes) => bytes.len() as u64,
            Spooled::File(_, length) => *length,
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The piece that begins at `offset`; empty at the end.
    pub async fn piece(&self, offset: u64) -> std::io::Result<Bytes> {
        match self {
            Spooled::None => Ok(Bytes::new()),
            Spooled::Memory(bytes) => Ok(bytes.slice((offset as usize).min(bytes.len())..)),
            Spooled::File(file, length) => {
                let file = file.clone();
                let wanted = (length - offset.min(*length)).min(PIECE) as usize;
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; wanted];
                    file.file().read_exact_at(&mut piece, offset).map(|()| Bytes::from(piece))
                });
                read.await.map_err(std::io::Error::other)?
            }
        }
    }
}

/// What a reader needs of the place of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Whether it is a file however small the body is.
    file_only: bool,
    /// What becomes of the file's name.
    keep: Keep,
    /// The file's permissions.
    mode: u32,
    /// At which level it is told that there is a file.
    level: Option<Level>,
}

/// Reads the whole body of a request; what exceeds `client_body_buffer_size` goes to a file.
pub async fn read(rq: &mut Request) -> Result<Spooled, BodyError> {
    use crate::modules::core::InFileOnly::{Clean, Off, On};
    let place = |file_only, keep, level| Place { file_only, keep, mode: 0o600, level: Some(level) };
    let place = match *rq.loc().core.client_body_in_file_only {
        Off => place(false, Keep::Unnamed, Level::Warn),
        On => place(true, Keep::Forever, Level::Notice),
        Clean => place(true, Keep::WhileUsed, Level::Notice),
    };
    read_into(rq, place).await
}

/// Reads the whole body of a request into a file with a name, which goes with the last handle on it
/// unless it was given another. `None` for a request that has said nothing of a body.
pub async fn read_to_file(rq: &mut Request) -> Result<Option<Arc<TempFile>>, BodyError> {
    let place = Place { file_only: true, keep: Keep::WhileUsed, mode: 0o660, level: None };
    match read_into(rq, place).await? {
        Spooled::File(file, _) => Ok(Some(file)),
        Spooled::None | Spooled::Memory(_) => Ok(None),
    }
}

/// Whether there is nothing to read, and nothing that reading would leave behind.
pub fn is_none(rq: &Request) -> bool {
    use crate::modules::core::InFileOnly::Off;
    !rq.has_body && rq.body.is_none() && matches!(*rq.loc().core.client_body_in_file_only, Off)
}

async fn read_into(rq: &mut Request, place: Place) -> Result<Spooled, BodyError> {
    let announced = rq.has_body || rq.body.is_some() || rq.head.get("content-length").is_some();
    if !announced || (!rq.has_body && rq.body.is_none() && !place.file_only) {
        return Ok(Spooled::None);
    }
    if let Some(kept) = &rq.spooled {
        return Ok(kept.clone());
    }
    let in_memory = if place.file_only { 0 } else { room(rq) };
    let mut memory = BytesMut::new();
    let mut file = None;
    if place.file_only {
        file = Some(create(rq, place).await?);
    }
    let mut total = 0u64;
    while let Some(piece) = rq.read_body().await? {
        total += piece.len() as u64;
        memory.extend_from_slice(&piece);
        let full = if file.is_some() { memory.len() >= CHUNK } else { memory.len() as u64 > in_memory };
        if full {
            let chunk = memory.split().freeze();
            let target = match &file {
                Some(file) => Arc::clone(file),
                None => file.insert(create(rq, place).await?).clone(),
            };
            append(target, chunk).await.map_err(BodyError::File)?;
        }
    }
    match file {
        None => {
            let bytes = memory.freeze();
            // `$request_body` and a second reader find it here.
            rq.body = Some(bytes.clone());
            Ok(Spooled::Memory(bytes))
        }
        Some(file) => {
            append(file.clone(), memory.freeze()).await.map_err(BodyError::File)?;
            // Another attempt under another URI (`error_page`) sends it again.
            let kept = Spooled::File(file, total);
            rq.spooled = Some(kept.clone());
            Ok(kept)
        }
    }
}

/// The answer to a request whose body could not be read.
pub fn refuse(rq: &mut Request, error: BodyError) -> Flow {
    rq.keepalive = false;
    let level = match &error {
        BodyError::File(_) => Level::Crit,
        BodyError::TooLarge => Level::Error,
        _ => Level::Info,
    };
    request_log(rq, level, format_args!("{error}"));
    Flow::status(error.status())
}

/// Bytes collected before they are written to the file.
const CHUNK: usize = 64 * 1024;

/// Bytes of the body that are kept in memory (ngx_http_read_client_request_body).
fn room(rq: &Request) -> u64 {
    let buffer = *rq.loc().core.client_body_buffer_size;
    let Some(length) = rq.body_length else { return buffer };
    let left = (*rq.srv().core.client_header_buffer_size).saturating_sub(rq.head.size() as u64);
    // What came in the buffer of the head stays there, and what follows has one of its own.
    let came = match &rq.downstream {
        Downstream::H1(h1) => length.min(left).min(h1.input.len() as u64),
        Downstream::H2(_) | Downstream::None => 0,
    };
    let rest = length - came;
    let fits = came > 0 && rest <= left - came || rest < buffer.saturating_add(buffer / 4);
    if fits { length } else { buffer }
}

async fn create(rq: &mut Request, place: Place) -> Result<Arc<TempFile>, BodyError> {
    let directory = rq.loc().core.client_body_temp_path.clone();
    let made = tokio::task::spawn_blocking(move || directory.create(place.keep, place.mode)).await;
    let file = made.map_err(std::io::Error::other).and_then(|made| made).map_err(BodyError::File)?;
    if let Some(level) = place.level {
        let path = file.path().display();
        request_log(rq, level, format_args!("a client request body is buffered to a temporary file {path}"));
    }
    Ok(Arc::new(file))
}

async fn append(file: Arc<TempFile>, chunk: Bytes) -> std::io::Result<()> {
    if chunk.is_empty() {
        return Ok(());
    }
    let write = tokio::task::spawn_blocking(move || file.file().write_all(&chunk));
    write.await.map_err(std::io::Error::other)?
}
