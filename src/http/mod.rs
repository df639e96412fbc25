//! Requests: heads, bodies, variables, the router, the phases, the connection loops.

pub mod base64;
pub mod body;
mod clues;
pub mod date;
pub mod error_page;
pub mod filters;
pub mod forwarded;
pub mod h1;
pub mod h2;
pub mod head;
pub mod hit;
pub mod html;
pub mod included;
pub mod io;
pub mod lines;
pub mod listens;
pub mod pace;
pub mod phases;
mod prefixes;
pub mod proxy_protocol;
pub mod range;
pub mod regex;
pub mod regexes;
pub mod rename;
pub mod request;
pub mod response;
pub mod router;
pub mod temp_file;
pub mod template;
pub(crate) mod tick;
pub mod uri;
pub mod vars;

pub use body::{Body, BodyError, BodyStream};
pub use head::{Head, Method, Version};
pub use request::Request;
pub use response::{Fields, Response};
