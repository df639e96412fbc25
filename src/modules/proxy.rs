//! nginx's proxy module: requests go to an upstream.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

/// The variables.
pub const VARIABLES: &[crate::http::vars::Variable] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}

/// Completes what was read.
pub fn finish(_: &mut crate::conf::Builder) -> crate::conf::ConfResult<()> {
    Ok(())
}

/// Where `proxy_pass` sends a request.
#[derive(Debug)]
pub struct Target {}
