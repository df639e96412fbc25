//! `prometheus;`: statistics in Prometheus's text format.

use crate::conf::Command;
/// The directives.
pub const COMMANDS: &[Command] = &[];
