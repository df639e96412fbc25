//! A request's body, read whole before it goes upstream: in memory, or in a file when it is large.

use crate::http::Request;
use crate::http::body::BodyError;
use bytes::{Bytes, BytesMut};
use std::fs::File;
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
    /// In a file without a name, of so many bytes.
    File(Arc<File>, u64),
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
                    file.read_exact_at(&mut piece, offset).map(|()| Bytes::from(piece))
                });
                read.await.map_err(std::io::Error::other)?
            }
        }
    }
}

/// Reads the whole body of a request; what exceeds `client_body_buffer_size` goes to a file.
pub async fn read(rq: &mut Request) -> Result<Spooled, BodyError> {
    if !rq.has_body && rq.body.is_none() {
        return Ok(Spooled::None);
    }
    if let Some(kept) = &rq.spooled {
        return Ok(kept.clone());
    }
    let in_memory = (*rq.loc().core.client_body_buffer_size).max(16 * 1024) as usize;
    let mut memory = BytesMut::new();
    let mut file: Option<Arc<File>> = None;
    let mut total = 0u64;
    while let Some(piece) = rq.read_body().await? {
        total += piece.len() as u64;
        memory.extend_from_slice(&piece);
        if memory.len() > in_memory {
            let chunk = memory.split().freeze();
            let target = match &file {
                Some(file) => file.clone(),
                None => file.insert(Arc::new(unnamed().await.map_err(BodyError::File)?)).clone(),
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

async fn append(file: Arc<File>, chunk: Bytes) -> std::io::Result<()> {
    let write = tokio::task::spawn_blocking(move || (&*file).write_all(&chunk));
    write.await.map_err(std::io::Error::other)?
}

/// A file that is gone when it is closed.
async fn unnamed() -> std::io::Result<File> {
    let open = tokio::task::spawn_blocking(|| {
        use rustix::fs::{Mode, OFlags};
        let directory = std::env::temp_dir();
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::open(&directory, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            // Not every file system has files without names.
            Err(_) => {
                let random = crate::edge::random::bytes();
                let name: String = random.iter().map(|b| format!("{b:02x}")).collect();
                let path = directory.join(format!("edgewater-{name}"));
                let file = File::options().read(true).write(true).create_new(true).open(&path)?;
                std::fs::remove_file(&path)?;
                Ok(file)
            }
        }
    });
    open.await.map_err(std::io::Error::other)?
}
