//! The networks of a `geo` block while it is read.

use super::Value;
use super::intervals::Intervals;
use crate::conf::cidr::{Cidr, mask4, mask6};
use std::collections::HashMap;

/// Networks by address and bits.
#[derive(Default)]
pub struct Networks {
    v4: HashMap<(u32, u8), Value>,
    v6: HashMap<(u128, u8), Value>,
}

impl Networks {
    /// Adds a network; returns the value it had.
    pub fn insert(&mut self, network: Cidr, value: Value) -> Option<Value> {
        match network {
            Cidr::V4(net, bits) => self.v4.insert((net, bits), value),
            Cidr::V6(net, bits) => self.v6.insert((net, bits), value),
            Cidr::Unix => None,
        }
    }

    /// Removes a network; false when it is not there.
    pub fn remove(&mut self, network: Cidr) -> bool {
        match network {
            Cidr::V4(net, bits) => self.v4.remove(&(net, bits)).is_some(),
            Cidr::V6(net, bits) => self.v6.remove(&(net, bits)).is_some(),
            Cidr::Unix => false,
        }
    }

    /// The values of all addresses: those of the longest network that holds them.
    pub fn finish(self) -> (Intervals<u32>, Intervals<u128>) {
        let v4 = self.v4.into_iter().map(|((net, bits), value)| (net, net | !mask4(bits), value));
        let v6 = self.v6.into_iter().map(|((net, bits), value)| (net, net | !mask6(bits), value));
        (Intervals::nested(v4.collect(), 0), Intervals::nested(v6.collect(), 0))
    }
}
