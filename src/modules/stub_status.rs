//! nginx's stub_status module.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

/// The variables.
pub const VARIABLES: &[crate::http::vars::Variable] = &[];
