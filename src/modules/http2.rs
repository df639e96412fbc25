//! nginx's HTTP/2 module. The connection itself is [`crate::http::h2`].

use crate::conf::values::{flag, number_arg, size_arg};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "http2",
        |b, d| {
            let v = flag(d)?;
            b.srv().http2.on.set(v)
        },
        "whether HTTP/2 is spoken",
    ),
    Command::works("http2_max_concurrent_streams", max_concurrent_streams, "streams at once on a connection"),
    Command::works(
        "http2_body_preread_size",
        body_preread_size,
        "bytes of a body sent before it is asked for",
    ),
    Command::works("http2_max_field_size", obsolete, "obsolete: large_client_header_buffers"),
    Command::works("http2_max_header_size", obsolete, "obsolete: large_client_header_buffers"),
    Command::works("http2_max_requests", obsolete, "obsolete: keepalive_requests"),
    Command::works("http2_recv_timeout", obsolete, "obsolete: client_header_timeout"),
    Command::works("http2_idle_timeout", obsolete, "obsolete: keepalive_timeout"),
    Command::works("http2_push", ignored, "obsolete: browsers no longer take pushes"),
    Command::works("http2_push_preload", ignored, "obsolete: browsers no longer take pushes"),
    Command::works("http2_max_concurrent_pushes", ignored, "obsolete: browsers no longer take pushes"),
    Command::no_effect("http2_chunk_size", "frames are as large as the client takes them"),
    Command::no_effect("http2_recv_buffer_size", "a worker has one read buffer for all connections"),
    Command::no_effect("http2_pool_size", "memory is taken as it is needed, within bounds"),
    Command::no_effect("http2_streams_index_size", "tables size themselves"),
];

crate::settings! {
    /// What a server configures.
    pub struct Conf {
        /// Whether HTTP/2 is spoken, beside the addresses whose `listen` says so.
        inherit on: bool = false,
        /// Streams at once on a connection.
        inherit max_concurrent_streams: u32 = 128,
        /// Bytes of a body that a client may send before a handler reads it: a stream's window.
        inherit body_preread_size: u32 = 65_536,
    }
}

fn max_concurrent_streams(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let n = number_arg(d, 0)?;
    let n = u32::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| ConfError::new("invalid number"))?;
    b.srv().http2.max_concurrent_streams.set(n)
}

fn body_preread_size(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    const MOST: u64 = (1 << 31) - 1;
    let n = size_arg(d, 0)?;
    if n > MOST {
        return Err(ConfError::new(format!("the maximum body preread buffer size is {MOST}")));
    }
    b.srv().http2.body_preread_size.set(n as u32)
}

fn obsolete(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let instead = match d.name.as_str() {
        "http2_max_requests" => "keepalive_requests",
        "http2_recv_timeout" => "client_header_timeout",
        "http2_idle_timeout" => "keepalive_timeout",
        _ => "large_client_header_buffers",
    };
    let text = format!("the \"{}\" directive is obsolete, use the \"{instead}\" directive instead", d.name);
    b.note(NoteLevel::Warn, text);
    Ok(())
}

fn ignored(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    b.note(NoteLevel::Warn, format!("the \"{}\" directive is obsolete, ignored", d.name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::conf::build::load_text;

    #[test]
    fn obsolete_directives_are_noted_and_others_inherited() {
        let directory = tempfile::tempdir().unwrap();
        let text = "events {} http { http2 on; http2_max_concurrent_streams 7; http2_push /x;
            server { listen 127.0.0.1:1; http2_idle_timeout 3m; http2 off; } }";
        let config = load_text(directory.path(), text).unwrap();
        let notes: Vec<_> = config.notes.iter().map(|n| n.message.as_str()).collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[1].ends_with("use the \"keepalive_timeout\" directive instead"));
        let conf = &config.http.unwrap().servers[0].conf.http2;
        assert!(!*conf.on);
        assert_eq!(*conf.max_concurrent_streams, 7);
    }

    #[test]
    fn a_window_that_the_protocol_does_not_know_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for bad in ["http2_body_preread_size 2g", "http2_max_concurrent_streams 0", "http2 yes"] {
            let text = format!("events {{}} http {{ {bad}; }}");
            assert!(load_text(directory.path(), &text).is_err(), "{bad}");
        }
    }
}
