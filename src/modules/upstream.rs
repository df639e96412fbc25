//! nginx's upstream module: groups of servers.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

/// The variables.
pub const VARIABLES: &[crate::http::vars::Variable] = &[];

/// What the whole of `http` configures.
#[derive(Default)]
pub struct Http {}

/// Completes what was read.
pub fn finish(_: &mut crate::conf::Builder) -> crate::conf::ConfResult<()> {
    Ok(())
}

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

/// A `server` of an upstream.
pub fn server(_: &mut crate::conf::Builder, _: &crate::conf::Directive) -> crate::conf::ConfResult<()> {
    Ok(())
}

/// Reports to Prometheus.
pub fn metrics(_: &crate::edge::Edge, _: &mut crate::observe::families::Families) {}
