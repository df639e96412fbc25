//! Fields of a head, whose values end no line.

use crate::http::lines::line_end;

/// Appends a field. A line end in a value, which a decoded URI may bring there, would begin another
/// field; it goes out encoded.
pub fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    // Two bytes by themselves: to copy a slice is a call.
    out.push(b':');
    out.push(b' ');
    append_line_safe(value, out);
    end_line(out);
}

/// Ends a line.
#[inline]
pub(super) fn end_line(out: &mut Vec<u8>) {
    out.push(b'\r');
    out.push(b'\n');
}

/// Appends text to a line of a head, its line ends encoded.
#[inline]
pub fn append_line_safe(text: &[u8], out: &mut Vec<u8>) {
    match is_line(text) {
        true => out.extend_from_slice(text),
        false => append_encoded(text, out),
    }
}

/// The same of text that may have line ends.
#[cold]
fn append_encoded(text: &[u8], out: &mut Vec<u8>) {
    let (mut from, mut at) = (0, 0);
    loop {
        at = line_end(text, at);
        let encoded = match text.get(at) {
            None => break,
            Some(b'\r') => b"%0D",
            Some(b'\n') => b"%0A",
            // A zero, which ends nothing.
            Some(_) => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(encoded);
        at += 1;
        from = at;
    }
    out.extend_from_slice(&text[from..]);
}

/// Whether there is surely no line end in a text: no byte up to a carriage return, of which blanks are none. Eight are
/// looked at together, and the last eight though some of them were.
#[inline]
fn is_line(text: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // A byte below the limit borrows; only those behind one may do so for another reason.
    let low = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        word.wrapping_sub(ONES * (b'\r' as u64 + 1)) & !word
    };
    let Some(last) = text.last_chunk() else { return text.iter().all(|byte| *byte > b'\r') };
    let found = text.as_chunks().0.iter().fold(low(last), |found, word| found | low(word));
    found & (ONES * 0x80) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn line_ends_are_encoded_wherever_they_are(
            text in prop::collection::vec(prop_oneof![1 => 0u8..16, 9 => any::<u8>()], 0..40),
        ) {
            let mut wanted = b"A: ".to_vec();
            for byte in &text {
                match byte {
                    b'\r' => wanted.extend_from_slice(b"%0D"),
                    b'\n' => wanted.extend_from_slice(b"%0A"),
                    other => wanted.push(*other),
                }
            }
            wanted.extend_from_slice(b"\r\n");
            let mut out = Vec::new();
            write_field(b"A", &text, &mut out);
            prop_assert_eq!(out, wanted);
            let plain = text.iter().all(|byte| *byte > b'\r');
            prop_assert_eq!(is_line(&text), plain);
        }
    }
}
