//! nginx's proxy cache: what upstreams answered is kept.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}

/// What the whole of `http` configures.
#[derive(Default)]
pub struct Http {}

/// What outlives a reload.
#[derive(Default)]
pub struct Shared {}

/// What a generation uses.
#[derive(Default)]
pub struct Runtime {}

impl Runtime {
    /// Joins the configuration with what outlives it.
    pub fn build(_: &crate::conf::build::Http, _: &Shared) -> crate::conf::ConfResult<Runtime> {
        Ok(Runtime {})
    }
}

/// Reports to Prometheus.
pub fn metrics(_: &crate::edge::Edge, _: &mut crate::observe::families::Families) {}

use crate::http::Request;
use crate::upstream::{Answer, Failure, Plan};

/// Whether this request is the cache's matter.
pub fn wants(_: &Request) -> bool {
    false
}

/// Whether a HEAD is asked as GET.
pub fn converts_head(_: &Request) -> bool {
    true
}

/// Whether `proxy_ignore_headers` names this field (lower case).
pub fn ignores(_: &Request, _: &str) -> bool {
    false
}

/// The answer from the cache or, through it, from the upstream.
pub async fn fetch(_: &mut Request, plan: Plan) -> Result<Answer, Failure> {
    plan.fetch().await
}
