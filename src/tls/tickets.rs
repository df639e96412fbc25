//! Session tickets: keys shared by all workers and kept over reloads, bounded in time, bound to the
//! server that issued them.

use super::sessions::{Context, Stamp};
use crate::http::date;
use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{digest, rand};
use parking_lot::Mutex;
use rustls::server::ProducesTickets;
use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Seals and opens the tickets of a server.
#[derive(Debug)]
pub struct Tickets {
    keys: Keys,
    context: Context,
    timeout: Duration,
}

#[derive(Debug)]
enum Keys {
    /// The process's own, which rotate.
    Process(&'static Rotating),
    /// From files: the first seals, all of them open.
    Files(Vec<FileKey>),
}

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// At most `count` tickets are given until this is said again: rustls gives as many to a client that resumes
/// as to a new one, of which OpenSSL gives it one, for the one that it used.
pub fn limit(count: usize) {
    LEFT.set(count);
}

impl Tickets {
    /// Tickets under the process's keys, which are made when first asked for and rotate by
    /// themselves. The error is rustls's: no random bytes are to be had.
    pub fn rotating(context: Context, timeout: Duration) -> Result<Tickets, rustls::Error> {
        static KEYS: OnceLock<Rotating> = OnceLock::new();
        let keys = match KEYS.get() {
            Some(keys) => keys,
            None => {
                let fresh = Rotating::new(date::now()).ok_or(rustls::Error::FailedToGetRandomBytes)?;
                KEYS.get_or_init(|| fresh)
            }
        };
        Ok(Tickets { keys: Keys::Process(keys), context, timeout })
    }

    /// Tickets under the keys of `ssl_session_ticket_key` files.
    pub fn from_files(keys: Vec<FileKey>, context: Context, timeout: Duration) -> Tickets {
        Tickets { keys: Keys::Files(keys), context, timeout }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        LEFT.set(LEFT.get().checked_sub(1)?);
        let stamped = Stamp::now(self.context).before(plain);
        match &self.keys {
            Keys::Process(keys) => keys.at(date::now()).current.seal(stamped),
            Keys::Files(keys) => keys.first()?.seal(stamped),
        }
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let stamped = match &self.keys {
            Keys::Process(keys) => keys.at(date::now()).open(cipher)?,
            Keys::Files(keys) => keys.iter().find_map(|k| k.open(cipher))?,
        };
        Stamp::check(&stamped, self.context, self.timeout).map(<[u8]>::to_vec)
    }
}

/// The process's own keys: one seals for a time, and opens for as long again.
#[derive(Debug)]
struct Rotating {
    keys: ArcSwap<Pair>,
    /// Held by the one that makes a new key.
    making: Mutex<()>,
}

#[derive(Debug)]
struct Pair {
    current: FileKey,
    previous: Option<FileKey>,
    /// When `current` is to be the previous one, in seconds since 1970.
    until: u64,
}

/// Seconds for which a key seals.
const PERIOD: u64 = 6 * 60 * 60;

impl Rotating {
    /// Keys from `now` on; none when there are no random bytes.
    fn new(now: u64) -> Option<Rotating> {
        let pair = Pair { current: FileKey::random()?, previous: None, until: now.saturating_add(PERIOD) };
        Some(Rotating { keys: ArcSwap::from_pointee(pair), making: Mutex::new(()) })
    }

    /// The keys at a moment. Without random bytes for a new key the old one stays.
    fn at(&self, now: u64) -> arc_swap::Guard<Arc<Pair>> {
        // A clock that was set back must not keep a key.
        let is_over = |pair: &Pair| now >= pair.until || pair.until - now > PERIOD;
        let pair = self.keys.load();
        if !is_over(&pair) {
            return pair;
        }
        let _making = self.making.lock();
        let pair = self.keys.load();
        if is_over(&pair)
            && let Some(current) = FileKey::random()
        {
            // One that nobody asked about for a whole period is too old to open anything.
            let recent = now < pair.until.saturating_add(PERIOD);
            let previous = recent.then(|| pair.current.clone());
            self.keys.store(Arc::new(Pair { current, previous, until: now.saturating_add(PERIOD) }));
        }
        self.keys.load()
    }
}

impl Pair {
    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.current.open(ticket).or_else(|| self.previous.as_ref()?.open(ticket))
    }
}

