//! What can be wrong in a configuration, said so that it can be mended.

use std::fmt;
use std::sync::Arc;

/// A place in a configuration file. Lines count from 1.
#[derive(Clone, PartialEq, Eq)]
pub struct At {
    /// The file as nginx would name it: joined to the prefix, not canonicalised.
    pub file: Arc<str>,
    /// The line, from 1; 0 for text given with `-g`.
    pub line: u32,
}

impl At {
    /// The place of text given with `-g`, which has no file.
    pub fn command_line() -> At {
        At { file: Arc::from("command line"), line: 0 }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { write!(f, "{}", self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A mistake in the configuration: the operator is at fault, and this says where.
///
/// Displays as nginx's line without the program's name and level (`MESSAGE in FILE:LINE`),
/// then, on lines of their own, the offending text and a hint, when there are any.
#[derive(Clone, Debug)]
pub struct ConfError {
    /// What is wrong, in nginx's words where nginx has words for it.
    pub message: String,
    /// Where. `None` when no file is at fault (a port in use, say).
    pub at: Option<At>,
    /// The directive as it was written, shortened.
    pub text: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The result of reading a part of the configuration.
pub type ConfResult<T> = Result<T, ConfError>;

impl ConfError {
    /// An error that has no place yet; the directive being read gives it one.
    pub fn new(message: impl Into<String>) -> ConfError {
        ConfError { message: message.into(), at: None, text: None, hint: None }
    }

    /// The same error with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> ConfError {
        self.hint = Some(hint.into());
        self
    }

    /// The same error at `at`, unless it already has a place.
    pub fn at(mut self, at: &At) -> ConfError {
        self.at.get_or_insert_with(|| at.clone());
        self
    }

    /// The same error with the text it is about, unless it already has one.
    pub fn text(mut self, text: impl FnOnce() -> String) -> ConfError {
        self.text.get_or_insert_with(text);
        self
    }
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(at) = &self.at {
            write!(f, " in {at}")?;
        }
        if let Some(text) = &self.text {
            write!(f, "\n    | {text}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n    = hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfError {}

/// Something an operator should know about a configuration that loads.
#[derive(Clone, Debug)]
pub struct Note {
    /// `warn` where behaviour may differ from what was asked, `notice` where nothing is lost.
    pub level: NoteLevel,
    /// What there is to know.
    pub message: String,
    /// Where it stands.
    pub at: At,
}

/// How much a [`Note`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteLevel {
    /// Accepted, without effect, and nothing is lost by it.
    Notice,
    /// Accepted, and the operator should look.
    Warn,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            NoteLevel::Notice => "notice",
            NoteLevel::Warn => "warn",
        };
        write!(f, "[{level}] {} in {}", self.message, self.at)
    }
}
