//! Varnish: one pool of threads on the one core, entries in memory, no door for an administrator.

use std::fs;

use super::{CACHE, Peer, Ports, SERVER_CORE, free_port, pinned};
use crate::site::Site;

pub fn start(program: &str, site: &Site) -> Result<Peer, String> {
    let (name, plain) = ("varnish", free_port()?);
    let dir = site.dir();
    let vcl = dir.join("varnish.vcl");
    let (origin, segments) = (site.origin, site.segments);
    let text = format!(
        r#"vcl 4.1;
backend origin {{ .host = "127.0.0.1"; .port = "{origin}"; }}
backend segments {{ .host = "127.0.0.1"; .port = "{segments}"; }}
sub vcl_backend_fetch {{
    if (bereq.url ~ "^/segments/") {{
        set bereq.backend = segments;
    }} else {{
        set bereq.url = regsub(bereq.url, "^/cached/", "/");
    }}
}}
sub vcl_backend_response {{ set beresp.ttl = 1h; }}
"#
    );
    fs::write(&vcl, text).map_err(|e| e.to_string())?;
    let log = fs::File::create(dir.join("varnish.error")).map_err(|e| e.to_string())?;
    let mut command = pinned(program, SERVER_CORE);
    command.args(["-F", "-j", "none", "-T", "none", "-n"]).arg(dir.join("varnish"));
    command.arg("-f").arg(&vcl).arg("-a").arg(format!("127.0.0.1:{plain}"));
    command.args(["-s", &format!("malloc,{CACHE}m")]);
    // A thread for each connection that is being answered: no more are kept ready than the load has.
    for parameter in ["thread_pools=1", "thread_pool_min=100", "thread_pool_max=2000", "timeout_idle=65"] {
        command.args(["-p", parameter]);
    }
    command.stderr(log);
    Peer::spawn(name, &mut command, dir, Ports { plain, ..Ports::default() })
}
