//! End-to-end tests: the server as a process, real clients before it, stand-ins for the origins behind it.
// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod acceptance_hls;
mod acceptance_nextjs;
mod acceptance_rooms;
mod acceptance_shop;
mod acceptance_signal;
mod authority;
mod cache_crash;
mod cache_debug;
mod cache_disk;
mod cache_fills;
mod cache_memory;
mod cache_purge;
mod caching_page;
mod client_certificates;
mod command_line;
mod compression;
mod config_errors;
mod docker;
mod entrypoint;
mod files_replaced;
mod hls_cache;
mod http2;
mod live;
mod measured;
mod mirror;
mod odd_upstreams;
mod passwords;
mod reload;
mod resets;
mod resolve;
mod signals;
mod stored;
mod tls_sessions;
mod upstream_tls;
mod user;
