//! The zstd modules for nginx: compression of responses with Zstandard, as they are sent, and files
//! beside others that hold them compressed. Which coding is preferred: see [`super::brotli`].

use super::brotli::buffers;
use super::compress::{self, Encoder, Flush, WORTH};
use super::media_types::{self, Types};
use super::static_files::Precompressed;
use crate::conf::table::HTTP_SERVER_LOCATION;
use crate::conf::values::{flag, number_arg, one_of, size_arg};
use crate::conf::{Arity, Command, ConfError, Context};
use crate::http::filters::{self, Filter};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::settings;
use ::zstd::stream::raw::{CParameter, Encoder as Raw, InBuffer, Operation, OutBuffer};
use std::cell::RefCell;
use std::io;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `zstd`
        inherit enable: bool = false,
        /// From 1, fast, to 22, small.
        inherit level: i32 = 1,
        /// Bytes below which a body of known length is left alone.
        inherit min_length: u64 = 20,
        /// The types that are compressed.
        inherit types: Types = Types::html(),
        /// `zstd_static`
        inherit neighbours: Precompressed = Precompressed::Off,
    }
}

const ALSO_IF: Context = HTTP_SERVER_LOCATION.or(Context::LOCATION_IF);

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::own(
        "zstd",
        ALSO_IF,
        Arity::ONE,
        |b, d| {
            let v = flag(d)?;
            b.loc().zstd.enable.set(v)
        },
        "whether responses are compressed with Zstandard",
    ),
    Command::own(
        "zstd_comp_level",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        |b, d| {
            let level = number_arg(d, 0)?;
            if !(1..=22).contains(&level) {
                return Err(ConfError::new("value must be between 1 and 22"));
            }
            b.loc().zstd.level.set(level as i32)
        },
        "from 1, fast, to 22, small; from 13 on it is done on threads of its own",
    ),
    Command::own(
        "zstd_min_length",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().zstd.min_length.set(v)
        },
        "bytes below which a body is left alone",
    ),
    Command::own(
        "zstd_types",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        |b, d| media_types::read(b, d, |loc| &mut loc.zstd.types),
        "the types that are compressed; text/html always is",
    ),
    Command::own("zstd_buffers", HTTP_SERVER_LOCATION, Arity::TWO, buffers, "no effect: see gzip_buffers"),
    Command::own(
        "zstd_dict_file",
        Context::HTTP,
        Arity::ONE,
        |_, _| {
            Err(ConfError::new("directive \"zstd_dict_file\" is not supported: browsers have no dictionary")
                .hint("take it away: what is compressed with a dictionary only a client with the same one reads"))
        },
        "refused: a client without the dictionary could not read the response",
    ),
    Command::own(
        "zstd_static",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        |b, d| {
            let v = one_of(d, &Precompressed::WORDS)?;
            b.loc().zstd.neighbours.set(v)
        },
        "whether neighbours of files whose names end in .zst are sent",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] =
    &[Variable::new("zstd_ratio", |rq, _, out| compress::ratio(rq, "zstd", out))];

/// Compresses where it is on.
pub const FILTER: Filter =
    Filter { wants: |loc| *loc.zstd.enable, subrequests: false, pure: true, call: apply };

fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().zstd;
    if !compress::is_worth(rq, response, *conf.min_length, &conf.types) {
        return;
    }
    response.vary = true;
    if compress::client_takes(rq, b"zstd") {
        let settings = Settings { level: *conf.level, length: filters::length(rq, response) };
        compress::apply::<Lease>(rq, response, "zstd", settings);
    }
}

/// What an encoder is made with.
#[derive(Clone, Copy)]
struct Settings {
    level: i32,
    /// Bytes that will come, when that is known: a small body then takes little memory.
    length: Option<u64>,
}

/// An encoder of the worker's, given back when it is dropped if it is of a low level: those of the
/// others hold more memory than making one costs.
struct Lease {
    raw: Option<Raw<'static>>,
    level: i32,
}

thread_local! {
    static IDLE: RefCell<Vec<Lease>> = const { RefCell::new(Vec::new()) };
}

