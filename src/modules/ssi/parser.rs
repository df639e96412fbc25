//! Finds commands (`<!--# name key="value" -->`) in text that comes in pieces cut anywhere.

use bytes::{Buf, Bytes};

/// The longest name of a command or a parameter, in bytes.
const LONGEST_NAME: usize = 32;
/// The most parameters of a command; what is more is only counted as one too many.
pub const MOST_PARAMETERS: usize = 16;

/// A piece of a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Token {
    /// Text.
    Text(Bytes),
    /// A command.
    Command(Command),
    /// A command that is none; nginx's words for why.
    Broken(String),
}

/// A command as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name.
    pub name: Vec<u8>,
    /// Its parameters, in order; at most one more than [`MOST_PARAMETERS`].
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In text; so many bytes of [`OPENING`] have been seen.
    Text(usize),
    BeforeName,
    Name,
    BeforeParameter,
    Parameter,
    BeforeEqual,
    BeforeValue,
    /// Within quotes of this kind; whether the next byte is quoted.
    Value(u8, bool),
    AfterValue,
    End0,
    End1,
    Error,
    ErrorEnd0,
    ErrorEnd1,
}

const OPENING: &[u8] = b"<!--#";

/// Reads a page. What might have begun a command at its end is dropped, as by nginx. What it holds is bounded: a name, and values of the configured length.
pub struct Parser {
    state: State,
    command: Command,
    /// Why the command being read is none.
    broken: String,
    longest_value: usize,
}

impl Parser {
    /// A parser that takes values up to so many bytes.
    pub fn new(longest_value: usize) -> Parser {
        Parser { state: State::Text(0), command: Command::default(), broken: String::new(), longest_value }
    }

    /// The next piece of `input`; `None` when all of it was taken.
    pub fn next(&mut self, input: &mut Bytes) -> Option<Token> {
        while !input.is_empty() {
            let token = match self.state {
                State::Text(seen) => self.text(seen, input),
                _ => {
                    let byte = input.get_u8();
                    self.step(byte)
                }
            };
            if token.is_some() {
                return token;
            }
        }
        None
    }

    /// Text up to what may begin a command. `seen` bytes of that were at the end of the last piece.
    fn text(&mut self, seen: usize, input: &mut Bytes) -> Option<Token> {
        let mut seen = seen;
        if seen == 0 {
            // In one piece, whatever tags there are in it: a piece may become a frame of its own.
            let at = memchr::memmem::find(input, OPENING).unwrap_or_else(|| {
                let begun = (1..OPENING.len()).rev().find(|n| input.ends_with(&OPENING[..*n]));
                input.len() - begun.unwrap_or(0)
            });
            if at > 0 {
                return Some(Token::Text(input.split_to(at)));
            }
        }
        while let Some(byte) = input.first() {
            if *byte != OPENING[seen] {
                // Not one; the byte may begin another.
                self.state = State::Text(0);
                return Some(Token::Text(Bytes::from_static(&OPENING[..seen])));
            }
            input.advance(1);
            seen += 1;
            if seen == OPENING.len() {
                self.state = State::BeforeName;
                self.command = Command::default();
                return None;
            }
        }
        self.state = State::Text(seen);
        None
    }

