//! Why a directive of stock nginx is not supported, and what to do instead: the one place for it.
//!
//! The error for such a directive and `docs/nginx-support.md` both read it from here. A directive
//! with a [`Command`](super::Command) is supported whatever stands here.

use super::table::{self, Stock};

/// A reason that a whole module, or a directive, is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is missing, to follow `is not supported: `.
    pub why: &'static str,
    /// What an operator can do.
    pub hint: &'static str,
}

const fn missing(why: &'static str, hint: &'static str) -> Missing {
    Missing { why, hint }
}

/// Modules by the beginning of their names. The first that fits is the one.
const MODULES: &[(&str, Missing)] = &[
    (
        "ngx_stream",
        missing(
            "only HTTP is served, not plain TCP and UDP streams",
            "leave these ports to nginx, HAProxy or a firewall rule beside Edgewater",
        ),
    ),
    (
        "ngx_mail",
        missing(
            "only HTTP is served, not SMTP, IMAP and POP3",
            "leave these ports to nginx or the mail server itself",
        ),
    ),
    (
        "ngx_http_fastcgi_module",
        missing(
            "there is no FastCGI client",
            "put a server that speaks HTTP before the application (php-fpm: nginx, Caddy or FrankenPHP) and use proxy_pass",
        ),
    ),
    (
        "ngx_http_uwsgi_module",
        missing(
            "there is no uwsgi client",
            "start uWSGI with --http-socket instead of --socket and use proxy_pass",
        ),
    ),
    (
        "ngx_http_scgi_module",
        missing("there is no SCGI client", "let the application serve HTTP and use proxy_pass"),
    ),
    (
        "ngx_http_memcached_module",
        missing(
            "there is no memcached client",
            "proxy_cache with memory_cache keeps responses in memory; or read memcached in the application",
        ),
    ),
    (
        "ngx_http_grpc_module",
        missing(
            "there is no HTTP/2 towards upstreams, which gRPC needs",
            "expose the gRPC port itself, or use gRPC-Web over HTTP/1.1 with proxy_pass",
        ),
    ),
    (
        "ngx_http_tunnel_module",
        missing(
            "Edgewater is no forward proxy: CONNECT is refused",
            "use a forward proxy such as Squid for it",
        ),
    ),
    (
        "ngx_http_perl_module",
        missing(
            "no language is embedded",
            "map, set, rewrite and auth_request cover most uses; do the rest upstream",
        ),
    ),
    ("ngx_http_xslt_filter_module", missing("XML is not transformed", "transform it in the application")),
    (
        "ngx_http_image_filter_module",
        missing(
            "images are not transformed",
            "use an image server such as imgproxy behind proxy_pass and proxy_cache",
        ),
    ),
    (
        "ngx_http_geoip_module",
        missing(
            "databases of places are not read",
            "use geo { } with the networks that matter, or a header of the network in front",
        ),
    ),
    (
        "ngx_http_v3_module",
        missing("there is no HTTP/3", "take the directive and the quic listen away: clients use HTTP/2"),
    ),
    (
        "ngx_google_perftools_module",
        missing("there is no profiler built in", "use perf, or the figures of prometheus"),
    ),
    (
        "ngx_http_degradation_module",
        missing(
            "memory is not watched by this means",
            "limit_conn and the sizes of caches bound what is held",
        ),
    ),
    ("ngx_iocp_module", OTHER_SYSTEM),
    ("ngx_kqueue_module", OTHER_SYSTEM),
    ("ngx_devpoll_module", OTHER_SYSTEM),
    ("ngx_eventport_module", OTHER_SYSTEM),
];

const OTHER_SYSTEM: Missing =
    missing("it belongs to another operating system", "take it away: nothing is lost");

