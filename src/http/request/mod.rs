//! A request while it is being answered: what the client sent, where it has got to, what was found.

mod conn;
mod downstream;
mod facts;
mod outcome;

pub use conn::{Address, Conn, TlsInfo, next_serial};
pub use downstream::{Downstream, H1Body, H2Body};
pub use facts::Facts;
pub use outcome::{Attempt, AttemptEnd, End, Sent};

use crate::cache::CacheStatus;
use crate::conf::build::{Http, LevelId};
use crate::edge::{Generation, Local};
use crate::http::body::BodyError;
use crate::http::head::{Head, Method, Version};
use crate::http::hit::{Ready, watch::Watch};
use crate::http::regex::Groups;
use crate::http::response::Fields;
use crate::http::vars::{VarId, VarKind};
use crate::modules::proxy_cache::Seen;
use crate::modules::{LocConf, SrvConf};
use bytes::Bytes;
use std::cell::{OnceCell, RefCell};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A slot for a variable's value.
#[derive(Clone, Debug, Default)]
enum Slot {
    #[default]
    Unset,
    Value(Bytes),
    /// Written, by `set` or a match: whatever it would be computed to.
    Written(Bytes),
    /// Computed, and there was none.
    Absent,
    /// Being computed: reading it again is a cycle.
    Busy,
}

#[derive(Clone, Default)]
struct Captures {
    subject: Bytes,
    groups: Groups,
}

/// How many subrequests may be within each other (nginx's limit).
const MOST_BELOW: u8 = 51;

/// A request.
pub struct Request {
    /// The configuration it runs under.
    pub local: Arc<Local>,
    /// Its connection.
    pub conn: Arc<Conn>,
    /// The client's address, where `realip` put another in place of the connection's.
    pub client: Option<Address>,
    /// What the client sent.
    pub head: Head,
    /// The method in force; an `error_page` may make it GET.
    pub method: Method,
    /// The normalised path in force.
    pub uri: Bytes,
    /// The query in force.
    pub args: Bytes,
    /// Whether there is a path, or a query, even where it is empty: in a log it is not `-` then.
    pub has_uri: bool,
    /// As `has_uri`, of `args`.
    pub has_args: bool,
    /// Path and query as sent (`$request_uri`).
    pub unparsed: Bytes,
    /// The host, lower case, without port (`$host`); empty when the client named none.
    pub host: Bytes,
    /// The server, an index into `http().servers`.
    pub server: usize,
    /// The level in force.
    pub level: LevelId,
    /// Whether the URI is an internal one.
    pub internal: bool,
    /// How many requests it is below: 0 for a client's own.
    pub depth: u8,
    /// The method of the client's own request, for one below it (`$request_method`).
    pub main_method: Option<Method>,
    /// Whether `uri` still corresponds to `unparsed` (no rewrite changed it).
    pub pristine: bool,
    /// Whether the URI still begins with the location's prefix (no `rewrite … break` changed it).
    pub valid_location: bool,
    /// Whether `uri` is what `try_files` found below the `alias` of a regular expression.
    pub uri_below_alias: bool,
    /// Rewrites and redirects left, with the one that is a cycle.
    pub changes_left: u8,
    /// Whether it was sent before the request before it had been answered (`$pipe`).
    pub pipelined: bool,
    /// Whether the client's connection may carry another request.
    pub keepalive: bool,
    /// `Content-Length` of the request, if any.
    pub body_length: Option<u64>,
    /// Whether the request has a body.
    pub has_body: bool,
    /// Body bytes read so far.
    pub body_read: u64,
    /// The body, when it has been read into memory.
    pub body: Option<Bytes>,
    /// The body, when it has been read into a file.
    pub spooled: Option<crate::upstream::spool::Spooled>,
    /// Where the body comes from.
    pub downstream: Downstream,
    /// When its first byte was read.
    pub started: Instant,
    /// Bytes of head and body received (`$request_length`).
    pub length: u64,
    /// What was sent.
    pub sent: Sent,
    /// Attempts at upstream servers.
    pub attempts: Vec<Attempt>,
    /// The upstream's own response fields (`$upstream_http_*`).
    pub upstream_fields: Option<Arc<Fields>>,
    /// How the cache answered.
    pub cache_status: Option<CacheStatus>,
    /// What else it saw of the cache (`$cache_*`).
    pub cache_seen: Seen,
    /// What `limit_req` decided (`$limit_req_status`).
    pub limit_req: Option<&'static str>,
    /// What `limit_conn` decided (`$limit_conn_status`).
    pub limit_conn: Option<&'static str>,
    /// What ends with the request: connection counts, in-flight counts.
    pub guards: Vec<Box<dyn std::any::Any + Send>>,
    /// Whether an `error_page` is being produced, so that a second error does not loop.
    pub in_error_page: bool,
    /// Where the slice begins for which it goes upstream (`slice`).
    pub slice: std::cell::Cell<Option<u64>>,
    /// Whether an error is left without a page: who asked has something to put in its place.
    pub bare_errors: bool,
    /// Fields of an upstream's answer that stay when it sends the request elsewhere
    /// (`X-Accel-Redirect`).
    pub carried: Fields,
    /// Whether a regular expression took more steps than it may.
    pub regex_gave_up: std::cell::Cell<bool>,
    /// The status that the response shall have in place of its own (`error_page` without `=`).
    pub status_override: Option<u16>,
    /// The status that `error_page` gave the response. It is what the log says even where a condition
    /// or a range made another of it on the wire.
    pub told_status: Option<u16>,
    /// `set $limit_rate`, bytes a second.
    pub limit_rate: Option<u64>,
    /// The URI of `proxy_pass` with which the request goes upstream, for `$proxy_host` and the like.
    pub proxy_target: Option<Arc<crate::modules::proxy::Target>>,
    /// Whether its answer may be repeated for others ([`crate::http::hit`]).
    pub watch: Watch,
    /// Where an answer comes from that lies ready in memory.
    pub ready: Option<Ready>,
    /// The charset of the answer, once it is known; one cell with the requests below it.
    charset: OnceCell<Arc<OnceLock<Bytes>>>,
    /// What it has to do with clients' identifiers (`userid`).
    pub userid: RefCell<crate::modules::userid::State>,
    id: RefCell<Option<[u8; 16]>>,
    slots: RefCell<Vec<Slot>>,
    captures: RefCell<Captures>,
    /// The query that variables show in place of its own.
    shown: RefCell<Option<Shown>>,
}

