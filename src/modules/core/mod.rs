//! nginx's http core module: servers, locations, files' places, clients' bounds.

mod browsers;
mod listen;
mod location;
pub mod variables;

pub use variables::{VARIABLES, cookie, joined};

use crate::conf::values::{
    flag, invalid_value, number, number_arg, one_of, os_error, size, size_arg, table_size, time, time_arg,
};
use crate::conf::{Builder, Command, ConfError, ConfResult, Context, Directive, NoteLevel};
use crate::edge::privileges::Identity;
use crate::http::listens::{Listen, ServerName};
use crate::http::phases::Content;
use crate::http::router::{Gathered, Locations};
use crate::http::temp_file::TempPath;
use crate::http::template::Template;
use crate::modules::limit_zone::names::{self, Holds};
use crate::observe::error_log::{Level, Target};
use crate::settings;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

settings! {
    /// What a server has and its locations do not.
    pub struct Srv {
        /// Its `listen`s.
        own listens: Vec<Listen> = Vec::new(),
        /// Its names.
        own names: Vec<ServerName> = Vec::new(),
        /// The first name as written, for `$server_name`; wildcards and patterns included.
        own name: String = String::new(),
        /// Time for the whole head.
        inherit client_header_timeout: Duration = Duration::from_secs(60),
        /// Bytes a head may take before large buffers are used.
        inherit client_header_buffer_size: u64 = 1024,
        /// Number and bytes of the large buffers.
        inherit large_client_header_buffers: (u64, u64) = (4, 8192),
        /// Whether names of fields may have underscores.
        inherit underscores_in_headers: bool = false,
        /// Whether fields with invalid names are dropped.
        inherit ignore_invalid_headers: bool = true,
        /// Whether repeated slashes count as one.
        inherit merge_slashes: bool = true,
        /// The most fields of a head.
        inherit max_headers: u64 = 1000,
    }
}

/// Where a location's files are.
#[derive(Clone, Debug)]
pub struct Root {
    /// The directory, with variables.
    pub path: Template,
    /// Whether it stands for the prefix of its location (`alias`), and that prefix.
    pub alias: Option<Alias>,
}

/// What an `alias` stands for. It is kept with the alias: a location inside has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// So many bytes of the URI.
    Prefix(usize),
    /// The whole URI: the location is a regular expression, of which the alias takes what it needs.
    Whole,
}

/// One `error_page`.
#[derive(Clone, Debug)]
pub struct ErrorPage {
    /// The statuses it is for.
    pub statuses: Vec<u16>,
    /// `=code`; 0 is `=` alone, the status of whatever answers.
    pub overwrite: Option<u16>,
    /// What answers.
    pub target: ErrorTarget,
}

/// What answers in place of an error.
#[derive(Clone, Debug)]
pub enum ErrorTarget {
    /// An internal redirect, to a path and, behind the first question mark of the value, a query.
    Uri(Template),
    /// A named location.
    Named(Bytes),
    /// A redirect of the client.
    Url(Template),
}

