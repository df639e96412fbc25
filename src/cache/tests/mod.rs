//! The cache without a network: an origin that answers when the test says so, and viewers.

mod admission;
mod alone;
mod bounds;
mod fills;
mod limits;
mod playlists;
mod purges;
mod rfc9111;
mod sharing;
mod spilled;
mod stale;
mod variants;

use super::CacheStatus;
use super::entry::Validators;
use super::filler::Upstream;
use super::hls::Hls;
use super::key::Key;
use super::policy::{Policy, Valid};
use super::seen::Source;
use super::serve::{Ask, NoCache, Served, Viewer, serve};
use super::zone::{Spec, Zone};
use crate::http::body::{Body, BodyError, BodyStream};
use crate::http::head::{Head, Version};
use crate::http::request::Attempt;
use crate::http::response::Fields;
use crate::upstream::{Answer, Failure, FailureKind};
use bytes::Bytes;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// A request that arrived at the origin.
struct Call {
    validators: Option<Validators>,
    /// Whether the client's conditions and ranges were put back.
    plain: bool,
    /// Which request it is, from 0 in the order they were made.
    viewer: usize,
    reply: oneshot::Sender<Result<Answer, Failure>>,
}

/// What a body sends into.
type Pieces = mpsc::UnboundedSender<Result<Bytes, BodyError>>;

struct ChannelBody(mpsc::UnboundedReceiver<Result<Bytes, BodyError>>);

impl BodyStream for ChannelBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.0.poll_recv(cx)
    }
}