/// A query that is shown in place of the request's own.
#[derive(Clone, Debug)]
pub struct Shown {
    /// In place of [`Request::args`].
    pub args: Bytes,
    /// In place of [`Request::unparsed`].
    pub unparsed: Bytes,
}

impl Request {
    /// A request whose head has been read and whose server is not yet chosen.
    pub fn new(local: Arc<Local>, conn: Arc<Conn>, head: Head, downstream: Downstream) -> Request {
        Request::begun(local, conn, head, downstream, crate::edge::turn::now())
    }

    /// The same of one whose first byte was read at `started`.
    #[inline(always)]
    pub fn begun(
        local: Arc<Local>,
        conn: Arc<Conn>,
        head: Head,
        downstream: Downstream,
        started: Instant,
    ) -> Request {
        let method = Method::of(head.method());
        Request {
            local,
            conn,
            client: None,
            method,
            head,
            uri: Bytes::new(),
            args: Bytes::new(),
            has_uri: false,
            has_args: false,
            unparsed: Bytes::new(),
            host: Bytes::new(),
            server: 0,
            level: 0,
            internal: false,
            depth: 0,
            main_method: None,
            pristine: true,
            valid_location: true,
            uri_below_alias: false,
            changes_left: 11,
            pipelined: false,
            keepalive: false,
            body_length: None,
            has_body: false,
            body_read: 0,
            body: None,
            spooled: None,
            downstream,
            started,
            length: 0,
            sent: Sent::default(),
            attempts: Vec::new(),
            upstream_fields: None,
            cache_status: None,
            cache_seen: Seen::default(),
            limit_req: None,
            limit_conn: None,
            guards: Vec::new(),
            in_error_page: false,
            slice: std::cell::Cell::new(None),
            bare_errors: false,
            carried: Fields::default(),
            regex_gave_up: std::cell::Cell::new(false),
            status_override: None,
            told_status: None,
            limit_rate: None,
            proxy_target: None,
            watch: Watch::default(),
            ready: None,
            charset: OnceCell::new(),
            userid: RefCell::default(),
            id: RefCell::new(None),
            slots: RefCell::new(Vec::new()),
            captures: RefCell::default(),
            shown: RefCell::default(),
        }
    }

