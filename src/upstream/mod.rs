//! The other side: groups of peers, balancing, connections, and the exchange of a request for an
//! answer.
//!
//! Connections with TLS are made by Pingora's transport connector, plain ones are sockets; the exchange
//! over them is our own, so that it costs neither a task nor a channel and sees every byte of the head.

pub mod balance;
pub mod body;
pub mod conf;
pub mod connect;
pub mod exchange;
pub mod fetch;
pub mod group;
pub mod head;
pub mod names;
pub mod patience;
pub mod pool;
pub mod resolve;
pub mod socket;
pub mod spool;
pub mod tunnel;

use crate::cache::seen::Source;
use crate::edge::Local;
use crate::http::body::Body;
use crate::http::request::{Address, Attempt, Conn};
use crate::http::response::{Fields, Tunnel};
use crate::modules::proxy::Target;
use bytes::Bytes;
use std::net::IpAddr;
use std::sync::Arc;

/// A request ready to go upstream. It owns all it needs, so that it can outlive the client's request
/// (a cache's fill does).
#[derive(Clone)]
pub struct Plan {
    /// The generation and the worker it runs under.
    pub local: Arc<Local>,
    /// The level whose `proxy_*` settings hold.
    pub level: usize,
    /// Who is asked.
    pub group: Arc<group::Group>,
    /// TLS towards the upstream, if any.
    pub tls: Option<connect::TlsPeer>,
    /// The method.
    pub method: Bytes,
    /// Where it goes, and with which target.
    pub target: Arc<Target>,
    /// Whether HTTP/1.0 is spoken.
    pub http10: bool,
    /// The fields, as they will be written, where somebody may still change them.
    pub fields: Fields,
    /// The head as it will be sent, where nobody will.
    pub written: Option<Vec<u8>>,
    /// Whether the upstream is asked to close the connection.
    pub closes: bool,
    /// The body, when it does not come from the client as it arrives.
    pub body: spool::Spooled,
    /// The value of the group's `hash` key.
    pub hash_key: Option<Bytes>,
    /// The client's address, for `ip_hash`.
    pub client: Option<IpAddr>,
    /// Whether a switch of protocols was asked for.
    pub upgrade: bool,
    /// Whose request it is, for the error log, where it may outlive the client's.
    pub about: Option<About>,
}

/// Whose request goes upstream. Only an error puts it into words.
#[derive(Clone)]
pub struct About {
    /// The client's connection.
    pub conn: Arc<Conn>,
    /// The client, as `realip` has it.
    pub client: Address,
    /// The server, an index.
    pub server: usize,
    /// Which request it is for, as the error log says it: what stands before the upstream's URL, and from here on
    /// what stands behind it.
    pub context: (Bytes, usize),
}

impl About {
    /// Of a request, as long as it is at hand.
    pub fn of(rq: &crate::http::Request) -> About {
        About {
            conn: rq.conn.clone(),
            client: rq.peer().clone(),
            server: rq.server,
            context: crate::observe::upstream_context(rq),
        }
    }

    /// Logs something about it under this configuration's level, with the upstream's URL.
    pub fn log(
        &self,
        local: &Local,
        place: usize,
        level: crate::observe::error_log::Level,
        message: std::fmt::Arguments<'_>,
        url: std::fmt::Arguments<'_>,
    ) {
        let log = local.generation.error_log();
        let targets = &local.generation.http.levels[place].conf.core.error_logs;
        if log.wants(targets, level) {
            let (before, behind) = self.context.0.split_at(self.context.1);
            log.write(
                targets,
                level,
                format_args!(
                    "*{} {message}, client: {}, server: {}{}, upstream: \"{url}\"{}",
                    self.conn.serial,
                    Client(&self.client),
                    local.generation.http.servers[self.server].conf.core.name.as_str(),
                    String::from_utf8_lossy(before),
                    String::from_utf8_lossy(behind),
                ),
            );
        }
    }
}

/// A client as the error log names it.
struct Client<'a>(&'a Address);

impl std::fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Address::Inet(a) => write!(f, "{}", a.ip()),
            Address::Unix(_) => f.write_str("unix:"),
        }
    }
}

/// What an upstream answered.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The reason phrase.
    pub reason: Bytes,
    /// Every field as received, but for those of the connection (`Connection`, `Keep-Alive`,
    /// `Transfer-Encoding`, `Content-Length`); names as sent.
    pub fields: Fields,
    /// `Content-Length`, when the upstream gave one.
    pub length: Option<u64>,
    /// The body.
    pub body: Body,
    /// Whether ranges may be cut from it: it is whole, and from the cache or about to be.
    pub ranges: bool,
    /// Whether it comes from the cache or is about to be kept there: the client's conditions are then
    /// ours to answer.
    pub kept: bool,
    /// Where it comes from, as the cache sees it.
    pub source: Source,
    /// A protocol switch.
    pub tunnel: Option<Box<dyn Tunnel>>,
    /// The attempts it took.
    pub attempts: Vec<Attempt>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failure {
    /// The status for the client: 502, 504, 503, 500, 499 when the client left.
    pub status: u16,
    /// What went wrong.
    pub kind: FailureKind,
    /// For the log.
    pub message: String,
    /// The attempts that were made.
    pub attempts: Vec<Attempt>,
}

/// What went wrong, by nginx's words in `proxy_next_upstream` and `proxy_cache_use_stale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The connection failed or ended early.
    Error,
    /// A time-out.
    Timeout,
    /// The answer's head is not one.
    InvalidHeader,
    /// No server of the group can be asked.
    NoLiveUpstreams,
    /// The client left or sent a bad body.
    Client,
    /// We could not do our part.
    Internal,
}

impl Plan {
    /// The settings that hold for it.
    pub fn conf(&self) -> &crate::modules::proxy::Conf {
        &self.local.generation.http.levels[self.level].conf.proxy
    }

    /// Logs something about it, with nginx's context.
    fn log(
        &self,
        asker: &fetch::Asker<'_>,
        level: crate::observe::error_log::Level,
        message: std::fmt::Arguments<'_>,
        upstream: &str,
    ) {
        let now;
        let about = match (&self.about, asker) {
            (Some(about), _) => about,
            (None, fetch::Asker::Waits(rq) | fetch::Asker::Sends(rq)) => {
                now = About::of(rq);
                &now
            }
            // Who goes leaves word.
            (None, fetch::Asker::Gone) => return,
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let target = String::from_utf8_lossy(&self.target.uri);
        let url = format_args!("{scheme}://{upstream}{target}");
        about.log(&self.local, self.level, level, message, url);
    }
}
