//! nginx's gzip module: compression of responses.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

/// The variables.
pub const VARIABLES: &[crate::http::vars::Variable] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}
