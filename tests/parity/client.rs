//! The client: plays a case's script against one server and writes down what came back.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::case::{Case, Options, Request, Step};
use crate::http1::Buffered;
use crate::http2::Http2;
use crate::running::Running;
use crate::transcript::{Answer, Transcript};
use crate::upstream::Upstreams;

/// How long an answer may take before the transcript says that none came.
const PATIENCE: Duration = Duration::from_secs(10);

pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

enum Conn {
    One(Buffered<Box<dyn ReadWrite>>),
    Two(Http2),
}

/// Plays the whole script.
pub fn play(case: &Case, server: &mut Running, upstreams: &Upstreams, transcript: &mut Transcript) {
    let mut player = Player { ip: server.ip, conns: HashMap::new(), pending: HashMap::new() };
    for step in &case.script {
        if let Err(why) = player.step(step, server, upstreams, transcript) {
            transcript.note(&format!("error: {why}"));
        }
        // A request that is only sent may reach the upstream during a later step.
        if !step.is_open_ended() {
            let mut lines = upstreams.take_seen();
            // What was awaited came in the order in which it came.
            if matches!(step, Step::Await(_)) {
                lines.sort();
            }
            for line in lines {
                transcript.note(&line);
            }
        }
    }
}

struct Player {
    ip: Ipv4Addr,
    conns: HashMap<String, Conn>,
    /// Methods of the requests sent on a connection and not answered yet.
    pending: HashMap<String, Vec<String>>,
}

impl Player {
    fn step(
        &mut self,
        step: &Step,
        server: &mut Running,
        upstreams: &Upstreams,
        transcript: &mut Transcript,
    ) -> Result<(), String> {
        match step {
            Step::Request(request) => {
                for _ in 0..request.options.repeat {
                    transcript.sent(&format!("{} {}", request.method, request.target));
                    self.request(request, transcript)?;
                }
                Ok(())
            }
            Step::Raw { bytes, options, expect } => {
                transcript.sent("raw");
                self.raw(bytes, options, expect, transcript)
            }
            Step::Frames { name, frames, options, .. } => {
                transcript.sent(&format!("frames {name}"));
                crate::frames::play(self.open(options)?, frames, transcript)
            }
            Step::Read { conn, .. } => {
                transcript.sent(&format!("read {conn}"));
                let method = self.pending.get_mut(conn).filter(|p| !p.is_empty()).map(|p| p.remove(0));
                match self.conns.get_mut(conn) {
                    Some(Conn::One(c)) => answer(c, &method.unwrap_or_default(), transcript),
                    Some(Conn::Two(c)) => c.answer(transcript),
                    None => Err(format!("no connection {conn}")),
                }
            }
            Step::Pipe { conn, text } => {
                transcript.sent(&format!("pipe {conn}"));
                let Some(Conn::One(c)) = self.conns.get_mut(conn) else {
                    return Err(format!("no connection {conn}"));
                };
                c.stream.write_all(text).and_then(|()| c.stream.flush()).map_err(|e| e.to_string())?;
                let back = c.exactly(text.len())?;
                transcript.note(&format!("piped back: {}", String::from_utf8_lossy(&back)));
                Ok(())
            }
            Step::Peek { conn, text } => {
                transcript.sent(&format!("peek {conn}"));
                let Some(Conn::One(c)) = self.conns.get_mut(conn) else {
                    return Err(format!("no connection {conn}"));
                };
                c.until(text)?;
                transcript.note(&format!("has come: {}", String::from_utf8_lossy(text)));
                Ok(())
            }
            Step::Await(n) => upstreams.await_seen(*n),
            Step::Release => {
                upstreams.release();
                Ok(())
            }
            Step::Reload { .. } => {
                transcript.sent("reload");
                transcript.reloaded(server.reload()?);
                Ok(())
            }
            Step::Rotate => {
                transcript.sent("rotate");
                server.rotate()
            }
            Step::Sleep(time) => {
                std::thread::sleep(*time);
                Ok(())
            }
        }
    }

    fn request(&mut self, request: &Request, transcript: &mut Transcript) -> Result<(), String> {
        let options = &request.options;
        let conn = self.take(options)?;
        let result = match conn {
            Conn::One(mut c) => {
                let bytes = head_and_body(request);
                // A server that has answered already may have closed; the answer is what counts.
                let _ = c.stream.write_all(&bytes).and_then(|()| c.stream.flush());
                let result = if options.send { Ok(()) } else { answer(&mut c, &request.method, transcript) };
                if options.reopen && (result.is_err() || c.has_ended) {
                    return result;
                }
                (Conn::One(c), result)
            }
            Conn::Two(mut c) => {
                let result =
                    c.send(request).and_then(|()| if options.send { Ok(()) } else { c.answer(transcript) });
                (Conn::Two(c), result)
            }
        };
        if let Some(name) = &options.conn {
            self.conns.insert(name.clone(), result.0);
            if options.send {
                self.pending.entry(name.clone()).or_default().push(request.method.clone());
            }
        }
        result.1
    }