    /// A request for another URI of the same server, whose answer is a part of this one's or decides
    /// about it; `None` when there are too many within each other. It is a GET without a body,
    /// whatever this one is; what this one's variables hold it sees too (ngx_http_subrequest).
    pub fn below(&self, uri: Bytes, args: Bytes) -> Option<Request> {
        if self.depth >= MOST_BELOW {
            let uri = String::from_utf8_lossy(&uri).into_owned();
            crate::observe::request_error(self, format_args!("subrequests cycle while processing \"{uri}\""));
            return None;
        }
        let mut rq = self.copy();
        rq.method = Method::Get;
        rq.main_method = self.main_method.or(Some(self.method));
        rq.uri = uri;
        rq.args = args;
        rq.level = self.http().servers[self.server].level;
        rq.internal = true;
        rq.depth = self.depth + 1;
        rq.pristine = false;
        rq.valid_location = true;
        (rq.attempts, rq.upstream_fields, rq.cache_status) = (Vec::new(), None, None);
        rq.cache_seen = Seen::default();
        rq.captures = RefCell::default();
        Some(rq)
    }

    /// What is to be known of it once its answer is on its way, for what is made of the answer's body;
    /// without the client's body.
    pub fn copy(&self) -> Request {
        let mut rq = Request::new(self.local.clone(), self.conn.clone(), self.head.clone(), Downstream::None);
        rq.client = self.client.clone();
        (rq.method, rq.main_method) = (self.method, self.main_method);
        rq.uri = self.uri.clone();
        rq.args = self.args.clone();
        rq.unparsed = self.unparsed.clone();
        rq.host = self.host.clone();
        (rq.server, rq.level) = (self.server, self.level);
        (rq.internal, rq.depth) = (self.internal, self.depth);
        (rq.pristine, rq.valid_location) = (self.pristine, self.valid_location);
        rq.keepalive = self.keepalive;
        rq.started = self.started;
        rq.length = self.length;
        rq.attempts = self.attempts.clone();
        rq.upstream_fields = self.upstream_fields.clone();
        rq.cache_status = self.cache_status;
        rq.cache_seen = self.cache_seen.clone();
        // A client's request is counted once, however many are made of it.
        (rq.limit_req, rq.limit_conn) = (self.limit_req, self.limit_conn);
        rq.charset = self.charset.get_or_init(Arc::default).clone().into();
        rq.id = self.id.clone();
        rq.userid = self.userid.clone();
        rq.slots = self.slots.clone();
        rq.captures = self.captures.clone();
        rq
    }

    /// Takes over what `below`, which has been answered, left in the variables: they are one set.
    pub fn take_variables(&mut self, below: &mut Request) {
        std::mem::swap(&mut self.slots, &mut below.slots);
        std::mem::swap(&mut self.userid, &mut below.userid);
    }

    /// What has anything to do at the level in force.
    pub fn plan(&self) -> &crate::http::phases::Plan {
        &self.http().levels[self.level].plan
    }

    /// Notes the attempts at upstream servers that the URI in force took.
    pub fn note_attempts(&mut self, mut attempts: Vec<Attempt>) {
        if let Some(first) = attempts.first_mut() {
            first.another = !self.attempts.is_empty();
        }
        self.attempts.append(&mut attempts);
    }

    /// The client, as everything but `$realip_remote_addr` sees it.
    pub fn peer(&self) -> &Address {
        self.client.as_ref().unwrap_or(&self.conn.peer)
    }

    /// The generation it runs under.
    pub fn generation(&self) -> &Generation {
        &self.local.generation
    }

    /// `http { }` of its generation.
    pub fn http(&self) -> &Http {
        &self.local.generation.http
    }

    /// The modules' configuration in force.
    pub fn loc(&self) -> &LocConf {
        &self.http().levels[self.level].conf
    }

    /// The modules' per-server configuration in force.
    pub fn srv(&self) -> &SrvConf {
        &self.http().servers[self.server].conf
    }

