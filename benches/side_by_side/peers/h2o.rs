//! h2o: static files.

use std::fs;

use super::{Peer, Ports, SERVER_CORE, free_port, pinned};
use crate::site::Site;

pub fn start(program: &str, site: &Site) -> Result<Peer, String> {
    let ports = Ports { plain: free_port()?, tls: free_port()?, ..Ports::default() };
    let dir = site.dir();
    let (dir_text, plain, tls) = (dir.display(), ports.plain, ports.tls);
    let user = if rustix::process::geteuid().is_root() { "user: root\n" } else { "" };
    let text = format!(
        r#"{user}num-threads: 1
max-connections: 4096
http1-request-timeout: 65
http2-idle-timeout: 65
listen:
  host: 127.0.0.1
  port: {plain}
listen:
  host: 127.0.0.1
  port: {tls}
  ssl:
    certificate-file: {dir_text}/p-256.pem
    key-file: {dir_text}/p-256.key
    minimum-version: TLSv1.3
hosts:
  default:
    paths:
      "/":
        file.dir: {dir_text}/root
"#
    );
    let path = dir.join("h2o.conf");
    fs::write(&path, text).map_err(|e| e.to_string())?;
    let mut command = pinned(program, SERVER_CORE);
    command.arg("-m").arg("worker").arg("-c").arg(&path);
    command.stderr(fs::File::create(dir.join("h2o.error")).map_err(|e| e.to_string())?);
    Peer::spawn("h2o", &mut command, dir, ports)
}
