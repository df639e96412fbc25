//! WebSocket clients that reach their server through the edge.
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, handshake::derive_accept_key};

use super::client::{Client, Io, Response};
use super::within;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An open WebSocket.
pub struct WebSocket {
    stream: WebSocketStream<Box<dyn Io>>,
    /// The answer to the handshake.
    pub response: Response,
}

impl WebSocket {
    /// Opens a WebSocket over `client`; panics unless the answer is 101 with the right key.
    pub async fn open(client: Client, target: &str, headers: &[(&str, &str)]) -> Self {
        match Self::try_open(client, target, headers).await {
            Ok(socket) => socket,
            Err(response) => panic!("no WebSocket at {target}: {}", response.head),
        }
    }

    /// Opens a WebSocket over `client`; the answer if it is not 101.
    pub async fn try_open(
        mut client: Client,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Box<Response>> {
        let mut all = vec![
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        all.extend_from_slice(headers);
        client.send_request("GET", target, &all, b"").await;
        let response = client.head("GET").await;
        if response.status != 101 {
            return Err(Box::new(response));
        }
        assert_eq!(response.header("sec-websocket-accept"), Some(derive_accept_key(KEY.as_bytes()).as_str()));
        let (io, already_read) = client.into_parts();
        let stream = WebSocketStream::from_partially_read(io, already_read, Role::Client, None).await;
        Ok(Self { stream, response })
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) {
        within("send a message", self.stream.send(Message::text(text))).await.unwrap();
    }

    /// Sends any message.
    pub async fn send_message(&mut self, message: Message) {
        within("send a message", self.stream.send(message)).await.unwrap();
    }

    /// The next message of any kind; none when the peer has closed.
    pub async fn message(&mut self) -> Option<Message> {
        match within("receive a message", self.stream.next()).await {
            Some(Ok(Message::Close(_))) | Some(Err(_)) | None => None,
            Some(Ok(message)) => Some(message),
        }
    }

    /// The next text message; panics if the next is not one.
    pub async fn text(&mut self) -> String {
        match self.message().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("not a text message: {other:?}"),
        }
    }

    /// Sends `text` and returns what comes back.
    pub async fn echo(&mut self, text: &str) -> String {
        self.send(text).await;
        self.text().await
    }

    /// Closes with the closing handshake.
    pub async fn close(mut self) {
        // The peer may be gone already; either way it is closed.
        let _ = within("close", self.stream.close(None)).await;
        while self.message().await.is_some() {}
    }
}
