//! Base64, as HTTP uses it and nginx reads it.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Decodes standard base64 up to the first `=`; bits that are left over are passed over.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = lenient(&STANDARD);
    ENGINE.decode(unpadded(text)).ok()
}

/// As [`decode`], in the alphabet for URLs.
pub fn decode_url(text: &[u8]) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = lenient(&URL_SAFE);
    ENGINE.decode(unpadded(text)).ok()
}

const fn lenient(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(alphabet, config)
}

fn unpadded(text: &[u8]) -> &[u8] {
    &text[..memchr::memchr(b'=', text).unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nginx_takes() {
        for (text, want) in [
            ("cGxhaW46c2VjcmV0", Some("plain:secret")),
            ("cGxhaW46c2VjcmV0==", Some("plain:secret")),
            ("cGxhaW46c2VjcmV0=x", Some("plain:secret")),
            ("cGxhaW46c2VjcmV", Some("plain:secre")),
            ("cGxhaW46c2VjcmV0A", None),
            ("cGxhaW46c2VjcmV0 x", None),
            ("", Some("")),
            ("-_-_", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), want.map(str::as_bytes), "{text}");
        }
        assert_eq!(decode_url(b"-_-_"), Some(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(decode_url(b"+/+/"), None);
    }
}
