//! Edgewater.

pub mod demo;
