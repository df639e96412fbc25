//! One who reads a fill: from memory, or from the fill's file where memory has left it behind.

use super::entry::takes_ranges;
use super::file_body::FileBody;
use super::fill::{Fill, Opening, Told, Turn};
use super::seen::{Source, Tier};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::upstream::{Answer, FailureKind};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// One who reads a fill, from the first byte on, or a part of it.
pub struct Reader {
    fill: Arc<Fill>,
    id: usize,
    at: u64,
    /// Where it stops.
    end: u64,
    /// What it reads of the file, having fallen behind the window.
    file: Option<FileBody>,
    /// Whether parts can be had of it.
    parts: bool,
}

impl Reader {
    /// The reader that has this place in the fill.
    pub(super) fn new(fill: Arc<Fill>, id: usize, range: Range<u64>) -> Reader {
        if let Some(home) = &fill.home {
            home.hold();
        }
        Reader { fill, id, at: range.start, end: range.end, file: None, parts: false }
    }

    /// Whether what it reads was purged.
    pub fn is_purged(&self) -> bool {
        self.fill.mark.is_purged()
    }

    /// Waits for the head.
    pub async fn told(&self) -> Told {
        let mut told = self.fill.told.subscribe();
        match told.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(told)) => told.clone(),
            // The sender lives as long as the fill, which we hold.
            Ok(None) | Err(_) => Told::Failed(502, FailureKind::Error, "the fill is gone".into()),
        }
    }

    /// When another fill may begin beside this one unless the head is there; `None`: never.
    pub fn overdue_at(&self, age: Duration) -> Option<Instant> {
        self.fill.started.checked_add(age)
    }

    /// Leaves the fill, whose answer is another's alone, and waits for its turn to ask for itself.
    pub async fn turn(self) -> Turn {
        let fill = self.fill.clone();
        drop(self);
        if let Ok(permit) = fill.turns.acquire().await {
            permit.forget();
        }
        Turn::new(fill)
    }

    /// The same reader, of which parts can be had: as nginx cuts several ranges from what it has, and
    /// only one from what it is receiving.
    pub fn with_parts(mut self) -> Reader {
        self.parts = true;
        self
    }

    /// The answer that begins with `opening` and whose body is read here.
    pub fn answer(self, opening: &Opening) -> Answer {
        let source = Source {
            tier: Tier::Fill,
            fresh_until: opening.fresh_until.filter(|_| opening.refusal.is_none()),
            refusal: opening.refusal,
            received: opening.meta.received,
            initial_age: opening.meta.initial_age,
            readers: self.fill.readers(),
        };
        Answer {
            status: opening.status,
            reason: opening.reason.clone(),
            fields: opening.fields.clone(),
            length: opening.length,
            body: Body::Stream(Box::new(self)),
            ranges: takes_ranges(&opening.fields),
            kept: true,
            source,
            tunnel: None,
            attempts: Vec::new(),
        }
    }

    /// The next piece of what it reads of the file; `None` when it is to look where it is.
    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(file) = &mut self.file else { return Poll::Ready(None) };
        let read = ready!(file.poll_next(cx));
        match &read {
            Some(Ok(piece)) => {
                self.at += piece.len() as u64;
                let wake = self.fill.state.lock().read_to(self.id, self.at);
                self.wake_filler(wake);
            }
            _ => self.file = None,
        }
        Poll::Ready(read)
    }

    fn wake_filler(&self, wake: bool) {
        if wake {
            self.fill.room.notify_one();
        }
    }
}

impl BodyStream for Reader {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.at >= self.end {
                return Poll::Ready(None);
            }
            if let Some(read) = ready!(self.poll_file(cx)) {
                return Poll::Ready(Some(read));
            }
            let mut state = self.fill.state.lock();
            if self.at >= state.start {
                if let Some(mut piece) = state.piece_at(self.at) {
                    piece.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
                    self.at += piece.len() as u64;
                    let wake = state.read_to(self.id, self.at);
                    drop(state);
                    self.wake_filler(wake);
                    return Poll::Ready(Some(Ok(piece)));
                }
                return match &state.done {
                    Some(Ok(())) => Poll::Ready(None),
                    Some(Err(why)) => Poll::Ready(Some(Err(BodyError::Upstream(why.to_string())))),
                    None => {
                        let wake = state.wait(self.id, cx.waker().clone());
                        self.wake_filler(wake);
                        Poll::Pending
                    }
                };
            }
            match &state.file {
                Some((file, written)) if self.at < *written => {
                    self.file = Some(FileBody::new(file.clone(), self.at..self.end.min(*written)));
                }
                _ => {
                    let why = match state.is_cut(self.id) {
                        true => "the client took too little while others waited for what it did not take",
                        false => "the fill became too large to be kept while a part of it was read",
                    };
                    return Poll::Ready(Some(Err(BodyError::Upstream(why.into()))));
                }
            }
        }
    }

    fn part(&self, range: Range<u64>) -> Option<Body> {
        let (start, end) = (self.at.checked_add(range.start)?, self.at.checked_add(range.end)?);
        let part = || self.fill.join_part(start..end.min(self.end));
        self.parts.then(|| Body::Stream(Box::new(part())))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let wake = self.fill.state.lock().leave(self.id);
        self.wake_filler(wake);
        if let Some(home) = &self.fill.home {
            home.release();
        }
    }
}