settings! {
    /// What every level has.
    pub struct Loc {
        /// The location as written, without its modifier; for `alias` and `proxy_pass`.
        own name: Vec<u8> = Vec::new(),
        /// Whether the location is a regular expression.
        own is_regex: bool = false,
        /// Whether the location is a named one.
        own is_named: bool = false,
        /// Whether the location is an exact one.
        own is_exact: bool = false,
        /// The locations inside, while reading.
        own found: Gathered = Gathered::default(),
        /// The locations inside, ready to be searched.
        own locations: Arc<Locations> = Arc::new(Locations::default()),
        /// The handler that answers here.
        own content: Option<Content> = None,
        /// Whether that handler makes `/x` redirect to the location `/x/`.
        own content_redirects: bool = false,
        /// Only internal requests reach it.
        inherit internal: bool = false,
        /// `limit_except`: the methods that are free of it, and the level for the others.
        own limit_except: Option<(Arc<[String]>, usize)> = None,
        /// Where files are; nginx's default is `html`.
        inherit root: Root = Root { path: Template::literal("html"), alias: None },
        /// Types by extension.
        inherit types: Arc<HashMap<Vec<u8>, Bytes>> = standard_types(),
        /// The type of what has no known extension.
        inherit default_type: Bytes = Bytes::from_static(b"text/plain"),
        /// `error_page`s.
        inherit error_pages: Vec<ErrorPage> = Vec::new(),
        /// Whether an error in an error page has its own page.
        inherit recursive_error_pages: bool = false,
        /// Where errors of requests go.
        inherit error_logs: Vec<(Target, Level)> = Vec::new(),
        /// Bytes of a body; 0 is no bound.
        inherit client_max_body_size: u64 = 1 << 20,
        /// Bytes of a body kept in memory at once.
        inherit client_body_buffer_size: u64 = 16 << 10,
        /// Bytes of a head from which on it waits for no body.
        inherit postpone_output: u64 = 1460,
        /// Whether bodies are read into files.
        inherit client_body_in_file_only: InFileOnly = InFileOnly::Off,
        /// Where such files are.
        inherit client_body_temp_path: Arc<TempPath> = Arc::new(TempPath::default()),
        /// Time between two reads of a body.
        inherit client_body_timeout: Duration = Duration::from_secs(60),
        /// Time between two writes to a client.
        inherit send_timeout: Duration = Duration::from_secs(60),
        /// Whether a client that was too slow, or is answered 444, is shown a reset.
        inherit reset_timedout_connection: bool = false,
        /// How long an idle connection stays although the worker ends.
        inherit keepalive_min_timeout: Duration = Duration::ZERO,
        /// `keepalive_disable`
        inherit keepalive_disable: browsers::Disable = browsers::Disable::DEFAULT,
        /// How long an idle connection is kept; zero is not at all.
        inherit keepalive_timeout: Duration = Duration::from_secs(75),
        /// The `Keep-Alive` field's value in seconds, when it is to be sent.
        inherit keepalive_header: Option<u64> = None,
        /// Requests of a connection.
        inherit keepalive_requests: u64 = 1000,
        /// How long a connection may carry requests.
        inherit keepalive_time: Duration = Duration::from_secs(3600),
        /// How long a client's leftover body is read before closing.
        inherit lingering_time: Duration = Duration::from_secs(30),
        /// Time between two such reads.
        inherit lingering_timeout: Duration = Duration::from_secs(5),
        /// `lingering_close off`
        inherit lingering_close: bool = true,
        /// Whether our version is told.
        inherit server_tokens: bool = true,
        /// Whether a redirect names scheme and host.
        inherit absolute_redirect: bool = true,
        /// Whether such a redirect uses the server's name rather than the client's.
        inherit server_name_in_redirect: bool = false,
        /// Whether such a redirect names the port.
        inherit port_in_redirect: bool = true,
        /// Whether files have an ETag.
        inherit etag: bool = true,
        /// How `If-Modified-Since` is compared.
        inherit if_modified_since: IfModifiedSince = IfModifiedSince::Exact,
        /// The most ranges of a request; more are answered by the whole.
        inherit max_ranges: Option<u64> = None,
        /// Whether a missing file is logged.
        inherit log_not_found: bool = true,
        /// Whether pages are padded for browsers that hide short ones.
        inherit msie_padding: bool = true,
        /// Whether chunked responses may be sent.
        inherit chunked_transfer_encoding: bool = true,
        /// Whether one of several access checks is enough.
        inherit satisfy_any: bool = false,
        /// How long a refusal for want of credentials waits.
        inherit auth_delay: Duration = Duration::ZERO,
        /// Bytes a second of a response; 0 is no limit.
        inherit limit_rate: Option<Template> = None,
        /// Bytes before `limit_rate` begins.
        inherit limit_rate_after: Option<Template> = None,
        /// Links that are not followed.
        inherit disable_symlinks: Option<DisableSymlinks> = None,
        /// The open-file cache, if there is one.
        inherit open_file_cache: Option<Arc<crate::cache::files::FileCache>> = None,
        /// How long what it holds is believed.
        inherit open_file_cache_valid: Duration = Duration::from_secs(60),
        /// Uses before it holds a file.
        inherit open_file_cache_min_uses: u64 = 1,
        /// Whether it holds failures.
        inherit open_file_cache_errors: bool = false,
    }
}

