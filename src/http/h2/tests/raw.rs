//! A client that speaks frames, and sees in which order they come.

use super::{Order, Site, trusting};
use std::io::{Read, Write};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::rustls::ClientConnection;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const PRIORITY_UPDATE: u8 = 16;
/// The bodies of `/big`.
const BIG: usize = 3 << 20;
/// What is sent before anybody's priority counts: three pieces, the last of which may be begun early.
const AHEAD: usize = 4 * 16_375;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// A request for a path, with a priority if it is not empty.
fn get(stream: u32, path: &str, priority: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    // Method, scheme, and literals named by the static table.
    let mut block = [&[0x82, 0x86, 0x04][..], &text(path), &[0x01], &text("localhost")].concat();
    if !priority.is_empty() {
        block.push(0);
        block.extend([text("priority"), text(priority)].concat());
    }
    frame(HEADERS, 5, stream, &block)
}

fn open_window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn update(stream: u32, field: &str) -> Vec<u8> {
    frame(PRIORITY_UPDATE, 0, 0, &[&stream.to_be_bytes(), field.as_bytes()].concat())
}

/// The preface, with the windows of streams and the connection.
pub(super) fn hello(stream: u32, connection: u32) -> Vec<u8> {
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(SETTINGS, 0, 0, &[&[0, 4][..], &stream.to_be_bytes()].concat()));
    if connection > 65_535 {
        hello.extend(open_window(0, connection - 65_535));
    }
    hello
}

const WIDE: u32 = 1 << 30;

struct Raw {
    io: UnixStream,
    /// Bytes of bodies by stream.
    got: [usize; 12],
    ended: [bool; 12],
}

impl Raw {
    async fn start(site: &Site, first: Vec<Vec<u8>>) -> Raw {
        let mut io = site.socket("plain").await;
        io.write_all(&first.concat()).await.unwrap();
        Raw { io, got: [0; 12], ended: [false; 12] }
    }

    async fn send(&mut self, frame: Vec<u8>) {
        self.io.write_all(&frame).await.unwrap();
    }

    /// The next frame's kind and stream.
    async fn next(&mut self) -> (u8, usize) {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        let stream = usize::from(head[8]);
        if head[3] == DATA {
            self.got[stream] += payload.len();
        }
        self.ended[stream] |= head[3] <= HEADERS && head[4] & 1 == 1;
        (head[3], stream)
    }

    async fn until(&mut self, seen: impl Fn(&Raw) -> bool) {
        while !seen(self) {
            self.next().await;
        }
    }
}

#[tokio::test]
async fn the_urgent_overtake() {
    let site = Site::start("", "");
    let first = vec![hello(WIDE, WIDE), get(1, "/big", "u=7"), get(3, "/big", ""), get(5, "/big", "u=0, i")];
    let mut raw = Raw::start(&site, first).await;
    raw.until(|raw| raw.ended[5]).await;
    assert!(raw.got[1] <= AHEAD && raw.got[3] == 0, "{:?}", raw.got);
    raw.until(|raw| raw.ended[3]).await;
    assert!(raw.got[1] <= AHEAD, "{:?}", raw.got);
    raw.until(|raw| raw.ended[1]).await;
    assert_eq!(raw.got[1], BIG);
}

#[tokio::test]
async fn equals_go_one_after_the_other_or_by_turns() {
    let site = Site::start("", "");
    let two = |priority| vec![hello(WIDE, WIDE), get(1, "/big", priority), get(3, "/big", priority)];
    let mut raw = Raw::start(&site, two("")).await;
    raw.until(|raw| raw.ended[1]).await;
    assert!(raw.got[3] <= AHEAD, "{:?}", raw.got);
    let mut raw = Raw::start(&site, two("i")).await;
    raw.until(|raw| raw.ended[1]).await;
    assert!(raw.got[3] >= BIG - 2 * AHEAD, "{:?}", raw.got);
}

#[tokio::test]
async fn a_client_changes_its_mind() {
    let site = Site::start("", "");
    let asked = [get(1, "/big", ""), get(3, "/big", "u=5")];
    for updates in [vec![update(3, "u=2")], vec![update(3, "u=1"), update(3, ""), update(1, "u=4")]] {
        // After the requests, and before them.
        for after in [true, false] {
            let mut first = vec![hello(WIDE, WIDE)];
            first.extend(if after {
                [&asked[..], &updates].concat()
            } else {
                [&updates, &asked[..]].concat()
            });
            let mut raw = Raw::start(&site, first).await;
            raw.until(|raw| raw.ended[3]).await;
            assert!(raw.got[1] <= AHEAD, "{:?} {after}", raw.got);
        }
    }
    let mut raw = Raw::start(&site, vec![hello(WIDE, WIDE), update(0, "u=1")]).await;
    const GOAWAY: u8 = 7;
    while raw.next().await.0 != GOAWAY {}
}

#[tokio::test]
async fn an_answer_says_its_own_priority() {
    let site = Site::start("", "set $p u=0; if ($arg_late) { set $p u=6; } add_header priority $p;");
    let first = vec![hello(WIDE, WIDE), get(1, "/big?late=1", "u=1"), get(3, "/big", "u=2")];
    let mut raw = Raw::start(&site, first).await;
    raw.until(|raw| raw.ended[3]).await;
    assert!(raw.got[1] <= AHEAD, "{:?}", raw.got);
}

#[tokio::test]
async fn a_stream_without_a_window_holds_up_no_other() {
    let site = Site::start("", "");
    let first =
        vec![hello(0, WIDE), get(1, "/big", "u=0"), get(3, "/big", "u=7, i"), open_window(3, BIG as u32)];
    let mut raw = Raw::start(&site, first).await;
    raw.until(|raw| raw.ended[3]).await;
    assert_eq!((raw.got[1], raw.got[3]), (0, BIG));
    raw.send(open_window(1, 5)).await;
    raw.until(|raw| raw.got[1] == 5).await;
    raw.send(open_window(1, WIDE)).await;
    raw.until(|raw| raw.ended[1]).await;
    assert_eq!(raw.got[1], BIG);
}

