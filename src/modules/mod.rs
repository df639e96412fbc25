//! The modules, one file each, and the one line by which each is registered.
//!
//! A module declares its directives ([`Command`]), its variables ([`Variable`]), its configuration
//! (a struct made by [`crate::settings`]), and its handlers ([`Handler`]). The lists here are all
//! that joins them.

use crate::conf::{Builder, Command, ConfResult, Inherit};
use crate::http::filters::Filter;
use crate::http::phases::Handler;
use crate::http::vars::Variable;

pub mod access;
pub mod addition;
pub mod auth_basic;
pub mod auth_request;
pub mod autoindex;
pub mod brotli;
pub mod browser;
pub mod charset;
pub mod compress;
pub mod core;
pub mod dav;
pub mod empty_gif;
pub mod events;
pub mod flv;
pub mod geo;
pub mod gunzip;
pub mod gzip;
pub mod headers;
pub mod hit_path;
pub mod hls;
pub mod http2;
pub mod index;
pub mod limit_conn;
pub mod limit_req;
pub mod limit_zone;
pub mod load_module;
pub mod log;
pub mod map;
pub mod media_types;
pub mod mirror;
pub mod mp4;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod proxy_cache;
pub mod random_index;
pub mod realip;
pub mod referer;
pub mod resolver;
pub mod rewrite;
pub mod secure_link;
pub mod slice;
pub mod split_clients;
pub mod ssi;
pub mod ssl;
pub mod static_files;
pub mod stub_status;
pub mod sub;
pub mod try_files;
pub mod upstream;
pub mod userid;
pub mod zstd;

/// Every module's directives.
pub const TABLES: &[&[Command]] = &[
    access::COMMANDS,
    addition::COMMANDS,
    auth_basic::COMMANDS,
    auth_request::COMMANDS,
    autoindex::COMMANDS,
    browser::COMMANDS,
    brotli::COMMANDS,
    charset::COMMANDS,
    core::COMMANDS,
    empty_gif::COMMANDS,
    dav::COMMANDS,
    events::COMMANDS,
    flv::COMMANDS,
    geo::COMMANDS,
    gunzip::COMMANDS,
    gzip::COMMANDS,
    headers::COMMANDS,
    hit_path::COMMANDS,
    hls::COMMANDS,
    http2::COMMANDS,
    index::COMMANDS,
    limit_conn::COMMANDS,
    limit_req::COMMANDS,
    load_module::COMMANDS,
    log::COMMANDS,
    map::COMMANDS,
    mp4::COMMANDS,
    mirror::COMMANDS,
    process::COMMANDS,
    prometheus::COMMANDS,
    proxy::COMMANDS,
    proxy::tls::COMMANDS,
    proxy::cookies::COMMANDS,
    proxy::store::COMMANDS,
    proxy_cache::COMMANDS,
    random_index::COMMANDS,
    realip::COMMANDS,
    referer::COMMANDS,
    resolver::COMMANDS,
    rewrite::COMMANDS,
    secure_link::COMMANDS,
    slice::COMMANDS,
    split_clients::COMMANDS,
    ssi::COMMANDS,
    ssl::COMMANDS,
    static_files::COMMANDS,
    stub_status::COMMANDS,
    sub::COMMANDS,
    try_files::COMMANDS,
    upstream::COMMANDS,
    userid::COMMANDS,
    zstd::COMMANDS,
];

/// Every module's variables.
pub const VARIABLES: &[&[Variable]] = &[
    browser::VARIABLES,
    brotli::VARIABLES,
    core::VARIABLES,
    gzip::VARIABLES,
    headers::VARIABLES,
    hls::VARIABLES,
    limit_conn::VARIABLES,
    limit_req::VARIABLES,
    log::VARIABLES,
    proxy::VARIABLES,
    proxy_cache::VARIABLES,
    realip::VARIABLES,
    referer::VARIABLES,
    secure_link::VARIABLES,
    slice::VARIABLES,
    ssi::VARIABLES,
    ssl::VARIABLES,
    stub_status::VARIABLES,
    upstream::VARIABLES,
    userid::VARIABLES,
    zstd::VARIABLES,
];

/// Every module's handlers. Within a phase they run in this order, which is nginx's.
pub const PHASES: &[Handler] = &[
    realip::POST_READ,
    realip::PREACCESS,
    limit_req::HANDLER,
    limit_conn::HANDLER,
    access::HANDLER,
    auth_basic::HANDLER,
    auth_request::HANDLER,
    try_files::HANDLER,
    mirror::HANDLER,
    random_index::HANDLER,
    index::HANDLER,
    autoindex::HANDLER,
    dav::HANDLER,
    static_files::HANDLER,
];

