//! HTTP/2 frames as a case writes them: what no well-behaved client would send.
//!
//! ```text
//! frames NAME = 400                  a connection of its own without TLS, one stream; `reset` for RST_STREAM,
//!   | h :method GET                  `closed` for a connection that ends (GOAWAY or not) without an answer,
//!                                    `none` where `rst` took the request back
//!   | h :path /                      a field of the head, in this order, as it is (escapes as in `raw`, which
//!   | h x-long size=20000            `""` is empty in); so many bytes of value
//!   | data text                      a DATA frame; `size=N` likewise
//!   | t name value                   a field of a second head
//!   | rst 8                          RST_STREAM with this code
//!   | end                            the frame before ends the stream
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::transcript::{Answer, Transcript};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most bytes of a frame unless the server allows more.
const MOST: usize = 16_384;
const STREAM: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What is sent on the stream.
#[derive(Debug)]
pub enum Frame {
    Fields { fields: Vec<(Vec<u8>, Vec<u8>)>, trailers: bool, ends: bool },
    Data { bytes: Vec<u8>, ends: bool },
    Reset(u32),
}

/// Reads the lines of a step.
pub fn parse(
    lines: &[String],
    unescape: impl Fn(&str) -> Result<Vec<u8>, String>,
) -> Result<Vec<Frame>, String> {
    let text = |text: &str| -> Result<Vec<u8>, String> {
        match text.strip_prefix("size=") {
            Some(n) => Ok(vec![b'x'; n.parse().map_err(|_| "size=N")?]),
            None if text == "\"\"" => Ok(vec![]),
            None => unescape(text),
        }
    };
    let mut frames: Vec<Frame> = vec![];
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "h" | "t" => {
                let (name, value) = rest.split_once(' ').ok_or("h NAME VALUE")?;
                let field = (text(name)?, text(value)?);
                let is_trailer = word == "t";
                match frames.last_mut() {
                    Some(Frame::Fields { fields, trailers, .. }) if *trailers == is_trailer => {
                        fields.push(field)
                    }
                    _ => {
                        frames.push(Frame::Fields { fields: vec![field], trailers: is_trailer, ends: false })
                    }
                }
            }
            "data" => frames.push(Frame::Data { bytes: text(rest)?, ends: false }),
            "rst" => frames.push(Frame::Reset(rest.parse().map_err(|_| "rst CODE")?)),
            "end" => match frames.last_mut() {
                Some(Frame::Fields { ends, .. } | Frame::Data { ends, .. }) => *ends = true,
                _ => return Err("nothing that could end the stream".into()),
            },
            _ => return Err(format!("no frame: {line}")),
        }
    }
    Ok(frames)
}

/// Sends the frames and reads what comes back on the stream.
pub fn play(mut tcp: TcpStream, frames: &[Frame], transcript: &mut Transcript) -> Result<(), String> {
    let mut out = PREFACE.to_vec();
    append(&mut out, SETTINGS, 0, 0, &[]);
    append(&mut out, SETTINGS, 1, 0, &[]);
    for frame in frames {
        match frame {
            Frame::Fields { fields, ends, .. } => {
                let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
                let mut pieces = block.chunks(MOST).peekable();
                let mut kind = HEADERS;
                while let Some(piece) = pieces.next() {
                    let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                    let end = if kind == HEADERS && *ends { END_STREAM } else { 0 };
                    append(&mut out, kind, last | end, STREAM, piece);
                    kind = CONTINUATION;
                }
            }
            Frame::Data { bytes, ends } if bytes.is_empty() => {
                append(&mut out, DATA, u8::from(*ends), STREAM, &[]);
            }
            Frame::Data { bytes, ends } => {
                let mut pieces = bytes.chunks(MOST).peekable();
                while let Some(piece) = pieces.next() {
                    append(&mut out, DATA, u8::from(*ends && pieces.peek().is_none()), STREAM, piece);
                }
            }
            Frame::Reset(code) => {
                append(&mut out, RST_STREAM, 0, STREAM, &code.to_be_bytes());
                // Its answer says that the server is through with what came before.
                append(&mut out, PING, 0, 0, &[0; 8]);
            }
        }
    }
    // A server that refuses what it has read may close; what it said counts.
    let _ = tcp.write_all(&out).and_then(|()| tcp.flush());
    read(&mut tcp, transcript)
}

