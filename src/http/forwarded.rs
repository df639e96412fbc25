//! The address that trusted proxies forward (ngx_http_get_forwarded_addr).

use super::request::Address;
use crate::conf::cidr::{Cidr, address_with_port};

/// What following a header came to.
#[derive(Debug, PartialEq, Eq)]
enum Followed {
    /// To its first address; the header before it may say more.
    ToItsBegin,
    /// To an address that is the one.
    Somewhere,
    /// Nowhere.
    Nowhere,
}

/// The address behind `from` by the lists of addresses in `fields`, the last first; `None` when `from`
/// is not trusted or forwards nothing that is an address. With `recursive` a forwarded address may be
/// a proxy's too.
pub fn behind<'a>(
    from: &Address,
    trusted: &[Cidr],
    recursive: bool,
    fields: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Option<Address> {
    let mut found = None;
    for field in fields.rev() {
        let followed = follow(from, &mut found, trusted, recursive, field);
        if !recursive || followed != Followed::ToItsBegin {
            break;
        }
    }
    found
}

/// Follows a list of addresses from its end, as long as each is of a trusted proxy.
fn follow(
    from: &Address,
    found: &mut Option<Address>,
    trusted: &[Cidr],
    recursive: bool,
    mut list: &[u8],
) -> Followed {
    let mut ended = Followed::Nowhere;
    let separates = |b: &u8| matches!(b, b' ' | b',');
    loop {
        if !is_in(found.as_ref().unwrap_or(from), trusted) {
            return ended;
        }
        let end = list.iter().rposition(|b| !separates(b)).map_or(0, |last| last + 1);
        let start = list[..end].iter().rposition(separates).map_or(0, |at| at + 1);
        let Some(forwarded) = address_with_port(&list[start..end]) else { return ended };
        *found = Some(Address::Inet(forwarded));
        if start == 0 || !recursive {
            return Followed::ToItsBegin;
        }
        list = &list[..start - 1];
        ended = Followed::Somewhere;
    }
}

/// Whether an address lies in one of the networks.
pub fn is_in(address: &Address, networks: &[Cidr]) -> bool {
    networks.iter().any(|network| match (network, address) {
        (Cidr::Unix, Address::Unix(_)) => true,
        (network, Address::Inet(inet)) => network.contains(inet.ip()),
        (_, Address::Unix(_)) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::cidr;
    use std::net::SocketAddr;

    fn followed(recursive: bool, ip: &str, fields: &[&str]) -> Option<String> {
        let mut trusted = ["10.0.0.0/8", "::1"].map(|net| cidr::parse(net).unwrap().cidr).to_vec();
        trusted.push(Cidr::Unix);
        let from = match ip.parse() {
            Ok(ip) => Address::Inet(SocketAddr::new(ip, 1)),
            Err(_) => Address::Unix(ip.into()),
        };
        let found = behind(&from, &trusted, recursive, fields.iter().map(|f| f.as_bytes()));
        found.map(|a| a.ip().unwrap().to_string())
    }

    #[test]
    fn the_last_address_of_a_proxys_field_counts() {
        let last = |ip: &str, fields: &[&str]| followed(false, ip, fields).unwrap();
        assert_eq!(last("10.0.0.1", &["1.1.1.1, 2.2.2.2"]), "2.2.2.2");
        assert_eq!(last("10.0.0.1", &["1.1.1.1, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(last("10.0.0.1", &["1.1.1.1", "3.3.3.3:80 , "]), "3.3.3.3");
        assert_eq!(last("::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(last("/run/x", &["2001:db8::1"]), "2001:db8::1");
    }

    #[test]
    fn nobody_else_is_believed() {
        assert_eq!(followed(true, "11.0.0.1", &["1.1.1.1"]), None);
        assert_eq!(followed(true, "10.0.0.1", &[]), None);
        assert_eq!(followed(true, "10.0.0.1", &["unknown"]), None);
        assert_eq!(followed(false, "10.0.0.1", &[""]), None);
    }

    #[test]
    fn a_chain_is_followed_to_the_first_who_is_no_proxy() {
        let first = |fields: &[&str]| followed(true, "10.0.0.1", fields).unwrap();
        assert_eq!(first(&["1.1.1.1, 2.2.2.2, 10.0.0.2"]), "2.2.2.2");
        assert_eq!(first(&["1.1.1.1, 10.0.0.3", "10.0.0.2"]), "1.1.1.1");
        assert_eq!(first(&["1.1.1.1", "2.2.2.2"]), "2.2.2.2");
        assert_eq!(first(&["x, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(first(&["10.0.0.3,10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn a_forwarded_port_is_kept() {
        let from = Address::Inet(SocketAddr::from(([10, 0, 0, 1], 1)));
        let trusted = [cidr::parse("10.0.0.0/8").unwrap().cidr];
        let port = |text: &'static str| match behind(&from, &trusted, false, std::iter::once(text.as_bytes()))
        {
            Some(Address::Inet(inet)) => inet.port(),
            other => panic!("{other:?}"),
        };
        assert_eq!((port("1.1.1.1:99"), port("[::2]:98"), port("1.1.1.1")), (99, 98, 0));
    }
}