/// Every module's filters of responses, in the order in which nginx's run. What concerns the whole
/// of a response stays with the engine: not-modified before them, ranges after them.
pub const FILTERS: &[Filter] = &[
    headers::FILTER,
    proxy_cache::FILTER,
    userid::FILTER,
    gunzip::FILTER,
    sub::FILTER,
    charset::FILTER,
    ssi::FILTER,
    addition::FILTER,
    zstd::FILTER,
    brotli::FILTER,
    gzip::FILTER,
];

/// What modules have to do once everything is inherited.
pub const FINISH: &[fn(&mut Builder) -> ConfResult<()>] = &[
    charset::finish,
    core::finish,
    log::finish,
    ssl::finish,
    static_files::finish,
    upstream::finish,
    proxy::finish,
    proxy_cache::finish,
];

/// The modules' configuration of the top level.
pub type MainConf = process::Conf;

/// Declares a struct of the modules' configurations that inherits field by field.
macro_rules! gather {
    ($(#[$meta:meta])* $name:ident { $( $field:ident : $t:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Default)]
        #[allow(missing_docs)]
        pub struct $name { $( pub $field: $t, )* }
        impl Inherit for $name {
            fn inherit(&mut self, outer: &Self) { $( self.$field.inherit(&outer.$field); )* }
            fn dump(&self, default: &Self, name: &str, out: &mut crate::conf::dump::Dump) {
                $(
                    let field = out.join(name, stringify!($field));
                    self.$field.dump(&default.$field, &field, out);
                )*
            }
        }
    };
}

gather! {
    /// The modules' configuration of a level.
    LocConf {
        access: access::Conf,
        addition: addition::Conf,
        auth_basic: auth_basic::Conf,
        auth_request: auth_request::Conf,
        autoindex: autoindex::Conf,
        browser: browser::Conf,
        brotli: brotli::Conf,
        charset: charset::Conf,
        core: core::Loc,
        gunzip: gunzip::Conf,
        dav: dav::Conf,
        gzip: gzip::Conf,
        headers: headers::Conf,
        hit_path: hit_path::Conf,
        hls: hls::Conf,
        index: index::Conf,
        limit_conn: limit_conn::Conf,
        limit_req: limit_req::Conf,
        log: log::Conf,
        mp4: mp4::Conf,
        mirror: mirror::Conf,
        proxy: proxy::Conf,
        proxy_cache: proxy_cache::Conf,
        random_index: random_index::Conf,
        realip: realip::Conf,
        referer: referer::Conf,
        resolver: resolver::Conf,
        rewrite: rewrite::Conf,
        secure_link: secure_link::Conf,
        slice: slice::Conf,
        ssi: ssi::Conf,
        static_files: static_files::Conf,
        sub: sub::Conf,
        try_files: try_files::Conf,
        userid: userid::Conf,
        zstd: zstd::Conf,
    }
}

gather! {
    /// The modules' configuration of a server.
    SrvConf {
        core: core::Srv,
        http2: http2::Conf,
        ssl: ssl::Conf,
    }
}

/// The modules' configuration of the whole of `http`.
#[derive(Default)]
#[allow(missing_docs)]
pub struct HttpConf {
    pub charset: charset::Http,
    pub limit_conn: limit_conn::Zones,
    pub limit_req: limit_req::Zones,
    pub log: log::Http,
    pub names: limit_zone::names::Names,
    pub proxy_cache: proxy_cache::Http,
    pub upstream: upstream::Http,
}

/// Declares what modules keep over reloads, and what they make of it for a generation.
macro_rules! lasting {
    ($( $module:ident ),* $(,)?) => {
        /// What outlives a reload: zones, caches, logs, the health of upstreams.
        #[derive(Default)]
        #[allow(missing_docs)]
        pub struct Shared { $( pub $module: $module::Shared, )* }

        /// What a generation uses: its configuration joined with what outlives it.
        #[derive(Default)]
        #[allow(missing_docs)]
        pub struct Runtime { $( pub $module: $module::Runtime, )* }

        impl Runtime {
            /// Joins a configuration with what outlives it. Changes nothing when it fails.
            pub fn build(http: &crate::conf::build::Http, shared: &Shared) -> ConfResult<Runtime> {
                Ok(Runtime { $( $module: $module::Runtime::build(http, &shared.$module)?, )* })
            }
        }
    };
}

lasting! { limit_conn, limit_req, log, proxy_cache, upstream }

/// What modules report to Prometheus.
pub const METRICS: &[fn(&crate::edge::Edge, &mut crate::observe::families::Families)] = &[
    hls::metrics,
    limit_conn::metrics,
    limit_req::metrics,
    proxy::store::metrics,
    proxy_cache::metrics,
    upstream::metrics,
];
