//! Fits a configuration to a test: its addresses become the test's own, its syntax that of the nginx at hand.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use regex::{Captures, Regex};

use super::address;

/// The substitutions made in one server's configuration; the same for each text it is given, so a reload keeps its ports.
pub struct Fitting {
    /// The address that stands for every address of a `listen`.
    pub ip: Ipv4Addr,
    /// For each port the text names, the port that is listened on.
    pub ports: BTreeMap<u16, u16>,
    /// Replaced literally, in this order.
    pub swaps: Vec<(String, String)>,
}

impl Fitting {
    /// A fitting on an address of its own.
    pub fn new(swaps: Vec<(String, String)>) -> Self {
        Self { ip: address::fresh(), ports: BTreeMap::new(), swaps }
    }

    /// `text` with `{prefix}` and the swaps replaced and every `listen` moved to this fitting's address.
    ///
    /// `listen unix:…` stays as it is, an IPv6 address becomes [::1].
    pub fn apply(&mut self, text: &str, prefix: &Path) -> String {
        let mut text = text.replace("{prefix}", prefix.to_str().unwrap());
        for (from, to) in &self.swaps {
            assert!(text.contains(from.as_str()), "nothing to swap: {from}");
            text = text.replace(from.as_str(), to);
        }
        self.move_listens(&text)
    }

    fn move_listens(&mut self, text: &str) -> String {
        let listen = Regex::new(r"(?m)^(?<indent>[^#\n]*?\blisten\s+)(?<address>[^\s;]+)").unwrap();
        let parsed: Vec<_> = listen
            .captures_iter(text)
            .filter_map(|found| port_of(&found["address"]))
            .filter(|port| !self.ports.contains_key(port))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let free = address::free_ports(self.ip.into(), parsed.len());
        self.ports.extend(parsed.into_iter().zip(free));
        let moved = listen.replace_all(text, |found: &Captures| {
            let address = &found["address"];
            let Some(port) = port_of(address) else {
                return found[0].to_string();
            };
            let port = self.ports[&port];
            match address.starts_with('[') {
                true => format!("{}[::1]:{port}", &found["indent"]),
                false => format!("{}{}:{port}", &found["indent"], self.ip),
            }
        });
        moved.into_owned()
    }
}

/// The port in the address of a `listen`; none for a unix socket.
fn port_of(address: &str) -> Option<u16> {
    if address.starts_with("unix:") {
        return None;
    }
    let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
    Some(port.parse().unwrap_or(80))
}

/// `text` with its access log below the prefix, where by default it is outside.
pub fn with_log_inside(text: &str, prefix: &Path) -> String {
    let before_servers = text.split("server {").next().unwrap_or_default();
    if before_servers.contains("access_log") {
        return text.into();
    }
    let log = format!(" access_log {}/logs/access.log;", prefix.display());
    at_start_of_http(text, &log)
}

/// `text` for nginx 1.22, which has no `http2 on` and keeps its temporary files outside the prefix.
pub fn for_old_nginx(text: &str, prefix: &Path) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!(" {kind}_temp_path {}/tmp/{kind};", prefix.display()))
        .concat();
    at_start_of_http(&http2_as_parameter(text), &temporary)
}

/// Puts directives on the line that opens `http`, so that no line gets another number.
fn at_start_of_http(text: &str, directives: &str) -> String {
    Regex::new(r"(?m)^\s*http\s*\{")
        .unwrap()
        .replace(text, |found: &Captures| format!("{}{directives}", &found[0]))
        .into_owned()
}

/// Turns `http2 on;` into the `http2` parameter of the nearest `listen … ssl` before it.
fn http2_as_parameter(text: &str) -> String {
    let listen = Regex::new(r"listen\s[^;]*\bssl\b[^;]*").unwrap();
    let mut text = text.to_string();
    while let Some(at) = text.find("http2 on;") {
        text.replace_range(at..at + "http2 on;".len(), "");
        let before = listen.find_iter(&text[..at]).last();
        let end = before.expect("a listen with ssl before http2 on").end();
        text.insert_str(end, " http2");
    }
    text
}
