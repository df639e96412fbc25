//! TLS clients: any certificate is accepted, and what the handshake agreed on can be asked.
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    CipherSuite, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::within;

/// What a client offers. Connections made with one value share its session cache.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

/// What a handshake agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub version: ProtocolVersion,
    pub suite: CipherSuite,
    pub alpn: Option<Vec<u8>>,
    pub kind: HandshakeKind,
    /// The server's certificate in DER.
    pub certificate: Vec<u8>,
}

impl Tls {
    /// TLS 1.2 and 1.3, every suite, no ALPN.
    pub fn new() -> Self {
        Self::with(rustls::ALL_VERSIONS, |_| true)
    }

    /// Only these versions, only the suites that `wanted` accepts.
    pub fn with(
        versions: &[&'static SupportedProtocolVersion],
        wanted: impl Fn(CipherSuite) -> bool,
    ) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| wanted(suite.suite()));
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(64);
        Self { config: Arc::new(config) }
    }

    /// Offers these protocols, the first preferred.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// Connects to `addr` and asks for `name`; panics if the handshake fails.
    pub async fn connect(&self, addr: SocketAddr, name: &str) -> (TlsStream<TcpStream>, Agreed) {
        let stream = self.try_connect(addr, name).await.unwrap();
        let agreed = agreed(&stream);
        (stream, agreed)
    }

    /// Connects to `addr` and asks for `name`.
    pub async fn try_connect(&self, addr: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = within("connect", TcpStream::connect(addr)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_string()).unwrap();
        let connector = TlsConnector::from(self.config.clone());
        within("a TLS handshake", connector.connect(name, tcp)).await
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}

/// Connects with the openssl command, sends `input` and returns what it prints.
pub async fn s_client(addr: SocketAddr, name: &str, args: &[&str], input: &str) -> String {
    use tokio::io::AsyncWriteExt;
    let mut child = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &addr.to_string()])
        .args(["-servername", name])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = within("openssl s_client", child.wait_with_output()).await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn agreed(stream: &TlsStream<TcpStream>) -> Agreed {
    let (_, session) = stream.get_ref();
    Agreed {
        version: session.protocol_version().unwrap(),
        suite: session.negotiated_cipher_suite().unwrap().suite(),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        kind: session.handshake_kind().unwrap(),
        certificate: session.peer_certificates().unwrap()[0].to_vec(),
    }
}

/// Checks that the server has the key of its certificate, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
