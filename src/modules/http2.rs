//! nginx's HTTP/2 module.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}
