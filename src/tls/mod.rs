//! TLS: certificates, protocols and suites, sessions, and the handshake.
//!
//! The ssl module reads the directives into an [`config::Offer`]; [`config::ServerTls`] is what a
//! server answers handshakes with; [`accept()`] takes a handshake, choosing the server by the name
//! that the client asks for. Tickets and session caches belong to the process: a client resumes on
//! any worker and over reloads.

mod accept;
pub mod certificates;
pub mod chain;
pub mod ciphers;
pub mod clients;
pub mod config;
pub mod crl;
pub mod groups;
mod hello;
mod key_schedule;
pub mod keys;
mod records;
pub mod sessions;
mod stream;
pub mod tickets;
mod turns;
pub mod upstream;
pub mod x509;

pub use accept::{Accepted, Client, accept};
pub use stream::TlsStream;
