//! nginx's stub_status module: the connections of all workers, in nginx's words.

use crate::conf::{Builder, Command, ConfResult, Directive};
use crate::http::Request;
use crate::http::head::Method;
use crate::http::phases::{Deciding, Flow};
use crate::http::response::Response;
use crate::http::vars::Variable;
use crate::observe::metrics::Totals;
use std::io::Write;

/// The directives.
pub const COMMANDS: &[Command] =
    &[Command::works("stub_status", stub_status, "answers with the number of connections and requests")];

/// The variables.
pub const VARIABLES: &[Variable] = &[
    Variable::new("connections_active", |rq, _, out| number(out, totals(rq).active)),
    Variable::new("connections_reading", |rq, _, out| number(out, totals(rq).reading)),
    Variable::new("connections_writing", |rq, _, out| number(out, totals(rq).writing)),
    Variable::new("connections_waiting", |rq, _, out| number(out, totals(rq).waiting)),
];

/// As in nginx, an argument may stand there and says nothing: older configurations have `on`.
fn stub_status(b: &mut Builder, _: &Directive) -> ConfResult<()> {
    b.loc().core.content.0 = Some(answer);
    Ok(())
}

fn answer(rq: &mut Request) -> Deciding<'_> {
    Box::pin(async move {
        match rq.method {
            Method::Get | Method::Head => {
                Flow::respond(Response::with_body(200, "text/plain", page(&totals(rq))))
            }
            _ => Flow::status(405),
        }
    })
}

fn totals(rq: &Request) -> Totals {
    Totals::of(&rq.local.edge.workers)
}

fn number(out: &mut Vec<u8>, n: u64) -> bool {
    write!(out, "{n}").is_ok()
}

fn page(totals: &Totals) -> String {
    let Totals { accepted, handled, requests, active, reading, writing, waiting, .. } = totals;
    format!(
        "Active connections: {active} \n\
         server accepts handled requests\n \
         {accepted} {handled} {requests} \n\
         Reading: {reading} Writing: {writing} Waiting: {waiting} \n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_nginxs() {
        let totals = Totals {
            accepted: 7,
            handled: 6,
            requests: 31,
            active: 5,
            reading: 1,
            writing: 2,
            waiting: 3,
            ..Totals::default()
        };
        let want = "Active connections: 5 \nserver accepts handled requests\n 7 6 31 \nReading: 1 Writing: 2 Waiting: 3 \n";
        assert_eq!(page(&totals), want);
    }

    #[test]
    fn the_request_for_the_page_is_in_it() {
        let running = crate::observe::testing::Running::start(
            "access_log off;
             server { listen LISTEN;
                 location / { stub_status on; }
                 location /v { return 200 \"$connections_active $connections_reading $connections_writing $connections_waiting\"; }
             }",
        );
        let answer = running.get("/", "");
        assert!(answer.contains("\r\nContent-Type: text/plain\r\n"), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(body.ends_with(" 1 1 1 \nReading: 0 Writing: 1 Waiting: 0 \n"), "{body}");
        assert!(running.get("/v", "").ends_with(" 0 1 0"));
        assert!(running.send("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").contains(" 405 "));
    }
}
