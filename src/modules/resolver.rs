//! `resolver`: names that are looked up at run time.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}