    /// The name of the method in force.
    pub fn method_name(&self) -> &[u8] {
        self.name_of(self.method)
    }

    /// The name of the method of the client's own request.
    pub fn main_method_name(&self) -> &[u8] {
        self.name_of(self.main_method.unwrap_or(self.method))
    }

    fn name_of(&self, method: Method) -> &[u8] {
        match method {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            _ => self.head.method(),
        }
    }

    /// The version of the request.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The status as the log and `$status` tell it; 0 where nothing was answered.
    pub fn status(&self) -> u16 {
        self.status_override.or(self.told_status).unwrap_or(self.sent.status)
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.conn.tls.is_some() { "https" } else { "http" }
    }

    /// Notes the charset of the client's answer. It is told once: of a second answer, in place of the
    /// first, the first's holds.
    pub fn tell_charset(&self, name: Bytes) {
        if self.depth == 0 {
            let _ = self.charset.get_or_init(Arc::default).set(name);
        }
    }

    /// Where the charset of the client's answer is told, for a body that is made only when it is sent.
    pub fn charset_cell(&self) -> Arc<OnceLock<Bytes>> {
        self.charset.get_or_init(Arc::default).clone()
    }

    /// The charset of the client's answer, as far as it is known.
    pub fn told_charset(&self) -> Option<Bytes> {
        self.charset.get()?.get().filter(|name| !name.is_empty()).cloned()
    }

    /// A number for the request that no other has (`$request_id`).
    pub fn id(&self) -> [u8; 16] {
        *self.id.borrow_mut().get_or_insert_with(crate::edge::random::bytes)
    }

    /// Evaluates something as if the query were another. What is computed meanwhile is not kept.
    pub fn showing<T>(&self, shown: Shown, evaluate: impl FnOnce() -> T) -> T {
        let before = self.shown.replace(Some(shown));
        let value = evaluate();
        self.shown.replace(before);
        value
    }

    /// The query, as variables show it.
    pub fn shown_args(&self) -> Bytes {
        self.shown.borrow().as_ref().map_or_else(|| self.args.clone(), |shown| shown.args.clone())
    }

    /// Path and query as sent, as variables show them.
    pub fn shown_unparsed(&self) -> Bytes {
        self.shown.borrow().as_ref().map_or_else(|| self.unparsed.clone(), |shown| shown.unparsed.clone())
    }

    /// Appends a variable's value; false when it has none.
    pub fn variable(&self, id: VarId, out: &mut Vec<u8>) -> bool {
        let index = id as usize;
        let kind = &self.http().vars[index].kind;
        if !kind.is_pure() {
            self.watch.spoil();
        }
        if self.shown.borrow().is_some()
            && let VarKind::Computed(computed) = kind
        {
            return self.anew(index, out, |out| computed.compute(self, out));
        }
        match self.slots.borrow().get(index) {
            Some(Slot::Value(value) | Slot::Written(value)) => {
                out.extend_from_slice(value);
                return true;
            }
            Some(Slot::Absent | Slot::Busy) => return false,
            Some(Slot::Unset) | None => {}
        }
        match kind {
            VarKind::Builtin(variable, rest) if !variable.cached => (variable.get)(self, rest, out),
            VarKind::Builtin(variable, rest) => {
                self.once(index, out, false, |out| (variable.get)(self, rest, out))
            }
            VarKind::Slot(captured) => !captured,
            VarKind::Unknown => false,
            VarKind::Computed(computed) => {
                self.once(index, out, computed.volatile(), |out| computed.compute(self, out))
            }
        }
    }

    /// Computes a variable's value and, unless it is `volatile`, keeps it.
    fn once(
        &self,
        index: usize,
        out: &mut Vec<u8>,
        volatile: bool,
        compute: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        self.put_slot(index, Slot::Busy);
        let start = out.len();
        let found = compute(out);
        let slot = match (volatile, found) {
            (true, _) => Slot::Unset,
            (false, true) => Slot::Value(Bytes::copy_from_slice(&out[start..])),
            (false, false) => Slot::Absent,
        };
        self.put_slot(index, slot);
        found
    }

