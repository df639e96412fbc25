//! Whether answers that lie ready in memory may be given again without going through the phases
//! ([`crate::http::hit`]). The answers are the same; to switch it off is for whoever looks for the cause of something.

use crate::conf::Command;
use crate::conf::table::{Arity, HTTP_SERVER_LOCATION};
use crate::conf::values::flag;
use crate::settings;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `hit_path`
        inherit on: bool = true,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[Command::own(
    "hit_path",
    HTTP_SERVER_LOCATION,
    Arity::ONE,
    |b, d| {
        let v = flag(d)?;
        b.loc().hit_path.on.set(v)
    },
    "whether what was answered from memory is answered so again without running the phases (on, off)",
)];
