//! Session tickets: keys shared by all workers and kept over reloads, bounded in time, bound to the
//! server that issued them.

use super::sessions::{Context, Stamp};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use rustls::server::ProducesTickets;
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
    Process(Arc<dyn ProducesTickets>),
    /// From files: the first seals, all of them open.
    Files(Vec<FileKey>),
}

impl Tickets {
    /// Tickets under the process's keys, which are made when first asked for and rotate by
    /// themselves. The error is rustls's: no random bytes are to be had.
    pub fn rotating(context: Context, timeout: Duration) -> Result<Tickets, rustls::Error> {
        static KEYS: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
        let keys = match KEYS.get() {
            Some(keys) => keys.clone(),
            None => {
                let fresh = rustls::crypto::aws_lc_rs::Ticketer::new()?;
                KEYS.get_or_init(|| fresh).clone()
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
        let stamped = Stamp::now(self.context).before(plain);
        match &self.keys {
            Keys::Process(keys) => keys.encrypt(&stamped),
            Keys::Files(keys) => keys.first()?.seal(stamped),
        }
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let stamped = match &self.keys {
            Keys::Process(keys) => keys.decrypt(cipher)?,
            Keys::Files(keys) => keys.iter().find_map(|k| k.open(cipher))?,
        };
        Stamp::check(&stamped, self.context, self.timeout).map(<[u8]>::to_vec)
    }
}

/// Bytes of the name at the start of a ticket, by which its key is found.
const NAME: usize = 16;
const NONCE: usize = 12;

/// A key from a file, so that several hosts open each other's tickets. The tickets are our own:
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
        let plain = self.key.open_in_place(nonce, Aad::from(self.name), &mut sealed).ok()?;
        Some(plain.to_vec())
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