/// Bytes of the name at the start of a ticket, by which its key is found.
const NAME: usize = 16;
const NONCE: usize = 12;

/// A key of tickets. One from a file lets several hosts open each other's; the tickets are our own:
/// nginx's, which hold an OpenSSL session, are of no use here.
#[derive(Clone)]
pub struct FileKey {
    name: [u8; NAME],
    key: Arc<RandomizedNonceKey>,
}

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileKey")
    }
}

impl FileKey {
    /// The key in a file's bytes, which have to be 48 or 80, as nginx's.
    pub fn new(file: &[u8]) -> Option<FileKey> {
        if file.len() != 48 && file.len() != 80 {
            return None;
        }
        let (name, secret) = file.split_first_chunk::<NAME>()?;
        let key = digest::digest(&digest::SHA256, secret);
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).ok()?;
        Some(FileKey { name: *name, key: Arc::new(key) })
    }

    /// A new key; none when there are no random bytes.
    fn random() -> Option<FileKey> {
        let mut bytes = [0; 48];
        rand::fill(&mut bytes).ok()?;
        FileKey::new(&bytes)
    }

    /// `name | nonce | ciphertext and tag`
    fn seal(&self, mut plain: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = self.key.seal_in_place_append_tag(Aad::from(self.name), &mut plain).ok()?;
        Some([&self.name[..], nonce.as_ref(), &plain].concat())
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        if *name != self.name {
            return None;
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, Aad::from(self.name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_ticket_opens_under_the_same_server_only() {
        let ours = Tickets::rotating(Context([1; 16]), HOUR).unwrap();
        let reloaded = Tickets::rotating(Context([1; 16]), HOUR).unwrap();
        let other = Tickets::rotating(Context([2; 16]), HOUR).unwrap();
        let ticket = ours.encrypt(b"session").unwrap();
        assert_eq!(reloaded.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(other.decrypt(&ticket), None);
        let strict = Tickets::rotating(Context([1; 16]), Duration::ZERO).unwrap();
        assert_eq!(strict.decrypt(&ticket), None);
    }

    #[test]
    fn the_process_s_keys_rotate_and_open_for_one_more_period() {
        let began = 1_000_000;
        let keys = Rotating::new(began).unwrap();
        let seal = |now| keys.at(now).current.seal(b"session".to_vec()).unwrap();
        let opens = |now, ticket: &[u8]| keys.at(now).open(ticket).is_some();
        let first = seal(began);
        assert!(opens(began + PERIOD - 1, &first));
        // The second period, and the third.
        let second = seal(began + PERIOD);
        assert_ne!(first[..NAME], second[..NAME]);
        assert!(opens(began + PERIOD, &first) && opens(began + PERIOD, &second));
        assert!(opens(began + 2 * PERIOD, &second));
        assert!(!opens(began + 2 * PERIOD, &first));
        // Nobody asked for long.
        let third = seal(began + 2 * PERIOD);
        assert!(!opens(began + 9 * PERIOD, &third));
        // The clock is set back: the key is no longer used than it may be.
        let fourth = seal(began + 9 * PERIOD);
        let fifth = seal(began);
        assert_ne!(fourth[..NAME], fifth[..NAME]);
        assert!(opens(began, &fourth) && !opens(began + PERIOD, &fourth));
    }

    #[test]
    fn no_more_tickets_are_given_than_is_said() {
        let tickets = Tickets::rotating(Context([1; 16]), HOUR).unwrap();
        limit(1);
        assert!(tickets.encrypt(b"session").is_some());
        assert!(tickets.encrypt(b"session").is_none());
        limit(usize::MAX);
        assert!(tickets.encrypt(b"session").is_some());
    }

    #[test]
    fn any_of_the_files_opens_and_the_first_seals() {
        let key = |n: u8, length| FileKey::new(&vec![n; length]).unwrap();
        let with = |keys| Tickets::from_files(keys, Context([0; 16]), HOUR);
        let old = with(vec![key(1, 48)]).encrypt(b"x").unwrap();
        let new = with(vec![key(2, 80), key(1, 48)]);
        assert_eq!(new.decrypt(&old).as_deref(), Some(&b"x"[..]));
        assert_eq!(with(vec![key(1, 48)]).decrypt(&new.encrypt(b"y").unwrap()), None);
        let mut broken = old;
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(new.decrypt(&broken), None);
        assert!(FileKey::new(&[0; 47]).is_none());
    }
}
