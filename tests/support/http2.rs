//! An HTTP/2 client over TLS.
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, Version};
use tokio::task::JoinHandle;

use super::client::Response;
use super::tls::{Agreed, Tls};
use super::within;

/// One connection; requests on it run side by side.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
    name: String,
    /// What the TLS handshake agreed on.
    pub tls: Agreed,
}

/// An answer whose body is still arriving.
pub struct Incoming {
    /// Its head; `body` is empty.
    pub response: Response,
    body: RecvStream,
    /// Received, not yet returned by [`Incoming::take`].
    kept: Vec<u8>,
}

impl Http2 {
    /// Connects to `addr`, asks for `name` and agrees on h2; panics if the server does not.
    pub async fn connect(addr: SocketAddr, name: &str) -> Self {
        Self::connect_with(&Tls::new().alpn(&["h2", "http/1.1"]), addr, name).await
    }

    /// As [`Http2::connect`], with what `tls` offers.
    pub async fn connect_with(tls: &Tls, addr: SocketAddr, name: &str) -> Self {
        let (stream, tls) = tls.connect(addr, name).await;
        assert_eq!(tls.alpn.as_deref(), Some(&b"h2"[..]), "ALPN");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20);
        let (sender, connection) = within("an h2 handshake", builder.handshake(stream)).await.unwrap();
        Self {
            sender,
            // An error of the connection shows in its requests.
            driver: tokio::spawn(async move { drop(connection.await) }),
            name: name.into(),
            tls,
        }
    }

    /// Sends a GET and reads the whole answer.
    pub async fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[], b"").await
    }

    /// Sends a request and reads the whole answer; panics if it fails.
    pub async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(method, target, headers, body).await.unwrap()
    }

    /// Sends a request and reads the whole answer.
    pub async fn try_request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, h2::Error> {
        let mut incoming = self.start(method, target, headers, body).await?;
        while let Some(piece) = incoming.try_piece().await? {
            incoming.response.body.extend(piece);
        }
        Ok(incoming.response)
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn start(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Incoming, h2::Error> {
        let (answer, mut upload) = self.send(method, target, headers, body.is_empty()).await?;
        if !body.is_empty() {
            upload.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (parts, body) = within("an answer", answer).await?.into_parts();
        let headers: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.to_string(), value)
            })
            .collect();
        Ok(Incoming {
            response: Response {
                status: parts.status.as_u16(),
                head: format!("{} {headers:?}", parts.status),
                headers,
                body: Vec::new(),
            },
            body,
            kept: Vec::new(),
        })
    }

    /// Sends the head of a request; the body goes through the stream returned.
    pub async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .method(method)
            .uri(format!("https://{}{target}", self.name));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let ready = within("room for a stream", self.sender.clone().ready()).await;
        ready?.send_request(request.body(()).unwrap(), end)
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(mut self) {
        let driver = std::mem::replace(&mut self.driver, tokio::spawn(async {}));
        within("the end of the connection", driver).await.unwrap();
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Incoming {
    /// The next bytes of the body; none at its end. Panics if the stream fails.
    pub async fn piece(&mut self) -> Option<Bytes> {
        self.try_piece().await.unwrap()
    }

    /// The next bytes of the body; none at its end.
    pub async fn try_piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        while let Some(piece) = within("more of the body", self.body.data()).await {
            let piece = piece?;
            self.body.flow_control().release_capacity(piece.len())?;
            // The end may come as a frame without data.
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Waits until `length` more bytes of the body are here and takes them.
    pub async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.kept.len() < length {
            let piece = self.piece().await.expect("more of the body");
            self.kept.extend(piece);
        }
        self.kept.drain(..length).collect()
    }
}
