//! The endless HTTP-FLV response: the clip's tags at the pace of the clock, with timestamps that only grow.

use std::io;
use std::time::Duration;

use bytes::Buf;
use tokio::net::TcpStream;

use super::flv::CLIP;
use super::response::Framing;
use super::timeline::SEGMENT_SECONDS;
use super::{clip, response, server};

/// The clip's length in milliseconds: where it loops.
const LOOP_MILLIS: u64 = SEGMENT_SECONDS * 1000 * clip::SEGMENTS.len() as u64;

/// Most that is collected before it is written, in bytes, for a viewer who has fallen behind.
const BATCH: usize = 64 * 1024;

/// Sends the stream until the client leaves, which is an error or not as it left. It is framed in chunks, or,
/// for HTTP/1.0, by the connection's end.
pub async fn send(stream: &mut TcpStream, chunked: bool) -> io::Result<()> {
    let headers = [
        ("Content-Type", "video/x-flv".to_owned()),
        ("Cache-Control", "no-cache".to_owned()),
        ("Access-Control-Allow-Origin", "*".to_owned()),
    ];
    let framing = if chunked { Framing::Chunked } else { Framing::Close };
    let head = response::head(200, &headers, framing, false);
    response::write_patiently(stream, head.as_bytes()).await?;

    let mut place = Place::live_at(server::now());
    let mut tags = CLIP.opening.clone();
    loop {
        let next = place.take_due(server::now(), &mut tags);
        if !tags.is_empty() {
            write_part(stream, chunked, &tags).await?;
            tags.clear();
        }
        tokio::time::sleep(next.saturating_sub(server::now())).await;
    }
}

async fn write_part(stream: &mut TcpStream, chunked: bool, tags: &[u8]) -> io::Result<()> {
    if !chunked {
        return response::write_patiently(stream, tags).await;
    }
    let size = format!("{:x}\r\n", tags.len());
    let chunk = size.as_bytes().chain(tags).chain(&b"\r\n"[..]);
    response::write_patiently(stream, chunk).await
}

/// Where in the endless stream a viewer is.
#[derive(Debug)]
struct Place {
    /// The index of the next frame in the clip.
    frame: usize,
    /// When this round of the clip began, in milliseconds since the Unix epoch.
    round: u64,
    /// The moment whose timestamp is zero for this viewer, likewise.
    zero: u64,
}

impl Place {
    /// The place of a viewer who comes at `now`: the last key frame, or the one that is due within a moment.
    fn live_at(now: Duration) -> Place {
        let now = now.as_millis() as u64;
        let round = now - now % LOOP_MILLIS;
        let segment = SEGMENT_SECONDS * 1000;
        let into_clip = (now - round) / segment * segment;
        Place { frame: CLIP.key_frame_from(into_clip), round, zero: round + into_clip }
    }

    /// Appends to `out` the tags that are due at `now`, though not many more bytes than a batch. Says when to
    /// ask again, as time since the Unix epoch.
    fn take_due(&mut self, now: Duration, out: &mut Vec<u8>) -> Duration {
        loop {
            // A last audio frame may reach past the end: the clip's first one stands in its place.
            match CLIP.frames.get(self.frame).filter(|frame| frame.at < LOOP_MILLIS) {
                None => {
                    self.round += LOOP_MILLIS;
                    self.frame = 0;
                }
                Some(frame) => {
                    let at = self.round + frame.at;
                    let due = Duration::from_millis(at);
                    if due > now || out.len() >= BATCH {
                        return due;
                    }
                    frame.write_at(at - self.zero, out);
                    self.frame += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The timestamps of the tags in `out`.
    fn timestamps(mut out: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        while !out.is_empty() {
            let size = u32::from_be_bytes([0, out[1], out[2], out[3]]) as usize;
            found.push(u32::from_be_bytes([out[7], out[4], out[5], out[6]]));
            out = &out[size + 15..];
        }
        found
    }

    proptest! {
        /// From any moment on, over several rounds and with any pauses, timestamps start near zero, never go
        /// back, never leap, and never run ahead of the clock by more than the first segment.
        #[test]
        fn timestamps_grow_with_the_clock(
            start in 0u64..4_000_000_000_000,
            steps in prop::collection::vec(0u64..5_000, 1..30),
        ) {
            let mut now = start;
            let mut place = Place::live_at(Duration::from_millis(now));
            let mut last = 0;
            for step in steps {
                now += step;
                let mut out = Vec::new();
                let next = place.take_due(Duration::from_millis(now), &mut out);
                for timestamp in timestamps(&out) {
                    prop_assert!((last..=last + 50).contains(&timestamp), "{} after {}", timestamp, last);
                    prop_assert!(u64::from(timestamp) <= now - start + SEGMENT_SECONDS * 1000);
                    last = timestamp;
                }
                prop_assert!(out.len() >= BATCH || next > Duration::from_millis(now));
            }
        }
    }

    #[test]
    fn one_round_later_the_same_frames_come() {
        let begin = Duration::from_millis(LOOP_MILLIS * 1000);
        let round = Duration::from_millis(LOOP_MILLIS);
        let mut place = Place::live_at(begin);
        let mut rounds = [Vec::new(), Vec::new()];
        for (index, out) in rounds.iter_mut().enumerate() {
            let end = begin + round * (index as u32 + 1);
            while place.take_due(end - Duration::from_millis(1), out) < end {
                let taken = out.len();
                let mut more = Vec::new();
                place.take_due(end - Duration::from_millis(1), &mut more);
                out.extend(more);
                assert!(out.len() > taken);
            }
        }
        // A round that starts with a key frame lacks the audio frame before it.
        let first = timestamps(&rounds[0]);
        let second = timestamps(&rounds[1]);
        assert_eq!(first.len() + 1, second.len());
        assert!(first.iter().zip(&second[1..]).all(|(a, b)| a + LOOP_MILLIS as u32 == *b));
    }
}
