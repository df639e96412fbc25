//! Whose address a `geo` block looks at: the client's, a variable's, the one a proxy forwards.

use crate::conf::cidr::{Cidr, address, address_with_port};
use crate::http::request::Request;
use crate::http::vars::VarId;
use std::net::IpAddr;

/// Where the address comes from.
pub struct Source {
    /// A variable in place of the client's address.
    variable: Option<VarId>,
    /// Whose `X-Forwarded-For` is believed.
    pub proxies: Vec<Cidr>,
    /// Whether an address that a proxy forwards may be a proxy too.
    pub recursive: bool,
}

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

impl Source {
    /// The client's address, or a variable's.
    pub fn new(variable: Option<VarId>) -> Source {
        Source { variable, proxies: Vec::new(), recursive: false }
    }

    /// The address; `None` when there is none, as with a unix socket.
    pub fn address(&self, rq: &Request) -> Option<IpAddr> {
        let found = match self.variable {
            None => rq.conn.peer.ip(),
            Some(id) => {
                let value = rq.variable_value(id)?;
                address(std::str::from_utf8(&value).ok()?)
            }
        }?;
        if self.proxies.is_empty() {
            return Some(found);
        }
        let fields: Vec<&[u8]> = rq.head.all("x-forwarded-for").collect();
        Some(self.behind(found, &fields))
    }

    /// The address behind `ip`, by the forwarding fields, the last first (ngx_http_get_forwarded_addr).
    fn behind(&self, mut ip: IpAddr, fields: &[&[u8]]) -> IpAddr {
        for field in fields.iter().rev() {
            let followed = self.follow(&mut ip, field);
            if !self.recursive || followed != Followed::ToItsBegin {
                break;
            }
        }
        ip
    }

    /// Follows a list of addresses from its end, as long as each is of a trusted proxy.
    fn follow(&self, ip: &mut IpAddr, list: &[u8]) -> Followed {
        let mut list = list;
        let mut ended = Followed::Nowhere;
        let separates = |b: &u8| matches!(b, b' ' | b',');
        loop {
            if !self.proxies.iter().any(|proxy| proxy.contains(*ip)) {
                return ended;
            }
            let end = list.iter().rposition(|b| !separates(b)).map_or(0, |last| last + 1);
            let start = list[..end].iter().rposition(separates).map_or(0, |at| at + 1);
            let Some(forwarded) = address_with_port(&list[start..end]) else { return ended };
            *ip = forwarded;
            if start == 0 || !self.recursive {
                return Followed::ToItsBegin;
            }
            list = &list[..start - 1];
            ended = Followed::Somewhere;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::cidr;

    fn behind(recursive: bool, ip: &str, fields: &[&str]) -> String {
        let proxies = ["10.0.0.0/8", "::1"].map(|net| cidr::parse(net).unwrap().cidr).to_vec();
        let source = Source { variable: None, proxies, recursive };
        let fields: Vec<&[u8]> = fields.iter().map(|f| f.as_bytes()).collect();
        source.behind(ip.parse().unwrap(), &fields).to_string()
    }

    #[test]
    fn the_last_address_of_a_proxys_field_counts() {
        assert_eq!(behind(false, "10.0.0.1", &["1.1.1.1, 2.2.2.2"]), "2.2.2.2");
        assert_eq!(behind(false, "10.0.0.1", &["1.1.1.1, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(behind(false, "10.0.0.1", &["1.1.1.1", "3.3.3.3:80 , "]), "3.3.3.3");
        assert_eq!(behind(false, "::1", &["2001:db8::1"]), "2001:db8::1");
    }

    #[test]
    fn nobody_else_is_believed() {
        assert_eq!(behind(true, "11.0.0.1", &["1.1.1.1"]), "11.0.0.1");
        assert_eq!(behind(true, "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(behind(true, "10.0.0.1", &["unknown"]), "10.0.0.1");
    }

    #[test]
    fn a_chain_is_followed_to_the_first_who_is_no_proxy() {
        assert_eq!(behind(true, "10.0.0.1", &["1.1.1.1, 2.2.2.2, 10.0.0.2"]), "2.2.2.2");
        assert_eq!(behind(true, "10.0.0.1", &["1.1.1.1, 10.0.0.3", "10.0.0.2"]), "1.1.1.1");
        assert_eq!(behind(true, "10.0.0.1", &["1.1.1.1", "2.2.2.2"]), "2.2.2.2");
        assert_eq!(behind(true, "10.0.0.1", &["x, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(behind(true, "10.0.0.1", &["10.0.0.3,10.0.0.2"]), "10.0.0.3");
    }
}
