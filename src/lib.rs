//! Edgewater: an edge server for live-streaming sites that reads nginx.conf and stands where nginx
//! stood.
//!
//! A map of the house:
//!
//! * [`conf`] is the language: text to directives to a typed, inherited configuration.
//! * [`edge`] is the process: the control thread, the workers, listeners, generations, signals.
//! * [`tls`] is certificates, names, sessions.
//! * [`http`] is requests: heads, bodies, variables, the router, the phases, the connection loops.
//! * [`modules`] has one file (or folder) for each nginx module: its directives, its configuration,
//!   what it does, its tests.
//! * [`cache`] is what is kept in memory: responses and files.
//! * [`upstream`] is the other side: groups, peers, balancing, connections, the exchange.
//! * [`observe`] is logs, metrics, status pages.
//! * [`demo`] is the embedded site behind `make demo`.
//! * [`cli`] is the command line.

pub mod cache;
pub mod cli;
pub mod conf;
pub mod demo;
pub mod edge;
pub mod http;
pub mod modules;
pub mod observe;
pub mod tls;
pub mod upstream;
