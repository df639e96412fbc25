//! What can be told of an answer's way through the cache, beside [`super::CacheStatus`].

use super::freshness::Refusal;
use std::time::Duration;
use tokio::time::Instant;

/// Where an answer's body comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Tier {
    /// The upstream, for this request alone.
    #[default]
    Origin,
    /// The upstream, through an entry that grows and that others read too.
    Fill,
    Memory,
    Disk,
}

impl Tier {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Origin => "origin",
            Tier::Fill => "fill",
            Tier::Memory => "memory",
            Tier::Disk => "disk",
        }
    }
}

/// Where an answer comes from and how old it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Where its body comes from.
    pub tier: Tier,
    /// Stale from then on; `None` where it is not kept.
    pub fresh_until: Option<Instant>,
    /// When its head was received or last confirmed: milliseconds since 1970; 0 where it is not known.
    pub received: u64,
    /// How old it was by then.
    pub initial_age: Duration,
    /// How many read the fill when this one began to, itself included; 0 where there is none.
    pub readers: u32,
    /// Why it is not kept, where the answer itself was the reason.
    pub refusal: Option<Refusal>,
}
