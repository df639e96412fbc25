//! The frames that pass, known by their headers: how much work they carry, and the few that the `h2` crate does
//! not tell of.

use super::priority::Priority;
use h2::Reason;

/// Bytes of noise that are nobody's fault (nginx's number).
const SPARE: u64 = 1 << 20;
/// The most bytes of a PRIORITY_UPDATE that are looked at; longer ones say nothing.
const MOST: usize = 260;
/// Priorities that are kept until the driver takes them.
const UPDATES: usize = 128;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const PRIORITY_UPDATE: u8 = 16;

/// Goes from frame to frame, however the bytes are cut.
#[derive(Debug, Default)]
struct Walk {
    header: [u8; 9],
    have: u8,
    /// Bytes left of the present frame.
    left: usize,
}

/// A frame's header.
#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    stream: u32,
    length: usize,
}

enum Step<'a> {
    /// The end of what is there.
    End,
    Header(Header),
    /// A part of the payload of the frame whose header came last.
    Payload(&'a [u8]),
}

impl Walk {
    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Step<'a> {
        if input.is_empty() {
            return Step::End;
        }
        if self.left > 0 {
            let (part, rest) = input.split_at(self.left.min(input.len()));
            self.left -= part.len();
            *input = rest;
            return Step::Payload(part);
        }
        let have = usize::from(self.have);
        let n = (9 - have).min(input.len());
        self.header[have..have + n].copy_from_slice(&input[..n]);
        *input = &input[n..];
        self.have += n as u8;
        if self.have < 9 {
            return Step::End;
        }
        self.have = 0;
        let [a, b, c, kind, _, e, f, g, h] = self.header;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes([e & 0x7f, f, g, h]);
        Step::Header(Header { kind, stream, length: self.left })
    }
}

/// What was read.
#[derive(Debug)]
pub struct Frames {
    /// All bytes.
    pub bytes: u64,
    /// Of these, payload of DATA, HEADERS and CONTINUATION.
    payload: u64,
    walk: Walk,
    /// What came of a frame that is looked into.
    kept: Vec<u8>,
    kind: u8,
    /// Bytes by which the client has opened the connection's window.
    pub credit: u64,
    /// Streams whose priority the client has said anew.
    pub updates: Vec<(u32, Priority)>,
    /// What is wrong with a frame that the crate does not look at.
    pub fault: Option<Reason>,
}

impl Default for Frames {
    /// The preface comes first.
    fn default() -> Frames {
        Frames {
            bytes: 0,
            payload: 0,
            walk: Walk { left: 24, ..Walk::default() },
            kept: Vec::new(),
            kind: u8::MAX,
            credit: 0,
            updates: Vec::new(),
            fault: None,
        }
    }
}

impl Frames {
    /// Takes note of what was read.
    pub fn read(&mut self, mut input: &[u8]) {
        self.bytes += input.len() as u64;
        loop {
            match self.walk.step(&mut input) {
                Step::End => return,
                Step::Header(header) => self.begin(header),
                Step::Payload(part) => self.part(part),
            }
        }
    }

    fn begin(&mut self, Header { kind, stream, length }: Header) {
        self.kind = u8::MAX;
        match kind {
            DATA | HEADERS | CONTINUATION => self.payload += length as u64,
            WINDOW_UPDATE if stream == 0 && length == 4 => self.kind = kind,
            PRIORITY_UPDATE if stream != 0 => self.fault = Some(Reason::PROTOCOL_ERROR),
            PRIORITY_UPDATE if length < 4 => self.fault = Some(Reason::FRAME_SIZE_ERROR),
            PRIORITY_UPDATE if length <= MOST => self.kind = kind,
            _ => {}
        }
    }

    fn part(&mut self, part: &[u8]) {
        if self.kind == u8::MAX {
            return;
        }
        self.kept.extend_from_slice(part);
        if self.walk.left > 0 {
            return;
        }
        self.whole();
        self.kept.clear();
    }

    /// Looks into a frame that is there.
    fn whole(&mut self) {
        let Some((number, field)) = self.kept.split_first_chunk() else { return };
        let number = u32::from_be_bytes(*number) & 0x7fff_ffff;
        if self.kind == WINDOW_UPDATE {
            self.credit += u64::from(number);
        } else if number == 0 {
            self.fault = Some(Reason::PROTOCOL_ERROR);
        } else if self.updates.len() < UPDATES {
            // All of what is said of a stream: what is not named has its default (RFC 9218, 7).
            self.updates.push((number, Priority::default().with(field)));
        }
    }