impl Loc {
    /// What an `if` or `limit_except` has from the location around it beyond inheritance: it is the
    /// same location.
    pub fn inherit_implicit(&mut self, outer: &Loc) {
        self.name = outer.name.clone();
        self.is_regex = outer.is_regex.clone();
        self.is_named = outer.is_named.clone();
        self.is_exact = outer.is_exact.clone();
        if self.content.is_none() {
            self.content = outer.content.clone();
        }
    }
}

/// `disable_symlinks`
#[derive(Clone, Debug)]
pub struct DisableSymlinks {
    /// Whether links are followed that lead to something of the same owner.
    pub same_owner: bool,
    /// The beginning of paths in which all are followed.
    pub from: Option<Template>,
}

/// `client_body_in_file_only`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFileOnly {
    /// Only large ones.
    Off,
    /// All, and the files stay.
    On,
    /// All, and the files go with their requests.
    Clean,
}

/// `if_modified_since`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfModifiedSince {
    /// Never unmodified.
    Off,
    /// Unmodified when the times are equal.
    Exact,
    /// Unmodified when the file is no newer.
    Before,
}

const KERNEL: &str = "how bytes reach the socket is chosen by size and kind of content";
const NOT_SPOKEN: &str = "the protocol is not spoken here, so nothing is kept for it";
const TABLES: &str = "tables size themselves";
const MEMORY: &str = "memory is taken as it is needed, within bounds";

fn time0(d: &Directive) -> ConfResult<Duration> {
    time_arg(d, 0)
}

fn number0(d: &Directive) -> ConfResult<u64> {
    number_arg(d, 0)
}

fn size0(d: &Directive) -> ConfResult<u64> {
    size_arg(d, 0)
}

/// A directive of every level whose field has its name.
macro_rules! loc {
    ($name:ident, $read:expr, $doc:literal) => {
        Command::works(
            stringify!($name),
            |b, d| {
                let value = $read(d)?;
                b.loc().core.$name.set(value)
            },
            $doc,
        )
    };
}

