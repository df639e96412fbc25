//! Text as `echo` writes it.

/// Text as HTML shows it.
pub fn entities(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    crate::http::html::append_escaped(text, &mut out);
    out
}

/// Text as a part of a URL in HTML (nginx's NGX_ESCAPE_HTML).
pub fn url_encoded(text: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '
            | b'#'
            | b'"'
            | b'%'
            | b'\''
            | b'<'
            | b'>'
            | b'\\'
            | b'^'
            | b'`'
            | b'{'..=b'}'
            | 0..=0x1f
            | 0x7f..=0xff => {
                out.extend_from_slice(&[
                    b'%',
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                ]);
            }
            byte => out.push(*byte),
        }
    }
    out
}
