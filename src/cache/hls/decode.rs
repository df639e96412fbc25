//! What is read of a body that is compressed, within bounds.

use super::playlist::{LARGEST, Mistake};
use std::borrow::Cow;
use std::io::Read;

/// The memory that Zstandard may ask for, as a power of two: 8 MB, which any decoder must have (RFC 9659).
const ZSTD_WINDOW: u32 = 23;

/// The plain text of a body with this `Content-Encoding`, if that is no more than [`LARGEST`] bytes.
pub fn decode<'a>(body: &'a [u8], encoding: &[u8]) -> Result<Cow<'a, [u8]>, Mistake> {
    let encoding = encoding.trim_ascii().to_ascii_lowercase();
    match &encoding[..] {
        b"" | b"identity" => Ok(Cow::Borrowed(body)),
        b"gzip" | b"x-gzip" => read(flate2::read::MultiGzDecoder::new(body)),
        b"deflate" => read(flate2::read::ZlibDecoder::new(body)),
        b"br" => read(brotli::Decompressor::new(body, 4096)),
        b"zstd" => {
            let mut decoder = zstd::stream::read::Decoder::new(body).map_err(|_| Mistake::Encoding)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(|_| Mistake::Encoding)?;
            read(decoder)
        }
        _ => Err(Mistake::Encoding),
    }
}

fn read(decoder: impl Read) -> Result<Cow<'static, [u8]>, Mistake> {
    let mut text = Vec::new();
    let most = LARGEST as u64 + 1;
    decoder.take(most).read_to_end(&mut text).map_err(|_| Mistake::Encoding)?;
    if text.len() > LARGEST { Err(Mistake::TooLarge) } else { Ok(Cow::Owned(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn all(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        deflate.write_all(text).unwrap();
        let mut br = Vec::new();
        brotli::CompressorWriter::new(&mut br, 4096, 5, 20).write_all(text).unwrap();
        vec![
            ("", text.to_vec()),
            ("GZIP", gzip(text)),
            ("deflate", deflate.finish().unwrap()),
            ("br", br),
            ("zstd", zstd::encode_all(text, 3).unwrap()),
        ]
    }

    #[test]
    fn every_coding_we_have_is_read() {
        let text = b"#EXTM3U\n".repeat(1000);
        for (coding, body) in all(&text) {
            assert_eq!(decode(&body, coding.as_bytes()).as_deref(), Ok(&text[..]), "{coding}");
        }
        assert_eq!(decode(b"x", b"compress"), Err(Mistake::Encoding));
        assert_eq!(decode(b"x", b"gzip, br"), Err(Mistake::Encoding));
    }

    #[test]
    fn what_would_be_too_large_is_given_up() {
        let text = vec![b'#'; 200 << 20 >> 3];
        for (coding, body) in all(&text).into_iter().skip(1) {
            assert_eq!(decode(&body, coding.as_bytes()), Err(Mistake::TooLarge), "{coding}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(body in prop::collection::vec(any::<u8>(), 0..300), which in 0usize..5, at in 0usize..200) {
            let coding = ["gzip", "deflate", "br", "zstd", "identity"][which];
            let _ = decode(&body, coding.as_bytes());
            // And what is nearly right.
            let mut near = all(b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n").swap_remove(which).1;
            if let Some(byte) = near.get_mut(at) {
                *byte = body.first().copied().unwrap_or(0);
            }
            let _ = decode(&near, coding.as_bytes());
        }
    }
}