/// Idle encoders that a worker keeps.
const IDLE_ENCODERS: usize = 4;
/// The highest level of which it keeps some.
const KEPT: i32 = 6;
/// From this level on a turn takes many milliseconds.
const SLOW: i32 = 13;
/// The largest window as a power of two: clients need not take more (RFC 9659), and our memory is a
/// few times of it.
const WINDOW: u32 = 23;
/// The level from which on windows would be larger.
const LARGE_WINDOW: i32 = 20;

impl Encoder for Lease {
    type Settings = Settings;

    fn new(settings: Settings) -> io::Result<Lease> {
        let level = settings.level;
        let idle = IDLE.with_borrow_mut(|idle| {
            let at = idle.iter().position(|lease| lease.level == level)?;
            idle.swap_remove(at).raw.take()
        });
        let mut raw = match idle {
            Some(raw) => raw,
            None => Raw::new(level)?,
        };
        raw.reinit()?;
        if level >= LARGE_WINDOW {
            raw.set_parameter(CParameter::WindowLog(WINDOW))?;
        }
        raw.set_pledged_src_size(settings.length)?;
        Ok(Lease { raw: Some(raw), level })
    }

    fn encode(&mut self, input: &[u8], flush: Flush, out: &mut Vec<u8>) -> io::Result<()> {
        // It is there until it is dropped.
        let Some(raw) = &mut self.raw else { return Ok(()) };
        let mut input = InBuffer::around(input);
        loop {
            out.reserve(WORTH);
            let room = out.len();
            let mut output = OutBuffer::around_pos(out, room);
            if input.pos() < input.src.len() {
                raw.run(&mut input, &mut output)?;
                continue;
            }
            let left = match flush {
                Flush::None => 0,
                Flush::Sync => raw.flush(&mut output)?,
                Flush::Finish => raw.finish(&mut output, true)?,
            };
            if left == 0 {
                return Ok(());
            }
        }
    }

    fn is_slow(settings: Settings) -> bool {
        settings.level >= SLOW
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(raw), level @ ..=KEPT) = (self.raw.take(), self.level) else { return };
        // A thread that ends keeps nothing; nor does one that has enough.
        let _ = IDLE.try_with(|all| {
            let mut all = all.borrow_mut();
            if all.len() < IDLE_ENCODERS {
                all.push(Lease { raw: Some(raw), level });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn inflate(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if let Ok(mut decoder) = ::zstd::stream::read::Decoder::new(bytes) {
            // What is missing at the end of a flushed part is no error here.
            let _ = decoder.read_to_end(&mut out);
        }
        out
    }

    #[test]
    fn bodies_are_compressed() {
        for level in [1, 3, 9] {
            compress::tests::keeps_the_rules::<Lease>(Settings { level, length: None }, inflate);
        }
    }

    #[test]
    fn the_slow_levels_are_elsewhere() {
        for level in [13, 22] {
            compress::tests::works_elsewhere::<Lease>(Settings { level, length: Some(330_000) }, inflate);
        }
    }

    #[test]
    fn an_encoder_is_used_again_for_bodies_of_other_lengths() {
        for length in [Some(4), None, Some(4)] {
            let mut out = Vec::new();
            let mut encoder = Lease::new(Settings { level: 2, length }).unwrap();
            encoder.encode(b"text", Flush::Finish, &mut out).unwrap();
            assert_eq!(inflate(&out), b"text");
        }
        assert_eq!(IDLE.with_borrow(|idle| idle.iter().filter(|e| e.level == 2).count()), 1);
        // A body of another length than was announced is none.
        let mut encoder = Lease::new(Settings { level: 2, length: Some(9) }).unwrap();
        assert!(encoder.encode(b"text", Flush::Finish, &mut Vec::new()).is_err());
    }

    #[test]
    fn the_window_is_one_that_clients_take() {
        let mut out = Vec::new();
        let mut encoder = Lease::new(Settings { level: 22, length: None }).unwrap();
        encoder.encode(b"text", Flush::Finish, &mut out).unwrap();
        // The descriptor follows magic and frame header; no single segment, no dictionary, no size.
        assert_eq!(out[4] & 0xfb, 0);
        assert!(10 + u32::from(out[5] >> 3) <= WINDOW, "{}", out[5]);
    }
}
