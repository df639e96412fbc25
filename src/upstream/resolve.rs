//! Names looked up while running, through the servers that `resolver` names.
//!
//! Answers are kept for as long as they say, or as `valid=` does; that a name has none is not kept, as
//! in nginx. Who asks for a name that is being looked up waits for the same answer.

use super::conf::{PeerAddr, PeerConf};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RData;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore};

/// Names that are kept: a client may be able to ask for any.
const KEPT: u64 = 1024;
/// Names that are looked up at a time; more wait, within their time.
const AT_A_TIME: usize = 512;
/// Records of a service that are followed.
const TARGETS: usize = 256;
/// After how long a question is asked again, as by nginx.
const RESEND: Duration = Duration::from_secs(5);

/// The servers a level's names are looked up with.
pub struct Resolver {
    /// As configured.
    pub servers: Vec<SocketAddr>,
    /// `valid=`, in place of the answers' own life.
    pub valid: Option<Duration>,
    /// `ipv4=off`, `ipv6=off`
    pub families: (bool, bool),
    inner: OnceLock<Option<TokioResolver>>,
    underway: Mutex<HashMap<String, Arc<Underway>>>,
    permits: Semaphore,
}

/// A look-up that somebody waits for.
type Underway = OnceCell<Result<Known, Failed>>;

/// Addresses, and until when they hold.
type Known = (Vec<IpAddr>, Instant);

/// One address of a name, or of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address.
    pub ip: IpAddr,
    /// A service's port.
    pub port: Option<u16>,
    /// A service's weight, at least 1.
    pub weight: Option<u32>,
    /// A service's address that is for when those before it fail.
    pub later: bool,
}

impl Found {
    /// What was found when this peer was made of it; none that is a unix socket.
    pub fn of(peer: &PeerConf, service: bool) -> Option<Found> {
        let PeerAddr::Inet(addr) = peer.addr else { return None };
        let port = service.then_some(addr.port());
        let weight = service.then_some(peer.weight);
        Some(Found { ip: addr.ip(), port, weight, later: service && peer.backup })
    }
}

/// What names have now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one.
    pub found: Vec<Found>,
    /// For how long it holds.
    pub ttl: Duration,
}

