//! Session caches: what clients without tickets resume from, by name, kept over reloads.

use aws_lc_rs::digest;
use moka::policy::EvictionPolicy;
use parking_lot::Mutex;
use rustls::server::StoresServerSessions;
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// What a session belongs to: a server's certificates and how it asks for those of clients. A session
/// of another context is not resumed, whatever cache or key it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(pub [u8; 16]);

impl Context {
    /// The context of a server with these certificates; `clients` says how clients are verified.
    pub fn of<'a>(
        certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
        clients: &[u8],
    ) -> Context {
        let mut hash = digest::Context::new(&digest::SHA256);
        for certificate in certificates {
            hash.update(digest::digest(&digest::SHA256, certificate).as_ref());
        }
        hash.update(clients);
        let mut context = [0; 16];
        context.copy_from_slice(&hash.finish().as_ref()[..16]);
        Context(context)
    }
}

/// What stands before a stored session: when it began, and its context.
pub struct Stamp {
    at: u64,
    context: Context,
}

const STAMP: usize = 8 + 16;

impl Stamp {
    /// A stamp of this moment.
    pub fn now(context: Context) -> Stamp {
        Stamp { at: crate::http::date::now(), context }
    }

    /// The stamp with `session` after it.
    pub fn before(&self, session: &[u8]) -> Vec<u8> {
        [&self.at.to_be_bytes()[..], &self.context.0, session].concat()
    }

    /// The session after the stamp, unless it is older than `timeout` or of another context.
    pub fn check(stamped: &[u8], context: Context, timeout: Duration) -> Option<&[u8]> {
        let (stamp, session) = stamped.split_at_checked(STAMP)?;
        let at = u64::from_be_bytes(*stamp.first_chunk::<8>()?);
        let fresh = crate::http::date::now() < at.saturating_add(timeout.as_secs());
        (stamp[8..] == context.0 && fresh).then_some(session)
    }
}

/// A cache of sessions, in bytes.
type Cache = moka::sync::Cache<Vec<u8>, Vec<u8>>;

/// What an entry takes beside its bytes.
const OVERHEAD: usize = 128;

/// The cache called `name` of `bytes`. The same one over reloads, for as long as a configuration
/// names it with this size.
fn cache(name: &str, bytes: u64) -> Arc<Cache> {
    type Caches = HashMap<(String, u64), Weak<Cache>>;
    static CACHES: OnceLock<Mutex<Caches>> = OnceLock::new();
    let mut caches = CACHES.get_or_init(Mutex::default).lock();
    let key = (name.to_string(), bytes);
    if let Some(cache) = caches.get(&key).and_then(Weak::upgrade) {
        return cache;
    }
    caches.retain(|_, c| c.strong_count() > 0);
    let cache = Cache::builder()
        .max_capacity(bytes)
        .weigher(|k: &Vec<u8>, v: &Vec<u8>| (k.len() + v.len() + OVERHEAD) as u32)
        // New sessions matter most: a scan of one-time clients must not keep them out.
        .eviction_policy(EvictionPolicy::lru())
        .build();
    let cache = Arc::new(cache);
    caches.insert(key, Arc::downgrade(&cache));
    cache
}

/// A server's view of a cache.
pub struct Sessions {
    cache: Arc<Cache>,
    context: Context,
    timeout: Duration,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    /// A view of the cache `name` of `bytes` for the server of `context`.
    pub fn new(name: &str, bytes: u64, context: Context, timeout: Duration) -> Sessions {
        Sessions { cache: cache(name, bytes), context, timeout }
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.cache.insert(key, Stamp::now(self.context).before(&value));
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        Stamp::check(&self.cache.get(key)?, self.context, self.timeout).map(<[u8]>::to_vec)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        Stamp::check(&self.cache.remove(key)?, self.context, self.timeout).map(<[u8]>::to_vec)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_cache_is_shared_by_name_and_kept_apart_by_context() {
        let one = Sessions::new("apart", 1 << 20, Context([1; 16]), HOUR);
        let same = Sessions::new("apart", 1 << 20, Context([1; 16]), HOUR);
        let other = Sessions::new("apart", 1 << 20, Context([2; 16]), HOUR);
        let elsewhere = Sessions::new("apart", 2 << 20, Context([1; 16]), HOUR);
        one.put(b"id".to_vec(), b"session".to_vec());
        assert_eq!(same.get(b"id").as_deref(), Some(&b"session"[..]));
        assert_eq!(other.get(b"id"), None);
        assert_eq!(elsewhere.get(b"id"), None);
        assert!(same.take(b"id").is_some());
        assert_eq!(one.get(b"id"), None);
    }

    #[test]
    fn a_cache_stays_within_its_bytes_and_keeps_the_newest() {
        let sessions = Sessions::new("bounded", 64 * 1024, Context([1; 16]), HOUR);
        for n in 0..10_000u32 {
            sessions.put(n.to_be_bytes().to_vec(), vec![0; 200]);
        }
        sessions.cache.run_pending_tasks();
        assert!(sessions.cache.weighted_size() <= 64 * 1024);
        assert!(sessions.cache.entry_count() > 100);
        assert!(sessions.get(&9_999u32.to_be_bytes()).is_some());
        assert!(sessions.get(&0u32.to_be_bytes()).is_none());
    }

    #[test]
    fn an_old_session_is_gone() {
        let sessions = Sessions::new("old", 1 << 20, Context([1; 16]), Duration::ZERO);
        sessions.put(b"id".to_vec(), b"session".to_vec());
        assert_eq!(sessions.get(b"id"), None);
    }

    #[test]
    fn contexts_differ_by_certificate_and_by_what_clients_must_show() {
        let (a, b) = (CertificateDer::from(vec![1]), CertificateDer::from(vec![2]));
        let of = |c: &[&CertificateDer<'static>], clients| Context::of(c.iter().copied(), clients);
        assert_eq!(of(&[&a, &b], b""), of(&[&a, &b], b""));
        assert_ne!(of(&[&a], b""), of(&[&b], b""));
        assert_ne!(of(&[&a], b""), of(&[&a], b"on"));
    }
}
