//! A page as a body: its text, and in place of its commands what they come to.

use super::page::{Include, Outcome, Page};
use super::parser::{Parser, Token};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::included::Included;
use crate::http::response::Response;
use bytes::Bytes;
use std::collections::VecDeque;
use std::task::{Context, Poll};

/// Includes that are asked for at once.
const AT_ONCE: usize = 8;
/// Bytes of text that wait behind an include.
const WAITING: usize = 64 * 1024;
/// Pieces of text, which may be small, that wait.
const PIECES: usize = 256;
/// What a command counts of a turn: it may compile a pattern, or begin a request.
const COMMAND: usize = 8 * 1024;

/// A page on its way.
pub struct Processed {
    inner: Body,
    input: Bytes,
    parser: Parser,
    page: Page,
    parts: VecDeque<Part>,
    waiting_bytes: usize,
    /// All of the page was read, or why it could not be.
    ended: Option<Result<(), BodyError>>,
    settings: Settings,
}

/// What a location says of its pages.
#[derive(Clone, Copy)]
pub struct Settings {
    /// `ssi_value_length`
    pub value_length: usize,
    /// `subrequest_output_buffer_size`: bytes of an answer that a variable takes.
    pub set_length: usize,
}

enum Part {
    Text(Bytes),
    Include(Box<Slot>),
}

/// The answer to an include.
struct Slot {
    included: Included,
    wait: bool,
    set: Option<Vec<u8>>,
    taken: Vec<u8>,
    stub: Option<Bytes>,
    seen: bool,
}

impl Processed {
    /// `inner`, read as the page.
    pub fn new(inner: Body, page: Page, settings: Settings) -> Processed {
        Processed {
            inner,
            input: Bytes::new(),
            parser: Parser::new(settings.value_length),
            page,
            parts: VecDeque::new(),
            waiting_bytes: 0,
            ended: None,
            settings,
        }
    }

    /// Reads on in the page as far as may be read ahead; false when more of it is to come.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let includes = self.parts.iter().filter(|part| matches!(part, Part::Include(_))).count();
            let waits = self.parts.iter().any(|part| matches!(part, Part::Include(slot) if slot.wait));
            let full = includes >= AT_ONCE || self.waiting_bytes >= WAITING || self.parts.len() >= PIECES;
            // Text that can be sent at once is not gathered.
            let ready = includes == 0 && !self.parts.is_empty();
            if waits || full || ready || self.ended.is_some() {
                return true;
            }
            if self.page.is_turn_over() {
                return false;
            }
            if self.input.is_empty() {
                match self.inner.poll_next(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Some(Ok(piece))) => self.input = piece,
                    Poll::Ready(Some(Err(e))) => self.ended = Some(Err(e)),
                    Poll::Ready(None) => self.ended = Some(Ok(())),
                }
                continue;
            }
            let before = self.input.len();
            let token = self.parser.next(&mut self.input);
            self.page.work(before - self.input.len());
            match token {
                None => {}
                Some(Token::Text(text)) => self.text(text),
                Some(Token::Broken(why)) => {
                    self.page.work(COMMAND);
                    let outcome = self.page.broken(&why);
                    self.outcome(outcome);
                }
                Some(Token::Command(command)) => {
                    self.page.work(COMMAND);
                    let outcome = self.page.run(&command);
                    self.outcome(outcome);
                }
            }
        }
    }

    fn text(&mut self, text: Bytes) {
        if let Some(text) = self.page.text(text) {
            self.waiting_bytes += text.len();
            self.parts.push_back(Part::Text(text));
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Text(text) => {
                self.waiting_bytes += text.len();
                self.parts.push_back(Part::Text(text));
            }
            Outcome::Include(include) => {
                let Include { below, wait, set, stub } = *include;
                let included = Included::new(below);
                let slot = Slot { included, wait, set, taken: Vec::new(), stub, seen: false };
                self.parts.push_back(Part::Include(Box::new(slot)));
            }
        }
    }

    /// Takes a piece of the include that stands first.
    fn take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(Part::Include(slot)) = self.parts.front_mut() else { return Poll::Ready(None) };
        loop {
            let piece = match slot.included.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                Poll::Ready(Some(Ok(piece))) => piece,
                Poll::Ready(None) => return Poll::Ready(None),
            };
            if piece.is_empty() {
                continue;
            }
            slot.seen = true;
            if slot.set.is_none() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if slot.taken.len() + piece.len() > self.settings.set_length {
                let length = slot.taken.len() + piece.len();
                crate::observe::request_error(
                    &self.page.rq,
                    format_args!("too big subrequest response: {length}"),
                );
                slot.taken.clear();
                return Poll::Ready(None);
            }
            slot.taken.extend_from_slice(&piece);
        }
    }

    /// The include that stands first has ended.
    fn leave(&mut self) {
        let Some(Part::Include(slot)) = self.parts.pop_front() else { return };
        let Slot { set, taken, stub, seen, included, .. } = *slot;
        if let Some(name) = set {
            self.page.assign(name, taken.into());
        } else if let (Some(stub), false, Included::Answered(below, mut response)) = (stub, seen, included) {
            if !response.upstream && response.content_type.is_none() {
                response.content_type = Some(super::HTML);
            }
            // Where the answer would have been a page, so is what stands for it.
            let body = match super::is_page(&below, &response) {
                true => {
                    let nested = Processed::new(stub.into(), self.page.below(below.copy()), self.settings);
                    Body::Stream(Box::new(nested))
                }
                false => stub.into(),
            };
            let included = Included::Answered(below, Box::new(Response { body, ..Response::default() }));
            let slot = Slot { included, wait: false, set: None, taken: Vec::new(), stub: None, seen: true };
            self.parts.push_front(Part::Include(Box::new(slot)));
        }
    }
}

impl BodyStream for Processed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.page.is_turn_over() {
                self.page.begin_turn();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let may_end = self.read(cx);
            // All go on together; they are taken in their order.
            for part in &mut self.parts {
                if let Part::Include(slot) = part {
                    let _ = slot.included.poll_answer(cx);
                }
            }
            match self.parts.front() {
                Some(Part::Text(_)) => {
                    if let Some(Part::Text(text)) = self.parts.pop_front() {
                        self.waiting_bytes -= text.len();
                        return Poll::Ready(Some(Ok(text)));
                    }
                }
                Some(Part::Include(_)) => match self.take(cx) {
                    Poll::Ready(None) => self.leave(),
                    other => return other,
                },
                None if self.page.is_turn_over() => {}
                None if !may_end => return Poll::Pending,
                None => match &mut self.ended {
                    Some(Ok(())) => return Poll::Ready(None),
                    Some(end @ Err(_)) => {
                        let end = std::mem::replace(end, Ok(()));
                        return Poll::Ready(end.err().map(Err));
                    }
                    None => {}
                },
            }
        }
    }

    fn flush_each(&self) -> bool {
        self.inner.flush_each()
    }
}