/// Why there is no address. Displays as nginx logs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The server did not understand the question.
    #[error("1: Format error")]
    Format,
    /// The server cannot tell.
    #[error("2: Server failure")]
    Server,
    /// There is no such name, or it has no address.
    #[error("3: Host not found")]
    NotFound,
    /// The server does not do that.
    #[error("4: Unimplemented")]
    Unimplemented,
    /// The server does not want to.
    #[error("5: Operation refused")]
    Refused,
    /// Nobody answered.
    #[error("110: Operation timed out")]
    TimedOut,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Resolver");
        f.field("servers", &self.servers).field("valid", &self.valid).field("families", &self.families);
        f.finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver; nothing is sent before the first name is asked for.
    pub fn new(servers: Vec<SocketAddr>, valid: Option<Duration>, families: (bool, bool)) -> Resolver {
        Resolver {
            servers,
            valid,
            families,
            inner: OnceLock::new(),
            underway: Mutex::default(),
            permits: Semaphore::new(AT_A_TIME),
        }
    }

    /// The addresses of `name`; at least one. The error is nginx's message.
    pub async fn lookup(&self, name: &str, timeout: Duration) -> Result<Vec<IpAddr>, String> {
        let name = name.to_ascii_lowercase();
        let found = within(timeout, self.share(&name)).await;
        found.map(|(ips, _)| ips).map_err(|why| format!("{name} could not be resolved ({why})"))
    }

    /// The addresses of `name`, in lower case, and for how long they hold.
    pub async fn addresses(&self, name: &str, timeout: Duration) -> Result<Answer, Failed> {
        let (ips, until) = within(timeout, self.share(name)).await?;
        let found = ips.into_iter().map(|ip| Found { ip, port: None, weight: None, later: false });
        Ok(Answer { found: found.collect(), ttl: until.saturating_duration_since(Instant::now()) })
    }

    /// The addresses of a service, by its SRV records; those of the first priority that has any come first, all
    /// others later.
    pub async fn service(&self, name: &str, timeout: Duration) -> Result<Answer, Failed> {
        within(timeout, self.ask_service(name)).await
    }

    async fn ask_service(&self, name: &str) -> Result<Answer, Failed> {
        let resolver = self.inner.get_or_init(|| self.build().ok()).as_ref().ok_or(Failed::Server)?;
        let answer = {
            let _permit = self.permits.acquire().await.map_err(|_| Failed::Server)?;
            resolver.srv_lookup(name).await.map_err(|e| why(&e))?
        };
        let mut until = answer.valid_until();
        let mut records: Vec<_> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv.clone()),
                _ => None,
            })
            .collect();
        records.sort_by_key(|srv| srv.priority);
        records.truncate(TARGETS);
        let (mut found, mut first, mut failed) = (Vec::new(), None, Failed::NotFound);
        for srv in records {
            let target = srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            match self.share(&target).await {
                Ok((ips, valid)) => {
                    until = until.min(valid);
                    let later = srv.priority != *first.get_or_insert(srv.priority);
                    let weight = Some(u32::from(srv.weight).max(1));
                    found.extend(ips.into_iter().map(|ip| Found { ip, port: Some(srv.port), weight, later }));
                }
                Err(why) => failed = why,
            }
        }
        if found.is_empty() {
            return Err(failed);
        }
        Ok(Answer { found, ttl: until.saturating_duration_since(Instant::now()) })
    }

    /// Asks, or waits for who asks already. If that one leaves, another goes on.
    async fn share(&self, name: &str) -> Result<Known, Failed> {
        let cell = self.underway.lock().entry(name.to_string()).or_default().clone();
        let _forget = Forget { resolver: self, name, cell: cell.clone() };
        cell.get_or_init(|| self.ask(name)).await.clone()
    }

    async fn ask(&self, name: &str) -> Result<Known, Failed> {
        // It is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| Failed::Server)?;
        let resolver = self.inner.get_or_init(|| self.build().ok()).as_ref().ok_or(Failed::Server)?;
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let ips: Vec<IpAddr> = found.iter().collect();
                if ips.is_empty() { Err(Failed::NotFound) } else { Ok((ips, found.valid_until())) }
            }
            Err(e) => Err(why(&e)),
        }
    }

    fn build(&self) -> Result<TokioResolver, String> {
        let mut config = ResolverConfig::default();
        for server in &self.servers {
            let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut name_server.connections {
                connection.port = server.port();
            }
            config.add_name_server(name_server);
        }
        let mut options = ResolverOpts::default();
        options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        options.ip_strategy = match self.families {
            (true, false) => LookupIpStrategy::Ipv4Only,
            (false, _) => LookupIpStrategy::Ipv6Only,
            (true, true) => LookupIpStrategy::Ipv4AndIpv6,
        };
        options.cache_size = KEPT;
        options.timeout = RESEND;
        // That no name is found is asked anew each time.
        (options.negative_min_ttl, options.negative_max_ttl) = (Some(Duration::ZERO), Some(Duration::ZERO));
        if let Some(valid) = self.valid {
            options.positive_min_ttl = Some(valid);
            options.positive_max_ttl = Some(valid);
        }
        let provider = hickory_resolver::net::runtime::TokioRuntimeProvider::default();
        TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .build()
            .map_err(|e| e.to_string())
    }
}

async fn within<T>(timeout: Duration, ask: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    tokio::time::timeout(timeout, ask).await.unwrap_or(Err(Failed::TimedOut))
}

/// Takes a look-up off the list when the last who waits for it has gone, or it is over.
struct Forget<'a> {
    resolver: &'a Resolver,
    name: &'a str,
    cell: Arc<Underway>,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut underway = self.resolver.underway.lock();
        // The list's, and ours.
        let last = Arc::strong_count(&self.cell) <= 3;
        let is_listed = underway.get(self.name).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        if is_listed && (last || self.cell.initialized()) {
            underway.remove(self.name);
        }
    }
}

fn why(e: &NetError) -> Failed {
    let code = match e {
        NetError::Dns(DnsError::NoRecordsFound(none)) => none.response_code,
        NetError::Dns(DnsError::ResponseCode(code)) => *code,
        // A server that cannot be reached has nginx wait for the time to be over.
        _ => return Failed::TimedOut,
    };
    match u16::from(code) {
        1 => Failed::Format,
        2 => Failed::Server,
        4 => Failed::Unimplemented,
        5 => Failed::Refused,
        _ => Failed::NotFound,
    }
}

#[cfg(test)]
mod tests;