    /// nginx's rule: less than an eighth of all bytes, either way, carried anything.
    pub fn is_flood(&self, written: u64, sent: u64) -> bool {
        (self.bytes + written) / 8 > self.payload + sent + SPARE
    }
}

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    walk: Walk,
    /// All bytes.
    pub bytes: u64,
    /// Of these, payload of DATA.
    pub data: u64,
}

impl Written {
    /// Takes note of a part of what is written; says where in it the last frame begins that begins there.
    pub fn wrote(&mut self, part: &[u8]) -> Option<usize> {
        self.bytes += part.len() as u64;
        let mut input = part;
        let mut last = None;
        loop {
            let at = part.len() - input.len();
            match self.walk.step(&mut input) {
                Step::End => return last,
                Step::Header(header) => {
                    last = Some(at);
                    if header.kind == DATA {
                        self.data += header.length as u64;
                    }
                }
                Step::Payload(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    }

    fn read(text: &[u8], step: usize) -> Frames {
        let mut frames = Frames::default();
        frames.read(&[b'P'; 24]);
        text.chunks(step).for_each(|part| frames.read(part));
        frames
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let text = [
            frame(1, 1, &[0; 30]),
            frame(8, 0, &[0, 1, 0, 0]),
            frame(6, 0, &[0; 8]),
            frame(16, 0, b"\0\0\0\x05u=1, i"),
            frame(0, 1, &[0; 300]),
            frame(8, 1, &[0, 0, 0, 9]),
            frame(8, 0, &[0, 0, 0, 1]),
            frame(16, 0, b"\0\0\0\x07"),
        ]
        .concat();
        for step in 1..text.len() {
            let frames = read(&text, step);
            assert_eq!((frames.bytes, frames.payload), (text.len() as u64 + 24, 330), "{step}");
            assert_eq!(frames.credit, 65_537, "{step}");
            let urgent = Priority { urgency: 1, incremental: true };
            assert_eq!(frames.updates, [(5, urgent), (7, Priority::default())], "{step}");
            assert_eq!(frames.fault, None);
            let mut written = Written::default();
            text.chunks(step).for_each(|part| _ = written.wrote(part));
            assert_eq!((written.bytes, written.data), (text.len() as u64, 300), "{step}");
        }
    }

    #[test]
    fn where_the_last_frame_begins() {
        let text = [frame(1, 1, &[0; 30]), frame(0, 1, &[0; 300])].concat();
        let mut written = Written::default();
        assert_eq!(written.wrote(&text[..100]), Some(39));
        assert_eq!(written.wrote(&text[100..]), None);
        assert_eq!(written.wrote(&text), Some(39));
    }

    #[test]
    fn priorities_that_are_none() {
        for (stream, payload, fault) in [
            (1, &b"\0\0\0\x05u=1"[..], Reason::PROTOCOL_ERROR),
            (0, b"\0\0\0\0u=1", Reason::PROTOCOL_ERROR),
            (0, b"\0\0\0", Reason::FRAME_SIZE_ERROR),
        ] {
            assert_eq!(read(&frame(16, stream, payload), 5).fault, Some(fault));
        }
        let long = [&b"\0\0\0\x01u=1, x=\""[..], &[b'y'; 300], b"\""].concat();
        let frames = read(&[frame(16, 0, &long), frame(16, 0, b"\0\0\0\x03u=2")].concat(), 7);
        assert_eq!(frames.updates, [(3, Priority { urgency: 2, incremental: false })]);
        let many = frame(16, 0, b"\0\0\0\x03u=2").repeat(1000);
        assert_eq!(read(&many, 1000).updates.len(), UPDATES);
    }

    #[test]
    fn noise_is_a_flood_and_work_is_not() {
        let (mut pings, mut upload) = (Frames::default(), Frames::default());
        for _ in 0..600_000 {
            pings.read(&frame(6, 0, &[0; 8]));
        }
        assert!(pings.is_flood(0, 0));
        assert!(!pings.is_flood(1 << 30, 1 << 30));
        for _ in 0..10_000 {
            upload.read(&frame(0, 1, &[0; 16_000]));
        }
        assert!(!upload.is_flood(0, 0));
    }
}
