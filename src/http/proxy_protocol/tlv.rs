//! The additional fields of version 2: type, length, value.

use super::Header;

/// Types by the names they have in variables.
const TYPES: [(&str, u8); 5] =
    [("alpn", 0x01), ("authority", 0x02), ("unique_id", 0x05), ("ssl", SSL), ("netns", 0x30)];
/// Types within that of TLS, likewise.
const SSL_TYPES: [(&str, u8); 5] =
    [("version", 0x21), ("cn", 0x22), ("cipher", 0x23), ("sig_alg", 0x24), ("key_alg", 0x25)];

/// What is known of the client's TLS session with the balancer: flags, the result of the verification
/// of its certificate (0 is success), and more fields.
const SSL: u8 = 0x20;
/// Bytes of flags and result.
const SSL_FIXED: usize = 5;

/// Why a field has no value. Displays as nginx logs it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name is none that is known.
    #[error("unknown PROXY protocol TLV \"{0}\"")]
    Unknown(String),
    /// The name's type is no number in hexadecimal digits.
    #[error("invalid PROXY protocol TLV \"{0}\"")]
    Invalid(String),
    /// A field ends behind the header, or is too short for its type.
    #[error("broken PROXY protocol TLV")]
    Broken,
}

impl Header {
    /// Appends the value of a field by its name (`alpn`, `ssl_cn`, `ssl_verify`) or its type in
    /// hexadecimal (`0x01`, `ssl_0x22`); false when the header does not have it.
    pub fn tlv(&self, name: &str, out: &mut Vec<u8>) -> Result<bool, Error> {
        let (fields, short, types) = match name.strip_prefix("ssl_") {
            None => (&self.tlvs[..], name, TYPES),
            Some(short) => {
                let Some(ssl) = find(&self.tlvs, SSL)? else { return Ok(false) };
                let (fixed, fields) = ssl.split_at_checked(SSL_FIXED).ok_or(Error::Broken)?;
                if short == "verify" {
                    let result = u32::from_be_bytes([fixed[1], fixed[2], fixed[3], fixed[4]]);
                    return Ok(crate::modules::core::variables::number(out, result.into()));
                }
                (fields, short, SSL_TYPES)
            }
        };
        let kind = match short.strip_prefix("0x") {
            Some(digits) => {
                let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
                match u64::from_str_radix(digits, 16) {
                    // Such a type is a number and the type of no field.
                    Ok(n) if hex && n > u64::from(u8::MAX) => return Ok(false),
                    Ok(n) if hex => n as u8,
                    _ => return Err(Error::Invalid(name.to_string())),
                }
            }
            None => match types.iter().find(|(known, _)| *known == short) {
                Some((_, kind)) => *kind,
                None => return Err(Error::Unknown(name.to_string())),
            },
        };
        Ok(find(fields, kind)?.is_some_and(|value| {
            out.extend_from_slice(value);
            true
        }))
    }
}

/// The value of the first field of a type.
fn find(mut fields: &[u8], kind: u8) -> Result<Option<&[u8]>, Error> {
    while !fields.is_empty() {
        let (head, rest) = fields.split_at_checked(3).ok_or(Error::Broken)?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(Error::Broken)?;
        if head[0] == kind {
            return Ok(Some(value));
        }
        fields = rest;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::{read, tests::v2};
    use super::*;

    fn field(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    fn header(tlvs: &[u8]) -> Header {
        let bytes = v2(0x21, 0x11, &[&[0; 12], tlvs].concat());
        read(&bytes).unwrap().1.unwrap()
    }

    fn value(header: &Header, name: &str) -> Result<Option<String>, Error> {
        let mut out = Vec::new();
        Ok(header.tlv(name, &mut out)?.then(|| String::from_utf8(out).unwrap()))
    }

    #[test]
    fn fields_by_name_and_by_type() {
        let inner = [field(0x21, b"TLSv1.3"), field(0x22, b"client.example"), field(0x25, b"RSA")].concat();
        let ssl = field(SSL, &[&[1, 0, 0, 0, 21][..], &inner].concat());
        let h = header(&[field(1, b"h2"), field(2, b"a.example"), field(0xea, b"vpce"), ssl].concat());
        for (name, want) in [
            ("alpn", Some("h2")),
            ("authority", Some("a.example")),
            ("unique_id", None),
            ("0xea", Some("vpce")),
            ("0x02", Some("a.example")),
            ("0x1ea", None),
            ("ssl_version", Some("TLSv1.3")),
            ("ssl_cn", Some("client.example")),
            ("ssl_key_alg", Some("RSA")),
            ("ssl_cipher", None),
            ("ssl_0x22", Some("client.example")),
            ("ssl_verify", Some("21")),
        ] {
            assert_eq!(value(&h, name), Ok(want.map(String::from)), "{name}");
        }
        let error = |name: &str| value(&h, name).unwrap_err().to_string();
        assert_eq!(error("nonsense"), "unknown PROXY protocol TLV \"nonsense\"");
        assert_eq!(error("ssl_nonsense"), "unknown PROXY protocol TLV \"ssl_nonsense\"");
        assert_eq!(error("0x+5"), "invalid PROXY protocol TLV \"0x+5\"");
        assert_eq!(error("0xg"), "invalid PROXY protocol TLV \"0xg\"");
    }

    #[test]
    fn fields_that_are_broken() {
        assert_eq!(value(&header(&[1, 0, 3, b'h', b'2']), "alpn"), Err(Error::Broken));
        assert_eq!(value(&header(&[1, 0]), "alpn"), Err(Error::Broken));
        assert_eq!(value(&header(&field(SSL, &[0; 4])), "ssl_verify"), Err(Error::Broken));
        assert_eq!(value(&header(&[]), "ssl_verify"), Ok(None));
    }
}