/// Directives of modules that are supported otherwise.
const DIRECTIVES: &[(&str, Missing)] = &[
    (
        "ssl_engine",
        missing("cryptography is built in and has no engines", "take it away, and keep the keys in files"),
    ),
    ("quic_bpf", missing("there is no HTTP/3", "take it away: nothing is lost")),
    (
        "post_action",
        missing("no request is made after another has ended", "use access_log and what reads it"),
    ),
    (
        "early_hints",
        missing(
            "responses before the final one are not passed on",
            "add_header Link does it with the response",
        ),
    ),
    ("errmsg", missing("it is a parameter of SSI's config command, no directive", "write it in the page")),
    ("timefmt", missing("it is a parameter of SSI's config command, no directive", "write it in the page")),
    ("ssl_ocsp", NO_OCSP),
    (
        "ssl_ech_file",
        missing("there is no encrypted client hello", "take it away: clients send the name in clear"),
    ),
    (
        "client_body_early_read",
        missing("a body is read when something asks for it", "take it away: nothing is lost"),
    ),
    (
        "proxy_bind",
        missing(
            "connections to upstreams leave from the address that the kernel chooses",
            "choose it with ip route",
        ),
    ),
    (
        "proxy_limit_rate",
        missing("upstreams are read as fast as they are wanted", "limit_rate bounds what each client gets"),
    ),
    ("proxy_socket_rcvbuf", SOCKET_BUFFER),
    ("proxy_socket_sndbuf", SOCKET_BUFFER),
    ("proxy_ssl_conf_command", missing("there is no OpenSSL here whose commands they are", "take it away")),
    ("ssl_ocsp_cache", NO_OCSP),
    ("ssl_ocsp_responder", NO_OCSP),
    ("least_time", missing("upstreams are not chosen by their times", "least_conn comes near to it")),
    (
        "sticky",
        missing("no cookie binds a client to an upstream", "ip_hash or hash $cookie_NAME consistent do"),
    ),
];

const SOCKET_BUFFER: Missing =
    missing("the kernel sizes buffers of sockets", "sysctl net.ipv4.tcp_rmem, tcp_wmem");
const NO_OCSP: Missing =
    missing("authorities are not asked whether a certificate is revoked", "ssl_crl reads their lists");

/// What is said of everything else.
const NOT_YET: Missing =
    missing("this version cannot do what it asks for", "docs/nginx-support.md lists what works");

/// Why `name`, as declared, is not supported.
pub fn missing_for(name: &str, declared: &Stock) -> Missing {
    of_module(declared.module)
        .or_else(|| DIRECTIVES.iter().find(|(n, _)| *n == name).map(|(_, missing)| *missing))
        .unwrap_or(NOT_YET)
}

/// Why the whole of `module` is not supported, when it is not.
pub fn of_module(module: &str) -> Option<Missing> {
    MODULES.iter().find(|(beginning, _)| module.starts_with(beginning)).map(|(_, missing)| *missing)
}

