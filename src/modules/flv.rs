//! nginx's flv module: the rest of a film from a byte on (`?start=`), with a head of its own.

use super::static_files::{answer, film};
use crate::cache::file_body::Headed;
use crate::cache::files::Content;
use crate::conf::values::number;
use crate::conf::{Builder, Command, ConfResult, Directive};
use crate::http::body::Body;
use crate::http::phases::{Deciding, Flow};
use crate::http::request::Request;
use crate::http::uri::arg;
use bytes::Bytes;

/// The directives.
pub const COMMANDS: &[Command] =
    &[Command::works("flv", flv, "answers with the rest of films from a byte on")];

/// The head of a film with sound and pictures, and the size of the tag before the first.
const HEAD: &[u8] = b"FLV\x01\x05\0\0\0\x09\0\0\0\0";

fn flv(b: &mut Builder, _: &Directive) -> ConfResult<()> {
    b.loc().core.content.0 = Some(handle);
    Ok(())
}

fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(async move {
        let (_, found) = match film(rq).await {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        let (size, mtime, content) = (found.stat.size, found.stat.mtime(), found.content.clone());
        let start = arg(&rq.args, b"start")
            .and_then(|text| number(std::str::from_utf8(text).ok()?))
            .filter(|start| *start < size)
            .unwrap_or(0);
        let mut response = answer(rq, found);
        if start > 0 {
            let length = HEAD.len() as u64 + size - start;
            response.length = Some(length);
            if response.etag.is_some() {
                response.etag = Some(format!("\"{mtime:x}-{length:x}\"").into());
            }
            let head = Bytes::from_static(HEAD);
            response.body = match content {
                Content::File(file) => Body::Stream(Box::new(Headed::new(head, file, start..size))),
                Content::Bytes(bytes) => Body::Pieces([head, bytes.slice(start as usize..)].into()),
                Content::None => Body::Empty,
            };
        }
        Flow::respond(response)
    })
}
