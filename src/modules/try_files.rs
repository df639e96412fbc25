//! nginx's try_files module.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];

crate::settings! {
    /// What a level configures.
    pub struct Conf {}
}

/// Runs in its phase.
pub const HANDLER: crate::http::phases::Handler = crate::http::phases::Handler {
    phase: crate::http::phases::Phase::Precontent,
    wants: |_| false,
    call: crate::http::phases::Call::Now(|_| crate::http::phases::Flow::Continue),
};
