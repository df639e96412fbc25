//! The PROXY protocol: what a balancer in front tells of the client, before the client's first byte.
//!
//! The format is HAProxy's `proxy-protocol.txt`, versions 1 (a line) and 2 (binary); what is taken and
//! what is refused is nginx's.

mod tlv;

/// Who connected to whom, as the balancer says. Version 1's addresses are its words: nginx takes what
/// consists of an address's characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client's address.
    pub source: Box<str>,
    /// The client's port.
    pub source_port: u16,
    /// The address it connected to.
    pub destination: Box<str>,
    /// The port it connected to.
    pub destination_port: u16,
    /// Version 2's additional fields, as they came.
    tlvs: Box<[u8]>,
}

/// Why it is no header. Displays as nginx logs it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither version's beginning, or a line that is not right.
    #[error("broken header: \"{0}\"")]
    Broken(String),
    /// The binary form of another version.
    #[error("unknown PROXY protocol version: {0}")]
    Version(u8),
    /// It is longer than what came of it.
    #[error("header is too large")]
    TooLarge,
    /// Too short for the addresses of its family.
    #[error("PROXY protocol header is too short for its addresses")]
    Short,
}

/// The most bytes of a header.
pub const LONGEST: usize = 4096;

/// Version 2's signature.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2's fixed part: signature, version and command, family and transport, length.
const FIXED: usize = 16;

/// Reads the header at the beginning of `bytes`: how long it is, and what it says of the client,
/// which may be nothing. A header comes whole, as the format demands of its sender.
pub fn read(bytes: &[u8]) -> Result<(usize, Option<Header>), Error> {
    if bytes.len() >= FIXED && bytes.starts_with(SIGNATURE) {
        return binary(bytes);
    }
    line(bytes).ok_or_else(|| {
        let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(bytes.len());
        Error::Broken(String::from_utf8_lossy(&bytes[..end]).into_owned())
    })
}

/// Version 1: `PROXY TCP4 source destination port port`, or `PROXY UNKNOWN` and anything.
fn line(bytes: &[u8]) -> Option<(usize, Option<Header>)> {
    let rest = bytes.strip_prefix(b"PROXY ")?;
    if rest.starts_with(b"UNKNOWN") {
        let end = memchr::memmem::find(bytes, b"\r\n")?;
        return Some((end + 2, None));
    }
    let rest = rest.strip_prefix(b"TCP4 ").or_else(|| rest.strip_prefix(b"TCP6 "))?;
    let (source, rest) = address(rest)?;
    let (destination, rest) = address(rest)?;
    let (source_port, rest) = port(rest, b' ')?;
    let (destination_port, rest) = port(rest, b'\r')?;
    let rest = rest.strip_prefix(b"\n")?;
    let header = Header { source, source_port, destination, destination_port, tlvs: Box::default() };
    Some((bytes.len() - rest.len(), Some(header)))
}

fn address(bytes: &[u8]) -> Option<(Box<str>, &[u8])> {
    let end = memchr::memchr(b' ', bytes)?;
    let fits = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
    if !bytes[..end].iter().all(fits) {
        return None;
    }
    Some((std::str::from_utf8(&bytes[..end]).ok()?.into(), &bytes[end + 1..]))
}

fn port(bytes: &[u8], separator: u8) -> Option<(u16, &[u8])> {
    let end = memchr::memchr(separator, bytes)?;
    let number = crate::conf::values::number(std::str::from_utf8(&bytes[..end]).ok()?)?;
    Some((u16::try_from(number).ok()?, &bytes[end + 1..]))
}

/// Version 2. A connection of the balancer's own, and families other than TCP, say nothing of a client.
fn binary(bytes: &[u8]) -> Result<(usize, Option<Header>), Error> {
    const PROXY: u8 = 1;
    let (command, family) = (bytes[12], bytes[13]);
    if command >> 4 != 2 {
        return Err(Error::Version(command >> 4));
    }
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let Some(body) = bytes[FIXED..].get(..length) else { return Err(Error::TooLarge) };
    let size = match (command & 15, family) {
        (PROXY, 0x11) => 4,
        (PROXY, 0x21) => 16,
        _ => return Ok((FIXED + length, None)),
    };
    let Some((addresses, tlvs)) = body.split_at_checked(2 * size + 4) else { return Err(Error::Short) };
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let header = Header {
        source: ip(&addresses[..size]),
        destination: ip(&addresses[size..2 * size]),
        source_port: port(2 * size),
        destination_port: port(2 * size + 2),
        tlvs: tlvs.into(),
    };
    Ok((FIXED + length, Some(header)))
}