    fn step(&mut self, byte: u8) -> Option<Token> {
        let blank = matches!(byte, b' ' | b'\r' | b'\n' | b'\t');
        match self.state {
            State::BeforeName if blank => {}
            State::BeforeName => {
                self.command.name.push(byte);
                self.state = State::Name;
            }
            State::Name if blank => self.state = State::BeforeParameter,
            State::Name if byte == b'-' => self.state = State::End0,
            State::Name if self.command.name.len() == LONGEST_NAME => {
                let name = self.name();
                self.fail(byte, format!("the \"{name}{}...\" SSI command is too long", char::from(byte)));
            }
            State::Name => self.command.name.push(byte),
            State::BeforeParameter if blank => {}
            State::BeforeParameter if byte == b'-' => self.state = State::End0,
            State::BeforeParameter => {
                if self.command.parameters.len() > MOST_PARAMETERS {
                    self.command.parameters.pop();
                }
                self.command.parameters.push((vec![byte], Vec::new()));
                self.state = State::Parameter;
            }
            State::Parameter if blank => self.state = State::BeforeEqual,
            State::Parameter if byte == b'=' => self.state = State::BeforeValue,
            State::Parameter if byte == b'-' => self.unexpected(byte, "after"),
            State::Parameter if self.command.parameters.last().is_some_and(|p| p.0.len() == LONGEST_NAME) => {
                let (key, name) = (self.key(), self.name());
                let what =
                    format!("too long \"{key}{}...\" parameter in \"{name}\" SSI command", char::from(byte));
                self.fail(byte, what);
            }
            State::Parameter => self.last().0.push(byte),
            State::BeforeEqual if blank => {}
            State::BeforeEqual if byte == b'=' => self.state = State::BeforeValue,
            State::BeforeEqual => self.unexpected(byte, "after"),
            State::BeforeValue if blank => {}
            State::BeforeValue if matches!(byte, b'"' | b'\'') => self.state = State::Value(byte, false),
            State::BeforeValue => self.unexpected(byte, "before value of"),
            State::Value(quote, false) if byte == quote => self.state = State::AfterValue,
            State::Value(quote, quoted) => {
                if self.last().1.len() == self.longest_value {
                    let (key, name) = (self.key(), self.name());
                    let value = String::from_utf8_lossy(&self.last().1).into_owned();
                    let byte_text = char::from(byte);
                    self.broken = format!(
                        "too long \"{value}{byte_text}...\" value of \"{key}\" parameter in \"{name}\" SSI command"
                    );
                    self.state = State::Error;
                    return None;
                }
                self.last().1.push(byte);
                self.state = State::Value(quote, !quoted && byte == b'\\');
            }
            State::AfterValue if blank => self.state = State::BeforeParameter,
            State::AfterValue if byte == b'-' => self.state = State::End0,
            State::AfterValue => {
                let (key, name) = (self.key(), self.name());
                let value = String::from_utf8_lossy(&self.last().1).into_owned();
                self.broken = format!(
                    "unexpected \"{}\" symbol after \"{value}\" value of \"{key}\" parameter in \"{name}\" SSI command",
                    char::from(byte)
                );
                self.state = State::Error;
            }
            State::End0 if byte == b'-' => self.state = State::End1,
            State::End1 if byte == b'>' => {
                self.state = State::Text(0);
                return Some(Token::Command(std::mem::take(&mut self.command)));
            }
            State::End0 | State::End1 => {
                let name = self.name();
                self.broken = format!("unexpected \"{}\" symbol in \"{name}\" SSI command", char::from(byte));
                self.state = State::Error;
            }
            State::Error => {
                if byte == b'-' {
                    self.state = State::ErrorEnd0;
                }
            }
            State::ErrorEnd0 => self.state = if byte == b'-' { State::ErrorEnd1 } else { State::Error },
            State::ErrorEnd1 if byte == b'>' => {
                self.state = State::Text(0);
                return Some(Token::Broken(std::mem::take(&mut self.broken)));
            }
            State::ErrorEnd1 => self.state = State::Error,
            // Text is read elsewhere.
            State::Text(_) => {}
        }
        None
    }

    fn unexpected(&mut self, byte: u8, place: &str) {
        let (key, name) = (self.key(), self.name());
        let symbol = char::from(byte);
        self.fail(
            byte,
            format!("unexpected \"{symbol}\" symbol {place} \"{key}\" parameter in \"{name}\" SSI command"),
        );
    }

    /// The command is none; its end is looked for from here on.
    fn fail(&mut self, byte: u8, why: String) {
        self.broken = why;
        self.state = if byte == b'-' { State::ErrorEnd0 } else { State::Error };
    }

    fn name(&self) -> String {
        String::from_utf8_lossy(&self.command.name).into_owned()
    }

    fn key(&mut self) -> String {
        String::from_utf8_lossy(&self.last().0).into_owned()
    }

    /// The parameter being read.
    fn last(&mut self) -> &mut (Vec<u8>, Vec<u8>) {
        if self.command.parameters.is_empty() {
            self.command.parameters.push(Default::default());
        }
        let at = self.command.parameters.len() - 1;
        &mut self.command.parameters[at]
    }
}

impl Command {
    /// The command as it could have been written.
    pub fn rewritten(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<!--#");
        out.extend_from_slice(&self.name);
        for (key, value) in &self.parameters {
            // The value came between quotes of one kind, and has none of these that are not quoted.
            let quote = if value.contains(&b'"') { b'\'' } else { b'"' };
            out.push(b' ');
            out.extend_from_slice(key);
            out.push(b'=');
            out.push(quote);
            out.extend_from_slice(value);
            out.push(quote);
        }
        out.extend_from_slice(b" -->");
    }
}