/// A directive of servers whose field has its name.
macro_rules! srv {
    ($name:ident, $read:expr, $doc:literal) => {
        Command::works(
            stringify!($name),
            |b, d| {
                let value = $read(d)?;
                b.srv().core.$name.set(value)
            },
            $doc,
        )
    };
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("server", location::server, "a virtual server, or a server of an upstream"),
    Command::works("listen", listen::listen, "an address to listen on"),
    Command::works("server_name", location::server_name, "the names of a server"),
    Command::works("location", location::location, "a part of the URIs"),
    Command::works("limit_except", location::limit_except, "access rules for other methods"),
    Command::works("root", |b, d| root(b, d, false), "the directory of files"),
    Command::works("alias", |b, d| root(b, d, true), "the directory in place of the location's prefix"),
    Command::works("internal", internal, "only internal requests"),
    Command::works("error_page", error_page, "what answers in place of an error"),
    loc!(recursive_error_pages, flag, "error pages of error pages"),
    Command::works("types", types, "types by extension"),
    Command::works("default_type", default_type, "the type of what has no known extension"),
    loc!(client_max_body_size, offset, "bytes of a request's body"),
    loc!(client_body_buffer_size, size0, "bytes of a body kept in memory"),
    Command::works(
        "client_body_in_file_only",
        client_body_in_file_only,
        "whether bodies are read into files",
    ),
    Command::works("client_body_temp_path", client_body_temp_path, "where files of bodies are"),
    loc!(client_body_timeout, time0, "time between two reads of a body"),
    srv!(client_header_timeout, time0, "time for a head"),
    srv!(client_header_buffer_size, size0, "bytes of a common head"),
    Command::works(
        "large_client_header_buffers",
        large_client_header_buffers,
        "number and bytes of buffers for large heads",
    ),
    srv!(underscores_in_headers, flag, "whether names of fields may have underscores"),
    srv!(ignore_invalid_headers, flag, "whether fields with invalid names are dropped"),
    srv!(merge_slashes, flag, "whether repeated slashes count as one"),
    srv!(max_headers, number0, "the most fields of a head"),
    loc!(send_timeout, time0, "time between two writes"),
    loc!(keepalive_min_timeout, time0, "how long an idle connection stays although a worker ends"),
    Command::works("keepalive_timeout", keepalive_timeout, "how long an idle connection is kept"),
    Command::works(
        "keepalive_requests",
        |b, d| {
            if b.context == Context::UPSTREAM {
                return crate::modules::upstream::keepalive_requests(b, d);
            }
            let v = number_arg(d, 0)?;
            b.loc().core.keepalive_requests.set(v)
        },
        "requests of a connection",
    ),
    Command::works(
        "keepalive_time",
        |b, d| {
            if b.context == Context::UPSTREAM {
                return crate::modules::upstream::keepalive_time(b, d);
            }
            let v = time_arg(d, 0)?;
            b.loc().core.keepalive_time.set(v)
        },
        "how long a connection carries requests",
    ),
    Command::works(
        "keepalive_disable",
        browsers::keepalive_disable,
        "browsers whose connections are not kept",
    ),
    loc!(lingering_time, time0, "how long leftover bodies are read"),
    loc!(lingering_timeout, time0, "time between two such reads"),
    Command::works("lingering_close", lingering_close, "whether leftover bodies are read before closing"),
    Command::works("server_tokens", server_tokens, "whether our version is told"),
    loc!(absolute_redirect, flag, "whether redirects name scheme and host"),
    loc!(server_name_in_redirect, flag, "whether redirects use the server's name"),
    loc!(port_in_redirect, flag, "whether redirects name the port"),
    loc!(etag, flag, "whether files have an ETag"),
    Command::works("if_modified_since", if_modified_since, "how If-Modified-Since is compared"),
    Command::works(
        "max_ranges",
        |b, d| {
            let v = number_arg(d, 0)?;
            b.loc().core.max_ranges.set(Some(v))
        },
        "the most ranges of a request",
    ),
    loc!(log_not_found, flag, "whether missing files are logged"),
    loc!(chunked_transfer_encoding, flag, "whether chunked responses may be sent"),
    loc!(auth_delay, time0, "how long a 401 waits"),
    Command::works("satisfy", satisfy, "whether all access checks or any must allow"),
    Command::works(
        "limit_rate",
        |b, d| {
            let v = rate(b, d)?;
            b.loc().core.limit_rate.set(Some(v))
        },
        "bytes a second of a response",
    ),
    Command::works(
        "limit_rate_after",
        |b, d| {
            let v = rate(b, d)?;
            b.loc().core.limit_rate_after.set(Some(v))
        },
        "bytes before limit_rate begins",
    ),
    Command::works("disable_symlinks", disable_symlinks, "whether symbolic links are followed"),
    Command::no_effect("open_file_cache_events", "what changed is found out by looking again"),
    Command::works("open_file_cache", open_file_cache, "a cache of open files"),
    loc!(open_file_cache_valid, time0, "how long it is believed"),
    loc!(open_file_cache_min_uses, number0, "uses before a file is held"),
    loc!(open_file_cache_errors, flag, "whether failures are held"),
    Command::no_effect("tcp_nodelay", "small writes leave at once in any case"),
    loc!(reset_timedout_connection, flag, "resets connections that timed out or are answered 444"),
    Command::no_effect("fastcgi_temp_path", NOT_SPOKEN),
    Command::no_effect("uwsgi_temp_path", NOT_SPOKEN),
    Command::no_effect("scgi_temp_path", NOT_SPOKEN),
    Command::no_effect("sendfile", KERNEL),
    Command::no_effect("sendfile_max_chunk", KERNEL),
    Command::no_effect("tcp_nopush", "head and body leave in one write in any case"),
    Command::no_effect("aio", "file reads never wait on a worker in any case"),
    Command::no_effect("aio_write", "file writes never wait on a worker in any case"),
    Command::no_effect("directio", KERNEL),
    Command::no_effect("directio_alignment", KERNEL),
    Command::no_effect("read_ahead", KERNEL),
    Command::no_effect("output_buffers", MEMORY),
    loc!(
        postpone_output,
        size0,
        "bytes up to which the head of an upstream's answer waits for the body; beside it at hand it waits in any case"
    ),
    Command::no_effect("send_lowat", KERNEL),
    Command::no_effect("connection_pool_size", MEMORY),
    Command::no_effect("request_pool_size", MEMORY),
    Command::no_effect("client_body_in_single_buffer", MEMORY),
    Command::no_effect_of("server_names_hash_max_size", |_, d| number_arg(d, 0).map(drop), TABLES),
    Command::no_effect_of("server_names_hash_bucket_size", |_, d| number_arg(d, 0).map(drop), TABLES),
    Command::no_effect_of("types_hash_max_size", |_, d| table_size(d), TABLES),
    Command::no_effect_of("types_hash_bucket_size", |_, d| table_size(d), TABLES),
    Command::no_effect_of("variables_hash_max_size", |_, d| table_size(d), TABLES),
    Command::no_effect_of("variables_hash_bucket_size", |_, d| table_size(d), TABLES),
    loc!(msie_padding, flag, "whether pages are padded for browsers that hide short ones"),
    Command::no_effect("msie_refresh", "the browser it was for is gone"),
];

