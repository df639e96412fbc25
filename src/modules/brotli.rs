//! Google's brotli modules for nginx: compression of responses with brotli, as they are sent, and files
//! beside others that hold them compressed.
//!
//! A client that takes several codings gets zstd before brotli before gzip, of those that are on for
//! the response: nginx with these modules runs their filters in this order.

use super::compress::{self, Encoder, Flush};
use super::media_types::{self, Types};
use super::static_files::Precompressed;
use crate::conf::table::HTTP_SERVER_LOCATION;
use crate::conf::values::{buffers_arg, flag, invalid_value, number_arg, one_of, size_arg};
use crate::conf::{Arity, Builder, Command, ConfError, ConfResult, Context, Directive, NoteLevel};
use crate::http::filters::{self, Filter};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::settings;
use ::brotli::CompressorWriter;
use ::brotli::enc::BrotliEncoderParams;
use std::io::{self, Write};

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `brotli`
        inherit enable: bool = false,
        /// From 0, fast, to 11, small.
        inherit level: u32 = 6,
        /// Bytes below which a body of known length is left alone.
        inherit min_length: u64 = 20,
        /// The types that are compressed.
        inherit types: Types = Types::html(),
        /// The window as a power of two.
        inherit window: u32 = 19,
        /// `brotli_static`
        inherit neighbours: Precompressed = Precompressed::Off,
    }
}

const ALSO_IF: Context = HTTP_SERVER_LOCATION.or(Context::LOCATION_IF);

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::own(
        "brotli",
        ALSO_IF,
        Arity::ONE,
        |b, d| {
            let v = flag(d)?;
            b.loc().brotli.enable.set(v)
        },
        "whether responses are compressed with brotli",
    ),
    Command::own(
        "brotli_comp_level",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        |b, d| {
            let level = number_arg(d, 0)?;
            if level > 11 {
                return Err(ConfError::new("value must be between 0 and 11"));
            }
            b.loc().brotli.level.set(level as u32)
        },
        "from 0, fast, to 11, small; from 10 on it is done on threads of its own",
    ),
    Command::own(
        "brotli_min_length",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        |b, d| {
            let v = size_arg(d, 0)?;
            b.loc().brotli.min_length.set(v)
        },
        "bytes below which a body is left alone",
    ),
    Command::own(
        "brotli_types",
        HTTP_SERVER_LOCATION,
        Arity::SOME,
        |b, d| media_types::read(b, d, |loc| &mut loc.brotli.types),
        "the types that are compressed; text/html always is",
    ),
    Command::own(
        "brotli_window",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        window,
        "how far back repetitions are found",
    ),
    Command::own("brotli_buffers", HTTP_SERVER_LOCATION, Arity::TWO, buffers, "no effect: see gzip_buffers"),
    Command::own(
        "brotli_static",
        HTTP_SERVER_LOCATION,
        Arity::ONE,
        |b, d| {
            let v = one_of(d, &Precompressed::WORDS)?;
            b.loc().brotli.neighbours.set(v)
        },
        "whether neighbours of files whose names end in .br are sent",
    ),
];

/// The variables.
pub const VARIABLES: &[Variable] =
    &[Variable::new("brotli_ratio", |rq, _, out| compress::ratio(rq, "br", out))];

fn window(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let size = size_arg(d, 0)?;
    if !size.is_power_of_two() || !(1 << 10..=1 << 24).contains(&size) {
        return Err(invalid_value().hint("a power of two from 1k to 16m"));
    }
    b.loc().brotli.window.set(size.ilog2())
}

/// `brotli_buffers`, `zstd_buffers`: there is nothing to tune.
pub fn buffers(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    buffers_arg(d)?;
    b.note(NoteLevel::Notice, format!("\"{}\" has no effect: {}", d.name, compress::MEMORY));
    Ok(())
}

/// Compresses where it is on.
pub const FILTER: Filter =
    Filter { wants: |loc| *loc.brotli.enable, subrequests: false, pure: true, call: apply };

fn apply(rq: &mut Request, response: &mut Response) {
    let conf = &rq.loc().brotli;
    if !compress::is_worth(rq, response, *conf.min_length, &conf.types) {
        return;
    }
    response.vary = true;
    if compress::client_takes(rq, b"br") {
        let length = filters::length(rq, response).unwrap_or_default();
        let settings = Settings { level: *conf.level, window: *conf.window, length };
        compress::apply::<Brotli>(rq, response, "br", settings);
    }
}

/// What an encoder is made with.
#[derive(Clone, Copy)]
struct Settings {
    level: u32,
    window: u32,
    /// Bytes that will come; 0 if that is not known.
    length: u64,
}

/// An encoder. Its memory is a few times the window, and comes as it is needed; it cannot be used
/// again.
struct Brotli(CompressorWriter<Vec<u8>>);

/// Bytes of an encoder's own buffer of output.
const BUFFER: usize = 4 * 1024;
/// Bytes that are compressed at once, as a power of two: at the higher levels it would be more, and
/// take longer than a turn should.
const BLOCK: i32 = 16;
/// From this level on a block takes tens of milliseconds.
const SLOW: u32 = 10;

impl Encoder for Brotli {
    type Settings = Settings;

    fn new(settings: Settings) -> io::Result<Brotli> {
        let params = BrotliEncoderParams {
            // Both were bounded when the configuration was read.
            quality: settings.level as i32,
            lgwin: settings.window as i32,
            lgblock: if settings.level >= 9 { BLOCK } else { 0 },
            size_hint: usize::try_from(settings.length).unwrap_or(usize::MAX).min(1 << 30),
            ..BrotliEncoderParams::default()
        };
        Ok(Brotli(CompressorWriter::with_params(Vec::new(), BUFFER, &params)))
    }

    fn encode(&mut self, input: &[u8], flush: Flush, out: &mut Vec<u8>) -> io::Result<()> {
        self.0.write_all(input)?;
        match flush {
            Flush::None => {}
            Flush::Sync => self.0.flush()?,
            Flush::Finish => {
                // What ends the stream is written when its writer is taken apart.
                let ended = CompressorWriter::new(Vec::new(), 16, 0, 10);
                out.append(&mut std::mem::replace(&mut self.0, ended).into_inner());
                return Ok(());
            }
        }
        out.append(self.0.get_mut());
        Ok(())
    }

    fn is_slow(settings: Settings) -> bool {
        settings.level >= SLOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn inflate(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        // What is missing at the end of a flushed part is no error here.
        let _ = ::brotli::Decompressor::new(bytes, BUFFER).read_to_end(&mut out);
        out
    }

    #[test]
    fn bodies_are_compressed() {
        for (level, window) in [(0, 10), (1, 19), (6, 19), (9, 24)] {
            compress::tests::keeps_the_rules::<Brotli>(Settings { level, window, length: 0 }, inflate);
        }
    }

    #[test]
    fn the_slow_levels_are_elsewhere() {
        compress::tests::works_elsewhere::<Brotli>(Settings { level: 11, window: 16, length: 0 }, inflate);
    }
}