    fn raw(
        &mut self,
        bytes: &[u8],
        options: &Options,
        expect: &[String],
        transcript: &mut Transcript,
    ) -> Result<(), String> {
        let Conn::One(mut c) = self.take(options)? else {
            return Err("raw is for HTTP/1".into());
        };
        let _ = c.stream.write_all(bytes).and_then(|()| c.stream.flush());
        let method = String::from_utf8_lossy(bytes).split(' ').next().unwrap_or_default().to_owned();
        if !options.send {
            for _ in expect {
                answer(&mut c, &method, transcript)?;
            }
        }
        if let Some(name) = &options.conn {
            if options.send {
                self.pending.entry(name.clone()).or_default().push(method);
            }
            self.conns.insert(name.clone(), Conn::One(c));
        }
        Ok(())
    }

    /// A new connection, with nothing said on it.
    fn open(&self, options: &Options) -> Result<TcpStream, String> {
        let secure = options.tls || options.h2;
        let port = options.port.unwrap_or(if secure { 28443 } else { 28080 });
        let from: Ipv4Addr =
            options.from.as_deref().unwrap_or("127.0.0.1").parse().map_err(|_| "from=ADDRESS")?;
        connect(SocketAddrV4::new(from, 0), SocketAddrV4::new(self.ip, port))
    }

    /// The named connection, or a new one.
    fn take(&mut self, options: &Options) -> Result<Conn, String> {
        if let Some(conn) = options.conn.as_ref().and_then(|name| self.conns.remove(name)) {
            return Ok(conn);
        }
        let mut tcp = self.open(options)?;
        tcp.write_all(&options.first).map_err(|e| e.to_string())?;
        let name = options.sni.clone().unwrap_or_else(|| "localhost".into());
        if options.h2 || options.h2c {
            return Http2::connect(tcp, options.h2.then_some(name)).map(Conn::Two);
        }
        if options.tls {
            let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
            let tls =
                rustls::ClientConnection::new(Arc::new(tls_config(&[])), name).map_err(|e| e.to_string())?;
            return Ok(Conn::One(Buffered::new(Box::new(rustls::StreamOwned::new(tls, tcp)))));
        }
        Ok(Conn::One(Buffered::new(Box::new(tcp))))
    }
}

fn connect(from: SocketAddrV4, to: SocketAddrV4) -> Result<TcpStream, String> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .map_err(|e| e.to_string())?;
    socket.bind(&SocketAddr::V4(from).into()).map_err(|e| format!("from {from}: {e}"))?;
    socket.connect(&SocketAddr::V4(to).into()).map_err(|e| format!("to {to}: {e}"))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    Ok(stream)
}

fn head_and_body(request: &Request) -> Vec<u8> {
    let options = &request.options;
    let version = options.version.as_deref().unwrap_or("1.1");
    let mut out = format!("{} {} HTTP/{version}\r\n", request.method, request.target).into_bytes();
    let has = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !options.nohost && !has("host") {
        out.extend_from_slice(b"Host: localhost\r\n");
    }
    for (name, value) in &request.headers {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    let Some(body) = &options.body else {
        out.extend_from_slice(b"\r\n");
        return out;
    };
    if options.chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(1000) {
            out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
    } else {
        if !has("content-length") {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
    }
    out
}

/// Reads one answer with its interim ones, and the end of the connection if the answer announces it.
fn answer(
    conn: &mut Buffered<Box<dyn ReadWrite>>,
    method: &str,
    transcript: &mut Transcript,
) -> Result<(), String> {
    loop {
        let Some(head) = conn.head()? else {
            transcript.closed();
            return Ok(());
        };
        let status: u16 = head
            .line
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| format!("not a status line: {:?}", head.line))?;
        if (100..200).contains(&status) && status != 101 {
            transcript.note(&format!("interim: {}", head.line));
            continue;
        }
        let mut notes = vec![];
        let to_close = head.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let mut framed = true;
        let body = if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            vec![]
        } else if head.is_chunked() {
            let chunked = conn.chunked()?;
            notes.extend(chunked.trailers.into_iter().map(|t| format!("trailer: {t}")));
            if !chunked.is_whole {
                notes.push(format!("closed inside the chunks, after {} bytes", chunked.body.len()));
            }
            chunked.body
        } else if let Some(length) = head.content_length() {
            let body = conn.exactly(length)?;
            if body.len() < length {
                notes.push(format!("closed after {} of {length} bytes", body.len()));
            }
            body
        } else {
            framed = false;
            conn.until_end()?
        };
        if !framed {
            notes.push("body ended by the connection".into());
        } else if to_close {
            notes.push(match conn.until_end() {
                Ok(rest) if rest.is_empty() => "closed".into(),
                Ok(rest) => format!("closed after {} bytes too many", rest.len()),
                Err(_) => "not closed".into(),
            });
        }
        transcript.answer(Answer {
            line: head.line,
            status,
            headers: head.headers,
            body,
            notes,
            is_head: method == "HEAD",
        });
        return Ok(());
    }
}

/// A TLS client that takes any certificate: what is compared is HTTP.
pub fn tls_config(alpn: &[&str]) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
