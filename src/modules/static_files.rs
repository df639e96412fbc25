//! nginx's static module: files as answers.

/// Runs in its phase.
pub const HANDLER: crate::http::phases::Handler = crate::http::phases::Handler {
    phase: crate::http::phases::Phase::Content,
    wants: |_| false,
    call: crate::http::phases::Call::Now(|_| crate::http::phases::Flow::Continue),
};

use crate::http::request::Request;

/// Appends the file's name for the request (`$request_filename`).
pub fn file_name(_: &Request, _: &mut Vec<u8>) -> bool {
    false
}

/// Appends the root in force (`$document_root`).
pub fn document_root(_: &Request, _: &mut Vec<u8>) -> bool {
    false
}