fn root(b: &mut Builder, d: &Directive, alias: bool) -> ConfResult<()> {
    let text = d.arg(0);
    if alias && b.loc().core.is_named.0 {
        return Err(ConfError::new("the \"alias\" directive cannot be used inside the named location"));
    }
    if text.contains("$document_root") || text.contains("${document_root}") {
        return Err(ConfError::new(format!(
            "the $document_root variable cannot be used in the \"{}\" directive",
            d.name
        )));
    }
    // nginx joins the prefix when the value is not absolute; one that begins with a variable is as it is.
    let joined = if text.starts_with(['/', '$']) {
        text.to_string()
    } else {
        b.path(text).to_string_lossy().into_owned()
    };
    let trimmed = if alias { joined.as_str() } else { joined.strip_suffix('/').unwrap_or(&joined) };
    let path = b.template(trimmed)?;
    let loc = b.loc();
    if loc.core.root.is_set() {
        let message = if loc.core.root.alias.is_some() == alias {
            format!("\"{}\" directive is duplicate", d.name)
        } else {
            format!(
                "\"{}\" directive is duplicate, \"{}\" directive was specified earlier",
                d.name,
                if alias { "root" } else { "alias" }
            )
        };
        return Err(ConfError::new(message));
    }
    let alias = match (alias, *loc.core.is_regex) {
        (false, _) => None,
        (true, true) => Some(Alias::Whole),
        (true, false) => Some(Alias::Prefix(loc.core.name.len())),
    };
    loc.core.root.set(Root { path, alias })
}

fn internal(b: &mut Builder, _: &Directive) -> ConfResult<()> {
    b.loc().core.internal.set(true)
}

fn error_page(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.args.len() < 2 {
        return Err(ConfError::new("invalid number of arguments in \"{}\" directive"));
    }
    let (target_text, rest) = d.args.split_last().unwrap_or((&d.name, &[]));
    let (overwrite, codes) = match rest.split_last() {
        Some((last, codes)) if last.starts_with('=') => {
            if last == "=" {
                (Some(0), codes)
            } else {
                let code = number(&last[1..]).and_then(|n| u16::try_from(n).ok());
                (Some(code.ok_or_else(|| ConfError::new(format!("invalid value \"{last}\"")))?), codes)
            }
        }
        _ => (None, rest),
    };
    if codes.is_empty() {
        return Err(ConfError::new(format!("invalid value \"{}\"", d.arg(0))));
    }
    let mut statuses = Vec::new();
    for text in codes {
        let status = number(text).ok_or_else(|| ConfError::new(format!("invalid value \"{text}\"")))?;
        if status == 499 {
            return Err(ConfError::new(format!("invalid value \"{text}\"")));
        }
        if !(300..=599).contains(&status) {
            return Err(ConfError::new(format!("value \"{text}\" must be between 300 and 599")));
        }
        statuses.push(status as u16);
        // A request without TLS at a TLS port, a head that is too large: nginx counts them as 400.
        if status == 494 {
            statuses.push(494);
        }
    }
    let mut overwrite = overwrite;
    let target = if let Some(name) = target_text.strip_prefix('@') {
        ErrorTarget::Named(Bytes::copy_from_slice(name.as_bytes()))
    } else if target_text.starts_with(['/', '$']) {
        ErrorTarget::Uri(b.template(target_text)?)
    } else {
        if overwrite.is_none() {
            overwrite = Some(302);
        }
        ErrorTarget::Url(b.template(target_text)?)
    };
    b.loc().core.error_pages.edit().push(ErrorPage { statuses, overwrite, target });
    Ok(())
}

