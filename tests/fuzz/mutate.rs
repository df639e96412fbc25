//! Texts that are almost configurations.

use edgewater::conf::table;

/// Values that real ones border on.
const VALUES: [&str; 44] = [
    "0",
    "-1",
    "1",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807s",
    "99999999999g",
    "1y1M1w1d1h1m1s1ms",
    "-",
    "=",
    "~",
    "~*",
    "^~",
    "@",
    "*",
    "$",
    "${",
    "$1",
    "${host}",
    "\"\"",
    "''",
    "\"",
    "\\",
    "off",
    "on",
    "any",
    "always",
    "127.0.0.1:65536",
    "[::1]",
    "[",
    "unix:",
    "*.",
    "~^(?<a>x)(?<a>y)$",
    "((((",
    "(?P<x>",
    "a{0,99999}",
    "/{32}",
    "\u{fffd}",
    "\0",
    "if=$x",
];

const PIECES: [&str; 17] = [
    ";",
    "{",
    "}",
    ";;",
    "{}",
    " ",
    "\n",
    "#",
    "\r\n",
    "\u{feff}",
    "if ($a) {",
    "location / {",
    "server {",
    "include test.conf;",
    "include conf.d/*;",
    "include conf.d/again.inc;",
    "limit_except GET {",
];

/// Makes one text of others, always the same from the same beginning.
pub struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
    words: Vec<String>,
}

impl Mutator {
    /// A mutator of `seeds`.
    pub fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Mutator {
        let mut words: Vec<String> =
            table::stock().keys().chain(table::commands().keys()).map(|name| name.to_string()).collect();
        words.sort();
        words.dedup();
        let variables = edgewater::modules::VARIABLES.iter().flat_map(|table| table.iter());
        words.extend(variables.map(|variable| format!("${}", variable.name)));
        words.extend(VALUES.map(String::from));
        Mutator { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, seeds, words }
    }

    /// The next text.
    pub fn next(&mut self) -> Vec<u8> {
        let seed = self.below(self.seeds.len());
        let mut text = self.seeds[seed].clone();
        // Most inputs are almost right: what gets past the parser finds what lies behind it.
        let changes = if self.below(3) > 0 { 1 } else { 2 + self.below(6) };
        for _ in 0..changes {
            self.change(&mut text);
        }
        // A long text says no more than a short one.
        text.truncate(1 << 16);
        text
    }

    /// xorshift64*: quick, and the same everywhere.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        // The modulus is far from the range; evenness does not matter here.
        if bound == 0 { 0 } else { (self.random() >> 11) as usize % bound }
    }

    fn change(&mut self, text: &mut Vec<u8>) {
        let at = self.below(text.len() + 1);
        match self.below(11) {
            0 => self.replace_byte(text, at),
            1 => self.cut(text, at),
            2 => self.repeat(text, at),
            3 => {
                let piece = PIECES[self.below(PIECES.len())];
                insert(text, at, piece.as_bytes());
            }
            4..=6 => self.replace_word(text, at),
            7 => self.add_directive(text, at),
            8 | 9 => self.borrow_line(text, at),
            _ => self.swap_lines(text),
        }
    }

    fn replace_byte(&mut self, text: &mut [u8], at: usize) {
        let value = self.random() as u8;
        if let Some(byte) = text.get_mut(at) {
            *byte = value;
        }
    }

    fn cut(&mut self, text: &mut Vec<u8>, at: usize) {
        let end = (at + 1 + self.below(40)).min(text.len());
        text.drain(at.min(end)..end);
    }

    fn repeat(&mut self, text: &mut Vec<u8>, at: usize) {
        let end = (at + 1 + self.below(60)).min(text.len());
        let part = text[at.min(end)..end].to_vec();
        let times = if self.below(20) == 0 { 300 } else { 1 + self.below(3) };
        insert(text, at, &part.repeat(times));
    }

    /// Another word in the place of the one at `at`.
    fn replace_word(&mut self, text: &mut Vec<u8>, at: usize) {
        let breaks = |byte: &u8| byte.is_ascii_whitespace() || b";{}".contains(byte);
        let begin = text[..at].iter().rposition(breaks).map_or(0, |i| i + 1);
        let end = text[at..].iter().position(breaks).map_or(text.len(), |i| at + i);
        let word = self.word();
        text.splice(begin..end, word.into_bytes());
    }

    fn word(&mut self) -> String {
        // Values are few and rewarding.
        let few = self.below(3) == 0;
        let any = self.below(self.words.len());
        if few { VALUES[self.below(VALUES.len())].into() } else { self.words[any].clone() }
    }

    fn add_directive(&mut self, text: &mut Vec<u8>, at: usize) {
        let line = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let mut directive = self.word();
        for _ in 0..self.below(4) {
            directive.push(' ');
            let word = self.word();
            directive.push_str(&word);
        }
        directive.push_str(if self.below(8) == 0 { " { }\n" } else { ";\n" });
        insert(text, line, directive.as_bytes());
    }

    fn borrow_line(&mut self, text: &mut Vec<u8>, at: usize) {
        let other = self.below(self.seeds.len());
        let line = line_at(&self.seeds[other].clone(), self.random() as usize);
        let begin = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        insert(text, begin, &line);
    }

    fn swap_lines(&mut self, text: &mut Vec<u8>) {
        let mut lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
        let (one, two) = (self.below(lines.len()), self.below(lines.len()));
        if !lines.is_empty() {
            lines.swap(one, two);
        }
        *text = lines.concat();
    }
}

fn insert(text: &mut Vec<u8>, at: usize, part: &[u8]) {
    text.splice(at..at, part.iter().copied());
}

/// One line of `text`, with its end.
fn line_at(text: &[u8], number: usize) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
    let mut line = lines[number % lines.len()].to_vec();
    line.push(b'\n');
    line
}
