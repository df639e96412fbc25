//! Connections lend each other their buffers.

use super::raw::{frame, hello};
use super::{Client, Site};
use bytes::Bytes;
use h2::server::{Buffers, Connection};
use std::collections::BTreeMap;
use std::future::poll_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;

/// A request whose fields go into the table, and which names what is in it already.
fn post(stream: u32, path: &str, body: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let first = [&[0x83, 0x86, 0x44][..], &text(path), &[0x41], &text("localhost")].concat();
    let block = if stream == 1 { first } else { vec![0x83, 0x86, 0xbf, 0xbe] };
    let (one, two) = body.split_at(body.len() / 3);
    [frame(1, 4, stream, &block), frame(0, 0, stream, one), frame(0, 1, stream, two)].concat()
}

/// The bodies of as many answers, in the order of their streams.
async fn answers(io: &mut UnixStream, count: usize) -> Vec<Vec<u8>> {
    let mut bodies = BTreeMap::<u8, Vec<u8>>::new();
    let mut ended = 0;
    while ended < count {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        io.read_exact(&mut payload).await.unwrap();
        if head[3] == 0 {
            bodies.entry(head[8]).or_default().extend(payload);
            ended += usize::from(head[4] & 1);
        }
    }
    bodies.into_values().collect()
}

#[tokio::test]
async fn what_came_in_part_is_not_mixed_up_with_what_others_send() {
    let site = Site::start("", "");
    let (long, short) = (vec![b'l'; 3000], vec![b's'; 20]);
    for (mine, its) in [(&long, &short), (&short, &long)] {
        let mut other = site.socket("plain").await;
        other.write_all(&hello(1 << 20, 1 << 20)).await.unwrap();
        let mut sent = hello(1 << 20, 1 << 20);
        sent.extend([post(1, "/echo", mine), post(3, "/echo", its)].concat());
        let cuts = (1..160).step_by(3).chain((160..sent.len()).step_by(131));
        for (number, cut) in cuts.enumerate() {
            let mut io = site.socket("plain").await;
            io.write_all(&sent[..cut]).await.unwrap();
            // Once these are answered, that was read.
            for (half, body) in [its, mine].into_iter().enumerate() {
                let stream = (4 * number + 2 * half + 1) as u32;
                other.write_all(&post(stream, "/echo", body)).await.unwrap();
                assert_eq!(answers(&mut other, 1).await, [body.as_slice()]);
            }
            io.write_all(&sent[cut..]).await.unwrap();
            assert_eq!(answers(&mut io, 2).await, [mine.as_slice(), its]);
        }
    }
}

/// A request whose path is in Huffman's code.
fn coded(path: &[u8]) -> Vec<u8> {
    let block = [&[0x82, 0x86, 0x41, 1, b'x', 0x04, 0x80 | path.len() as u8][..], path].concat();
    frame(1, 5, 1, &block)
}

#[tokio::test]
async fn what_could_not_be_decoded_is_nobody_elses() {
    let site = Site::start("", "");
    let mut io = site.socket("plain").await;
    io.write_all(&hello(1 << 20, 1 << 20)).await.unwrap();
    for _ in 0..3 {
        // "aaaaaaaa", and then the end of the string, which must not be coded.
        let broken = [0x18, 0xc6, 0x31, 0x8c, 0x63, 0xff, 0xff, 0xff, 0xff];
        let mut other = site.socket("plain").await;
        other.write_all(&[hello(1 << 20, 1 << 20), coded(&broken)].concat()).await.unwrap();
        let mut told = Vec::new();
        other.read_to_end(&mut told).await.unwrap();
    }
    // "/h", as it was sent.
    io.write_all(&coded(&[0x62, 0x7f])).await.unwrap();
    assert_eq!(answers(&mut io, 1).await, [b"GET /h HTTP/2.0"]);
}

#[tokio::test]
async fn large_heads_and_bodies_come_after_a_rest() {
    let site = Site::start("large_client_header_buffers 4 64k;", "");
    let clients = [site.client().await, site.client().await];
    for round in 0..4 {
        for client in &clients {
            let path = format!("/{round}{}", "x".repeat(30_000));
            assert_eq!(client.get(&path).await, (200, format!("GET {path} HTTP/2.0").into_bytes()));
            assert_eq!(client.get("/big").await.1.len(), 3 << 20);
            let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
            let (response, mut upload) = client.send("POST", "/echo", false).await;
            upload.send_data(Bytes::from(sent.clone()), true).unwrap();
            assert_eq!(super::read(response.await.unwrap().into_body()).await.unwrap(), sent);
        }
    }
}

/// A connection of the crate's, and its client.
async fn pair() -> (Connection<DuplexStream, Bytes>, Client) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (server, client) = tokio::join!(h2::server::handshake(ours), Client::over(theirs, 65_535));
    (server.unwrap(), client)
}

/// Answers with the paths of requests, and does with its buffers after each poll as it is told.
async fn serve(
    mut connection: Connection<DuplexStream, Bytes>,
    between: fn(&mut Connection<DuplexStream, Bytes>),
) {
    loop {
        let accepted = poll_fn(|cx| {
            let accepted = connection.poll_accept(cx);
            between(&mut connection);
            accepted
        });
        let Some(accepted) = accepted.await else { return };
        let (request, mut respond) = accepted.unwrap();
        let mut send = respond.send_response(http::Response::new(()), false).unwrap();
        send.send_data(Bytes::from(request.uri().path().to_string()), true).unwrap();
    }
}

#[tokio::test]
async fn the_crate_makes_new_buffers_where_it_is_given_none_and_takes_whatever_it_is_given() {
    let behaviours: [fn(&mut Connection<DuplexStream, Bytes>); 3] = [
        |connection| drop(connection.take_buffers()),
        |connection| {
            if connection.take_buffers().is_some() {
                assert!(connection.take_buffers().is_none());
                connection.put_buffers(Buffers::default());
            }
        },
        // Of one that has its own none are needed.
        |connection| connection.put_buffers(Buffers::default()),
    ];
    for between in behaviours {
        let (connection, client) = pair().await;
        tokio::spawn(serve(connection, between));
        for n in 0..20 {
            let path = format!("/{}", "y".repeat(n * n * 30));
            assert_eq!(client.get(&path).await, (200, path.into_bytes()));
        }
    }
}

#[tokio::test]
async fn no_buffers_are_taken_that_have_something_in_them() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let mut sent = hello(1 << 20, 65_535);
    sent.extend(&post(1, "/echo", b"body")[..12]);
    theirs.write_all(&sent).await.unwrap();
    let mut connection = h2::server::handshake::<_>(ours).await.unwrap();
    let taken = poll_fn(|cx| {
        assert!(connection.poll_accept(cx).is_pending());
        std::task::Poll::Ready(connection.take_buffers().is_some())
    });
    assert!(!taken.await);
    // Answers that nobody reads: the other side has room for less.
    let (ours, theirs) = tokio::io::duplex(64);
    let (mut from, mut to) = tokio::io::split(theirs);
    let sent = [hello(1 << 20, 65_535), frame(6, 0, 0, &[7; 8]).repeat(20)].concat();
    let writing = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to
    });
    let mut connection = h2::server::handshake::<_>(ours).await.unwrap();
    let mut turn = async || {
        tokio::task::yield_now().await;
        let turn = poll_fn(|cx| {
            assert!(connection.poll_accept(cx).is_pending());
            std::task::Poll::Ready(connection.take_buffers().is_some())
        });
        turn.await
    };
    while !writing.is_finished() {
        turn().await;
    }
    assert!(!turn().await);
    let reading = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
    while !turn().await {}
    reading.abort();
}