impl Call {
    /// Answers with a head; the body follows by the sender, and ends with it.
    fn open(self, status: u16, fields: &[(&'static str, &str)], length: Option<u64>) -> Pieces {
        let (pieces, body) = mpsc::unbounded_channel();
        self.answer(status, fields, length, Body::Stream(Box::new(ChannelBody(body))));
        pieces
    }

    /// Answers whole.
    fn whole(self, status: u16, fields: &[(&'static str, &str)], body: &'static str) {
        self.answer(status, fields, Some(body.len() as u64), Bytes::from_static(body.as_bytes()).into());
    }

    fn answer(self, status: u16, list: &[(&'static str, &str)], length: Option<u64>, body: Body) {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.add_static(name, Bytes::copy_from_slice(value.as_bytes()));
        }
        let attempts = vec![Attempt { status, ..Attempt::default() }];
        let reason = Bytes::from_static(b"OK");
        let answer = Answer {
            status,
            reason,
            fields,
            length,
            body,
            ranges: false,
            kept: false,
            source: Source::default(),
            tunnel: None,
            attempts,
        };
        assert!(self.reply.send(Ok(answer)).is_ok(), "nobody awaits the answer");
    }

    fn fail(self, status: u16, kind: FailureKind) {
        let failure = Failure { status, kind, message: "down".into(), attempts: vec![Attempt::default()] };
        assert!(self.reply.send(Err(failure)).is_ok(), "nobody awaits the answer");
    }
}

struct FakeUpstream {
    calls: mpsc::UnboundedSender<Call>,
    plain: bool,
    viewer: usize,
}

impl Upstream for FakeUpstream {
    async fn fetch(self, validators: Option<Validators>) -> Result<Answer, Failure> {
        let (reply, replied) = oneshot::channel();
        let call = Call { validators, plain: self.plain, viewer: self.viewer, reply };
        assert!(self.calls.send(call).is_ok(), "the origin is gone");
        replied.await.expect("the test dropped the call: the task that awaits it falls")
    }
}

struct FakeViewer {
    head: Head,
    /// What `proxy_no_cache` comes to, given an answer with a field of this name.
    no_cache_if: Option<&'static str>,
}

impl Viewer for FakeViewer {
    type Upstream = FakeUpstream;
    fn head(&self) -> &Head {
        &self.head
    }
    fn no_cache(&mut self, answer: Option<(u16, &Fields)>) -> bool {
        self.no_cache_if.is_some_and(|name| answer.is_some_and(|(_, fields)| fields.get(name).is_some()))
    }
    fn plain(&mut self, upstream: &mut FakeUpstream) {
        upstream.plain = true;
    }
}

/// A zone, an origin behind it, and what the location wants.
struct Site {
    zone: Arc<Zone>,
    policy: Policy,
    calls: mpsc::UnboundedReceiver<Call>,
    origin: mpsc::UnboundedSender<Call>,
    viewers: std::cell::Cell<usize>,
}

/// A request's particulars.
#[derive(Default)]
struct With {
    hls: Option<Arc<Hls>>,
    fields: Vec<(&'static str, &'static str)>,
    bypass: bool,
    no_cache: Option<NoCache>,
    no_cache_if: Option<&'static str>,
    far_range: bool,
}

const MEGABYTE: u64 = 1 << 20;

impl Site {
    /// A zone of 64 MB; 200 and 404 live for 10 seconds.
    fn new() -> Site {
        Site::sized(64 * MEGABYTE)
    }

    fn sized(bound: u64) -> Site {
        let (origin, calls) = mpsc::unbounded_channel();
        let (name, inactive) = (Arc::from("z"), Duration::from_secs(600));
        let spec = Spec { name, bound, largest: bound / 8, inactive, keys: MEGABYTE };
        let ten = |status| Valid { status: Some(status), time: Duration::from_secs(10) };
        // Patience without end: where one waits in vain, the test must see it.
        let lock_timeout = Duration::from_secs(3600);
        let policy = Policy { valid: vec![ten(200), ten(404)], lock_timeout, ..Policy::default() };
        Site { zone: Arc::new(Zone::new(spec)), policy, calls, origin, viewers: Default::default() }
    }

    fn get(&self, path: &str) -> JoinHandle<Served> {
        self.get_with(path, With::default())
    }

    fn get_with(&self, path: &str, with: With) -> JoinHandle<Served> {
        let ask = Ask {
            zone: self.zone.clone(),
            policy: Arc::new(self.policy.clone()),
            key: Key::new(Bytes::copy_from_slice(path.as_bytes())),
            bypass: with.bypass,
            no_cache: with.no_cache.unwrap_or(NoCache::No),
            far_range: with.far_range,
            part: false,
            hls: with.hls,
        };
        let fields = with.fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let head = Head::from_parts(b"GET", path.as_bytes(), Version::Http11, fields);
        let mut viewer = FakeViewer { head, no_cache_if: with.no_cache_if };
        let upstream = FakeUpstream { calls: self.origin.clone(), plain: false, viewer: self.viewers.get() };
        self.viewers.set(self.viewers.get() + 1);
        tokio::spawn(async move { serve(&ask, &mut viewer, upstream).await })
    }

    /// The next request that reaches the origin.
    async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(Duration::from_secs(30), self.calls.recv()).await;
        call.expect("the origin waits in vain").unwrap()
    }

    /// Whether the origin has been asked since the last [`Self::call`].
    fn was_asked(&mut self) -> bool {
        self.calls.try_recv().is_ok()
    }

    /// Waits until so many requests in all have read or awaited fills.
    async fn readers(&self, n: u64) {
        until(|| self.zone.counters.readers.get() >= n).await;
    }

    /// Waits until nothing is being filled.
    async fn idle(&self) {
        until(|| self.zone.counters.filling.get() == 0).await;
    }

    /// Fills `path` with `body` as the origin's answer to the first request for it.
    async fn kept(&mut self, path: &str, fields: &[(&'static str, &str)], body: &'static str) {
        let first = self.get(path);
        self.call().await.whole(200, fields, body);
        assert_eq!(text(first).await, (CacheStatus::Miss, 200, body.to_string()));
        self.idle().await;
    }
}

/// Lets the other tasks run until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..1_000_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("waited in vain");
}

/// Lets every task run until it waits for something.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn whole(answer: Answer) -> Result<String, BodyError> {
    let mut body = answer.body;
    let bytes = body.collect(usize::MAX).await?.unwrap();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// What a request came to: how the cache answered, status, body.
async fn text(request: JoinHandle<Served>) -> (CacheStatus, u16, String) {
    let served = tokio::time::timeout(Duration::from_secs(30), request).await;
    let Served { status, result } = served.expect("the request waits in vain").unwrap();
    let answer = result.unwrap();
    let code = answer.status;
    (status, code, whole(answer).await.unwrap())
}

/// How the cache answered, and the failure's status.
async fn failed(request: JoinHandle<Served>) -> (CacheStatus, u16) {
    let Served { status, result } = request.await.unwrap();
    (status, result.err().expect("an answer where there should be none").status)
}
