//! `prometheus;`: the process's figures in Prometheus's text format.
//!
//! docs/metrics.md lists the metrics; a test compares it with a scrape.

mod edge;
mod process;

use crate::conf::table::Arity;
use crate::conf::{Builder, Command, ConfResult, Context, Directive};
use crate::edge::Edge;
use crate::http::Request;
use crate::http::head::Method;
use crate::http::phases::{Deciding, Flow};
use crate::http::response::Response;
use crate::modules::METRICS;
use crate::observe::families::Families;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The directives.
pub const COMMANDS: &[Command] = &[Command::own(
    "prometheus",
    Context::SERVER.or(Context::LOCATION),
    Arity::NONE,
    prometheus,
    "answers with the process's figures in Prometheus's text format",
)];

fn prometheus(b: &mut Builder, _: &Directive) -> ConfResult<()> {
    b.loc().core.content.0 = Some(answer);
    Ok(())
}

fn answer(rq: &mut Request) -> Deciding<'_> {
    Box::pin(async move {
        if !matches!(rq.method, Method::Get | Method::Head) {
            return Flow::status(405);
        }
        // The kernel counts descriptors one by one; the worker has other things to do meanwhile.
        let edge = rq.local.edge.clone();
        match tokio::task::spawn_blocking(move || scrape(&edge)).await {
            Ok(text) => Flow::respond(Response::with_body(200, CONTENT_TYPE, text)),
            Err(e) => {
                crate::observe::request_error(rq, format_args!("gathering the metrics failed ({e})"));
                Flow::status(500)
            }
        }
    })
}

/// All metrics, as text.
pub fn scrape(edge: &Edge) -> String {
    let mut families = Families::default();
    edge::report(edge, &mut families);
    process::report(edge, &mut families);
    for report in METRICS {
        report(edge, &mut families);
    }
    families.text()
}

#[cfg(test)]
mod tests;
