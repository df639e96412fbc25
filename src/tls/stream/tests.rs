//! The stream against rustls's own client, through a pipe that takes and gives a few bytes at a time.

use super::*;
use crate::tls::config::standard_provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

type Version = &'static SupportedProtocolVersion;
const VERSIONS: [Version; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn server_config(fragment: Option<usize>) -> Arc<ServerConfig> {
    let read =
        |name| std::fs::read(format!("{}/tests/parity/tls/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&read("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(standard_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    config.max_fragment_size = fragment;
    Arc::new(config)
}

#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn client_config(version: Version) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(standard_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any));
    Arc::new(config.with_no_client_auth())
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

type Pair = (TlsStream<DuplexStream>, ClientStream<DuplexStream>);

/// Both ends of a connection through a pipe of `room` bytes.
async fn pair(version: Version, room: usize, fragment: Option<usize>) -> Pair {
    let (near, far) = tokio::io::duplex(room);
    let session = UnbufferedServerConnection::new(server_config(fragment)).unwrap();
    let mut server = TlsStream::new(near, session, Vec::new());
    let client = TlsConnector::from(client_config(version)).connect(name(), far);
    // A server of TLS 1.2 has the last word, which it leaves for its first read or write.
    let (server, client) = tokio::join!(
        async {
            server.handshake().await.unwrap();
            server.flush().await.unwrap();
            server
        },
        client
    );
    (server, client.unwrap())
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

#[tokio::test]
async fn content_arrives_whole_both_ways() {
    for version in VERSIONS {
        for (room, fragment) in [(700, None), (64 * 1024, None), (1 << 20, Some(600))] {
            let (mut server, mut client) = pair(version, room, fragment).await;
            let sent = content(300_001);
            let serve = async {
                let mut got = vec![0; 200_000];
                server.read_exact(&mut got).await.unwrap();
                assert_eq!(got, content(200_000));
                // Small pieces and large ones, together and alone.
                let (head, body) = sent.split_at(1000);
                let mut pieces = [IoSlice::new(&head[..10]), IoSlice::new(&[]), IoSlice::new(&head[10..])];
                let mut rest = &mut pieces[..];
                while !rest.is_empty() {
                    let n = server.write_vectored(rest).await.unwrap();
                    IoSlice::advance_slices(&mut rest, n);
                }
                server.write_all(body).await.unwrap();
                server.flush().await.unwrap();
                server.shutdown().await.unwrap();
            };
            let ask = async {
                client.write_all(&content(200_000)).await.unwrap();
                client.flush().await.unwrap();
                let mut got = Vec::new();
                client.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, content(300_001));
            };
            tokio::join!(serve, ask);
        }
    }
}

#[tokio::test]
async fn an_end_is_told_from_a_break() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version, 4096, None).await;
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"x");
        // The other way is still open.
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"xanswer");

        let (mut server, client) = pair(version, 4096, None).await;
        drop(client);
        for _ in 0..2 {
            let error = server.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test]
async fn what_is_last_goes_out_with_the_end() {
    let (mut server, mut client) = pair(VERSIONS[1], 64 * 1024, None).await;
    server.last();
    server.write_all(b"last").await.unwrap();
    assert!(!server.out.is_empty());
    server.flush().await.unwrap();
    assert!(server.out.is_empty());
    let mut got = Vec::new();
    // The end of the session is the end for the client, though the socket is open.
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_waits_holds_nothing() {
    let (mut server, mut client) = pair(VERSIONS[1], 64 * 1024, None).await;
    for _ in 0..3 {
        client.write_all(&content(1000)).await.unwrap();
        server.read_exact(&mut [0; 1000]).await.unwrap();
        server.write_all(&content(1000)).await.unwrap();
        client.read_exact(&mut [0; 1000]).await.unwrap();
    }
    assert_eq!((server.partial.capacity(), server.plain.capacity(), server.out.capacity()), (0, 0, 0));
}

/// A client of which the test sees the bytes.
fn raw_client() -> (ClientConnection, Vec<u8>) {
    let mut client = ClientConnection::new(client_config(VERSIONS[1]), name()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    (client, bytes)
}

#[tokio::test]
async fn tickets_go_out_with_the_first_answer_or_before_waiting() {
    for asks_at_once in [true, false] {
        let (mut client, hello) = raw_client();
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let session = UnbufferedServerConnection::new(server_config(None)).unwrap();
        let mut server = TlsStream::new(near, session, hello);
        let mut flight = vec![0; 8192];
        let answer = async {
            let n = far.read(&mut flight).await.unwrap();
            client.read_tls(&mut &flight[..n]).unwrap();
            client.process_new_packets().unwrap();
            assert!(!client.is_handshaking());
            let mut bytes = Vec::new();
            if asks_at_once {
                std::io::Write::write_all(&mut client.writer(), b"question").unwrap();
            }
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            far.write_all(&bytes).await.unwrap();
        };
        let (shaken, ()) = tokio::join!(server.handshake(), answer);
        shaken.unwrap();
        assert!(!server.out.is_empty());
        let mut got = [0; 8];
        if asks_at_once {
            server.read_exact(&mut got).await.unwrap();
            assert!(!server.out.is_empty());
            server.write_all(b"answer").await.unwrap();
        } else {
            let waits = tokio::select! {
                biased;
                _ = server.read(&mut got) => false,
                () = std::future::ready(()) => true,
            };
            assert!(waits);
        }
        assert!(server.out.is_empty());
        let n = far.read(&mut flight).await.unwrap();
        client.read_tls(&mut &flight[..n]).unwrap();
        client.process_new_packets().unwrap();
        assert_eq!(client.tls13_tickets_received(), 2);
    }
}

#[tokio::test]
async fn keys_are_changed_as_the_client_asks() {
    let (mut server, mut client) = pair(VERSIONS[1], 64 * 1024, None).await;
    for round in 0..3u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round; 5]).await.unwrap();
        let mut got = [0; 5];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 5]);
        server.write_all(&got).await.unwrap();
        client.read_exact(&mut got).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_in_order_is_refused_with_an_alert() {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let session = UnbufferedServerConnection::new(server_config(None)).unwrap();
    let mut server = TlsStream::new(near, session, b"\x16\x03\x01\0\x04\x02\0\0\0".to_vec());
    let error = server.handshake().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let mut alert = [0; 7];
    far.read_exact(&mut alert).await.unwrap();
    assert_eq!(alert[..6], [0x15, 3, 3, 0, 2, 2]);

    let (mut server, client) = pair(VERSIONS[1], 64 * 1024, None).await;
    let (mut pipe, _) = client.into_inner();
    pipe.write_all(b"\x17\x03\x03\0\x20 this is nothing that was encrypted").await.unwrap();
    let error = server.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(server.read(&mut [0; 10]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(server.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn what_is_refused_may_have_messages_behind_it() {
    for bytes in [
        // Two hellos of no content in a record; one, and a part of another.
        &b"\x16\x03\x01\0\x08\x01\0\0\0\x01\0\0\0"[..],
        b"\x16\x03\x01\0\x06\x01\0\0\0\x01\0",
    ] {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let session = UnbufferedServerConnection::new(server_config(None)).unwrap();
        let mut server = TlsStream::new(near, session, bytes.to_vec());
        let error = server.handshake().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut alert = [0; 7];
        far.read_exact(&mut alert).await.unwrap();
        assert_eq!(alert[..6], [0x15, 3, 3, 0, 2, 2], "{bytes:?}");
    }
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let (mut client, hello) = raw_client();
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let session = UnbufferedServerConnection::new(server_config(None)).unwrap();
    let mut server = TlsStream::new(near, session, Vec::new());
    let feed = async {
        // In records of ten bytes, byte by byte.
        for content in hello[5..].chunks(10) {
            let head = [0x16, 3, 1, 0, content.len() as u8];
            for byte in head.iter().chain(content) {
                far.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        let mut flight = vec![0; 8192];
        let n = far.read(&mut flight).await.unwrap();
        client.read_tls(&mut &flight[..n]).unwrap();
        client.process_new_packets().unwrap();
        drop(far);
    };
    let (shaken, ()) = tokio::join!(server.handshake(), feed);
    assert_eq!(shaken.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(!client.is_handshaking());
}
