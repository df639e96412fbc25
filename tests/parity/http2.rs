//! An HTTP/2 connection of the client, over TLS or with prior knowledge.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use rustls::pki_types::ServerName;
use tokio::runtime::{Builder, Runtime};

use crate::case::Request;
use crate::client::tls_config;
use crate::transcript::{Answer, Transcript};

/// The connection, its driver's runtime, and the answers that are still to be read.
pub struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    pending: std::collections::VecDeque<(ResponseFuture, bool)>,
    secure: bool,
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Http2 {
    /// Opens a connection; with a name it is over TLS.
    pub fn connect(tcp: TcpStream, sni: Option<String>) -> Result<Http2, String> {
        // A thread of its own drives the connection while the script does something else.
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|e| e.to_string())?;
        tcp.set_nonblocking(true).map_err(|e| e.to_string())?;
        let secure = sni.is_some();
        let sender = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::from_std(tcp).map_err(|e| e.to_string())?;
            match sni {
                None => handshake(tcp).await,
                Some(name) => {
                    let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
                    let connector =
                        tokio_rustls::TlsConnector::from(Arc::new(tls_config(&["h2", "http/1.1"])));
                    let tls = connector.connect(name, tcp).await.map_err(|e| format!("TLS: {e}"))?;
                    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                        return Err("h2 was not negotiated".to_owned());
                    }
                    handshake(tls).await
                }
            }
        })?;
        Ok(Http2 { runtime, sender, pending: Default::default(), secure })
    }

    pub fn send(&mut self, request: &Request) -> Result<(), String> {
        let host = request
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case("host"))
            .map_or("localhost", |(_, v)| v);
        let scheme = if self.secure { "https" } else { "http" };
        let mut head = http::Request::builder()
            .method(request.method.as_str())
            .uri(format!("{scheme}://{host}{}", request.target))
            .version(http::Version::HTTP_2);
        for (name, value) in request.headers.iter().filter(|(n, _)| !n.eq_ignore_ascii_case("host")) {
            head = head.header(name.to_ascii_lowercase(), value);
        }
        let body = request.options.body.clone();
        if let Some(body) = &body {
            head = head.header("content-length", body.len());
        }
        let head = head.body(()).map_err(|e| e.to_string())?;
        let sender = self.sender.clone();
        let answer = self.runtime.block_on(async move {
            let mut sender = within(sender.ready()).await?;
            let (answer, mut stream) =
                sender.send_request(head, body.is_none()).map_err(|e| e.to_string())?;
            if let Some(body) = body {
                // `h2` keeps what the window does not let through yet; a server that has answered already may
                // have reset the stream, and the answer is what counts.
                let _ = stream.send_data(body.into(), true);
            }
            Ok::<_, String>(answer)
        })?;
        self.pending.push_back((answer, request.method == "HEAD"));
        Ok(())
    }

    /// Reads the answer to the oldest request.
    pub fn answer(&mut self, transcript: &mut Transcript) -> Result<(), String> {
        let (answer, is_head) = self.pending.pop_front().ok_or("no request was sent")?;
        let answer = self.runtime.block_on(async move {
            let (head, mut stream) = match within(answer).await {
                Ok(answer) => answer.into_parts(),
                Err(why) => return Err(why),
            };
            let mut body = vec![];
            let mut notes = vec![];
            loop {
                match tokio::time::timeout(PATIENCE, stream.data()).await {
                    Ok(Some(Ok(piece))) => {
                        let _ = stream.flow_control().release_capacity(piece.len());
                        body.extend_from_slice(&piece);
                    }
                    Ok(Some(Err(e))) => {
                        notes.push(format!("stream error after {} bytes: {e}", body.len()));
                        break;
                    }
                    Ok(None) => break,
                    Err(_) => {
                        notes.push(format!("stalled after {} bytes", body.len()));
                        break;
                    }
                }
            }
            if let Ok(Some(trailers)) = stream.trailers().await {
                notes.extend(trailers.iter().map(|(n, v)| format!("trailer: {n}: {v:?}")));
            }
            let headers = head
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), v.as_bytes().iter().map(|b| char::from(*b)).collect()))
                .collect();
            let line = format!("HTTP/2 {}", head.status.as_u16());
            Ok(Answer { line, status: head.status.as_u16(), headers, body, notes, is_head })
        })?;
        transcript.answer(answer);
        Ok(())
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Bytes>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = within(h2::client::handshake(stream)).await?;
    tokio::spawn(async move {
        // Its end shows at the requests.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn within<T>(work: impl Future<Output = Result<T, h2::Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("nothing came in time".into()),
    }
}