/// An address of 4 or 16 bytes in words.
fn ip(bytes: &[u8]) -> Box<str> {
    let ip = match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => std::net::IpAddr::from(v4),
        Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()),
    };
    ip.to_string().into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Version 2 with this command, family and body.
    pub fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn words(bytes: &[u8]) -> String {
        match read(bytes) {
            Ok((n, Some(h))) => {
                format!("{n} {} {} {} {}", h.source, h.source_port, h.destination, h.destination_port)
            }
            Ok((n, None)) => format!("{n} nobody"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn lines_as_nginx_takes_them() {
        for (line, want) in [
            ("PROXY TCP4 1.2.3.4 5.6.7.8 11 22\r\nGET", "34 1.2.3.4 11 5.6.7.8 22"),
            ("PROXY TCP6 ::1 1.2.3.4 0 65535\r\n", "32 ::1 0 1.2.3.4 65535"),
            ("PROXY TCP4 1.2.3 5.6 1 2\r\n", "26 1.2.3 1 5.6 2"),
            ("PROXY TCP4  5.6 1 2\r\n", "21  1 5.6 2"),
            ("PROXY UNKNOWN\r\n", "15 nobody"),
            ("PROXY UNKNOWN ffff::1 x y\r\nGET", "27 nobody"),
            ("PROXY UNKNOWNX\r\n", "16 nobody"),
        ] {
            assert_eq!(words(line.as_bytes()), want, "{line:?}");
        }
        for bad in [
            "",
            "PROXY",
            "GET / HTTP/1.0",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 22",
            "PROXY TCP4 1.2.3.4 x 11 22",
            "PROXY TCP4 1.2.3.4 5.6.7.8  22",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 99999",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2",
            "PROXY TCP5 1.2.3.4 5.6.7.8 1 2",
            "PROXY UNKNOWN",
        ] {
            assert_eq!(words(format!("{bad}\nx").as_bytes()), format!("broken header: \"{bad}\""));
        }
    }

    #[test]
    fn binary_headers_as_nginx_takes_them() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 0, 22];
        assert_eq!(words(&v2(0x21, 0x11, &v4)), "28 1.2.3.4 11 5.6.7.8 22");
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        assert_eq!(words(&v2(0x21, 0x21, &v6)), "52 ::1 3 ::2 4");
        let nobody = [(0x20, 0x11), (0x20, 0), (0x21, 0), (0x21, 0x12), (0x21, 0x31), (0x2f, 0x11)];
        for (command, family) in nobody {
            assert_eq!(words(&v2(command, family, &v4)), "28 nobody", "{command:x} {family:x}");
        }
        assert_eq!(words(&v2(0x11, 0x11, &v4)), "unknown PROXY protocol version: 1");
        assert_eq!(read(&v2(0x21, 0x11, &v4[..11])), Err(Error::Short));
        let whole = v2(0x21, 0x11, &v4);
        assert_eq!(read(&whole[..whole.len() - 1]), Err(Error::TooLarge));
        assert_eq!(words(&whole[..FIXED - 1]), "broken header: \"\"");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            start in proptest::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 1.2.3.4 ", SIGNATURE]),
            rest: Vec<u8>,
        ) {
            let bytes = [start, &rest].concat();
            if let Ok((used, header)) = read(&bytes) {
                proptest::prop_assert!(used <= bytes.len());
                // What comes after the header is not part of what it says.
                proptest::prop_assert_eq!(read(&bytes[..used]), Ok((used, header.clone())));
                for name in ["alpn", "ssl_cn", "ssl_verify", "0x1", "ssl_0xff", "0x", ""] {
                    let _ = header.as_ref().map(|h| h.tlv(name, &mut Vec::new()));
                }
            }
        }

        #[test]
        fn addresses_of_both_versions_read_back(a: u32, b: u128, from: u16, to: u16) {
            let (v4, v6) = (std::net::Ipv4Addr::from(a), std::net::Ipv6Addr::from(b));
            let line = format!("PROXY TCP6 {v6} {v4} {from} {to}\r\n");
            let want = format!("{v6} {from} {v4} {to}");
            proptest::prop_assert_eq!(words(line.as_bytes()), format!("{} {want}", line.len()));
            let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
            let body = [&v4.octets()[..], &v4.octets(), &ports].concat();
            proptest::prop_assert_eq!(words(&v2(0x21, 0x11, &body)), format!("28 {v4} {from} {v4} {to}"));
            let body = [&v6.octets()[..], &v6.octets(), &ports].concat();
            proptest::prop_assert_eq!(words(&v2(0x21, 0x21, &body)), format!("52 {v6} {from} {v6} {to}"));
        }
    }
}
