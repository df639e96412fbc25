//! HAProxy: proxied answers, and its cache of small objects.

use std::fs;

use super::{Peer, Ports, SERVER_CORE, free_port, pinned};
use crate::site::Site;

pub fn start(program: &str, site: &Site) -> Result<Peer, String> {
    let ports = Ports { plain: free_port()?, tls: free_port()?, ..Ports::default() };
    let dir = site.dir();
    // It wants certificate and key in one file.
    let pem = ["p-256.pem", "p-256.key"].map(|name| fs::read_to_string(dir.join(name)));
    let [certificate, key] = pem.map(|text| text.map_err(|e| e.to_string()));
    fs::write(dir.join("haproxy.pem"), certificate? + &key?).map_err(|e| e.to_string())?;
    let (dir_text, plain, tls, origin) = (dir.display(), ports.plain, ports.tls, site.origin);
    let text = format!(
        r"global
    nbthread 1
    maxconn 4096
    ssl-default-bind-options ssl-min-ver TLSv1.3
cache small
    total-max-size 16
    max-object-size 10000
    max-age 3600
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 65s
    timeout server 65s
frontend all
    bind 127.0.0.1:{plain} backlog 4096
    bind 127.0.0.1:{tls} backlog 4096 ssl crt {dir_text}/haproxy.pem alpn h2,http/1.1
    use_backend cached if {{ path_beg /cached/ }}
    default_backend proxied
backend cached
    http-request cache-use small
    http-response cache-store small
    http-request replace-path /cached(/.*) \1
    server origin 127.0.0.1:{origin}
backend proxied
    http-request replace-path /proxied(/.*) \1
    server origin 127.0.0.1:{origin}
"
    );
    let path = dir.join("haproxy.cfg");
    fs::write(&path, text).map_err(|e| e.to_string())?;
    let mut command = pinned(program, SERVER_CORE);
    command.arg("-db").arg("-f").arg(&path);
    command.stderr(fs::File::create(dir.join("haproxy.error")).map_err(|e| e.to_string())?);
    Peer::spawn("haproxy", &mut command, dir, ports)
}
