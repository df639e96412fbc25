//! The name that a client asks for, read before rustls reads the hello: the name chooses the server,
//! and the server the configuration that rustls begins with.
//!
//! What is not in order is not judged here: rustls, given the same bytes, finds the words for it.

use rustls_pki_types::DnsName;
use std::borrow::Cow;

/// What the first bytes of a connection tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// More are needed.
    Partial,
    /// The name in lower case, or none that can be read.
    Whole(Option<String>),
}

/// The first byte of a TLS connection: a handshake record.
pub const HANDSHAKE_RECORD: u8 = 0x16;

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Bytes of a record's head, and of a handshake message's.
const RECORD_HEAD: usize = 5;
const MESSAGE_HEAD: usize = 4;
/// The longest content of a plain record, and the longest hello that rustls takes.
const LONGEST_RECORD: usize = 16 * 1024;
const LONGEST_HELLO: usize = 0xffff;
/// Records that a hello may be in: they are joined anew whenever more was received, so more would cost more than they
/// are worth. Clients use one, or a few.
const MOST_RECORDS: usize = 512;

/// Reads what there is of a hello, which is the first message (RFC 8446, 4.1.2), in one record or several.
pub fn read(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Message::Partial => Hello::Partial,
        Message::None => Hello::Whole(None),
        Message::Whole(message) => Hello::Whole(server_name(&message)),
    }
}

enum Message<'a> {
    Partial,
    /// It is no hello.
    None,
    /// Its body.
    Whole(Cow<'a, [u8]>),
}

/// The first handshake message, its fragments joined.
fn message(bytes: &[u8]) -> Message<'_> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    for _ in 0..MOST_RECORDS {
        let Some((head, after)) = rest.split_first_chunk::<RECORD_HEAD>() else {
            let is_handshake = rest.first().is_none_or(|kind| *kind == HANDSHAKE_RECORD);
            return if is_handshake { Message::Partial } else { Message::None };
        };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[0] != HANDSHAKE_RECORD || length == 0 || length > LONGEST_RECORD {
            return Message::None;
        }
        let content = &after[..length.min(after.len())];
        match &mut joined {
            Cow::Borrowed([]) => joined = Cow::Borrowed(content),
            joined => joined.to_mut().extend_from_slice(content),
        }
        if let Some((head, body)) = joined.split_first_chunk::<MESSAGE_HEAD>() {
            let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
            if head[0] != CLIENT_HELLO || length > LONGEST_HELLO {
                return Message::None;
            }
            if body.len() >= length {
                return Message::Whole(match joined {
                    Cow::Borrowed(joined) => Cow::Borrowed(&joined[MESSAGE_HEAD..][..length]),
                    Cow::Owned(joined) => Cow::Owned(joined[MESSAGE_HEAD..][..length].to_vec()),
                });
            }
        }
        if after.len() < length {
            return Message::Partial;
        }
        rest = &after[length..];
    }
    Message::None
}

/// The host name in a hello's extensions (RFC 6066, 3).
fn server_name(hello: &[u8]) -> Option<String> {
    // Version and random.
    let mut rest = Fields(hello.get(2 + 32..)?);
    rest.short()?;
    rest.long()?;
    rest.short()?;
    let mut extensions = Fields(rest.long()?);
    loop {
        let kind = extensions.number()?;
        let content = extensions.long()?;
        if kind == SERVER_NAME {
            let names = Fields(content).long()?;
            let (kind, names) = names.split_first()?;
            if *kind != HOST_NAME {
                return None;
            }
            let name = std::str::from_utf8(Fields(names).long()?).ok()?;
            DnsName::try_from(name).ok()?;
            return Some(name.to_ascii_lowercase());
        }
    }
}

/// Fields with their lengths before them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    /// One of at most 255 bytes.
    fn short(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        self.take(rest, usize::from(*length))
    }

    /// One of at most 65,535.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(self.0, usize::from(length))
    }

    fn take(&mut self, rest: &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (field, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::config::standard_provider;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    /// The record in which rustls's own client asks for a name.
    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(standard_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same hello in records of at most `size` bytes of content.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |content: &[u8]| {
            let mut record = vec![HANDSHAKE_RECORD, 3, 1];
            record.extend((content.len() as u16).to_be_bytes());
            record.extend(content);
            record
        };
        hello[RECORD_HEAD..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn the_name_is_found_as_soon_as_the_hello_is_whole() {
        let hello = hello("www.Example.com");
        for bytes in [hello.clone(), fragmented(&hello, 1), fragmented(&hello, 50)] {
            for n in 0..bytes.len() {
                assert_eq!(read(&bytes[..n]), Hello::Partial, "{n} of {}", bytes.len());
            }
            let name = Hello::Whole(Some("www.example.com".to_string()));
            assert_eq!(read(&bytes), name);
            assert_eq!(read(&[&bytes[..], b"more"].concat()), name);
        }
    }

    #[test]
    fn what_has_no_name_or_is_no_hello_is_left_to_rustls() {
        assert_eq!(read(&hello("127.0.0.1")), Hello::Whole(None));
        for other in [
            &b"GET / HTTP/1.0\r\n"[..],
            b"G",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\xff\xff",
            b"\x15\x03\x01\0\x02",
        ] {
            assert_eq!(read(other), Hello::Whole(None), "{other:?}");
        }
        // Another message than a hello, and one that would be too long.
        assert_eq!(read(b"\x16\x03\x01\0\x04\x02\0\0\0"), Hello::Whole(None));
        assert_eq!(read(b"\x16\x03\x01\0\x04\x01\x01\0\0"), Hello::Whole(None));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(at in 0usize..400, byte: u8, bytes: Vec<u8>) {
            let mut broken = hello("www.example.com");
            let at = at % broken.len();
            broken[at] = byte;
            read(&broken);
            read(&bytes);
            read(&[&b"\x16\x03\x01\0\x40\x01\0\0\x3c"[..], &bytes].concat());
        }
    }
}
