//! `events { }`: how connections are taken (nginx's event module).

use crate::conf::cidr;
use crate::conf::values::number_arg;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use std::net::ToSocketAddrs;

const TOKIO: &str = "the runtime chooses how to wait for connections";

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("events", |b, d| b.enter_events(d), "how connections are taken"),
    Command::works("worker_connections", worker_connections, "connections a worker may have at once"),
    Command::works("use", use_method, "the method of waiting; epoll is the only one"),
    Command::no_effect("multi_accept", TOKIO),
    Command::no_effect("accept_mutex", "each worker has its own listening sockets"),
    Command::no_effect("accept_mutex_delay", "each worker has its own listening sockets"),
    Command::no_effect("worker_aio_requests", TOKIO),
    Command::no_effect("epoll_events", TOKIO),
    Command::works(
        "debug_connection",
        debug_connection,
        "whose connections are told of in detail: there is no such detail",
    ),
];

fn worker_connections(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let n = number_arg(d, 0)?;
    b.main.worker_connections.set(n)
}

/// An address, a network, a name or `unix:`, as often as one likes. The value is looked at and has no
/// effect.
fn debug_connection(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let text = d.arg(0);
    match cidr::parse(text) {
        Some(parsed) if parsed.low_bits => {
            b.note(NoteLevel::Warn, format!("low address bits of {text} are meaningless"));
        }
        Some(_) => {}
        None if text == "unix:" || (text, 0).to_socket_addrs().is_ok() => {}
        None => return Err(ConfError::new(format!("host not found in debug_connection \"{text}\""))),
    }
    let note = "\"debug_connection\" has no effect: there is no debug log of single connections";
    b.note(NoteLevel::Notice, note);
    Ok(())
}

fn use_method(_: &mut Builder, d: &Directive) -> ConfResult<()> {
    match d.arg(0) {
        "epoll" => Ok(()),
        other => {
            Err(ConfError::new(format!("invalid event type \"{other}\"")).hint("epoll is the only one here"))
        }
    }
}
