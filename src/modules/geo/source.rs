//! Whose address a `geo` block looks at: the client's, a variable's, the one a proxy forwards.

use crate::conf::cidr::{Cidr, address};
use crate::http::forwarded;
use crate::http::request::{Address, Request};
use crate::http::vars::VarId;
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};

/// Where the address comes from.
pub struct Source {
    /// A variable in place of the client's address.
    variable: Option<VarId>,
    /// Whose `X-Forwarded-For` is believed.
    pub proxies: Vec<Cidr>,
    /// Whether an address that a proxy forwards may be a proxy too.
    pub recursive: bool,
}

impl Source {
    /// The client's address, or a variable's.
    pub fn new(variable: Option<VarId>) -> Source {
        Source { variable, proxies: Vec::new(), recursive: false }
    }

    /// The address; `None` when there is none, as with a unix socket.
    pub fn address(&self, rq: &Request) -> Option<IpAddr> {
        let found = match self.variable {
            None => rq.peer().ip(),
            Some(id) => {
                let value = rq.variable_value(id)?;
                address(std::str::from_utf8(&value).ok()?)
            }
        }?;
        if self.proxies.is_empty() {
            return Some(found);
        }
        let from = Address::Inet(SocketAddr::new(found, 0));
        let fields: SmallVec<[&[u8]; 4]> = rq.head.all("x-forwarded-for").collect();
        let behind = forwarded::behind(&from, &self.proxies, self.recursive, fields.iter().copied());
        behind.map_or(Some(found), |address| address.ip())
    }
}
