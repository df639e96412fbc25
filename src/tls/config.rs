//! A server's side of TLS: what its directives ask for, as configurations of rustls.

use super::certificates::Certificates;
use super::clients::Clients;
use super::key_schedule::with_ready_keys;
use super::sessions::Sessions;
use super::tickets::{FileKey, Tickets};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets, StoresServerSessions};
use rustls::{ServerConfig, SupportedCipherSuite};
use std::sync::Arc;
use std::time::Duration;

/// What a server offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// TLS 1.2
    pub tls12: bool,
    /// TLS 1.3
    pub tls13: bool,
    /// Suites of either version, in order of preference.
    pub suites: Vec<SupportedCipherSuite>,
    /// Key exchange groups, in order of preference; none is the default choice.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// Whether our order of suites counts rather than the client's.
    pub prefer_server: bool,
    /// The cache of sessions, by name and bytes.
    pub cache: Option<(String, u64)>,
    /// How long a session may be resumed.
    pub timeout: Duration,
    /// Whether tickets are given.
    pub tickets: bool,
    /// Tickets given with each TLS 1.3 handshake.
    pub ticket_count: usize,
    /// The keys of tickets; none are the process's own.
    pub ticket_keys: Vec<FileKey>,
    /// The most bytes of a record's content.
    pub record_size: u64,
    /// How certificates of clients are asked for, if they are.
    pub clients: Option<Arc<Clients>>,
}

/// What a server answers handshakes with.
#[derive(Debug)]
pub struct ServerTls {
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
    /// How certificates of clients are asked for, if they are.
    pub clients: Option<Arc<Clients>>,
}

/// nginx's list for HTTP/1.
const HTTP1: [&[u8]; 3] = [b"http/1.1", b"http/1.0", b"http/0.9"];

impl ServerTls {
    /// Builds both configurations. Fails when `offer` is nothing that rustls could offer.
    pub fn build(certificates: Arc<Certificates>, offer: &Offer) -> Result<ServerTls, rustls::Error> {
        let versions: Vec<_> =
            [(offer.tls12, &rustls::version::TLS12), (offer.tls13, &rustls::version::TLS13)]
                .into_iter()
                .filter_map(|(on, version)| on.then_some(version))
                .collect();
        let asked = offer.clients.as_ref().map_or(&[][..], |c| &c.fingerprint);
        let context = certificates.context(asked);
        let builder =
            ServerConfig::builder_with_provider(provider(offer).into()).with_protocol_versions(&versions)?;
        let builder = match &offer.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        };
        let mut config = builder.with_cert_resolver(certificates);
        config.ignore_client_order = offer.prefer_server;
        config.send_tls13_tickets = offer.ticket_count;
        // A record is its content, five bytes of header and what encryption adds.
        config.max_fragment_size = Some((offer.record_size as usize + 5).clamp(517, 16_389));
        config.session_storage = match &offer.cache {
            None => Arc::new(NoServerSessionStorage {}) as Arc<dyn StoresServerSessions>,
            Some((name, bytes)) => Arc::new(Sessions::new(name, *bytes, context, offer.timeout)),
        };
        if offer.tickets {
            let tickets: Arc<dyn ProducesTickets> = match offer.ticket_keys.as_slice() {
                [] => Arc::new(Tickets::rotating(context, offer.timeout)?),
                keys => Arc::new(Tickets::from_files(keys.to_vec(), context, offer.timeout)),
            };
            config.ticketer = tickets;
        }
        config.alpn_protocols = HTTP1.iter().map(|p| p.to_vec()).collect();
        let http1 = Arc::new(config.clone());
        config.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(ServerTls { http1, http2: Arc::new(config), clients: offer.clients.clone() })
    }

    /// The configuration with or without HTTP/2.
    pub fn config(&self, http2: bool) -> &Arc<ServerConfig> {
        if http2 { &self.http2 } else { &self.http1 }
    }
}

/// The provider of cryptography, always the same one and always named: the process's default may
/// have been set by somebody else.
pub fn standard_provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn provider(offer: &Offer) -> CryptoProvider {
    let mut provider = standard_provider();
    provider.cipher_suites = offer.suites.iter().copied().map(with_ready_keys).collect();
    if !offer.groups.is_empty() {
        provider.kx_groups = offer.groups.clone();
    }
    provider
}
