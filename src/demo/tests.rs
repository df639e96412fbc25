//! The site as a client sees it, over real connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{DemoSite, clip, start};

fn site() -> DemoSite {
    start("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn connect(site: &DemoSite) -> TcpStream {
    let stream = TcpStream::connect(site.addr()).unwrap();
    // A bound for a test that hangs; nothing is measured by it.
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Reads up to and with the empty line.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// Reads a response with a length: its head and its body.
fn read_response(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let head = read_head(stream);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let site = site();
    let mut stream = connect(&site);
    // Two at once, then a HEAD, whose answer has no body though it tells a length.
    let get = "GET /api/time HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(get.repeat(2).as_bytes()).unwrap();
    for _ in 0..2 {
        let (head, body) = read_response(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(body.starts_with(b"{\"time\":"));
    }
    stream
        .write_all(
            b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /live/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let head = read_head(&mut stream);
    assert!(!head.contains("Content-Length: 0\r\n"), "{head}");
    let (head, _) = read_response(&mut stream);
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed as asked");
}

#[test]
fn a_body_comes_in_either_framing() {
    let site = site();
    let mut stream = connect(&site);
    for body in [
        "Content-Length: 11\r\n\r\nhello there",
        "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n there\r\n0\r\nTrailer: x\r\n\r\n",
    ] {
        write!(stream, "POST /api/echo HTTP/1.1\r\nHost: a\r\n{body}").unwrap();
        let (_, answer) = read_response(&mut stream);
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["body"], "hello there");
    }
}

#[test]
fn a_body_waits_for_its_go_ahead() {
    let site = site();
    let mut stream = connect(&site);
    stream
        .write_all(b"POST /api/echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .unwrap();
    assert_eq!(read_head(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").unwrap();
    let (head, _) = read_response(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[test]
fn what_is_too_big_or_broken_is_refused() {
    let site = site();
    let long = "x".repeat(20_000);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "431"),
        ("POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n".to_owned(), "413"),
        (
            "POST /api/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n".to_owned(),
            "413",
        ),
        ("POST /api/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".to_owned(), "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = connect(&site);
        stream.write_all(request.as_bytes()).unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    }
}

#[test]
fn the_flv_stream_begins_at_once_and_goes_on() {
    let site = site();
    for (version, chunked) in [("1.1", true), ("1.0", false)] {
        let mut stream = connect(&site);
        write!(stream, "GET /live/stream.flv HTTP/{version}\r\nHost: a\r\n\r\n").unwrap();
        let head = read_head(&mut stream);
        assert!(head.contains("\r\nContent-Type: video/x-flv\r\n"), "{head}");
        assert_eq!(head.contains("Transfer-Encoding: chunked"), chunked, "{head}");
        let mut part = [0; 16];
        stream.read_exact(&mut part).unwrap();
        let signature = part.windows(4).position(|four| four == b"FLV\x01");
        assert!(signature.is_some_and(|at| (at > 0) == chunked), "{part:?}");
        // More than the opening and one group of pictures: the clock made more come.
        let mut much = vec![0; 80_000];
        stream.read_exact(&mut much).unwrap();
    }
}

#[test]
fn the_websocket_echoes_and_closes() {
    let site = site();
    let mut stream = connect(&site);
    // A first message comes together with the handshake.
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
              \x81\x82\0\0\0\0hi",
        )
        .unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let mut frame = [0; 4];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x02hi");
    stream.write_all(b"\x88\x82\0\0\0\0\x03\xe8").unwrap();
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x88\x02\x03\xe8");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_websocket_without_a_handshake_is_refused() {
    let site = site();
    let mut stream = connect(&site);
    stream.write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (head, _) = read_response(&mut stream);
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
}

#[test]
fn the_stream_is_live_now() {
    let site = site();
    let mut stream = connect(&site);
    stream.write_all(b"GET /live/stream.m3u8 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (head, playlist) = read_response(&mut stream);
    assert!(head.contains("\r\nCache-Control: max-age=1\r\n"), "{head}");
    let playlist = String::from_utf8(playlist).unwrap();
    let last = playlist.lines().last().unwrap();
    write!(stream, "GET /live/{last} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (head, segment) = read_response(&mut stream);
    assert!(head.contains("\r\nContent-Type: video/mp2t\r\n"), "{head}");
    assert!(clip::SEGMENTS.contains(&&segment[..]));
}

#[test]
fn dropping_the_site_frees_its_port() {
    // An address of its own, so that no other test can be given the port meanwhile.
    let site = start("127.83.0.1:0".parse().unwrap()).unwrap();
    let addr = site.addr();
    let mut stream = connect(&site);
    stream.write_all(b"GET /live/stream.flv HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_head(&mut stream);
    drop(site);
    assert!(TcpStream::connect(addr).is_err());
    // The open stream ends too.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let again = start(addr).unwrap();
    assert_eq!(again.addr(), addr);
}
