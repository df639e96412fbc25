//! The clip that loops, as `clip/make.sh` made it: H.264 640x360 at 25 pictures a second, AAC mono at 48 kHz.

/// The clip's MPEG-TS segments, each of two seconds and starting with a key frame.
pub static SEGMENTS: [&[u8]; 12] = [
    include_bytes!("clip/seg00.ts"),
    include_bytes!("clip/seg01.ts"),
    include_bytes!("clip/seg02.ts"),
    include_bytes!("clip/seg03.ts"),
    include_bytes!("clip/seg04.ts"),
    include_bytes!("clip/seg05.ts"),
    include_bytes!("clip/seg06.ts"),
    include_bytes!("clip/seg07.ts"),
    include_bytes!("clip/seg08.ts"),
    include_bytes!("clip/seg09.ts"),
    include_bytes!("clip/seg10.ts"),
    include_bytes!("clip/seg11.ts"),
];

/// The same frames as one FLV file.
pub static FLV: &[u8] = include_bytes!("clip/clip.flv");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_whole_transport_packets() {
        for (index, segment) in SEGMENTS.iter().enumerate() {
            assert!(!segment.is_empty(), "{index}");
            assert_eq!(segment.len() % 188, 0, "{index}");
            assert!(segment.chunks(188).all(|packet| packet[0] == 0x47), "{index}");
        }
    }
}
