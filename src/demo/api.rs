//! The JSON API under `/api/`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::request::Request;
use super::response::Response;
use super::routes::Reply;
use super::server::Counts;
use super::{playlist, timeline};

/// Longest wait of `/api/slow`, in milliseconds.
const SLOW_LIMIT: u64 = 10_000;

/// Answers a request whose path is `/api` or below.
pub fn answer(request: &Request, counts: &Counts, now: Duration) -> Reply {
    match request.path() {
        // Any method: it says which.
        "/api/echo" => return Reply::Whole(json(200, echo(request))),
        path if !matches!(request.method.as_str(), "GET" | "HEAD") => {
            let status = if NAMES.contains(&path) { 405 } else { 404 };
            return Reply::Whole(error(status).with("Allow", "GET, HEAD"));
        }
        _ => {}
    }
    let number = |name| request.argument(name).and_then(|value| value.parse().ok());
    Reply::Whole(match request.path() {
        "/api" | "/api/" => json(200, index()),
        "/api/time" => json(200, time(now)),
        "/api/viewers" => json(200, viewers(counts)),
        "/api/slow" => {
            let millis = number("ms").unwrap_or(1000).min(SLOW_LIMIT);
            let body = format!("{{\"waited_ms\":{millis}}}");
            return Reply::Later(Duration::from_millis(millis), json(200, body));
        }
        "/api/status" => match number("code") {
            Some(code @ 200..=599) => status(code as u16),
            _ => error(400),
        },
        _ => error(404),
    })
}

/// What `/api/` lists.
const NAMES: [&str; 5] = ["/api/time", "/api/echo", "/api/viewers", "/api/slow", "/api/status"];

fn index() -> String {
    let names: Vec<String> = NAMES.iter().map(|name| quoted(name)).collect();
    format!("{{\"endpoints\":[{}]}}", names.join(","))
}

fn time(now: Duration) -> String {
    format!(
        "{{\"time\":{},\"unix_ms\":{},\"newest_segment\":{}}}",
        quoted(&playlist::iso_time(now)),
        now.as_millis(),
        timeline::newest(now)
    )
}

fn viewers(counts: &Counts) -> String {
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    format!(
        "{{\"websockets\":{},\"flv\":{},\"connections\":{},\"requests\":{}}}",
        read(&counts.websockets),
        read(&counts.flv),
        read(&counts.connections),
        read(&counts.requests)
    )
}

fn echo(request: &Request) -> String {
    let headers: Vec<String> =
        request.headers.iter().map(|(name, value)| format!("[{},{}]", quoted(name), quoted(value))).collect();
    format!(
        "{{\"method\":{},\"target\":{},\"version\":\"HTTP/1.{}\",\"headers\":[{}],\"body\":{},\"body_bytes\":{}}}",
        quoted(&request.method),
        quoted(&request.target),
        request.minor,
        headers.join(","),
        quoted(&String::from_utf8_lossy(&request.body)),
        request.body.len()
    )
}

/// A response of the asked status, to see what an edge makes of it.
fn status(code: u16) -> Response {
    match code {
        // These have no body by definition.
        204 | 205 | 304 => {
            let mut response = Response::bare(code).with("Cache-Control", "no-store");
            response.body = Vec::new().into();
            response
        }
        _ => json(code, format!("{{\"status\":{code}}}")),
    }
}

fn error(status: u16) -> Response {
    json(status, format!("{{\"error\":{status}}}"))
}

fn json(status: u16, mut body: String) -> Response {
    body.push('\n');
    Response::new(status, "application/json", body.into_bytes()).with("Cache-Control", "no-store")
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\0'..='\x1f' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str) -> Reply {
        let request = Request {
            method: method.to_owned(),
            target: target.to_owned(),
            minor: 1,
            headers: vec![("X-Odd".to_owned(), "a \"b\" \\ \t\u{e9}".to_owned())],
            body: b"line\nline".to_vec(),
        };
        answer(&request, &Counts::default(), Duration::from_millis(1_500))
    }

    fn whole(reply: Reply) -> (u16, serde_json::Value) {
        match reply {
            Reply::Whole(response) => (response.status, serde_json::from_slice(&response.body).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_time_is_told() {
        let (status, value) = whole(ask("GET", "/api/time"));
        assert_eq!(status, 200);
        assert_eq!(value["time"], "1970-01-01T00:00:01.500Z");
        assert_eq!(value["unix_ms"], 1500);
    }

    #[test]
    fn an_echo_is_json_whatever_was_sent() {
        let (status, value) = whole(ask("PUT", "/api/echo?a=\"b\""));
        assert_eq!(status, 200);
        assert_eq!(value["method"], "PUT");
        assert_eq!(value["target"], "/api/echo?a=\"b\"");
        assert_eq!(value["headers"][0][0], "X-Odd");
        assert_eq!(value["headers"][0][1], "a \"b\" \\ \t\u{e9}");
        assert_eq!(value["body"], "line\nline");
        assert_eq!(value["body_bytes"], 9);
    }

    #[test]
    fn a_wait_is_bounded() {
        for (target, millis) in
            [("/api/slow?ms=20", 20), ("/api/slow", 1_000), ("/api/slow?ms=999999999", SLOW_LIMIT)]
        {
            match ask("GET", target) {
                Reply::Later(delay, _) => assert_eq!(delay, Duration::from_millis(millis)),
                other => panic!("{target}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_asked_status_comes() {
        assert_eq!(whole(ask("GET", "/api/status?code=503")).0, 503);
        assert_eq!(whole(ask("GET", "/api/status?code=99")).0, 400);
        match ask("GET", "/api/status?code=204") {
            Reply::Whole(response) => assert!(response.status == 204 && response.body.is_empty()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn methods_and_paths_are_checked() {
        assert_eq!(whole(ask("POST", "/api/time")).0, 405);
        assert_eq!(whole(ask("POST", "/api/nothing")).0, 404);
        assert_eq!(whole(ask("GET", "/api/nothing")).0, 404);
        for name in whole(ask("GET", "/api/")).1["endpoints"].as_array().unwrap() {
            assert!(NAMES.contains(&name.as_str().unwrap()));
        }
    }
}
