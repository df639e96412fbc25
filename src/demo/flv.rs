//! The FLV clip taken apart into tags, and the tags put together again with other timestamps.

use std::sync::LazyLock;

use super::clip;

/// The clip's frames; parsed once.
#[expect(clippy::expect_used, reason = "the clip is part of the program, and a test parses it")]
pub static CLIP: LazyLock<FlvClip> = LazyLock::new(|| {
    FlvClip::parse(clip::FLV).expect("the embedded clip is an FLV file, as the tests of this module check")
});

/// A clip as FLV tags.
pub struct FlvClip {
    /// What an FLV stream begins with: the file header, the metadata and both decoder configurations.
    pub opening: Vec<u8>,
    /// The frames, by rising timestamp.
    pub frames: Vec<Frame>,
}

/// An audio or video tag.
pub struct Frame {
    /// When it is decoded, in milliseconds from the clip's start.
    pub at: u64,
    kind: u8,
    payload: &'static [u8],
}

const AUDIO: u8 = 8;
const VIDEO: u8 = 9;
const METADATA: u8 = 18;
const TAG_HEADER: usize = 11;

impl FlvClip {
    fn parse(file: &'static [u8]) -> Option<FlvClip> {
        // The file header's length is its last field; a zero "previous tag size" follows.
        let header = u32::from_be_bytes(file.get(5..9)?.try_into().ok()?) as usize + 4;
        if !file.starts_with(b"FLV\x01") {
            return None;
        }
        let mut opening = file.get(..header)?.to_vec();
        let mut frames = Vec::new();
        let mut rest = &file[header..];
        while !rest.is_empty() {
            let tag: &[u8; TAG_HEADER] = rest.first_chunk()?;
            let size = u32::from_be_bytes([0, tag[1], tag[2], tag[3]]) as usize;
            let frame = Frame {
                at: u64::from(u32::from_be_bytes([tag[7], tag[4], tag[5], tag[6]])),
                kind: tag[0],
                payload: rest.get(TAG_HEADER..TAG_HEADER + size)?,
            };
            match frame.role()? {
                Role::Opening => frame.write_at(0, &mut opening),
                Role::Media => frames.push(frame),
                Role::End => {}
            }
            // The tag's own size follows it once more.
            rest = rest.get(TAG_HEADER + size + 4..)?;
        }
        Some(FlvClip { opening, frames })
    }

    /// The index of the first key frame at or after `millis` into the clip; of the clip's first if none is left.
    pub fn key_frame_from(&self, millis: u64) -> usize {
        let from = |millis| {
            let mut frames = self.frames.iter();
            frames.position(|frame| frame.is_key_picture() && frame.at >= millis)
        };
        from(millis).or_else(|| from(0)).unwrap_or(0)
    }
}

/// What a tag is for.
enum Role {
    Opening,
    Media,
    End,
}

impl Frame {
    /// Appends the tag with the timestamp `millis`. FLV has 32 bits for it, so it wraps after 49 days.
    pub fn write_at(&self, millis: u64, out: &mut Vec<u8>) {
        let [_, size @ ..] = (self.payload.len() as u32).to_be_bytes();
        let [high, low @ ..] = (millis as u32).to_be_bytes();
        out.push(self.kind);
        out.extend_from_slice(&size);
        out.extend_from_slice(&low);
        out.push(high);
        out.extend_from_slice(&[0; 3]); // the stream's number, always zero
        out.extend_from_slice(self.payload);
        out.extend_from_slice(&((TAG_HEADER + self.payload.len()) as u32).to_be_bytes());
    }

    /// Whether decoding can start here: an H.264 key frame.
    pub fn is_key_picture(&self) -> bool {
        self.kind == VIDEO && self.payload.first() == Some(&0x17)
    }

    /// The second payload byte of an H.264 or AAC tag tells configuration (0) from frames (1) and the end (2).
    fn role(&self) -> Option<Role> {
        match (self.kind, self.payload.get(1)?) {
            (METADATA, _) | (AUDIO | VIDEO, 0) => Some(Role::Opening),
            (AUDIO | VIDEO, 1) => Some(Role::Media),
            (VIDEO, 2) => Some(Role::End),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clip_has_all_its_frames() {
        let pictures = CLIP.frames.iter().filter(|frame| frame.kind == VIDEO);
        assert_eq!(pictures.count(), 24 * 25);
        let keys = CLIP.frames.iter().filter(|frame| frame.is_key_picture());
        assert_eq!(keys.count(), clip::SEGMENTS.len());
        assert!(CLIP.frames.is_sorted_by_key(|frame| frame.at));
    }

    #[test]
    fn tags_come_out_as_they_went_in() {
        let mut out = CLIP.opening.clone();
        for frame in &CLIP.frames {
            frame.write_at(frame.at, &mut out);
        }
        // Only the end-of-sequence tag of the video is missing, somewhere near the end.
        let end_tag = TAG_HEADER + 5 + 4;
        assert_eq!(out.len() + end_tag, clip::FLV.len());
        assert!(out[..out.len() - 4096] == clip::FLV[..out.len() - 4096]);
    }

    #[test]
    fn a_timestamp_fills_its_four_bytes() {
        let mut out = Vec::new();
        CLIP.frames[0].write_at(0x1_2345_6789, &mut out);
        assert_eq!(out[4..8], [0x45, 0x67, 0x89, 0x23]);
        let size = u32::from_be_bytes(*out.last_chunk().unwrap()) as usize;
        assert_eq!(size + 4, out.len());
    }

    #[test]
    fn a_viewer_starts_with_a_key_frame() {
        let first = CLIP.key_frame_from(4_000);
        assert!(CLIP.frames[first].is_key_picture());
        assert!((4_000..4_100).contains(&CLIP.frames[first].at));
        assert_eq!(CLIP.key_frame_from(23_999), CLIP.key_frame_from(0));
    }
}
