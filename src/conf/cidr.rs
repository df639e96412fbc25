//! Networks as nginx reads them: an address, a CIDR, `unix:`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cidr {
    /// IPv4: the address masked, and the bits of the prefix.
    V4(u32, u8),
    /// IPv6: the address masked, and the bits of the prefix.
    V6(u128, u8),
    /// Every unix socket.
    Unix,
}

/// A network, and whether bits were set behind its prefix, of which nginx warns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The network.
    pub cidr: Cidr,
    /// `low address bits of … are meaningless`
    pub low_bits: bool,
}

/// Reads `address` or `address/bits` (ngx_ptocidr). 255.255.255.255 is no address here: nginx uses
/// it to say that there is none.
pub fn parse(text: &str) -> Option<Parsed> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(super::values::number(bits)?)),
        None => (text, None),
    };
    if let Some(v4) = ipv4(address) {
        let bits = bits.unwrap_or(32);
        let masked = v4 & mask4(u8::try_from(bits).ok().filter(|b| *b <= 32)?);
        return Some(Parsed { cidr: Cidr::V4(masked, bits as u8), low_bits: masked != v4 });
    }
    let v6 = u128::from(address.parse::<Ipv6Addr>().ok()?);
    let bits = bits.unwrap_or(128);
    let masked = v6 & mask6(u8::try_from(bits).ok().filter(|b| *b <= 128)?);
    Some(Parsed { cidr: Cidr::V6(masked, bits as u8), low_bits: masked != v6 })
}

/// Reads an IPv4 address, with the freedoms nginx takes (ngx_inet_addr): leading zeros are decimal,
/// an empty octet is 0. `None` for 255.255.255.255, see [`parse`].
pub fn ipv4(text: &str) -> Option<u32> {
    let (mut address, mut octets) = (0u32, 0);
    for part in text.split('.') {
        let mut octet = 0u32;
        for digit in part.bytes() {
            octet = octet * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
            if octet > 255 {
                return None;
            }
        }
        address = address << 8 | octet;
        octets += 1;
        if octets > 4 {
            return None;
        }
    }
    (octets == 4 && address != u32::MAX).then_some(address)
}

impl Cidr {
    /// The network of one address.
    pub fn of(ip: IpAddr) -> Cidr {
        match ip {
            IpAddr::V4(v4) => Cidr::V4(v4.into(), 32),
            IpAddr::V6(v6) => Cidr::V6(v6.into(), 128),
        }
    }

    /// Whether `ip` lies in it. An IPv4 address in IPv6 clothes is an IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (*self, unmapped(ip)) {
            (Cidr::V4(net, bits), IpAddr::V4(ip)) => u32::from(ip) & mask4(bits) == net,
            (Cidr::V6(net, bits), IpAddr::V6(ip)) => u128::from(ip) & mask6(bits) == net,
            _ => false,
        }
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`, any other address as it is.
pub fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// The mask of an IPv4 prefix; `bits` is at most 32.
pub fn mask4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0)
}

/// The mask of an IPv6 prefix; `bits` is at most 128.
pub fn mask6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)
}

/// Reads an address with or without a port (ngx_parse_addr_port): `1.2.3.4`, `1.2.3.4:80`, `::1`,
/// `[::1]:80`. Without one the port is 0.
pub fn address_with_port(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(ip) = address(text) {
        return Some(SocketAddr::new(ip, 0));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None => text.split_once(':')?,
    };
    let port = super::values::number(port).and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)?;
    Some(SocketAddr::new(address(host)?, port))
}

/// Reads an address (ngx_parse_addr).
pub fn address(text: &str) -> Option<IpAddr> {
    match ipv4(text) {
        Some(v4) => Some(IpAddr::V4(v4.into())),
        None => text.parse().ok().map(IpAddr::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn net(text: &str) -> Cidr {
        parse(text).unwrap().cidr
    }

    #[test]
    fn networks_as_nginx_reads_them() {
        assert_eq!(net("10.1.0.0/16"), Cidr::V4(0x0a01_0000, 16));
        assert_eq!(net("010.0.0.1"), Cidr::V4(0x0a00_0001, 32));
        assert_eq!(net("0.0.0.0/0"), Cidr::V4(0, 0));
        assert_eq!(net("::/0"), Cidr::V6(0, 0));
        assert_eq!(net("2001:db8::/32"), Cidr::V6(0x2001_0db8 << 96, 32));
        assert!(parse("10.1.2.3/16").unwrap().low_bits);
        assert!(parse("::1/64").unwrap().low_bits);
        assert!(!parse("10.1.2.3/32").unwrap().low_bits);
        for bad in ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.4/33", "::/129", "1.2.3.4/", "a", "x::"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("255.255.255.255"), None);
    }

    #[test]
    fn what_lies_in_a_network() {
        let inside = |network: &str, ip: &str| net(network).contains(ip.parse().unwrap());
        assert!(inside("10.0.0.0/8", "10.255.0.1"));
        assert!(inside("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(!inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("::/0", "::1"));
        assert!(!inside("::/0", "1.2.3.4"));
        assert!(!inside("::ffff:0:0/96", "1.2.3.4"), "nginx asks IPv4 rules only");
        assert!(inside("0.0.0.0/0", "255.255.255.255"));
    }

    #[test]
    fn addresses_with_ports() {
        let read = |text: &str| address_with_port(text.as_bytes()).map(|a| a.to_string());
        for (text, want) in [
            ("1.2.3.4:80", "1.2.3.4:80"),
            ("1.2.3.4", "1.2.3.4:0"),
            ("::1", "[::1]:0"),
            ("[::1]:443", "[::1]:443"),
            ("[1.2.3.4]:5", "1.2.3.4:5"),
        ] {
            assert_eq!(read(text).as_deref(), Some(want));
        }
        let bad =
            ["", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:99999", "1.2.3.4:5:6", "unknown", "[::1", "[::1]443"];
        for bad in bad.into_iter().chain(["[::1]", "[::1]:", "255.255.255.255", "fe80::1%lo"]) {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_address_reads_back(v4: u32, v6: u128, bits in 0u8..=32) {
            if v4 != u32::MAX {
                proptest::prop_assert_eq!(ipv4(&Ipv4Addr::from(v4).to_string()), Some(v4));
                let parsed = parse(&format!("{}/{bits}", Ipv4Addr::from(v4))).unwrap();
                proptest::prop_assert!(parsed.cidr.contains(IpAddr::V4(v4.into())));
            }
            let text = Ipv6Addr::from(v6).to_string();
            proptest::prop_assert_eq!(parse(&text).unwrap().cidr, Cidr::V6(v6, 128));
        }

        #[test]
        fn nothing_panics(text in ".{0,30}") {
            let _ = (parse(&text), address_with_port(text.as_bytes()));
        }
    }
}
