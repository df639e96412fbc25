//! nginx's headers module: `add_header`, `expires`.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}