#[tokio::test]
async fn the_window_of_the_connection_is_for_the_urgent() {
    let site = Site::start("", "");
    let mut raw = Raw::start(&site, vec![hello(WIDE, 65_535), get(1, "/big", "u=4")]).await;
    raw.until(|raw| raw.got[1] == 65_535).await;
    raw.send(get(3, "/big", "u=3")).await;
    while raw.next().await != (HEADERS, 3) {}
    for more in [10, 100_000, 1, 400_000] {
        let before = raw.got[3];
        raw.send(open_window(0, more as u32)).await;
        raw.until(|raw| raw.got[3] == before + more).await;
    }
    raw.send(open_window(0, WIDE)).await;
    raw.until(|raw| raw.ended[3]).await;
    assert!(raw.got[1] <= 65_535 + AHEAD, "{:?}", raw.got);
    raw.until(|raw| raw.ended[1]).await;
    assert_eq!((raw.got[1], raw.got[3]), (BIG, BIG));
}

#[tokio::test]
async fn who_leaves_passes_its_turn_on() {
    let site = Site::start("", "");
    const RST_STREAM: u8 = 3;
    let first = vec![
        hello(WIDE, WIDE),
        get(1, "/big", "u=2"),
        get(3, "/big", "u=1"),
        get(5, "/big", "u=7"),
        frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
    ];
    let mut raw = Raw::start(&site, first).await;
    raw.until(|raw| raw.ended[1] && raw.ended[5]).await;
    assert_eq!((raw.got[1], raw.got[5]), (BIG, BIG));
}

/// The plaintext of the next record.
async fn record(io: &mut UnixStream, session: &mut ClientConnection) -> Vec<u8> {
    let mut record = vec![0; 5];
    io.read_exact(&mut record).await.unwrap();
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + length, 0);
    io.read_exact(&mut record[5..]).await.unwrap();
    let mut rest = &record[..];
    while !rest.is_empty() {
        session.read_tls(&mut rest).unwrap();
        session.process_new_packets().unwrap();
    }
    let mut plain = vec![0; 20_000];
    let n = session.reader().read(&mut plain).unwrap_or(0);
    plain.truncate(n);
    plain
}

#[tokio::test]
async fn records_hold_whole_frames() {
    let site = Site::start("", "");
    let config = Arc::new(trusting());
    let (mut io, mut session) = site.tls(&config, "localhost").await.unwrap().into_inner();
    let mut asked = [hello(WIDE, WIDE), get(1, "/counted", ""), get(3, "/", "")].concat();
    (0..60).for_each(|n| asked.extend(get(5 + 2 * n, &format!("/{}", "x".repeat(100)), "u=0")));
    asked.extend(get(125, "/counted", ""));
    session.writer().write_all(&asked).unwrap();
    let mut sealed = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut sealed).unwrap();
    }
    io.write_all(&sealed).await.unwrap();
    let (mut ends, mut full, mut small) = (0, 0, 0);
    while ends < 63 {
        let plain = record(&mut io, &mut session).await;
        let mut rest = &plain[..];
        let mut frames = 0;
        while !rest.is_empty() {
            let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            assert!(rest.len() >= 9 + length, "a frame of {length} bytes is cut");
            ends += usize::from(rest[3] <= HEADERS && rest[4] & 1 == 1);
            full += usize::from(length == 16_375);
            frames += 1;
            rest = &rest[9 + length..];
        }
        small += usize::from(frames > 10);
    }
    // Two bodies of 1 MB, and short answers that share records.
    assert_eq!(full, 2 * 64);
    assert!((1..=3).contains(&small), "{small}");
}

#[tokio::test]
async fn who_waits_for_its_pace_keeps_nothing_of_the_window() {
    let site = Site::start("", "if ($arg_slow) { set $limit_rate 1; } limit_rate_after 18000;");
    let asked = [1, 3, 5];
    // A frame and a part of one each, after which they wait until long after this test.
    let mut first = vec![hello(1000, 65_535)];
    first.extend(asked.iter().map(|n| get(*n, "/big?slow=1", "")));
    let mut raw = Raw::start(&site, first).await;
    raw.until(|raw| asked.iter().all(|n| raw.got[*n as usize] == 1000)).await;
    for n in asked {
        raw.send(open_window(n, 1 << 20)).await;
    }
    raw.until(|raw| asked.iter().all(|n| raw.got[*n as usize] > 17_375)).await;
    let gone: usize = raw.got.iter().sum();
    assert!(gone < 3 * 18_000, "{gone}");
    // Who is at full speed gets all that is left.
    raw.send([get(9, "/big", ""), open_window(9, 1 << 20)].concat()).await;
    raw.until(|raw| raw.got[9] == 65_535 - gone).await;
    assert_eq!(raw.got.iter().sum::<usize>(), 65_535);
}

#[tokio::test]
async fn who_leaves_is_not_waited_for_at_its_pace() {
    let site = Site::start("", "if ($arg_slow) { set $limit_rate 1; } limit_rate_after 18000;");
    let first = vec![hello(65_535, 65_535), get(1, "/big?slow=1", "")];
    let mut raw = Raw::start(&site, first).await;
    raw.until(|raw| raw.got[1] > 16_375).await;
    drop(raw);
    site.worker.order(Order::Quit);
    while !site.worker.is_finished() {
        tokio::task::yield_now().await;
    }
}