fn read(tcp: &mut TcpStream, transcript: &mut Transcript) -> Result<(), String> {
    let mut answer = Answer {
        line: String::new(),
        status: 0,
        headers: vec![],
        body: vec![],
        notes: vec![],
        is_head: true,
    };
    loop {
        let mut head = [0; 9];
        if !exactly(tcp, &mut head)? {
            if answer.status == 0 {
                transcript.closed();
                return Ok(());
            }
            answer.notes.push("closed within the answer".into());
            break;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let mut payload = vec![0; length];
        if !exactly(tcp, &mut payload)? {
            return Err("the stream ended inside a frame".into());
        }
        let ours = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) == STREAM;
        match kind {
            HEADERS if ours && answer.status == 0 => {
                answer.status = status(&payload)?;
                answer.line = format!("HTTP/2 {}", answer.status);
                // An interim answer.
                if answer.status < 200 {
                    answer.notes.push(format!("interim {}", answer.status));
                    answer.status = 0;
                }
            }
            DATA if ours => {
                let data = if flags & PADDED != 0 {
                    &payload[1..length - usize::from(payload[0])]
                } else {
                    &payload[..]
                };
                answer.body.extend_from_slice(data);
            }
            RST_STREAM if ours && answer.status == 0 => {
                transcript.statuses.push("reset".into());
                transcript.note(&format!("reset, code {}", payload[3]));
                return Ok(());
            }
            RST_STREAM if ours => {
                answer.notes.push(format!("reset, code {}", payload[3]));
                break;
            }
            PING if answer.status == 0 => {
                transcript.statuses.push("none".into());
                transcript.note("no answer");
                return Ok(());
            }
            GOAWAY if payload[7] != 0 => transcript.note(&format!("told to go away, code {}", payload[7])),
            _ => {}
        }
        if ours && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            break;
        }
    }
    // There are no fields here to compare a length with.
    answer.is_head = answer.body.is_empty();
    transcript.answer(answer);
    Ok(())
}

/// Fills `buf`; false where the connection ends instead.
fn exactly(tcp: &mut TcpStream, buf: &mut [u8]) -> Result<bool, String> {
    match tcp.read_exact(buf) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(false),
        Err(e) => Err(format!("nothing came in time: {e}")),
    }
}

fn append(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A field as a literal that is not indexed (RFC 7541 section 6.2.2).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        let mut n = text.len();
        if n < 127 {
            out.push(n as u8);
        } else {
            out.push(127);
            n -= 127;
            while n >= 128 {
                out.push(n as u8 | 128);
                n >>= 7;
            }
            out.push(n as u8);
        }
        out.extend_from_slice(text);
    }
    out
}

/// The status, with which a head begins: indexed, or a literal with an indexed name (RFC 7541).
fn status(block: &[u8]) -> Result<u16, String> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let start = block.iter().take_while(|b| **b & 0xe0 == 0x20).count();
    let what = || format!("no status: {:02x?}", &block[..block.len().min(8)]);
    let block = &block[start..];
    match block {
        [b @ 0x88..=0x8e, ..] => Ok(INDEXED[usize::from(b - 0x88)]),
        // Names of static entries 8 to 14 are all `:status`.
        [b, length, text @ ..]
            if matches!(b & 0xcf, 0x40 | 0x08..=0x0e | 0x48..=0x4e) && *length & 128 == 0 =>
        {
            let text = text.get(..usize::from(*length)).ok_or_else(what)?;
            std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or_else(what)
        }
        [_, length, text @ ..] => {
            let text = text.get(..usize::from(length & 127)).ok_or_else(what)?;
            digits(text).ok_or_else(what)
        }
        _ => Err(what()),
    }
}

/// Three digits in Huffman's code: 0 to 2 have five bits, the others six.
fn digits(text: &[u8]) -> Option<u16> {
    let bits = text.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b));
    let mut left = text.len() * 8;
    let mut take = |n: usize| {
        left = left.checked_sub(n)?;
        Some((bits >> left) & ((1 << n) - 1))
    };
    let mut number = 0;
    for _ in 0..3 {
        let five = take(5)?;
        let digit = if five <= 2 { five } else { (five << 1 | take(1)?).checked_sub(0x19)? + 3 };
        number = number * 10 + digit as u16;
    }
    Some(number)
}
