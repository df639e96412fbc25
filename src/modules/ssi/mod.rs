//! nginx's ssi module: commands in pages (`<!--# include virtual="/x" -->`).
//!
//! Includes that stand close together are asked for at once, and sent in their order. What nginx
//! bounds by its buffers is bounded here in itself: eight includes at once, 64 KB of text that waits
//! behind them, 256 KB of blocks. Patterns of `if` are those of a linear-time engine: without
//! look-around and back-references, which are an error in the page.

mod body;
mod escape;
mod page;
mod parser;

use crate::conf::Command;
use crate::conf::values::{flag, size_arg};
use crate::http::body::Body;
use crate::http::filters::{self, Filter};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::modules::media_types::{self, HTML, Types};
use crate::settings;
use body::{Processed, Settings};
use page::{Page, Shared};
use std::sync::Arc;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `ssi`
        inherit enable: bool = false,
        /// The types of pages.
        inherit types: Types = Types::html(),
        /// Bytes of a parameter's value.
        inherit value_length: u64 = 256,
        /// Whether errors of commands are not seen.
        inherit silent_errors: bool = false,
        /// Whether a page keeps its `Last-Modified`.
        inherit last_modified: bool = false,
        /// Bytes of an answer that a variable takes.
        inherit set_length: u64 = 4096,
    }
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "ssi",
        |b, d| {
            let v = flag(d)?;
            b.loc().ssi.enable.set(v)
        },
        "whether commands in pages are run",
    ),
    Command::works(
        "ssi_types",
        |b, d| media_types::read(b, d, |loc| &mut loc.ssi.types),
        "the types of pages; text/html always is one",
    ),
    Command::works(
        "ssi_value_length",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().ssi.value_length.set(v)
        },
        "bytes of a parameter's value",
    ),
    Command::works(
        "ssi_silent_errors",
        |b, d| {
            let v = flag(d)?;
            b.loc().ssi.silent_errors.set(v)
        },
        "whether errors of commands are not seen",
    ),
    Command::works(
        "ssi_last_modified",
        |b, d| {
            let v = flag(d)?;
            b.loc().ssi.last_modified.set(v)
        },
        "whether a page keeps its Last-Modified",
    ),
    Command::works(
        "subrequest_output_buffer_size",
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().ssi.set_length.set(v)
        },
        "bytes of an included answer that a variable takes",
    ),
    Command::no_effect("ssi_min_file_chunk", "files are sent in pieces as they are read"),
    Command::no_effect("ssi_ignore_recycled_buffers", "there are no recycled buffers"),
];

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("date_local", |_, _, out| {
        out.extend_from_slice(&date(TIME_FORMAT, true));
        true
    }),
    Variable::new("date_gmt", |_, _, out| {
        out.extend_from_slice(&date(TIME_FORMAT, false));
        true
    }),
];

/// How times are written unless a page says otherwise.
const TIME_FORMAT: &[u8] = b"%A, %d-%b-%Y %H:%M:%S %Z";

/// Runs the commands of pages.
pub const FILTER: Filter =
    Filter { wants: |loc| *loc.ssi.enable, subrequests: true, pure: false, call: apply };

fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().ssi;
    // Of a 204 nothing says how long it is.
    let empty = filters::length(rq, response) == Some(0) && response.status != 204;
    if empty || response.tunnel.is_some() || !is_page(rq, response) {
        return;
    }
    let silent = *conf.silent_errors;
    let settings =
        Settings { value_length: *conf.value_length as usize, set_length: *conf.set_length as usize };
    filters::changes_body(response);
    if !*conf.last_modified {
        (response.last_modified, response.etag) = (None, None);
    }
    if matches!(response.body, Body::Empty) {
        return;
    }
    let shared = rq.guards.iter().find_map(|guard| guard.downcast_ref::<Arc<Shared>>()).cloned();
    let shared = shared.unwrap_or_default();
    let mut copy = rq.copy();
    crate::http::h1::record(&mut copy, response);
    let page = Page::new(copy, shared, silent);
    let body = std::mem::take(&mut response.body);
    response.body = Body::Stream(Box::new(Processed::new(body, page, settings)));
}

/// Whether commands in a response are run.
fn is_page(rq: &Request, response: &Response) -> bool {
    let conf = &rq.loc().ssi;
    *conf.enable && conf.types.has(response)
}

/// The present time, formatted as by strftime.
fn date(format: &[u8], local: bool) -> Vec<u8> {
    let second = crate::http::date::now();
    if format == b"%s" {
        return second.to_string().into_bytes();
    }
    // Any second a clock can show is one of the calendar's.
    let at = jiff::Timestamp::from_second(second as i64).unwrap_or_default();
    let zone = if local { jiff::tz::TimeZone::system() } else { jiff::tz::TimeZone::UTC };
    let zoned = at.to_zoned(zone);
    let mut format = String::from_utf8_lossy(format).into_owned();
    if !local {
        format = format.replace("%Z", "GMT");
    }
    let lenient = jiff::fmt::strtime::Config::new().lenient(true);
    let broken = jiff::fmt::strtime::BrokenDownTime::from(&zoned);
    broken.to_string_with_config(&lenient, &format).unwrap_or_default().into_bytes()
}

#[cfg(test)]
mod tests;