fn types(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut table: HashMap<Vec<u8>, Bytes> =
        if b.loc().core.types.is_set() { b.loc().core.types.as_ref().clone() } else { HashMap::new() };
    for item in d.block.as_deref().unwrap_or_default() {
        let entry = match item {
            crate::conf::Item::Error(e) => return Err(e.clone()),
            crate::conf::Item::Directive(entry) => entry,
        };
        let kind = Bytes::copy_from_slice(entry.name.as_bytes());
        for extension in &entry.args {
            let lower = extension.to_ascii_lowercase().into_bytes();
            if let Some(old) = table.insert(lower, kind.clone())
                && old != kind
            {
                let text = format!(
                    "duplicate extension \"{extension}\", content type: \"{}\", previous content type: \"{}\"",
                    entry.name,
                    String::from_utf8_lossy(&old)
                );
                let outer = std::mem::replace(&mut b.here, entry.at.clone());
                b.note(NoteLevel::Warn, text);
                b.here = outer;
            }
        }
    }
    b.loc().core.types.replace(Arc::new(table));
    Ok(())
}

/// nginx's types when a configuration has none.
fn standard_types() -> Arc<HashMap<Vec<u8>, Bytes>> {
    let types = [("html", "text/html"), ("gif", "image/gif"), ("jpg", "image/jpeg")];
    Arc::new(types.iter().map(|(e, t)| (e.as_bytes().to_vec(), Bytes::from_static(t.as_bytes()))).collect())
}

fn default_type(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let value = Bytes::copy_from_slice(d.arg(0).as_bytes());
    b.loc().core.default_type.set(value)
}

fn offset(d: &Directive) -> ConfResult<u64> {
    size(d.arg(0)).ok_or_else(invalid_value)
}

fn large_client_header_buffers(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (number, size) = (number_arg(d, 0)?, size_arg(d, 1)?);
    if number == 0 || size == 0 {
        return Err(invalid_value());
    }
    b.srv().core.large_client_header_buffers.set((number, size))
}

fn keepalive_timeout(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if b.context == Context::UPSTREAM {
        return crate::modules::upstream::keepalive_timeout(b, d);
    }
    let timeout = time_arg(d, 0)?;
    b.loc().core.keepalive_timeout.set(timeout)?;
    if d.args.len() > 1 {
        let header = time_arg(d, 1)?;
        b.loc().core.keepalive_header.replace(Some(header.as_secs()));
    } else {
        b.loc().core.keepalive_header.replace(None);
    }
    Ok(())
}

fn client_body_in_file_only(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    use InFileOnly::{Clean, Off, On};
    let how = one_of(d, &[("off", Off), ("on", On), ("clean", Clean)])?;
    b.loc().core.client_body_in_file_only.set(how)
}

fn client_body_temp_path(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let path = temp_path(b, d)?;
    b.loc().core.client_body_temp_path.set(Arc::new(path))
}

/// A directory for temporary files and the digits of its levels (ngx_conf_set_path_slot).
pub fn temp_path(b: &mut Builder, d: &Directive) -> ConfResult<TempPath> {
    let text = d.arg(0);
    let directory = b.path(text.strip_suffix('/').unwrap_or(text));
    let mut levels = Vec::new();
    for level in &d.args[1..] {
        let digits = number(level).filter(|n| *n > 0).ok_or_else(invalid_value)?;
        levels.push(usize::try_from(digits).map_err(|_| invalid_value())?);
        // The number of a file has ten digits, of which the levels take some.
        if levels.iter().fold(0usize, |sum, n| sum.saturating_add(*n)) > 10 {
            return Err(invalid_value());
        }
    }
    names::path(b, text, Holds::Temporary(levels.clone()))?;
    Ok(TempPath { directory, levels, shared: false })
}

