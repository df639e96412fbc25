//! nginx's map module: a variable from another value.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];
