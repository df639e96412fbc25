//! Names looked up while running, through the servers that `resolver` names.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

/// The servers a level's names are looked up with.
pub struct Resolver {
    /// As configured.
    pub servers: Vec<SocketAddr>,
    /// `valid=`, in place of the answers' own life.
    pub valid: Option<Duration>,
    /// `ipv4=off`, `ipv6=off`
    pub families: (bool, bool),
    inner: OnceLock<Option<TokioResolver>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver; nothing is sent before the first name is asked for.
    pub fn new(servers: Vec<SocketAddr>, valid: Option<Duration>, families: (bool, bool)) -> Resolver {
        Resolver { servers, valid, families, inner: OnceLock::new() }
    }

    /// The addresses of `name`.
    pub async fn lookup(&self, name: &str, timeout: Duration) -> Result<Vec<IpAddr>, String> {
        let resolver = self.inner.get_or_init(|| self.build().ok());
        let Some(resolver) = resolver else { return Err("no resolver can be made".into()) };
        let found = tokio::time::timeout(timeout, resolver.lookup_ip(name)).await;
        let found = found.map_err(|_| format!("{name} could not be resolved (110: Operation timed out)"))?;
        let found = found.map_err(|e| {
            if e.is_nx_domain() {
                format!("{name} could not be resolved (3: Host not found)")
            } else {
                format!("{name} could not be resolved ({e})")
            }
        })?;
        let (v4, v6) = self.families;
        let addrs: Vec<IpAddr> = found.iter().filter(|a| if a.is_ipv4() { v4 } else { v6 }).collect();
        if addrs.is_empty() {
            Err(format!("{name} could not be resolved (3: Host not found)"))
        } else {
            Ok(addrs)
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
        if let Some(valid) = self.valid {
            options.positive_min_ttl = Some(valid);
            options.positive_max_ttl = Some(valid);
            options.negative_max_ttl = Some(valid);
        }
        let provider = hickory_resolver::net::runtime::TokioRuntimeProvider::default();
        TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .build()
            .map_err(|e| e.to_string())
    }
}