/// Makes the directories for temporary files (ngx_create_paths).
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    let mut paths: Vec<Arc<TempPath>> = Vec::new();
    for level in &b.levels {
        for path in [&*level.conf.core.client_body_temp_path, &*level.conf.proxy.temp_path] {
            if !path.shared && !paths.contains(path) {
                paths.push(path.clone());
            }
        }
    }
    let owner = b.main.user.as_ref().and_then(|(u, g)| Identity::of(u, g.as_deref()));
    for path in paths {
        path.prepare(owner).map_err(|(call, e)| {
            let (path, cause) = (path.directory.display(), os_error(&e));
            ConfError::new(format!("{call} \"{path}\" failed ({cause})"))
        })?;
    }
    Ok(())
}

fn disable_symlinks(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if b.loc().core.disable_symlinks.is_set() {
        return Err(ConfError::new("\"{}\" directive is duplicate"));
    }
    let (mut how, mut from) = (None, None);
    for arg in &d.args {
        let twice = how.is_some() && !arg.starts_with("from=");
        match arg.as_str() {
            _ if twice => return Err(ConfError::new("duplicate parameters specified")),
            "off" => how = Some(None),
            "on" => how = Some(Some(false)),
            "if_not_owner" => how = Some(Some(true)),
            other => match other.strip_prefix("from=") {
                Some(text) => from = Some(b.template(text)?),
                None => return Err(ConfError::new(format!("invalid parameter \"{other}\""))),
            },
        }
    }
    let Some(how) = how else {
        let must = "must have \"off\", \"on\" or \"if_not_owner\" parameter";
        return Err(ConfError::new(format!("\"{}\" {must}", d.name)));
    };
    if how.is_none() && from.is_some() {
        return Err(ConfError::new("duplicate parameters specified"));
    }
    b.loc().core.disable_symlinks.set(how.map(|same_owner| DisableSymlinks { same_owner, from }))
}

fn lingering_close(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let on = one_of(d, &[("off", false), ("on", true), ("always", true)])?;
    b.loc().core.lingering_close.set(on)
}

fn server_tokens(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let on = one_of(d, &[("off", false), ("on", true), ("build", true)])?;
    b.loc().core.server_tokens.set(on)
}

fn if_modified_since(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    use IfModifiedSince::{Before, Exact, Off};
    let how = one_of(d, &[("off", Off), ("exact", Exact), ("before", Before)])?;
    b.loc().core.if_modified_since.set(how)
}

fn satisfy(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let any = one_of(d, &[("all", false), ("any", true)])?;
    b.loc().core.satisfy_any.set(any)
}

/// A size that may be a variable.
fn rate(b: &mut Builder, d: &Directive) -> ConfResult<Template> {
    let text = d.arg(0);
    if !text.contains('$') && (text.ends_with(['g', 'G']) || size(text).is_none()) {
        return Err(invalid_value().hint("a rate or a size is digits with an optional k or m, as in 500k"));
    }
    b.template(d.arg(0))
}

fn open_file_cache(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if d.args.len() == 1 && d.arg(0) == "off" {
        return b.loc().core.open_file_cache.set(None);
    }
    let (mut max, mut inactive) = (None, Duration::from_secs(60));
    for arg in &d.args {
        if let Some(n) = arg.strip_prefix("max=") {
            max = number(n).filter(|n| *n > 0);
            if max.is_none() {
                return Err(ConfError::new(format!("invalid \"open_file_cache\" parameter \"{arg}\"")));
            }
        } else if let Some(t) = arg.strip_prefix("inactive=") {
            inactive = time(t)
                .ok_or_else(|| ConfError::new(format!("invalid \"open_file_cache\" parameter \"{arg}\"")))?;
        } else {
            return Err(ConfError::new(format!("invalid \"open_file_cache\" parameter \"{arg}\"")));
        }
    }
    let Some(max) = max else {
        return Err(ConfError::new("\"open_file_cache\" must have the \"max\" parameter"));
    };
    b.loc().core.open_file_cache.set(Some(Arc::new(crate::cache::files::FileCache::new(max, inactive))))
}