/// Whether a declaration has a setter: its name has, and it does not belong to a block that nothing reads.
pub fn is_supported(name: &str, declared: &Stock) -> bool {
    let commands = table::commands();
    let block = ["stream", "mail"].into_iter().find(|b| {
        let own = declared.module.strip_prefix("ngx_").and_then(|m| m.strip_prefix(b));
        own.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    commands.contains_key(name) && block.is_none_or(|b| commands.contains_key(b))
}

/// nginx's modules of which at least one directive works.
pub fn working_modules() -> std::collections::HashSet<&'static str> {
    let works = |name: &str| {
        table::commands().get(name).is_some_and(|c| matches!(c.support, table::Support::Works(_)))
    };
    let rows = table::stock().iter().flat_map(|(name, declared)| declared.iter().map(move |d| (*name, d)));
    rows.filter(|(name, d)| works(name) && is_supported(name, d)).map(|(_, d)| d.module).collect()
}

/// Names of modules that stock nginx does not have, and what to know about each: by the beginning of
/// the directive's name, or by the whole name where it ends with a blank.
const FOREIGN: &[(&str, &str)] = &[
    ("js_", "njs is not built in; map, set, rewrite, auth_request and secure_link cover most uses"),
    (
        "more_",
        "the headers-more module is not built in; add_header, proxy_hide_header and proxy_set_header do most of it",
    ),
    ("lua_", LUA),
    ("content_by_lua", LUA),
    ("access_by_lua", LUA),
    ("rewrite_by_lua", LUA),
    ("header_filter_by_lua", LUA),
    ("body_filter_by_lua", LUA),
    ("log_by_lua", LUA),
    ("init_by_lua", LUA),
    ("init_worker_by_lua", LUA),
    ("set_by_lua", LUA),
    ("balancer_by_lua", LUA),
    ("ssl_certificate_by_lua", LUA),
    (
        "modsecurity",
        "ModSecurity is not built in; limit_req, limit_conn, allow, deny and map refuse what is known to be bad",
    ),
    (
        "vhost_traffic_status",
        "the traffic status module is not built in; \"prometheus;\" has the same figures",
    ),
    ("rtmp ", RTMP),
    ("rtmp_", RTMP),
    ("push_stream", "the push-stream module is not built in; use a WebSocket server behind proxy_pass"),
    ("geoip2", "databases of places are not read; use geo { } with the networks that matter"),
    ("passenger", "Passenger is not built in; start the application as a server and use proxy_pass"),
    ("pagespeed", "PageSpeed is not built in"),
    ("auth_jwt", "tokens are not checked here; use auth_request with a service that checks them"),
    ("health_check ", "upstreams are watched by their answers (max_fails, fail_timeout), not by probes"),
    ("hls_buffers ", HLS),
    ("hls_forward_args ", HLS),
    ("hls_fragment ", HLS),
    ("hls_mp4_", HLS),
    ("otel_", "traces are not exported; $request_id in headers and logs joins what belongs together"),
    ("status_zone ", "\"prometheus;\" counts by server and upstream without it"),
    ("echo ", "the echo module is not built in; use return 200 \"text\""),
    ("vod", "the VOD module is not built in; serve segments as files or from a packager behind proxy_pass"),
    ("upload_", "the upload module is not built in; let the upstream take the body"),
];

const LUA: &str = "Lua is not built in; map, set, rewrite, auth_request and limit_req cover most uses";
const HLS: &str = "MP4 files are not packaged into HLS here; \"hls on;\" makes the cache heed playlists that an upstream makes";
const RTMP: &str = "RTMP is not served; keep the media server (SRS, nginx-rtmp) for it and serve its HLS or HTTP-FLV from here";

/// What to know about a directive that stock nginx does not have and a known module does.
pub fn foreign(name: &str) -> Option<&'static str> {
    FOREIGN
        .iter()
        .find(|(key, _)| key.strip_suffix(' ').map_or_else(|| name.starts_with(key), |whole| whole == name))
        .map(|(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> super::super::ConfError {
        let dir = tempfile::tempdir().unwrap();
        super::super::build::load_text(dir.path(), text).err().expect("it is not supported")
    }

    #[test]
    fn the_error_says_why_and_what_to_do() {
        let text = "events {}\nhttp {\nserver { location / {\nfastcgi_pass 127.0.0.1:9000;\n} } }";
        let error = error_of(text);
        assert_eq!(error.message, "directive \"fastcgi_pass\" is not supported: there is no FastCGI client");
        assert_eq!(error.at.unwrap().line, 4);
        assert_eq!(error.text.as_deref(), Some("fastcgi_pass 127.0.0.1:9000;"));
        assert!(error.hint.unwrap().contains("proxy_pass"));
    }

    #[test]
    fn what_works_is_not_said_to_be_missing() {
        let commands = super::super::table::commands();
        let stale: Vec<_> = DIRECTIVES.iter().filter(|(name, _)| commands.contains_key(name)).collect();
        assert!(stale.is_empty(), "{:?}", stale.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }

    #[test]
    fn a_block_of_another_protocol_is_refused_where_it_opens() {
        for (text, line) in [("events {}\nstream {\nserver { listen 1; }\n}", 2), ("mail {\n}\nevents {}", 1)]
        {
            let error = error_of(text);
            assert!(error.message.contains("only HTTP is served"), "{error}");
            assert_eq!(error.at.unwrap().line, line);
        }
    }

    #[test]
    fn a_directive_of_a_module_that_nginx_does_not_ship_is_unknown_with_a_word_on_it() {
        let error = error_of("events {}\nhttp {\njs_import a.js;\n}");
        assert_eq!(error.message, "unknown directive \"js_import\"");
        assert!(error.hint.unwrap().contains("njs"));
        assert_eq!(foreign("echo"), Some("the echo module is not built in; use return 200 \"text\""));
        assert_eq!(foreign("echoes"), None);
    }

    #[test]
    fn no_directive_is_refused_without_a_reason() {
        for (name, declared) in table::stock().iter().flat_map(|(n, all)| all.iter().map(move |d| (n, d))) {
            let told = is_supported(name, declared) || missing_for(name, declared) != NOT_YET;
            assert!(told, "{name} of {}: say why in DIRECTIVES or MODULES", declared.module);
        }
    }

    #[test]
    fn every_entry_names_something_that_exists() {
        let modules: std::collections::HashSet<_> =
            table::stock().values().flatten().map(|declared| declared.module).collect();
        for (beginning, _) in MODULES {
            assert!(modules.iter().any(|m| m.starts_with(beginning)), "{beginning} is no module");
        }
        for (name, _) in DIRECTIVES {
            assert!(table::stock().contains_key(name), "{name} is no directive");
        }
        for (key, _) in FOREIGN {
            assert!(!table::stock().contains_key(key.trim()), "{key} is nginx's own");
        }
    }
}
