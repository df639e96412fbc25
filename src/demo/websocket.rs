//! The WebSocket at `/ws` (RFC 6455): it sends back what it is sent.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, BytesMut};
use sha1::{Digest, Sha1};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::request::Request;
use super::response::{self, Framing, Response};
use super::routes::Reply;

/// Longest frame that is taken, in bytes.
const FRAME_LIMIT: usize = 64 * 1024;
/// How long a client may be silent.
const IDLE: Duration = Duration::from_secs(3600);

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Answers a request for `/ws`: with a WebSocket, or with what is wrong with the handshake.
pub fn handshake(request: &Request) -> Reply {
    let asks = request.method == "GET"
        && request.minor == 1
        && request.header_lists("upgrade", "websocket")
        && request.header_lists("connection", "upgrade");
    if !asks || request.header("sec-websocket-version") != Some("13") {
        let refusal = Response::bare(426)
            .with("Upgrade", "websocket")
            .with("Connection", "Upgrade")
            .with("Sec-WebSocket-Version", "13");
        return Reply::Whole(refusal);
    }
    match request.header("sec-websocket-key") {
        Some(key) if BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16) => {
            Reply::WebSocket(accept_key(key))
        }
        _ => Reply::Whole(Response::bare(400)),
    }
}

/// What proves that the server has understood the client's `key`.
fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(hash.finalize())
}

/// Completes the handshake with `accept`, then sends back every frame until the client closes or leaves.
/// `buffer` has what was read after the request.
pub async fn echo(stream: &mut TcpStream, buffer: &mut BytesMut, accept: &str) -> io::Result<()> {
    let headers = [
        ("Upgrade", "websocket".to_owned()),
        ("Connection", "Upgrade".to_owned()),
        ("Sec-WebSocket-Accept", accept.to_owned()),
    ];
    let head = response::head(101, &headers, Framing::None, true);
    response::write_patiently(stream, head.as_bytes()).await?;
    loop {
        let answer = match take_frame(buffer) {
            Ok(Some(frame)) => frame.answer(),
            Ok(None) => {
                if timeout(IDLE, stream.read_buf(buffer)).await?? == 0 {
                    return Ok(());
                }
                continue;
            }
            Err(code) => Some(Frame::close(code)),
        };
        if let Some(answer) = answer {
            response::write_patiently(stream, &answer.bytes()[..]).await?;
            if answer.opcode() == CLOSE {
                return Ok(());
            }
        }
    }
}

/// A frame, unmasked.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    /// The first byte on the wire: whether it is a message's last, and the kind of frame.
    first: u8,
    payload: Vec<u8>,
}

impl Frame {
    fn close(code: u16) -> Frame {
        Frame { first: 0x80 | CLOSE, payload: code.to_be_bytes().to_vec() }
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// What to send back: the same, so that a message in parts comes back in the same parts; a pong for a
    /// ping; nothing for a pong.
    fn answer(mut self) -> Option<Frame> {
        match self.opcode() {
            PING => self.first = 0x80 | PONG,
            PONG => return None,
            _ => {}
        }
        Some(self)
    }

    /// The frame as a server sends it, unmasked.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.first];
        match self.payload.len() {
            length @ 0..126 => bytes.push(length as u8),
            length @ 126..=0xffff => {
                bytes.push(126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// Takes a client's frame off the front of `buffer`; `None` if it is not whole yet. An error is the status to
/// close with.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, u16> {
    const PROTOCOL_ERROR: u16 = 1002;
    const TOO_BIG: u16 = 1009;
    let Some(&[first, second]) = buffer.first_chunk() else {
        return Ok(None);
    };
    let control = first & 0x08 != 0;
    let known = matches!(first & 0x0f, 0..=2 | CLOSE | PING | PONG);
    let short = first & 0x80 != 0 && second & 0x7f < 126;
    // No extension was agreed, a client masks what it sends, and control frames are whole and short.
    if first & 0x70 != 0 || second & 0x80 == 0 || !known || (control && !short) {
        return Err(PROTOCOL_ERROR);
    }
    let (length, mask_at) = match second & 0x7f {
        126 => match buffer[2..].first_chunk() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match buffer[2..].first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 10),
            None => return Ok(None),
        },
        length => (u64::from(length), 2),
    };
    if length > FRAME_LIMIT as u64 {
        return Err(TOO_BIG);
    }
    let payload_at = mask_at + 4;
    let end = payload_at + length as usize;
    if buffer.len() < end {
        return Ok(None);
    }
    let mask = &buffer[mask_at..payload_at];
    let payload =
        buffer[payload_at..end].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    buffer.advance(end);
    Ok(Some(Frame { first, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> BytesMut {
        let mut bytes = Frame { first, payload: payload.to_vec() }.bytes();
        bytes[1] |= 0x80;
        let header = bytes.len() - payload.len();
        let mask = [1, 2, 3, 4];
        for (index, byte) in bytes[header..].iter_mut().enumerate() {
            *byte ^= mask[index % 4];
        }
        bytes.splice(header..header, mask);
        BytesMut::from(&bytes[..])
    }

    #[test]
    fn the_key_of_the_rfc_is_accepted() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_of_every_length_form_come_back() {
        for length in [0, 5, 125, 126, 0xffff, 0x10000] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut buffer = masked(0x82, &payload);
            let whole = buffer.clone();
            for cut in [1, 3, whole.len() - 1] {
                let mut part = BytesMut::from(&whole[..cut]);
                assert_eq!(take_frame(&mut part), Ok(None), "{length} cut at {cut}");
            }
            let frame = take_frame(&mut buffer).unwrap().unwrap();
            assert!(buffer.is_empty());
            assert!(frame.payload == payload);
            assert_eq!(frame.answer().unwrap().first, 0x82);
        }
    }

    #[test]
    fn control_frames_are_answered() {
        let answer = |first| {
            let frame = take_frame(&mut masked(first, b"hi")).unwrap().unwrap();
            frame.answer()
        };
        assert_eq!(answer(0x89).unwrap().bytes(), b"\x8a\x02hi");
        assert_eq!(answer(0x8a), None);
        assert_eq!(answer(0x88).unwrap().opcode(), CLOSE);
    }

    #[test]
    fn frames_that_break_the_rules_close() {
        let unmasked = Frame { first: 0x81, payload: vec![1] };
        let mut buffer = BytesMut::from(&unmasked.bytes()[..]);
        assert_eq!(take_frame(&mut buffer), Err(1002));
        assert_eq!(take_frame(&mut masked(0xc1, b"")), Err(1002), "reserved bit");
        assert_eq!(take_frame(&mut masked(0x83, b"")), Err(1002), "unknown kind");
        assert_eq!(take_frame(&mut masked(0x09, b"")), Err(1002), "ping in parts");
        assert_eq!(take_frame(&mut masked(0x89, &[0; 126])), Err(1002), "long ping");
        let long = masked(0x82, &[0; FRAME_LIMIT + 1]);
        assert_eq!(take_frame(&mut BytesMut::from(&long[..14])), Err(1009));
    }
}
