//! Text to words, by nginx's rules of quoting, escaping and comments.

use super::diag::{At, ConfError, ConfResult};
use std::sync::Arc;

/// What the text consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A word, unquoted and unescaped.
    Word(String),
    /// `;`
    Semicolon,
    /// `{`
    Open,
    /// `}`
    Close,
    /// The end of the text.
    End,
}

/// A lexer over one file's bytes.
pub struct Lexer<'a> {
    text: &'a [u8],
    pos: usize,
    line: u32,
    file: Arc<str>,
}

/// nginx's limit on one parameter, its read buffer.
const MAX_WORD: usize = 4096 * 16;

impl<'a> Lexer<'a> {
    /// Reads `text`, which came from `file`. Lines count from `first_line`.
    pub fn new(text: &'a [u8], file: Arc<str>, first_line: u32) -> Lexer<'a> {
        // A byte-order mark is not part of the language; editors put it there.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Lexer { text, pos: 0, line: first_line, file }
    }

    /// The place of the next byte.
    pub fn at(&self) -> At {
        At { file: self.file.clone(), line: self.line }
    }

    /// The next token and the line on which it begins.
    pub fn next_token(&mut self) -> ConfResult<(Token, At)> {
        self.skip_blank();
        let at = self.at();
        let token = match self.peek() {
            None => Token::End,
            Some(b';') => self.single(Token::Semicolon),
            Some(b'{') => self.single(Token::Open),
            Some(b'}') => self.single(Token::Close),
            Some(quote @ (b'"' | b'\'')) => self.quoted(quote, &at)?,
            Some(_) => self.bare(&at)?,
        };
        Ok((token, at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.pos).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.pos += 1;
        if byte == b'\n' && self.line > 0 {
            self.line += 1;
        }
        Some(byte)
    }

    fn single(&mut self, token: Token) -> Token {
        self.pos += 1;
        token
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.bump();
                }
                b'#' => {
                    while self.peek().is_some_and(|b| b != b'\n') {
                        self.pos += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn bare(&mut self, at: &At) -> ConfResult<Token> {
        let mut word = Vec::new();
        let mut variable = false;
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' => break,
                // `${name}` belongs to the word, any other brace opens a block.
                b'{' if !variable => break,
                b'\\' => {
                    self.escape(&mut word);
                    variable = false;
                    continue;
                }
                _ => {}
            }
            variable = byte == b'$';
            word.push(byte);
            self.bump();
            self.check_length(&word, at)?;
        }
        Ok(Token::Word(into_text(word)))
    }

    fn quoted(&mut self, quote: u8, at: &At) -> ConfResult<Token> {
        self.bump();
        let mut word = Vec::new();
        loop {
            match self.peek() {
                None => {
                    return Err(ConfError::new("unexpected end of file, expecting \";\" or \"}\"")
                        .at(&self.at())
                        .hint(format!("the quote ({}) of line {} is never closed", quote as char, at.line)));
                }
                Some(byte) if byte == quote => {
                    self.bump();
                    break;
                }
                Some(b'\\') => self.escape(&mut word),
                Some(byte) => {
                    word.push(byte);
                    self.bump();
                }
            }
            self.check_length(&word, at)?;
        }
        // nginx wants a boundary after a closing quote; `)` ends an `if` condition.
        match self.peek() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => {
                Ok(Token::Word(into_text(word)))
            }
            Some(other) => Err(ConfError::new(format!("unexpected \"{}\"", other as char))
                .at(&self.at())
                .hint("a space or \";\" belongs after a closing quote")),
        }
    }

    /// nginx unescapes the quotes, the backslash and three letters; any other backslash stays.
    fn escape(&mut self, word: &mut Vec<u8>) {
        self.bump();
        match self.peek() {
            Some(byte @ (b'"' | b'\'' | b'\\')) => {
                word.push(byte);
                self.bump();
            }
            Some(b't') => {
                word.push(b'\t');
                self.bump();
            }
            Some(b'r') => {
                word.push(b'\r');
                self.bump();
            }
            Some(b'n') => {
                word.push(b'\n');
                self.bump();
            }
            Some(other) => {
                word.push(b'\\');
                word.push(other);
                self.bump();
            }
            None => word.push(b'\\'),
        }
    }

    fn check_length(&self, word: &[u8], at: &At) -> ConfResult<()> {
        if word.len() <= MAX_WORD {
            return Ok(());
        }
        let start = String::from_utf8_lossy(&word[..10]).into_owned();
        Err(ConfError::new(format!("too long parameter \"{start}...\" started")).at(at))
    }
}

/// nginx takes any bytes; those that are not UTF-8 are kept as the replacement character.
fn into_text(word: Vec<u8>) -> String {
    String::from_utf8(word).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Token> {
        let mut lexer = Lexer::new(text.as_bytes(), Arc::from("t"), 1);
        let mut out = Vec::new();
        loop {
            let (token, _) = lexer.next_token().unwrap();
            if token == Token::End {
                return out;
            }
            out.push(token);
        }
    }

    fn word(s: &str) -> Token {
        Token::Word(s.to_string())
    }

    #[test]
    fn braces_after_a_dollar_belong_to_the_word() {
        assert_eq!(words("a ${b}c;"), [word("a"), word("${b}c"), Token::Semicolon]);
        assert_eq!(words("a{"), [word("a"), Token::Open]);
    }

    #[test]
    fn quotes_keep_blanks_and_escapes_are_nginxs() {
        assert_eq!(
            words(r#""a b" 'c"d' "e\"f" g\d \n"#),
            [word("a b"), word("c\"d"), word("e\"f"), word("g\\d"), word("\n")]
        );
    }

    #[test]
    fn comments_begin_only_where_a_word_could() {
        assert_eq!(words("a#b # c\n;"), [word("a#b"), Token::Semicolon]);
    }

    #[test]
    fn a_quote_that_is_not_closed_is_missed_at_the_end_and_named_where_it_opens() {
        let error = Lexer::new(b"\n'a\n\n", Arc::from("t"), 1).next_token().unwrap_err();
        assert_eq!(error.at.unwrap().line, 4);
        assert_eq!(error.hint.unwrap(), "the quote (') of line 2 is never closed");
    }

    #[test]
    fn a_word_after_a_quote_is_an_error() {
        let mut lexer = Lexer::new(b"'a'b", Arc::from("t"), 1);
        assert!(lexer.next_token().unwrap_err().message.contains("unexpected \"b\""));
    }
}
