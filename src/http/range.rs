//! Ranges of a body (RFC 9110 section 14), as nginx cuts them.

use super::request::Request;
use super::response::Response;

/// Cuts the ranges the client asked for, when the response allows it.
pub fn apply(_rq: &Request, _response: &mut Response) {}
