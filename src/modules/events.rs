//! `events { }`: how connections are taken (nginx's event module).

use crate::conf::values::number_arg;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive};

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
    Command::no_effect("debug_connection", "there is no debug log of single connections"),
];

fn worker_connections(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let n = number_arg(d, 0)?;
    b.main.worker_connections.set(n)
}

fn use_method(_: &mut Builder, d: &Directive) -> ConfResult<()> {
    match d.arg(0) {
        "epoll" => Ok(()),
        other => {
            Err(ConfError::new(format!("invalid event type \"{other}\"")).hint("epoll is the only one here"))
        }
    }
}