    /// Computes a variable's value whatever is kept of it, and leaves that as it is.
    fn anew(&self, index: usize, out: &mut Vec<u8>, compute: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let kept = self.slots.borrow().get(index).cloned().unwrap_or_default();
        match &kept {
            Slot::Busy => return false,
            Slot::Written(value) => {
                out.extend_from_slice(value);
                return true;
            }
            Slot::Unset | Slot::Value(_) | Slot::Absent => {}
        }
        self.put_slot(index, Slot::Busy);
        let found = compute(out);
        self.put_slot(index, kept);
        found
    }

    /// A variable's value as bytes; `None` when it has none.
    pub fn variable_value(&self, id: VarId) -> Option<Bytes> {
        let mut out = Vec::new();
        self.variable(id, &mut out).then(|| out.into())
    }

    /// The value of the variable called `name` (lower case), whether or not the configuration names it.
    pub fn variable_named(&self, name: &str) -> Option<Bytes> {
        if let Some(id) = self.http().vars.iter().position(|def| def.name == name) {
            return self.variable_value(id as VarId);
        }
        let (variable, rest) = super::vars::builtin(name)?;
        if !variable.pure {
            self.watch.spoil();
        }
        let mut out = Vec::new();
        (variable.get)(self, rest, &mut out).then(|| out.into())
    }

    /// Writes a variable of the configuration's own.
    pub fn set_slot(&self, id: VarId, value: Bytes) {
        self.put_slot(id as usize, Slot::Written(value));
    }

    /// Writes any variable that may be written.
    pub fn set_variable(&mut self, id: VarId, value: Bytes) {
        let setter = match &self.http().vars[id as usize].kind {
            VarKind::Builtin(variable, _) => variable.set,
            _ => None,
        };
        match setter {
            Some(set) => set(self, value),
            None => self.set_slot(id, value),
        }
    }

    fn put_slot(&self, index: usize, slot: Slot) {
        let mut slots = self.slots.borrow_mut();
        if slots.is_empty() {
            slots.resize(self.http().vars.len(), Slot::Unset);
        }
        slots[index] = slot;
    }

    /// Remembers what a regular expression matched.
    pub fn set_captures(&self, subject: &[u8], groups: Groups) {
        *self.captures.borrow_mut() = Captures { subject: Bytes::copy_from_slice(subject), groups };
    }

    /// Forgets the groups of the last match, as nginx does when a `rewrite` or an `if` does not match.
    pub fn forget_captures(&self) {
        self.captures.borrow_mut().groups.clear();
    }

    /// Appends group `n` of the last match.
    pub fn capture(&self, n: usize, out: &mut Vec<u8>) {
        let captures = self.captures.borrow();
        if let Some(Some((start, end))) = captures.groups.get(n) {
            out.extend_from_slice(&captures.subject[*start as usize..*end as usize]);
        }
    }

    /// Whether bytes of the body were read and not kept: what is left is not the body.
    pub fn body_is_gone(&self) -> bool {
        let limit = *self.loc().core.client_max_body_size;
        // One that is too large is refused as such.
        let too_large = limit > 0 && self.body_read > limit;
        self.body_read > 0 && self.body.is_none() && self.spooled.is_none() && !too_large
    }

    /// The next piece of the body as the client sends it; `None` at its end. Counts it against
    /// `client_max_body_size` and times it by `client_body_timeout`.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(body) = self.body.take() {
            return Ok((!body.is_empty()).then_some(body));
        }
        let limit = *self.loc().core.client_max_body_size;
        let timeout = *self.loc().core.client_body_timeout;
        if let Downstream::H1(h1) = &mut self.downstream {
            h1.room = if limit > 0 { limit.saturating_sub(self.body_read) } else { u64::MAX };
        }
        let read = tokio::time::timeout(timeout, self.downstream.next());
        let piece = read.await.map_err(|_| BodyError::ClientTimeout)??;
        if let Downstream::H1(h1) = &mut self.downstream {
            self.length += std::mem::take(&mut h1.taken);
        }
        if let Some(piece) = &piece {
            self.body_read += piece.len() as u64;
            if let Downstream::H2(_) = self.downstream {
                self.length += piece.len() as u64;
            }
            if limit > 0 && self.body_read > limit {
                return Err(BodyError::TooLarge);
            }
        }
        Ok(piece)
    }
}
