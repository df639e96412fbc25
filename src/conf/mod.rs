//! The configuration language: text to directives to a typed, inherited [`Config`].
//!
//! [`lexer`] splits words, [`parser`] makes directives and follows includes, [`table`] knows every
//! directive of stock nginx by name, context and arity, [`build`] walks the directives through the
//! modules' setters, [`setting`] carries inheritance, [`values`] reads sizes, times and the like,
//! [`diag`] is how mistakes are told, [`support`] says why a directive is not
//! supported, and [`matrix`] makes the page about all of them.
//! [`files`] reads what a configuration names, and [`dump`] writes what a configuration came to, level by level.

pub mod build;
pub mod cidr;
pub mod diag;
pub mod dump;
pub mod files;
pub mod lexer;
pub mod matrix;
pub mod parser;
pub mod setting;
pub mod support;
pub mod table;
pub mod values;

pub use build::{Builder, Config, Level, LevelKind, load};
pub use diag::{At, ConfError, ConfResult, Note, NoteLevel};
pub use parser::{Directive, Item};
pub use setting::{Inherit, Own, Setting, settings};
pub use table::{Arity, Command, Context, Support};
