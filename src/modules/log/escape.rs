//! How a variable's value is made safe for the log, as nginx does it.

use std::io::Write;

/// `log_format … escape=`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Escape {
    /// `"`, `\`, control characters and bytes above 126 become `\xXX`; no value is `-`.
    #[default]
    Default,
    /// What a JSON string may not contain is escaped; no value is nothing.
    Json,
    /// Nothing is escaped; no value is nothing.
    None,
}

impl Escape {
    /// Reads the value of `escape=`.
    pub fn parse(text: &str) -> Option<Escape> {
        match text {
            "default" => Some(Escape::Default),
            "json" => Some(Escape::Json),
            "none" => Some(Escape::None),
            _ => None,
        }
    }

    /// What stands for a variable that has no value.
    pub fn missing(self) -> &'static [u8] {
        if self == Escape::Default { b"-" } else { b"" }
    }

    /// Escapes what `out` has from `start` on. Most values need nothing: they are looked at once and
    /// stay where they are.
    pub fn apply(self, out: &mut Vec<u8>, start: usize) {
        match self {
            Escape::Default => replace(out, start, is_special, |out, byte| {
                let _ = write!(out, "\\x{byte:02X}");
            }),
            Escape::Json => replace(out, start, is_special_in_json, json),
            Escape::None => {}
        }
    }
}

/// Puts what `write` makes of them in the place of the special bytes from `start` on.
fn replace(out: &mut Vec<u8>, start: usize, special: impl Fn(u8) -> bool, write: impl Fn(&mut Vec<u8>, u8)) {
    /// Bytes that are looked at together, without a branch for each.
    const TOGETHER: usize = 16;
    let (chunks, rest) = out[start..].as_chunks::<TOGETHER>();
    let any = |bytes: &[u8]| bytes.iter().fold(false, |found, byte| found | special(*byte));
    if !chunks.iter().any(|chunk| any(chunk)) && !any(rest) {
        return;
    }
    let Some(first) = out[start..].iter().position(|byte| special(*byte)) else { return };
    let rest = out.split_off(start + first);
    for byte in rest {
        if special(byte) { write(out, byte) } else { out.push(byte) }
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f | 0x7f..)
}

fn is_special_in_json(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f)
}

fn json(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        other => {
            let _ = write!(out, "\\u{other:04X}");
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(escape: Escape, value: &[u8]) -> Vec<u8> {
        let mut out = b"\"before\\ ".to_vec();
        let start = out.len();
        out.extend_from_slice(value);
        escape.apply(&mut out, start);
        assert_eq!(&out[..start], b"\"before\\ ", "what was there is left alone");
        out.split_off(start)
    }

    /// Undoes `\xXX` and nothing else.
    fn undo_default(mut text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some((first, rest)) = text.split_first() {
            if *first == b'\\' {
                assert_eq!(rest[0], b'x');
                let digits = std::str::from_utf8(&rest[1..3]).unwrap();
                assert_eq!(digits, digits.to_uppercase());
                out.push(u8::from_str_radix(digits, 16).unwrap());
                text = &rest[3..];
            } else {
                out.push(*first);
                text = rest;
            }
        }
        out
    }

    proptest! {
        #[test]
        fn the_default_is_plain_text_that_can_be_undone(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = escaped(Escape::Default, &value);
            prop_assert!(text.iter().all(|b| (0x20..0x7f).contains(b) && *b != b'"'));
            prop_assert_eq!(undo_default(&text), value);
        }

        #[test]
        fn json_is_read_back_by_a_json_parser(value in "\\PC{0,20}|[\\x00-\\x7f]{0,40}") {
            let text = String::from_utf8(escaped(Escape::Json, value.as_bytes())).unwrap();
            let read: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            prop_assert_eq!(read, value);
        }

        #[test]
        fn none_is_the_value(value in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(escaped(Escape::None, &value), value);
        }
    }

    #[test]
    fn bytes_as_nginx_writes_them() {
        assert_eq!(escaped(Escape::Default, b"a\"b\\c\n\x7f\xc3 ~"), b"a\\x22b\\x5Cc\\x0A\\x7F\\xC3 ~");
        assert_eq!(
            escaped(Escape::Json, b"a\"b\\c\n\x0b\x1f\x7f\xc3/"),
            b"a\\\"b\\\\c\\n\\u000B\\u001F\x7f\xc3/"
        );
    }
}
