//! nginx's geo module: a variable by the client's address.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];
