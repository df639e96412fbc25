//! nginx's limit_conn module: connections by key.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

/// The variables.
pub const VARIABLES: &[crate::http::vars::Variable] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}

/// What the whole of `http` configures.
#[derive(Default)]
pub struct Zones {}

/// Runs in its phase.
pub const HANDLER: crate::http::phases::Handler = crate::http::phases::Handler {
    phase: crate::http::phases::Phase::Preaccess,
    wants: |_| false,
    call: crate::http::phases::Call::Now(|_| crate::http::phases::Flow::Continue),
};

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
