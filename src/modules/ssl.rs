//! nginx's ssl module: certificates, protocols, sessions.

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
