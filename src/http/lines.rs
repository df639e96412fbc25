//! Lines of a head: looked through eight bytes at a time, and the numbers in them.

/// Eight times this byte.
const fn all(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// Where the first line end or zero is, from `at` on; the text's length if there is none.
pub fn line_end(text: &[u8], mut at: usize) -> usize {
    loop {
        at = low(text, at);
        match text.get(at) {
            Some(b'\n' | b'\r' | 0) | None => return at,
            Some(_) => at += 1,
        }
    }
}

/// Where the first line feed is, from `at` on.
pub fn line_feed(text: &[u8], at: usize) -> Option<usize> {
    let mut rest = text.get(at..)?;
    while let Some((word, more)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word) ^ all(b'\n');
        // As in `low`.
        let found = word.wrapping_sub(all(1)) & !word & all(0x80);
        if found != 0 {
            return Some(text.len() - rest.len() + (found.trailing_zeros() / 8) as usize);
        }
        rest = more;
    }
    let left = rest.iter().position(|byte| *byte == b'\n')?;
    Some(text.len() - rest.len() + left)
}

/// Where the first byte up to a carriage return is, of which blanks are none and a tab is one.
fn low(text: &[u8], at: usize) -> usize {
    const LIMIT: u8 = b'\r' + 1;
    let mut rest = text.get(at..).unwrap_or_default();
    while let Some((word, more)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        // A byte below the limit borrows; only those behind one may do so for another reason.
        let found = word.wrapping_sub(all(LIMIT)) & !word & all(0x80);
        if found != 0 {
            return text.len() - rest.len() + (found.trailing_zeros() / 8) as usize;
        }
        rest = more;
    }
    // What is left is looked at with some of what was, in which nothing is found again.
    let looked_at = text.len() - rest.len();
    if let (Some(word), true) = (text.last_chunk(), looked_at >= at + 8) {
        let word = u64::from_le_bytes(*word);
        let found = word.wrapping_sub(all(LIMIT)) & !word & all(0x80);
        return text.len() - 8 + (found.trailing_zeros() / 8) as usize;
    }
    looked_at + rest.iter().position(|byte| *byte < LIMIT).unwrap_or(rest.len())
}

/// How many bytes a field's name has with which `text` begins: visible ones, up to a colon.
pub fn name_length(text: &[u8]) -> usize {
    let mut rest = text;
    while let Some((word, more)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        let colons = word ^ all(b':');
        // As in `low`; a byte with its highest bit set is none of a name, too.
        let blanks = word.wrapping_sub(all(b' ' + 1));
        let colons = colons.wrapping_sub(all(1)) & !colons;
        let beyond = (word & all(0x7f)) + all(1);
        let found = (blanks & !word | colons | beyond | word) & all(0x80);
        if found != 0 {
            return text.len() - rest.len() + (found.trailing_zeros() / 8) as usize;
        }
        rest = more;
    }
    let left = rest.iter().position(|byte| !byte.is_ascii_graphic() || *byte == b':').unwrap_or(rest.len());
    text.len() - rest.len() + left
}

/// How many bytes of a target it begins with: any but blanks and controls.
pub fn visible_length(text: &[u8]) -> usize {
    let mut rest = text;
    while let Some((word, more)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        let deletes = word ^ all(0x7f);
        // As in `low`.
        let blanks = word.wrapping_sub(all(b' ' + 1)) & !word;
        let found = (blanks | deletes.wrapping_sub(all(1)) & !deletes) & all(0x80);
        if found != 0 {
            return text.len() - rest.len() + (found.trailing_zeros() / 8) as usize;
        }
        rest = more;
    }
    let left = rest.iter().position(|byte| *byte <= b' ' || *byte == 0x7f).unwrap_or(rest.len());
    text.len() - rest.len() + left
}

/// How many letters, digits and hyphens it begins with: what the names of nearly all fields consist of.
pub fn plain_length(text: &[u8]) -> usize {
    const PLAIN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'-';
            byte += 1;
        }
        table
    };
    text.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(text.len())
}

/// Appends a number in digits, of which `u64` has 20 at most: formatting it takes ten times as long.
pub fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len() - 1;
    while n > 9 {
        digits[first] += (n % 10) as u8;
        n /= 10;
        first -= 1;
    }
    digits[first] += n as u8;
    out.extend_from_slice(&digits[first..]);
}

/// Appends a number in three digits at least.
pub fn padded(out: &mut Vec<u8>, n: u64) {
    match n {
        0..10 => out.extend_from_slice(b"00"),
        10..100 => out.push(b'0'),
        _ => {}
    }
    number(out, n);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_end_where_they_cannot_go_on() {
        for (text, length) in [("a-b_c!: x", 6), (": x", 0), ("a b", 1), ("a", 1), ("", 0), ("a\u{7f}", 1)] {
            assert_eq!(name_length(text.as_bytes()), length, "{text}");
        }
        assert_eq!((plain_length(b"aZ0-9_"), plain_length(b":"), plain_length(b"a\xe4")), (5, 0, 1));
    }

    proptest! {
        #[test]
        fn ends_are_where_they_are(
            text in prop::collection::vec(prop_oneof![0u8..16, 120u8..136, any::<u8>()], 0..40),
            at in 0usize..50,
        ) {
            let found = text.iter().skip(at).position(|b| matches!(b, b'\n' | b'\r' | 0));
            let wanted = found.map_or(text.len().max(at.min(text.len())), |n| at + n);
            prop_assert_eq!(line_end(&text, at), wanted);
            let feed = text.iter().skip(at).position(|b| *b == b'\n');
            prop_assert_eq!(line_feed(&text, at), feed.map(|n| at + n));
        }

        #[test]
        fn names_are_as_long_as_they_are(
            text in prop::collection::vec(prop_oneof![1 => any::<u8>(), 1 => 0x1fu8..0x23, 1 => 0x7du8..0x81, 9 => b'A'..b'z'], 0..30),
        ) {
            let length = text.iter().position(|b| !b.is_ascii_graphic() || *b == b':').unwrap_or(text.len());
            prop_assert_eq!(name_length(&text), length);
            let length = text.iter().position(|b| *b <= b' ' || *b == 0x7f).unwrap_or(text.len());
            prop_assert_eq!(visible_length(&text), length);
        }
    }
}
