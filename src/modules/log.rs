//! nginx's log module: `access_log` and `log_format`.

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

/// Writes out what the calling worker has gathered; runs when it has nothing else to do.
pub fn flush_worker() {}

/// Logs a finished request.
pub fn request_done(_: &crate::http::Request) {}
