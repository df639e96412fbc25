//! nginx's split_clients module: a variable by share.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];
