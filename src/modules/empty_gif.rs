//! nginx's empty_gif module: a transparent picture of one pixel, without a file.

use crate::conf::{Builder, Command, ConfResult, Directive};
use crate::http::head::Method;
use crate::http::phases::{Deciding, Flow};
use crate::http::request::Request;
use crate::http::response::{Modified, Response};
use bytes::Bytes;

/// The directives.
pub const COMMANDS: &[Command] =
    &[Command::works("empty_gif", empty_gif, "answers with a transparent picture of one pixel")];

/// GIF89a: a screen of one pixel with two colours, a control block that makes the second one
/// transparent, an image of that one pixel (LZW, least code size 2), the trailer.
const PICTURE: &[u8] = b"GIF89a\x01\0\x01\0\x80\x01\0\0\0\0\xff\xff\xff\
    \x21\xf9\x04\x01\0\0\x01\0\
    \x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x4c\x01\0\
    \x3b";

/// When nginx says it was last modified: 28 September 1970, 6 o'clock.
const MODIFIED: u64 = 23_349_600;

fn empty_gif(b: &mut Builder, _: &Directive) -> ConfResult<()> {
    b.loc().core.content.0 = Some(answer);
    Ok(())
}

fn answer(rq: &mut Request) -> Deciding<'_> {
    let flow = match rq.method {
        Method::Get | Method::Head => {
            let mut response = Response::with_body(200, "image/gif", Bytes::from_static(PICTURE));
            response.last_modified = Some(Modified::At(MODIFIED));
            Flow::respond(response)
        }
        _ => Flow::status(405),
    };
    Box::pin(std::future::ready(flow))
}
